"""The commands of `hardy splat` that look at Gaussians, `render` and `view`, and `poses`, which comes before them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardy.cli.interrupts import until_interrupted
from hardy.cli.options import new_folder
from hardy.errors import InputError

if TYPE_CHECKING:
    from hardy.splat import Scene, View

SceneArgument = Annotated[
    Path, typer.Argument(help='COLMAP folder, or transforms.json or its folder; "room" for a ray-traced room.')
]
Gaussians = Annotated[Path, typer.Argument(help="PLY file of Gaussians, or the folder of a training.")]
Downscale = Annotated[int, typer.Option(help="Whole factor by which photos are made smaller.")]
Outside = Annotated[bool, typer.Option("--outside", help="A scene may name files outside its folder.")]
Masks = Annotated[Path | None, typer.Option(help="Folder of masks, white where the photo COUNTS.")]
Images = Annotated[str, typer.Option(help="Folder of photos beside a COLMAP model.")]
Background = Annotated[str, typer.Option(help="Behind Gaussians and transparent photos: black, white, or R,G,B to 1.")]
HoldOut = Annotated[int, typer.Option(help="Every so many-th photo is held out, unless files say which; 0 for none.")]
Device = Annotated[str, typer.Option(help="cpu or cuda; by default a GPU if there is one, and gsplat.")]
_FilmScene = Annotated[Path | None, typer.Option(help="Whose cameras are looked through, or circled on.")]


def render(
    gaussians: Gaussians,
    out: Annotated[Path, typer.Argument(help="Folder of PNGs; with --orbit also FILE.gif, .png (animated) or .mp4.")],
    scene: _FilmScene = None,
    orbit: Annotated[int, typer.Option(help="Frames of a film around what there is to see; 0 for none.")] = 0,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the film; that of the scene, or 640x480.")] = None,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 24,
    downscale: Downscale = 1,
    outside: Outside = False,
) -> None:
    """Render Gaussians: as a scene's held-out cameras see them, beside the photos, or as a film around them."""
    if orbit < 0:
        raise InputError(f"--orbit must be at least 0, got {orbit}")
    if not orbit:
        if scene is None:
            raise InputError("render needs --scene SCENE for its cameras, or --orbit FRAMES for a film around")
        if size is not None or out.suffix.lower() in (".gif", ".mp4"):
            raise InputError("--size and films are for --orbit FRAMES; pictures beside photos go to a folder")
        parameters, photos = gaussians_of(gaussians), read_scene(scene, downscale, outside=outside)
        views = photos.held_out or photos.views
        save_pictures(parameters, views, out)
        typer.echo(f"{len(views)} views, rendered and photographed: {out}")
        return
    from hardy.runs.progress import track
    from hardy.splat.cameras import circle_of_gaussians, circle_of_scene, render_camera
    from hardy.splat.film import check_film, save_film

    check_film(out)
    parameters = gaussians_of(gaussians)
    width, height = 640, 480
    if scene is None:
        circle = circle_of_gaussians(parameters)
    else:
        photos = read_scene(scene, downscale, outside=outside)
        circle = circle_of_scene(photos)
        height, width = photos.views[0].image.shape[:2]
    if size is not None:
        width, height = _size(size)

    def frames() -> Iterator[Any]:
        for i in track(range(orbit), "render"):
            yield render_camera(parameters, circle.camera(i / orbit, width, height))

    save_film(frames(), out, fps)
    typer.echo(f"{orbit} frames of {width} x {height}: {out}")


def view(
    gaussians: Gaussians,
    scene: Annotated[Path | None, typer.Option(help="Whose cameras can be visited.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The next free one is taken if it is not.")] = 8080,
    height: Annotated[int, typer.Option(help="The most that an image gets, in pixels.")] = 720,
    downscale: Downscale = 1,
    outside: Outside = False,
) -> None:
    """Show Gaussians in the browser; a training that writes snapshots is shown as it goes on."""
    from hardy.splat.viewer import Viewer

    photos = None if scene is None else read_scene(scene, downscale, outside=outside)
    viewer = Viewer(gaussians, scene=photos, host=host, port=port, height=height)
    until_interrupted(f"Showing {gaussians} at {viewer.url}", viewer.stop)


