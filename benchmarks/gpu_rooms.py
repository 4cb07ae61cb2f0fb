"""What splats, chips and fields cost on a GPU, each beside the peer that a user would take; parts of `gpu`.

Every function takes the device, so that the same lines run on a CPU, small, in a test. Times are medians of calls that
wait for the device, launches included: none of this is captured in a graph.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.cores import splat_case
from benchmarks.harness import Value, rows
from hardy.analog import Deploy
from hardy.evaluate import ssim
from hardy.fields import Field
from hardy.hardware import AdditiveNoise
from hardy.report import Row
from hardy.splat import rasterization


def milliseconds(act: Callable[[], object], device: str, repetitions: int = 20) -> float:
    """Of a call, the median, everything on the device done."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3):
        act()
    found = []
    for _ in range(repetitions):
        wait()
        begun = time.perf_counter()
        act()
        wait()
        found.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(found)


def beside(found: Mapping[str, float], peer: str, **details: Any) -> list[Row]:
    """Rows of times, each with its ratio to that of `peer`, where that was measured."""
    lines = []
    for name, value in found.items():
        ratio = value / found[peer] if peer in found else None
        lines += rows(name, details, baseline=peer, milliseconds=Value(value, "ms"), of_peer=ratio)
        print(f"{name:44}{value:10.3f} ms" + ("" if ratio is None else f"{ratio:8.2f} x {peer}"), flush=True)
    return lines


def splats(device: str = "cuda", count: int = 200_000, width: int = 1280, height: int = 720) -> list[Row]:
    """Rasterizing there and back, and a step of training: with SSIM and Adam, by hand on gsplat and on hardy."""
    parameters, (view, k, wanted) = splat_case(count, width, height, device)
    render: dict[str, Callable[..., Any]] = {"hardy": rasterization}
    if importlib.util.find_spec("gsplat") is not None and device == "cuda":
        import gsplat  # pyright: ignore[reportMissingImports]

        render = {"gsplat": gsplat.rasterization, **render}
    times: dict[str, dict[str, float]] = {"rasterize, forward and backward": {}, "a step of training": {}}
    for name, rasterize in render.items():
        optimizer = torch.optim.Adam(parameters, lr=1e-5, fused=True)

        def there_and_back(rasterize: Callable[..., Any] = rasterize) -> None:
            rasterize(*parameters, view, k, width, height)[0].backward(wanted)
            for each in parameters:
                each.grad = None

        def step(rasterize: Callable[..., Any] = rasterize, optimizer: Any = optimizer) -> None:
            image = rasterize(*parameters, view, k, width, height)[0]
            (0.8 * (image - wanted).abs().mean() + 0.2 * (1 - ssim(image[0], wanted[0]))).backward()
            optimizer.step()
            optimizer.zero_grad()

        times["rasterize, forward and backward"][name] = milliseconds(there_and_back, device)
        times["a step of training"][name] = milliseconds(step, device)
    found = []
    for work, of in times.items():
        named = {f"{name}: {work}": value for name, value in of.items()}
        found += beside(named, f"gsplat: {work}", gaussians=count, width=width, height=height)
    return found


def chips(device: str = "cuda", width: int = 4096, tokens: int = 64) -> list[Row]:
    """A layer on a chip, forward and backward, in float32 and bfloat16."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        times = {}
        for chip in (None, "ideal", "pcm", "reram-wan"):
            torch.manual_seed(0)
            layer = nn.Sequential(nn.Linear(width, width, bias=False)).to(device, dtype)
            x = torch.randn(tokens, width, device=device, dtype=dtype)
            if chip is not None:
                Deploy(chip=chip, select="linear", seed=0).apply(layer, [x])

            def both_ways(layer: nn.Module = layer, x: torch.Tensor = x) -> None:
                layer(x.detach().requires_grad_()).sum().backward()
                layer.zero_grad()

            name = "nn.Linear" if chip is None else f"on {chip}"
            times[f"{name}, {str(dtype).removeprefix('torch.')}"] = milliseconds(both_ways, device)
        found += beside(times, next(iter(times)), width=width, tokens=tokens)
    return found


def noise(device: str = "cuda", width: int = 4096) -> list[Row]:
    """Noise on a matrix, drawn, added and taken back, beside as many random numbers."""
    model = nn.Sequential(nn.Linear(width, width, bias=False)).to(device)
    weight: Any = model[0].weight
    method = AdditiveNoise(strength=0.05, select="linear", seed=0)
    times = {
        "torch.randn_like": milliseconds(lambda: torch.randn_like(weight), device),
        "additive noise, applied and undone": milliseconds(lambda: method.apply(model).undo(), device),
    }
    return beside(times, "torch.randn_like", weights=width * width)


def fields(device: str = "cuda", side: int = 256, width: int = 256) -> list[Row]:
    """A step of a field over all points of a picture: the quadratic unit beside the sine."""
    coordinates, wanted = torch.rand(side * side, 2, device=device), torch.rand(side * side, 3, device=device)
    times = {}
    for activation in ("sine", "quad"):
        torch.manual_seed(0)
        model = Field(2, 3, hidden_features=width, activation=activation).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def step(model: nn.Module = model, optimizer: Any = optimizer) -> None:
            (model(coordinates) - wanted).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        times[f"a step of a field, {activation}"] = milliseconds(step, device)
    return beside(times, "a step of a field, sine", points=side * side, width=width)


PARTS: dict[str, Callable[[], list[Row]]] = {"splats": splats, "chips": chips, "noise": noise, "fields": fields}
