"""Training Gaussians on posed photos.

"3D Gaussian Splatting for Real-Time Radiance Field Rendering" (arXiv 2308.04079), with gsplat's layout: one Adam for
each parameter, and a strategy that may change the set of Gaussians after each step.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.devices import device_of
from hardy.errors import InputError
from hardy.reading import reading
from hardy.runs.checkpoint import Checkpoint, digest, read
from hardy.runs.progress import progress
from hardy.splat import memory
from hardy.splat.options import Options
from hardy.splat.ply import NAMES, Parameters, check_gaussians, load_ply, save_ply
from hardy.splat.points import check_ahead, gaussians_from
from hardy.splat.quality import Quality, evaluate, render_view, view_loss
from hardy.splat.scene import Scene, View
from hardy.splat.strategies import Strategy, of_gsplat, vanilla

__all__ = ["Options", "Quality", "Training", "evaluate", "render_view", "train", "view_loss"]

PLY, CHECKPOINT, KIND = "gaussians.ply", "checkpoint.safetensors", "training of Gaussians"
Loss = Callable[[Parameters, View, Options, int], tuple[torch.Tensor, dict[str, Any]]]
_LOOKED_AT = 100
"""Steps after which it is seen on a GPU whether the loss is still finite, which waits for it; what is stored is."""
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
        step: that it has come to.
        pairs: of pixel and Gaussian looked at so far.
        moments: of the optimizers, by parameter, with which another training goes on from this one.
    """

    parameters: Parameters
    state: dict[str, Any]
    history: tuple[dict[str, float], ...]
    seconds: float
    step: int = 0
    pairs: int = 0
    moments: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """What `train` left in a folder, finished or not.

        Raises:
            InputError: there is no checkpoint of a training, or it is damaged.
        """
        file = Path(folder) / CHECKPOINT
        if not file.is_file():
            raise InputError(f"{folder} holds no training: there is no {CHECKPOINT}")
        _, saved = read(file, KIND)
        with reading(file):
            record = {name: saved["record"][name] for name in ("step", "seconds", "pairs")}
            parameters = {name: saved["params"][name] for name in NAMES}
            history = tuple(saved["record"]["history"])
            moments = {name: saved["moments"][name] for name in NAMES}
            return cls(parameters=parameters, state=saved["state"], history=history, moments=moments, **record)


