"""Many photos in one network: parameters and PSNR.

N = 4, 8, 16 photos: the central squares of Kodak 1-8 as in fields.py, for 16 the left and right thirds of them beside
(crops of one photograph have more in common than two photographs). Networks of three hidden-to-hidden layers, quad:

  shared       own input layer, projection and output; the three hidden layers shared (MINR)
  bare         own input and output layers only: no projection
  separate     a network for each photo, of the same width
  equal        a network for each photo, narrower: as many parameters in all as `shared` has

All have the same steps and learning rate, 2e-3 (of 1e-3, 2e-3, 5e-3 the one chosen for the codec on scikit-learn's
photographs). PSNR, mean and spread over photos; and one more photo added with the shared part frozen.

    python -m benchmarks run minr [--size 48] [--steps 600] [--width 48]
"""

import time

from torch.nn.functional import interpolate

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import Result, Value, mean_of, rows
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

COUNTS = (4, 8, 16)
HIDDEN = 3  # hidden-to-hidden layers


def photos(size: int) -> list[Signal]:
    """Eight central squares, then eight squares at the left or top end."""
    files = photographs()
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


def run(*, size: int = 48, steps: int = 600, width: int = 48) -> Result:
    schedule = Schedule(steps=steps, check_every=steps, learning_rate=2e-3)
    every, found, raw = photos(size), [], []
    new = sample_photo("flower").arranged()[53:373, :320].movedim(-1, 0)[None]
    added = Signal.on_grid(interpolate(new, (size, size), mode="area")[0].movedim(0, -1))
    for count in COUNTS:
        signals, budget = every[:count], 0

        def noted(name: str, psnr: list[float], stored: int, seconds: float, count: int = count, **more: float) -> None:
            mean = mean_of(psnr, "dB")
            extra = {key: Value(value, "dB") for key, value in more.items()}
            found.extend(
                rows(name, {"photos": count}, psnr=mean, parameters=stored, seconds=Value(seconds, "s"), **extra)
            )
            raw.append({"photos": count, "way": name, "psnr_of_photos": psnr})
            print(f"{count:3} {name:9} {stored:8} {mean.value:6.2f} ± {mean.spread:.2f}, {seconds:.1f} s", flush=True)

        for name, projections in (("shared", 1), ("bare", 0)):
            start = time.perf_counter()
            album = SharedField(
                count,
                2,
                3,
                hidden_features=width,
                shared_layers=HIDDEN,
                projections=projections,
                activation=Quad(),
            )
            fit_shared(album, signals, schedule=schedule)
            total, before, more = album.parameter_counts()["total"], album.psnr(signals), {}
            seconds = time.perf_counter() - start
            if projections:
                budget = total
                psnr = add_images(album, [added], schedule=schedule)[0].psnr
                more = {"added_with_the_shared_part_frozen": psnr}
                assert [album.field(i).psnr(signal) for i, signal in enumerate(signals)] == before
            noted(name, before, total, seconds, **more)
        narrow = max(w for w in range(1, width) if parameters(separate(count, w)) <= budget)
        for name, units in (("separate", width), ("equal", narrow)):
            start = time.perf_counter()
            fields = separate(count, units)
            fits = fit_many(fields, signals, schedule=schedule)
            noted(name, [result.psnr for result in fits], parameters(fields), time.perf_counter() - start)
            found.extend(rows(name, {"photos": count}, width=units))
    alone = fit_many(separate(1, width), [added], schedule=schedule)[0].psnr
    found += rows("the added photo alone", psnr=Value(alone, "dB"))
    print(f"the added photo alone: {alone:.2f} dB")
    return Result(rows=found, seeds=(0,), raw=raw)
