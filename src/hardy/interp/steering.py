"""Steering vectors and directional ablation: a direction is added to the residual stream, or taken out of it.

Sources: contrastive activation addition (Rimsky et al. 2024), representation engineering (Zou et al. 2023) for PCA of
differences, directional ablation (Arditi et al. 2024), conditional steering (Lee et al. 2024).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from hardy import checks
from hardy.core.method import Method
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.hooks.caches import cache_of
from hardy.hooks.point import Point, table
from hardy.report import Row

Positions = Literal["all", "last", "generated"]


def add(stream: torch.Tensor, vector: torch.Tensor, scale: float, *, keep_norm: bool = False) -> torch.Tensor:
    """`stream + scale * vector`, rescaled to the norm of each position with `keep_norm`.

    Args:
        stream: (..., d_model).
        vector: (d_model,).
    """
    if scale == 0:
        return stream
    new = stream + scale * vector.to(stream)
    if keep_norm:
        new = new * (stream.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    return new


def without(stream: torch.Tensor, direction: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """`stream - strength * r r^T stream`, r the direction of length 1; in float32 for half precision.

    Args:
        stream: (..., d_model).
        direction: (d_model,), of any length but 0.
    """
    if strength == 0:
        return stream
    r = direction.to(stream.device, torch.promote_types(stream.dtype, torch.float32))
    r = r / r.norm()
    wide = stream.to(r.dtype)
    return (wide - strength * (wide @ r).unsqueeze(-1) * r).to(stream.dtype)


def as_floats(vector: Any, name: str = "vector") -> tuple[float, ...]:
    """A vector as a tuple of finite floats, not all of them zero.

    Raises:
        InputError: it is none.
    """
    values = torch.as_tensor(vector, dtype=torch.float64).detach().cpu() if not isinstance(vector, str) else None
    if values is None or values.ndim != 1 or not len(values):
        shape = vector if values is None else tuple(values.shape)
        raise InputError(f"{name} must be (d_model,), got {shape!r}")
    plain = tuple(checks.number(f"{name}[{place}]", value) for place, value in enumerate(values.tolist()))
    if not values.any():
        raise InputError(f"{name} must not be all zero, got {plain[:3]}")
    return plain


class Steered:
    """Stands in for a module's forward and changes its output, or its first input.

    Attributes:
        module: whose forward it is.
        function: of the tensor.
        side: "output" or "input".
    """

    def __init__(self, module: Any, function: Callable[[torch.Tensor], torch.Tensor], side: str = "output") -> None:
        self.module, self.function, self.side = module, function, side
        self.inner = vars(module).get("forward")
        functools.update_wrapper(self, type(module).forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = functools.partial(type(self.module).forward, self.module) if self.inner is None else self.inner
        if self.side == "input":
            if args:
                return forward(self.function(args[0]), *args[1:], **kwargs)
            name = next(name for name, value in kwargs.items() if isinstance(value, torch.Tensor))
            return forward(**{**kwargs, name: self.function(kwargs[name])})
        output = forward(*args, **kwargs)
        if isinstance(output, tuple):
            return (self.function(output[0]), *output[1:])
        return self.function(output)


class _Where:
    """Stands in for the forward of the whole model, and notes which positions of this call are steered."""

    def __init__(self, model: Any, positions: Positions) -> None:
        self.model, self.positions = model, positions
        self.inner = vars(model).get("forward")
        self.rows: torch.Tensor | None = None
        functools.update_wrapper(self, type(model).forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = functools.partial(type(self.model).forward, self.model) if self.inner is None else self.inner
        ids = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs_embeds"))
        assert ids is not None
        before = cache_of(kwargs)
        past = int(before.get_seq_length()) if before is not None and hasattr(before, "get_seq_length") else 0
        self.rows = self._steered(ids, kwargs.get("attention_mask"), past)
        return forward(*args, **kwargs)

    def _steered(self, ids: torch.Tensor, mask: torch.Tensor | None, past: int) -> torch.Tensor:
        """(batch, positions) truth values."""
        batch, length = ids.shape[:2]
        now = torch.ones(batch, length, dtype=torch.bool, device=ids.device)
        if mask is not None and mask.ndim == 2:
            now &= mask[:, -length:].bool()
        if self.positions == "all":
            return now
        if past:  # of a prompt that was read before, all that follow are generated
            return now if self.positions == "generated" else torch.zeros_like(now)
        last = (now.long() * torch.arange(1, length + 1, device=ids.device)).argmax(1)
        return torch.nn.functional.one_hot(last, length).bool() & now


class _Adding:
    """Adds the vector at the positions that `where` says."""

    def __init__(
        self, vector: torch.Tensor, scale: float, keep_norm: bool, above: float | None, condition: torch.Tensor,
        where: _Where,
    ) -> None:  # fmt: skip
        self.vector, self.scale, self.keep_norm, self.where = vector, scale, keep_norm, where
        self.above, self.condition = above, condition

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        new = add(stream, self.vector, self.scale, keep_norm=self.keep_norm)
        if new is stream:
            return stream
        rows = self.where.rows
        chosen = torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device) if rows is None else rows
        if self.above is not None:
            chosen = chosen & (
                torch.cosine_similarity(stream.float(), self.condition.to(stream).float(), -1) > self.above
            )
        return torch.where(chosen.unsqueeze(-1), new, stream)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteeringVector(Method):
    """Adds `scale * vector` to the residual stream after a block (`blocks.L.resid_post`).

    It works inside `generate` (with a cache, as is the default), on packed layers and on a chip, and is applied again
    to a model that is loaded. `bake` puts it into the weights where that is exact.

    Args:
        vector: (d_model,), any sequence of numbers.
        layer: number of the block after which it is added.
        scale: times the vector; 0 changes nothing, to the last bit.
        positions: "all", "last" (of the prompt) or "generated": the last token of the prompt, which makes the first new
            one, and all that follow. Padding is left alone.
        keep_norm: rescale the stream at each position to the norm it had.
        above: only where the cosine of the stream and the condition is above this; None for everywhere.
        condition: (d_model,) that the stream is compared with there (conditional steering); the vector itself if None.
    """

    vector: Any
    layer: int
    scale: float = 1.0
    positions: Positions = "all"
    keep_norm: bool = False
    above: float | None = None
    condition: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", as_floats(self.vector))
        if self.condition is not None:
            object.__setattr__(self, "condition", as_floats(self.condition, "condition"))
        super().__post_init__()

    def check(self) -> None:
        checks.integer("layer", self.layer, at_least=0)
        checks.number("scale", self.scale)
        checks.one_of("positions", self.positions, ("all", "last", "generated"))
        checks.boolean("keep_norm", self.keep_norm)
        if self.above is not None:
            checks.number("above", self.above, at_least=-1, at_most=1)
        elif self.condition is not None:
            raise InputError(f"condition needs above=, the cosine from which on it holds; got {self.condition[:3]}")

    @property
    def reapplied(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"SteeringVector(layer={self.layer}, scale={self.scale:g}, positions={self.positions!r})"

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        block = model.get_submodule(block_name(model, self.layer))
        vector = fitting(model, self.vector)
        where = _Where(model, self.positions)
        edits.swap(model, "forward", where)
        condition = vector if self.condition is None else fitting(model, self.condition, "condition")
        adding = _Adding(vector, self.scale, self.keep_norm, self.above, condition, where)
        edits.swap(block, "forward", Steered(block, adding))
        size = self.scale * vector.norm().item()
        return [Row(metric="norm_added", condition=f"blocks.{self.layer}.resid_post", value=size)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation(Method):
    """What both forms of directional ablation take.

    Args:
        direction: (d_model,), of any length.
        strength: 1 takes all of it, 0 changes nothing.
    """

    direction: Any
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", as_floats(self.direction, "direction"))
        super().__post_init__()

    def check(self) -> None:
        checks.number("strength", self.strength, at_least=0, at_most=1)

    def __str__(self) -> str:
        return f"{type(self).__name__}(strength={self.strength:g})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectionalAblation(Ablation):
    """Takes a direction out of all that is written to the residual stream, at every layer and position.

    As the stream starts without it and nothing writes it, it is nowhere in the stream. This is the form in activations,
    which any model can have; `AblatedWeights` is the same in the weights. Fields as those of `Ablation`.
    """

    @property
    def reapplied(self) -> bool:
        return True

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        direction = fitting(model, self.direction, "direction")
        function = functools.partial(without, direction=direction, strength=self.strength)
        points = writers(model)
        for point in points:
            module = model.get_submodule(point.module)
            edits.swap(module, "forward", Steered(module, function, point.side))
        return [Row(metric="writers", condition="residual stream", value=len(points))]


def writers(model: nn.Module) -> list[Point]:
    """Where the residual stream begins, and all that adds to it.

    Raises:
        InputError: the model has a block of which that is not known.
    """
    found: list[Point] = []
    for name, point in table(model).items():
        last = name.rpartition(".")[2]
        if name == "blocks.0.resid_pre" or last in ("attn_out", "mlp_out", "mixer_out"):
            if isinstance(point, str):
                raise InputError(f"{name}: {point}")
            found.append(point)
    if not found:
        raise InputError(f"{type(model).__name__} has no blocks whose residual stream is known")
    return found


def block_name(model: nn.Module, layer: int) -> str:
    """Qualified name of a block.

    Raises:
        InputError: the model has no such block.
    """
    blocks = blocks_of(model)
    if not 0 <= layer < len(blocks):
        raise InputError(f"layer must be a block of {type(model).__name__}, 0 to {len(blocks) - 1}, got {layer}")
    return blocks[layer].name


def width_of(model: Any) -> int:
    """d_model."""
    return model.get_input_embeddings().weight.shape[1]


def fitting(model: nn.Module, values: Sequence[float], name: str = "vector") -> torch.Tensor:
    """`values` on the device of the model, float32.

    Raises:
        InputError: it is of another width.
    """
    width = width_of(model)
    if len(values) != width:
        raise InputError(f"{name} is of width {len(values)}, the residual stream of {type(model).__name__} of {width}")
    return torch.tensor(values, device=next(model.parameters()).device)
