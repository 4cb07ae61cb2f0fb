"""A matrix of which each weight takes few bits, in the form that products read (`hardy.ops.plane_layout`)."""

import abc
import dataclasses
from typing import TypeVar

import torch

from hardy.errors import InputError
from hardy.ops.plane_layout import check_rows, row_ranges

Matrix = TypeVar("Matrix", bound="PackedMatrix")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedMatrix(abc.ABC):
    """A (rows, width) matrix in planes of two bits a weight, with float16 numbers beside them for each group of a row.

    Args:
        codes: uint8, flat and contiguous.
        scales: float16, flat and contiguous: scales and what else belongs to a group.
        rows, width: output and input features.
        group_size: inputs that share a scale.
        planes: of two bits each.

    Raises:
        InputError: the tensors are not those of such a matrix, or there is none.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    rows: int
    width: int
    group_size: int
    planes: int

    def __post_init__(self) -> None:
        codes, scales = self.sizes(self.rows, self.width, self.group_size, self.planes)
        for name, tensor, size, dtype in (
            ("codes", self.codes, codes, torch.uint8),
            ("scales", self.scales, scales, torch.float16),
        ):
            if tensor.shape != (size,) or tensor.dtype != dtype or not tensor.is_contiguous():
                shape = tuple(tensor.shape)
                raise InputError(f"{name} must be {size} contiguous {dtype}, got {tensor.dtype} {shape}")
        if self.codes.device != self.scales.device:
            raise InputError(f"codes are on {self.codes.device} and scales on {self.scales.device}")

    @staticmethod
    @abc.abstractmethod
    def sizes(rows: int, width: int, group_size: int, planes: int) -> tuple[int, int]:
        """How many codes, in bytes, and numbers beside them a matrix has.

        Raises:
            InputError: there is no such matrix.
        """

    @abc.abstractmethod
    def values(self) -> torch.Tensor:
        """The weights (rows, groups, group_size), float32, padding included, all at once."""

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return -(-self.width // self.group_size)

    @property
    def bits_per_weight(self) -> float:
        """What this form takes in memory, padding and all that is beside the codes counted."""
        return 8 * (self.codes.numel() + 2 * self.scales.numel()) / (self.rows * self.width)

    def rows_at(self: Matrix, begin: int, end: int) -> Matrix:
        """The rows from `begin` to `end`, without a copy; both are multiples of 64, or `end` is the last.

        Raises:
            InputError: they are not.
        """
        check_rows(begin, end, self.rows)
        cut = [self.sizes(rows, self.width, self.group_size, self.planes) if rows else (0, 0) for rows in (begin, end)]
        (codes, scales), (codes_end, scales_end) = cut
        return dataclasses.replace(
            self, codes=self.codes[codes:codes_end], scales=self.scales[scales:scales_end], rows=end - begin
        )

    def parts(self) -> list[tuple[int, int]]:
        """Ranges of rows of about `plane_layout.AT_A_TIME` codes, as `rows_at` takes them."""
        return row_ranges(self.rows, self.width * self.planes)


def dequantize(matrix: PackedMatrix, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The dense matrix (rows, width)."""
    dense = torch.empty(matrix.rows, matrix.width, dtype=dtype, device=matrix.codes.device)
    for begin, end in matrix.parts():
        dense[begin:end] = matrix.rows_at(begin, end).values().flatten(1)[:, : matrix.width]
    return dense
