"""What the packed linear layers share: they stand for `torch.nn.Linear` or GPT-2's Conv1D."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import nn

from hardy.artefacts.packing import PackedLayer
from hardy.core.roles import as_matrix, is_linear
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.quant.quantizer import StoredWeight


class PackedLinear(PackedLayer):
    """`x @ weight.T + bias` for a frozen weight of few bits. A subclass names the stored form that it holds."""

    holds: ClassVar[type]
    """The stored form of a weight (out, in), as its quantizer left it."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None
    rotation: int = 0
    """Inputs that are turned together before the product (see `hardy.ops.rotation`); 0 where none are."""

    @classmethod
    @abc.abstractmethod
    def from_stored(cls, stored: Any, bias: torch.Tensor | None) -> PackedLinear:
        """The layer of a weight in the form that it `holds`, and of `bias` (out,)."""

    @abc.abstractmethod
    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The dense weight (out, in)."""

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, StoredWeight]]) -> PackedLinear | None:
        if not (is_linear(module) and all(isinstance(form, cls.holds) for _, form in stored)):
            return None
        linear: Any = module
        form = _whole(stored, len(as_matrix(module, linear.weight)))
        return None if form is None else cls.from_stored(form, linear.bias).train(linear.training)

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedLinear:
        if not is_linear(module):
            raise InputError(f"a {type(module).__name__} is no linear layer, so {cls.__name__} cannot stand for it")
        dense, layer = cast(Any, module), cast(Any, cls)
        bias, weight = dense.bias is not None, dense.weight
        rows, width = as_matrix(module, weight).shape
        return layer(width, rows, bias=bias, dtype=weight.dtype, device=weight.device, **description)

    def described_rotation(self) -> dict[str, int]:
        """What `describe` says of it: nothing where there is none, as in files of before there was any."""
        return {"rotation": self.rotation} if self.rotation else {}

    def dense(self, dtype: torch.dtype) -> nn.Linear:
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.dequantize(dtype))
        linear.bias = self.bias  # pyright: ignore[reportAttributeAccessIssue]
        return linear.train(self.training)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, made anew at every access: for models that read it instead of calling the layer."""
        return self.dequantize(torch.float32 if self.bias is None else self.bias.dtype)

    @property
    def weights(self) -> int:
        return self.in_features * self.out_features

    @property
    def bits_per_weight(self) -> float:
        """What is stored, the bias left out, for each weight."""
        return self.bits / self.weights


def _whole(stored: Sequence[tuple[Site, Any]], rows: int) -> Any:
    """The stored form of a whole weight of so many rows, of that or of all parts of a fused projection; or None."""
    if any(site.parameter != "weight" for site, _ in stored):
        return None
    if len(stored) == 1 and stored[0][0].rows is None:
        return stored[0][1]
    parts = sorted(((site.rows, form) for site, form in stored if site.rows is not None), key=lambda part: part[0])
    ends = [0, *(last for (_, last), _ in parts)]
    if len(parts) < len(stored) or ends[-1] != rows or any(f != e for ((f, _), _), e in zip(parts, ends, strict=False)):
        return None
    return parts[0][1].joined([form for _, form in parts[1:]])
