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
from hardy.evaluate import psnr_of_error, ssim
from hardy.splat import checkpoint
from hardy.splat.ply import NAMES, Parameters, load_ply, save_ply
from hardy.splat.points import gaussians_from
from hardy.splat.rendering import RasterizeMode, rasterize
from hardy.splat.scene import Scene, View
from hardy.splat.strategies import Densification, Mcmc, vanilla

_RATES = {"scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How Gaussians are trained, besides the strategy.

    Args:
        steps: one view each.
        degree: of spherical harmonics, 0 to 3; one more every `degree_every` steps.
        degree_every: None for a 30th of the steps.
        ssim_share: of the loss; the rest is the mean absolute error.
        means_rates: learning rate of centres at the start and the end, times the scene's extent; exponential between.
        background: shown behind the Gaussians, per channel.
        rasterize_mode: "classic" or "antialiased".
        random_points: how many to start with in a scene without points.
        evaluate_every: steps between looks at the held-out views; 0 for only the last. They change nothing.
        save_every: steps between checkpoints, where there is a folder.
        seed: of the order of views and of random points.

    Raises:
        InputError: a field is out of range.
    """

    steps: int = 3000
    degree: int = 3
    degree_every: int | None = None
    ssim_share: float = 0.2
    means_rates: tuple[float, float] = (1.6e-4, 1.6e-6)
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rasterize_mode: RasterizeMode = "classic"
    random_points: int = 5000
    evaluate_every: int = 0
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("random_points", 1), ("evaluate_every", 0), ("save_every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.degree not in range(4):
            raise InputError(f"degree must be 0 to 3, got {self.degree!r}")
        if not 0 <= self.ssim_share <= 1:
            raise InputError(f"ssim_share must be in [0, 1], got {self.ssim_share}")
        if self.rasterize_mode not in ("classic", "antialiased"):
            raise InputError(f"rasterize_mode must be classic or antialiased, got {self.rasterize_mode!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How close renderings of views come: means over the views of PSNR (dB) and SSIM, outside of masks not counted."""

    psnr: float
    ssim: float
    views: int


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


def render_view(
    parameters: Parameters, view: View, options: Options | None = None, degree: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """`rasterize` for one view: images (1, height, width, 3), alphas, info; by default at the degree that there is."""
    height, width = view.image.shape[:2]
    options = options or Options(degree=_degree(parameters))
    degree = options.degree if degree is None else degree
    return rasterize(
        parameters["means"],
        parameters["quats"],
        parameters["scales"].exp(),
        parameters["opacities"].sigmoid(),
        torch.cat([parameters["sh0"], parameters["shN"]], 1),
        view.viewmat[None],
        view.k[None],
        width,
        height,
        sh_degree=degree,
        backgrounds=torch.tensor([options.background]),
        rasterize_mode=options.rasterize_mode,
    )


def view_loss(parameters: Parameters, view: View, options: Options, degree: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """What training lowers: mean absolute error and 1 - SSIM of one view in their shares; and what rasterize found."""
    images, _, info = render_view(parameters, view, options, degree)
    image, photo = images[0], view.image
    if view.mask is not None:
        image, photo = (torch.where(view.mask[..., None], each, 0) for each in (image, photo))
    loss = (1 - options.ssim_share) * (image - photo).abs().mean()
    if options.ssim_share:
        loss = loss + options.ssim_share * (1 - ssim(image, photo))
    return loss, info


def evaluate(
    parameters: Parameters, views: tuple[View, ...], options: Options | None = None, degree: int | None = None
) -> Quality:
    """How close the renderings of `views` come to their photos."""
    options = options or Options(degree=_degree(parameters))
    if not views:
        raise InputError("evaluate needs at least one view")
    found = []
    with torch.no_grad():
        for view in views:
            image = render_view(parameters, view, options, degree)[0][0].clamp(0, 1)
            counts = torch.ones(image.shape[:2], dtype=torch.bool) if view.mask is None else view.mask
            error = (image - view.image)[counts].double().square().mean()
            alike = ssim(torch.where(counts[..., None], image, 0), torch.where(counts[..., None], view.image, 0))
            found.append((psnr_of_error(error).item(), alike.item()))
    psnrs, ssims = zip(*found, strict=True)
    return Quality(psnr=sum(psnrs) / len(found), ssim=sum(ssims) / len(found), views=len(found))


def train(
    scene: Scene,
    strategy: Densification | Mcmc | None = None,
    *,
    options: Options | None = None,
    start: Parameters | str | Path | None = None,
    out: str | Path | None = None,
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

    Raises:
        InputError: the folder holds another training, the start does not fit, or the loss is no longer finite.
    """
    options = options or Options()
    strategy = strategy or vanilla(options.steps)
    begun = load_ply(start) if isinstance(start, str | Path) else start
    if begun is None:
        begun = gaussians_from(scene, options.degree, options.random_points, options.seed)
    begun = _checked(begun, options, strategy)
    params = {name: torch.nn.Parameter(begun[name].clone()) for name in NAMES}
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
            bar.update(task, completed=done)
    made = {name: params[name].detach() for name in NAMES}
    if out is not None:
        save_ply(made, Path(out) / "gaussians.ply")
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
    return int(torch.randperm(views, generator=generator(seed, "views", epoch))[place])


def _set_rate(optimizer: torch.optim.Optimizer, options: Options, extent: float, step: int, full_from: int) -> None:
    """Exponential from first to last, beginning where images have their full size."""
    first, last = options.means_rates
    share = max(0, step - full_from) / max(1, options.steps - full_from)
    optimizer.param_groups[0]["lr"] = extent * first * (last / first) ** share


def _degree(parameters: Parameters) -> int:
    """Of the spherical harmonics that there are coefficients for."""
    return round((parameters["shN"].shape[1] + 1) ** 0.5) - 1


def _checked(begun: Parameters, options: Options, strategy: Densification | Mcmc) -> Parameters:
    missing = [name for name in NAMES if name not in begun]
    if missing:
        raise InputError(f"the Gaussians to start from lack {', '.join(missing)}")
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
