"""What all methods that store weights in few bits share: the stored form is kept beside the weight it stands for."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from hardy.core.method import WeightLedger, WeightMethod
from hardy.core.selection import Site, select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.ops.rotation import check_rotation, rotate
from hardy.report import Row
from hardy.runs.progress import track


class StoredWeight(Protocol):
    """A weight in the few bits it is stored in."""

    @property
    def rotation(self) -> int:
        """Inputs that were turned together, as `Quantizer` says; 0 where none were."""
        ...

    @property
    def bits(self) -> int:
        """All that has to be stored: codes, scales, zero points and what fills the last byte of a row."""
        ...

    def dequantize(self) -> torch.Tensor:
        """The weight, (..., out, in), float32."""
        ...


def turned(stored: Any, rotation: int) -> Any:
    """A stored form as that of the weight before it was turned."""
    return dataclasses.replace(stored, rotation=rotation) if rotation else stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer(WeightMethod):
    """A method that gives each selected weight the value of a form that takes few bits.

    The model then computes with the values; `change.stored` has the forms, which `Pack` puts in their place.

    Args:
        group_size: weights along the input dimension that share scales; None for one group per output channel.
        rotation: inputs that a Hadamard matrix turns together before the weight is quantized, a power of two, or 0 for
            none (see `hardy.ops.rotation`). It spreads out what outliers there are among inputs and among weights,
            takes no bits, and has a packed layer turn its input too.
    """

    group_size: int | None = 128
    rotation: int = 0

    def check(self) -> None:
        super().check()
        size = self.group_size
        if size is not None and (type(size) is not int or size < 1):
            raise InputError(f"group_size must be a positive integer or None, got {size!r}")
        check_rotation(self.rotation)

    @abc.abstractmethod
    def quantize(self, weight: torch.Tensor, site: Site) -> tuple[StoredWeight, Mapping[str, float]]:
        """The stored form of `weight` (..., out, in) and facts about it that add up over sites, "bits" among them.

        It is not turned here, which is what `stored` does.
        """

    def stored(self, weight: torch.Tensor, site: Site) -> tuple[StoredWeight, Mapping[str, float]]:
        """What `quantize` gives for `weight`, turned by the method's `rotation`."""
        found, facts = self.quantize(rotate(weight, self.rotation), site)
        return turned(found, self.rotation), facts

    @abc.abstractmethod
    def stored_bits(self, shape: Sequence[int]) -> int:
        """Bits that a weight of `shape` (..., out, in) will take, known before anything is fitted."""

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        stored, facts = self.stored(weight, site)
        return stored.dequantize(), facts

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        ledger = WeightLedger(model, edits)
        for site in track(select(model, self.select, layers=self.layers), type(self).__name__):
            weight = ledger.read(site)
            self.check_row(site, weight)
            stored, facts = self.stored(weight, site)
            if ledger.write(site, weight, stored.dequantize(), facts):
                edits.store(site, stored)
        return ledger.rows()

    def check_row(self, site: Site, weight: torch.Tensor) -> None:
        """Raise `InputError` where a group would be longer than a row of `weight`."""
        width = weight.shape[-1]
        if self.group_size is not None and self.group_size > width:
            raise InputError(
                f"group_size {self.group_size} is larger than the {width} inputs of {site.name}; "
                f"choose at most {width}, None for one group per output channel, or exclude it from the selection"
            )
