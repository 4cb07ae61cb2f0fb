"""Which layers of a model: an index, a word, a slice, a list, a sequence, in one stack of layers or in all."""

import contextlib
import operator
from collections.abc import Iterable, Mapping, Sequence

from hardy.errors import InputError, near_misses

Layers = str | int | Sequence[str | int]
"""Such as "last", "first", an index, a slice "-4:", a list "0,3", a range or a sequence; "decoder:0" of one stack."""


def chosen_layers(layers: Layers, counts: Mapping[str, int]) -> set[tuple[str, int | None]]:
    """The (stack, layer) pairs that `layers` names.

    Args:
        layers: as for `hardy.core.selection.select`.
        counts: how many layers each stack has.

    Raises:
        InputError: it is malformed, or names a stack or an index that no stack has. A slice may be empty.
    """
    chosen: set[tuple[str, int | None]] = set()
    for part in _layer_parts(layers):
        before, colon, after = part.partition(":")
        named = bool(colon) and not before.lstrip("-").isdigit() and before != ""
        stacks = [stack for stack in counts if before in {stack, *stack.split(".")}] if named else list(counts)
        if named and not stacks:
            known = [stack for stack in counts if stack]
            there_are = f"the stacks are {', '.join(known)}" if known else "the model has one stack only"
            raise InputError(
                f"layers {layers!r}: there is no stack {before!r}{near_misses(before, known)}; {there_are}"
            )
        found, text = False, after.strip() if named else part
        for stack in stacks:
            picked = _layer_indices(text, counts[stack], layers)
            found = found or picked is not None
            chosen |= {(stack, layer) for layer in picked or ()}
        if not found:
            most = max((counts[stack] for stack in stacks), default=0)
            if not stacks:
                _layer_indices(text, 0, layers)  # what is malformed is said first
            there_are = f"layers 0 to {most - 1}" if most else "no layers"
            raise InputError(
                f"layers {layers!r}: there is no layer {_WORDS.get(text, text)}; the model has {there_are}"
            )
    return chosen


_WORDS = {"first": "0", "last": "-1"}


def _layer_parts(layers: Layers) -> list[str]:
    """The single indices, slices and words of `layers`."""
    if isinstance(layers, str):
        return [part.strip() for part in layers.split(",")]
    with contextlib.suppress(TypeError):
        if not isinstance(layers, bool):
            return [str(operator.index(layers))]  # pyright: ignore[reportArgumentType] - integers of any kind
    if isinstance(layers, Iterable):
        return [text for part in layers for text in _layer_parts(part)]
    raise InputError(_not_understood(layers))


def _layer_indices(text: str, count: int, layers: Layers) -> set[int] | None:
    """The layers that `text` names out of 0..count-1, None where it is an index beyond them."""
    text = _WORDS.get(text, text)
    try:
        if ":" not in text:
            return {range(count)[int(text)]}
        bounds = [int(bound) if bound.strip() else None for bound in text.split(":")]
        if len(bounds) > 3:
            raise ValueError
        return set(range(count)[slice(*bounds)])
    except IndexError:
        return None
    except ValueError:
        raise InputError(_not_understood(layers)) from None


def _not_understood(layers: object) -> str:
    return (
        f"layers {layers!r} is not understood; give first, last, an index, a slice (-4:), a list (0,3), a sequence of "
        "these, or these of one stack (decoder:last)"
    )
