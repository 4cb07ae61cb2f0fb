"""`hardy splat`: train, render and evaluate scenes of 3D Gaussians."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from hardy.cli import splat_inpaint, splat_look
from hardy.cli.interrupts import interruptible
from hardy.cli.options import new_folder, shown
from hardy.cli.splat_look import (
    Background,
    Device,
    Downscale,
    Gaussians,
    HoldOut,
    Images,
    Masks,
    Outside,
    SceneArgument,
    gaussians_of,
    read_background,
    read_scene,
    save_pictures,
)
from hardy.errors import InputError, near_misses

if TYPE_CHECKING:
    import torch

    from hardy.splat import Scene
    from hardy.splat.training import Options

app = typer.Typer(help="Scenes of 3D Gaussians from photos, on a CPU.", no_args_is_help=True)
app.command()(splat_look.render)
app.command()(splat_look.view)
app.command()(splat_look.poses)
app.command()(splat_inpaint.remove)
app.command()(splat_inpaint.inpaint)
app.command()(splat_inpaint.convert)

Strategy = Literal["vanilla", "absgs", "pixelgs", "mcmc", "global-to-local", "reactivate", "global-to-local-reactivate"]
Steps = Annotated[int, typer.Option(help="One view each.")]
Degree = Annotated[int, typer.Option(help="Of spherical harmonics, 0 to 3.")]
Budget = Annotated[int | None, typer.Option(help="Most Gaussians.")]
RandomPoints = Annotated[int, typer.Option(help="To start with in a scene without points.")]
Seed = Annotated[int, typer.Option(help="Of the order of views and all that is drawn.")]
Antialiased = Annotated[bool, typer.Option("--antialiased", help="Opacities make up for the blur of a pixel.")]
SnapshotEvery = Annotated[int, typer.Option(help="Steps between renewals of gaussians.ply, for view; 0 for none.")]


@app.command()
def train(
    scene: SceneArgument,
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder of the checkpoint and gaussians.ply; the same command resumes.", callback=new_folder
        ),
    ],
    strategy: Annotated[Strategy, typer.Option(help="Of densification.")] = "vanilla",
    steps: Steps = 3000,
    downscale: Downscale = 1,
    degree: Degree = 3,
    budget: Budget = None,
    random_points: RandomPoints = 5000,
    start: Annotated[
        Path | None,
        typer.Option(help="Gaussians to begin with; or the folder of a training, which goes on up to --steps."),
    ] = None,
    masks: Masks = None,
    images: Images = "images",
    hold_out: HoldOut = 8,
    background: Background = "black",
    antialiased: Antialiased = False,
    outside: Outside = False,
    snapshot_every: SnapshotEvery = 0,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps between figures; by default a tenth.")] = None,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Fit Gaussians to posed photos; every 8th is held out."""
    from hardy.splat.training import Options, splat_device

    where = splat_device(device)  # before photos are read for nothing
    color = read_background(background)
    options = Options(
        steps=steps,
        sh_degree=degree,
        random_points=random_points,
        evaluate_every=max(1, steps // 10) if evaluate_every is None else evaluate_every,
        save_every=save_every,
        background=color,
        rasterize_mode="antialiased" if antialiased else "classic",
        seed=seed,
    )
    photos = read_scene(scene, downscale, masks, outside, images=images, hold_out=hold_out, background=color)
    covered = [float(view.mask.float().mean()) for view in photos.views if view.mask is not None]
    if masks is not None and covered and sum(covered) < 0.1 * len(covered):
        typer.echo(
            "Less than a tenth of the photos counts: white is what counts here; for remove and inpaint it is what is "
            "to go",
            err=True,
        )
    typer.echo(f"Computed on {where}", err=True)
    _train(photos, strategy, options, budget, out, start, snapshot_every, where)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Argument(help="Folder for Gaussians and pictures; the same command resumes.", callback=new_folder)
    ],
    strategy: Annotated[Strategy, typer.Option(help="Of densification.")] = "global-to-local",
    steps: Steps = 4000,
    budget: Budget = 8000,
    snapshot_every: SnapshotEvery = 0,
    seed: Seed = 0,
) -> None:
    """Trace a textured room ray by ray and train on it, in about a minute on two cores."""
    from hardy.splat.room import room
    from hardy.splat.training import Options

    options = Options(steps=steps, sh_degree=1, evaluate_every=max(1, steps // 6), seed=seed)
    typer.echo("Tracing the room ...")
    photos = room(width=128, height=96, points=3000)
    parameters = _train(photos, strategy, options, budget, out, snapshot_every=snapshot_every)
    save_pictures(parameters, photos.held_out, out / "pictures")
    typer.echo(f"{len(photos.held_out)} held-out views, rendered and photographed: {out / 'pictures'}")


@app.command()
def compare(
    scene: SceneArgument,
    out: Annotated[
        Path, typer.Argument(help="Folder of trainings and report.html; the same command resumes.", callback=new_folder)
    ],
    strategies: Annotated[str, typer.Option(help=f"Of {', '.join(get_args(Strategy))}.")] = (
        "vanilla,global-to-local,reactivate,global-to-local-reactivate"
    ),
    steps: Steps = 3000,
    downscale: Downscale = 1,
    degree: Degree = 3,
    budget: Budget = None,
    random_points: RandomPoints = 5000,
    masks: Masks = None,
    outside: Outside = False,
    seed: Seed = 0,
) -> None:
    """Train with several strategies and put them in one report: quality against time and size, crops, errors."""
    from hardy.splat.comparison import compare as run
    from hardy.splat.training import Options

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    for name in names:
        if name not in get_args(Strategy):
            hint = near_misses(name, get_args(Strategy))
            raise InputError(f"there is no strategy {name!r}{hint or '; there are ' + ', '.join(get_args(Strategy))}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"--strategies takes at least two, each once, separated by commas, got {strategies!r}")
    photos = read_scene(scene, downscale, masks, outside)
    made = {name: _strategy(name, steps, budget, seed) for name in names}
    options = Options(
        steps=steps, sh_degree=degree, random_points=random_points, evaluate_every=max(1, steps // 15), seed=seed
    )
    with interruptible(out):
        report = run(photos, made, options=options, out=out)
    report.save(out)
    shown(report, out)


@app.command("eval")
def evaluate(
    scene: SceneArgument,
    gaussians: Gaussians,
    downscale: Downscale = 1,
    masks: Masks = None,
    images: Images = "images",
    hold_out: HoldOut = 8,
    background: Background = "black",
    antialiased: Antialiased = False,
    outside: Outside = False,
    device: Device = "auto",
) -> None:
    """PSNR and SSIM of Gaussians on the held-out photos of a scene."""
    from hardy.splat import evaluate as run
    from hardy.splat.quality import degree_of
    from hardy.splat.training import Options, splat_device

    where, color = splat_device(device), read_background(background)
    parameters = {name: tensor.to(where) for name, tensor in gaussians_of(gaussians).items()}
    photos = read_scene(scene, downscale, masks, outside, images=images, hold_out=hold_out, background=color)
    mode = "antialiased" if antialiased else "classic"
    options = Options(sh_degree=degree_of(parameters), background=color, rasterize_mode=mode)
    typer.echo(f"Computed on {where}", err=True)
    quality = run(parameters, photos.held_out or photos.views, options)
    kind = "held-out" if photos.held_out else "training"
    typer.echo(f"{quality.psnr:.2f} dB, SSIM {quality.ssim:.3f}: mean of {quality.views} {kind} views")


def _strategy(name: str, steps: int, budget: int | None, seed: int) -> Any:
    from hardy.splat import strategies

    return getattr(strategies, name.replace("-", "_"))(steps, cap_max=budget, seed=seed)


def _train(
    photos: "Scene",
    strategy: str,
    options: "Options",
    budget: int | None,
    out: Path,
    start: Path | None = None,
    snapshot_every: int = 0,
    device: "str | torch.device" = "cpu",
) -> dict[str, Any]:
    """Train, say how it went, and give the Gaussians."""
    from hardy.splat import train as run

    made = _strategy(strategy, options.steps, budget, options.seed)
    with interruptible(out):
        more: dict[str, Any] = {"snapshot_every": snapshot_every, "device": device}
        training = run(photos, made, options=options, start=start, out=out, **more)
    for row in training.history:
        typer.echo(
            f"step {row['step']:6}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}, {row['gaussians']} Gaussians, "
            f"{row['seconds']:.0f} s"
        )
    typer.echo(f"Gaussians: {out / 'gaussians.ply'}")
    return training.parameters
