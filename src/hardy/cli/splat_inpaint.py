"""The commands of `hardy splat` that take things out, fill holes and change file formats."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hardy.cli.interrupts import interruptible
from hardy.cli.options import new_file, new_folder, shown
from hardy.cli.splat_look import Background, Downscale, Images, Outside, gaussians_of, read_background, read_scene
from hardy.errors import InputError

_Removed = Annotated[Path | None, typer.Option("--masks", help="Folder of masks, white where something is to GO.")]
_Growth = Annotated[
    int | None, typer.Option(help="Pixels by which masks are grown; by default 1 % of the width, 1 to 7.")
]


def _new(path: Path) -> Path:
    """A file or a folder, as the ending says."""
    return new_file(path) if path.suffix.lower() == ".ply" else new_folder(path)


def remove(
    scene: Annotated[Path, typer.Argument(help='Scene whose cameras the masks are of; "none" with --box.')],
    ply: Annotated[Path, typer.Argument(help="Gaussians, in any format that is read, or the folder of a training.")],
    out: Annotated[
        Path, typer.Argument(help="A .ply, or a folder for gaussians.ply, masks/ and the report.", callback=_new)
    ],
    masks: _Removed = None,
    box: Annotated[
        tuple[float, float, float, float, float, float] | None,
        typer.Option(help="X0 Y0 Z0 X1 Y1 Z1: opposite corners of a box, all in which goes."),
    ] = None,
    share: Annotated[float, typer.Option(help="Of a Gaussian's weight inside of masks, above which it goes.")] = 0.5,
    growth: _Growth = None,
    downscale: Downscale = 1,
    images: Images = "images",
    outside: Outside = False,
) -> None:
    """Delete an object from trained Gaussians: what shows mostly inside of masks (white is to go), or lies in a box."""
    from hardy.report import Report, Row
    from hardy.splat.masks import save_masks
    from hardy.splat.ply import save_ply
    from hardy.splat.removal import holes_of
    from hardy.splat.removal import remove as run
    from hardy.splat.strategies import Box

    if (masks is None) == (box is None):
        raise InputError("remove needs either --masks DIR or --box X0 Y0 Z0 X1 Y1 Z1")
    region = None if box is None else Box(corner=box[:3], opposite=box[3:])
    parameters = gaussians_of(ply)
    photos = None
    if region is None or str(scene) != "none":
        photos = read_scene(scene, downscale, outside=outside, removed=masks, images=images, hold_out=0)
    views, holes = (photos.views, photos.holes) if photos is not None and region is None else ((), ())
    found = run(parameters, views, holes, region=region, share=share, growth=growth)
    count, left = int(found.gone.sum()), len(found.parameters["means"])
    said = f"{count} of {len(found.gone)} Gaussians went, {found.unseen} of them seen by no view; {left} are left"
    typer.echo(said)
    if out.suffix.lower() == ".ply":
        save_ply(found.parameters, out)
        typer.echo(f"Gaussians: {out}")
        return
    save_ply(found.parameters, out / "gaussians.ply")
    if photos is not None:
        save_masks(holes_of(parameters, found.gone, photos.views), photos.views, out / "masks")
        typer.echo(f"Masks of what went, for `hardy splat inpaint`: {out / 'masks'}")
    report = Report(
        title="Gaussians removed",
        summary=(f"{said}.",),
        rows=(
            Row(metric="Gaussians", condition="removed", value=count, details={"seen by no view": found.unseen}),
            Row(metric="Gaussians", condition="left", value=left),
        ),
        settings={"scene": str(scene), "gaussians": str(ply), "masks": str(masks), "box": box, "share": share},
    )
    report.save(out)
    typer.echo(f"Gaussians: {out / 'gaussians.ply'}\nReport: {out}/report.html  (hardy report open {out})")


def inpaint(
    scene: Annotated[
        str, typer.Argument(help='Scene; or "demo", a traced room with a thing to take out (./demo: a folder).')
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder of Gaussians, filled photos and report; the same command resumes.", callback=new_folder
        ),
    ],
    masks: _Removed = None,
    shadows: Annotated[
        Path | None,
        typer.Option(help="Folder of masks, white where what goes casts a shadow: filled too, its surface stays."),
    ] = None,
    ply: Annotated[Path | None, typer.Option(help="Trained Gaussians to begin with.")] = None,
    inpainter: Annotated[
        str, typer.Option(help="patchmatch, opencv, opencv-telea, tiny, diffusers:FOLDER, or none: other photos only.")
    ] = "patchmatch",
    graph: Annotated[
        str, typer.Option(help="Of views: covisibility of rendered depth, or sift (OpenCV).")
    ] = "covisibility",
    rounds: Annotated[int, typer.Option(help="Of filling and training.")] = 4,
    steps: Annotated[int, typer.Option(help="Of training before the first round, one view each.")] = 1500,
    round_steps: Annotated[int, typer.Option(help="Of training after each round.")] = 300,
    before: Annotated[
        Literal["removed", "masked"],
        typer.Option(
            help="removed: train on the photos as they are, then take out what masks show. masked: leave holes out of "
            "the photos, where they hide no thing but scratches or people that walk by."
        ),
    ] = "removed",
    candidates: Annotated[int, typer.Option(help="Of each fill, among which the best is taken.")] = 4,
    accept: Annotated[float, typer.Option(help="Least score of a fill that trains; 0 takes all.")] = 0.5,
    growth: _Growth = None,
    degree: Annotated[int, typer.Option(help="Of spherical harmonics, 0 to 3.")] = 1,
    budget: Annotated[int | None, typer.Option(help="Most Gaussians before the first round; 4000 in the demo.")] = None,
    downscale: Downscale = 1,
    images: Images = "images",
    background: Background = "black",
    outside: Outside = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
) -> None:
    """Fill holes the same from every side. Masks: white is to GO (for train --masks, white is what COUNTS)."""
    from hardy.runs.progress import progress
    from hardy.splat.filling import Rules
    from hardy.splat.inpainters import named
    from hardy.splat.inpainting import inpaint as run
    from hardy.splat.inpainting_report import report_of
    from hardy.splat.strategies import vanilla
    from hardy.splat.training import Options
    from hardy.splat.view_graph import covisibility, matched, sift

    if graph not in ("covisibility", "sift"):
        raise InputError(f"--graph must be covisibility or sift, got {graph!r}")
    rules, truth, growing, dark = Rules(candidates=candidates, accept=accept), (), growth, None
    if scene == "demo":
        from hardy.splat.traced_removal import removable

        if masks is not None or ply is not None or shadows is not None:
            raise InputError("the demo brings its own masks and begins with nothing; a folder named demo is ./demo")
        if inpainter not in ("tiny", "none"):
            named(inpainter)
        typer.echo("Tracing the room with a ball and without ...")
        made = removable(width=96, height=72, views=20, points=2000, seed=seed)
        photos, truth, growing = made.scene, made.truth, 0 if growth is None else growth
        holes, dark = made.masks, made.shadows
        budget = budget or 4000
    else:
        if masks is None:
            raise InputError("inpaint needs --masks DIR: white where something is to go")
        if inpainter not in ("tiny", "none"):
            named(inpainter)  # before photos are read for nothing
        color = read_background(background)
        how: dict[str, Any] = {"outside": outside, "images": images, "background": color, "hold_out": 0}
        photos = read_scene(Path(scene), downscale, removed=masks, **how)
        holes = photos.holes
        if shadows is not None:
            dark = read_scene(Path(scene), downscale, removed=shadows, **how).holes
    start = None if ply is None else gaussians_of(ply)
    options = Options(steps=max(1, steps), sh_degree=degree, seed=seed, background=read_background(background))
    begun = time.monotonic()
    with interruptible(out):
        both = holes if dark is None else [hole | shadow for hole, shadow in zip(holes, dark, strict=True)]
        filler = None if inpainter == "none" else named(inpainter, [v.image for v in photos.views], both, seed)
        grapher: Any = covisibility
        if graph == "sift":
            grapher = lambda views, seen, holes: matched(views, sift)  # noqa: E731
        found = run(
            photos, holes, shadows=dark, start=start, inpainter=filler, rules=rules, rounds=rounds, steps=steps,
            round_steps=round_steps, growth=growing, before=before, options=options, grapher=grapher, out=out,
            strategy=vanilla(steps, cap_max=budget, seed=seed),
        )  # fmt: skip
        with progress("report", None):
            report = report_of(found, photos, inpainter=inpainter, truth=truth, seconds=time.monotonic() - begun)
    report.save(out)
    _turntable(found.training.parameters, photos, out / "turntable.gif")
    shown(report, out)
    typer.echo(f"Gaussians: {out / 'gaussians.ply'}; filled photos: {out / 'photos'}; {out / 'turntable.gif'}")


def convert(
    source: Annotated[Path, typer.Argument(help=".ply, .compressed.ply, .splat, .spz or .sog.")],
    target: Annotated[
        Path, typer.Argument(help=".ply, .compressed.ply, .splat, .spz, .sog or .glb (glTF).", callback=new_file)
    ],
    repair: Annotated[
        bool, typer.Option("--repair", help="Leave out Gaussians that cannot be, and say how many.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for the report.", callback=new_folder)] = None,
) -> None:
    """Write Gaussians in another file format, and say what was lost."""
    from hardy.splat.conversion import convert as run

    found = run(source, target, repair=repair)
    if report is not None:
        found.save(report)
    shown(found, report)
    typer.echo(f"Written: {target}")


def _turntable(parameters: dict[str, Any], photos: Any, path: Path) -> None:
    from hardy.splat.cameras import circle_of_scene, render_camera
    from hardy.splat.film import save_film

    circle = circle_of_scene(photos)
    height, width = photos.views[0].image.shape[:2]
    save_film((render_camera(parameters, circle.camera(i / 24, width, height)) for i in range(24)), path, 12)
