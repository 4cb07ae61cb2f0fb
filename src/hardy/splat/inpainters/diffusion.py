"""A pipeline of diffusers from a local folder as an inpainter; no model is ever downloaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardy import checks
from hardy.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """An `Inpainter`. A prior is what the pipeline starts from, noised by `strength` (SDEdit, arXiv 2108.01073).

    Args:
        path: folder of an inpainting pipeline, as `save_pretrained` writes it.
        prompt: for the pipeline.
        steps: of denoising.
        strength: share of the steps that a prior goes through; without a prior all of them.
        guidance: scale of classifier-free guidance.
        device: "cpu" or "cuda".
    """

    path: str
    prompt: str = ""
    steps: int = 20
    strength: float = 0.6
    guidance: float = 5.0
    device: str = "cpu"
    _pipelines: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, at_least=1)
        checks.number("strength", self.strength, above=0, at_most=1)
        if not (Path(self.path) / "model_index.json").is_file():
            raise InputError(f"{self.path} holds no pipeline of diffusers: there is no model_index.json")

    def __call__(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        *,
        prior: torch.Tensor | None = None,
        count: int = 1,
        seed: int = 0,
    ) -> list[torch.Tensor]:
        from PIL import Image

        if not bool(hole.any()):
            return [image.clone()]
        pipeline = self._pipeline()
        height, width = image.shape[:2]
        size = (8 * -(-width // 8), 8 * -(-height // 8))
        photo = Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()).resize(size)
        mask = Image.fromarray(hole.cpu().numpy().astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
        made = pipeline(
            prompt=self.prompt,
            image=photo,
            mask_image=mask,
            width=size[0],
            height=size[1],
            strength=1.0 if prior is None or not bool(prior.any()) else self.strength,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            num_images_per_prompt=count,
            generator=torch.Generator(self.device).manual_seed(seed),
        ).images
        pixels = [
            torch.from_numpy(np.array(each.convert("RGB").resize((width, height)))).to(image) / 255 for each in made
        ]
        return [torch.where(hole[..., None], each, image) for each in pixels]

    def _pipeline(self) -> Any:
        if "made" not in self._pipelines:
            try:
                from diffusers import AutoPipelineForInpainting  # pyright: ignore[reportMissingImports]
            except ImportError:
                raise InputError("this inpainter needs diffusers: pip install diffusers") from None
            pipeline = AutoPipelineForInpainting.from_pretrained(self.path, local_files_only=True).to(self.device)
            pipeline.set_progress_bar_config(disable=True)
            self._pipelines["made"] = pipeline
        return self._pipelines["made"]
