"""Which layer takes the place of which on a chip, the ranges of their converters, and all of them in a model."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.analog.arrays import Array, Passes, StoredWeight
from hardy.analog.modules import CONVOLUTIONS, AnalogConv1D, AnalogLayer, AnalogLinear
from hardy.analog.reading import STORED
from hardy.core.method import ALL_SELECTED
from hardy.core.roles import is_linear
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hooks import run, watch
from hardy.hooks.block_inputs import BlockInputs, block_of
from hardy.mapping import release
from hardy.report import Report, Row


def as_chip(chip: Any) -> Any:
    """A `Chip` from the name of a preset or file, or from its record; everything else as it is."""
    if isinstance(chip, str):
        return Chip.named(chip)
    return Chip.from_dict(chip) if isinstance(chip, Mapping) else chip


def on_chip(module: nn.Module, name: str, arrays: list[Array], passes: Passes | None = None) -> AnalogLayer:
    """The layer that takes the place of `module`, called `name`, and computes on `arrays`.

    Raises:
        InputError: there is none for this kind of layer, or it is on a chip already.
    """
    return layer_on_chip(module, name)(module, arrays, passes)


def layer_on_chip(module: nn.Module, name: str) -> Callable[[Any, list[Array], Passes | None], AnalogLayer]:
    """The class of that layer, refused as `on_chip` does."""
    if isinstance(module, AnalogLayer):
        raise InputError(f"{name} is on a chip already; undo that change first")
    if isinstance(module, nn.Linear):
        return AnalogLinear
    for kind, on_arrays in CONVOLUTIONS.items():
        if isinstance(module, kind):
            return on_arrays
    if is_linear(module):
        return AnalogConv1D
    raise InputError(
        f"{name} is a {type(module).__name__}; a chip takes nn.Linear, nn.Conv1d to Conv3d and ConvTranspose1d to 3d, "
        "GPT-2's Conv1D, nn.LSTM, GRU and RNN, nn.MultiheadAttention and stacks of experts"
    )


_SAMPLE = 1024  # input vectors of each layer that its ADC range is found on


def calibrate(
    model: nn.Module, layers: Mapping[str, AnalogLayer], batches: Sequence[Any], inputs: BlockInputs | None = None
) -> None:
    """Set the calibrated ranges of `layers`, which are about to take their places in the still digital `model`.

    A layer that is not called, because its parent reads its weight, is passed over: its range is found in use.

    Args:
        model: still digital.
        layers: by the names of those that they will replace.
        batches: as `hardy.hooks.run` takes them.
        inputs: of the model's blocks, for these batches; samples are then held of one block at a time.

    Raises:
        InputError: no batches, or a layer that saw nothing but zeros, NaN or infinity.
    """
    if not batches:
        raise InputError("calibration was given no batches")
    groups: dict[str, dict[str, AnalogLayer]] = {}
    for name, layer in layers.items():
        block = block_of(name) if inputs else ""
        groups.setdefault(block if inputs and block in inputs.blocks else "", {})[name] = layer
    _calibrate_group(model, groups.pop("", {}), batches)
    for index, block in enumerate(inputs.blocks if inputs else ()):
        if block in groups:
            assert inputs is not None
            with inputs.before(index) as reaching:
                _calibrate_group(model, groups[block], reaching, block)
        for layer in layers.values():
            release(layer.parameter)


def _calibrate_group(
    model: nn.Module, layers: Mapping[str, AnalogLayer], batches: Sequence[Any], block: str | None = None
) -> None:
    """Ranges of `layers`, all in `block`, after which the model is left, or None."""
    if not layers:
        return
    samples: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    largest: dict[str, float] = {}

    def keep(name: str, x: torch.Tensor) -> None:
        vectors = checks.finite(f"the input of {name}", layers[name].vectors(x.detach()))
        largest[name] = max(largest.get(name, 0.0), vectors.abs().max().item())
        if (missing := _SAMPLE - sum(map(len, samples[name]))) > 0:
            samples[name].append(vectors[:: max(1, len(vectors) // missing)][:missing].clone())

    watched: dict[Any, Any] = {(name, "input"): functools.partial(keep, name) for name in layers}
    end = {} if block is None else {(block, "output"): 1}
    watched |= dict.fromkeys(end, lambda _: None)
    with torch.no_grad(), watch(model, watched, strict=False, stop=end or False):
        for batch in batches:
            run(model, batch)
    for name, peak in largest.items():
        if peak == 0:
            raise InputError(f"{name} saw no input other than zero in the calibration data, so it has no range")
        for array in layers[name].arrays:
            array.calibrate(layers[name].inputs_of(array, torch.cat(samples[name])).float(), peak)


def stored_weights(model: nn.Module) -> Iterator[tuple[torch.Tensor, StoredWeight]]:
    """Every parameter of `model` that is on a chip, and what the arrays hold of it."""
    for module in model.modules():
        if isinstance(module, AnalogLayer):
            yield module.parameter, module.stored
        elif (found := vars(module).get(STORED)) is not None:
            for name, (_, stored) in found.entries.items():
                parameter = module._parameters[name]
                assert parameter is not None
                yield parameter, stored


def clipping(model: nn.Module) -> Report:
    """How much of what the converters of a model on a chip were given since `Deploy` was beyond their range.

    Returns:
        Rows "clipped_outputs" and "clipped_inputs", shares of all conversions, for every matrix that converted and for
        "all selected weights".

    Raises:
        InputError: nothing of the model is on a chip.
    """
    arrays = [array for _, stored in stored_weights(model) for array in stored.arrays]
    if not arrays:
        raise InputError(f"no layer of this {type(model).__name__} is on a chip: apply Deploy first")
    rows = []
    for metric in ("outputs", "inputs"):
        counts = {a.name: (int(getattr(a.clips, metric)), getattr(a.clips, f"of_{metric}")) for a in arrays}
        counts = {name: count for name, count in counts.items() if count[1]}
        if counts:
            counts = {ALL_SELECTED: tuple(map(sum, zip(*counts.values(), strict=True))), **counts}
        rows += [
            Row(metric=f"clipped_{metric}", condition=name, value=clipped / of, details={"conversions": of})
            for name, (clipped, of) in counts.items()
        ]
    return Report(title=f"Conversions beyond the range in {type(model).__name__}", rows=tuple(rows))
