"""Watch and change activations while a model runs: one engine for statistics, calibration, ablation and attribution.

`watch` gives each activation to a function, `patch` puts what a function returns in its place. A point is a name
("blocks.3.attn.z", see `hardy.hooks.point.SHAPES`) or (module, "input" or "output"). All that is hooked on a model runs
in the order in which it was hooked, and each sees what those before it left.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from hardy.errors import InputError
from hardy.hooks import taps
from hardy.hooks.point import Point, PointLike, points, resolve

__all__ = ["Hooks", "arguments", "patch", "points", "record", "run", "watch"]

Watcher = Callable[[torch.Tensor], Any]
Patcher = Callable[[torch.Tensor], "torch.Tensor | None"]


def watch(
    model: nn.Module,
    points: Mapping[Any, Watcher],
    *,
    strict: bool = True,
    stop: bool | Mapping[Any, int] = False,
) -> Hooks:
    """Call a function with each of `points` whenever the model computes it.

    What a function is given is the live tensor, never to be written to. Where the forward has a graph it is on that
    graph, so `torch.autograd.grad(loss, activation)` gives its gradient; keep `activation.detach()` otherwise. Heads
    are told apart in views, which cost nothing.

    Args:
        model: any module; the one that is called.
        points: point -> function of the activation; what it returns is ignored.
        strict: leaving the `with` block raises if a point never ran.
        stop: leave the model as soon as every point has run once, or as often as a mapping says. `run` then returns
            None; a model called directly ends the `with` block.

    Returns:
        The hooks, in place already: a context manager, or a handle whose `remove` takes them off.

    Raises:
        InputError: a point does not exist or cannot be seen. Later, while the model runs: what is there is no tensor.
    """
    hooks = Hooks(model, strict)
    with hooks.removed_on_error():
        found = resolve(model, list(points))
        for point, function in zip(found, points.values(), strict=True):
            hooks.attach(point, functools.partial(hooks.show, point, function), changes=False)
        if stop:
            times = dict.fromkeys(points, 1) if stop is True else stop
            needed = {point.name: times[given] for point, given in zip(resolve(model, list(times)), times, strict=True)}
            hooks.stop_after(needed)
    return hooks


def patch(model: nn.Module, points: Mapping[Any, Patcher], *, strict: bool = True) -> Hooks:
    """Put what a function returns in the place of each of `points` whenever the model computes it.

    A function returns a tensor of the shape that it was given, which is cast to the dtype of the activation, or None to
    leave it. A function that returns its argument changes nothing, bit for bit. Gradients go through.

    A changed `resid_mid` goes into the MLP and, as a difference, into the sum that leaves the block: exact but for the
    rounding of that sum. So does a changed `attn.result` into the output of its projection.

    Args:
        model, points, strict: as for `watch`.

    Raises:
        InputError: a point does not exist or cannot be changed. Later: another shape is returned.
    """
    hooks = Hooks(model, strict)
    with hooks.removed_on_error():
        for point, function in zip(resolve(model, list(points)), points.values(), strict=True):
            if point.fixed:
                raise InputError(f"{point.name} cannot be patched: {point.fixed}")
            hooks.attach(point, functools.partial(hooks.change, point, function), changes=True)
    return hooks


@contextlib.contextmanager
def record(
    model: nn.Module,
    points: PointLike | Sequence[PointLike],
    *,
    strict: bool = True,
    stop: bool = False,
) -> Iterator[dict[Any, torch.Tensor]]:
    """A dictionary that holds the last activation at each of `points`, live as for `watch`.

    Args:
        model, strict, stop: as for `watch`.
        points: one point or several; a name may be a glob ("blocks.*.resid_post").
    """
    wanted = _expanded(model, points)
    seen: dict[Any, torch.Tensor] = {}
    with watch(model, {p: functools.partial(seen.__setitem__, p) for p in wanted}, strict=strict, stop=stop):
        yield seen


def _expanded(model: nn.Module, given: Any) -> list[Any]:
    """`given`, one point or several, with what its globs match in their place."""
    if isinstance(given, str):
        return points(model, given) if set(given) & set("*?[") else [given]
    if isinstance(given, Point) or (isinstance(given, tuple) and given[1:2] in (("input",), ("output",))):
        return [given]
    return [point for one in given for point in _expanded(model, one)]


def run(model: nn.Module, batch: Any) -> Any:
    """The output of `model` for one batch, or None where a watcher stopped it.

    Args:
        model: any module.
        batch: as for `arguments`.
    """
    positional, keywords = arguments(model, batch)
    try:
        return model(*positional, **keywords)
    except _Stop:
        return None


def arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments by which a batch is given to `model`.

    Args:
        model: any module.
        batch: a mapping, such as a tokenizer returns, holds keyword arguments; a tuple holds positional ones; a tensor
            is the first argument, or `input_ids` of a Hugging Face model if it holds integers.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, tuple):
        return batch, {}
    if not isinstance(batch, torch.Tensor):
        raise InputError(f"a batch is a tensor, a tuple or a mapping, got {type(batch).__name__}")
    if hasattr(model, "config") and not batch.is_floating_point():
        return (), {"input_ids": batch}
    return (batch,), {}


class _Stop(Exception):  # noqa: N818 - it is no error
    """Everything that `hooks` watches has run; the rest of the model need not."""

    def __init__(self, hooks: Hooks) -> None:
        super().__init__("the model was left early; run it by hardy.hooks.engine.run, or inside of the with block")
        self.hooks = hooks


class Hooks:
    """What was hooked on one model by one call, until `remove` or the end of a `with` block.

    Attributes:
        calls: point's name -> how often it ran so far.
    """

    def __init__(self, model: nn.Module, strict: bool) -> None:
        self.model, self.strict = model, strict
        self.calls: dict[str, int] = {}
        self._removers: list[Callable[[], None]] = []
        self._lead: dict[str, torch.Size] = {}
        self._left: dict[str, int] = {}

    def remove(self) -> None:
        """Take all of them off; nothing is left on the model."""
        while self._removers:
            self._removers.pop()()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.remove()
        stopped = isinstance(error, _Stop) and error.hooks is self
        idle = [name for name, count in self.calls.items() if not count]
        if self.strict and idle and (error is None or stopped):
            others = f", nor were {len(idle) - 1} more" if idle[1:] else ""
            raise InputError(f"{idle[0]} was not run by the {type(self.model).__name__}{others}")
        return stopped

    @contextlib.contextmanager
    def removed_on_error(self) -> Iterator[None]:
        """Leave nothing behind if hooking fails half-way."""
        try:
            yield
        except BaseException:
            self.remove()
            raise

    def attach(self, point: Point, visit: taps.Visit, *, changes: bool) -> None:
        """Have `visit` called with the tensor at the module of `point`; it returns what is to take its place."""
        self.calls.setdefault(point.name, 0)
        if point.flat and point.block is not None and point.block not in self._lead:
            self._lead[point.block] = torch.Size()
            whole = Point(f"the input of {point.block}", point.block, "input")
            self._removers += taps.attach(self.model, whole, functools.partial(self._note_lead, point.block))
        self._removers += taps.attach(self.model, point, visit, changes=changes)

    def show(self, point: Point, function: Watcher, tensor: torch.Tensor) -> torch.Tensor:
        """Let `function` see the activation at `point`."""
        lead = self._lead_of(point)
        activation = point.take(tensor, lead)
        self.calls[point.name] += 1
        function(activation)
        if self._left:
            self._count_down(point)
        # A view is off the way from here to the loss: to have a gradient it must be what the model goes on with.
        on_graph = activation is not tensor and activation.requires_grad and torch.is_grad_enabled()
        return point.put(tensor, activation, lead) if on_graph else tensor

    def change(self, point: Point, function: Patcher, tensor: torch.Tensor) -> torch.Tensor:
        """Put what `function` returns in the place of the activation at `point`."""
        lead = self._lead_of(point)
        activation = point.take(tensor, lead)
        self.calls[point.name] += 1
        new = function(activation)
        if new is None or new is activation:
            return tensor
        if not isinstance(new, torch.Tensor) or new.shape != activation.shape:
            got = f"shape {tuple(new.shape)}" if isinstance(new, torch.Tensor) else repr(new)
            raise InputError(f"the patch of {point.name} must return shape {tuple(activation.shape)}, got {got}")
        return point.put(tensor, new.to(activation.dtype), lead)

    def stop_after(self, needed: dict[str, int]) -> None:
        """Leave the model as soon as each of these has run so often in one forward."""
        for name, count in needed.items():
            if name not in self.calls or count < 1:
                raise InputError(f"stop={needed} is to count watched points, from 1: not {name} to {count}")

        def begin(module: nn.Module, inputs: Any) -> None:
            self._left = dict(needed)

        self._removers.append(self.model.register_forward_pre_hook(begin, prepend=True).remove)

    def _count_down(self, point: Point) -> None:
        self._left[point.name] = self._left.get(point.name, 0) - 1
        if max(self._left.values()) <= 0:
            raise _Stop(self)

    def _lead_of(self, point: Point) -> Sequence[int]:
        return self._lead.get(point.block or "", ())

    def _note_lead(self, block: str, stream: torch.Tensor) -> torch.Tensor:
        self._lead[block] = stream.shape[:2]
        return stream
