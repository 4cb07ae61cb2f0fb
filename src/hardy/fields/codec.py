"""A codec of pictures, videos and short sounds: a small field each, in integers, entropy-coded.

Source: COIN (arXiv 2103.03123) for images as the weights of small networks, MINR (2508.13471) for albums. Where we
differ: decoding is integer arithmetic only (`hardy.fields.integer_model`), so that all machines show the same pixels,
and weights have 5 to 8 bits and a range coder instead of 16 bits. Activations keep 16 bits, which cost nothing here.

The search is the same every time: fits have seeds, widths come from one ladder, and bits are tried in one order.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hardy import checks
from hardy.errors import InputError
from hardy.fields.activations import Quad
from hardy.fields.container import Contents, Model, Picture, packed, unpacked
from hardy.fields.descent import Schedule
from hardy.fields.field import Field
from hardy.fields.fitting import fit
from hardy.fields.hadamard_quant import HadamardQuant
from hardy.fields.integer import IntegerField
from hardy.fields.integer_model import LARGEST_GRID, IntegerModel
from hardy.fields.shared import SharedField, fit_shared
from hardy.fields.signals import Signal
from hardy.files import write_atomic

WIDTHS = (6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256)
WEIGHT_BITS = (8, 7, 6, 5)
LAYERS = 3
LEARNING_RATE = 2e-3
"""On scikit-learn's photographs 5e-3 is as good in float, but its weights have longer tails: 2 dB less at 6 bits."""
PIECE = LARGEST_GRID
"""Samples of a sound that one field takes; longer ones are cut into pieces."""
POINTS = 16384
"""Drawn in each step of a signal that has more."""
# Biases are multiples of 2^5 codes of phase, 1/128 of a quarter period, and those of values of 2^-9.
_BIAS_STEP, _LAST_BIAS_STEP = 5, 3
# What a file takes on top of its weights, which have about so many bits at weight_bits = 7: for the first guess only.
_OVERHEAD, _BITS_PER_WEIGHT = 90, 6.2
_FULL = 0.8
"""Of a budget, which is said where the widest network takes less."""

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """What came of encoding.

    Attributes:
        data: the file's bytes.
        psnr: in dB, of each decoded signal; of coordinate fields before samples are rounded to 8 or 16 bits.
        bits_per_point: of the file, headers included: per pixel, or per sample of a sound.
        settings: what the search chose, by name: "width" of a hidden layer and "weight bits", or the "step" of latents.
    """

    data: bytes
    psnr: tuple[float, ...]
    bits_per_point: float
    settings: Mapping[str, float]


