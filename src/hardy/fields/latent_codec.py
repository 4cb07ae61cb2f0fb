"""Encoding a picture as latents: at the step between two values of a latent that meets a size or a PSNR."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

from hardy import checks
from hardy.errors import InputError
from hardy.fields.codec import Encoded, Report, tell, tell_or_warn
from hardy.fields.container import Contents, packed
from hardy.fields.integer_model import LARGEST_GRID
from hardy.fields.latent_quantization import Photo
from hardy.fields.signals import Signal
from hardy.reading import check_room
from hardy.runs.progress import progress as shown_progress

# Of 8-bit samples.
_SMALLEST_STEP, _LARGEST_STEP = 2.0**-6, 2.0**12
_BYTES_PER_SAMPLE = 110
_FEW_BYTES = 10
"""A size is met when no more than this is left, however small the file."""
_DB_SLACK, _LOSSLESS = 0.02, 150.0
# How long a try takes, and each of its sweeps, in units of what taking the picture apart takes; tries there will be.
_PASS, _SWEEP, _TRIES = 9.0, 7.0, 3


@dataclasses.dataclass(frozen=True)
class Preset:
    """How long to encode.

    Attributes:
        sweeps: over all latents, at each step that is tried.
        tries: of steps, at the most.
        slack: a size is met when the file is not smaller by more than this share.
    """

    sweeps: int
    tries: int
    slack: float


PRESETS = {"fast": Preset(1, 6, 0.02), "default": Preset(2, 10, 0.005), "best": Preset(4, 16, 0.002)}


def encode_latents(
    signal: Signal,
    contents: Contents,
    *,
    target_psnr: float | None = None,
    bits_per_point: float | None = None,
    preset: str = "default",
    report: Report | None = None,
    progress: bool = False,
) -> Encoded:
    """The picture at the largest step that reaches a PSNR, or at the smallest one whose file has a size.

    Args:
        signal: a picture on a grid, of 1 to 4 channels.
        contents: what it shows, with its grid.
        target_psnr: in dB, of decoded samples.
        bits_per_point: per pixel, of the whole file. Exactly one of the two is wanted.
        preset: "fast", "default" or "best".
        report: is told of the picture, and of every step that is tried.
        progress: whether to show a progress bar.

    Raises:
        InputError: both or none of the aims are given, the preset is unknown, or it is no picture.
    """
    chosen = PRESETS[checks.one_of("preset", preset, tuple(PRESETS))]
    if contents.kind != "image" or signal.grid is None or len(signal.grid) != 2:
        raise InputError(f"latents are for pictures, got a signal of the kind {contents.kind}")
    if max(signal.grid) > LARGEST_GRID:
        raise InputError(f"a picture of at most {LARGEST_GRID} pixels a side is wanted, got {signal.grid}; cut it")
    check_room(f"encoding {signal.grid[1]} x {signal.grid[0]} pixels", _BYTES_PER_SAMPLE * signal.values.numel())
    if (target_psnr is None) == (bits_per_point is None):
        raise InputError("exactly one of a target in dB and bits per pixel is wanted")
    for name, value in (("target", target_psnr), ("bits per pixel", bits_per_point)):
        if value is not None:
            checks.number(name, value, above=0)
    begun, points = time.perf_counter(), len(signal.values)
    photo = Photo(signal, contents)
    seconds = (time.perf_counter() - begun) * _TRIES * (_PASS + _SWEEP * chosen.sweeps)
    tell(report, f"{signal.grid[1]} x {signal.grid[0]} pixels: about {seconds:.0f} s ({preset})")

    with shown_progress("encode", chosen.tries, show=progress) as bar:

        def trial(step: float) -> Encoded:
            step *= photo.peak / 255
            field, planes = photo.tried(step, chosen.sweeps)
            data, psnr = packed([field], contents), photo.psnr(field.shown(planes))
            rate = 8 * len(data) / points
            tell(report, f"step {step:.2f}: {psnr:.2f} dB at {rate:.3f} bits per pixel")
            bar.advance(1, f"{psnr:.2f} dB at {rate:.3f} bits per pixel")
            return Encoded(data=data, psnr=(psnr,), bits_per_point=rate, settings={"step": round(step, 2)})

        budget = (bits_per_point or 0) * points / 8
        if target_psnr is not None:
            results = _search(
                trial,
                lambda made: target_psnr - min(made.psnr[0], _LOSSLESS),
                lambda step: target_psnr - photo.expected_psnr(step),
                _DB_SLACK,
                chosen.tries,
            )
        else:
            results = _search(
                trial,
                lambda made: math.log(len(made.data) / budget),
                lambda step: math.log(photo.expected_bytes(step) / budget),
                max(chosen.slack, _FEW_BYTES / budget),
                chosen.tries,
            )
    good = [made for made, excess in results if excess <= 0]
    if target_psnr is not None:
        if not good:
            best = max(made.psnr[0] for made, _ in results)
            raise InputError(f"{target_psnr:g} dB are not reached: {best:.2f} dB at the most; ask for less")
        return min(good, key=lambda made: len(made.data))
    if good:
        return max(good, key=lambda made: made.psnr[0])
    smallest = min((made for made, _ in results), key=lambda made: len(made.data))
    tell_or_warn(
        report,
        f"no file of this picture fits into {bits_per_point:g} bits per pixel, {budget:.0f} bytes: this is the "
        f"smallest, {len(smallest.data)} bytes, {smallest.bits_per_point:.3f} bits per pixel",
    )
    return smallest


def _search(
    trial: Callable[[float], Encoded],
    excess: Callable[[Encoded], float],
    expected: Callable[[float], float],
    slack: float,
    tries: int,
) -> list[tuple[Encoded, float]]:
    """What came of the steps tried, each with its excess: above zero it will not do, from -slack to 0 it is enough.

    The first step is where `expected` is what is wanted, the second follows from its error there, the others from the
    two last steps, between the nearest that will do and that will not, once there are both. There are more tries than
    `tries` only while none will do.
    """
    bounds: dict[bool, tuple[float, float]] = {}  # whether it will do: logarithm of the step, and excess
    places: list[tuple[float, float]] = []
    results: list[tuple[Encoded, float]] = []
    aim = -slack / 3
    at = _solved(expected, aim)
    while len(results) < tries or True not in bounds:
        made = trial(math.exp(at))
        found = excess(made)
        results.append((made, found))
        places.append((at, found))
        bounds[found <= 0] = (at, found)
        if -slack <= found <= 0:
            break
        after = _solved(expected, aim - found + expected(math.exp(at)))
        if len(bounds) == 2:
            (a, of_a), (b, of_b) = bounds.values()
            after = a + min(0.97, max(0.03, (aim - of_a) / (of_b - of_a))) * (b - a)
        elif len(places) > 1 and places[-1][1] != places[-2][1]:
            slope = (places[-1][1] - places[-2][1]) / (places[-1][0] - places[-2][0])
            after = at + max(-1.6, min(1.6, (aim - found) / slope))
            aim *= 2  # or small steps towards it might go on and on
        after = max(math.log(_SMALLEST_STEP), min(math.log(_LARGEST_STEP), after))
        if after == at:
            break
        at = after
    return results


def _solved(expected: Callable[[float], float], wanted: float) -> float:
    """The logarithm of the step, within the limits, at which `expected` is what is wanted."""
    ends = [math.log(_SMALLEST_STEP), math.log(_LARGEST_STEP)]
    rises = expected(_LARGEST_STEP) > expected(_SMALLEST_STEP)
    for _ in range(50):
        middle = (ends[0] + ends[1]) / 2
        ends[(expected(math.exp(middle)) > wanted) == rises] = middle
    return (ends[0] + ends[1]) / 2
