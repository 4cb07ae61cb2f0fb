"""Several strategies on one scene, in one report: quality against time and size, crops, errors, what became of them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.report import Bars, BarSeries, Lines, Pictures, Report, Row, Series
from hardy.splat.lineage import FROZEN, activity, ancestry, frozen_share
from hardy.splat.ply import Parameters
from hardy.splat.scene import Scene, View
from hardy.splat.strategies import Densification, MCMCStrategy
from hardy.splat.training import Options, Training, render_view, train

_WORST = 0.25  # error that the maps show in their brightest color
_MOST_SHOWN = 3


def compare(
    scene: Scene,
    strategies: Mapping[str, Densification | MCMCStrategy],
    *,
    options: Options | None = None,
    out: str | Path | None = None,
) -> Report:
    """Train on a scene once with each strategy, from the same start, one after the other.

    Args:
        scene: views are judged that are held out, or where there are none, those trained on.
        strategies: by name; the first is the one that the others are judged against.
        options: the same for all.
        out: folder for a checkpoint and the Gaussians of each, below its name; the same call goes on from there.

    Raises:
        InputError: there are fewer than two strategies, or a training cannot be done.
    """
    if len(strategies) < 2:
        raise InputError(f"a comparison needs at least two strategies, got {', '.join(strategies) or 'none'}")
    options = options or Options(evaluate_every=300)
    trainings = {
        name: train(scene, strategy, options=options, out=None if out is None else Path(out) / name)
        for name, strategy in strategies.items()
    }
    gradients = {name: activity(training.parameters, scene, options=options) for name, training in trainings.items()}
    evaluated = scene.held_out or scene.views
    height, width = evaluated[0].image.shape[:2]
    kind = "held-out" if scene.held_out else "training"
    best = max(trainings, key=lambda name: trainings[name].history[-1]["psnr"])
    first = next(iter(trainings))
    last = trainings[best].history[-1]
    return Report(
        title=f"{len(trainings)} strategies of densification on one scene",
        summary=(
            f"{best} ends highest: {last['psnr']:.2f} dB, SSIM {last['ssim']:.3f} on {len(evaluated)} {kind} views, "
            f"with {last['gaussians']} Gaussians after {last['seconds']:.0f} s of training.",
            f"The others are judged against {first}, which ends at {trainings[first].history[-1]['psnr']:.2f} dB.",
        ),
        rows=_rows(trainings, gradients),
        figures=(
            *_curves(trainings, kind),
            *_pictures(trainings, evaluated, options),
            _gradient_figure(gradients),
            *_lineage_figures(trainings),
        ),
        settings={
            "training views": len(scene.views),
            f"{kind} views": len(evaluated),
            "size of photos": f"{width} x {height}",
            "points to start with": len(scene.points) or f"{options.random_points} random",
            "steps": options.steps,
            "degree of spherical harmonics": options.sh_degree,
            "seed": options.seed,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "strategies": {name: repr(strategy) for name, strategy in strategies.items()},
        },
        notes=(
            "One training each: how much a result changes with the seed is not shown.",
            "Seconds are of this machine, with whatever else it did; pairs of pixel and Gaussian do not depend on it.",
            f"Frozen: the mean gradient over the training views, at the end, is below {FROZEN:g}.",
        ),
    )


def _rows(trainings: Mapping[str, Training], gradients: Mapping[str, Ranking]) -> tuple[Row, ...]:
    first = next(iter(trainings))
    target = trainings[first].history[-1]["psnr"]
    rows = []
    for metric, unit, read in (
        ("PSNR", "dB", lambda name: trainings[name].history[-1]["psnr"]),
        ("SSIM", "", lambda name: trainings[name].history[-1]["ssim"]),
        ("Gaussians", "", lambda name: trainings[name].history[-1]["gaussians"]),
        ("seconds of training", "s", lambda name: trainings[name].history[-1]["seconds"]),
        (f"seconds to the final PSNR of {first}", "s", lambda name: _reached(trainings[name], target, "seconds")),
        (f"pairs to the final PSNR of {first}", "1e6", lambda name: _reached(trainings[name], target, "pairs") / 1e6),
        ("frozen Gaussians", "%", lambda name: 100 * frozen_share(gradients[name])),
    ):
        baseline = {name: None if name == first else first for name in trainings}
        rows += [
            Row(metric=metric, condition=name, value=read(name), unit=unit, baseline=baseline[name])
            for name in trainings
        ]
    return tuple(rows)


def _reached(training: Training, target: float, key: str) -> float:
    """What the first evaluation at or above a PSNR had cost; infinite if there is none."""
    return next((float(row[key]) for row in training.history if row["psnr"] >= target), math.inf)


def _curves(trainings: Mapping[str, Training], kind: str) -> list[Lines]:
    made = []
    for key, label in (("psnr", "PSNR [dB]"), ("ssim", "SSIM")):
        for x, x_label in (("seconds", "seconds of training"), ("gaussians", "Gaussians")):
            series = [
                Series(
                    label=name,
                    x=tuple(row[x] for row in training.history),
                    y=tuple(row[key] for row in training.history),
                    style="line" if x == "seconds" else "points",
                )
                for name, training in trainings.items()
            ]
            caption = f"Mean of the {kind} views at each evaluation" + (
                "." if x == "seconds" else "; later ones of a strategy are higher."
            )
            title = f"{label.split(' ')[0]} against {x_label.split(' ')[0]}"
            made.append(Lines(title=title, caption=caption, x_label=x_label, y_label=label, series=tuple(series)))
    return made


def _pictures(
    trainings: Mapping[str, Training], evaluated: tuple[View, ...], options: Options
) -> tuple[Pictures, Pictures]:
    """Crops where the first strategy errs most, and maps of errors of whole views."""
    from matplotlib import colormaps

    first = next(iter(trainings))
    step = max(1, len(evaluated) // _MOST_SHOWN)
    shown = evaluated[::step][:_MOST_SHOWN]
    crops, errors = [], []
    for view in shown:
        images = {name: _rendered(training.parameters, view, options) for name, training in trainings.items()}
        missed = {name: _error(image, view) for name, image in images.items()}
        top, left, size = _worst_crop(missed[first])
        crops.append([image[top : top + size, left : left + size] for image in (view.image, *images.values())])
        maps = [colormaps["magma"]((error / _WORST).clamp(0, 1).numpy())[..., :3] for error in missed.values()]
        errors.append([view.image.numpy(), *maps])
    rows, columns = [view.name for view in shown], ["photo", *trainings]
    worst = f"The part of each view where {first} errs most."
    scale = f"Mean absolute error of the three channels: black is none, the brightest {_WORST} of 1 or more."
    return (
        Pictures.of("Photo and renderings, side by side", worst, rows, columns, crops),
        Pictures.of("Where the errors are", scale, rows, columns, errors),
    )


def _rendered(parameters: Parameters, view: View, options: Options) -> torch.Tensor:
    with torch.no_grad():
        return render_view(parameters, view, options)[0][0].clamp(0, 1).cpu()


def _error(image: torch.Tensor, view: View) -> torch.Tensor:
    error = (image - view.image).abs().mean(-1)
    return error if view.mask is None else torch.where(view.mask, error, 0)


def _worst_crop(error: torch.Tensor) -> tuple[int, int, int]:
    """Top, left and edge of the square, half as high as the image, with the largest mean error."""
    size = max(1, min(error.shape) // 2)
    means = torch.nn.functional.avg_pool2d(error[None, None], size, stride=1)[0, 0]
    top, left = divmod(int(means.argmax()), means.shape[1])
    return top, left, size


def _gradient_figure(gradients: Mapping[str, Ranking]) -> Lines:
    shares = torch.linspace(0.01, 0.99, 99)
    series = []
    for name, ranking in gradients.items():
        scores = torch.tensor(list(ranking.scores.values())).clamp(min=1e-9)
        series.append(Series(label=name, x=tuple(torch.quantile(scores, shares).tolist()), y=tuple(shares.tolist())))
    return Lines(
        title="How many Gaussians still feel a gradient",
        caption=f"Share of Gaussians below a gradient, at the end; those below {FROZEN:g} count as frozen, and vanilla "
        "lets those above 0.0002 multiply.",
        x_label="mean gradient over the training views",
        y_label="share of Gaussians below",
        series=tuple(series),
        log_x=True,
    )


def _lineage_figures(trainings: Mapping[str, Training]) -> tuple[Bars, ...]:
    lineages: dict[str, Any] = {
        name: ancestry(training.parameters, training.state)
        for name, training in trainings.items()
        if "home" in training.state
    }
    if not lineages:
        return ()
    groups = tuple(next(iter(lineages.values())))
    made = []
    for title, caption, label, field in (
        ("Where Gaussians come from", "By what their lines went through; mcmc keeps no lineage.", "share", "share"),
        (
            "How far Gaussians went",
            "Mean distance from where the first ancestor began, by what the line went through; 0 for none.",
            "displacement, in units of the scene",
            "displacement",
        ),
    ):
        series = tuple(
            BarSeries(label=name, values=tuple(getattr(kinds[group], field) for group in groups))
            for name, kinds in lineages.items()
        )
        made.append(Bars(title=title, caption=caption, y_label=label, groups=groups, series=series))
    return tuple(made)
