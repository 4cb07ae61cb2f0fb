"""A picture taken apart into latents, and these as the integers that cost least.

Source: rate-distortion optimized quantization (Sullivan and others, as in the reference encoders of H.264 and HEVC):
each latent becomes the integer with the least squared error plus lambda times its bits, which are those of its class.
Where we differ: classes come from the context network and from what the picture has shown, over a few sweeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hardy.fields.latent_color import LARGEST_WEIGHT, WEIGHT_BITS, predicted, slopes
from hardy.fields.latent_context import (
    EXTRA_BITS,
    LARGEST,
    PLANES,
    SYMBOLS,
    Frequencies,
    Place,
    Seen,
    order,
    symbols_of,
)
from hardy.fields.latent_field import COLOR_BITS, FRACTION_BITS, OFFSET_BITS, LatentField
from hardy.fields.latent_start import start
from hardy.fields.lifting import levels_of, put_together, taken_apart

LAMBDA = 0.12
"""Squared steps that a bit is worth; the best of 0.08 to 0.2 on scikit-learn's photographs."""
_ONE = 1 << FRACTION_BITS
_DEAD_ZONE = 0.4
# Bits of a file are about so many times half the logarithm of 1 + (latent / step)^2: 3.1 to 4.9 on two photographs.
_BITS, _HEADER_BYTES = 3.7, 60
_ROWS = 256


class Photo:
    """A picture taken apart: what quantization starts from, whatever the step."""

    def __init__(self, values: torch.Tensor, sample_bits: int) -> None:
        """Of values (height, width, channels) in [-1, 1]."""
        self.grid, self.bits = (values.shape[0], values.shape[1]), sample_bits
        self.peak = (1 << self.bits) - 1
        self.samples = (values.double().numpy() + 1) * (self.peak / 2)
        flat = self.samples.reshape(-1, self.samples.shape[-1])
        self.mean = np.round(flat.mean(0) * (1 << OFFSET_BITS)) / (1 << OFFSET_BITS)
        self.axes = principal_axes(flat - self.mean)
        planes = ((flat - self.mean) @ self.axes).T.reshape(-1, *self.grid)
        self.latents = taken_apart(planes, levels_of(self.grid), start().filters)
        sizes = [np.abs(part).ravel() * (255 / self.peak) for level in self.latents[:-1] for part in level]
        self.expected = Expected.of(np.concatenate([*sizes, np.zeros(1)]), self.samples.size)

    def tried(self, step: float, sweeps: int) -> tuple[LatentField, np.ndarray]:
        """The picture at a step between two values of a latent, in units of samples, and what it shows."""
        scaled = [[part / step for part in level] for level in self.latents]
        latents, weights, planes = quantized(scaled, sweeps)
        field = LatentField(
            grid=self.grid,
            sample_bits=self.bits,
            latents=latents,
            colors=np.round(self.axes * step * (1 << COLOR_BITS)).astype(np.int64),
            offset=np.round(self.mean * (1 << OFFSET_BITS)).astype(np.int64),
            weights=weights,
        )
        return field, field.shown(planes)

    def field(self, step: float, sweeps: int) -> LatentField:
        """The picture at a step."""
        return self.tried(step, sweeps)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Expected:
    """What a picture will come to at a step, in units of 8-bit samples, from how large its latents are.

    Attributes:
        counts: of latents, by size.
        sizes: of latents.
        samples: of the picture.
    """

    counts: np.ndarray
    sizes: np.ndarray
    samples: int

    @classmethod
    def of(cls, sizes: np.ndarray, samples: int) -> Expected:
        counts, edges = np.histogram(np.log2(sizes + 2.0**-12), bins=200)
        return cls(counts, 2 ** ((edges[1:] + edges[:-1]) / 2), samples)

    @classmethod
    def all_of(cls, parts: Sequence[Expected]) -> Expected:
        """Of parts of a picture."""
        joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "sizes")]
        return cls(*joined, samples=sum(part.samples for part in parts))

    def bytes(self, step: float) -> float:
        """About the size of the file."""
        bits = _BITS / 2 * float(self.counts @ np.log2(1 + np.square(self.sizes / step)))
        return _HEADER_BYTES + bits / 8

    def error(self, step: float) -> float:
        """About the sum of squared errors: small latents are lost, the others even in a step."""
        lost = np.where(self.sizes < 0.62 * step, np.square(self.sizes), step**2 / 12)
        return max(1e-9, float(self.counts @ lost))


def squared_error(samples: np.ndarray, values: torch.Tensor, sample_bits: int) -> float:
    """The mean squared error of decoded samples, those of `values` in [-1, 1] being rounded; some rows at a time."""
    half, error = ((1 << sample_bits) - 1) / 2, 0.0
    for first in range(0, len(samples), _ROWS):
        block = slice(first, first + _ROWS)
        exact = np.round((values[block].double().numpy() + 1) * half)
        error += float(np.square(samples[block] - exact).sum())
    return error / samples.size


def principal_axes(samples: np.ndarray) -> np.ndarray:
    """Of channels (points, channels): orthonormal columns, that of the largest variance first."""
    _, axes = np.linalg.eigh(samples.T @ samples)
    axes = axes[:, ::-1]
    return axes * np.where(axes.sum(0) < 0, -1, 1)


Choose = Callable[[Place, np.ndarray], np.ndarray]


Levels = list[list[np.ndarray]]


