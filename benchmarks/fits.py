"""Fits beside siren-pytorch: many small photos in one batch, and photos of 256 x 256, where a hash grid fits too.

Small: the same work for all: N photos, full-batch Adam, the same sizes and number of steps; random halves of the
photographs that scikit-learn brings along; and the cost of a fit against N, at the smallest size. The three take turns
in every round, on one thread, so that whatever else the machine does falls on all of them; rates are of the best round
and of the median one. The batch exists for accelerators, where N small products cost what one costs; on a CPU it saves
only the overhead of each operation.

Large: the central squares of Kodak 1-3 at 256 x 256, 400 steps of 2048 drawn points, learning rates falling tenfold
from one of three, chosen on another photograph in half the steps. Networks have three layers of 144, a hash grid two of
32 behind tables that make it as many numbers, or almost three times as many. Seconds are those of a processor.

    pip install siren-pytorch && python -m benchmarks run fits
"""

import statistics
import time
from collections.abc import Callable

import torch
from siren_pytorch import SirenNet

from benchmarks.fields import choosing, photographs, shrunk
from benchmarks.harness import Result, Value, in_turns, mean_of, rows, timed
from hardy.fields import Field, HashGrid, Quad, Schedule, Signal, Sine, fit, fit_many, sample_photo
from hardy.report import Row

PEERS = ("siren-pytorch",)
ROUNDS = 3
# Pixels on a side, units of a layer, photos, steps.
SIZES = ((16, 16, 32, 100), (32, 32, 16, 60), (64, 48, 8, 40))
COUNTS = (1, 4, 16, 64)  # photos of 16 x 16
RATE = 1e-3
# The photos of 256 x 256.
SIDE, WIDTH, LARGE_STEPS, POINTS, CHECK, TARGET = 256, 144, 400, 2048, 40, 30.0
SIREN_RATES, GRID_RATES = (3e-4, 1e-3, 3e-3), (3e-3, 1e-2, 3e-2)
Large = dict[str, list[float]]


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


def of_field(make: Callable[[], Field]) -> Callable[[Signal, float, int], Large]:
    def fitted(signal: Signal, rate: float, steps: int) -> Large:
        field, begun = make(), time.process_time()
        made = fit(field, signal, steps=steps, points=POINTS, check_every=CHECK, learning_rate=rate)
        seconds = time.process_time() - begun
        return noted(field, [psnr for _, psnr in made.history[1:]], seconds)

    return fitted


def of_peer(signal: Signal, rate: float, steps: int) -> Large:
    torch.manual_seed(0)
    net = SirenNet(dim_in=2, dim_hidden=WIDTH, dim_out=3, num_layers=3, w0=30.0, w0_initial=30.0)
    begun, checks = time.process_time(), []
    adam = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    for step in range(steps):
        drawn = torch.randint(len(signal.values), (POINTS,))
        adam.param_groups[0]["lr"] = rate * 0.1 ** (step / steps)
        adam.zero_grad()
        torch.nn.functional.mse_loss(net(signal.coordinates[drawn]), signal.values[drawn]).backward()
        adam.step()
        if (step + 1) % CHECK == 0:
            with torch.no_grad():
                checks.append(signal.psnr(net(signal.coordinates)))
    return noted(net, checks, time.process_time() - begun)


def noted(model: torch.nn.Module, checks: list[float], seconds: float) -> Large:
    return {"checks": checks, "seconds": [seconds], "parameters": [sum(p.numel() for p in model.parameters())]}


def grid(table_size: int) -> Callable[[], Field]:
    encoding = HashGrid(levels=8, table_size=table_size, coarsest=16, finest=SIDE)
    return lambda: Field(2, 3, hidden_features=32, hidden_layers=2, activation="relu", encoding=encoding)


def large() -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Rows of each way to fit a photo of 256 x 256, at its best learning rate, and what the rates came to."""
    ways: dict[str, tuple[Callable[[Signal, float, int], Large], tuple[float, ...]]] = {
        "siren-pytorch": (of_peer, SIREN_RATES),
        "hardy, sine": (of_field(lambda: Field(2, 3, hidden_features=WIDTH)), SIREN_RATES),
        "hardy, quad": (of_field(lambda: Field(2, 3, hidden_features=WIDTH, activation=Quad())), SIREN_RATES),
        "hardy, hash grid": (of_field(grid(2**12)), GRID_RATES),
        "hardy, hash grid, larger": (of_field(grid(2**14)), GRID_RATES),
    }
    other, found, tried = choosing(SIDE)[0], [], {}
    photos = [shrunk(file, SIDE) for file in photographs(3)]
    best: dict[str, float] = {}
    for name, (way, of) in ways.items():
        of_rate = {rate: way(other, rate, LARGE_STEPS // 2)["checks"][-1] for rate in of}
        tried[name] = {str(rate): round(psnr, 2) for rate, psnr in of_rate.items()}
        best[name] = max(of_rate, key=lambda rate: of_rate[rate])
        print(name, tried[name], flush=True)
    made: dict[str, list[Large]] = {name: [] for name in ways}
    for photo in photos:  # in turns
        for name, (way, _) in ways.items():
            made[name].append(way(photo, best[name], LARGE_STEPS))
    for name, of_photos in made.items():
        steps = [next((i + 1 for i, psnr in enumerate(each["checks"]) if psnr >= TARGET), None) for each in of_photos]
        seconds = [
            each["seconds"][0] * step * CHECK / LARGE_STEPS
            for each, step in zip(of_photos, steps, strict=True)
            if step is not None
        ]
        found += rows(
            name,
            {"pixels": SIDE, "rate": best[name], "reached": len(seconds)},
            psnr=mean_of([each["checks"][-1] for each in of_photos], "dB"),
            psnr_after_a_fifth=mean_of([each["checks"][1] for each in of_photos], "dB"),
            parameters=of_photos[0]["parameters"][0],
            seconds=mean_of([each["seconds"][0] for each in of_photos], "s"),
            seconds_to_30_db=mean_of(seconds, "s") if seconds else None,
        )
        print(name, [round(each["checks"][-1], 2) for each in of_photos], of_photos[0]["seconds"], flush=True)
    return found, tried


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
    of_large, tried = large()
    return Result(rows=[*found, *curve, *of_large], settings={"rounds": ROUNDS, "rates_tried": tried}, seeds=range(64))
