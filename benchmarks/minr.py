"""Many photos in one network: parameters and PSNR; writes results/minr.json.

N = 4, 8, 16 photos: the central squares of Kodak 1-8 as in fields.py, for 16 the left and right thirds of them beside
(crops of one photograph have more in common than two photographs). Networks of three hidden-to-hidden layers, quad:

  shared       own input layer, projection and output; the three hidden layers shared (MINR)
  bare         own input and output layers only: no projection
  separate     a network for each photo, of the same width
  equal        a network for each photo, narrower: as many parameters in all as `shared` has

All have the same steps and learning rate, 2e-3 (of 1e-3, 2e-3, 5e-3 the one chosen for the codec on scikit-learn's
photographs). PSNR, mean and spread over photos; and one more photo added with the shared part frozen.

    python benchmarks/minr.py [--size 48] [--steps 600] [--width 48]
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from fields import PHOTOS, shrunk
from survival import processor
from torch.nn.functional import interpolate

import hardy
from hardy.fields import (
    Field,
    Quad,
    Schedule,
    SharedField,
    Signal,
    add_images,
    fit_many,
    fit_shared,
    image,
    sample_photo,
)
from hardy.files import write_json

RESULT = Path(__file__).parent / "results" / "minr.json"
COUNTS = (4, 8, 16)
HIDDEN = 3  # hidden-to-hidden layers


def photos(size: int) -> list[Signal]:
    """Eight central squares, then eight squares at the left or top end."""
    files = sorted(PHOTOS.glob("*.png"))
    signals = [shrunk(file, size) for file in files]
    for file in files:
        corner = image(file).arranged()[:256, :256].movedim(-1, 0)[None]
        signals.append(Signal.on_grid(interpolate(corner, (size, size), mode="area")[0].movedim(0, -1)))
    return signals


def parameters(fields: list[Field]) -> int:
    return sum(p.numel() for field in fields for p in field.parameters())


def separate(count: int, width: int) -> list[Field]:
    return [
        Field(2, 3, hidden_features=width, hidden_layers=HIDDEN + 1, activation=Quad(), seed=seed)
        for seed in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 48), ("steps", 600), ("width", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    schedule = Schedule(steps=options.steps, check_every=options.steps, learning_rate=2e-3)
    every, begun, rows = photos(options.size), time.monotonic(), []
    new = sample_photo("flower").arranged()[53:373, :320].movedim(-1, 0)[None]
    added = Signal.on_grid(interpolate(new, (options.size, options.size), mode="area")[0].movedim(0, -1))
    for count in COUNTS:
        signals, budget = every[:count], 0

        def noted(name: str, psnr: list[float], stored: int, start: float, count: int = count) -> None:
            row = {
                "photos": count,
                "way": name,
                "parameters": stored,
                "psnr": statistics.mean(psnr),
                "spread": statistics.stdev(psnr),
                "psnr_of_photos": psnr,
                "seconds": round(time.perf_counter() - start, 1),
            }
            rows.append(row)
            print(
                f"{count:3} {name:9} {stored:8} {row['psnr']:6.2f} ± {row['spread']:.2f}, {row['seconds']} s",
                flush=True,
            )

        for name, projections in (("shared", 1), ("bare", 0)):
            start = time.perf_counter()
            album = SharedField(
                count,
                2,
                3,
                hidden_features=options.width,
                shared_layers=HIDDEN,
                projections=projections,
                activation=Quad(),
            )
            fit_shared(album, signals, schedule=schedule)
            counts = album.parameter_counts()
            noted(name, album.psnr(signals), counts["total"], start)
            if projections:
                budget = counts["total"]
                before = album.psnr(signals)
                rows[-1]["added_with_the_shared_part_frozen"] = add_images(album, [added], schedule=schedule)[0].psnr
                assert [album.field(i).psnr(signal) for i, signal in enumerate(signals)] == before
        narrow = max(w for w in range(1, options.width) if parameters(separate(count, w)) <= budget)
        for name, width in (("separate", options.width), ("equal", narrow)):
            start = time.perf_counter()
            fields = separate(count, width)
            fits = fit_many(fields, signals, schedule=schedule)
            noted(name, [result.psnr for result in fits], parameters(fields), start)
            rows[-1]["width"] = width
    alone = fit_many(separate(1, options.width), [added], schedule=schedule)[0].psnr
    print(f"the added photo alone: {alone:.2f} dB")
    result = {
        "command": "python benchmarks/minr.py "
        + " ".join(f"--{name} {value}" for name, value in vars(options).items()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "seeds": [0],
        "seconds": round(time.monotonic() - begun, 1),
        "added_photo_alone": alone,
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
