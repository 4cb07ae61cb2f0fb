"""What packed linear layers share that have two forms: one for the disk, and one that products read in memory."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Generic

import torch

from hardy.errors import InputError
from hardy.ops.packed_matrix import Matrix, dequantize
from hardy.ops.packed_product import PackedProduct
from hardy.ops.rotation import rotate
from hardy.quant.packed_linear import PackedLinear


class PreparedLinear(PackedLinear, Generic[Matrix]):
    """A packed linear layer that holds its weight as it is stored until it is used, and from then on only for products.

    The stored tensors are buffers named by `stored_names`. From the first forward or `prepare` on they are None, and
    `codes_in_memory` and `scale_bits` (float16 numbers as int16, which no cast touches) take their place; `state_dict`
    makes the stored ones again, the same bytes. Loading, or assigning to them, takes the layer back. Casting the layer
    casts the bias only.
    """

    stored_names: tuple[str, ...]
    product: ClassVar[PackedProduct[Any]]
    """Of activations with its kind of matrix."""

    codes_in_memory: torch.Tensor | None
    scale_bits: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out).

        Raises:
            InputError: the last dimension is not `in_features`, or the layer's stored tensors are damaged.
        """
        y = self.product(rotate(x, self.rotation), self.matrix()).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The dense weight (out, in), computed in float32."""
        if not self.rotation:
            return dequantize(self.matrix(), dtype)
        return rotate(dequantize(self.matrix()), self.rotation).to(dtype)

    @abc.abstractmethod
    def _pack(self, stored: dict[str, torch.Tensor]) -> Matrix:
        """The weight for products.

        Raises:
            InputError: a stored tensor is of another shape or dtype, or damaged.
        """

    @abc.abstractmethod
    def _unpack(self, matrix: Matrix) -> dict[str, torch.Tensor]:
        """The stored tensors."""

    @abc.abstractmethod
    def _matrix_of(self, codes: torch.Tensor, scales: torch.Tensor) -> Matrix:
        """The weight for products whose two tensors these are."""

    def _empty_memory(self) -> None:
        self._matrix: Matrix | None = None
        self.register_buffer("codes_in_memory", None, persistent=False)
        self.register_buffer("scale_bits", None, persistent=False)

    def matrix(self) -> Matrix:
        """The weight in the form for products."""
        self.prepare()
        codes, scale_bits = self.codes_in_memory, self.scale_bits
        assert codes is not None
        assert scale_bits is not None
        if self._matrix is None or self._matrix.codes is not codes:
            self._matrix = self._matrix_of(codes, scale_bits.view(torch.float16))
        return self._matrix

    @torch.compiler.assume_constant_result  # done for good while torch.compile traces, and no part of the graph
    def prepare(self) -> None:
        """Turn what was loaded into the form for products, and let go of it. The first forward does so by itself.

        Raises:
            InputError: the stored tensors have other shapes or dtypes than this layer's, or are damaged.
        """
        if all(getattr(self, name) is None for name in self.stored_names):
            return
        with torch.inference_mode(False), torch.no_grad():
            stored = self._stored()
            if any(tensor.is_meta for tensor in stored.values()):
                names = " and ".join(self.stored_names)
                raise InputError(f"the layer's {names} are on the meta device: nothing was loaded into it")
            self.keep(self._pack(stored))

    def keep(self, matrix: Matrix) -> None:
        """Hold the weight in the form for products, and in no other."""
        self.codes_in_memory, self.scale_bits = matrix.codes, matrix.scales.view(torch.int16)
        self._matrix = matrix
        for name in self.stored_names:
            setattr(self, name, None)

    @property
    def bits_per_weight_in_memory(self) -> float:
        """What the weight takes in the form for products, scales and padding counted."""
        return self.matrix().bits_per_weight

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_matrix": None}  # made again from the buffers, of which it would be a second copy

    def _stored(self) -> dict[str, torch.Tensor]:
        """The tensors as stored: those that were loaded or assigned, else made from the form for products."""
        held = {name: getattr(self, name) for name in self.stored_names}
        if any(tensor is None for tensor in held.values()):
            assert self.codes_in_memory is not None
            assert self.scale_bits is not None
            made = self._unpack(self._matrix_of(self.codes_in_memory, self.scale_bits.view(torch.float16)))
            held = {name: made[name] if tensor is None else tensor for name, tensor in held.items()}
        return held

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        with torch.no_grad():
            destination |= {prefix + name: tensor.detach() for name, tensor in self._stored().items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if any(prefix + name in state_dict for name in self.stored_names):
            for name, tensor in self._stored().items():
                setattr(self, name, tensor)
            self.codes_in_memory = self.scale_bits = self._matrix = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> PreparedLinear[Matrix]:
        # Moved, but not cast: scales of less precision would be another weight.
        floats = {
            name: tensor.dtype
            for name in self.stored_names
            if (tensor := getattr(self, name)) is not None and tensor.is_floating_point()
        }
        for name, dtype in floats.items():
            setattr(self, name, getattr(self, name).view(_INTEGERS[dtype.itemsize]))
        try:
            super()._apply(fn, recurse)
        finally:
            for name, dtype in floats.items():
                setattr(self, name, getattr(self, name).view(dtype))
        return self


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
