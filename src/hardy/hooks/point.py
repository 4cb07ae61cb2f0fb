"""Names for the activations inside a model: which tensor of which module each one is, and how its axes are told apart.

The names are those of TransformerLens ("blocks.3.resid_post", "blocks.3.attn.z"), whose own spelling
("blocks.3.hook_resid_post", "blocks.3.attn.hook_z") is understood too. `table` says what there is and its shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from hardy.errors import InputError, near_misses
from hardy.hooks.blocks import Block, blocks_of, remembered

Side = Literal["input", "output"]
PointLike: TypeAlias = "str | tuple[str | nn.Module, Side] | tuple[str | nn.Module, Side, int] | Point"

SHAPES = {
    "embed": "(batch, position, d_model): token embeddings",
    "logits": "(batch, position, vocabulary)",
    "blocks.N.resid_pre": "(batch, position, d_model): the residual stream as the block takes it in",
    "blocks.N.resid_mid": "(batch, position, d_model): with the attention's output added, as the MLP takes it in",
    "blocks.N.resid_post": "(batch, position, d_model): as the block leaves it",
    "blocks.N.attn_out": "(batch, position, d_model): what the attention adds to the stream, after a post-norm",
    "blocks.N.mlp_out": "(batch, position, d_model): what the MLP or the experts add, after a post-norm",
    "blocks.N.mixer_out": "(batch, position, d_model): what a state-space layer adds",
    "blocks.N.attn.q": "(batch, position, head, d_head): queries, before norms and rotation",
    "blocks.N.attn.k": "(batch, position, kv_head, d_head): keys, before norms and rotation",
    "blocks.N.attn.v": "(batch, position, kv_head, d_head): values",
    "blocks.N.attn.scores": "(batch, head, query, key): scaled and masked, as the softmax takes them in (eager only)",
    "blocks.N.attn.pattern": "(batch, head, query, key): as the softmax gives them (eager only)",
    "blocks.N.attn.z": "(batch, position, head, d_head): values as mixed by the pattern",
    "blocks.N.attn.result": "(batch, position, head, d_model): what each head adds to the output, without its bias",
    "blocks.N.mlp.pre": "(batch, position, d_mlp): before the nonlinearity",
    "blocks.N.mlp.pre_linear": "(batch, position, d_mlp): what a gated MLP multiplies with, the up projection",
    "blocks.N.mlp.post": "(batch, position, d_mlp): the neurons, as the down projection takes them in",
    "blocks.N.mlp.router_logits": "(batch, position, expert)",
    "blocks.N.mlp.expert_weights": "(batch, position, top_k): the weight of each chosen expert",
    "blocks.N.mlp.expert_indices": "(batch, position, top_k): the chosen experts",
    "blocks.N.mlp.experts_out": "(batch, position, d_model): the weighted sum of the routed experts",
}
"""Every name with its shape. `cross_attn` stands where `attn` does for cross-attention; a model with several stacks has
the stack before `blocks` ("decoder.blocks.0.resid_post")."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Where heads, or a part of a fused projection, lie in the last axis of a tensor.

    Attributes:
        heads: how many there are, or None to leave the axis whole.
        sizes, part: the axis holds parts of these relative sizes, one after the other, and this is meant.
        interleaved: the parts follow each other inside of each head instead.
    """

    heads: int | None
    sizes: tuple[int, ...] = (1,)
    part: int = 0
    interleaved: bool = False

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """The view of `x` (..., width) that is meant: (..., head, d_head), or (..., width of the part).

        Raises:
            InputError: the width cannot be divided so.
        """
        groups = (self.heads or 1) * len(self.sizes) if self.interleaved else sum(self.sizes)
        if x.shape[-1] % groups:
            raise InputError(f"an axis of {x.shape[-1]} cannot be divided into {groups}")
        if self.interleaved:
            return x.unflatten(-1, (self.heads or 1, len(self.sizes), -1))[..., self.part, :]
        begin, end = (sum(self.sizes[:n]) * x.shape[-1] // groups for n in (self.part, self.part + 1))
        x = x[..., begin:end]
        if self.heads is None:
            return x
        if x.shape[-1] % self.heads:
            raise InputError(f"an axis of {x.shape[-1]} cannot be divided into {self.heads} heads")
        return x.unflatten(-1, (self.heads, -1))

    def put(self, x: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`x` with `new` in the place of what `take` gives, out of place."""
        if len(self.sizes) == 1:
            return new.reshape(x.shape)
        whole = x.clone()
        self.take(whole).copy_(new)
        return whole


