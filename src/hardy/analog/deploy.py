"""Put the matrices of a model on the arrays of a chip, as one chip instance holds them some time after programming.

Source: the mapping and the device models are those of `hardy.hardware`, where each names its own. We differ from
aihwkit and CrossSim in that a chip instance is a seed: every cell is reproducible from (seed, site, tile), and time is
an argument rather than a history.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from hardy import checks
from hardy.analog.adapters import keep_adapters_digital
from hardy.analog.arrays import Array, Passes, PassHooks, StoredWeight
from hardy.analog.layers import as_chip, calibrate, layer_on_chip, on_chip, stored_weights
from hardy.analog.modules import CONVOLUTIONS, AnalogConvTranspose, AnalogLayer
from hardy.analog.reading import STORED, ReadWeights, reading_class
from hardy.analog.recurrent import RECURRENT, recurrent_class
from hardy.core.layers import Layers
from hardy.core.method import ALL_SELECTED, Chain, Method, changes, squared_norm
from hardy.core.selection import LINEAR, OWN_WEIGHTS, Selector, Site, select, with_own_weights
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.crossbar import require_tiles
from hardy.hardware.product import Periphery
from hardy.hooks import run
from hardy.hooks.block_inputs import block_inputs
from hardy.mapping import release
from hardy.report import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deploy(Method):
    """Replace each selected layer by one that computes on a chip.

    Linear layers, GPT-2's Conv1D and convolutions become `AnalogLinear`, `AnalogConv1D`, `AnalogConv1d` to `3d` and
    `AnalogConvTranspose1d` to `3d`. Stacks of experts and routers, nn.LSTM, GRU and RNN, and nn.MultiheadAttention,
    which multiply with weights of their own, stay where they are, and their products are computed on arrays all the
    same; so are those of a layer whose parent reads its weight instead of calling it. Where that cannot be followed,
    the forward pass is an error that names the layer.

    The weights of the model stay its parameters: what is loaded or trained is programmed, whenever it changes, and an
    optimizer may be made before or after. The gradient of a weight goes straight through programming, converters and
    noise.

    Layers with binary weights, packed or in training, are taken apart (`hardy.quant.BinaryWeights`): the signs and one
    shared column of ones become an array, the rounding of the inputs and the scales stay digital.

    Under PEFT adapters the base layers go on the chip; the adapters stay digital, and merging them is refused.

    Args:
        chip: a `Chip`, the name of a preset, or a `.json` or `.csv` file, as `Chip.named` takes them.
        seed: which instance of the chip.
        seconds: since programming.
        select: which weights, as in `hardy.core.selection.select`, recurrent and attention modules by their own name
            or class; None for all linear layers but head and router, all recurrent and attention modules, and
            all convolutions that a chip takes. The report lists what stays digital, and why; with None a warning says
            so where it is more than 5 % of what could be multiplied on arrays.
        layers: in which layers; all by default.
        ranges: calibrated ranges that are known already, of inputs and of outputs in cells, by the name of the matrix;
            a stored model has them in its record.

    A stored model holds the digital weights, and `hardy.load` puts them on the same chip instance again; its series of
    reads begins anew. transformers' `from_pretrained` reads the digital model.

    `apply` finds calibrated ranges (`chip.needs_data`) on the calibration batches it is given, each layer without any
    on the first inputs that it sees.
    """

    chip: Chip
    seed: int = 0
    seconds: float = 0.0
    select: Selector | None = None
    layers: Layers | None = None
    ranges: tuple[tuple[str, float | None, float | tuple[float, ...] | None], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "chip", as_chip(self.chip))
        super().__post_init__()

    def check(self) -> None:
        if not isinstance(self.chip, Chip):
            raise InputError(f"chip must be a Chip or the name of a preset, got {self.chip!r}")
        checks.integer("seed", self.seed)
        checks.number("seconds", self.seconds, at_least=0)
        entries: Any = () if self.ranges is None else self.ranges
        if not isinstance(entries, tuple) or not all(map(_is_ranges, entries)):
            raise InputError(
                f"ranges must hold (name, input range, output range) for each matrix, above 0 or None, got {entries!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        record = super().to_dict()
        record["fields"]["chip"] = self.chip.to_dict()
        return record

    @property
    def reapplied(self) -> bool:
        return self.ranges is not None  # a record without them is of a time when the stored weights were the arrays'

    def recorded(self, model: nn.Module) -> Method:
        found = [
            (array.name, array.periphery.dac_range, array.periphery.adc_range)
            for _, stored in stored_weights(model)
            for array in stored.arrays
        ]
        chip, known = self.chip, []
        for name, dac_range, adc_range in found:
            inputs = dac_range if chip.dac_range == "calibrated" and isinstance(dac_range, float) else None
            outputs = adc_range if chip.adc_range == "calibrated" else None
            if inputs is not None or outputs is not None:
                known.append((name, inputs, outputs))
        return dataclasses.replace(self, ranges=tuple(known))

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        for name, module in list(model.named_modules()):
            if hasattr(module, "as_array"):  # a layer of two levels: its signs go on the array, the rest stays digital
                try:
                    edits.set_module(name, cast(Any, module).as_array().train(module.training))
                except InputError as error:
                    raise InputError(f"{name} {error}") from None
        sites, unfit = self._sites(model)
        keep_adapters_digital(model, sites, edits)
        self._require_fit(model, sites)  # before anything is programmed
        by_module: dict[str, list[Site]] = {}
        for site in sites:
            by_module.setdefault(site.module, []).append(site)
        batches = None if data is None or not self.chip.needs_data else list(data)
        inputs = block_inputs(model, batches, by_module) if batches else None  # before there is a second copy
        passes = Passes()
        layers: dict[str, AnalogLayer] = {}
        read: dict[str, dict[str, StoredWeight]] = {}
        stored: list[StoredWeight] = []
        errors: dict[str, tuple[float, float, int]] = {}
        for name, group in by_module.items():
            module = model.get_submodule(name)
            if _is_read_by_its_model(module, group[0]):
                read[name] = {str(site.parameter): self._stack(model, module, site) for site in group}
                here = list(read[name].values())
            else:
                arrays = [array for site in group for array in self._arrays(model, module, site)]
                layers[name] = passes.unused[name] = on_chip(module, name, arrays, passes)
                here = [layers[name].stored]
            for weight in here:
                for array in weight.arrays:
                    parameter = module._parameters[array.site.parameter or "weight"]
                    clean = weight.matrices(cast(torch.Tensor, parameter).detach())[array.place]
                    errors[array.name] = (*_error(clean, array), array.state.weight.numel())
            for site in group:
                release(module._parameters[site.parameter or "weight"])  # pyright: ignore[reportArgumentType]
            stored += here
        known = {name: (of_inputs, of_outputs) for name, of_inputs, of_outputs in self.ranges or ()}
        for array in (array for weight in stored for array in weight.arrays):
            if array.name in known:
                of_inputs, of_outputs = known[array.name]
                array.periphery = Periphery.of(self.chip, input_range=of_inputs, output_range=of_outputs)
        if batches is not None and (new := {n: layer for n, layer in layers.items() if not layer.stored.known}):
            calibrate(model, new, batches, inputs)
        self._place(model, edits, layers, read, passes)
        if batches and not all(weight.known for weight in stored):
            with torch.no_grad():
                run(model, batches[0])  # what the model computes itself finds its ranges in use
        total = tuple(map(sum, zip(*errors.values(), strict=True)))
        rows = [_row(ALL_SELECTED, *total)] + [_row(name, *values) for name, values in errors.items()]
        return rows + self._digital(model, {site.name for site in sites}, unfit)

    def check_model(self, model: nn.Module) -> None:
        """Refuse what `apply` would refuse of the selection and of the sizes, and program nothing.

        Layers with binary weights are not looked at: what goes on arrays of them is found by `apply`.

        Raises:
            InputError: the selection matches nothing, or something that no chip takes or this one cannot.
        """
        if not any(hasattr(module, "as_array") for module in model.modules()):
            self._require_fit(model, self._sites(model)[0])

    def _require_fit(self, model: nn.Module, sites: list[Site]) -> None:
        for site in sites:
            module = model.get_submodule(site.module)
            if hasattr(module, STORED):
                raise InputError(f"{site.module} is on a chip already; undo that change first")
            if not _is_read_by_its_model(module, site):
                layer_on_chip(module, site.module)
            if not isinstance(module, _TRANSPOSED):  # whose tiles are looked at when they are programmed
                outputs, inputs = weight_of(model, site).shape[-2:]
                parts = 3 if site.parameter == "in_proj_weight" else getattr(module, "groups", 1)
                require_tiles(outputs // parts, inputs, self.chip, site.name)

    def _sites(self, model: nn.Module) -> tuple[list[Site], dict[str, str]]:
        """What goes on the chip; and, if nobody chose, what could not, with the reason."""
        if self.select is not None:
            return with_own_weights(model, select(model, self.select, layers=self.layers)), {}
        found, sites, unfit = [], [], {}
        for pattern in (_multiplies_itself, "conv", LINEAR):  # a model may have one kind or all
            try:
                found += with_own_weights(model, select(model, pattern, layers=self.layers))
            except InputError:
                if pattern == LINEAR and not found:
                    raise
        for site in found:
            module = model.get_submodule(site.module)
            groups = 1 if isinstance(module, AnalogLayer) else getattr(module, "groups", 1)
            if isinstance(module, tuple(CONVOLUTIONS)) and groups > _MOST_GROUPS:
                unfit[site.name] = f"its {groups} groups would take as many arrays of one small matrix each"
                continue
            sites.append(site)
        if not sites:
            raise InputError(f"nothing in this {type(model).__name__} goes on a chip: {next(iter(unfit.values()))}")
        return sites, unfit

    def _arrays(self, model: nn.Module, module: Any, site: Site) -> list[Array]:
        """A matrix, or one for each group of channels of a convolution."""
        clean, groups = weight_of(model, site).float(), getattr(module, "groups", 1)
        places: list[Any] = [None]
        if isinstance(module, _TRANSPOSED):
            clean = StoredWeight([], groups=groups).matrices(clean)
            places = list(range(groups))
        elif groups > 1 and isinstance(module, tuple(CONVOLUTIONS)):
            size = len(clean) // groups
            places = [slice(group * size, (group + 1) * size) for group in range(groups)]
        return [
            Array.program(
                site, self.chip, clean if place is None else clean[place], self.seed, self.seconds,
                part=group if groups > 1 and place is not None else None, place=place,
            )
            for group, place in enumerate(places)
        ]  # fmt: skip

    def _stack(self, model: nn.Module, module: nn.Module, site: Site) -> StoredWeight:
        """A router, a matrix of a recurrent layer, or each expert of a stack on arrays of its own."""
        clean, parameter = weight_of(model, site).float(), module._parameters[str(site.parameter)]
        assert parameter is not None
        if site.parameter == "in_proj_weight":  # three projections on arrays of their own
            size = len(clean) // 3
            parts = {part: slice(third * size, (third + 1) * size) for third, part in enumerate("qkv")}
            return StoredWeight(
                [
                    Array.program(site, self.chip, clean[place], self.seed, self.seconds, part=part, place=place)
                    for part, place in parts.items()
                ]
            ).take(parameter)
        experts = [None] if clean.ndim == 2 else range(len(clean))
        matrices = clean.reshape(-1, *clean.shape[-2:])
        arrays = [
            Array.program(site, self.chip, matrix, self.seed, self.seconds, part=expert, place=expert)
            for matrix, expert in zip(matrices, experts, strict=True)
        ]
        return StoredWeight(arrays, getattr(module, "is_transposed", False) is True).take(parameter)

    def _place(
        self,
        model: nn.Module,
        edits: Edits,
        layers: dict[str, AnalogLayer],
        read: dict[str, dict[str, StoredWeight]],
        passes: Passes,
    ) -> None:
        names = {*layers, *read}
        above = {".".join(name.split(".")[:i]) for name in names for i in range(name.count(".") + 1)}
        replaced = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            if id(module) in replaced:  # a module that stands in two places is replaced in both
                edits.set_module(name, replaced[id(module)])
                above |= {name.rpartition(".")[0]}
        for name, parameters in read.items():
            module: Any = model.get_submodule(name)
            entries = {key: (f"{name}.{key}", stored) for key, stored in parameters.items()}
            edits.swap(module, STORED, ReadWeights(entries, passes))
            reading = recurrent_class if isinstance(module, RECURRENT) else reading_class
            edits.swap(module, "__class__", reading(type(module), tuple(parameters)))
            above |= {name}  # which may be called by itself
            config = getattr(module, "config", None)
            exactly = all(stored.reads_exactly for stored in parameters.values())
            if not exactly and getattr(config, "_experts_implementation_internal", None) not in {None, "eager"}:
                # The others multiply with all experts at once, which no array does.
                edits.swap(config, "_experts_implementation_internal", "eager")
        for name in sorted(above):
            edits.swap(PassHooks(model.get_submodule(name), passes), "on", True)

    def _digital(self, model: nn.Module, on: set[str], unfit: dict[str, str]) -> list[Row]:
        """The share of the weights on the chip, and every matrix that is not, with the reason."""
        modules = dict(model.named_modules())
        placed = {name.partition(":")[0] for name in on}
        rows, total, digital, left = [], 0, 0, {}
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            owner, size = name.rpartition(".")[0], parameter.numel()
            module, total = modules[owner], total + size
            if name in placed or (owner in placed and name == f"{owner}.weight"):
                continue
            reason = unfit.get(owner, "not selected")
            if isinstance(module, nn.Embedding):
                reason = "an embedding is looked up, not multiplied"
            elif isinstance(module, _NO_ARRAYS):
                reason = f"a chip takes no {type(module).__name__}"
            digital += size
            if owner in unfit or isinstance(module, _NO_ARRAYS):
                left[name] = size
            rows.append(Row(metric="digital_weights", condition=name, value=size, details={"reason": reason}))
        on_chip = total - digital
        if self.select is None and (unasked := sum(left.values())) > 0.05 * (on_chip + unasked):
            shown = ", ".join([*left][:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
            warnings.warn(
                f"{unasked:,} weights that are multiplied stay digital beside {on_chip:,} on the chip: {shown}; the "
                "report of the change has the reasons, and select= says that it is meant",
                stacklevel=5,
            )
        share = Row(metric="share_on_chip", condition=ALL_SELECTED, value=on_chip / total, details={"weights": total})
        return [share, *rows]


_MOST_GROUPS = 16
"""Groups of a convolution that goes on the chip without being asked for."""


def _is_ranges(entry: Any) -> bool:
    if not (isinstance(entry, tuple) and len(entry) == 3 and isinstance(entry[0], str)):
        return False
    outputs = entry[2] if isinstance(entry[2], tuple) and entry[2] else (entry[2],)  # one for each slice of a weight
    return all(value is None or (isinstance(value, float) and 0 < value < math.inf) for value in (entry[1], *outputs))


_NO_ARRAYS = (nn.RNNCellBase, nn.Bilinear)
"""Modules that multiply with weights of their own, which stay digital."""

_TRANSPOSED = tuple(kind for kind, analog in CONVOLUTIONS.items() if issubclass(analog, AnalogConvTranspose))


def _multiplies_itself(name: str, module: nn.Module) -> bool:
    return isinstance(module, OWN_WEIGHTS)


def _is_read_by_its_model(module: nn.Module, site: Site) -> bool:
    """Whether the product with this weight is no module of its own: stacks of experts, and routers beside them."""
    router = site.role == "router" and not isinstance(module, nn.Linear)
    return router or site.parameter not in {None, "weight"}


def program(model: nn.Module, seed: int) -> None:
    """Program the weights of `model` as they are now into another chip instance, at the time the chip is at.

    Raises:
        InputError: no layer is on a chip, or weights are NaN or infinite, and nothing has changed.
    """
    _reprogram(model, seed=checks.integer("seed", seed))


def drift(model: nn.Module, seconds: float) -> None:
    """Let the chip that `model` is on be `seconds` after its programming, whatever time it was at before.

    Raises:
        InputError: as `program`; or the cells are not known at that time, and nothing has changed.
    """
    _reprogram(model, seconds=checks.number("seconds since programming", seconds, at_least=0))


def _reprogram(model: nn.Module, seed: int | None = None, seconds: float | None = None) -> None:
    found = list(stored_weights(model))
    if not found:
        raise InputError(f"no layer of this {type(model).__name__} is on a chip: apply Deploy first")
    fresh = [stored.reprogrammed(parameter, seed, seconds) for parameter, stored in found]  # before any is taken
    for (parameter, stored), states in zip(found, fresh, strict=True):
        stored.become(parameter, states, seed, seconds)
    change = {name: value for name, value in (("seed", seed), ("seconds", seconds)) if value is not None}
    for item in changes(model):
        item.method = _replaced(item.method, change)


def _replaced(method: Method, change: Mapping[str, Any]) -> Method:
    """`method` as it would have to be applied for the model to be as it is now: what a stored model records."""
    if isinstance(method, Deploy):
        return dataclasses.replace(method, **change)
    if isinstance(method, Chain):
        return Chain(methods=tuple(_replaced(member, change) for member in method.methods))
    return method


def _error(clean: torch.Tensor, array: Array) -> tuple[float, float]:
    """Squared error and squared norm of the matrix on `array`, which was to hold `clean`."""
    return squared_norm(array.state.weight, minus=clean), squared_norm(clean)


def _row(condition: str, error: float, energy: float, weights: int) -> Row:
    value = (error / energy) ** 0.5 if energy else 0.0
    return Row(metric="relative_error", condition=condition, value=value, details={"weights": weights})
