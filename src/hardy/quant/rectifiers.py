"""RPReLU: a rectifier that learns, for each channel, where it bends, what it adds, and its slope below the bend.

ReActNet (arXiv 2003.03488), whose activation between binary layers it is, after batch norm and shortcut.
We differ: it may take the place of a PReLU, whose slopes it then begins with, and is stored and exported with the
packed layers beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.artefacts.packing import PackedLayer
from hardy.core.registry import register
from hardy.core.selection import Site
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks import run, watch

SLOPE = 0.25
"""Below the bend, in the place of a ReLU; that of `torch.nn.PReLU`, which the paper's network starts with."""


@register
class RPReLU(PackedLayer):
    """x - bend + lift above the bend, slope * (x - bend) + lift below it.

    A packed layer without weights: that is how a stored model knows where it stands. Its parameters train like those of
    a batch norm, before `Pack` and after.

    Args:
        channels: of the input.
        channel: their dimension, -3 of images and -1 of everything else.
        slope: (channels,), or one for all.

    Attributes:
        bend, lift, slope: parameters, (channels,).
    """

    def __init__(
        self,
        channels: int,
        channel: int,
        slope: torch.Tensor | float = SLOPE,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.channels = checks.integer("channels", channels, at_least=1)
        self.channel = checks.one_of("channel", channel, (-1, -3))
        empty = torch.zeros(channels, dtype=dtype, device=device)
        self.bend, self.lift = nn.Parameter(empty.clone()), nn.Parameter(empty.clone())
        self.slope = nn.Parameter(empty + torch.as_tensor(slope).detach().to(empty))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape.

        Raises:
            InputError: the input has other channels.
        """
        if x.ndim < -self.channel or x.shape[self.channel] != self.channels:
            raise InputError(f"this RPReLU takes {self.channels} channels at {self.channel}, got {tuple(x.shape)}")

        def column(values: torch.Tensor) -> torch.Tensor:
            return values[:, None, None] if self.channel == -3 else values

        y = x - column(self.bend)
        return torch.where(y > 0, y, column(self.slope) * y) + column(self.lift)

    @property
    def bits(self) -> int:
        return 0

    @property
    def weights(self) -> int:
        return 0

    @property
    def stands_for(self) -> tuple[str, ...]:
        return ()

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, Any]]) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"channels": self.channels, "channel": self.channel}

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> RPReLU:
        if not isinstance(module, REPLACED):
            raise InputError(f"a {type(module).__name__} is no ReLU: {cls.__name__} cannot stand for it")
        return cls(**description)

    def dense(self, dtype: torch.dtype) -> nn.Module:
        return self

    def extra_repr(self) -> str:
        return f"{self.channels}, channel={self.channel}"


REPLACED = (nn.ReLU, nn.PReLU)


def replace_rectifiers(model: nn.Module, edits: Edits, batches: Iterable[Any]) -> dict[str, RPReLU]:
    """Put an `RPReLU` in the place of every nn.ReLU and nn.PReLU that `batches` go through.

    Returns:
        Them, by name.

    Raises:
        InputError: there is none, or one is called with inputs of several widths.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, REPLACED)}
    if not found:
        raise InputError(
            f"rectifier 'rprelu' takes the place of nn.ReLU and nn.PReLU, and this {type(model).__name__} has no such "
            "module; what is called as a function cannot be replaced"
        )
    seen: dict[str, set[tuple[int, int]]] = {name: set() for name in found}

    def watcher(name: str) -> Any:
        def see(x: torch.Tensor) -> None:
            channel = -3 if x.ndim == 4 else -1
            seen[name].add((x.shape[channel], channel))

        return see

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), watch(model, {(name, "input"): watcher(name) for name in found}, strict=False):
            for batch in batches:
                run(model, batch)
    finally:
        model.train(training)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    made: dict[str, RPReLU] = {}
    for name, widths in seen.items():
        if not widths:
            continue
        if len(widths) > 1:
            counts = " and ".join(str(channels) for channels, _ in sorted(widths))
            raise InputError(f"{name} is called with {counts} channels; RPReLU needs a module for each place")
        old = found[name]
        slope = old.weight.detach() if isinstance(old, nn.PReLU) else SLOPE
        made[name] = RPReLU(*next(iter(widths)), slope, like.dtype, like.device).train(old.training)
        for place, module in list(model.named_modules(remove_duplicate=False)):
            if module is old:  # a module that stands in two places is replaced in both
                edits.set_module(place, made[name])
    return made
