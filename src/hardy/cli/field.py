"""`hardy field`: pictures, videos and short sounds as small networks of integers in a file."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.cli.options import new_file
from hardy.errors import InputError

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Store pictures as small networks that decode to the same pixels everywhere.")

Steps = Annotated[int, typer.Option(help="Steps of each fit.")]
Device = Annotated[
    str | None, typer.Option(help="Where networks of coordinates are fitted: cpu or cuda; a GPU if there is one.")
]
Seed = Annotated[int, typer.Option(help="Of the fits: the same seed makes the same file on the same machine.")]


HASH_GRIDS = (
    "a hash grid is kept in floating point (hardy.fields.save_field), several times as large as a file of integers: "
    "--field is latents or coordinates"
)


def _aim(text: str) -> float | None:
    number = text.strip().lower().removesuffix("db").strip()
    if not number:
        return None
    try:
        return float(number)
    except ValueError:
        raise InputError(f"--target takes a PSNR such as 35dB, got {text!r}") from None


def _where(device: str | None, field: str) -> "torch.device":
    """Where networks of coordinates are fitted, which is said; latents are encoded on the CPU."""
    from hardy.devices import device_of

    if field == "latents" and device not in (None, "auto", "cpu"):
        raise InputError(f"latents are encoded on the CPU; --device {device} is of --field coordinates")
    found = device_of("cpu" if field == "latents" else device)
    if field != "latents":
        typer.echo(f"fitted on {found}", err=True)
    return found


@app.command()
def encode(
    source: Annotated[
        str,
        typer.Argument(help="Picture, folder of frames, WAV file; or china or flower, photos that come along."),
    ] = "flower",
    out: Annotated[
        Path | None, typer.Argument(help="File to write; by default SOURCE.hardy.", callback=new_file)
    ] = None,
    target: Annotated[str, typer.Option(help="PSNR to reach, such as 35dB: the smallest file that does.")] = "",
    bpp: Annotated[float | None, typer.Option(help="Bits per pixel of the file: the best picture that fits.")] = None,
    field: Annotated[
        str,
        typer.Option(
            help="latents, or coordinates: a network of them, with --steps or --seed and for films and sounds."
        ),
    ] = "",
    profile: Annotated[bool, typer.Option(help="Keep the profile of a picture's colours, some hundred bytes.")] = True,
    hdr: Annotated[
        bool, typer.Option(help="The picture is of high range (.hdr, .pfm, .npy, float .tif): keep logarithms of it.")
    ] = False,
    normalize: Annotated[bool, typer.Option(help="Make a sound as loud as it can be.")] = False,
    preset: Annotated[str, typer.Option(help="fast, default or best: how long to encode latents.")] = "default",
    steps: Annotated[int | None, typer.Option(help="Of each fit of a network of coordinates; 1000.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the fits of networks of coordinates; 0.")] = None,
    device: Device = None,
) -> None:
    """Encode a picture, a folder of frames or a short sound. Without an aim, 0.25 bits per pixel."""
    from hardy import checks
    from hardy.fields.codec import encode as encode_coordinates
    from hardy.fields.codec import save_encoded
    from hardy.fields.latent_codec import encode_latents
    from hardy.fields.media import load_media

    aim = _aim(target)
    if aim is not None and bpp is not None:
        raise InputError("--target and --bpp exclude each other")
    signal, contents = load_media(source, hdr=hdr, normalize=normalize)
    if normalize and contents.kind != "audio":
        raise InputError("--normalize is for sounds")
    if contents.profile and not profile:
        contents = dataclasses.replace(contents, profile=b"")
    of_network = steps is not None or seed is not None
    field = field or ("latents" if contents.kind == "image" and not of_network else "coordinates")
    if field in ("hash", "grid", "hash-grid"):
        raise InputError(HASH_GRIDS)
    where = _where(device, checks.one_of("field", field, ("latents", "coordinates")))
    settings: dict[str, Any] = {
        "target_psnr": aim,
        "bits_per_point": 0.25 if aim is None and bpp is None else bpp,
        "report": lambda text: typer.echo(text, err=True),
        "progress": True,
    }
    if field == "latents":
        if of_network:
            raise InputError("--steps and --seed are of --field coordinates; latents have a --preset")
        result = encode_latents(signal, contents, preset=preset, **settings)
    else:
        steps, seed = 1000 if steps is None else steps, seed or 0
        result = encode_coordinates(signal, contents, steps=steps, seed=seed, device=where, **settings)
    path = Path(f"{Path(source).name}.hardy") if out is None else out
    save_encoded(result, path)
    chosen = ", ".join(f"{name} {value:g}" for name, value in result.settings.items())
    typer.echo(
        f"{path}: {len(result.data)} bytes, {result.bits_per_point:.3f} bits per "
        f"{'sample' if contents.kind == 'audio' else 'pixel'}, {result.psnr[0]:.2f} dB ({chosen})"
    )


@app.command()
def info(
    source: Annotated[Path, typer.Argument(help="File that hardy field wrote.")],
    most_points: Annotated[
        int | None,
        typer.Option(help="Pixels or samples that a file may declare; by default 16384 for each byte of it."),
    ] = None,
) -> None:
    """What a file holds: its kind, sizes, and what its pixels are made from."""
    from hardy.fields.container import Picture, load_fields
    from hardy.fields.latent_tiles import TiledField

    models, contents = load_fields(source, most_points=most_points)
    size = source.stat().st_size
    points = sum(math.prod(grid) for grid in contents.grids)
    rate = f", {8 * size / points:.3f} bits per pixel" if points else ""
    profile = f", a colour profile of {len(contents.profile)} bytes" if contents.profile else ""
    if contents.stops is not None:
        profile += f", logarithms of light from 2^{contents.stops[0]} to 2^{contents.stops[1]}"
    typer.echo(
        f"{source}: {contents.kind}, {len(models)} in {size} bytes{rate}, {contents.sample_bits} bits a sample{profile}"
    )
    for index, model in enumerate(models):
        grid = " x ".join(map(str, contents.grids[index])) if contents.grids else "no grid"
        if isinstance(model, Picture):
            tiles = model.tiles if isinstance(model, TiledField) else [model]
            parts = [part for tile in tiles for level in tile.latents for part in level]
            total, other = sum(part.size for part in parts), sum(int((part != 0).sum()) for part in parts)
            made = f"{total} latents at {len(tiles[0].latents) - 1} levels, {other / total:.1%} of them not zero"
            made += f", in {len(tiles)} tiles" if len(tiles) > 1 else ""
        else:
            widths = [model.in_features, *(len(layer.bias) for layer in model.layers)]
            made = f"a network of {'-'.join(map(str, widths))}, {model.bits} bits before entropy coding"
        typer.echo(f"  {grid}: {made}")


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(help="File that hardy field wrote.")],
    out: Annotated[Path, typer.Argument(help="Picture or WAV file to write; a folder for videos and albums.")],
    scale: Annotated[
        float, typer.Option(help="So many times the size: networks are rendered, latents interpolated.")
    ] = 1.0,
    most_points: Annotated[
        int | None,
        typer.Option(help="Pixels or samples that a file may declare; by default 16384 for each byte of it."),
    ] = None,
) -> None:
    """Decode a file to the same pixels on every machine, at any size."""
    import numpy as np

    from hardy.fields.codec import decode as run
    from hardy.fields.codec import scaled
    from hardy.fields.container import load_fields
    from hardy.fields.media import save_media
    from hardy.files import check_writable

    models, contents = load_fields(source, most_points=most_points)
    if contents.kind == "field":
        raise InputError(f"{source} holds a field that is no picture, video or sound")
    axes = (1, 2) if contents.kind == "video" else (0, 1)
    if contents.kind == "audio" and scale != 1:
        raise InputError("--scale is for pictures and videos")
    several = len(models) > 1 and contents.kind != "audio"
    check_writable(out, folder=several)
    found = [
        run(model, scaled(grid, scale, axes), contents.sample_bits)
        for model, grid in zip(models, contents.grids, strict=True)
    ]
    if contents.kind == "audio":
        found = [np.concatenate(found)]
    for index, samples in enumerate(found):
        save_media(samples, out / f"picture-{index:05}.png" if several else out, contents)
    typer.echo(f"{out}: {len(found)} {contents.kind}{'s' if several else ''}")


@app.command()
def album(
    files: Annotated[list[str], typer.Argument(help="Pictures, and last the file to write.")],
    target: Annotated[str, typer.Option(help="PSNR that each picture reaches, such as 35dB: as latents.")] = "",
    bpp: Annotated[float | None, typer.Option(help="Bits per pixel of the file: as latents.")] = None,
    field: Annotated[str, typer.Option(help="latents, or coordinates: networks that share their middle layers.")] = "",
    preset: Annotated[str, typer.Option(help="fast, default or best: how long to encode latents.")] = "default",
    width: Annotated[int, typer.Option(help="Units of a hidden layer of networks.")] = 48,
    bits: Annotated[int, typer.Option(help="Bits of their weights before entropy coding.")] = 7,
    steps: Steps = 1000,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Encode many pictures into one file: networks that share their middle layers, or, with an aim, latents."""
    from hardy import checks
    from hardy.fields.codec import encode_album, save_encoded
    from hardy.fields.container import Contents
    from hardy.fields.latent_codec import encode_latent_album
    from hardy.fields.media import load_media

    *sources, out = files
    new_file(out)
    if not sources or Path(out).suffix != ".hardy":
        raise InputError(f"an album takes pictures and last a file ending in .hardy, got {' '.join(files)}")
    aim = _aim(target)
    if aim is not None and bpp is not None:
        raise InputError("--target and --bpp exclude each other")
    aimed = aim is not None or bpp is not None
    field = checks.one_of("field", field or ("latents" if aimed else "coordinates"), ("latents", "coordinates"))
    if aimed and field == "coordinates":
        raise InputError("--target and --bpp are of latents; networks that share layers have a --width and --bits")
    where = _where(device, field)
    pairs = [load_media(source) for source in sources]
    if any(contents.kind != "image" for _, contents in pairs):
        raise InputError("an album is made of pictures")
    grids = tuple(contents.grids[0] for _, contents in pairs)
    deep = max(contents.sample_bits for _, contents in pairs)
    profiles = {contents.profile for _, contents in pairs}
    if len(profiles) > 1:
        typer.echo("the pictures have different colour profiles: none is kept", err=True)
    contents = Contents(
        kind="image", grids=grids, sample_bits=deep, profile=profiles.pop() if len(profiles) == 1 else b""
    )
    signals = [signal for signal, _ in pairs]
    if field == "latents":
        result = encode_latent_album(
            signals,
            contents,
            target_psnr=aim,
            bits_per_point=0.25 if not aimed else bpp,
            preset=preset,
            report=lambda text: typer.echo(text, err=True),
            progress=True,
        )
    else:
        networks: dict[str, Any] = {"width": width, "weight_bits": bits, "steps": steps, "seed": seed}
        result = encode_album(signals, contents, **networks, progress=True, device=where)
    save_encoded(result, out)
    mean = sum(result.psnr) / len(result.psnr)
    typer.echo(
        f"{out}: {len(sources)} pictures, {len(result.data)} bytes, {result.bits_per_point:.3f} bits per pixel, "
        f"{mean:.2f} dB on average, {min(result.psnr):.2f} dB at the least"
    )