@dataclasses.dataclass(frozen=True)
class Point:
    """An activation: a tensor that a module takes in or gives, or what lies between.

    Attributes:
        name: how it is called in errors and records.
        module: qualified name of the module at which it is seen.
        side: "input" or "output" of the module; "scores" or "pattern" at the softmax inside of it; "result": what each
            head adds to its output.
        index: which of the tensors on this side.
        split: how the last axis is divided.
        block: qualified name of the block it is in, or None.
        flat: the tensor may have lost its batch axis there, (batch * position, width); it is given it back.
        heads: of a "result".
        stream: the tensor also goes past the module and into the sum that the block gives.
        fixed: why it cannot be patched, or "".
        floating: whether the tensor has a floating dtype, where a module has been seen to give tensors in other orders
            in other versions of transformers; None anywhere else.
    """

    name: str
    module: str
    side: str
    index: int = 0
    split: Split | None = None
    block: str | None = None
    flat: bool = False
    heads: int = 0
    stream: bool = False
    fixed: str = ""
    floating: bool | None = None

    def take(self, x: torch.Tensor, lead: Sequence[int]) -> torch.Tensor:
        """The activation out of the tensor at the module; `lead` is (batch, position)."""
        if self.flat and x.ndim == 2:
            x = x.unflatten(0, tuple(lead))
        return x if self.split is None else self.split.take(x)

    def put(self, x: torch.Tensor, new: torch.Tensor, lead: Sequence[int]) -> torch.Tensor:
        """The tensor at the module with `new` as its activation."""
        if self.split is not None:
            new = self.split.put(x.unflatten(0, tuple(lead)) if self.flat and x.ndim == 2 else x, new)
        return new.reshape(x.shape)


def points(model: nn.Module, pattern: str = "*") -> list[str]:
    """The names of the activations of `model` that match a glob, in the order of its blocks.

    Raises:
        InputError: none does.
    """
    known = [name for name, point in table(model).items() if isinstance(point, Point)]
    found = [name for name in known if fnmatch.fnmatchcase(name, canonical(pattern))]
    if not found:
        raise InputError(f"no activation of {type(model).__name__} matches {pattern!r}{near_misses(pattern, known)}")
    return found


def resolve(model: nn.Module, points: Sequence[Any]) -> list[Point]:
    """Each of `points` as a `Point`.

    Args:
        model: any module for (module, side) and (module, side, index), where the module may be given by its name; a
            Hugging Face model for the names in `SHAPES`.
        points: names, tuples, or points.

    Raises:
        InputError: there is no such module or activation, or it cannot be seen from outside.
    """
    known = table(model) if any(isinstance(point, str) for point in points) else {}
    return [_resolved(model, point, known) for point in points]


def _resolved(model: nn.Module, point: Any, known: dict[str, Point | str]) -> Point:
    if isinstance(point, Point):
        return point
    if isinstance(point, str):
        name = canonical(point)
        found = known.get(name)
        if isinstance(found, Point):
            return dataclasses.replace(found, name=point)
        if found is not None:
            raise InputError(f"{point}: {found}")
        hint = near_misses(name, known)
        if not hint:
            example = next(iter(known), None)
            hint = f"; the first is {example}" if example else ""
        raise InputError(
            f"{type(model).__name__} has no activation {point!r}{hint}; that of any module is (name, 'input') or "
            "(name, 'output')"
        )
    if not (isinstance(point, tuple) and len(point) in {2, 3} and point[1] in {"input", "output"}):
        raise InputError(f"a point is a name, (module, 'input' or 'output') or these and an index, got {point!r}")
    module, side, *index = point
    if isinstance(module, nn.Module):
        name = next((name for name, other in model.named_modules() if other is module), None)
        if name is None:
            raise InputError(f"this {type(module).__name__} is no part of the {type(model).__name__}")
    else:
        name = module
        try:
            model.get_submodule(name)
        except AttributeError:
            known_modules = dict(model.named_modules())
            raise InputError(
                f"{type(model).__name__} has no module {name!r}{near_misses(str(name), known_modules)}"
            ) from None
    number = index[0] if index else 0
    label = f"the {side} of {name or type(model).__name__}" + (f", tensor {number}" if index else "")
    return Point(label, name, side, number)


def canonical(name: str) -> str:
    """`name` as `SHAPES` has it: TransformerLens' "blocks.3.attn.hook_attn_scores" is "blocks.3.attn.scores"."""
    return re.sub(r"\bhook_", "", name).replace(".attn_scores", ".scores")


def table(model: nn.Module) -> dict[str, Point | str]:
    """Every named activation of `model`; in the place of one that cannot be had, the reason."""
    return _own(model) | vars(model).get(_NAMED, {})


@remembered
def _own(model: nn.Module) -> dict[str, Point | str]:
    """Those that the architecture has."""
    found: dict[str, Point | str] = {}
    names = {id(module): name for name, module in model.named_modules()}

    def embeddings(name: str, getter: str) -> None:
        get = getattr(model, getter, None)
        module = get() if callable(get) else None
        if module is None:
            return
        found[name] = Point(name, names[id(module)], "output")
        if name == "embed" and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            found[name] = "encoder and decoder have embeddings of their own; give (name of one, 'output')"

    embeddings("embed", "get_input_embeddings")
    for block in blocks_of(model):
        for name, point in _in_block(block).items():
            full = f"{block.label}.{name}"
            found[full] = point if isinstance(point, str) else dataclasses.replace(point, name=full, block=block.name)
    embeddings("logits", "get_output_embeddings")
    return found


