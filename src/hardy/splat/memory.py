"""What a training needs of memory and what there is: refused before it begins, or stopped before it is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hardy.errors import InputError

if TYPE_CHECKING:
    from hardy.splat.scene import View

_FLOAT = 4
_SPARE = 0.9  # of what is available; the rest is for everything else
_IMAGES_AT_WORK = 40  # as large as one photo each: the rendering, what SSIM makes of it, and the gradients of both


def gaussian_bytes(degree: int) -> int:
    """Of one Gaussian in training: parameters, gradients, both moments, what the rasterizer makes, and one change."""
    coefficients = (degree + 1) ** 2
    parameters = 3 + 3 + 4 + 1 + 3 * coefficients
    kept = 4 * parameters  # the parameter, its gradient, two moments
    joined = 2 * 3 * coefficients  # both kinds of coefficients in one tensor, and its gradient
    changed = 3 * 3 * coefficients  # the largest parameter and its moments, while old and new ones exist
    drawn = 80  # projections, colors and statistics with their gradients, and the lists of tiles
    return _FLOAT * (kept + joined + changed + drawn)


def view_bytes(views: Sequence[View]) -> int:
    """What training adds to photos that are already there: the smaller ones of a schedule, and one at work."""
    sizes = [view.image.numel() for view in views]
    return _FLOAT * (sum(sizes) // 4 + _IMAGES_AT_WORK * max(sizes))


def available(device: torch.device | None = None) -> int | None:
    """Bytes that can still be had, on this machine or on its GPU; None where the system does not say."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [value for value in (_of_machine(), _of_container()) if value is not None]
    return min(limits) if limits else None


def check_start(
    count: int, budget: int | None, degree: int, views: Sequence[View], device: torch.device | None = None
) -> None:
    """Raise InputError if memory does not suffice for the Gaussians to start from, or for the budget of them."""
    free = available(device)
    if free is None:
        return
    usable = _SPARE * free - view_bytes(views)
    most = max(count, budget or 0)
    if most * gaussian_bytes(degree) <= usable:
        return
    fits = int(usable / gaussian_bytes(degree))
    need = most * gaussian_bytes(degree) + view_bytes(views)
    kind = "a budget of" if budget is not None and budget >= count else "a start with"
    hint = f"a budget of {fits} fits" if fits >= count else f"{fits} Gaussians fit; a lower degree needs less"
    if fits < 1:
        hint = "not even one Gaussian fits beside the photos; make them smaller (downscale)"
    raise InputError(
        f"{kind} {most} Gaussians of degree {degree} needs about {_gib(need)}, and {_gib(free)} are available: {hint}"
    )


def check_photos(sizes: Sequence[tuple[int, int]], downscale: int) -> None:
    """Raise InputError if photos of these (width, height), made smaller by a factor, do not fit."""
    free = available()
    if free is None or not sizes:
        return
    whole = 3 * _FLOAT * max(width * height for width, height in sizes)  # one at a time is read at full size
    pixels = 3 * _FLOAT * sum(width * height for width, height in sizes)

    def need(factor: int) -> int:
        return pixels // factor**2 + 3 * whole

    if need(downscale) <= _SPARE * free:
        return
    factor = next((factor for factor in range(downscale, 65) if need(factor) <= _SPARE * free), None)
    hint = "no whole factor makes them fit" if factor is None else f"they fit with downscale={factor}"
    raise InputError(f"{len(sizes)} photos need {_gib(need(downscale))}, and {_gib(free)} are available: {hint}")


def shortage(before: int, after: int, degree: int, device: torch.device | None = None) -> str:
    """What to say after Gaussians grew, if there is no room for them to grow once more as much; otherwise nothing."""
    if after <= before:
        return ""
    free = available(device)
    need = (after - before) * gaussian_bytes(degree)
    if free is None or need <= _SPARE * free:
        return ""
    room = after + int(_SPARE * free / gaussian_bytes(degree))
    return (
        f"the {after} Gaussians, {after - before} of them new, need about {_gib(need)} to grow as much again, and "
        f"{_gib(free)} are available: a budget of {room} fits"
    )


@contextlib.contextmanager
def out_of_memory_named(step: int, count: int, out: str | Path | None) -> Iterator[None]:
    """Turn a failed allocation into an InputError that says when it was, and what is left."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        failed = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not failed:
            raise
        left = "nothing is kept, because there is no folder" if out is None else f"the last checkpoint is in {out}"
        raise InputError(
            f"memory ran out at step {step} with {count} Gaussians; give a budget below that; {left}"
        ) from None


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> int | None:
    """What is left of the limit of a control group (version 2); its page cache can be had back."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))  # "max", no number, for none
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, limit - used + int(statistics.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"