def encode(
    signal: Signal,
    contents: Contents,
    *,
    target_psnr: float | None = None,
    bits_per_point: float | None = None,
    steps: int = 1000,
    seed: int = 0,
    report: Report | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> Encoded:
    """The smallest field that reaches a PSNR, or the best one of a size.

    For a target, widths of the ladder are fitted upwards, two at a time, until one reaches it; then the one between,
    and the fewest bits that do. For a size, the widest field that should take it is fitted, and of the bits that do
    the best are taken; where no field is that small the smallest is taken, which `report` or a warning says.

    A sound of more than `PIECE` samples becomes several fields in one file, each held to the same aim.

    Args:
        signal: on a grid.
        contents: what it shows, with its grid.
        target_psnr: in dB.
        bits_per_point: per pixel, of the whole file. Exactly one of the two is wanted.
        steps: of each fit.
        seed: of the fits.
        report: is told of every fit.
        progress: whether to show each fit's progress bar.
        device: where fields are fitted.

    Raises:
        InputError: both or none of the aims are given, or the target is not reached; the message says what was.
    """
    steps = checks.integer("steps", steps, at_least=1)
    if contents.kind == "audio" and signal.grid is not None and signal.grid[0] > PIECE:
        aims: dict[str, Any] = {"target_psnr": target_psnr, "bits_per_point": bits_per_point}
        settings: dict[str, Any] = {"steps": steps, "seed": seed, "report": report, "progress": progress}
        settings["device"] = device
        return _in_pieces(signal, contents, lambda piece, of_piece: encode(piece, of_piece, **aims, **settings), report)
    _check_grid(signal)
    if (target_psnr is None) == (bits_per_point is None):
        raise InputError("exactly one of a target in dB and bits per pixel is wanted")
    for name, value in (("target", target_psnr), ("bits per pixel", bits_per_point)):
        if value is not None:
            checks.number(name, value, above=0)
    points = len(signal.values)
    fits: dict[int, list[Encoded]] = {}

    def tried(width: int) -> list[Encoded]:
        if width not in fits:
            field = Field(
                signal.coordinates.shape[1],
                signal.values.shape[1],
                hidden_features=width,
                hidden_layers=LAYERS,
                activation=Quad(first_omega=first_omega(signal)),
                seed=seed,
            )
            fit(field.to(device), signal, schedule=_schedule(steps, points, seed), progress=progress)
            fits[width] = [_encoded([field.cpu()], [signal], contents, width, bits) for bits in WEIGHT_BITS]
            best = fits[width][0]
            tell(report, f"width {width}: {best.psnr[0]:.2f} dB at {best.bits_per_point:.3f} bits per point")
        return fits[width]

    if target_psnr is not None:
        return _for_target(tried, target_psnr, steps)
    assert bits_per_point is not None
    return _for_size(tried, bits_per_point * points / 8, signal, report)


def _for_target(tried: Callable[[int], list[Encoded]], target: float, steps: int) -> Encoded:
    reached = 0.0
    for place in range(0, len(WIDTHS), 2):
        reached = max(reached, tried(WIDTHS[place])[0].psnr[0])
        if reached < target:
            continue
        widths = [WIDTHS[place - 1]] if place else []
        results = [result for width in [*widths, WIDTHS[place]] for result in tried(width)]
        return min((r for r in results if r.psnr[0] >= target), key=lambda result: len(result.data))
    raise InputError(
        f"{target:g} dB are not reached: {reached:.2f} dB at the most, with layers of up to {WIDTHS[-1]} units after "
        f"{steps} steps; ask for less, or for more steps"
    )


def _for_size(tried: Callable[[int], list[Encoded]], budget: float, signal: Signal, report: Report | None) -> Encoded:
    ends = signal.coordinates.shape[1] + signal.values.shape[1]

    def expected(width: int) -> float:
        return _OVERHEAD + ((LAYERS - 1) * width**2 + (ends + LAYERS) * width) * _BITS_PER_WEIGHT / 8

    place = max((i for i, width in enumerate(WIDTHS) if expected(width) <= budget), default=0)
    found: list[Encoded] = []
    for width in reversed(WIDTHS[: place + 1]):
        results = tried(width)
        found += results
        small = [result for result in results if len(result.data) <= budget]
        if small:
            best = max(small, key=lambda result: result.psnr[0])
            if width == WIDTHS[-1] and len(best.data) < _FULL * budget:
                message = (
                    f"the widest network of the search, of {width} units, takes {len(best.data)} of the {budget:.0f} "
                    "bytes; latents take as many as there are, and more steps fit it better"
                )
                tell_or_warn(report, message)
            return best
    smallest = min(found, key=lambda result: len(result.data))
    message = (
        f"no field fits into {8 * budget / len(signal.values):g} bits per point, {budget:.0f} bytes here: this is the "
        f"smallest, {len(smallest.data)} bytes, {smallest.bits_per_point:.3f} bits per point"
    )
    tell_or_warn(report, message)
    return smallest


def _in_pieces(
    signal: Signal, contents: Contents, encoded: Callable[[Signal, Contents], Encoded], report: Report | None
) -> Encoded:
    """A long sound in pieces of equal lengths, as nearly as can be, each a field of its own in one file."""
    pieces = signal.values.tensor_split(math.ceil(len(signal.values) / PIECE))
    results = []
    for index, values in enumerate(pieces):
        tell(report, f"piece {index + 1} of {len(pieces)}, {len(values)} samples")
        results.append(encoded(Signal.on_grid(values), dataclasses.replace(contents, grids=((len(values),),))))
    models = [cast(IntegerModel, unpacked(result.data)[0][0]) for result in results]
    data = packed(models, dataclasses.replace(contents, grids=tuple((len(values),) for values in pieces)))
    error = sum(len(values) * 10 ** (-result.psnr[0] / 10) for values, result in zip(pieces, results, strict=True))
    settings = {"pieces": len(pieces), "widest": max(result.settings["width"] for result in results)}
    return Encoded(
        data=data,
        psnr=(-10 * math.log10(error / len(signal.values)),),
        bits_per_point=8 * len(data) / len(signal.values),
        settings=settings,
    )


def encode_album(
    signals: Sequence[Signal],
    contents: Contents,
    *,
    width: int = 48,
    weight_bits: int = 7,
    steps: int = 1000,
    seed: int = 0,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> Encoded:
    """Many pictures in one file, the middle layers of their fields stored once.

    Args:
        signals: pictures of any sizes with the same number of channels.
        contents: with their grids.
        width: units of a hidden layer.
        weight_bits: 2 to 16.
        steps: of the fit.
        seed: of the fit.
        progress: whether to show a progress bar.
        device: where it is fitted.

    Raises:
        InputError: there are no pictures, they differ in channels, or a size is out of range.
    """
    if not signals:
        raise InputError("an album has at least one picture")
    for signal in signals:
        _check_grid(signal)
    album = SharedField(
        len(signals),
        signals[0].coordinates.shape[1],
        signals[0].values.shape[1],
        hidden_features=width,
        shared_layers=LAYERS - 1,
        activation=Quad(),
        seed=seed,
    )
    schedule = _schedule(steps, max(len(signal.values) for signal in signals), seed)
    fit_shared(album.to(device), signals, schedule=schedule, progress=progress)
    album.cpu()
    fields = [album.field(image) for image in range(len(signals))]
    return _encoded(fields, signals, contents, width, weight_bits)


def decode(model: Model, grid: Sequence[int], sample_bits: int = 8) -> np.ndarray:
    """The samples on a grid, (*grid, channels), uint8 or uint16; the same on every machine.

    `sample_bits` are those of the file; a picture as latents has its own.
    """
    if isinstance(model, Picture):
        return model.pixels(grid)
    return IntegerField(model).pixels(tuple(grid), sample_bits).numpy()


def scaled(grid: Sequence[int], scale: float, axes: Sequence[int]) -> tuple[int, ...]:
    """`grid` with some of its axes longer or shorter.

    Raises:
        InputError: `scale` is not above zero, or an axis would be longer than 32768.
    """
    scale = checks.number("scale", scale, above=0)
    sizes = tuple(max(1, round(size * scale)) if axis in axes else size for axis, size in enumerate(grid))
    if max(sizes) > LARGEST_GRID:
        raise InputError(f"a grid of {' x '.join(map(str, sizes))} is too large: {LARGEST_GRID} per axis at most")
    return sizes


def save_encoded(result: Encoded, path: str | Path) -> None:
    """Write the file, atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(result.data))


def _encoded(fields: Sequence[Field], signals: Sequence[Signal], contents: Contents, width: int, bits: int) -> Encoded:
    method = HadamardQuant(rotate="never", weight_bits=bits, activation_bits=16, first_layer_bits=12, per_channel=False)
    made = [
        IntegerField(_coarse(method.quantize(field, signal).model))
        for field, signal in zip(fields, signals, strict=True)
    ]
    data = packed([field.model for field in made], contents)
    points = sum(len(signal.values) for signal in signals)
    psnr = tuple(field.psnr(signal) for field, signal in zip(made, signals, strict=True))
    settings = {"width": width, "weight bits": bits}
    return Encoded(data=data, psnr=psnr, bits_per_point=8 * len(data) / points, settings=settings)


def _coarse(model: IntegerModel) -> IntegerModel:
    """The model with biases of fewer bits; phases lose whole periods, which changes nothing."""
    layers, period = [], 4 << model.fraction_bits
    for index, layer in enumerate(model.layers):
        last = index == len(model.layers) - 1
        step = _LAST_BIAS_STEP if last else _BIAS_STEP
        bias = (layer.bias + (1 << (step - 1))) >> step << step
        bias = bias if last else (bias + period // 2) % period - period // 2
        layers.append(dataclasses.replace(layer, bias=bias))
    return dataclasses.replace(model, layers=tuple(layers))


def _schedule(steps: int, points: int, seed: int) -> Schedule:
    drawn = POINTS if points > POINTS else None
    return Schedule(steps=steps, learning_rate=LEARNING_RATE, points=drawn, check_every=steps, seed=seed)


def _check_grid(signal: Signal) -> None:
    if signal.grid is None or max(signal.grid) > LARGEST_GRID:
        raise InputError(
            f"a signal on a grid of at most {LARGEST_GRID} points per axis is wanted, got {signal.grid}; cut it into "
            "pieces"
        )


def first_omega(signal: Signal) -> float:
    """Of the first layer: a sound has more detail along its one axis than a picture along each of two.

    The root of the length is ours: at the picture's frequency long sounds stay blurred, and at one proportional to the
    length the first layer's few bits are too coarse.
    """
    (length, *others) = signal.grid or (0,)
    return 30.0 if others else 30.0 * math.sqrt(max(1.0, length / 640))


def tell(report: Report | None, text: str) -> None:
    """Say how the search goes to who wants to hear it."""
    if report is not None:
        report(text)


def tell_or_warn(report: Report | None, text: str) -> None:
    """Say what must not go unheard."""
    if report is None:
        warnings.warn(text, stacklevel=4)
    else:
        report(text)