def train(
    scene: Scene,
    strategy: Strategy | None = None,
    *,
    options: Options | None = None,
    start: Parameters | Training | str | Path | None = None,
    until: int | None = None,
    loss: Loss = view_loss,
    out: str | Path | None = None,
    snapshot_every: int = 0,
    device: str | torch.device = "cpu",
) -> Training:
    """Fit Gaussians to a scene's training views.

    With a folder the training can be stopped anywhere: the same call goes on, and ends at the same result to the last
    bit as if it had not been stopped (on the same machine, with the same number of threads).

    Args:
        scene: as `load_scene` gives it.
        strategy: of densification, one of gsplat's included; by default `vanilla(steps)`.
        options: everything else.
        start: Gaussians to begin with, or a PLY file of them, by default the scene's points; or another training (the
            folder of one, too), which goes on at its step with its optimizers and the state of its strategy, even on
            other photos.
        until: the step to stop after, of the schedule of `options.steps`; by default the last.
        loss: `loss(parameters, view, options, sh_degree)` -> what a step lowers, and the info of the rasterizer.
        out: folder for `checkpoint.safetensors` and `gaussians.ply`.
        snapshot_every: steps between renewals of `gaussians.ply` while training, for whoever looks on; 0 for only the
            last. They change nothing.
        device: "cpu", "cuda", or "auto" (`splat_device`); a checkpoint of one goes on on the other, though not to the
            same bits.

    Raises:
        InputError: the folder holds another training, the start does not fit, the device is not there, the loss is no
            longer finite, or memory does not suffice; what was trained until then is in the folder.
    """
    options = options or Options()
    strategy = of_gsplat(strategy or vanilla(options.steps))
    if snapshot_every < 0 or (snapshot_every and out is None):
        raise InputError(f"snapshot_every must be at least 0 and needs a folder, got {snapshot_every} and {out}")
    device = splat_device(device)
    until = options.steps if until is None else checks.integer("until", until, at_least=1, at_most=options.steps)
    if isinstance(start, str | Path):
        start = Training.load(start) if Path(start).is_dir() else load_ply(start)
    earlier = start if isinstance(start, Training) else None
    if earlier is not None and earlier.step > until:
        raise InputError(f"the training to go on from has {earlier.step} steps, more than the {until} asked for")
    initial = start.parameters if isinstance(start, Training) else start
    if initial is None:
        initial = gaussians_from(scene, options.sh_degree, options.random_points, options.seed)
    initial = _checked(initial, options, strategy)
    check_ahead(initial["means"], scene.views)
    memory.check_start(len(initial["means"]), strategy.cap_max, options.sh_degree, scene.views, device)
    scene = scene.to(device)
    params = {name: torch.nn.Parameter(initial[name].to(device, copy=True)) for name in NAMES}
    rates = {"means": options.means_lr[0] * scene.extent, **_RATES}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([params[name]], lr=rates[name], eps=1e-15, fused=True) for name in NAMES
    }
    strategy.check_sanity(params, optimizers)
    state: dict[str, Any] = dict(strategy.initialize_state(scene.extent, [view.image for view in scene.views]))
    record: dict[str, Any] = {"step": 0, "seconds": 0.0, "pairs": 0, "history": []}
    if earlier is not None:
        record |= {"step": earlier.step, "seconds": earlier.seconds, "pairs": earlier.pairs}
        record["history"] = list(earlier.history)
        _put_back(earlier.parameters | initial, earlier.moments, earlier.state, params, optimizers, state)
    file = None
    if out is not None:
        identity = {
            "strategy": repr(strategy),
            "options": dataclasses.asdict(options),
            "scene": digest(tensor for view in scene.views for tensor in (view.image, view.viewmat, view.K)),
            "masks": digest(view.mask for view in scene.views if view.mask is not None),
            "start": digest(initial.values()),
        }
        targets = [each for view in scene.views for each in (view.weight, view.depth) if each is not None]
        if targets:
            identity["weights and depths"] = digest(targets)
        if earlier is not None:
            identity["after step"] = earlier.step
        if loss is not view_loss:
            identity["loss"] = getattr(loss, "__qualname__", repr(loss))
        file = Checkpoint(Path(out) / CHECKPOINT, kind=KIND, identity=identity)
        if (saved := file.load()) is not None:
            record = _restored(file.path, saved, params, optimizers, state)

    def save_checkpoint() -> None:
        if file is not None:
            moments = {name: dict(optimizers[name].state.get(params[name], {})) for name in params}
            file.save({"params": params, "moments": moments, "state": state, "record": record})

    def save_snapshot() -> None:
        if out is not None:
            save_ply(params, Path(out) / PLY)  # pyright: ignore[reportArgumentType]

    if snapshot_every:
        save_snapshot()
    sizes: dict[int, tuple[View, ...]] = {1: scene.views}
    sh_degree_interval = options.sh_degree_interval or max(1, options.steps // 30)
    evaluated = scene.held_out or scene.views
    with progress("train", until, done=record["step"]) as bar:
        for step in range(record["step"], until):
            clock = time.perf_counter()
            factor = strategy.factor(state, step)
            if factor not in sizes:
                sizes = {1: scene.views, factor: tuple(view.smaller(factor) for view in scene.views)}
            view = sizes[factor][_order(options.seed, step, len(scene.views))]
            sh_degree = min(options.sh_degree, step // sh_degree_interval)
            _set_rate(optimizers["means"], options, scene.extent, step, strategy.full_size_from(state))
            before, starved = len(params["means"]), state.get("starved_at")
            with memory.out_of_memory_named(step, before, out):
                stored = step + 1 == until or any(
                    (step + 1) % n == 0 for n in (options.save_every, snapshot_every) if n
                )
                looked_at = stored or device.type == "cpu" or step % _LOOKED_AT == 0
                record["pairs"] += _step(
                    params, optimizers, strategy, state, step, view, options, sh_degree, loss, looked_at
                )
            record["seconds"] += time.perf_counter() - clock
            record["step"] = done = step + 1
            if starved is None and state.get("starved_at") is not None:
                bar.print(f"step {step}: hardly any Gaussian is large enough to be split, so cloning begins early")
            count = len(params["means"])
            if done == until or (options.evaluate_every and done % options.evaluate_every == 0):
                quality = evaluate(params, evaluated, options, sh_degree)  # pyright: ignore[reportArgumentType]
                row = {"step": done, "seconds": record["seconds"], "gaussians": count}
                row |= {"psnr": quality.psnr, "ssim": quality.ssim, "pairs": record["pairs"]}
                record["history"].append(row)
                bar.update(done, f"{quality.psnr:.2f} dB, {count} Gaussians")
            if done == until or done % options.save_every == 0:
                save_checkpoint()
            if snapshot_every and done % snapshot_every == 0 and done < until:
                save_snapshot()
            bar.update(done)
            shortage = memory.shortage(before, count, options.sh_degree, device)
            if shortage and done < until:
                save_checkpoint()
                save_snapshot()
                raise InputError(f"{shortage}, at step {done}; {_kept(out)}")
    trained = {name: params[name].detach() for name in NAMES}
    save_snapshot()
    return Training(
        parameters=trained,
        state=state,
        history=tuple(record["history"]),
        seconds=record["seconds"],
        step=record["step"],
        pairs=record["pairs"],
        moments={name: dict(optimizers[name].state.get(params[name], {})) for name in NAMES},
    )


def _restored(
    path: Path,
    saved: Mapping[str, Any],
    params: dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
) -> dict[str, Any]:
    """Put a checkpoint back into parameters, optimizers and the strategy's state; its record.

    Raises:
        InputError: something is missing from it.
    """
    with reading(path):
        _put_back(saved["params"], saved["moments"], saved["state"], params, optimizers, state)
        return {key: saved["record"][key] for key in ("step", "seconds", "pairs", "history")}


def _put_back(
    values: Mapping[str, torch.Tensor],
    moments: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, Any],
    params: dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    """Give parameters, optimizers and the strategy's state what another training had of them."""
    for name, old in list(params.items()):
        device = old.device
        params[name] = torch.nn.Parameter(values[name].detach().to(device, copy=True))
        optimizers[name].param_groups[0]["params"] = [params[name]]
        optimizers[name].state.pop(old, None)
        if moments.get(name):
            found = {key: value.to(device, copy=True) for key, value in moments[name].items()}
            optimizers[name].state[params[name]] = found
    state.clear()
    for key, value in kept.items():
        state[key] = value.to(params["means"].device, copy=True) if isinstance(value, torch.Tensor) else value


def _step(
    params: dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    strategy: Strategy,
    state: dict[str, Any],
    step: int,
    view: View,
    options: Options,
    sh_degree: int,
    lowered: Loss,
    looked_at: bool,
) -> int:
    """One view's step; the pairs of pixel and Gaussian that were looked at. A GPU is waited for where the loss is."""
    loss, info = lowered(params, view, options, sh_degree)  # pyright: ignore[reportArgumentType]
    loss = loss + strategy.penalty(params)
    if looked_at and not bool(torch.isfinite(loss)):
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
    first, last = options.means_lr
    fraction = max(0, step - full_from) / max(1, options.steps - full_from)
    optimizer.param_groups[0]["lr"] = extent * first * (last / first) ** fraction


def splat_device(device: str | torch.device) -> torch.device:
    """The device of this name, "cpu" or "cuda"; "auto" is a GPU if there is one and gsplat, else the CPU.

    Without gsplat the reference in torch runs on a GPU, which is slower than the CPU's kernels.

    Raises:
        InputError: there is no such device, or no GPU.
    """
    if device == "auto" and importlib.util.find_spec("gsplat") is None:
        device = "cpu"
    found = device_of(device)
    if found.type not in ("cpu", "cuda"):
        raise InputError(f'device must be "cpu" or "cuda", got {str(device)!r}')
    return found


def _kept(out: str | Path | None) -> str:
    """What a training that cannot go on says of what it has."""
    if out is None:
        return "nothing is kept, because there is no folder"
    return (
        f"what is trained so far is in {out}: the same call goes on where there is more memory, and another folder "
        f"with start={Path(out) / PLY} and a budget where there is not"
    )


def _checked(initial: Parameters, options: Options, strategy: Strategy) -> Parameters:
    check_gaussians(initial, "the Gaussians to start from")
    bases = (options.sh_degree + 1) ** 2 - 1
    count, coefficients = initial["shN"].shape[:2]
    if count < 1:
        raise InputError("there are no Gaussians to start from")
    cap_max = strategy.cap_max
    if cap_max is not None and count > cap_max:
        raise InputError(f"the training starts with {count} Gaussians, which is above the budget of {cap_max}")
    if coefficients < bases:  # as after a change of degree: what there is no coefficient for starts at zero
        zeros = initial["shN"].new_zeros(count, bases - coefficients, 3)
        initial = initial | {"shN": torch.cat([initial["shN"], zeros], 1)}
    return initial | {"shN": initial["shN"][:, :bases]}
