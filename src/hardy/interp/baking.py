"""Steering in the weights: what `save_pretrained` stores and any other program runs, where the arithmetic allows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.artefacts.packing import PackedLayer
from hardy.core.method import Method, WeightLedger
from hardy.core.roles import is_linear
from hardy.core.selection import select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.interp.steering import Ablation, SteeringVector, as_floats, block_name, fitting, without
from hardy.report import Row

_BIAS_IN_CONFIG = {"llama": "mlp_bias", "mistral": "mlp_bias", "granite": "mlp_bias", "olmo": "mlp_bias"}
"""Types of models whose MLPs get biases when the configuration says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BakedVector(Method):
    """A steering vector at all positions as the bias of what a block writes last, exact up to rounding.

    Models whose MLP has a bias (GPT-2, GPT-NeoX, OPT) take it there; Llama's kind gets biases by its configuration.
    Models with a norm after the MLP, and those that can hold no bias, are refused.

    Args:
        vector, layer, scale: as of `SteeringVector`.
    """

    vector: Any
    layer: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", as_floats(self.vector))
        super().__post_init__()

    def check(self) -> None:
        checks.integer("layer", self.layer, at_least=0)
        checks.number("scale", self.scale)

    def __str__(self) -> str:
        return f"BakedVector(layer={self.layer}, scale={self.scale:g})"

    def edit(self, model: Any, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        name, block = block_name(model, self.layer), blocks_of(model)[self.layer]
        shift = self.scale * fitting(model, self.vector)
        down = block.mlp.get("down", "")
        if not down:
            raise InputError(f"{name} has no single down projection to bake a vector into; steer with SteeringVector")
        refuse_norms_after(model)
        projection: Any = model.get_submodule(f"{name}.{down}")
        if not is_linear(projection) or isinstance(projection, PackedLayer):
            raise InputError(f"{name}.{down} ({type(projection).__name__}) has no plain bias to bake a vector into")
        if projection.bias is None and self.scale:
            self._give_biases(model, edits)
        if self.scale:
            old: Any = projection.bias
            new = nn.Parameter((old.detach().float() + shift).to(old.dtype), requires_grad=old.requires_grad)
            edits.swap(projection, "bias", new)
        return [Row(metric="norm_added", condition=f"{name}.{down}.bias", value=shift.norm().item())]

    @staticmethod
    def _give_biases(model: Any, edits: Edits) -> None:
        """Zero biases for all projections of all MLPs, as the configuration then says."""
        key = _BIAS_IN_CONFIG.get(model.config.model_type)
        if key is None:
            raise InputError(
                f"a {model.config.model_type} model has no place for a bias in its MLP; save it with SteeringVector, "
                "which hardy.load applies again"
            )
        edits.swap(model.config, key, True)
        for block in blocks_of(model):
            for role in ("gate", "up", "down"):
                module = model.get_submodule(f"{block.name}.{block.mlp[role]}")
                if module.bias is None:
                    zeros = module.weight.new_zeros(len(module.weight))
                    edits.swap(module, "bias", nn.Parameter(zeros, requires_grad=module.weight.requires_grad))


def bake(steering: SteeringVector) -> BakedVector:
    """The method that puts `steering` into the weights.

    Raises:
        InputError: it depends on positions, norms or the stream, which weights cannot.
    """
    if steering.positions != "all" or steering.keep_norm or steering.above is not None:
        raise InputError(f"only a vector at all positions can be baked into weights, not {steering}")
    return BakedVector(vector=steering.vector, layer=steering.layer, scale=steering.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblatedWeights(Ablation):
    """Directional ablation in the weights: nothing that writes to the residual stream can write the direction.

    W <- W - r r^T W for token and position embeddings (by row), for output projections of attention and MLP, and their
    biases. A head that is tied to the embedding is untied first, as it reads. It gives the logits of
    `DirectionalAblation`; where a norm stands after the writer that is not so, and it is refused. Fields as those of
    `Ablation`.
    """

    def edit(self, model: Any, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        refuse_norms_after(model)
        direction = fitting(model, self.direction, "direction")
        ledger = WeightLedger(model, edits)
        if not self.strength:
            return [Row(metric="relative_error", condition="all selected weights", value=0.0)]
        embedding = model.get_input_embeddings()
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.embedding_dim == len(direction)]
        names = {id(module): name for name, module in model.named_modules()}
        for module in tables:
            weight = module.weight.detach()
            new = without(weight, direction, self.strength)
            edits.swap(module, "weight", nn.Parameter(new, requires_grad=module.weight.requires_grad))
        assert any(module is embedding for module in tables)
        for site in select(
            model, [role for role in ("attention.o", "mlp.down", "experts.down", "ssm.out") if _has(model, role)]
        ):
            weight = ledger.read(site)
            new = without(weight.transpose(-1, -2), direction, self.strength).transpose(-1, -2)
            ledger.write(site, weight, new, {})
            module = model.get_submodule(site.module)
            bias = getattr(module, "bias", None)
            if isinstance(bias, torch.Tensor):
                changed = without(bias.detach(), direction, self.strength)
                edits.swap(module, "bias", nn.Parameter(changed, requires_grad=bias.requires_grad))
        rows = [Row(metric="embeddings", condition=names[id(module)], value=1) for module in tables]
        return ledger.rows() + rows


def _has(model: nn.Module, role: str) -> bool:
    try:
        return bool(select(model, role))
    except InputError:
        return False


def refuse_norms_after(model: nn.Module) -> None:
    """Raise where a norm stands between what is written and the stream: weights do not say then what is added."""
    for block in blocks_of(model):
        ends = {block.stream.attention: "o", block.stream.mlp: "down"}
        for end in ends:
            module = model.get_submodule(f"{block.name}.{end}") if end else None
            if module is not None and "norm" in type(module).__name__.lower():
                raise InputError(
                    f"{block.name}.{end} is a norm after the write, so the weights do not say what is added to the "
                    "stream; use the form in activations (SteeringVector, DirectionalAblation)"
                )
