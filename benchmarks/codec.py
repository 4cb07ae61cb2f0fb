"""Pictures as latents beside JPEG, WebP, JPEG 2000 and AVIF: rate and distortion on Kodak 1-8 at full size.

Every byte of a file counts, headers included, and PSNR is of decoded 8-bit samples over all three channels. The codec
encodes to 0.2, 0.4, 0.8, 1.4 and 2 bits per pixel with two of its presets; the others, by Pillow, at qualities
from the lowest to beyond two bits per pixel: JPEG optimized, the smaller of baseline and progressive, 4:4:4 and 4:2:0;
WebP with method 6; JPEG 2000 with the 9/7 wavelet; AVIF 4:4:4 at speed 4. BD-rate (Bjontegaard 2001) is the mean
difference of the logarithm of rates at equal PSNR, by monotone cubic interpolation, over what the peer reaches of the
PSNRs that the codec has from 0.2 to 2 bits per pixel. The codec's settings and everything it learned are from
scikit-learn's photographs. Seconds are those of a processor, all threads together, which do not depend on what else
the machine does.

Each picture at 0.8 bits per pixel is decoded a second time with products of 64-bit integers, and must be the same.

    python -m benchmarks run codec [--photos 8] [--presets fast,default]
"""

import functools
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

from benchmarks.fields import photographs
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.fields import image, latent_context, latent_start
from hardy.fields.codec import decode
from hardy.fields.container import Contents, unpacked
from hardy.fields.latent_codec import encode_latents
from hardy.files import write_text
from hardy.report import Row
from hardy.runs.progress import silenced

PEERS = ("pillow",)
RATES = (0.2, 0.4, 0.8, 1.4, 2.0)
FORMS: dict[str, tuple[str, Sequence[int], dict[str, Any]]] = {
    "JPEG 4:4:4": ("JPEG", range(1, 100, 5), {"optimize": True, "subsampling": 0}),
    "JPEG 4:2:0": ("JPEG", range(1, 100, 5), {"optimize": True, "subsampling": 2}),
    "WebP": ("WEBP", range(0, 101, 10), {"method": 6}),
    "JPEG 2000": ("JPEG2000", range(22, 48, 3), {"irreversible": True, "mct": 1, "quality_mode": "dB"}),
    "AVIF 4:4:4": ("AVIF", range(20, 93, 18), {"subsampling": "4:4:4", "speed": 4}),
}
Point = dict[str, float]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def of_peer(picture: Image.Image, form: str) -> list[Point]:
    """A point for each quality."""
    kind, qualities, options = FORMS[form]
    points = []
    for quality in qualities:
        given = {"quality_layers": [quality]} if kind == "JPEG2000" else {"quality": quality}
        sizes, buffer, begun = [], io.BytesIO(), time.process_time()
        for more in ({}, {"progressive": True}) if kind == "JPEG" else ({},):
            buffer = io.BytesIO()
            picture.save(buffer, kind, **options, **given, **more)
            sizes.append(len(buffer.getvalue()))
        seconds = (time.process_time() - begun) / len(sizes)
        with Image.open(buffer) as decoded:
            reached = psnr(np.asarray(decoded.convert("RGB")), np.asarray(picture))
        points.append({"bits": 8 * min(sizes) / (picture.width * picture.height), "psnr": reached, "encode": seconds})
    return points


def of_codec(picture: Image.Image, preset: str) -> list[Point]:
    """A point for each rate."""
    signal, points = image(picture), []
    assert signal.grid is not None
    for rate in RATES:
        begun = time.process_time()
        with silenced():
            made = encode_latents(
                signal, Contents(kind="image", grids=(signal.grid,)), bits_per_point=rate, preset=preset
            )
        encoded = time.process_time()
        pixels = shown(made.data)
        decoded = time.process_time()
        if rate == 0.8:
            check_integers(made.data, pixels)
        points.append(
            {
                "bits": made.bits_per_point,
                "psnr": psnr(pixels, np.asarray(picture)),
                "encode": encoded - begun,
                "decode": decoded - encoded,
            }
        )
    return points


def shown(data: bytes) -> np.ndarray:
    """The picture in a file."""
    (field,), contents = unpacked(data)
    return decode(field, contents.grids[0])


