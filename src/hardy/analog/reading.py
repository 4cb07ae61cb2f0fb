"""Products with weights on a chip that a model computes itself, by reading the weight instead of calling its layer.

Stacks of experts and their routers are read so, and so are layers that their parent does not call: Mamba's dt_proj in
transformers, the projections of nn.MultiheadAttention. Where arrays are read exactly the model gets the stored
values. Where there are converters or read noise it gets a `WeightOnChip`, whose products are computed on the arrays;
any other use of it is an error that names the layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from hardy.analog.arrays import Passes, StoredWeight
from hardy.errors import InputError

STORED = "_hardy_stored"
"""Attribute of a module that reads its weights itself: its `ReadWeights`."""


@dataclasses.dataclass(frozen=True)
class ReadWeights:
    """What a module finds where it reads its weights.

    Attributes:
        entries: parameter name -> the name of the site, and what the arrays hold.
        passes: of the model.
    """

    entries: dict[str, tuple[str, StoredWeight]]
    passes: Passes


class WeightOnChip:
    """A weight whose products are computed on arrays; its shape, dtype and device are the parameter's.

    Args:
        name: of the layer, for errors.
        stored: what the arrays hold.
        parameter: the weight.
        expert: which matrix of a stack; None for a single matrix, or the whole stack.
        flipped: whether it stands for its own transpose.
    """

    def __init__(
        self,
        name: str,
        stored: StoredWeight,
        parameter: torch.Tensor,
        expert: int | None = None,
        flipped: bool = False,
    ) -> None:
        self._name, self._stored, self._parameter = name, stored, parameter
        self._expert, self._flipped = expert, flipped

    def __getattr__(self, attribute: str) -> Any:
        if attribute in {"shape", "dtype", "device", "ndim", "requires_grad", "is_nested", "is_cuda", "layout"}:
            view = self._parameter if self._expert is None else self._parameter[self._expert]
            return getattr(view.mT if self._flipped else view, attribute)
        raise AttributeError(f"the weight of {self._name} is on a chip and has no {attribute}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> WeightOnChip:
        if self._parameter.ndim != 3 or self._expert is not None:
            raise self._refusal("indexing")
        return WeightOnChip(self._name, self._stored, self._parameter, int(index))

    @property
    def T(self) -> WeightOnChip:  # noqa: N802 - torch's name
        """Transposed."""
        return WeightOnChip(self._name, self._stored, self._parameter, self._expert, not self._flipped)

    mT = T  # noqa: N815 - torch's name

    def t(self) -> WeightOnChip:
        """Transposed."""
        return self.T

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        return self._left(x)

    def __rmatmul__(self, x: torch.Tensor) -> torch.Tensor:
        return self._right(x)

    def _left(self, x: torch.Tensor) -> torch.Tensor:
        """`weight @ x`: the columns of x are the inputs."""
        if self._flipped != self._stored.transposed:
            raise self._refusal("multiplying with its transpose")
        return self._product(x.mT).mT

    def _right(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ weight`."""
        if self._flipped == self._stored.transposed:
            raise self._refusal("multiplying with its transpose")
        return self._product(x)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if self._expert is not None:
            return self._stored.expert_product(x, self._parameter, self._expert)
        if self._parameter.ndim != 2:
            raise self._refusal("multiplying with all experts at once")
        return self._stored.product(x, self._parameter)

    def _thirds(self, inputs: list[torch.Tensor], bias: torch.Tensor | None) -> list[torch.Tensor]:
        """The products of three inputs with a third of the rows each, bias added."""
        size, products = self.shape[0] // 3, []
        for third, x in enumerate(inputs):
            rows = (third * size, (third + 1) * size)
            y = self._stored.product(x, self._parameter, rows)
            products.append(y if bias is None else y + bias[rows[0] : rows[1]])
        return products

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "linear":
            return _linear(*args, **kwargs)
        if name in {"matmul", "__matmul__", "mm"} and len(args) == 2:
            first, second = args
            return second._right(first) if isinstance(second, cls) else first._left(second)
        if name == "multi_head_attention_forward":
            return _attention(func, *args, **kwargs)
        weight: WeightOnChip = next(a for a in (*args, *kwargs.values()) if isinstance(a, cls))
        raise weight._refusal(name)

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{self._name} is on the chip, but the model reads its weight itself, and {what} cannot be computed on "
            f'arrays: leave it out, with "!{self._name}" in select, or give chip.without_periphery()'
        )


