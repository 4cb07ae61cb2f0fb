"""`hardy splat`: train, render and evaluate scenes of 3D Gaussians."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Scenes of 3D Gaussians from posed photos, on a CPU.", no_args_is_help=True)

Strategy = Literal["vanilla", "absgs", "pixelgs", "mcmc", "global-to-local", "reactivate", "global-to-local-reactivate"]
SceneArgument = Annotated[Path, typer.Argument(help="COLMAP folder, or transforms.json or its folder.")]
Gaussians = Annotated[Path, typer.Argument(help="PLY file of Gaussians.")]
Downscale = Annotated[int, typer.Option(help="Whole factor by which photos are made smaller.")]
Masks = Annotated[Path | None, typer.Option(help="Folder of masks, white where the photo counts.")]


@app.command()
def train(
    scene: SceneArgument,
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoint and gaussians.ply; the same command resumes.")],
    strategy: Annotated[Strategy, typer.Option(help="Of densification.")] = "vanilla",
    steps: Annotated[int, typer.Option(help="One view each.")] = 3000,
    downscale: Downscale = 1,
    degree: Annotated[int, typer.Option(help="Of spherical harmonics, 0 to 3.")] = 3,
    budget: Annotated[int | None, typer.Option(help="Most Gaussians.")] = None,
    random_points: Annotated[int, typer.Option(help="To start with in a scene without points.")] = 5000,
    start: Annotated[Path | None, typer.Option(help="PLY file of Gaussians to go on from.")] = None,
    masks: Masks = None,
    seed: Annotated[int, typer.Option(help="Of the order of views and all that is drawn.")] = 0,
) -> None:
    """Fit Gaussians to posed photos; every 8th is held out."""
    from hardy.splat import load_scene, strategies
    from hardy.splat import train as run
    from hardy.splat.training import Options

    photos = load_scene(scene, downscale=downscale, masks=masks)
    made = getattr(strategies, strategy.replace("-", "_"))(steps, budget=budget, seed=seed)
    options = Options(
        steps=steps, degree=degree, random_points=random_points, evaluate_every=max(1, steps // 10), seed=seed
    )
    try:
        found = run(photos, made, options=options, start=start, out=out)
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted. The same command goes on from the last checkpoint in {out}.", err=True)
        raise typer.Exit(130) from None
    for row in found.history:
        typer.echo(
            f"step {row['step']:6}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}, {row['gaussians']} Gaussians, "
            f"{row['seconds']:.0f} s"
        )
    typer.echo(f"Gaussians: {out / 'gaussians.ply'}")


@app.command("eval")
def evaluate(scene: SceneArgument, gaussians: Gaussians, downscale: Downscale = 1, masks: Masks = None) -> None:
    """PSNR and SSIM of Gaussians on the held-out photos of a scene."""
    from hardy.splat import evaluate as run
    from hardy.splat import load_ply, load_scene

    photos = load_scene(scene, downscale=downscale, masks=masks)
    found = run(load_ply(gaussians), photos.held_out or photos.views)
    kind = "held-out" if photos.held_out else "training"
    typer.echo(f"{found.psnr:.2f} dB, SSIM {found.ssim:.3f}: mean of {found.views} {kind} views")


@app.command()
def render(
    scene: SceneArgument,
    gaussians: Gaussians,
    out: Annotated[Path, typer.Argument(help="Folder for one PNG per view.")],
    downscale: Downscale = 1,
) -> None:
    """Render Gaussians as the held-out cameras of a scene see them, beside the photos."""
    import torch
    from PIL import Image

    from hardy.core.files import write_atomic
    from hardy.splat import load_ply, load_scene, render_view

    photos, parameters = load_scene(scene, downscale=downscale), load_ply(gaussians)
    views = photos.held_out or photos.views
    for view in views:
        with torch.no_grad():
            image = render_view(parameters, view)[0][0].clamp(0, 1)
        both = (torch.cat([image, view.image], 1) * 255).round().to(torch.uint8).numpy()
        picture = Image.fromarray(both)
        write_atomic(out / f"{Path(view.name).stem}.png", lambda path, made=picture: made.save(path, "PNG"))
    typer.echo(f"{len(views)} views, rendered and photographed: {out}")
