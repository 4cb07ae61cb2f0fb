"""How the tensor at a point is got hold of: PyTorch's hooks, and what they do not reach.

Three things are inside of a module's forward, where no hook is: the softmax of an attention, what each head adds, and
the residual stream beside a branch. This file is the only one that hooks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hardy.core.roles import as_matrix, is_linear
from hardy.errors import InputError
from hardy.hooks.point import Point

Visit = Callable[[torch.Tensor], torch.Tensor]
"""Is given the tensor at a point, and returns what is to take its place: the same object to leave it."""

Remove = Callable[[], None]


def attach(model: nn.Module, point: Point, visit: Visit, *, changes: bool = False) -> list[Remove]:
    """Call `visit` with the tensor at `point` whenever it is computed.

    Args:
        model: holds the module of the point.
        point: of `hardy.hooks.point.resolve`.
        visit: sees and replaces it.
        changes: it may return another tensor than it was given, or one that is no view of it.

    Returns:
        What takes it off again.
    """
    module = model.get_submodule(point.module)
    if point.side in {"scores", "pattern"}:
        return [_at_softmax(module, point, visit)]
    if point.side == "result":
        hook = functools.partial(_at_result, point, visit, changes)
        return [module.register_forward_hook(hook, with_kwargs=True).remove]
    if point.side == "output":
        return [module.register_forward_hook(functools.partial(_at_output, point, visit)).remove]
    if point.stream:
        assert point.block is not None
        stream = _Stream(point, visit)
        block = model.get_submodule(point.block)
        # First among the hooks at the exit, so that whoever looks at the block's output sees the change.
        return [
            module.register_forward_pre_hook(stream.enter, with_kwargs=True).remove,
            block.register_forward_hook(stream.leave, prepend=True).remove,
        ]
    return [module.register_forward_pre_hook(functools.partial(_at_input, point, visit), with_kwargs=True).remove]


Slots = list[tuple[Any, torch.Tensor]]


def _slots(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Slots:
    """The tensors among the arguments of a module, each with its position or its keyword."""
    return [(key, x) for key, x in (*enumerate(args), *kwargs.items()) if isinstance(x, torch.Tensor)]


def _slot(slots: Slots, point: Point) -> tuple[Any, torch.Tensor]:
    if point.index < len(slots):
        return slots[point.index]
    if not slots:
        raise InputError(f"{point.name} is not a tensor; observe a module inside it")
    raise InputError(f"{point.name} is not there: there are {len(slots)} tensors, counted from 0")


def _at_input(point: Point, visit: Visit, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    key, tensor = _slot(_slots(args, kwargs), point)
    new = visit(tensor)
    if new is tensor:
        return None
    if isinstance(key, str):
        return args, {**kwargs, key: new}
    return (*args[:key], new, *args[key + 1 :]), kwargs


def _at_output(point: Point, visit: Visit, module: nn.Module, args: Any, output: Any) -> Any:
    values = output if isinstance(output, tuple | list) else (output,)
    key, tensor = _slot(_slots(tuple(values), {}), point)
    if point.floating not in (None, tensor.is_floating_point()):
        raise InputError(
            f"{point.name} is not there: {type(module).__name__} gives its tensors in another order in this version of "
            "transformers; take the newest"
        )
    new = visit(tensor)
    if new is tensor:
        return None
    if values is not output:
        return new
    values = [*values[:key], new, *values[key + 1 :]]
    kind: Any = type(output)
    return kind._make(values) if hasattr(kind, "_make") else kind(values)


class _Stream:
    """Meets the residual stream where a branch takes it in: the branch gets a new one, and so does the sum.

    The branch is all that a hook on its first module reaches; the rest of the stream goes past it, so the difference is
    added to what leaves the block.
    """

    def __init__(self, point: Point, visit: Visit) -> None:
        self.point, self.visit = point, visit
        self.difference: torch.Tensor | None = None

    def enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        def visit(tensor: torch.Tensor) -> torch.Tensor:
            new = self.visit(tensor)
            self.difference = None if new is tensor else new - tensor
            return new

        return _at_input(self.point, visit, module, args, kwargs)

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        difference, self.difference = self.difference, None
        if difference is None:
            return None
        whole = Point(f"the output of {self.point.block}", "", "output")
        return _at_output(whole, lambda stream: stream + difference.view_as(stream), module, args, output)


def _at_result(
    point: Point,
    visit: Visit,
    changes: bool,
    module: nn.Module,
    args: Any,
    kwargs: dict[str, Any],
    output: torch.Tensor,
) -> torch.Tensor | None:
    """Show what each head adds to `output`; what is changed about it is added to `output`."""
    z = _slot(_slots(args, kwargs), point)[1].unflatten(-1, (point.heads, -1))
    graph = torch.is_grad_enabled() and output.requires_grad
    with torch.set_grad_enabled(graph and changes):
        result = per_head(module, z)
    if graph and not changes:
        # The output is not made of it, so it joins the sum as a zero, whose gradient is its own.
        visit(result.requires_grad_())
        return output + (result - result.detach()).sum(-2)
    new = visit(result)
    return None if new is result else output + (new - result).sum(-2)


def per_head(projection: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """What each head adds to the output of an attention, (..., head, d_model): its part of the projection, no bias.

    A layer other than nn.Linear and Conv1D (packed, on a chip, with an adapter) is run for each head with all others at
    zero, less its output for zeros. On a chip with converters the parts need not add up, and reads draw noise.

    Args:
        projection: the output projection, from (..., heads * d_head) to (..., d_model).
        z: (..., head, d_head), what it takes in.
    """
    heads = z.shape[-2]
    if (
        is_linear(projection)
        and type(projection).__name__ in {"Linear", "Conv1D"}
        and "forward" not in vars(projection)
    ):
        weight: Any = projection.weight
        return torch.einsum("...hd,mhd->...hm", z, as_matrix(projection, weight).unflatten(1, (heads, -1)))
    alone = z.unsqueeze(-3) * torch.eye(heads, dtype=z.dtype, device=z.device).unsqueeze(-1)
    nothing = torch.zeros_like(alone[..., :1, :, :])
    return projection.forward(alone.flatten(-2)) - projection.forward(nothing.flatten(-2))


_SOFTMAX = {torch.softmax, torch.special.softmax, torch.Tensor.softmax, nn.functional.softmax}


class _SeesSoftmax(TorchFunctionMode):
    """Shows what every softmax takes in and gives, while it is entered."""

    def __init__(self, steps: list[tuple[str, Visit]]) -> None:
        super().__init__()
        self.steps = steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _SOFTMAX:
            return func(*args, **kwargs)
        scores = args[0] if args else kwargs.pop("input")
        for side, visit in self.steps:
            scores = visit(scores) if side == "scores" else scores
        pattern = func(scores, *args[1:], **kwargs)
        for side, visit in self.steps:
            pattern = visit(pattern) if side == "pattern" else pattern
        return pattern


class _EagerAttention:
    """Stands in for the forward of an attention module whose softmax is seen; `steps` are in the order of hooking."""

    def __init__(self, module: Any) -> None:
        functools.update_wrapper(self, module.forward)
        self.inner = module.forward
        self.replaced = vars(module).get("forward")  # someone else's, if it is not that of the class
        self.steps: list[tuple[str, Visit]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _SeesSoftmax(self.steps):
            return self.inner(*args, **kwargs)


def _at_softmax(module: Any, point: Point, visit: Visit) -> Remove:
    if not isinstance(vars(module).get("forward"), _EagerAttention):
        module.forward = _EagerAttention(module)
    attention, step = module.forward, (point.side, visit)
    attention.steps.append(step)

    def remove() -> None:
        attention.steps[:] = [other for other in attention.steps if other is not step]
        if not attention.steps and vars(module).get("forward") is attention:
            if attention.replaced is None:
                del module.forward
            else:
                module.forward = attention.replaced

    return remove
