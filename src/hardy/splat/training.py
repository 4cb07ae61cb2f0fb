"""Training Gaussians on posed photos.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (arXiv 2308.04079), with gsplat's layout: one Adam for
each parameter, and a strategy that may change the set of Gaussians after each step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.splat import checkpoint, memory
from hardy.splat.options import Options
from hardy.splat.ply import NAMES, Parameters, check_gaussians, load_ply, save_ply
from hardy.splat.points import check_ahead, gaussians_from
from hardy.splat.quality import Quality, evaluate, render_view, view_loss
from hardy.splat.scene import Scene, View
from hardy.splat.strategies import Densification, Mcmc, vanilla

__all__ = ["Options", "Quality", "Training", "evaluate", "render_view", "train", "view_loss"]

PLY = "gaussians.ply"
_RATES = {"scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What came out.

    Args:
        parameters: the Gaussians, as `load_ply` gives them.
        state: of the strategy, with each Gaussian's lineage: "origin", "home", "splits", "clones".
        history: at each evaluation step, seconds of training so far, gaussians, psnr and ssim of the held-out views (or
            of the training views, where none are held out), and pairs of pixel and Gaussian looked at so far.
        seconds: of training, without evaluation.
    """

    parameters: Parameters
    state: dict[str, Any]
    history: tuple[dict[str, float], ...]
    seconds: float


