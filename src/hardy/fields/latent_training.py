"""What the codec of latents starts from, learned on the two photographs that scikit-learn brings along.

`python -m hardy.fields.latent_training` writes `latent_start.npz` anew, in about ten minutes on one core: first the
network that guesses details, on latents that know no guesses yet; then the context networks and their tables, on
latents cut to the nearest; then these once more, on latents as the codec chooses them. Pictures are the photographs at
several sizes, turned and mirrored at random, with steps between two values of a latent from 7 to 110 of 255.

Weights are rounded in training to what is stored, with gradients straight through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from hardy.core.rng import generator
from hardy.fields import latent_start
from hardy.fields.latent_context import (
    CLASSES,
    EXTRA_BITS,
    FEATURES,
    HIDDEN,
    LEVELS,
    NETWORKS,
    SIZE_BITS,
    SMALLEST,
    SYMBOLS,
    WEIGHT_BITS,
    Seen,
    order,
    symbols_of,
)
from hardy.fields.latent_field import FRACTION_BITS, LatentField, values_of
from hardy.fields.latent_quantization import Photo
from hardy.fields.lifting import put_together
from hardy.fields.resampling import resampled
from hardy.fields.signals import sample_photo
from hardy.files import write_atomic
from hardy.ops.straight_through import straight_through
from hardy.runs.progress import progress

PHOTOS = ("china", "flower")
SCALES = (1.0, 1.5, 2.2, 3.3)
"""How many times smaller the photographs are made."""
PICTURES = 5
"""Of each photograph at each size."""
STEPS = (7.0, 110.0)
GUESSED = 24
"""Hidden units of the upsampling network."""
_REACH = 4.0
"""Steps at which its hidden units end."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A picture quantized at one step."""

    photo: Photo
    step: float
    field: LatentField


def examples(
    sweeps: int, *, scales: tuple[float, ...] = SCALES, pictures: int = PICTURES, names: tuple[str, ...] = PHOTOS
) -> Iterator[Example]:
    """The photographs at all sizes, turned, mirrored and quantized at random steps."""
    random = generator(0, "pictures")

    def drawn() -> float:
        return float(torch.rand((), generator=random))

    for name in names:
        whole = ((sample_photo(name).arranged().numpy() + 1) * 127.5).round()
        for scale in scales:
            grid = (round(whole.shape[0] / scale), round(whole.shape[1] / scale))
            small = resampled(whole, grid, 255)
            for _ in range(pictures):
                pixels = small[int(2 * drawn()) :, int(2 * drawn()) :]
                pixels = pixels[::-1] if drawn() < 0.5 else pixels
                pixels = pixels[:, ::-1] if drawn() < 0.5 else pixels
                pixels = pixels.swapaxes(0, 1) if drawn() < 0.5 else pixels
                photo = Photo(torch.from_numpy(pixels / 127.5 - 1).float(), 8)
                step = STEPS[0] * (STEPS[1] / STEPS[0]) ** drawn()
                yield Example(photo, step, photo.field(step, sweeps))


def rounded(weights: torch.Tensor) -> torch.Tensor:
    """Weights as they are stored, multiples of 2^-6 below 2."""
    one = 1 << WEIGHT_BITS
    return straight_through(weights, (weights * one).round().clamp(-127, 127) / one)


def stored(weights: torch.Tensor) -> np.ndarray:
    """The integers that `rounded` stands for."""
    return (weights.detach() * (1 << WEIGHT_BITS)).round().clamp(-127, 127).numpy().astype(np.int8)


def descended(
    title: str, parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor], steps: int, rate: float = 1e-2
) -> None:
    """Adam on a loss that draws its own examples, with a rate that rises and falls once."""
    for parameter in parameters:
        parameter.requires_grad_()
    adam = torch.optim.Adam(parameters, lr=rate)
    falling = torch.optim.lr_scheduler.OneCycleLR(adam, rate, steps, pct_start=0.1)
    with progress(title, steps) as bar:
        for _ in range(steps):
            adam.zero_grad()
            value = loss()
            value.backward()
            adam.step()
            falling.step()
            bar.advance(1, f"{float(value.detach()):.4f}")


def upsampling(found: Iterator[Example], steps: int) -> dict[str, np.ndarray]:
    """The network that guesses details, on all places where there is one of a third of a step or more."""
    random = generator(0, "upsampling")
    seen, wanted = (torch.cat(parts) for parts in zip(*(pair for one in found for pair in _guessed(one)), strict=True))
    first = 0.3 * torch.randn(GUESSED, seen.shape[1], generator=random)
    second = 0.05 * torch.randn(2, GUESSED, generator=random)

    def loss() -> torch.Tensor:
        which = torch.randint(len(seen), (4096,), generator=random)
        hidden = (seen[which].float() / 4 @ rounded(first).T).clamp(-_REACH, _REACH)
        return torch.log2(1 + (wanted[which] - hidden @ rounded(second).T).square()).mean()

    descended("upsampling", [first, second], loss, steps)
    return {"upsampling_first": stored(first), "upsampling_second": stored(second)}


