"""Fits per minute: many SIRENs in one batch, one after the other, and siren-pytorch.

The same work for all: N photos, full-batch Adam, the same sizes and number of steps; random halves of the photographs
that scikit-learn brings along; and the cost of a fit against N, at the smallest size. The three take turns in every
round, on one thread, so that whatever else the machine does falls on all of them; rates are of the best round and of
the median one. The batch exists for accelerators, where N small products cost what one costs; on a CPU it saves only
the overhead of each operation.

    pip install siren-pytorch && python -m benchmarks run fits
"""

import statistics
from collections.abc import Callable

import torch
from siren_pytorch import SirenNet

from benchmarks.harness import Result, Value, in_turns, rows, timed
from hardy.fields import Field, Schedule, Signal, Sine, fit, fit_many, sample_photo

PEERS = ("siren-pytorch",)
ROUNDS = 5
# Pixels on a side, units of a layer, photos, steps.
SIZES = ((16, 16, 32, 100), (32, 32, 16, 60), (64, 48, 8, 40))
COUNTS = (1, 2, 4, 8, 16, 64)  # photos of 16 x 16
RATE = 1e-3


def photos(size: int, count: int) -> list[Signal]:
    """Crops of `size` x `size` pixels, evenly over both photos."""
    whole = [sample_photo(name).arranged() for name in ("china", "flower")]
    starts = torch.linspace(0, 427 - size, (count + 1) // 2).long().tolist()
    crops = [picture[start : start + size, start : start + size] for start in starts for picture in whole]
    return [Signal.on_grid(crop) for crop in crops[:count]]


def ways(size: int, width: int, count: int, steps: int) -> dict[str, Callable[[], float]]:
    """What is compared: each fits all photos and gives their mean PSNR."""
    signals = photos(size, count)
    schedule = Schedule(steps=steps, learning_rate=RATE, decay=1.0, check_every=steps)
    kind = Sine(first_omega=30.0, hidden_omega=30.0)

    def fields() -> list[Field]:
        return [Field(2, 3, hidden_features=width, activation=kind, seed=seed) for seed in range(count)]

    def batch() -> float:
        return statistics.mean(result.psnr for result in fit_many(fields(), signals, schedule=schedule))

    def loop() -> float:
        pairs = zip(fields(), signals, strict=True)
        return statistics.mean(fit(field, signal, schedule=schedule).psnr for field, signal in pairs)

    def peer() -> float:
        found = []
        for seed, signal in enumerate(signals):
            torch.manual_seed(seed)
            net = SirenNet(dim_in=2, dim_hidden=width, dim_out=3, num_layers=3, w0=30.0, w0_initial=30.0)
            adam = torch.optim.Adam(net.parameters(), lr=RATE)
            for _ in range(steps):
                adam.zero_grad()
                torch.nn.functional.mse_loss(net(signal.coordinates), signal.values).backward()
                adam.step()
            with torch.no_grad():
                found.append(signal.psnr(net(signal.coordinates)))
        return statistics.mean(found)

    return {"hardy, one batch": batch, "hardy, one by one": loop, "siren-pytorch, one by one": peer}


def compared(contenders: dict[str, Callable[[], float]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds in every round, and PSNR."""
    psnr: dict[str, float] = {}

    def noting(name: str, work: Callable[[], float]) -> Callable[[], None]:
        return lambda: psnr.__setitem__(name, work())

    return in_turns({name: timed(noting(name, work)) for name, work in contenders.items()}, rounds=ROUNDS), psnr


def run() -> Result:
    found, curve = [], []
    for count in COUNTS:
        seconds, _ = compared(ways(16, 16, count, 50))
        for name, times in seconds.items():
            best, median = (Value(1e3 * pick(times) / count, "ms", n=ROUNDS) for pick in (min, statistics.median))
            curve += rows(name, {"photos": count, "steps": 50}, ms_per_fit_best=best, ms_per_fit_median=median)
        shown = "  ".join(f"{name} {1e3 * min(times) / count:.0f}" for name, times in seconds.items())
        print(f"{count} photos of 16 x 16, ms for a fit: {shown}", flush=True)
    for size, width, count, steps in SIZES:
        seconds, psnr = compared(ways(size, width, count, steps))
        print(f"{count} photos of {size} x {size}, three layers of {width}, {steps} steps")
        peer = seconds["siren-pytorch, one by one"]
        for name, times in seconds.items():
            best, median = min(times), statistics.median(times)
            found += rows(
                name,
                {"pixels": size, "width": width, "photos": count, "steps": steps},
                fits_per_minute_best=Value(60 * count / best, "fits/min", n=ROUNDS),
                fits_per_minute_median=Value(60 * count / median, "fits/min", n=ROUNDS),
                times_siren_pytorch_best=min(peer) / best,
                times_siren_pytorch_median=statistics.median(peer) / median,
                psnr=Value(psnr[name], "dB"),
            )
            print(
                f"  {name:28} {60 * count / best:7.1f} fits per minute, {min(peer) / best:.2f} x (best), "
                f"{statistics.median(peer) / median:.2f} x (median), {psnr[name]:.2f} dB",
                flush=True,
            )
    return Result(rows=[*found, *curve], settings={"rounds": ROUNDS}, seeds=range(64))
