"""Photos of 256 x 256 in networks of sines, siren-pytorch's among them, and in hash grids of as many numbers.

The central squares of Kodak 1-3, 300 steps of 2048 drawn points, learning rates falling tenfold from one of three,
chosen on another photograph in half the steps. Networks have three layers of 144, a hash grid two of 32 behind tables
that make it as many numbers, or almost three times as many. Photographs take turns. Seconds are those of a processor;
those to 30 dB go by the checks, every 30 steps.

    pip install siren-pytorch && python -m benchmarks run hash_grid
"""

import time
from collections.abc import Callable

import torch
from siren_pytorch import SirenNet

from benchmarks.fields import choosing, photographs, shrunk
from benchmarks.harness import Result, mean_of, rows
from hardy.fields import Field, HashGrid, Quad, Signal, fit
from hardy.report import Row

PEERS = ("siren-pytorch",)
SIDE, WIDTH, STEPS, POINTS, CHECK, TARGET = 256, 144, 300, 2048, 30, 30.0
SIREN_RATES, GRID_RATES = (3e-4, 1e-3, 3e-3), (3e-3, 1e-2, 3e-2)
Found = dict[str, list[float]]


def of_field(make: Callable[[], Field]) -> Callable[[Signal, float, int], Found]:
    def fitted(signal: Signal, rate: float, steps: int) -> Found:
        field, begun = make(), time.process_time()
        made = fit(field, signal, steps=steps, points=POINTS, check_every=CHECK, learning_rate=rate)
        seconds = time.process_time() - begun
        return noted(field, [psnr for _, psnr in made.history[1:]], seconds)

    return fitted


def of_peer(signal: Signal, rate: float, steps: int) -> Found:
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


def noted(model: torch.nn.Module, checks: list[float], seconds: float) -> Found:
    return {"checks": checks, "seconds": [seconds], "parameters": [sum(p.numel() for p in model.parameters())]}


def grid(table_size: int) -> Callable[[], Field]:
    encoding = HashGrid(levels=8, table_size=table_size, coarsest=16, finest=SIDE)
    return lambda: Field(2, 3, hidden_features=32, hidden_layers=2, activation="relu", encoding=encoding)


def large() -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Rows of each way to fit a photo of 256 x 256, at its best learning rate, and what the rates came to."""
    ways: dict[str, tuple[Callable[[Signal, float, int], Found], tuple[float, ...]]] = {
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
        of_rate = {rate: way(other, rate, STEPS // 2)["checks"][-1] for rate in of}
        tried[name] = {str(rate): round(psnr, 2) for rate, psnr in of_rate.items()}
        best[name] = max(of_rate, key=lambda rate: of_rate[rate])
        print(name, tried[name], flush=True)
    made: dict[str, list[Found]] = {name: [] for name in ways}
    for photo in photos:  # in turns
        for name, (way, _) in ways.items():
            made[name].append(way(photo, best[name], STEPS))
    for name, of_photos in made.items():
        steps = [next((i + 1 for i, psnr in enumerate(each["checks"]) if psnr >= TARGET), None) for each in of_photos]
        seconds = [
            each["seconds"][0] * step * CHECK / STEPS
            for each, step in zip(of_photos, steps, strict=True)
            if step is not None
        ]
        found += rows(
            name,
            {"rate": best[name], "reached": len(seconds)},
            psnr=mean_of([each["checks"][-1] for each in of_photos], "dB"),
            psnr_after_a_fifth=mean_of([each["checks"][1] for each in of_photos], "dB"),
            parameters=of_photos[0]["parameters"][0],
            seconds=mean_of([each["seconds"][0] for each in of_photos], "s"),
            seconds_to_30_db=mean_of(seconds, "s") if seconds else None,
        )
        print(name, [round(each["checks"][-1], 2) for each in of_photos], of_photos[0]["seconds"], flush=True)
    return found, tried


def run() -> Result:
    found, tried = large()
    return Result(rows=found, settings={"rates_tried": tried}, seeds=(0,))
