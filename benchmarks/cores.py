"""What more cores are worth: 1, 2, 4, 8 and 16 threads, as far as there are cores.

Solver (`TritPlanes`; the torch solver beside it on one and two threads), product with a packed matrix (one token and a
prompt), a splat training step at 128 x 96 and at 512 x 384, a step of a field, and all of `TritPlanes` on a zoo model.
Every count of threads has a process of its own; counts take turns, and the best of the rounds is kept, of the
wall clock's and of the processor's time. On a busy machine the latter says more; the load is in the result.

    python -m benchmarks run cores
"""

import functools
import os
import resource
import time
from collections.abc import Callable

import torch

from benchmarks.harness import Result, Value, in_own_process, in_turns, rows
from hardy.core.rng import generator
from hardy.evaluate import ssim
from hardy.fields import Field
from hardy.ops import kernels
from hardy.ops.trit_matrix import pack
from hardy.ops.trit_product import trit_product
from hardy.ops.trits import fit_trits
from hardy.quant import TritPlanes
from hardy.splat import rasterization
from hardy.zoo import load

COUNTS = (1, 2, 4, 8, 16)
ROUNDS = 3
WEIGHTS = 2**19  # for the solver; the torch solver gets a quarter


def timed(call: Callable[[], object], least: float = 0.5) -> dict[str, float]:
    """The best of several calls in `least` seconds, and the processor's seconds of a call."""
    call()
    best, spent, calls, begun = float("inf"), processor_seconds(), 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begun < least:
        before = time.perf_counter()
        call()
        best, calls = min(best, time.perf_counter() - before), calls + 1
    return {"seconds": best, "processor_seconds": (processor_seconds() - spent) / calls}


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def solver(planes: int, path: str) -> dict[str, float]:

    count = (WEIGHTS // 4 if path else WEIGHTS) // 128
    groups = torch.randn(count, 128, generator=generator(0, "cores"))
    os.environ[kernels.VARIABLE] = path
    found = timed(lambda: fit_trits(groups, torch.tensor([128.0]), planes))
    del os.environ[kernels.VARIABLE]
    return {name: value / (groups.numel() / 1e6) for name, value in found.items()}


def product(tokens: int) -> dict[str, float]:

    random = generator(0, "cores")
    trits = torch.randint(-1, 2, (2, 4096, 32, 128), generator=random, dtype=torch.int8)
    matrix = pack(trits, torch.rand(2, 4096, 32, 1, generator=random).half().float(), 4096)
    x = torch.randn(tokens, 4096, generator=random)
    return timed(lambda: trit_product(x, matrix))


def splat_case(points: int, width: int, height: int, device: str = "cpu") -> tuple[list[torch.Tensor], ...]:
    """Random Gaussians before a camera at the origin, as leaves; its pose and intrinsics, and a picture to reach."""
    random = generator(0, "cores", points)
    parameters = [
        torch.randn(points, 3, generator=random) * 2 + torch.tensor([0.0, 0.0, 8.0]),
        torch.randn(points, 4, generator=random),
        torch.rand(points, 3, generator=random) * 0.05 + 0.01,
        torch.rand(points, generator=random),
        torch.rand(points, 3, generator=random),
    ]
    focal = 1.2 * width
    k = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    fixed = [torch.eye(4)[None], k, torch.rand(1, height, width, 3, generator=random)]
    return [each.to(device).requires_grad_() for each in parameters], [each.to(device) for each in fixed]


def splat(points: int, width: int, height: int) -> dict[str, float]:
    """A step: forward and backward of the rasterizer, the loss with SSIM, the optimizer."""
    parameters, (view, k, wanted) = splat_case(points, width, height)
    optimizer = torch.optim.Adam(parameters, lr=1e-5, fused=True)

    def step() -> None:
        image = rasterization(*parameters, view, k, width, height)[0]
        loss = (image - wanted).abs().mean() + 1 - ssim(image[0], wanted[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return timed(step)


def field() -> dict[str, float]:

    model = Field(2, 3, hidden_features=256, activation="quad")
    coordinates = torch.rand(128 * 128, 2)
    wanted = torch.rand(128 * 128, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        loss = (model(coordinates) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return timed(step)


def quantize() -> dict[str, float]:

    model, _ = load("tiny-llama")
    return timed(lambda: TritPlanes(planes=2).apply(model).undo())


CASES: dict[str, Callable[[], dict[str, float]]] = {
    **{f"solver, {planes} planes": functools.partial(solver, planes, "") for planes in (1, 2, 3)},
    **{f"solver in torch, {planes} planes": functools.partial(solver, planes, "torch") for planes in (1, 2, 3)},
    "product 4096 x 4096, one token": functools.partial(product, 1),
    "product 4096 x 4096, 512 tokens": functools.partial(product, 512),
    "splat step, 128 x 96": functools.partial(splat, 10_000, 128, 96),
    "splat step, 512 x 384": functools.partial(splat, 50_000, 512, 384),
    "field step, 256 wide": field,
    "quantize tiny-llama": quantize,
}


def measured(threads: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(threads)
    return {name: case() for name, case in CASES.items() if threads <= 2 or "torch" not in name}


def run() -> Result:
    counts = [count for count in COUNTS if count <= (os.cpu_count() or 1)]
    contenders = {str(count): functools.partial(in_own_process, measured, count, threads=count) for count in counts}
    runs = in_turns(contenders, rounds=ROUNDS, warm_up=0)
    best = {
        (name, int(count)): {key: min(each[name][key] for each in found) for key in found[0][name]}
        for count, found in runs.items()
        for name in found[0]
    }
    found = []
    for (name, count), times in best.items():
        torch_times = best.get((name.replace("solver,", "solver in torch,"), count)) if "solver," in name else None
        ratios = {f"torch_{key}_of_compiled": torch_times[key] / times[key] for key in times} if torch_times else {}
        speedup = best[name, 1]["seconds"] / times["seconds"]
        unit = "s per million weights" if "solver" in name else "s"
        values = {key: Value(value, unit, n=ROUNDS) for key, value in times.items()}
        found += rows(name, {"threads": count}, times_one_thread=speedup, **values, **ratios)
        shown = "".join(f", {key} {value:.1f}" for key, value in ratios.items())
        print(f"{name:34}{count:3} threads {1e3 * times['seconds']:10.2f} ms  x {speedup:.2f}{shown}", flush=True)
    return Result(
        rows=found,
        settings={"path": kernels.path(), "counts": counts},
        seeds=(0,),
        notes=[
            f"not measured: {count} threads, this machine has {os.cpu_count()} cores" for count in COUNTS[len(counts) :]
        ],
    )
