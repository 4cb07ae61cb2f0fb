"""Rate and distortion of the codec against JPEG and WebP on Kodak 1-8.

The photographs, 768 x 512, averaged to WIDTH x HEIGHT: a search over full ones takes minutes each on one thread. All
bytes count, headers included: JPEG's tables and headers alone take about 600 bytes. JPEG (4:2:0, optimized, and
progressive: the smaller one counts) and WebP (method 6) are encoded at every quality and interpolated between the two
qualities next to the size. PSNR of the decoded 8-bit pixels over all three channels. The codec's settings were chosen
on scikit-learn's photographs; each file is decoded with one thread, with two, and in NumPy, and must be the same.

    python -m benchmarks run codec [--width 120] [--height 80] [--steps 400] [--photos 8]
"""

import io
import time

import numpy as np
import torch
from PIL import Image

from benchmarks.fields import photographs
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.fields import image
from hardy.fields.codec import decode, encode
from hardy.fields.container import Contents, unpacked
from hardy.report import Row

PEERS = ("pillow",)
RATES = (0.75, 1.5, 3.0)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def curve(picture: Image.Image, form: str) -> list[tuple[float, float]]:
    """(bits per pixel, PSNR) at every quality, rising."""
    points = []
    for quality in range(1, 100, 2):
        sizes = []
        for progressive in (False, True) if form == "JPEG" else (False,):
            buffer = io.BytesIO()
            if form == "JPEG":
                picture.save(buffer, "JPEG", quality=quality, optimize=True, progressive=progressive)
            else:
                picture.save(buffer, "WEBP", quality=quality, method=6)
            sizes.append(len(buffer.getvalue()))
        with Image.open(buffer) as decoded:
            quality_reached = psnr(np.asarray(decoded.convert("RGB")), np.asarray(picture))
        points.append((8 * min(sizes) / (picture.width * picture.height), quality_reached))
    return sorted(points)


def at(points: list[tuple[float, float]], rate: float) -> float | None:
    """The PSNR at a rate; None where even the lowest quality takes more."""
    rates, values = zip(*points, strict=True)
    return None if rate < rates[0] else float(np.interp(rate, rates, values))


def same_everywhere(data: bytes) -> np.ndarray:
    """The pixels, decoded with one thread, with two, and in NumPy."""
    (model,), contents = unpacked(data)
    found = [model.pixels(contents.grids[0])]
    for threads in (2, 1):
        torch.set_num_threads(threads)
        found.append(decode(model, contents.grids[0]))
    if not all(np.array_equal(found[0], other) for other in found[1:]):
        raise AssertionError("decoded pixels differ")
    return found[0]


def run(*, width: int = 120, height: int = 80, steps: int = 400, photos: int = 8) -> Result:
    found = []
    for file in photographs(photos):
        with Image.open(file) as whole:
            upright = whole.convert("RGB") if whole.width > whole.height else whole.convert("RGB").transpose(2)
            picture = upright.resize((width, height), Image.Resampling.BOX)
        pixels, peers = np.asarray(picture), {form: curve(picture, form) for form in ("JPEG", "WEBP")}
        for rate in RATES:
            start = time.perf_counter()
            contents = Contents(kind="image", grids=((height, width),))
            result = encode(image(picture), contents, bits_per_point=rate, steps=steps)
            seconds = time.perf_counter() - start
            of_file = {
                "bits_per_pixel": result.bits_per_point,
                "psnr": psnr(same_everywhere(result.data), pixels),
                "jpeg": at(peers["JPEG"], result.bits_per_point),
                "webp": at(peers["WEBP"], result.bits_per_point),
                "seconds": round(seconds, 1),
            }
            details = {
                "asked": rate,
                "bytes": len(result.data),
                "width": result.width,
                "weight_bits": result.weight_bits,
            }
            found.append((file.name, details, of_file))
            print(file.name, *details.values(), *of_file.values(), flush=True)
    each = [row for name, details, of_file in found for row in rows(name, details, **with_units(of_file))]
    return Result(
        rows=[*summary(found), *each], settings={"decoded_alike": "one thread, two threads, NumPy"}, seeds=(0,)
    )


UNITS = {"bits_per_pixel": "bit", "psnr": "dB", "jpeg": "dB", "webp": "dB", "seconds": "s"}


def with_units(values: dict[str, float | None]) -> dict[str, Value | None]:
    return {name: None if value is None else Value(value, UNITS[name]) for name, value in values.items()}


def summary(found: list[tuple[str, dict[str, float], dict[str, float | None]]]) -> list[Row]:
    """Means over photographs; those of a peer only where it reaches the rate on every one of them."""
    lines = []
    for rate in RATES:
        of_rate = [of_file for _, details, of_file in found if details["asked"] == rate]
        means = {}
        for name, unit in UNITS.items():
            values = [of_file[name] for of_file in of_rate]
            if None not in values:
                means[name] = mean_of(values, unit)
        lines += rows("mean over photographs", {"asked": rate}, **means)
    return lines
