"""A stack of experts whose matrices are packed: it runs the model's own code, which finds them where weights were."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from hardy.artefacts.packing import PackedLayer
from hardy.core.registry import register
from hardy.core.roles import as_matrix, is_transposed
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.quant.packed_linear import PackedLinear


def is_stack(module: nn.Module, parameter: str | None) -> bool:
    """Whether that parameter of `module` is a stack of experts' matrices."""
    weight = module._parameters.get(parameter or "")
    return weight is not None and weight.ndim == 3 and parameter != "weight"


@register
class PackedExperts(PackedLayer):
    """A stack of experts with a packed linear layer for each matrix of each expert.

    The code is that of the dense stack: where it reads the matrix of an expert and multiplies with it, the packed layer
    multiplies; whatever else it does with a matrix is done with the dense one, made for that moment. transformers'
    ways to compute all experts at once need dense stacks, so experts are computed one after the other ("eager").

    What is stored (`state_dict`): for parameter `gate_up_proj` and expert 3 `matrices.gate_up_proj.3.` and what such a
    layer stores; parameters that are not packed, such as biases, as `stack.NAME`.

    Args:
        module: the dense stack, which is left as it is.
        matrices: of each packed parameter, the layers of all experts.
    """

    def __init__(self, module: nn.Module, matrices: Mapping[str, Sequence[PackedLinear]]) -> None:
        super().__init__()
        self.matrices = nn.ModuleDict({name: nn.ModuleList(layers) for name, layers in matrices.items()})
        stack = copy.copy(module)
        stack._parameters = {key: value for key, value in module._parameters.items() if key not in matrices}
        stack._modules, stack._buffers = dict(module._modules), dict(module._buffers)
        dtypes = {name: cast(torch.Tensor, module._parameters[name]).dtype for name in matrices}
        for name, dtype in dtypes.items():
            vars(stack)[name] = _Stack(cast(nn.ModuleList, self.matrices[name]), is_transposed(module), dtype)
        self._config = getattr(module, "config", None)
        if self._config is not None:
            one_by_one = copy.copy(self._config)
            one_by_one._experts_implementation_internal = "eager"
            cast(Any, stack).config = one_by_one
        cast(Any, stack)._is_hf_initialized = True  # transformers would fill the dense weights with random numbers
        self.stack = stack

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, Any]]) -> PackedExperts | None:
        kinds: list[Any] = [kind for kind in cls.registry.all() if issubclass(kind, PackedLinear)]
        matrices: dict[str, list[PackedLinear]] = {}
        for site, form in stored:
            kind = next((kind for kind in kinds if isinstance(form, kind.holds)), None)
            if kind is None or not is_stack(module, site.parameter):
                return None
            count = len(cast(torch.Tensor, module._parameters[str(site.parameter)]))
            matrices[str(site.parameter)] = [kind.from_stored(form.expert(index), None) for index in range(count)]
        return cls(module, matrices).train(module.training)

    def describe(self) -> dict[str, Any]:
        parts = {}
        for name, layers in self.matrices.items():
            first: Any = cast(nn.ModuleList, layers)[0]
            parts[name] = {"layer": first.id, **first.describe()}
        return {"parts": parts}

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedExperts:
        matrices: dict[str, list[PackedLinear]] = {}
        for name, entry in description["parts"].items():
            if not is_stack(module, name):
                raise InputError(f"a {type(module).__name__} has no stack of experts {name!r}")
            settings = dict(entry)
            kind: Any = cls.registry.find(settings.pop("layer"))
            weight = cast(torch.Tensor, module._parameters[name])
            rows, width = as_matrix(module, weight).shape[1:]
            like = nn.Linear(width, rows, bias=False, device="meta")
            like.weight = nn.Parameter(weight.new_empty(1, 1).expand(rows, width), requires_grad=False)
            matrices[name] = [kind.from_description(like, settings) for _ in range(len(weight))]
        return cls(module, matrices)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the dense stack gives."""
        return self.stack(*args, **kwargs)

    def dense(self, dtype: torch.dtype) -> nn.Module:
        module = copy.copy(self.stack)
        module._parameters = dict(self.stack._parameters)
        for name in self.matrices:
            whole: _Stack = vars(module).pop(name)
            module.register_parameter(name, nn.Parameter(whole.dense(dtype)))
        if self._config is not None:
            cast(Any, module).config = self._config
        return module.train(self.training)

    @property
    def stands_for(self) -> tuple[str, ...]:
        return tuple(self.matrices)

    @property
    def bits(self) -> int:
        return sum(layer.bits for layer in self._layers())

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self._layers())

    def _layers(self) -> list[Any]:
        return [layer for layers in self.matrices.values() for layer in cast(nn.ModuleList, layers)]


class _Stack:
    """What the code of the stack reads in the place of a parameter (experts, ...)."""

    def __init__(self, layers: nn.ModuleList, transposed: bool, dtype: torch.dtype) -> None:
        self._layers, self._transposed, self.dtype = layers, transposed, dtype

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) or (isinstance(index, torch.Tensor) and index.ndim == 0):
            return _Matrix(cast(Any, self._layers[int(index)]), self._transposed, self.dtype)
        return self.dense(self.dtype)[index]

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """All of it."""
        return torch.stack([_Matrix(cast(Any, layer), self._transposed, dtype).dense(dtype) for layer in self._layers])

    def __getattr__(self, name: str) -> Any:
        return _of_dense(self, name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_as_dense(args), **{key: _as_dense((value,))[0] for key, value in (kwargs or {}).items()})


class _Matrix:
    """The matrix of one expert, as it is stored: (out, in), or (in, out) where the stack is transposed."""

    def __init__(self, layer: PackedLinear, transposed: bool, dtype: torch.dtype) -> None:
        self._layer, self._transposed, self.dtype = layer, transposed, dtype

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """All of it."""
        weight = self._layer.dequantize(dtype)
        return weight.T.contiguous() if self._transposed else weight

    def __getattr__(self, name: str) -> Any:
        return _of_dense(self, name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if isinstance(weight, cls):
            if name == "linear" and not weight._transposed:
                bias = args[2] if len(args) > 2 else kwargs.get("bias")
                y = weight._layer(args[0] if args else kwargs["input"])
                return y if bias is None else y + bias
            if name in {"matmul", "__matmul__", "mm"} and weight._transposed:
                return weight._layer(args[0])
        return func(*_as_dense(args), **{key: _as_dense((value,))[0] for key, value in kwargs.items()})


def _as_dense(values: Sequence[Any]) -> list[Any]:
    return [value.dense(value.dtype) if isinstance(value, _Stack | _Matrix) else value for value in values]


def _of_dense(packed: _Stack | _Matrix, name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(packed.dense(packed.dtype), name)
