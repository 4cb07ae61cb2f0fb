"""OpenCV's two ways to let the rim of a hole flow into it: fast, smooth, without texture."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
import torch

from hardy import checks
from hardy.errors import InputError, install

Method = Literal["navier-stokes", "telea"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenCV:
    """An `Inpainter`; nothing is drawn, so there is one candidate. Colors of the fill are rounded to 256 levels.

    Args:
        method: "navier-stokes" (Bertalmio et al., CVPR 2001) or "telea" (Telea, Journal of Graphics Tools 9(1), 2004).
        radius: of the neighbourhood, in pixels.
    """

    method: Method = "navier-stokes"
    radius: float = 3

    def __post_init__(self) -> None:
        checks.one_of("method", self.method, get_args(Method))
        checks.number("radius", self.radius, above=0)

    def __call__(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        *,
        prior: torch.Tensor | None = None,
        count: int = 1,
        seed: int = 0,
    ) -> list[torch.Tensor]:
        try:
            import cv2  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(f"this inpainter needs OpenCV: {install('splat')}") from None
        unknown = hole if prior is None else hole & ~prior
        flag = cv2.INPAINT_NS if self.method == "navier-stokes" else cv2.INPAINT_TELEA
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        filled = cv2.inpaint(pixels, unknown.cpu().numpy().astype(np.uint8), self.radius, flag)
        made = torch.from_numpy(filled).to(image) / 255
        return [torch.where(unknown[..., None], made, image)]
