"""Embeddings, and the heads that are tied to them, in few bits: what is most of a small model's file.

A row of the table is codes of 2 to 8 bits with a scale for each group, as `RoundToNearest` and its kin leave them. A
token's row is made dense when it is looked up; the product of a tied head makes the dense table piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardy.artefacts.packing import PackedLayer
from hardy.core.registry import register
from hardy.core.roles import is_linear
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.ops.packing import pack_codes, unpack_codes
from hardy.ops.plane_layout import row_ranges
from hardy.ops.rounding import grouped, ungrouped
from hardy.quant.quantizer import StoredWeight
from hardy.quant.round_to_nearest import GridWeight


@register
class PackedEmbedding(PackedLayer):
    """`table[ids] * scale` for a table (rows, width) on a grid.

    What is stored: `codes` (rows, ceil(width * bits / 8)) uint8, each row by itself and without gaps; `scales` (rows,
    groups) float16; `zero_points` (rows, ceil(groups * bits / 8)) uint8, likewise, unless the grid is symmetric. The
    table is frozen. Casting the layer changes the dtype of what it gives, and nothing that is stored.

    Args:
        rows, width: as `num_embeddings` and `embedding_dim` of `torch.nn.Embedding`.
        bits: per code, 2 to 8.
        group_size: entries of a row that share a scale; None for all of it.
        symmetric: whether there are no zero points.
        scale: of what is looked up, as Gemma has it; a tied head's product does not have it.
        dtype: of what is looked up.
        device: where to make the tensors.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    like: torch.Tensor
    """Nothing but a dtype that follows the model's."""

    def __init__(
        self,
        rows: int,
        width: int,
        bits: int,
        group_size: int | None = None,
        symmetric: bool = False,
        scale: float = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.bits_per_code = rows, width, bits
        self.group_size = group_size or width
        self.symmetric, self.scale = symmetric, scale
        self.groups = -(-width // self.group_size)

        def empty(size: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros((rows, size), dtype=dtype, device=device)

        self.register_buffer("codes", empty(-(-width * bits // 8), torch.uint8))
        self.register_buffer("scales", empty(self.groups, torch.float16))
        self.register_buffer("zero_points", None if symmetric else empty(-(-self.groups * bits // 8), torch.uint8))
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)

    @classmethod
    def from_stored(cls, stored: GridWeight, scale: float = 1.0, dtype: torch.dtype | None = None) -> PackedEmbedding:
        """The layer of what a quantizer found for a table (rows, width)."""
        size = min(stored.codes.shape[-1], stored.width)
        symmetric, bits = stored.symmetric, stored.bits_per_code
        layer = cls(len(stored.codes), stored.width, bits, size, symmetric, scale, dtype, device="meta")
        layer.like = torch.empty(0, dtype=dtype, device=stored.codes.device)
        pieces = [
            pack_codes(ungrouped(stored.codes[begin:end], stored.width), bits) for begin, end in layer._row_ranges()
        ]
        layer.codes = torch.cat(pieces)
        layer.scales = stored.scale.squeeze(-1).half()
        if not symmetric:
            layer.zero_points = pack_codes(stored.zero_point.squeeze(-1), bits)
        return layer

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, StoredWeight]]) -> PackedEmbedding | None:
        scale = scale_of(module)
        if scale is None or len(stored) != 1 or not isinstance(form := stored[0][1], GridWeight) or form.rotation:
            return None
        weight: Any = module.weight
        return cls.from_stored(form, scale, weight.dtype).train(module.training)

    def describe(self) -> dict[str, Any]:
        grid = {"bits": self.bits_per_code, "group_size": self.group_size, "symmetric": self.symmetric}
        return grid if self.scale == 1 else {**grid, "scale": self.scale}

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedEmbedding:
        if not isinstance(module, nn.Embedding):
            raise InputError(f"a {type(module).__name__} is no embedding, so {cls.__name__} cannot stand for it")
        weight = module.weight
        rows, width = weight.shape
        return cls(rows, width, **description, dtype=weight.dtype, device=weight.device)

    def tied(self, module: nn.Module, name: str) -> PackedLayer | None:
        return PackedHead.of(self, name, module) if is_linear(module) else None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) token ids -> (..., width)."""
        found = self.rows_at(ids.flatten()).to(self.like.dtype)
        found = found if self.scale == 1 else found * torch.tensor(self.scale, dtype=found.dtype, device=found.device)
        return found.view(*ids.shape, self.embedding_dim)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ table.T`, (..., width) -> (..., rows), in the dtype of `x`: what a tied head computes."""
        if self.bits_per_code == 8 and self.symmetric and self.groups == 1:  # no scale inside of the sums
            parts = []
            for begin, end in self._row_ranges():
                signed = (self.codes[begin:end] ^ 128).view(torch.int8)
                y = (x @ signed.to(x.dtype).T).float() * self.scales[begin:end, 0].float()
                parts.append(y.to(x.dtype))
        else:
            parts = [x @ self.rows_at(slice(begin, end)).to(x.dtype).T for begin, end in self._row_ranges()]
        return torch.cat(parts, -1)

    def rows_at(self, which: torch.Tensor | slice) -> torch.Tensor:
        """Rows of the table, (count, width) float32.

        Raises:
            InputError: a stored tensor has another dtype or shape than this layer's.
        """
        shape = (self.num_embeddings, self.groups)
        if self.scales.shape != shape or self.scales.dtype != torch.float16:
            raise InputError(f"scales must be float16 {shape}, got {self.scales.dtype} {tuple(self.scales.shape)}")
        codes = unpack_codes(self.codes[which], self.embedding_dim, self.bits_per_code)
        scale = self.scales[which].float()[..., None]
        if self.zero_points is None:
            zero_point = torch.full_like(scale, 2 ** (self.bits_per_code - 1))
        else:
            zero_point = unpack_codes(self.zero_points[which], self.groups, self.bits_per_code).float()[..., None]
        return ungrouped((grouped(codes, self.group_size) - zero_point) * scale, self.embedding_dim)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The dense table (rows, width)."""
        return torch.cat([self.rows_at(slice(begin, end)).to(dtype) for begin, end in self._row_ranges()])

    @property
    def weight(self) -> torch.Tensor:
        """The dense table, made anew at every access: for models that read it instead of calling the layer."""
        return self.dequantize(self.like.dtype)

    def dense(self, dtype: torch.dtype) -> nn.Module:
        weight = nn.Parameter(self.dequantize(dtype))
        rows, width = weight.shape
        table = nn.Embedding(rows, width, _weight=weight) if self.scale == 1 else _Scaled(weight, self.scale)
        return table.train(self.training)

    @property
    def weights(self) -> int:
        return self.num_embeddings * self.embedding_dim

    @property
    def bits(self) -> int:
        return 8 * sum(tensor.nbytes for tensor in (self.codes, self.scales, self.zero_points) if tensor is not None)

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits_per_code}, group_size={self.group_size}, "
            f"symmetric={self.symmetric}"
        )

    def _row_ranges(self) -> list[tuple[int, int]]:
        return row_ranges(self.num_embeddings, self.embedding_dim)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedEmbedding:
        self.scales = self.scales.view(torch.int16)  # moved, but not cast: less precise scales are another table
        try:
            super()._apply(fn, recurse)
        finally:
            self.scales = self.scales.view(torch.float16)
        return self


@register
class PackedHead(PackedLayer):
    """`x @ table.T + bias`, the head of a model whose head and embedding are one table; it stores the bias alone.

    Args:
        embedding: name of the `PackedEmbedding` whose table it is.
        bias: whether there is one.
        rows: of the table, for the bias.
        dtype, device: of the bias.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        embedding: str,
        rows: int,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.tied_to = embedding
        self._table: tuple[PackedEmbedding, ...] = ()  # in a tuple, as it is no part of this layer
        values = nn.Parameter(torch.zeros(rows, dtype=dtype, device=device)) if bias else None
        self.register_parameter("bias", values)

    @classmethod
    def of(cls, embedding: PackedEmbedding, name: str, module: nn.Module) -> PackedHead:
        """The head in the place of the linear `module`, whose weight was that of the embedding called `name`."""
        bias: Any = module.bias
        head = cls(name, embedding.num_embeddings)
        head._table = (embedding,)
        head.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        return head.train(module.training)

    @classmethod
    def pack(cls, module: nn.Module, stored: Sequence[tuple[Site, StoredWeight]]) -> None:
        """None: it comes with the embedding."""

    def describe(self) -> dict[str, Any]:
        return {"embedding": self.tied_to}

    @classmethod
    def from_description(cls, module: nn.Module, description: Mapping[str, Any]) -> PackedHead:
        if not is_linear(module):
            raise InputError(f"a {type(module).__name__} is no linear layer, so {cls.__name__} cannot stand for it")
        dense: Any = module
        weight, bias = dense.weight, dense.bias is not None
        return cls(description["embedding"], len(weight), bias, weight.dtype, weight.device)

    def connect(self, model: nn.Module) -> None:
        table = dict(model.named_modules()).get(self.tied_to)
        if not isinstance(table, PackedEmbedding):
            raise InputError(f"a head is tied to {self.tied_to}, which is no packed embedding")
        self._table = (table,)

    @property
    def table(self) -> PackedEmbedding:
        """The embedding that it is tied to."""
        (table,) = self._table
        return table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., rows)."""
        y = self.table.product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The dense table, made anew at every access: for models that read it instead of calling the layer."""
        return self.table.weight

    def dense(self, dtype: torch.dtype) -> nn.Linear:
        linear = nn.Linear(self.table.embedding_dim, self.table.num_embeddings, self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.table.dequantize(dtype))
        linear.bias = self.bias  # pyright: ignore[reportAttributeAccessIssue]
        return linear.train(self.training)

    @property
    def weights(self) -> int:
        """None: they are the embedding's."""
        return 0

    @property
    def bits(self) -> int:
        return 0

    def extra_repr(self) -> str:
        return f"tied to {self.tied_to}, bias={self.bias is not None}"


class _Scaled(nn.Embedding):
    """What Gemma's embedding computes."""

    def __init__(self, weight: nn.Parameter, scale: float) -> None:
        rows, width = weight.shape
        super().__init__(rows, width, _weight=weight)
        self.scalar_embed_scale = scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * torch.tensor(self.scalar_embed_scale, dtype=self.weight.dtype)


def scale_of(module: nn.Module) -> float | None:
    """What an embedding multiplies its rows with; None if it is none, or one that does something else as well."""
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return None
    scale = getattr(module, "scalar_embed_scale", None)
    if scale is None and type(module).forward is nn.Embedding.forward:
        return 1.0
    return float(scale) if scale is not None else None


def tables(model: nn.Module) -> Iterator[str]:
    """The names of the input embedding and of the head of a language model, those that it has."""
    names = {module: name for name, module in model.named_modules()}
    for get in ("get_input_embeddings", "get_output_embeddings"):
        module = getattr(model, get, lambda: None)()
        if module in names:
            yield names[module]
