"""A stream of frames in bounded memory: pose, depth and points of each frame as it comes.

Source: XStreamVGGT (arXiv 2601.01204): after a frame has attended to what is kept, each layer drops what is beyond its
budget, by the same rules and into the same packed pages as for language models. Where we differ: budgets count frames,
and one that would leave nothing to choose is still what it says; tokens are quantized once; no order of tokens is kept,
as a VGGT's keys know their place in the image and nothing of time.

All state is in the session, none on the model: any number of sessions take turns on one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from hardy import checks
from hardy.errors import InputError
from hardy.hooks import Hooks, watch
from hardy.stream.bounded import BoundedLayer
from hardy.stream.policy import Budget, KVPolicy, Protect
from hardy.stream.scorers import SinkRecent
from hardy.stream.store import SPARSE
from hardy.zoo.vggt import VGGT, Attend, Geometry, kv_bytes
from hardy.zoo.vggt.config import CAMERA_CACHES, CameraCache

CAMERA_FRAMES = 512
"""Frames whose cameras the camera head remembers, where there is a budget: 2,048 tokens of four refinements."""
_CAMERA_SHARE = 0.1  # of a budget in bytes, at most


@dataclasses.dataclass(frozen=True)
class FrameGeometry:
    """What a session says of one frame, on the CPU; the unit of length is the model's own.

    Attributes:
        index: of the frame in its stream.
        pose: (9,), as `hardy.zoo.vggt.camera` has it.
        viewmat: (4, 4), world to camera; x to the right, y down, z ahead; the world is that of the first camera.
        K: (3, 3), in pixels.
        depth: (height, width), along the camera's axis.
        confidence: (height, width), from 1.
        points: (height, width, 3), in the world.
        points_confidence: (height, width).
    """

    index: int
    pose: torch.Tensor
    viewmat: torch.Tensor
    K: torch.Tensor
    depth: torch.Tensor
    confidence: torch.Tensor
    points: torch.Tensor
    points_confidence: torch.Tensor

    @classmethod
    def of(cls, index: int, found: Geometry) -> FrameGeometry:
        """The only frame of `found`."""
        viewmats, intrinsics = found.cameras
        each = (found.pose, viewmats, intrinsics, found.depth, found.depth_confidence, found.points)
        pose, viewmat, k, depth, confidence, points = (tensor[0, 0].float().cpu() for tensor in each)
        return cls(index, pose, viewmat, k, depth, confidence, points, found.points_confidence[0, 0].float().cpu())


class FrameLayer(BoundedLayer):
    """One layer of a `StreamSession`: what frames of it are kept."""

    def __init__(self, policy: KVPolicy, number: int, together: int) -> None:
        super().__init__(policy, number, per_head=policy.rule.per_head, together=together)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """What the current frame attends to: what is kept, and itself as it was computed."""
        kept = self.store.view(keys.dtype) if self.store.length else None
        self.store.append(keys, values)
        if kept is not None:
            keys, values = (torch.cat([old, new], 2) for old, new in zip(kept, (keys, values), strict=True))
        found = scaled_dot_product_attention(queries, keys, values)
        self.policy.rule.forget(self.memory)  # only the current frame asks
        self.show_queries(queries, queries.shape[-1] ** -0.5)
        if self.policy.rule.needs != "mlp_out":
            self.settle()
        return found

    def after_mlp(self, output: torch.Tensor) -> None:
        """Show the scorer what the MLP adds for the current frame (1, tokens, dim), and evict what is too much."""
        self.show_mlp(output)
        self.settle()


class StreamSession:
    """A VGGT over the frames of a video, one at a time, for as long as it lasts.

    Args:
        model: in evaluation mode.
        policy: what each of the global layers keeps; everything in 16 bits by default. Budgets of "2 frames" and more,
            tokens of each layer, or bytes of the whole; the first frame and the current one are protected, and stay in
            16 bits.
        camera_cache: "shared" between the refinements of a pose, or "per-iteration"; the model's own by default.

    Attributes:
        frames: seen so far.
        failed: whether a frame was not taken in to its end, after which nothing fits.

    Raises:
        InputError: the model is none that streams, or the policy is not for frames.
    """

    def __init__(self, model: VGGT, policy: KVPolicy | None = None, *, camera_cache: CameraCache | None = None) -> None:
        if not isinstance(model, VGGT):
            raise InputError(
                f"a session runs a VGGT of hardy.stream.vggt, got {type(model).__name__}; a language model streams "
                "with CompressedCache"
            )
        if model.training:
            raise InputError("the model is in training mode; model.eval() ends it")
        self.model, self.policy = model, KVPolicy() if policy is None else policy
        chosen = model.config.camera_cache if camera_cache is None else camera_cache
        self.camera_cache: CameraCache = checks.one_of("camera_cache", chosen, CAMERA_CACHES)
        if self.policy.guard.turn:
            raise InputError('protect="turn" is for chats; a stream of frames has protect="frame"')
        self.policy.shares(range(model.config.depth))
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of another stream."""
        self.frames = 0
        self.size: tuple[int, int] | None = None
        self.layers: list[FrameLayer] = []
        self.cameras: dict[tuple[int, int], FrameLayer] = {}
        self.failed = False

    def step(self, frame: torch.Tensor, *, index: int | None = None) -> FrameGeometry:
        """Take in the next frame.

        Args:
            frame: (3, height, width), from 0 to 1; sides multiples of the model's patch size.
            index: its number in the stream, from 0, to be sure that none was left out.

        Raises:
            InputError: the frame is another kind or size than it must be, not finite, or not the next one; the budget
                does not hold what is protected; or an earlier frame failed half-way.
        """
        if self.failed:
            raise InputError("an earlier frame of this session failed half-way; reset() begins another stream")
        if index is not None and checks.integer("index", index, at_least=0) != self.frames:
            raise InputError(f"frame {index} is not the next of this stream, {self.frames} is; reset() begins another")
        self._check(frame)
        if self.size is None:
            self._begin(frame.shape[1], frame.shape[2])
        self.failed = True
        reference = next(self.model.parameters())
        with torch.no_grad(), self._watched():
            image = frame.to(reference.device, reference.dtype)[None, None]
            found = self.model(image, self, first=self.frames == 0)
        self.failed = False
        self.frames += 1
        return FrameGeometry.of(self.frames - 1, found)

    def block(self, number: int) -> Attend:
        return self.layers[number].attend

    def camera(self, iteration: int, number: int) -> Attend:
        return self.cameras[0 if self.camera_cache == "shared" else iteration, number].attend

    @property
    def tokens_per_frame(self) -> int | None:
        """Known from the first frame on."""
        return None if self.size is None else self.model.config.tokens(*self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor that this session keeps alive; what a layer unpacks while it runs is on top."""
        return sum(layer.nbytes for layer in (*self.layers, *self.cameras.values()))

    @property
    def stats(self) -> dict[str, int]:
        """Frames seen, tokens kept by the layer that keeps most, evicted and requantized; bytes, those of cameras among
        them, those of all frames in 16 bits, and of one layer's unpacked keys and values."""
        layers = self.layers
        kept = max((layer.store.length for layer in layers), default=0)
        config, size = self.model.config, self.size
        return {
            "frames": self.frames,
            "kept": kept,
            "evicted": sum(layer.evicted for layer in layers),
            "requantized": sum(layer.store.requantized for layer in layers),
            "bytes": self.nbytes,
            "camera_bytes": sum(layer.nbytes for layer in self.cameras.values()),
            "dense_bytes": 0 if size is None else self.frames * kv_bytes(config, *size),
            "workspace_bytes": 2 * config.dim * kept * next(self.model.parameters()).element_size(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything this session holds, as `hardy.runs.checkpoint` takes it."""
        return {
            "frames": self.frames,
            "size": self.size,
            "layers": [layer.held() for layer in self.layers],
            "cameras": [layer.held() for layer in self.cameras.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have what `state_dict` of a session of the same model and policy gave.

        Raises:
            InputError: its numbers and tensors do not fit each other, or a layer's budget is not that of this policy.
        """
        self.reset()
        if state["size"] is None:
            return
        self._begin(*state["size"])
        self.frames = state["frames"]
        device = next(self.model.parameters()).device
        every = zip([*self.layers, *self.cameras.values()], [*state["layers"], *state["cameras"]], strict=True)
        for layer, held in every:
            budget = layer.tokens, layer.room
            layer.take_back(held, device)
            if (layer.tokens, layer.room) != budget:
                raise InputError(f"a budget of {layer.tokens} tokens, {layer.room} bytes is not this policy's {budget}")

    def _check(self, frame: torch.Tensor) -> None:
        if not isinstance(frame, torch.Tensor) or frame.ndim != 3 or frame.shape[0] != 3:
            shape = tuple(frame.shape) if hasattr(frame, "shape") else type(frame).__name__
            raise InputError(f"a frame must be a tensor (3, height, width), got {shape}")
        if not frame.is_floating_point():
            raise InputError(f"a frame must be floats from 0 to 1, got {frame.dtype}; divide bytes by 255")
        size = frame.shape[1], frame.shape[2]
        self.model.config.grid(*size)
        if self.size is not None and size != self.size:
            raise InputError(
                f"a frame of {size[0]} x {size[1]} pixels in a stream of {self.size[0]} x {self.size[1]}; reset() "
                "begins another"
            )
        low, high = checks.finite("a frame", frame).aminmax()
        if low < 0 or high > 1:
            raise InputError(f"a frame's values must be from 0 to 1, got {low:g} to {high:g}")

    def _begin(self, height: int, width: int) -> None:
        """Make the layers, now that the size of frames is known."""
        config = self.model.config
        tokens = config.tokens(height, width)
        policy = self.policy.for_frames(tokens, config.special)
        limit = policy.limit
        sets, each = (1, config.iterations) if self.camera_cache == "shared" else (config.iterations, 1)
        remembered, room = self._remembered(limit, sets)
        shares = policy.shares(range(config.depth))
        self.layers, self.size = [FrameLayer(policy, number, tokens) for number in range(config.depth)], (height, width)
        for layer, share in zip(self.layers, shares, strict=True):
            if limit is not None and limit.unit == "tokens":
                layer.tokens = max(policy.first + policy.guard.recent, int(limit.amount * share))
            elif room is not None:
                layer.room = int(room / config.depth * share)
                layer.tokens = policy.tokens_in(layer.room, 1, config.heads, config.heads, config.dim // config.heads)
        camera_policy = KVPolicy(
            budget=None if remembered is None else Budget(remembered * each, "tokens"), scorer=SinkRecent(),
            protect=Protect(first=each, recent=each), interval=1,
        )  # fmt: skip
        self.cameras = {
            (iteration, number): FrameLayer(camera_policy, number, each)
            for iteration in range(sets)
            for number in range(config.camera_depth)
        }
        for layer in self.cameras.values():
            layer.tokens = None if remembered is None else remembered * each

    def _remembered(self, limit: Budget | None, sets: int) -> tuple[int | None, int | None]:
        """How many frames' cameras are remembered, and what is left of a budget in bytes; None for all, or no such."""
        if limit is None or limit.unit != "bytes":
            return None if limit is None else CAMERA_FRAMES, None
        config = self.model.config
        frame = (8 * config.dim + 4) * config.iterations * config.camera_depth
        slack = 8 * config.dim * SPARSE * sets * config.camera_depth  # a store has room for so many more
        count = min(CAMERA_FRAMES, max(2, (int(_CAMERA_SHARE * limit.amount) - slack) // frame))
        return count, max(1, limit.amount - count * frame - slack)

    def _watched(self) -> Hooks | contextlib.AbstractContextManager[None]:
        if self.layers[0].policy.rule.needs != "mlp_out" or self.layers[0].policy.limit is None:
            return contextlib.nullcontext()
        points = {
            (block.ls2, "output"): layer.after_mlp
            for block, layer in zip(self.model.aggregator.global_blocks, self.layers, strict=True)
        }
        return watch(self.model, points)
