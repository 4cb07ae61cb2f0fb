"""Several copies of a layer on arrays of their own, whose outputs are averaged.

Source: the module redundancy of a study of language models on memristors (arXiv 2603.13725). Where we differ: the
copies are real, each with cells, faults, clipping and converters of its own, because only for independent Gaussian
noise and exact products is their mean one draw of smaller noise; `equivalent_noise` is that draw, and refuses the rest.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.analog.deploy import Deploy
from hardy.analog.modules import AnalogLayer
from hardy.analog.reading import CopiesOnChip
from hardy.core.layers import Layers
from hardy.core.method import ALL_SELECTED, Method
from hardy.core.selection import LINEAR, Selector, select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hardware.device import AdditiveDevice, ProportionalDevice
from hardy.hardware.noise import AdditiveNoise, ProportionalNoise
from hardy.report import Row


class RedundantLinear(nn.Module):
    """A linear layer as the mean of `copies`, ordinary nn.Linear layers that go on a chip one by one.

    As long as the products of all copies are exact it multiplies with their mean, and it is stored as that.
    """

    copies: nn.ModuleList

    def __init__(self, original: nn.Linear, copies: int) -> None:
        super().__init__()
        self.in_features, self.out_features = original.in_features, original.out_features
        members = []
        for number in range(copies):
            copy = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
            own = original.weight if number == 0 else nn.Parameter(original.weight.detach().clone(), False)
            copy.weight = own
            members.append(copy)
        self.copies = nn.ModuleList(members)
        self.bias = original.bias
        self.train(original.training)
        self._register_state_dict_hook(_stored_as_plain)

    @property
    def weight(self) -> Any:
        """The mean of the copies, (out, in); where a model reads it instead of calling the layer, of their products."""
        read = [copy.read_on_chip if isinstance(copy, AnalogLayer) else None for copy in self.copies]
        if all(copy is not None for copy in read):
            return CopiesOnChip(read)  # pyright: ignore[reportArgumentType]
        weights: list[Any] = [
            copy.stored_weight() if isinstance(copy, AnalogLayer) else copy.weight for copy in self.copies
        ]
        if len(weights) == 1:
            return weights[0]
        return torch.stack([weight.float() for weight in weights]).mean(0).to(weights[0].dtype)

    @property
    def unsaved(self) -> str:
        """Why a model with this layer cannot be stored, if so."""
        on_chip = any(isinstance(copy, AnalogLayer) for copy in self.copies)
        return "its copies are on a chip, and it is stored as a plain weight, which is not; undo Deploy first" * on_chip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if all(copy.reads_exactly for copy in self.copies if isinstance(copy, AnalogLayer)):
            return nn.functional.linear(x, self.weight, self.bias)
        y = torch.stack([copy(x).float() for copy in self.copies]).mean(0).to(x.dtype)
        return y if self.bias is None else y + self.bias


def _stored_as_plain(module: RedundantLinear, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [key for key in state if key.startswith(f"{prefix}copies.")]:
        del state[name]
    state[f"{prefix}weight"] = module.weight.detach()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Redundancy(Method):
    """Replace each selected linear layer by `RedundantLinear`; apply it before the model goes on a chip.

    Without noise it changes nothing. `Deploy` then programs every copy with cells of its own, and `model_cost` counts
    their arrays, as many times more as there are copies.

    Args:
        copies: of each layer.
        select: which layers, as in `hardy.core.selection.select`.
        layers: in which layers of the model.
    """

    copies: int = 2
    select: Selector = LINEAR
    layers: Layers | None = None

    def check(self) -> None:
        checks.integer("copies", self.copies, at_least=1, at_most=64)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        rows, extra = [], 0
        for site in select(model, self.select, layers=self.layers):
            module = model.get_submodule(site.module)
            if type(module) is not nn.Linear or site.rows is not None:
                reason = "apply Redundancy before it" if isinstance(module, AnalogLayer) else "it takes whole nn.Linear"
                raise InputError(f"{site.name} is a {type(module).__name__}; {reason}")
            edits.set_module(site.name, RedundantLinear(module, self.copies))
            added = (self.copies - 1) * module.weight.numel()
            rows.append(Row(metric="extra_weights", condition=site.name, value=added))
            extra += added
        return [
            Row(metric="relative_error", condition=ALL_SELECTED, value=0.0),
            Row(metric="extra_weights", condition=ALL_SELECTED, value=extra),
            *rows,
        ]


def equivalent_noise(noise: Method, copies: int) -> Method:
    """One draw of noise that is, in distribution, the mean of `copies` independent ones: sigma / sqrt(copies).

    Args:
        noise: `AdditiveNoise`, `ProportionalNoise`, or `Deploy` on a chip of additive or proportional cells without
            faults, wires and converters.
        copies: how many are averaged.

    Raises:
        InputError: the mean is not such a draw; use `Redundancy`, which makes the copies.
    """
    checks.integer("copies", copies, at_least=1)
    root = math.sqrt(copies)
    if isinstance(noise, AdditiveNoise | ProportionalNoise):
        return dataclasses.replace(noise, strength=noise.strength / root)
    reason = f"{type(noise).__name__} is not Gaussian"
    if isinstance(noise, Deploy):
        chip, device = noise.chip, noise.chip.device
        if chip.has_range:
            reason = "converters and noise before them act on each copy"
        elif chip.stuck_low or chip.stuck_high:
            reason = "stuck cells are not Gaussian"
        elif chip.wire_resistance:
            reason = "the drop along wires depends on what the cells hold"
        elif not isinstance(device, AdditiveDevice | ProportionalDevice):
            reason = f"cells of {type(device).__name__} are truncated, drift, or have noise of another kind"
        elif isinstance(device, ProportionalDevice) and device.read:
            reason = "read noise in proportion to what a cell holds is not Gaussian together with its programming noise"
        else:
            quiet = dataclasses.replace(device, program=device.program / root, read=device.read / root)
            return dataclasses.replace(noise, chip=dataclasses.replace(chip, device=quiet))
    raise InputError(f"no single draw is the mean of {copies} copies: {reason}; use Redundancy(copies={copies})")