def poses(
    photos: Annotated[Path, typer.Argument(help="Folder of photos.")],
    out: Annotated[
        Path, typer.Argument(help="Folder of the scene: images/ and a COLMAP model in sparse/0/.", callback=new_folder)
    ],
    matching: Annotated[
        Literal["exhaustive", "sequential"], typer.Option(help="Each photo with all others, or, for film, neighbours.")
    ] = "exhaustive",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
) -> None:
    """Find out where photos were taken from, and make a scene of them to train on."""
    from hardy.splat.poses import find_poses

    result = find_poses(photos, out, matching=matching, seed=seed)
    total = len(result.registered) + len(result.left_out)
    typer.echo(
        f"{len(result.registered)} of {total} photos have a pose, {result.points} points, {result.error:.2f} pixels off"
    )
    if result.left_out:
        typer.echo(f"Without a pose: {', '.join(result.left_out)}")
    typer.echo(f"Scene: {out}  (hardy splat train {out} OUT)")


def gaussians_of(path: Path) -> dict[str, Any]:
    """The Gaussians in a file, or in the folder of a training; at least one."""
    from hardy.splat.formats import load_gaussians
    from hardy.splat.training import PLY

    file = path / PLY if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no {file}")
    parameters = load_gaussians(file)
    if not len(parameters["means"]):
        raise InputError(f"{file} holds no Gaussians")
    return parameters


def read_scene(
    path: Path,
    downscale: int = 1,
    masks: Path | None = None,
    outside: bool = False,
    *,
    removed: Path | None = None,
    images: str = "images",
    hold_out: int = 8,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> "Scene":
    """The photos in a folder, or the traced room for its name; what was found is said."""
    from hardy.splat import load_scene

    if str(path) != "room" or path.exists():
        options: dict[str, Any] = {"images": images, "hold_out_every": hold_out, "background": background}
        scene = load_scene(path, downscale=downscale, masks=masks, removed=removed, outside=outside, **options)
        for note in scene.notes:
            typer.echo(note, err=True)
        for names, what in ((scene.missing, "are listed and not there"), (scene.extra, "are there and have no camera")):
            if names:
                shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
                typer.echo(f"Left out: {len(names)} photos that {what}: {shown}", err=True)
        return scene
    from hardy.splat.room import room

    if masks is not None or removed is not None or downscale < 1:
        raise InputError(f"the room has no masks and downscale is at least 1, got {masks or removed} and {downscale}")
    return room(hold_out_every=hold_out).smaller(downscale)


def read_background(text: str) -> tuple[float, float, float]:
    """black, white, or three numbers from 0 to 1 divided by commas."""
    names = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
    if text in names:
        return names[text]
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--background must be black, white, or three numbers such as 0.5,0.5,0.5, got {text!r}"
        ) from None
    return red, green, blue


def _size(text: str) -> tuple[int, int]:
    words = text.lower().split("x")
    if len(words) != 2 or not all(word.isdigit() and int(word) > 0 for word in words):
        raise InputError(f"--size must be WIDTHxHEIGHT, such as 640x480, got {text!r}")
    return int(words[0]), int(words[1])


def save_pictures(parameters: dict[str, Any], views: "tuple[View, ...]", out: Path) -> None:
    """One PNG for each view: the rendering, and the photo to its right."""
    import torch
    from PIL import Image

    from hardy.files import write_atomic
    from hardy.reading import below
    from hardy.splat import render_view

    taken: set[str] = set()
    for view in views:
        with torch.no_grad():
            image = render_view(parameters, view)[0][0].clamp(0, 1)
        both = (torch.cat([image.cpu(), view.image], 1) * 255).round().to(torch.uint8).numpy()
        picture = Image.fromarray(both)
        path = Path(view.name).with_suffix("")
        name = "_".join(part for part in path.parts if part not in (path.anchor, ".."))  # no photo over another
        while name.lower() in taken:  # nor where a and A are one file
            name += "_"
        taken.add(name.lower())
        write_atomic(below(out, f"{name}.png", "the scene"), lambda path, made=picture: made.save(path, "PNG"))
