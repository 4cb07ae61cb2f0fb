"""Encoding pictures as latents: at the step between two values of a latent that meets a size or a PSNR."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from hardy import checks
from hardy.errors import InputError
from hardy.fields.codec import Encoded, Report, tell, tell_or_warn
from hardy.fields.container import Contents, Picture, packed
from hardy.fields.integer_model import LARGEST_GRID
from hardy.fields.latent_quantization import Expected, Photo, squared_error
from hardy.fields.latent_tiles import Layout, TiledField
from hardy.fields.signals import Signal
from hardy.reading import check_room
from hardy.runs.progress import progress as shown_progress

# Of 8-bit samples.
_SMALLEST_STEP, _LARGEST_STEP = 2.0**-6, 2.0**12
_BYTES_PER_SAMPLE, _BYTES_PER_TILED = 110, 30
_FEW_BYTES = 10
"""A size is met when no more than this is left, however small the file."""
_DB_SLACK, _LOSSLESS = 0.02, 150.0
_NUDGE = 0.03
"""Of the logarithm of a step."""
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

    A picture of more than two million pixels is encoded in tiles, which bounds the memory.

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
    return encode_latent_album(
        [signal], contents, target_psnr=target_psnr, bits_per_point=bits_per_point, preset=preset, report=report,
        progress=progress,
    )  # fmt: skip


def encode_latent_album(
    signals: Sequence[Signal],
    contents: Contents,
    *,
    target_psnr: float | None = None,
    bits_per_point: float | None = None,
    preset: str = "default",
    report: Report | None = None,
    progress: bool = False,
) -> Encoded:
    """Pictures in one file, all at the same step, which gives the least error for the size of them all.

    There is no network of theirs to share: what a decoder has learned lies in the package and costs no file anything.

    Args:
        signals: pictures as in `encode_latents`, of any sizes.
        contents: what they show, with their grids.
        target_psnr: in dB, which each of them reaches.
        bits_per_point: per pixel, of the whole file and all pixels.
        preset, report, progress: as in `encode_latents`.

    Raises:
        InputError: see `encode_latents`; or there are no pictures.
    """
    chosen = PRESETS[checks.one_of("preset", preset, tuple(PRESETS))]
    if contents.kind != "image" or any(signal.grid is None or len(signal.grid) != 2 for signal in signals):
        raise InputError(f"latents are for pictures, got a signal of the kind {contents.kind}")
    if not signals:
        raise InputError("an album has at least one picture")
    for signal in signals:
        if max(signal.grid or ()) > LARGEST_GRID:
            raise InputError(f"a picture of at most {LARGEST_GRID} pixels a side is wanted, got {signal.grid}; cut it")
    if (target_psnr is None) == (bits_per_point is None):
        raise InputError("exactly one of a target in dB and bits per pixel is wanted")
    for name, value in (("target", target_psnr), ("bits per pixel", bits_per_point)):
        if value is not None:
            checks.number(name, value, above=0)
    begun, points = time.perf_counter(), sum(len(signal.values) for signal in signals)
    pictures = [Cut(signal, contents) for signal in signals]
    tiles = sum(picture.count for picture in pictures)
    seconds = (time.perf_counter() - begun) * _TRIES * (_PASS + _SWEEP * chosen.sweeps)
    tell(report, f"{_described(signals, tiles)}: about {seconds:.0f} s ({preset})")

    def expected_psnr(step: float) -> float:
        return min(picture.expected_psnr(step) for picture in pictures)

    def expected_bytes(step: float) -> float:
        return sum(picture.expected.bytes(step) for picture in pictures)

    with shown_progress("encode", chosen.tries * tiles, show=progress) as bar:

        def trial(step: float) -> Encoded:
            step *= ((1 << contents.sample_bits) - 1) / 255
            fields, psnr = [], []
            for picture in pictures:
                field, found = picture.tried(step, chosen.sweeps, bar.advance)
                fields.append(field)
                psnr.append(found)
            data = packed(fields, contents)
            rate, least = 8 * len(data) / points, min(psnr)
            tell(report, f"step {step:.2f}: {least:.2f} dB at {rate:.3f} bits per pixel")
            bar.advance(0, f"{least:.2f} dB at {rate:.3f} bits per pixel")
            return Encoded(data=data, psnr=tuple(psnr), bits_per_point=rate, settings={"step": round(step, 2)})

        budget = (bits_per_point or 0) * points / 8
        if target_psnr is not None:
            results = _search(
                trial,
                lambda made: target_psnr - min(*made.psnr, _LOSSLESS),
                lambda step: target_psnr - expected_psnr(step),
                _DB_SLACK,
                chosen.tries,
            )
        else:
            results = _search(
                trial,
                lambda made: math.log(len(made.data) / budget),
                lambda step: math.log(expected_bytes(step) / budget),
                max(chosen.slack, _FEW_BYTES / budget),
                chosen.tries,
            )
    good = [made for made, excess in results if excess <= 0]
    if target_psnr is not None:
        if not good:
            best = max(min(made.psnr) for made, _ in results)
            raise InputError(f"{target_psnr:g} dB are not reached: {best:.2f} dB at the most; ask for less")
        return min(good, key=lambda made: len(made.data))
    if good:
        return max(good, key=lambda made: min(made.psnr))
    smallest = min((made for made, _ in results), key=lambda made: len(made.data))
    tell_or_warn(
        report,
        f"no file {'of this picture' if len(signals) == 1 else 'of these pictures'} fits into {bits_per_point:g} bits "
        f"per pixel, {budget:.0f} bytes: this is the smallest, {len(smallest.data)} bytes, "
        f"{smallest.bits_per_point:.3f} bits per pixel",
    )
    return smallest


def _described(signals: Sequence[Signal], tiles: int) -> str:
    rows, columns, *_ = max((signal.grid for signal in signals if signal.grid is not None), key=math.prod)
    size = f"{columns} x {rows} pixels" if len(signals) == 1 else f"{len(signals)} pictures of up to {columns} x {rows}"
    return size + (f" in {tiles} tiles" if tiles > len(signals) else "")


class Cut:
    """A picture in tiles, or in one, each of which is taken apart only while it is looked at."""

    def __init__(self, signal: Signal, contents: Contents) -> None:
        assert signal.grid is not None
        self.layout, self.contents = Layout.of((signal.grid[0], signal.grid[1])), contents
        tiles = list(self.layout.tiles())
        self.count = len(tiles)
        largest = max((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in tiles)
        room = _BYTES_PER_SAMPLE * largest + (_BYTES_PER_TILED * len(signal.values) if self.count > 1 else 0)
        sizes = f"{signal.grid[1]} x {signal.grid[0]}"
        check_room(f"encoding {sizes} pixels", room * signal.values.shape[1])
        self.values = signal.arranged()
        photos = (self._photo(where) for where in tiles)
        first = next(photos)
        self.whole = first if self.count == 1 else None
        self.expected = Expected.all_of([first.expected, *(photo.expected for photo in photos)])

    def _photo(self, where: tuple[slice, slice]) -> Photo:
        values = self.values[where]
        return Photo(values, self.contents.sample_bits)

    def expected_psnr(self, step: float) -> float:
        """About the PSNR in dB at a step, in units of 8-bit samples."""
        return 10 * math.log10(255**2 * self.expected.samples / self.expected.error(step))

    def tried(self, step: float, sweeps: int, advance: Callable[[int], object]) -> tuple[Picture, float]:
        """The picture at a step, in units of samples, and its PSNR in dB; `advance` is called after each tile."""
        where, fields = list(self.layout.tiles()), []

        def shown(index: int) -> np.ndarray:
            photo = self.whole or self._photo(where[index])
            field, samples = photo.tried(step, sweeps)
            fields.append(field)
            advance(1)
            return samples

        error = squared_error(self.layout.together(shown), self.values, self.contents.sample_bits)
        peak = (1 << self.contents.sample_bits) - 1
        psnr = 10 * math.log10(peak**2 / error) if error else math.inf
        return (fields[0] if self.count == 1 else TiledField(self.layout, fields)), psnr


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
        elif math.isclose(after, at, abs_tol=1e-9):  # `expected` has a jump here, across which both values lie
            rises = expected(_LARGEST_STEP) > expected(_SMALLEST_STEP)
            after = at + (-_NUDGE if (found > aim) == rises else _NUDGE)
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
