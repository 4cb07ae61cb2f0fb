"""Binary weights and few-bit activations, trained in any loop of PyTorch.

BWMA (arXiv 2508.21524), and the rules of XNOR-Net, DoReFa-Net, IR-Net and ReActNet to compare it with.
We differ: of BWMA the abstract alone is certain. Scale and offset are per channel by default, where the abstract says
per layer.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import torch
from torch import nn

from hardy import checks
from hardy.core.layers import Layers
from hardy.core.method import ALL_SELECTED, Method, squared_norm
from hardy.core.selection import Selector, Site, all_sites, select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks import run, watch
from hardy.quant import activation, binary
from hardy.quant.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear
from hardy.quant.rectifiers import RPReLU, replace_rectifiers
from hardy.report import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryWeights(Method):
    """Let convolutions and linear layers compute with two levels for each output channel and few-bit inputs.

    Nothing is frozen: the float weights and the activations' steps are parameters, and any loop trains them. Make the
    optimizer after `apply`, so that it has the steps. Then `Pack` keeps one bit per weight, and `undo` gives the dense
    layers back, with the weights that training made. `Annealing` sharpens the gradients of the rules that sharpen.

    Args:
        activation_bits: 1 to 8.
        method: of the weights: "bwma", "bwma-lloyd", "xnor", "lsq-a", "dorefa", "irnet", "reactnet"; see
            `hardy.quant.binary`.
        activation: of the inputs: "lsq", "pact", "dorefa", "staircase", "rsign"; see `hardy.quant.activation`. By
            default the one that belongs to the method.
        per: one scale and offset per "channel" or per "layer"; by default what the method's paper has ("channel" for
            bwma).
        select: which layers, as in `hardy.core.selection.select`; None for all convolutions and linear layers but the
            first and the last, and but those of `eight_bit`.
        eight_bit: layers that have weights and inputs of 8 bits instead, as the first and the last may:
            "conv1,head".
        rectifier: "rprelu" puts ReActNet's RPReLU in the place of every nn.ReLU and nn.PReLU of the model; None keeps
            them. See `hardy.quant.RPReLU`.
        layers: in which layers of the model; all by default.

    `apply` finds the steps of the activations in one pass over the batches it is given, each layer without any on the
    first input it sees. A rectifier needs a batch, which shows how many channels there are.
    """

    activation_bits: int = 4
    method: str = "bwma"
    activation: str | None = None
    per: str | None = None
    select: Selector | None = None
    eight_bit: Selector | None = None
    rectifier: str | None = None
    layers: Layers | None = None

    def check(self) -> None:
        checks.integer("activation_bits", self.activation_bits, at_least=1, at_most=8)
        checks.one_of("method", self.method, binary.RULES)
        if self.activation is not None:
            checks.one_of("activation", self.activation, activation.RULES)
        if self.per is not None:
            checks.one_of("per", self.per, get_args(binary.Per))
        if self.rectifier is not None:
            checks.one_of("rectifier", self.rectifier, ("rprelu",))
        if self.eight_bit is not None:
            _check_selector(self.eight_bit)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        rule = binary.rule(self.method)
        kind = activation.RULES[self.activation or rule.partner]
        per: Any = self.per or rule.usual
        if rule.needs_batch_norm or kind is activation.RSign:
            reason = f"method {self.method!r}" if rule.needs_batch_norm else f"activation {self.activation!r}"
        else:
            reason = ""
        layers: dict[str, BinaryLayer] = {}
        rounded = [] if self.eight_bit is None else _whole(select(model, self.eight_bit, layers=self.layers))
        for site in self._sites(model, {site.module for site in rounded}):
            module = model.get_submodule(site.module)
            if reason and not has_batch_norm(model, site.module):
                raise InputError(
                    f"{reason} changes the scale or the middle of what {site.name} computes, which only a batch norm "
                    "after it can undo, and beside it there is none of its width"
                )
            layers[site.module] = _trained(
                site, module, rule, per, lambda channels: kind(self.activation_bits, channels)
            )
        for site in rounded:
            module = model.get_submodule(site.module)
            layers[site.module] = _trained(site, module, binary.EightBit(), "channel", activation.EightBit)
        rectifiers: dict[str, RPReLU] = {}
        if self.rectifier is not None:
            if data is None:
                raise InputError("rectifier 'rprelu' needs a batch of inputs, which shows how many channels there are")
            data = list(data)
            rectifiers = replace_rectifiers(model, edits, data)
        if data is not None:
            calibrate(model, {name: layer.activation for name, layer in layers.items()}, data)
        for name, layer in layers.items():
            original = model.get_submodule(name)
            for place, module in list(model.named_modules(remove_duplicate=False)):
                if module is original:  # a module that stands in two places is replaced in both
                    edits.set_module(place, layer)
        channels = {name: part.channels for name, part in rectifiers.items()}
        return [*_rows(layers), *(Row(metric="rectifier_channels", condition=n, value=c) for n, c in channels.items())]

    def _sites(self, model: nn.Module, rounded: set[str]) -> list[Site]:
        """What becomes binary, where these layers have 8 bits."""
        if self.select is not None:
            sites = _whole(select(model, self.select, layers=self.layers))
            if both := rounded & {site.module for site in sites}:
                raise InputError(f"{min(both)} is in select and in eight_bit; name it in one of them")
            return sites
        fit = [s.name for s in all_sites(model) if isinstance(model.get_submodule(s.module), nn.Conv2d | nn.Linear)]
        names = list(dict.fromkeys(name.partition(":")[0] for name in fit))
        inner = set(names[1:-1]) - rounded
        if not inner:
            raise InputError(
                f"{type(model).__name__} has {len(names)} convolutions and linear layers; without its first and last "
                f"{'and those of eight_bit ' * bool(rounded)}nothing is left: name the layers with select="
            )
        return _whole(select(model, lambda name, _: name in inner, layers=self.layers))


def _check_selector(selector: object) -> None:
    if isinstance(selector, str | Sequence) and len(selector) and not isinstance(selector, bytes):
        return
    if not callable(selector):
        raise InputError(f"eight_bit must select layers, as 'conv1,head' does, or be None, got {selector!r}")


def _whole(sites: list[Site]) -> list[Site]:
    for site in sites:
        if site.rows is not None:
            raise InputError(f"{site.name} is a part of a fused projection; select {site.module} as a whole")
    return sites


def _trained(
    site: Site, module: nn.Module, rule: binary.WeightRule, per: Any, made: Callable[[int], activation.ActivationRule]
) -> BinaryLayer:
    """What stands in the place of `module`, with the activation rule that is made for its channels.

    Raises:
        InputError: it is no layer for binary weights, or its weights are not finite.
    """
    try:
        if isinstance(module, BinaryLayer):
            raise InputError("has binary weights already; undo that change first")
        if isinstance(module, nn.Conv2d):
            layer = BinaryConv2d(module, rule, per, made(module.in_channels).to(module.weight.device))
        elif isinstance(module, nn.Linear):
            layer = BinaryLinear(module, rule, per, made(module.in_features).to(module.weight.device))
        else:
            raise InputError(f"is a {type(module).__name__}; binary weights take nn.Conv2d and nn.Linear")
        layer.levels()
    except InputError as error:
        raise InputError(f"{site.name} {error}") from None
    return layer


def has_batch_norm(model: nn.Module, name: str) -> bool:
    """Whether beside the layer called `name`, in the module that holds it, is a batch norm of its output's width."""
    weight: Any = model.get_submodule(name).weight
    beside = model.get_submodule(name.rpartition(".")[0]).children()
    norms: Any = [module for module in beside if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return any(norm.num_features == len(weight) for norm in norms)


def calibrate(model: nn.Module, rules: dict[str, activation.ActivationRule], data: Iterable[Any]) -> None:
    """Set the grids of `rules` from the inputs that the layers of these names, still dense, have in `data`.

    Raises:
        InputError: there are no batches, or a layer saw nothing but zeros, NaN or infinity.
    """
    total, count, signed = dict.fromkeys(rules, 0.0), dict.fromkeys(rules, 0), dict.fromkeys(rules, False)
    largest = dict.fromkeys(rules, 0.0)

    def see(name: str, x: torch.Tensor) -> None:
        x = checks.finite(f"the input of {name}", x.detach().float())
        total[name] += x.abs().double().sum().item()
        largest[name] = max(largest[name], x.abs().amax().item() if x.numel() else 0.0)
        count[name] += x.numel()
        signed[name] = signed[name] or bool((x < 0).any())

    def watcher(name: str) -> Any:
        return lambda x: see(name, x)

    batches, training = 0, model.training
    model.eval()
    try:
        with torch.no_grad(), watch(model, {(name, "input"): watcher(name) for name in rules}, strict=False):
            for batch in data:
                run(model, batch)
                batches += 1
    finally:
        model.train(training)
    if not batches:
        raise InputError("calibration was given no batches")
    for name, rule in rules.items():
        if count[name]:  # a layer that was not used finds its step in use
            try:
                rule.calibrate(total[name] / count[name], largest[name], signed[name])
            except InputError as error:
                raise InputError(f"{name} {error}") from None


class Annealing:
    """Sharpens the gradients of a model with binary weights from its first step to its last.

    `annealing.step()` after `optimizer.step()`, as with a learning rate's schedule. Without it the rules that sharpen
    are at their sharpest all along.

    Args:
        model: with `BinaryWeights` applied.
        steps: of the training.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.steps, self.done = checks.integer("steps", steps, at_least=1), 0
        self._layers = [layer for layer in model.modules() if isinstance(layer, BinaryLayer)]
        if not self._layers:
            raise InputError(f"no layer of this {type(model).__name__} has binary weights: apply BinaryWeights first")
        self._set()

    def step(self) -> None:
        """One step of the training is done."""
        self.done += 1
        self._set()

    def state_dict(self) -> dict[str, int]:
        """How far it is."""
        return {"steps": self.steps, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.steps, self.done = int(state["steps"]), int(state["done"])
        self._set()

    def _set(self) -> None:
        for layer in self._layers:
            layer.progress = min(1.0, self.done / self.steps)


def _rows(layers: dict[str, BinaryLayer]) -> list[Row]:
    rows, error, energy, size, bits = [], 0.0, 0.0, 0, 0
    for name, layer in layers.items():
        weight = layer.weight.detach().flatten(1).float()
        off, whole = squared_norm(layer.levels().dense(), minus=weight), squared_norm(weight)
        rows += _row(name, off, whole, weight.numel(), layer.stored_bits)
        error, energy, size, bits = error + off, energy + whole, size + weight.numel(), bits + layer.stored_bits
    return [*_row(ALL_SELECTED, error, energy, size, bits), *rows]


def _row(condition: str, error: float, energy: float, weights: int, bits: int) -> list[Row]:
    relative = (error / energy) ** 0.5 if energy else 0.0
    details = {"weights": weights}
    return [
        Row(metric="relative_error", condition=condition, value=relative, details=details),
        Row(metric="bits_per_weight", condition=condition, value=bits / weights, details=details),
    ]