class CopiesOnChip(WeightOnChip):
    """The mean of several weights on a chip, of a layer in copies that is read instead of called."""

    def __init__(self, copies: list[WeightOnChip]) -> None:
        first = copies[0]
        super().__init__(first._name, first._stored, first._parameter, flipped=first._flipped)
        self._copies = copies

    @property
    def T(self) -> WeightOnChip:  # noqa: N802 - torch's name
        return CopiesOnChip([copy.T for copy in self._copies])

    mT = T  # noqa: N815 - torch's name

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([copy._product(x).float() for copy in self._copies]).mean(0).to(x.dtype)


class RotatedOnChip(WeightOnChip):
    """A weight on a chip whose inputs are rotated and scaled first, of a layer in two steps that is read likewise.

    Args:
        array: what is on the chip, (out, rank).
        rotation: (in, rank), gains included, float32.
    """

    def __init__(self, array: WeightOnChip, rotation: torch.Tensor) -> None:
        held = array._parameter
        whole = held.new_zeros(1, 1).expand(len(held), len(rotation))  # for its shape
        super().__init__(array._name, array._stored, whole, flipped=array._flipped)
        self._array, self._rotation = array, rotation

    @property
    def T(self) -> WeightOnChip:  # noqa: N802 - torch's name
        return RotatedOnChip(self._array.T, self._rotation)

    mT = T  # noqa: N815 - torch's name

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        return self._array._product((x.float() @ self._rotation).to(x.dtype))


def _linear(input: torch.Tensor, weight: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
    y = weight.T._right(input)
    return y if bias is None else y + bias


def _attention(func: Any, *args: Any, **kwargs: Any) -> Any:
    """nn.MultiheadAttention with projections on arrays: what is between them, with ones that change nothing.

    Where query, key and value have weights of their own torch multiplies with each, and the arrays follow.
    """
    values = list(args)
    into, out = 5, 11  # in_proj_weight and out_proj_weight among the arguments, each before its bias
    like = {"dtype": values[0].dtype, "device": values[0].device}
    if isinstance(values[into], WeightOnChip):
        inputs = values[:3]
        values[:3] = values[into]._thirds(inputs, values[into + 1])
        values[into], values[into + 1] = torch.eye(inputs[0].shape[-1], **like).repeat(3, 1), None
    if not isinstance(weight := values[out], WeightOnChip):
        return func(*values, **kwargs)
    bias = values[out + 1]
    values[out], values[out + 1] = torch.eye(weight.shape[0], **like), None
    heads, scores = func(*values, **kwargs)
    return _linear(heads, weight, bias), scores


def weight_in_use(name: str, stored: StoredWeight, parameter: torch.Tensor, passes: Passes) -> Any:
    """What a model gets that reads `parameter`: itself outside of its forward passes, in them what the arrays hold."""
    if not passes.depth:
        return parameter
    passes.unused.pop(name, None)
    return stored.values(parameter) if stored.reads_exactly else WeightOnChip(name, stored, parameter)


def reading_class(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """`kind`, with the parameters `names` read off the arrays in forward passes."""

    def read(parameter: str) -> property:
        def get(self: Any) -> Any:
            found: ReadWeights = vars(self)[STORED]
            name, stored = found.entries[parameter]
            return weight_in_use(name, stored, self._parameters[parameter], found.passes)

        return property(get)

    def apply(self: Any, fn: Any, recurse: bool = True) -> Any:
        kind._apply(self, fn, recurse)
        for parameter, (_, stored) in vars(self)[STORED].entries.items():
            stored.moved(fn, self._parameters[parameter])
        return self

    properties = {name: read(name) for name in names}
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "_apply": apply, **properties})
