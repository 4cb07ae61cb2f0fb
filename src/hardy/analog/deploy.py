"""Put the matrices of a model on the arrays of a chip, as one chip instance holds them some time after programming.

Source: the mapping and the device models are those of `hardy.hardware`, where each names its own. We differ from
aihwkit and CrossSim in that a chip instance is a seed: every cell is reproducible from (seed, site, tile), and time is
an argument rather than a history.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.analog.adapters import keep_adapters_digital
from hardy.analog.modules import AnalogConv1D, AnalogConv2d, AnalogLayer, AnalogLinear, Array
from hardy.core.method import Chain, Method, changes
from hardy.core.observe import AbsMax, observe
from hardy.core.selection import LINEAR, Selector, Site, select
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.crossbar import program_matrix
from hardy.hardware.product import Periphery
from hardy.report import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deploy(Method):
    """Replace each selected layer by one that computes on a chip.

    Linear layers, GPT-2's Conv1D and 2-D convolutions become `AnalogLinear`, `AnalogConv1D` and `AnalogConv2d`. The
    weights of a stack of experts are given the values that the arrays hold; their products are computed by the model
    itself, so a chip with converters or read noise is refused for them (`chip.without_periphery()` is not).

    Under PEFT adapters the base layers go on the chip; the adapters stay digital, and merging them is refused.

    A saved model holds the weights as the arrays held them, and is a digital model when it is loaded: converters and
    read noise are not part of it.

    Args:
        chip: a `Chip`, or the name of a preset.
        seed: which instance of the chip.
        seconds: since programming.
        select: which weights, as in `hardy.core.selection.select`.
        layers: in which layers; all by default.

    `apply` needs calibration batches if the chip has calibrated ranges (`chip.needs_data`).
    """

    chip: Chip
    seed: int = 0
    seconds: float = 0.0
    select: Selector = LINEAR
    layers: str | int | None = None

    def __post_init__(self) -> None:
        chip: object = self.chip
        if isinstance(chip, str):
            object.__setattr__(self, "chip", Chip.preset(chip))
        elif isinstance(chip, Mapping):
            object.__setattr__(self, "chip", Chip.from_dict(chip))
        super().__post_init__()

    def check(self) -> None:
        if not isinstance(self.chip, Chip):
            raise InputError(f"chip must be a Chip or the name of a preset, got {self.chip!r}")
        checks.integer("seed", self.seed)
        checks.number("seconds", self.seconds, at_least=0)

    def to_dict(self) -> dict[str, Any]:
        record = super().to_dict()
        record["fields"]["chip"] = self.chip.to_dict()
        return record

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        if self.chip.needs_data and data is None:
            raise InputError("this chip has calibrated converter ranges: give apply calibration batches")
        sites = select(model, self.select, layers=self.layers)
        keep_adapters_digital(model, sites, edits)
        by_module: dict[str, list[Site]] = {}
        for site in sites:
            by_module.setdefault(site.module, []).append(site)
        errors: dict[str, tuple[float, float, int]] = {}
        layers: dict[str, AnalogLayer] = {}
        for name, group in by_module.items():
            module = model.get_submodule(name)
            if _is_read_by_its_model(module, group[0]):
                for site in group:
                    errors[site.name] = self._held(model, edits, site)
                continue
            arrays = [self._array(model, site) for site in group]
            layers[name] = on_chip(module, name, arrays)
            errors |= {array.site.name: _error(array.clean, array.held.weight) for array in arrays}
        if self.chip.needs_data and layers:
            assert data is not None
            calibrate(model, layers, data)
        replaced = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            if id(module) in replaced:  # a module that stands in two places is replaced in both
                edits.set_module(name, replaced[id(module)])
        total = tuple(map(sum, zip(*errors.values(), strict=True)))
        return [_row("all selected weights", *total)] + [_row(name, *values) for name, values in errors.items()]

    def _array(self, model: nn.Module, site: Site) -> Array:
        clean = weight_of(model, site).to(torch.float32, copy=True)
        return Array.program(site, self.chip, clean, self.seed, self.seconds, Periphery.of(self.chip))

    def _held(self, model: nn.Module, edits: Edits, site: Site) -> tuple[float, float, int]:
        """A router, or each expert of a stack on arrays of its own."""
        clean = weight_of(model, site).float()
        if self.chip.has_periphery:
            kind = "router" if clean.ndim == 2 else "stack of experts"
            raise InputError(
                f"{site.name} is a {kind}, whose products the model computes itself: converters and read "
                "noise cannot be put there; give chip.without_periphery()"
            )
        names = [site.name] if clean.ndim == 2 else [f"{site.name}.{i}" for i in range(len(clean))]
        matrices = zip(names, clean.reshape(-1, *clean.shape[-2:]), strict=True)
        held = [
            program_matrix(m, self.chip, seed=self.seed, site=name, seconds=self.seconds).weight for name, m in matrices
        ]
        new = torch.stack(held).reshape(clean.shape)
        error = _error(clean, new)
        edits.set_weight(site, new)
        return error


def _is_read_by_its_model(module: nn.Module, site: Site) -> bool:
    """Whether the product with this weight is no module of its own: stacks of experts, and routers beside them."""
    router = site.role == "router" and not isinstance(module, nn.Linear)
    return router or site.parameter not in {None, "weight"}


def program(model: nn.Module, seed: int) -> None:
    """Take another chip instance for all layers of `model` that are on a chip, at the time they are at.

    Raises:
        InputError: none is, or a stack of experts is (undo the change and apply Deploy anew).
    """
    _reprogram(model, seed=seed)


def drift(model: nn.Module, seconds: float) -> None:
    """Let the chip that `model` is on be `seconds` after its programming, whatever time it was at before.

    Raises:
        InputError: as `program`; or the cells are not known at that time, and nothing has changed.
    """
    checks.number("seconds since programming", seconds, at_least=0)
    _reprogram(model, seconds=float(seconds))


def _reprogram(model: nn.Module, **change: Any) -> None:
    found = {item: list(_deployments(item.method)) for item in changes(model)}
    layers = [module for module in model.modules() if isinstance(module, AnalogLayer)]
    if not any(found.values()) or not layers:
        raise InputError(f"no layer of this {type(model).__name__} is on a chip: apply Deploy first")
    for method in (method for methods in found.values() for method in methods):
        for site in select(model, method.select, layers=method.layers):
            if _is_read_by_its_model(model.get_submodule(site.module), site):
                raise InputError(
                    f"{site.name} is a router or a stack of experts: undo the change and apply Deploy anew"
                )
    fresh = [layer.reprogrammed(**change) for layer in layers]  # all of them, before any is taken
    for layer, arrays in zip(layers, fresh, strict=True):
        layer.take(arrays)
    for item in found:
        item.method = _replaced(item.method, change)


def _deployments(method: Method) -> Iterator[Deploy]:
    if isinstance(method, Deploy):
        yield method
    elif isinstance(method, Chain):
        for member in method.methods:
            yield from _deployments(member)


def _replaced(method: Method, change: Mapping[str, Any]) -> Method:
    """`method` as it would have to be applied for the model to be as it is now: what a stored model records."""
    if isinstance(method, Deploy):
        return dataclasses.replace(method, **change)
    if isinstance(method, Chain):
        return Chain(methods=tuple(_replaced(member, change) for member in method.methods))
    return method


def on_chip(module: nn.Module, name: str, arrays: list[Array]) -> AnalogLayer:
    """The layer that takes the place of `module`, called `name`, and computes on `arrays`.

    Raises:
        InputError: there is none for this kind of layer, or it is on a chip already.
    """
    if isinstance(module, AnalogLayer):
        raise InputError(f"{name} is on a chip already; undo that change first")
    if isinstance(module, nn.Linear):
        return AnalogLinear(module, arrays)
    if isinstance(module, nn.Conv2d):
        return AnalogConv2d(module, arrays)
    if type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d):
        return AnalogConv1D(module, arrays)
    raise InputError(
        f"{name} is a {type(module).__name__}; a chip takes nn.Linear, nn.Conv2d, GPT-2's Conv1D and stacks of experts"
    )


_SAMPLE = 1024  # input vectors of each layer that its ADC range is found on


def calibrate(model: nn.Module, layers: dict[str, AnalogLayer], data: Iterable[Any]) -> None:
    """Set the calibrated ranges of `layers`, which are about to take their places in the still digital `model`."""
    samples: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    handles = []

    def keep(name: str, layer: AnalogLayer, inputs: tuple[Any, ...]) -> None:
        missing = _SAMPLE - sum(map(len, samples[name]))
        if missing > 0:
            x = layer.patches(inputs[0]) if isinstance(layer, AnalogConv2d) else inputs[0]
            vectors = x.detach().reshape(-1, x.shape[-1])
            samples[name].append(vectors[:: max(1, len(vectors) // missing)][:missing].clone())

    try:
        for name, layer in layers.items():
            hook = lambda _, inputs, name=name, layer=layer: keep(name, layer, inputs)  # noqa: E731
            handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
        seen = observe(model, data, tuple(layers), [AbsMax])
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        largest = seen[name][0].value.max().item() if samples[name] else 0.0
        if largest == 0:
            raise InputError(f"{name} saw no input other than zero in the calibration data, so it has no range")
        layer.calibrate(torch.cat(samples[name]), largest)


def _error(clean: torch.Tensor, held: torch.Tensor) -> tuple[float, float, int]:
    """Squared error, squared norm, number of weights."""
    return (held.double() - clean.double()).square().sum().item(), clean.double().square().sum().item(), clean.numel()


def _row(condition: str, error: float, energy: float, weights: int) -> Row:
    value = (error / energy) ** 0.5 if energy else 0.0
    return Row(metric="relative_error", condition=condition, value=value, details={"weights": weights})
