"""What fills a hole in one photo: `PatchMatch`, `OpenCV`, `Tiny`, `Diffusion`, or any callable of that form.

An inpainter knows one photo only; what makes fills agree between photos is `hardy.splat.inpaint` around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from hardy.errors import InputError, near_misses
from hardy.splat.inpainters.diffusion import Diffusion
from hardy.splat.inpainters.opencv import OpenCV
from hardy.splat.inpainters.patchmatch import PatchMatch
from hardy.splat.inpainters.tiny import Tiny

NAMES = ("patchmatch", "opencv", "opencv-telea", "tiny", "diffusers:PATH")

__all__ = ["NAMES", "Diffusion", "Inpainter", "OpenCV", "PatchMatch", "Tiny", "named"]


class Inpainter(Protocol):
    """Fills the hole of one photo in up to `count` ways, which differ by `seed`.

    Args:
        image: (height, width, 3), 0 to 1; in the hole it may be anything.
        hole: (height, width) bool, what is to be filled.
        prior: (height, width) bool, pixels of the hole where `image` holds what is likely there; kept or improved on.
        count: of candidates wanted; a method that draws nothing gives one.
        seed: of whatever is drawn.

    Returns:
        Images (height, width, 3), equal to `image` outside of the hole.
    """

    def __call__(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        *,
        prior: torch.Tensor | None = None,
        count: int = 1,
        seed: int = 0,
    ) -> list[torch.Tensor]: ...


def named(
    name: str, images: Sequence[torch.Tensor] = (), holes: Sequence[torch.Tensor] = (), seed: int = 0
) -> Inpainter:
    """The inpainter of a name on the command line.

    Args:
        name: "patchmatch", "opencv" (Navier-Stokes), "opencv-telea", "tiny", or "diffusers:PATH" for a pipeline in a
            local folder.
        images, holes: of the scene, which "tiny" is trained on.
        seed: of that training.

    Raises:
        InputError: there is no such name.
    """
    kind, _, path = name.partition(":")
    if kind == "diffusers" and path:
        return Diffusion(path=path)
    if path or kind not in NAMES:
        raise InputError(
            f"there is no inpainter {name!r}; there are {', '.join(NAMES)}{near_misses(kind, list(NAMES))}"
        )
    if kind == "tiny":
        return Tiny.trained(images, holes, seed=seed)
    return {"patchmatch": PatchMatch(), "opencv": OpenCV(), "opencv-telea": OpenCV(method="telea")}[kind]