def check_integers(data: bytes, pixels: np.ndarray) -> None:
    """The same file gives the same pixels without a number of floating point."""

    def product(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
        return weights.astype(np.int64) @ values.astype(np.int64)

    with (
        mock.patch.object(latent_context, "exact_product", product),
        mock.patch.object(latent_start, "exact_product", product),
    ):
        if not np.array_equal(shown(data), pixels):
            raise AssertionError("decoded pixels differ")


def bd_rate(ours: list[Point], peer: list[Point]) -> float:
    """How many percent more bits ours takes than the peer's at equal PSNR, on average."""
    curves = [_curve(points) for points in (ours, peer)]
    inside = [point["psnr"] for point in ours if 0.19 <= point["bits"] <= 2.01]
    low, high = (max(min(inside), curves[1][0][0]), min(max(inside), curves[1][0][-1]))
    first, second = (PchipInterpolator(*curve).integrate(low, high) / (high - low) for curve in curves)
    return 100 * (math.exp(first - second) - 1)


def _curve(points: list[Point]) -> tuple[list[float], list[float]]:
    """PSNRs, rising, and logarithms of rates; without points that take more bits for no more PSNR."""
    found: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: point["bits"]):
        if not found or point["psnr"] > found[-1][0]:
            found.append((point["psnr"], math.log(point["bits"])))
    return [x for x, _ in found], [y for _, y in found]


def run(*, photos: int = 8, presets: str = "fast,default", work: Path | None = None) -> Result:
    ours = tuple(f"hardy, {preset}" for preset in presets.split(","))
    pictures = {}
    for file in photographs(photos):
        with Image.open(file) as opened:
            pictures[file.name] = opened.convert("RGB")
    ways: dict[str, Callable[[Image.Image], list[Point]]] = {
        **{form: functools.partial(of_peer, form=form) for form in FORMS},
        **{name: functools.partial(of_codec, preset=name.split()[-1]) for name in ours},
    }
    found: dict[str, dict[str, list[Point]]] = {name: {} for name in pictures}
    for name, way in ways.items():
        for photo, picture in pictures.items():
            points = kept(work, f"{Path(photo).stem}-{name}", functools.partial(way, picture))
            found[photo][name] = points
            against = ", ".join(
                f"{form} {bd_rate(points, found[photo][form]):+.1f} %" for form in FORMS if name in ours
            )
            print(f"{name}, {photo}: {len(points)} files  {against}", flush=True)
    return Result(
        rows=[*compared(found, ours), *at_rates(found, ours), *every(found, ours)],
        settings={"photos": list(found), "decoded_alike": "products in float32, products in int64"},
    )


def kept(work: Path | None, name: str, make: Callable[[], list[Point]]) -> list[Point]:
    """What an earlier run of this arm left, or what it gives now."""
    file = None if work is None else work / f"{name.replace(' ', '_').replace(':', '')}.json"
    if file is not None and file.exists():
        return json.loads(file.read_text())
    made = make()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(made))
    return made


def compared(found: dict[str, dict[str, list[Point]]], ours: Sequence[str]) -> list[Row]:
    """BD-rates of each preset against each peer, and of the peers among themselves, over the photographs."""
    lines = []
    for name in (*ours, "WebP", "JPEG 2000", "AVIF 4:4:4"):
        of_peers = {
            form: mean_of([bd_rate(of_photo[name], of_photo[form]) for of_photo in found.values()], "%")
            for form in FORMS
            if form != name
        }
        for form, value in of_peers.items():
            lines += rows(name, {"against": form}, bd_rate=value)
        seconds = [point["encode"] for of_photo in found.values() for point in of_photo[name]]
        decode = [point["decode"] for of_photo in found.values() for point in of_photo[name] if "decode" in point]
        lines += rows(
            name, {}, encode=mean_of(seconds, "s"), decode=mean_of(decode, "s") if decode else None,
            longest_decode=Value(max(decode), "s") if decode else None,
        )  # fmt: skip
    return lines


def at_rates(found: dict[str, dict[str, list[Point]]], ours: Sequence[str]) -> list[Row]:
    """Mean PSNR at each rate, of peers interpolated; none where a peer does not reach the rate on every photograph."""
    lines = []
    for rate in RATES:
        for name in (*FORMS, *ours):
            values = [_at(of_photo[name], rate) for of_photo in found.values()]
            if None not in values:
                lines += rows(name, {"asked": rate}, psnr=mean_of([v for v in values if v is not None], "dB"))
    return lines


def _at(points: list[Point], rate: float) -> float | None:
    psnrs, logarithms = _curve(points)
    if logarithms[0] > math.log(rate * 1.01):
        return None
    return float(np.interp(math.log(rate), logarithms, psnrs))


def every(found: dict[str, dict[str, list[Point]]], ours: Sequence[str]) -> list[Row]:
    """All points of the codec, and the BD-rates of each photograph."""
    lines = []
    for photo, of_photo in found.items():
        for name in ours:
            for rate, point in zip(RATES, of_photo[name], strict=True):
                units = {"bits": "bit", "psnr": "dB", "encode": "s", "decode": "s"}
                values: dict[str, Any] = {key: Value(point[key], unit) for key, unit in units.items()}
                lines += rows(name, {"photo": photo, "asked": rate}, **values)
            for form in FORMS:
                value = Value(bd_rate(of_photo[name], of_photo[form]), "%")
                lines += rows(name, {"photo": photo, "against": form}, bd_rate=value)
    return lines
