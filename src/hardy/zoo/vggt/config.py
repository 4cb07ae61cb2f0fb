"""The sizes of a VGGT: those of the public weights by default."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hardy import checks
from hardy.errors import InputError

CameraCache = Literal["shared", "per-iteration"]
CAMERA_CACHES: tuple[CameraCache, ...] = ("shared", "per-iteration")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGGTConfig:
    """Sizes of a `VGGT`; the defaults are those of facebook/VGGT-1B and lch01/StreamVGGT.

    Args:
        image_size: side in pixels for which the encoder's position embedding is stored; others are interpolated.
        patch_size: side of a patch in pixels.
        dim, heads: of the encoder and of the alternating blocks.
        encoder_depth: blocks of the encoder (DINOv2).
        depth: pairs of a block inside of each frame and one across frames.
        registers: tokens beside the camera token of each frame.
        taps: the four pairs whose outputs the dense heads read.
        camera_depth, camera_heads, iterations: blocks of the camera head's trunk, and how often it refines a pose.
        features, channels, hidden: of the dense heads: of the fusion, of the four levels, before the output.
        dense: which dense heads there are. Without "point", points are unprojected from depth and pose.
        camera_cache: when streaming, whether the iterations of the camera head share one cache, as the public streaming
            weights were used, or each has its own, as in a batch.

    Raises:
        InputError: a number is out of range, or dim is no multiple of 4 heads.
    """

    image_size: int = 518
    patch_size: int = 14
    dim: int = 1024
    heads: int = 16
    encoder_depth: int = 24
    depth: int = 24
    registers: int = 4
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_depth: int = 4
    camera_heads: int = 16
    iterations: int = 4
    features: int = 256
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    hidden: int = 32
    dense: tuple[str, ...] = ("depth", "point")
    camera_cache: CameraCache = "shared"

    def __post_init__(self) -> None:
        for field in ("image_size", "patch_size", "dim", "heads", "encoder_depth", "depth", "camera_depth",
                      "camera_heads", "iterations", "features", "hidden"):  # fmt: skip
            checks.integer(field, getattr(self, field), at_least=1)
        checks.integer("registers", self.registers, at_least=0)
        if self.dim % (4 * self.heads) or 2 * self.dim % self.camera_heads:
            raise InputError(
                f"dim must be a multiple of 4 x heads, and 2 x dim of camera_heads; got dim {self.dim}, heads "
                f"{self.heads}, camera_heads {self.camera_heads}"
            )
        for name in ("taps", "channels"):
            object.__setattr__(self, name, tuple(checks.items(name, getattr(self, name))))
            if len(getattr(self, name)) != 4:
                raise InputError(f"{name} must be four, got {getattr(self, name)}")
        for tap in self.taps:
            checks.integer("taps", tap, at_least=0, at_most=self.depth - 1)
        object.__setattr__(self, "dense", tuple(checks.one_of("dense", n, ("depth", "point")) for n in self.dense))
        if "depth" not in self.dense:
            raise InputError('dense must name "depth"')
        checks.one_of("camera_cache", self.camera_cache, CAMERA_CACHES)

    @property
    def special(self) -> int:
        """Tokens of a frame that are no patches: they come first."""
        return 1 + self.registers

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches of a frame, down and across.

        Raises:
            InputError: a side is no multiple of the patch size.
        """
        if min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"a frame's sides must be multiples of the patch size {self.patch_size}, got {height} x {width} pixels"
            )
        return height // self.patch_size, width // self.patch_size

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a frame of this many pixels; `InputError` as of `grid`."""
        down, across = self.grid(height, width)
        return self.special + down * across
