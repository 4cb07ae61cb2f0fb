"""What is located and steered inside of a language model: kinds of objects, and the units of each kind in one model.

A unit is named after its activation: "blocks.3.attn.z.5" is head 5 of block 3, "blocks.3.mlp.post.17" a neuron,
"blocks.3.resid_post@-1" the residual stream at the last position. Positions are counted from the end, where prompts of
different lengths have the same thing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from hardy import hooks
from hardy.errors import InputError, near_misses
from hardy.hooks.point import canonical, resolve


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        name: as users write it.
        points: glob of its activations, see `hardy.hooks.point.SHAPES`.
        indexed: whether the third axis tells units apart (heads, neurons).
        per_position: whether each position is a unit of its own, by default.
        summary: one line.
    """

    name: str
    points: str
    indexed: bool
    per_position: bool
    summary: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("embedding", "embed", False, True, "what each token puts into the residual stream"),
        Kind("residual", "blocks.*.resid_post", False, True, "the residual stream after each block"),
        Kind("attention", "blocks.*.attn_out", False, False, "what all heads of a block add"),
        Kind("head", "blocks.*.attn.z", True, False, "one attention head, before the output projection"),
        Kind("query", "blocks.*.attn.q", True, False, "the queries of one head, before norms and rotation"),
        Kind("key", "blocks.*.attn.k", True, False, "the keys of one head, or of the group of heads that shares them"),
        Kind("value", "blocks.*.attn.v", True, False, "the values of one head, or of a group, likewise"),
        Kind("ffn", "blocks.*.mlp_out", False, False, "what the MLP, or the experts, of a block add"),
        Kind("neuron", "blocks.*.mlp.post", True, False, "one neuron of an MLP, after its nonlinearity"),
        Kind("feature", "*.feature", True, False, "one feature of a sparse autoencoder that is attached to the model"),
    )
}
_OTHER_NAMES = {
    "mha": "attention",
    "mlp": "ffn",
    "resid": "residual",
    "sae-feature": "feature",
    "residual-stream": "residual",
    "token": "embedding",
    "q": "query",
    "k": "key",
    "v": "value",
    "z": "head",
}


def kind_named(name: str) -> Kind:
    """The kind of object called `name`; plurals, "mlp", "mha", "q", "k", "v" and "hook_z" are understood.

    Raises:
        InputError: there is none.
    """
    word = str(name).lower().replace("_", "-").replace(" ", "-").removeprefix("hook-")
    for candidate in (word, word.removesuffix("s"), word.removesuffix("ies") + "y"):
        found = KINDS.get(_OTHER_NAMES.get(candidate, candidate))
        if found is not None:
            return found
    raise InputError(f"object must be one of {', '.join(KINDS)}, got {name!r}{near_misses(word, KINDS)}")


@dataclasses.dataclass(frozen=True)
class Unit:
    """One object of a model.

    Attributes:
        point: name of the activation that it is, or is a part of.
        index: of the head or neuron; None for all of the activation.
        position: counted from the end, -1 for the last; None for all of them.
    """

    point: str
    index: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        index = "" if self.index is None else f".{self.index}"
        return f"{self.point}{index}" + ("" if self.position is None else f"@{self.position}")

    @property
    def block(self) -> int | None:
        """Number of the block that it is in, or None."""
        found = re.search(r"\bblocks\.(\d+)\.", self.point)
        return int(found[1]) if found else None

    @property
    def place(self) -> tuple[slice | int, ...]:
        """Where it is in the activation, (batch, position, ...)."""
        positions = slice(None) if self.position is None else self.position
        return (slice(None), positions) if self.index is None else (slice(None), positions, self.index)


_NAME = re.compile(
    r"(?P<point>(?:.*\bblocks\.\d+(?:\.[a-z_]+){1,3})|embed(?:\.feature)?|logits)(?:\.(?P<index>\d+))?(?:@(?P<at>-\d+))?"
)


def unit_named(name: str) -> Unit:
    """The unit that `str(unit)` names; TransformerLens' names of activations are understood.

    Raises:
        InputError: it is no name of a unit.
    """
    found = _NAME.fullmatch(canonical(str(name)))
    if found is None:
        raise InputError(f"a unit is named as in 'blocks.3.attn.z.5' or 'blocks.3.resid_post@-1', got {name!r}")
    index, at = found["index"], found["at"]
    return Unit(found["point"], None if index is None else int(index), None if at is None else int(at))


def units_of(model: nn.Module, kind: Kind, sizes: Mapping[str, int], length: int, per_position: bool) -> list[Unit]:
    """The units of a kind, in the order of the model.

    Args:
        model: holds them.
        kind: of `KINDS`.
        sizes: point -> how many heads or neurons it has; only for indexed kinds.
        length: positions.
        per_position: whether each position is a unit of its own.
    """
    positions: Sequence[int | None] = range(-length, 0) if per_position else (None,)
    points = points_of(model, kind)
    if not kind.indexed:
        return [Unit(point, None, position) for point in points for position in positions]
    return [Unit(p, index, position) for p in points for index in range(sizes[p]) for position in positions]


def points_of(model: nn.Module, kind: Kind) -> list[str]:
    """Names of the activations of a kind.

    Raises:
        InputError: the architecture has none, and why.
    """
    try:
        return hooks.points(model, kind.points)
    except InputError:
        if kind.name == "feature":
            raise InputError(
                f"{type(model).__name__} has no features of its own: attach a sparse autoencoder, "
                "`with SAE.load(folder).attached(model):`"
            ) from None
        block = kind.points.replace("*", "0")
        try:
            resolve(model, [block])  # says why, where it is known
        except InputError as error:
            raise InputError(f"{type(model).__name__} has no {kind.name} to look at: {error}") from None
        raise


def patchers(
    units: Iterable[Unit], value: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Functions for `hardy.hooks.patch` that put other values in the place of units.

    Args:
        units: any, also several of one activation.
        value: function of the point and its activation that gives what takes the place of the whole of it.
    """
    grouped: dict[str, list[Unit]] = {}
    for unit in units:
        grouped.setdefault(unit.point, []).append(unit)

    def patcher(point: str, members: list[Unit]) -> Callable[[torch.Tensor], torch.Tensor]:
        def put(activation: torch.Tensor) -> torch.Tensor:
            source = value(point, activation)
            if members == [Unit(point)]:
                return source
            new = activation.clone()
            for unit in members:
                new[unit.place] = source[unit.place]
            return new

        return put

    return {point: patcher(point, members) for point, members in grouped.items()}
