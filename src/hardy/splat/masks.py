"""What is to go from photos: masks read, grown, compared and drawn."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.splat.scene import View

COVERS_ALL = 0.9
"""A mask that covers more than this draws a warning: it may mean the other thing by white."""


def grown(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """A mask (height, width) with all that is at most `pixels` from it, as a disc measures."""
    checks.integer("pixels", pixels, at_least=0)
    if not pixels:
        return mask
    side = torch.arange(-pixels, pixels + 1, device=mask.device)
    disc = (side[:, None] ** 2 + side[None] ** 2 <= (pixels + 0.5) ** 2).float()
    near = torch.nn.functional.conv2d(mask.float()[None, None], disc[None, None], padding=pixels)
    return near[0, 0] > 0.5


def shrunk(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """A mask without what is at most `pixels` from its edge; the border of the image is no edge."""
    return ~grown(~mask, pixels)


def usual_growth(views: Sequence[View]) -> int:
    """Pixels by which masks are grown if nobody says: a hundredth of the width, 1 to 7."""
    return max(1, min(7, round(max(view.image.shape[1] for view in views) / 100)))


def differing(first: torch.Tensor, second: torch.Tensor, least: float = 0.02, growth: int = 1) -> torch.Tensor:
    """Where two images (height, width, 3) of one camera differ in some channel by more than `least`, grown.

    Of a scene with and without a thing that is the thing, its shadow and its reflections.
    """
    checks.number("least", least, at_least=0)
    if first.shape != second.shape:
        raise InputError(f"two images must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    return grown((first - second).abs().amax(-1) > least, growth)


def check_holes(holes: Sequence[torch.Tensor], views: Sequence[View], *, empty: bool = False) -> None:
    """Raise InputError unless there is a mask of the right size for each view, and they leave and take something.

    With `empty` they may take nothing. Warns where a mask covers more than nine tenths.
    """
    if len(holes) != len(views):
        raise InputError(f"there must be a mask for each view, got {len(holes)} for {len(views)}")
    for hole, view in zip(holes, views, strict=True):
        height, width = view.image.shape[:2]
        if hole.shape != (height, width) or hole.dtype != torch.bool:
            shape = " x ".join(str(size) for size in reversed(hole.shape))
            raise InputError(
                f"the mask of {view.name} is {shape} {hole.dtype}, its photo {width} x {height}; bool is due"
            )
    if not empty and not any(bool(hole.any()) for hole in holes):
        raise InputError(f"the masks of all {len(holes)} views are empty (black): there is nothing to remove")
    if all(bool(hole.all()) for hole in holes):
        raise InputError(f"the masks of all {len(holes)} views cover everything: nothing would be left")
    full = [view.name for hole, view in zip(holes, views, strict=True) if hole.float().mean() > COVERS_ALL]
    if full:
        warnings.warn(
            f"{len(full)} of {len(holes)} masks cover more than {COVERS_ALL:.0%} of their photo ({full[0]}): white is "
            "what is to go here; for `hardy splat train --masks` white is what counts",
            stacklevel=2,
        )


def png_names(views: Sequence[View]) -> list[str]:
    """The file of each view as a PNG: its name with that ending, or where two would share it with .png after it."""
    short = [str(Path(view.name).with_suffix(".png")) for view in views]
    count = Counter(name.lower() for name in short)
    return [name if count[name.lower()] == 1 else f"{view.name}.png" for name, view in zip(short, views, strict=True)]


def save_masks(masks: Sequence[torch.Tensor], views: Sequence[View], folder: str | Path) -> None:
    """Each mask as a PNG with its view's name (`png_names`), white for true."""
    from PIL import Image

    from hardy.files import write_atomic
    from hardy.reading import below

    for mask, name in zip(masks, png_names(views), strict=True):
        picture = Image.fromarray(mask.cpu().to(torch.uint8).numpy() * 255)
        write_atomic(below(folder, name, "the scene"), lambda path, made=picture: made.save(path, "PNG"))
