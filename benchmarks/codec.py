"""Rate and distortion of the codec against JPEG and WebP on Kodak 1-8; writes results/codec.json.

The photographs, 768 x 512, averaged to WIDTH x HEIGHT: a search over full ones takes minutes each on one thread. All
bytes count, headers included: JPEG's tables and headers alone take about 600 bytes. JPEG (4:2:0, optimized, and
progressive: the smaller one counts) and WebP (method 6) are encoded at every quality and interpolated between the two
qualities next to the size. PSNR of the decoded 8-bit pixels over all three channels. The codec's settings were chosen
on scikit-learn's photographs; each file is decoded with one thread, with two, and in NumPy, and must be the same.

    python benchmarks/codec.py [--width 120] [--height 80] [--steps 400] [--photos 8]
"""

import argparse
import io
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from fields import PHOTOS
from PIL import Image
from survival import processor

import hardy
from hardy.fields import image
from hardy.fields.codec import decode, encode
from hardy.fields.container import Contents, unpacked
from hardy.files import write_json

RESULT = Path(__file__).parent / "results" / "codec.json"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 120), ("height", 80), ("steps", 400), ("photos", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun, rows = time.monotonic(), []
    files = sorted(PHOTOS.glob("*.png"))[: options.photos]
    for file in files:
        with Image.open(file) as whole:
            upright = whole.convert("RGB") if whole.width > whole.height else whole.convert("RGB").transpose(2)
            picture = upright.resize((options.width, options.height), Image.Resampling.BOX)
        pixels, peers = np.asarray(picture), {form: curve(picture, form) for form in ("JPEG", "WEBP")}
        for rate in RATES:
            start = time.perf_counter()
            contents = Contents(kind="image", grids=((options.height, options.width),))
            result = encode(image(picture), contents, bits_per_point=rate, steps=options.steps)
            seconds = time.perf_counter() - start
            row = {
                "photo": file.name,
                "asked": rate,
                "bits_per_pixel": result.bits_per_point,
                "bytes": len(result.data),
                "width": result.width,
                "weight_bits": result.weight_bits,
                "psnr": psnr(same_everywhere(result.data), pixels),
                "jpeg": at(peers["JPEG"], result.bits_per_point),
                "webp": at(peers["WEBP"], result.bits_per_point),
                "seconds": round(seconds, 1),
            }
            rows.append(row)
            print(*row.values(), flush=True)
    summary = []
    for rate in RATES:
        of_rate = [row for row in rows if row["asked"] == rate]
        line = {"asked": rate}
        for name in ("bits_per_pixel", "psnr", "jpeg", "webp", "seconds"):
            values = [row[name] for row in of_rate if row[name] is not None]
            line[name] = statistics.mean(values) if values else None
            line[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else None
            line[f"{name}_photos"] = len(values)
        summary.append(line)
        print(line)
    result = {
        "command": "python benchmarks/codec.py "
        + " ".join(f"--{name} {value}" for name, value in vars(options).items()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {
            "hardy": hardy.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
        },
        "photos": [file.name for file in files],
        "seeds": [0],
        "decoded_alike": "one thread, two threads, NumPy",
        "seconds": round(time.monotonic() - begun, 1),
        "summary": summary,
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
