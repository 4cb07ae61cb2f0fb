"""The inputs of one block after the other, kept between them: the time to calibrate grows with depth, not its square.

The model itself runs, with its own masks and positions, but every block before the one in question passes on what it is
given, and that one is given the hidden states that the blocks before it gave last time. So nothing need be known of a
kind of model; whether its blocks hand over nothing but hidden states is tried out on its first batch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hardy.core.roles import layer_of
from hardy.hooks.engine import run, watch

_log = logging.getLogger(__name__)


class BlockInputs:
    """What each block of `model` is given, for all batches: one block at a time, in their order.

    Args:
        model: in evaluation mode.
        batches: as `hardy.hooks.run` takes them.
        blocks: names of modules that run once each, in this order, each taking the hidden states that the one before
            returns as its first argument. `chained` says whether they do.
        states, at: where to go on: what each batch gives block `at`, from an earlier `BlockInputs` of the same.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        blocks: Sequence[str],
        states: Sequence[torch.Tensor] = (),
        at: int = 0,
    ) -> None:
        self.model, self.batches, self.blocks = model, batches, list(blocks)
        self.states: list[torch.Tensor | None] = list(states) if states else [None] * len(batches)
        """Of each batch what block `at` is given; None before the first, which is given what the model gives it."""
        self.at = at

    @contextlib.contextmanager
    def before(self, index: int, *, stop: bool = False) -> Iterator[Sequence[Any]]:
        """Batches to run the model on, as often as one likes, that reach block `index` with little work before it.

        Blocks between the last one asked for and this one are run for good: edit them before, not later. With `stop`
        a run ends with that block, and `hardy.hooks.run` gives None.
        """
        while self.at < index:
            self.step()
        ends = {(self.blocks[index], "output"): lambda _: None}
        with self._skipped(), watch(self.model, ends, strict=False, stop=True) if stop else contextlib.nullcontext():
            yield _Watched(self.batches, self._begin)

    @torch.no_grad()
    def step(self) -> None:
        """Run block `at` on its inputs; its outputs are the next one's."""
        found: list[torch.Tensor] = []
        with self._skipped(), _outputs(self.model.get_submodule(self.blocks[self.at]), found.append, stop=True):
            for number, batch in enumerate(self.batches):
                self._begin(number)
                _run_to_the_stop(self.model, batch)
                self.states[number] = found.pop()
        self.at += 1

    def _begin(self, number: int) -> None:
        self._number = number

    @contextlib.contextmanager
    def _skipped(self) -> Iterator[None]:
        """Blocks before `at` pass on what they are given; block `at` is given its states."""
        skipped = [self.model.get_submodule(name) for name in self.blocks[: self.at]]
        handle = None
        for module in skipped:
            module.forward = _pass_on
        if self.at:
            module = self.model.get_submodule(self.blocks[self.at])
            handle = module.register_forward_pre_hook(self._give, with_kwargs=True, prepend=True)
        try:
            yield
        finally:
            for module in skipped:
                del module.forward
            if handle is not None:
                handle.remove()

    def _give(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        state = self.states[self._number]
        if args:
            return (state, *args[1:]), keywords
        return args, {**keywords, "hidden_states": state}


def block_of(module: str) -> str:
    """The name of the numbered block that the module of this name is in or is, or ""."""
    place = layer_of(module)
    return "" if place is None else ".".join(part for part in (place[0], str(place[1])) if part)


def block_inputs(model: nn.Module, batches: Sequence[Any], modules: Iterable[str]) -> BlockInputs | None:
    """What gives the blocks that `modules` are in their inputs; None where they are no chain, which the log says."""
    stacks = {place[0] for name in modules if (place := layer_of(name)) is not None}
    if len(stacks) != 1:
        return None
    (stack,) = stacks
    whole = model.get_submodule(stack)
    blocks = [f"{stack}.{name}" if stack else name for name, _ in whole.named_children() if name.isdigit()]
    first = batches[0]
    if chained(model, first[:1] if isinstance(first, torch.Tensor) else first, blocks):
        return BlockInputs(model, batches, blocks)
    if len(blocks) > 1:
        _log.info("the blocks of this %s are no chain: it runs from its start for each", type(model).__name__)
    return None


def chained(model: nn.Module, batch: Any, blocks: Sequence[str]) -> bool:
    """Whether `blocks` run once each, in this order, and hand over one tensor from each to the next and nothing else.

    A model whose later blocks read more of the earlier ones, as keys and values that they share, is none; nor is one
    whose blocks return tuples. Costs one run of the model.
    """
    if len(blocks) < 2:
        return False
    ends: list[tuple[str, torch.Tensor]] = []
    begins: list[Any] = []
    with contextlib.ExitStack() as hooked, torch.no_grad():
        for name in blocks:
            module = model.get_submodule(name)
            hooked.enter_context(_first_inputs(module, begins.append))
            hooked.enter_context(_outputs(module, lambda output, name=name: ends.append((name, output))))
        run(model, batch)
    if [name for name, _ in ends] != list(blocks) or len(begins) != len(blocks):
        return False
    pairs = zip(begins[1:], ends, strict=False)
    if not all(isinstance(end, torch.Tensor) and begin is end for begin, (_, end) in pairs):
        return False
    inputs = BlockInputs(model, [batch], blocks)
    inputs.at, inputs.states = len(blocks) - 1, [begins[-1]]
    again: list[torch.Tensor] = []
    try:
        with inputs.before(inputs.at) as watched, _outputs(model.get_submodule(blocks[-1]), again.append, stop=True):
            for one in watched:
                _run_to_the_stop(model, one)
    except (RuntimeError, TypeError, AttributeError, IndexError, KeyError):
        return False  # a later block misses what the skipped ones would have left for it
    return len(again) == 1 and torch.equal(again[0], ends[-1][1])


def _pass_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


class _Reached(Exception):  # noqa: N818 - it is no error
    """The block has run; the rest of the model need not."""


def _run_to_the_stop(model: nn.Module, batch: Any) -> None:
    with contextlib.suppress(_Reached):
        run(model, batch)


@contextlib.contextmanager
def _outputs(module: nn.Module, see: Callable[[Any], object], *, stop: bool = False) -> Iterator[None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        see(output)
        if stop:
            raise _Reached

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _first_inputs(module: nn.Module, see: Callable[[Any], object]) -> Iterator[None]:
    def hook(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        see(args[0] if args else keywords.get("hidden_states"))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Watched(Sequence[Any]):
    """Batches that say which of them is taken, as it is."""

    def __init__(self, batches: Sequence[Any], begin: Callable[[int], None]) -> None:
        self._batches, self._begin = batches, begin

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: Any) -> Any:
        batch = self._batches[number]
        self._begin(number)
        return batch
