"""Gaussians from one file format to another, with an account of what there was and what was lost."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from hardy.errors import InputError
from hardy.report import Report, Row
from hardy.splat.formats import format_of, load_gaussians, lost_in, save_gaussians
from hardy.splat.quality import degree_of


def convert(source: str | Path, target: str | Path, *, repair: bool = False) -> Report:
    """Write the Gaussians of a file in another format, which the ending of `target` names.

    Args:
        source: .ply, .compressed.ply, .splat, .spz or .sog.
        target: .ply, .compressed.ply, .splat, .spz, .sog or .glb.
        repair: leave out Gaussians that cannot be (values that are not finite, zero rotations or sizes); otherwise they
            are an error.

    Returns:
        What was read and written: how many, degree, bounds, sizes, what was left out and lost.

    Raises:
        InputError: an ending is unknown, a file is damaged, or there are broken Gaussians and no `repair`.
    """
    source, target = Path(source), Path(target)
    kind = format_of(target)
    format_of(source)
    if source.resolve() == target.resolve():
        raise InputError(f"{target} is what is read; choose another file to write")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parameters = load_gaussians(source)
    broken = [str(each.message) for each in caught if "are left out" in str(each.message)]
    for each in caught:
        if str(each.message) not in broken:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if broken and not repair:
        raise InputError(f"{broken[0]}; --repair (repair=True) writes the others")
    count = len(parameters["means"])
    if not count:
        raise InputError(f"{source} holds no Gaussians")
    save_gaussians(parameters, target)
    low, high = parameters["means"].aminmax(dim=0)
    sizes = {"in": source.stat().st_size, "out": target.stat().st_size}
    lost = lost_in(kind, parameters)
    values = {"Gaussians": count, "degree of spherical harmonics": degree_of(parameters)}
    rows = [Row(metric=name, condition="written", value=value) for name, value in values.items()]
    rows += [Row(metric="size", condition=f"file {name}", value=size / 1e6, unit="MB") for name, size in sizes.items()]
    rows += [
        Row(metric=f"{axis} from", condition="bounds", value=float(low[i]), details={"to": float(high[i])})
        for i, axis in enumerate("xyz")
    ]
    opaque = float((torch.sigmoid(parameters["opacities"]) > 0.5).float().mean())
    return Report(
        title=f"{source.name} as {target.name}",
        summary=(
            f"{count} Gaussians of degree {degree_of(parameters)}, {sizes['in'] / 1e6:.2f} MB read and "
            f"{sizes['out'] / 1e6:.2f} MB written; {opaque:.0%} of them are more opaque than not.",
            "Bounds: " + ", ".join(f"{axis} {low[i]:.3g} to {high[i]:.3g}" for i, axis in enumerate("xyz")) + ".",
            *(f"Left out: {text}." for text in broken),
            *(f"Lost: {text}." for text in lost or ["nothing"]),
        ),
        rows=tuple(rows),
        settings={"in": str(source), "out": str(target), "repair": repair},
    )