_NAMED = "_hardy_named_points"


@contextlib.contextmanager
def named(model: nn.Module, points: Mapping[str, Point]) -> Iterator[None]:
    """Let names stand for further activations for as long as the block lasts: the features of a dictionary, say.

    A subclass of `Point` says by `take` and `put` what is read out of a tensor and how it is written back.

    Raises:
        InputError: a name is taken.
    """
    before = dict(vars(model).get(_NAMED, {}))
    if taken := sorted(table(model).keys() & points.keys()):
        raise InputError(f"{type(model).__name__} has an activation {taken[0]!r} already")
    vars(model)[_NAMED] = before | dict(points)
    try:
        yield
    finally:
        vars(model)[_NAMED] = before
        if not before:
            del vars(model)[_NAMED]


def _in_block(block: Block) -> dict[str, Point | str]:
    """The activations of one block, by their names in it."""

    def at(module: str, side: str, **more: Any) -> Point:
        return Point("", f"{block.name}.{module}" if module else block.name, side, **more)

    found: dict[str, Point | str] = {"resid_pre": at("", "input")}
    for kind, attention in block.attention.items():
        found |= {f"{kind}.{name}": point for name, point in _in_attention(block, attention, at).items()}
    stream = block.stream
    found["attn_out"] = at(stream.attention, "output") if stream.attention else stream.reason
    found["resid_mid"] = at(stream.middle, "input", flat=True, stream=True) if stream.middle else stream.reason
    if not block.attention:
        del found["attn_out"], found["resid_mid"]
    found |= _in_mlp(block, at)
    if block.mixer:
        found["mixer_out"] = at(block.mixer, "output")
    elif stream.mlp:
        found["mlp_out"] = at(stream.mlp, "output", flat=True)
    else:
        found["mlp_out"] = stream.reason
    found["resid_post"] = at("", "output")
    return found


_NOT_EAGER = (
    "it is computed by 'eager' attention only; call model.set_attn_implementation('eager'), or load the model with "
    "attn_implementation='eager'"
)


def _in_attention(block: Block, attention: Any, at: Any) -> dict[str, Point | str]:
    found: dict[str, Point | str] = {}
    heads, kv_heads, fused = attention.heads, attention.kv_heads, attention.fused
    for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        if part in attention.parts:
            found[part] = at(attention.parts[part], "output", split=Split(count))
        elif "qkv" in attention.parts and part in fused:
            sizes, place, interleaved = fused[part]
            split = Split(count, sizes, place, interleaved)
            found[part] = at(attention.parts["qkv"], "output", split=split)
        elif "qkv" in attention.parts:
            found[part] = (
                f"how {block.name}.{attention.parts['qkv']} holds queries, keys and values is not known for this "
                "architecture; watch its output"
            )
    for inside in ("scores", "pattern"):
        found[inside] = at(attention.module, inside) if attention.eager else _NOT_EAGER
    if "o" in attention.parts:
        found["z"] = at(attention.parts["o"], "input", split=Split(heads))
        found["result"] = at(attention.parts["o"], "result", heads=heads)
    return found


def _in_mlp(block: Block, at: Any) -> dict[str, Point | str]:
    parts: dict[str, str] = block.mlp
    if "experts" in parts or "router" in parts:
        return _in_mixture(block, at)
    found: dict[str, Point | str] = {}
    if "gate" in parts and "up" in parts:
        found |= {f"mlp.{n}": at(parts[p], "output", flat=True) for n, p in (("pre", "gate"), ("pre_linear", "up"))}
    elif "up" in parts:
        found["mlp.pre"] = at(parts["up"], "output", flat=True)
    elif "gate_up" in parts:
        for place, name in enumerate(("pre", "pre_linear")):
            found[f"mlp.{name}"] = at(parts["gate_up"], "output", flat=True, split=Split(None, (1, 1), place))
    if "down" in parts:
        found["mlp.post"] = at(parts["down"], "input", flat=True)
    return found


def _in_mixture(block: Block, at: Any) -> dict[str, Point | str]:
    parts, found = block.mlp, {}
    unknown = "what routers and experts give is not known for this architecture; watch (the name of one, 'output')"
    loose = "the model chooses experts by a tensor that its router keeps; patch expert_weights and expert_indices"
    for index, name in enumerate(("router_logits", "expert_weights", "expert_indices")):
        fixed = "" if index else loose
        known = block.known and "router" in parts
        more: dict[str, Any] = {"index": index, "fixed": fixed, "floating": index < 2}
        found[name] = at(parts["router"], "output", flat=True, **more) if known else unknown
    known = block.known and "experts" in parts
    found["experts_out"] = at(parts["experts"], "output", flat=True) if known else unknown
    inside = "the neurons of experts are inside of their stack; watch (experts, 'input', 0), and 1 for the choice"
    found |= dict.fromkeys(("pre", "pre_linear", "post"), inside)
    return {f"mlp.{name}": point for name, point in found.items()}