def train(
    scene: Scene,
    strategy: Densification | Mcmc | None = None,
    *,
    options: Options | None = None,
    start: Parameters | str | Path | None = None,
    out: str | Path | None = None,
    snapshot_every: int = 0,
    device: str | torch.device = "cpu",
) -> Training:
    """Fit Gaussians to a scene's training views.

    With a folder the training can be stopped anywhere: the same call goes on, and ends at the same result to the last
    bit as if it had not been stopped (on the same machine, with the same number of threads).

    Args:
        scene: as `load_scene` gives it.
        strategy: of densification; by default `vanilla(steps)`.
        options: everything else.
        start: Gaussians to go on from, or a PLY file of them; by default the scene's points.
        out: folder for `checkpoint.safetensors` and `gaussians.ply`.
        snapshot_every: steps between renewals of `gaussians.ply` while training, for whoever looks on; 0 for only the
            last. They change nothing.
        device: "cpu" or "cuda"; a checkpoint of one goes on on the other, though not to the same bits.

    Raises:
        InputError: the folder holds another training, the start does not fit, the device is not there, the loss is no
            longer finite, or memory does not suffice; what was trained until then is in the folder.
    """
    options = options or Options()
    strategy = strategy or vanilla(options.steps)
    if snapshot_every < 0 or (snapshot_every and out is None):
        raise InputError(f"snapshot_every must be at least 0 and needs a folder, got {snapshot_every} and {out}")
    device = found_device(device)
    begun = load_ply(start) if isinstance(start, str | Path) else start
    if begun is None:
        begun = gaussians_from(scene, options.degree, options.random_points, options.seed)
    begun = _checked(begun, options, strategy)
    check_ahead(begun["means"], scene.views)
    memory.check_start(len(begun["means"]), strategy.budget, options.degree, scene.views, device)
    scene = scene.to(device)
    params = {name: torch.nn.Parameter(begun[name].to(device, copy=True)) for name in NAMES}
    rates = {"means": options.means_rates[0] * scene.extent, **_RATES}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([params[name]], lr=rates[name], eps=1e-15, fused=True) for name in NAMES
    }
    strategy.check_sanity(params, optimizers)
    state: dict[str, Any] = dict(strategy.initialize_state(scene.extent, [view.image for view in scene.views]))
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "pairs": 0, "history": []}
    settings = {
        "strategy": repr(strategy),
        "options": dataclasses.asdict(options),
        "scene": _fingerprint([view.image for view in scene.views] + [view.viewmat for view in scene.views]),
        "start": _fingerprint(list(begun.values())),
    }
    file = None if out is None else Path(out) / checkpoint.NAME
    if file is not None and file.is_file():
        progress = checkpoint.load(file, settings, params, optimizers, state)

    def save_snapshot() -> None:
        if out is not None:
            save_ply(params, Path(out) / PLY)  # pyright: ignore[reportArgumentType]

    if snapshot_every:
        save_snapshot()
    sizes: dict[int, tuple[View, ...]] = {1: scene.views}
    degree_every = options.degree_every or max(1, options.steps // 30)
    judged = scene.held_out or scene.views
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("train", total=options.steps, completed=progress["step"])
        for step in range(progress["step"], options.steps):
            clock = time.perf_counter()
            factor = strategy.factor(state, step)
            if factor not in sizes:
                sizes = {1: scene.views, factor: tuple(view.smaller(factor) for view in scene.views)}
            view = sizes[factor][_order(options.seed, step, len(scene.views))]
            degree = min(options.degree, step // degree_every)
            _set_rate(optimizers["means"], options, scene.extent, step, strategy.full_size_from(state))
            before = len(params["means"])
            with memory.named(step, before, out):
                progress["pairs"] += _step(params, optimizers, strategy, state, step, view, options, degree)
            progress["seconds"] += time.perf_counter() - clock
            progress["step"] = done = step + 1
            if done == options.steps or (options.evaluate_every and done % options.evaluate_every == 0):
                quality = evaluate(params, judged, options, degree)  # pyright: ignore[reportArgumentType]
                row = {"step": done, "seconds": progress["seconds"], "gaussians": len(params["means"])}
                row |= {"psnr": quality.psnr, "ssim": quality.ssim, "pairs": progress["pairs"]}
                progress["history"].append(row)
                bar.update(task, description=f"{quality.psnr:.2f} dB, {len(params['means'])} Gaussians")
            if file is not None and (done == options.steps or done % options.save_every == 0):
                checkpoint.save(file, settings, params, optimizers, state, progress)
            if snapshot_every and done % snapshot_every == 0 and done < options.steps:
                save_snapshot()
            bar.update(task, completed=done)
            short = memory.shortage(before, len(params["means"]), options.degree, device)
            if short and done < options.steps:
                if file is not None:
                    checkpoint.save(file, settings, params, optimizers, state, progress)
                    save_snapshot()
                raise InputError(f"{short}, at step {done}; {_kept(out)}")
    made = {name: params[name].detach() for name in NAMES}
    save_snapshot()
    return Training(parameters=made, state=state, history=tuple(progress["history"]), seconds=progress["seconds"])


def _step(
    params: dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    strategy: Densification | Mcmc,
    state: dict[str, Any],
    step: int,
    view: View,
    options: Options,
    degree: int,
) -> int:
    """One view's step; the pairs of pixel and Gaussian that were looked at."""
    loss, info = view_loss(params, view, options, degree)  # pyright: ignore[reportArgumentType]
    loss = loss + strategy.penalty(params)
    if not bool(torch.isfinite(loss)):
        raise InputError(f"the loss at step {step} is {loss.item()}: a learning rate is too large for this scene")
    strategy.step_pre_backward(params, optimizers, state, step, info)
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    strategy.step_post_backward(params, optimizers, state, step, info)
    return info["pairs"]


def _order(seed: int, step: int, views: int) -> int:
    """The view of a step: all of them once, in random order, then again in another."""
    epoch, place = divmod(step, views)
    return int(torch.randperm(views, generator=generator(seed, "views", epoch), device="cpu")[place])


def _set_rate(optimizer: torch.optim.Optimizer, options: Options, extent: float, step: int, full_from: int) -> None:
    """Exponential from first to last, beginning where images have their full size."""
    first, last = options.means_rates
    share = max(0, step - full_from) / max(1, options.steps - full_from)
    optimizer.param_groups[0]["lr"] = extent * first * (last / first) ** share


def found_device(device: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        InputError: there is no such device, or no GPU.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(f'device must be "cpu" or "cuda", got {str(device)!r}') from None
    if found.type not in ("cpu", "cuda"):
        raise InputError(f'device must be "cpu" or "cuda", got {str(device)!r}')
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"torch finds {torch.cuda.device_count()} GPUs, so there is no device {str(device)!r}")
    return found


def _kept(out: str | Path | None) -> str:
    """What a training that cannot go on says of what it has."""
    if out is None:
        return "nothing is kept, because there is no folder"
    return (
        f"what is trained so far is in {out}: the same call goes on where there is more memory, and another folder "
        f"with start={Path(out) / PLY} and a budget where there is not"
    )


def _checked(begun: Parameters, options: Options, strategy: Densification | Mcmc) -> Parameters:
    check_gaussians(begun, "the Gaussians to start from")
    bases = (options.degree + 1) ** 2 - 1
    count, more = begun["shN"].shape[:2]
    if count < 1:
        raise InputError("there are no Gaussians to start from")
    budget = strategy.budget
    if budget is not None and count > budget:
        raise InputError(f"the training starts with {count} Gaussians, which is above the budget of {budget}")
    if more < bases:  # as after a change of degree: what there is no coefficient for starts at zero
        begun = begun | {"shN": torch.cat([begun["shN"], begun["shN"].new_zeros(count, bases - more, 3)], 1)}
    return begun | {"shN": begun["shN"][:, :bases]}


def _fingerprint(tensors: list[torch.Tensor]) -> str:
    """A short name of exactly these numbers."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
