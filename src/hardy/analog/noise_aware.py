"""Noise-aware training: the forward of training meets the chip's noise, the backward passes straight through it.

Extended straight-through estimator, arXiv 2508.11940. We differ in the limit on weights: they are brought back to it
after each step instead of getting no gradient beyond it, because a weight without gradient never comes back.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, get_args

import torch
from torch import nn

from hardy import checks
from hardy.analog.adapters import keep_adapters_digital
from hardy.analog.arrays import Array
from hardy.analog.layers import as_chip, calibrate, on_chip
from hardy.analog.modules import AnalogLayer
from hardy.analog.noisy_forward import (
    Gradient,
    InputGradient,
    NoisyForward,
    Resample,
    Simulator,
    draw,
    padding_of,
)
from hardy.core.layers import Layers
from hardy.core.method import ALL_SELECTED, Method
from hardy.core.roles import as_matrix, is_linear
from hardy.core.selection import LINEAR, Selector, Site, select
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.noise import WeightNoise
from hardy.hardware.product import Periphery
from hardy.report import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseAware(Method):
    """Let the selected layers compute with a chip's noise as long as the model is in training mode.

    Nothing else changes: modules, parameters, state-dict keys and any optimizer that holds them stay the same, so it
    goes into every training loop and into the Trainer of transformers as it is. As with dropout, `model.eval()` is the
    model without noise. `undo` takes the noise away; what training made of the weights is the optimizer's doing and
    stays. `Deploy` then, or while it is on, puts the trained weights on a chip.

    A step is one forward pass of a layer in training mode: with gradients summed over n batches, n of them make an
    optimizer step. Every process of a distributed run meets the same noise; give them seeds of their own where that
    is not wanted.

    Args:
        chip: where the noise comes from: a `Chip` or the name of a preset, with all that it does (converters and read
            noise included); a weight noise such as `AdditiveNoise(strength=0.03)`; or any function of
            (weight (out, in) float32, torch.Generator) that returns the weight as an array would hold it.
        gradient: "straight-through" is the gradient of the layer without noise, taken at the noisy output; no graph of
            the noise is kept, and any function will do. "full" goes through the noise as well, which must then be
            differentiable: a chip without converters, a weight noise, a function of torch operations.
        input_gradient: straight-through: whether the gradient of a layer's input goes through its "noisy" or its
            "clean" weight. Noisy keeps a copy of the weight until the backward pass.
        resample: new noise at every so many steps; between them the deviation from the clean weight is kept
            ("full": drawn again). "sample": for each sample of a batch (input_gradient="clean" only), at the cost of as
            many draws. "never": one chip instance all along.
        warmup_steps: the deviations grow from 0 to their full size over so many steps.
        clip: weights are kept within so many standard deviations of their output channel, as it is at `apply`; None
            for no limit.
        seed: of all draws.
        seconds: since programming, for a chip.
        select: which weights, as in `hardy.core.selection.select`.
        layers: in which layers; all by default.

    `apply` finds calibrated ranges (`chip.needs_data`) on the calibration batches it is given, each layer without any
    on its first inputs in training.
    """

    chip: Chip | WeightNoise | Simulator
    gradient: Gradient = "straight-through"
    input_gradient: InputGradient = "clean"
    resample: Resample = 1
    warmup_steps: int = 0
    clip: float | None = None
    seed: int = 0
    seconds: float = 0.0
    select: Selector = LINEAR
    layers: Layers | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "chip", as_chip(self.chip))
        super().__post_init__()

    def check(self) -> None:
        noise: Any = self.chip
        if isinstance(noise, type) or not (isinstance(noise, Chip | WeightNoise) or callable(noise)):
            raise InputError(f"chip must be a Chip, a preset, a weight noise or a function, got {noise!r}")
        if isinstance(noise, WeightNoise):
            for field in ("seed", "select", "layers"):
                if getattr(noise, field) != type(noise).__dataclass_fields__[field].default:
                    raise InputError(
                        f"{field} belongs to NoiseAware, not to its noise: got chip={noise}, "
                        f"give NoiseAware({field}={getattr(noise, field)!r}, ...)"
                    )
        for field, kind in (("gradient", Gradient), ("input_gradient", InputGradient)):
            checks.one_of(field, getattr(self, field), get_args(kind))
        if not (self.resample in ("sample", "never") or (type(self.resample) is int and self.resample >= 1)):
            raise InputError(f"resample must be a positive integer, 'sample' or 'never', got {self.resample!r}")
        if self.resample == "sample" and (self.gradient, self.input_gradient) != ("straight-through", "clean"):
            raise InputError(
                "resample='sample' needs gradient='straight-through' and input_gradient='clean', got "
                f"{self.gradient!r} and {self.input_gradient!r}"
            )
        checks.integer("warmup_steps", self.warmup_steps, at_least=0)
        if self.clip is not None:
            checks.number("clip", self.clip, above=0)
        checks.integer("seed", self.seed)
        checks.number("seconds", self.seconds, at_least=0)
        if self.seconds and not isinstance(noise, Chip):
            raise InputError(f"seconds is for a Chip, whose cells drift; got seconds={self.seconds:g} with {noise!s}")
        if self.gradient == "full" and isinstance(noise, Chip):
            _require_differentiable(noise)

    def to_dict(self) -> dict[str, Any]:
        if not isinstance(self.chip, Chip | WeightNoise):
            raise InputError(f"NoiseAware with a function of your own ({self.chip!r}) cannot be stored; undo it first")
        record = super().to_dict()
        record["fields"]["chip"] = self.chip.to_dict()
        return record

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        noise = self.chip
        sites = select(model, self.select, layers=self.layers)
        keep_adapters_digital(model, sites, edits)
        by_module: dict[str, list[Site]] = {}
        for site in sites:
            by_module.setdefault(site.module, []).append(site)
        rows, error, energy, count = [], 0.0, 0.0, 0
        for name, group in by_module.items():
            self._require_layer(model.get_submodule(name), group[0])
            for site in group:
                clean = weight_of(model, site).to(torch.float32, copy=True)
                off = self._first_draw(clean, site).sub(clean)
                squares = off.square().sum().item(), clean.square().sum().item()
                error, energy, count = error + squares[0], energy + squares[1], count + clean.numel()
                rows.append(_row(site.name, *squares, clean.numel()))
        peripheries = self._peripheries(model, by_module, data)
        for name, group in by_module.items():
            module = model.get_submodule(name)
            forward = NoisyForward(
                module=module,
                sites=group,
                noise=noise,
                peripheries=peripheries[name],
                seed=self.seed,
                seconds=self.seconds,
                gradient=self.gradient,
                input_gradient=self.input_gradient,
                resample=self.resample,
                warmup_steps=self.warmup_steps,
                inner=vars(module).get("forward"),
                limit=self._limit(module, group),
            )
            edits.swap(module, "forward", forward)
        return [_row(ALL_SELECTED, error, energy, count), *rows]

    def _require_layer(self, module: nn.Module, site: Site) -> None:
        """Raise `InputError` unless `module` is a layer that can be trained with noise."""
        if isinstance(module, AnalogLayer):
            raise InputError(f"{site.name} is on a chip already; undo that change first")
        if site.parameter != "weight" or not (is_linear(module) or isinstance(module, nn.Conv2d)):
            raise InputError(
                f"{site.name} is a {type(module).__name__}; noise-aware training takes nn.Linear, nn.Conv2d and "
                "GPT-2's Conv1D"
            )
        if "forward" in vars(module) and self.resample == "sample":
            raise InputError(
                f"{site.name} has a forward of its own already, and resample='sample' would run it once for each "
                "sample; apply this method first, and the other on top of it"
            )
        if "forward" in vars(module) and isinstance(self.chip, Chip) and self.chip.has_range:
            raise InputError(
                f"{site.name} has a forward of its own already, which a chip with converters would pass over, as it "
                "computes the whole product; apply this method first, and the other on top of it"
            )
        if isinstance(module, nn.Conv2d):
            padding_of(module)
            if module.groups > 1 and isinstance(self.chip, Chip) and self.chip.has_range:
                raise InputError(
                    f"{site.name} is a convolution of {module.groups} groups, which is trained without converters: "
                    "use chip.without_periphery()"
                )

    def _first_draw(self, clean: torch.Tensor, site: Site) -> torch.Tensor:
        """What an array would hold of `clean`; refused where it is no weight, or has no gradient that is asked for."""
        full = self.gradient == "full"
        weight = clean.clone().requires_grad_(full)
        with torch.set_grad_enabled(full):
            held = draw(self.chip, weight, site, self.seed, (0,), self.seconds)
        if full:
            total = held.weight.sum() if held.read_variance is None else held.weight.sum() + held.read_variance.sum()
            gradient = torch.autograd.grad(total, weight, allow_unused=True)[0] if total.requires_grad else None
            if gradient is None or not bool(torch.isfinite(gradient).all()):
                what = "is not differentiable" if gradient is None else "has NaN or infinite derivatives"
                raise InputError(
                    f"gradient='full': the noise {getattr(self.chip, '__name__', self.chip)} {what} at {site.name}; "
                    "use gradient='straight-through'"
                )
        noisy = held.weight.detach()
        if bad := int((~torch.isfinite(noisy)).sum()):
            raise InputError(f"the noise gave {site.name} {bad} NaN or infinite weights of {noisy.numel()}")
        return noisy

    def _peripheries(
        self, model: nn.Module, by_module: dict[str, list[Site]], data: Iterable[Any] | None
    ) -> dict[str, list[Periphery]]:
        """The converters of each site, found as `Deploy` finds them."""
        chip = self.chip
        if not isinstance(chip, Chip):
            return {name: [] for name in by_module}
        if not chip.has_range:
            return {name: [Periphery.of(chip)] * len(group) for name, group in by_module.items()}
        layers = {}
        for name, group in by_module.items():
            arrays = []
            for site in group:
                clean = weight_of(model, site).to(torch.float32, copy=True)
                arrays.append(Array.program(site, chip, clean, self.seed, self.seconds))
            layers[name] = on_chip(model.get_submodule(name), name, arrays)
        if chip.needs_data and data is not None:
            calibrate(model, layers, list(data))
        return {name: [array.periphery for array in layer.arrays] for name, layer in layers.items()}

    def _limit(self, module: nn.Module, group: list[Site]) -> torch.Tensor | None:
        """The largest magnitude of each weight, (out, 1); infinite where nothing is selected."""
        if self.clip is None:
            return None
        weight: Any = module.weight
        matrix = as_matrix(module, weight.detach())
        limit = self.clip * matrix.float().std(1, correction=0, keepdim=True).to(matrix.dtype)
        noisy = torch.zeros(len(matrix), 1, dtype=torch.bool, device=matrix.device)
        for site in group:
            noisy[slice(None) if site.rows is None else slice(*site.rows)] = True
        return torch.where(noisy, limit, torch.inf)


def _require_differentiable(chip: Chip) -> None:
    if chip.has_range:
        raise InputError(
            "gradient='full' needs a chip without converters, which have no derivative: got "
            f"chip with dac_bits={chip.dac_bits}, adc_bits={chip.adc_bits}, output_noise={chip.output_noise:g}, "
            f"nonlinearity={chip.nonlinearity:g}; use gradient='straight-through' or chip.without_periphery()"
        )
    if chip.cell_levels is not None:
        raise InputError(
            f"gradient='full' cannot go through cells of cell_levels={chip.cell_levels}; use 'straight-through'"
        )
    if chip.wire_resistance and chip.wires == "exact":
        raise InputError("gradient='full' cannot go through chip with wires='exact'; use wires='first-order'")


def _row(condition: str, error: float, energy: float, weights: int) -> Row:
    value = (error / energy) ** 0.5 if energy else 0.0
    return Row(metric="relative_error", condition=condition, value=value, details={"weights": weights})