def _guessed(example: Example) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What the network sees (places, 24) and what it should say (places, 2), of each plane at each level."""
    *details, (made,) = example.field.latents
    made = made << FRACTION_BITS
    for level in reversed(range(len(details))):
        right, below, _ = example.photo.latents[level]
        rows, columns = min(right.shape[1], below.shape[1]), min(right.shape[2], below.shape[2])
        for plane, smaller in enumerate(made):
            seen = latent_start.seen_around(smaller, FRACTION_BITS)[:, :rows, :columns].reshape(latent_start.PLACES, -1)
            pair = np.stack([detail[plane, :rows, :columns].ravel() for detail in (right, below)], 1) / example.step
            kept = np.abs(pair).max(1) > 1 / 3
            yield torch.from_numpy(seen.T[kept].astype(np.int8)), torch.from_numpy(pair[kept]).float()
        made = put_together(
            made, values_of(details[level], made, example.field.weights[level]), latent_start.start().filters
        )


def contexts(found: Iterator[Example], steps: int) -> dict[str, np.ndarray]:
    """All context networks and the tables of their classes, so that symbols take the fewest bits."""
    random = generator(0, "contexts")
    data = _seen(found, random)
    first = 0.15 * torch.randn(NETWORKS, HIDDEN, FEATURES, generator=random)
    second = 0.3 * torch.randn(NETWORKS, HIDDEN, generator=random).abs()
    first_bias, second_bias = torch.zeros(NETWORKS, LEVELS, HIDDEN), torch.full((NETWORKS, LEVELS), 8.0)
    table = _geometric()

    def loss() -> torch.Tensor:
        which = [torch.randint(len(kinds), (384,), generator=random) for _, _, kinds in data]
        seen, symbols, kinds = (
            torch.stack([of_network[part][places] for of_network, places in zip(data, which, strict=True)])
            for part in range(3)
        )
        seen, symbols, kinds = seen.float() / (1 << SIZE_BITS), symbols.long(), kinds.long()
        bias = first_bias.gather(1, kinds[..., None].expand(-1, -1, HIDDEN))
        hidden = torch.relu(torch.bmm(seen, rounded(first).transpose(1, 2)) + bias).clamp(max=64)
        score = torch.bmm(hidden, rounded(second)[..., None])[..., 0] + second_bias.gather(1, kinds)
        within = score.clamp(0, CLASSES - 1.001)
        low = within.detach().floor().long()
        share = within - low
        costs = -torch.log_softmax(table, 1) / math.log(2)
        outside = torch.relu(-score) + torch.relu(score - CLASSES + 1)
        return ((1 - share) * costs[low, symbols] + share * costs[low + 1, symbols] + 0.02 * outside).mean()

    descended("contexts", [first, second, first_bias, second_bias, table], loss, steps)
    one = 1 << (WEIGHT_BITS + SIZE_BITS)
    frequencies = (4096 * torch.softmax(table.detach().double(), 1)).round().clamp(min=1)
    return {
        "context_first": stored(first),
        "context_first_bias": (first_bias.detach() * one).round().numpy().astype(np.int32),
        "context_second": stored(second),
        "context_second_bias": (second_bias.detach() * one).round().numpy().astype(np.int32),
        "frequencies": frequencies.numpy().astype(np.int32),
    }


def _seen(found: Iterator[Example], random: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each network features, symbols and kinds of level, (n, FEATURES), (n,) and (n,), half of the large ones."""
    of_network: list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = [[] for _ in range(NETWORKS)]
    for example in found:
        *details, _ = example.field.latents
        seen = Seen(len(details[0][0]), [[part.shape[1:] for part in level] for level in details])
        for place in order(len(details[0][0]), len(details)):
            symbols = symbols_of(np.abs(details[place.level][place.detail][place.plane][place.where]))
            features = torch.from_numpy(seen.features(place).T.astype(np.int16))
            seen.put(place, symbols)
            kept = torch.rand(symbols.size, generator=random) < (0.5 if symbols.size > 1000 else 1)
            flat = torch.from_numpy(symbols.ravel())[kept]
            kinds = torch.full(flat.shape, place.kind, dtype=torch.uint8)
            of_network[place.network].append((features[kept], flat, kinds))
    return [tuple(torch.cat(parts) for parts in zip(*parts_of, strict=True)) for parts_of in of_network]  # pyright: ignore[reportReturnType]


def _geometric() -> torch.Tensor:
    """Logarithms of probabilities (CLASSES, SYMBOLS) to begin with: sizes fall off by a share, slower and slower."""
    mean = 0.01 * 2 ** (0.27 * np.arange(CLASSES)[:, None])
    share = mean / (1 + mean)
    of_symbol = (1 - share ** (1 << EXTRA_BITS)) * share ** SMALLEST.astype(float)
    return torch.from_numpy(np.log(np.maximum(of_symbol, 1e-8))).float()


def learned(
    path: Path,
    *,
    steps: int = 3000,
    pictures: int = PICTURES,
    scales: tuple[float, ...] = SCALES,
    names: tuple[str, ...] = PHOTOS,
) -> None:
    """Write all that is learned to `path`; what a stage needs it takes from the stages before."""
    tables = {
        "context_first": np.zeros((NETWORKS, HIDDEN, FEATURES), dtype=np.int8),
        "context_first_bias": np.zeros((NETWORKS, LEVELS, HIDDEN), dtype=np.int32),
        "context_second": np.zeros((NETWORKS, HIDDEN), dtype=np.int8),
        "context_second_bias": np.zeros((NETWORKS, LEVELS), dtype=np.int32),
        "frequencies": np.ones((CLASSES, SYMBOLS), dtype=np.int32),
        "upsampling_first": np.zeros((GUESSED, latent_start.PLACES), dtype=np.int8),
        "upsampling_second": np.zeros((2, GUESSED), dtype=np.int8),
    }
    stages = ((upsampling, 0), (contexts, 0), (contexts, 1))
    for stage, sweeps in stages:
        with latent_start.using(tables):
            tables |= stage(examples(sweeps, scales=scales, pictures=pictures, names=names), steps)
    write_atomic(path, lambda temporary: _written(temporary, tables))


def _written(path: Path, tables: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **tables)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    learned(latent_start.FILE)