def quantized(scaled: Levels, sweeps: int) -> tuple[Levels, np.ndarray, np.ndarray]:
    """Integers for latents in units of the step, in the order of `lifting.shapes`, weights, and what planes they make.

    Once to the nearest, a little closer to zero, and then in `sweeps` where it costs least.
    """
    *details, (smallest,) = scaled
    coarsest = np.round(smallest).clip(-LARGEST, LARGEST).astype(np.int64)
    found, weights, planes = _level_by_level(details, coarsest, _towards_zero)
    for _ in range(sweeps):
        classes, costs = _expected(found)

        def cheapest(place: Place, exact: np.ndarray, classes: Any = classes, costs: np.ndarray = costs) -> np.ndarray:
            return _cheapest(
                exact, classes[place.level][place.detail][place.plane], costs[min(place.plane, PLANES - 1)]
            )

        found, weights, planes = _level_by_level(details, coarsest, cheapest)
    return [*found, [coarsest]], weights, planes


def _level_by_level(details: Levels, coarsest: np.ndarray, choose: Choose) -> tuple[Levels, np.ndarray, np.ndarray]:
    """What `choose` makes of each plane of each detail, the coarsest first, less what is guessed; weights, planes."""
    planes = len(coarsest)
    found = [[np.zeros(part.shape, dtype=np.int64) for part in level] for level in details]
    weights = np.zeros((len(details), planes, 2), dtype=np.int64)
    smaller = coarsest << FRACTION_BITS
    for level in reversed(range(len(details))):
        slope = slopes(smaller, FRACTION_BITS) if planes > 1 else np.zeros(0)
        made = [np.zeros(part.shape, dtype=np.int64) for part in details[level]]
        for plane in range(planes):
            exact = [part[plane] for part in details[level]]
            guesses = [_guesses(exact, smaller[plane])]
            if plane:
                guesses.append([predicted(values[0], slope[plane - 1]) for values in made])
            weights[level, plane, : len(guesses)] = _weights(exact, guesses)
            for detail, part in enumerate(exact):
                said = np.zeros(part.shape, dtype=np.int64)
                for guess, weight in zip(guesses, weights[level, plane], strict=False):
                    said += guess[detail] * weight >> WEIGHT_BITS
                chosen = choose(Place(level, plane, detail, 0), part - said / _ONE)
                found[level][detail][plane] = chosen
                made[detail][plane] = (chosen << FRACTION_BITS) + said
        smaller = put_together(smaller, made, start().filters)
    return found, weights, smaller


def _guesses(exact: list[np.ndarray], smaller: np.ndarray) -> list[np.ndarray]:
    """What the upsampling network says of three details of a plane: of the last one nothing."""
    found = [
        guess[: part.shape[0], : part.shape[1]]
        for guess, part in zip(start().upsampling(smaller, FRACTION_BITS), exact, strict=False)
    ]
    return [*found, np.zeros(exact[-1].shape, dtype=np.int64)]


def _weights(exact: list[np.ndarray], guesses: list[list[np.ndarray]]) -> np.ndarray:
    """Of one or two guesses, such that least is left of what they are for, (guesses,) int64 over 2^4."""
    flat = np.stack([np.concatenate([part.ravel() for part in guess]) / _ONE for guess in guesses])
    wanted = np.concatenate([part.ravel() for part in exact])
    products = flat @ flat.T
    found = np.linalg.lstsq(products, flat @ wanted, rcond=1e-9)[0]
    if len(found) == 2 and found.min() < 0:  # then only the other one
        kept = int(found.argmax())
        alone = flat[kept] @ wanted / max(products[kept, kept], 1e-9)
        found = np.where(np.arange(2) == kept, alone, 0)
    return np.round(found * (1 << WEIGHT_BITS)).clip(0, LARGEST_WEIGHT).astype(np.int64)


def _towards_zero(_: Place, exact: np.ndarray) -> np.ndarray:
    sizes = np.floor(np.abs(exact) + _DEAD_ZONE).clip(0, LARGEST)
    return np.copysign(sizes, exact).astype(np.int64)


def _expected(details: list[list[np.ndarray]]) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """The class of each latent, and bits of each symbol, sign included, in each class of each kind of plane."""
    planes = len(details[0][0]) if details else 0
    classes = [[np.zeros(part.shape, dtype=np.uint8) for part in level] for level in details]
    seen = Seen(planes, [[part.shape[1:] for part in level] for level in details])
    frequencies = Frequencies(start().frequencies)
    for place in order(planes, len(details)):
        symbols = symbols_of(np.abs(details[place.level][place.detail][place.plane][place.where]))
        found = start().contexts.classes(place, seen.features(place))
        classes[place.level][place.detail][place.plane][place.where] = found.reshape(symbols.shape)
        frequencies.count(place, found, symbols.ravel())
        seen.put(place, symbols)
    shares = frequencies.tables / frequencies.tables.sum(2, keepdims=True)
    return classes, EXTRA_BITS + (np.arange(SYMBOLS) > 0) - np.log2(shares)


def _cheapest(exact: np.ndarray, classes: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Integers (rows, columns): of zero and the two next to each latent, the one of the least error and bits."""
    sizes = np.minimum(np.abs(exact), LARGEST - 1)
    best, least = np.zeros(sizes.shape), np.square(sizes) + LAMBDA * costs[classes, 0]
    floor = np.floor(sizes)
    for candidate in (floor, floor + 1):
        cost = np.square(sizes - candidate) + LAMBDA * costs[classes, symbols_of(candidate)]
        better = cost < least
        best, least = np.where(better, candidate, best), np.where(better, cost, least)
    return np.copysign(best, exact).astype(np.int64)
