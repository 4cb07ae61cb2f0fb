"""The points of many signals as rows of one tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from hardy.errors import InputError
from hardy.fields.signals import Signal

PointLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of an estimate and the true values, (points, channels) each, to a number: torch's `l1_loss`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Signals side by side; shorter ones are filled up with points that no mean counts.

    Attributes:
        coordinates: (rows, points, d), or (1, points, d) where all signals have the same points.
        values: (rows, points, channels).
        lengths: points of each row, (rows,), or None where all have the same.
    """

    coordinates: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor | None = None

    @classmethod
    def of(cls, signals: Sequence[Signal], device: torch.device | str = "cpu") -> Samples:
        """The points of `signals` on `device`, float32.

        Raises:
            InputError: there are no signals, or they differ in the number of coordinates or channels.
        """
        if not signals:
            raise InputError("no signals are given")
        first = signals[0]
        for index, signal in enumerate(signals):
            for name in ("coordinates", "values"):
                if (given := getattr(signal, name).shape[1]) != (wanted := getattr(first, name).shape[1]):
                    raise InputError(
                        f"signals of one batch must be alike: signal {index} has {given} {name} per point, not {wanted}"
                    )
        columns = {
            name: [getattr(signal, name).to(device, torch.float32) for signal in signals]
            for name in ("coordinates", "values")
        }
        if all(torch.equal(points, columns["coordinates"][0]) for points in columns["coordinates"][1:]):
            return cls(columns["coordinates"][0][None], torch.stack(columns["values"]))
        lengths = torch.tensor([len(signal.values) for signal in signals], device=device)
        filled = {name: torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True) for name, tensors in columns.items()}
        same = bool((lengths == lengths[0]).all())
        return cls(filled["coordinates"], filled["values"], None if same else lengths)

    def check(self, in_features: int, out_features: int, rows: int) -> None:
        """Raise `InputError` unless these are `rows` signals of so many coordinates and channels."""
        if len(self.values) != rows:
            raise InputError(f"{len(self.values)} signals are given for {rows} fields")
        shape = self.coordinates.shape[-1], self.values.shape[-1]
        if shape != (in_features, out_features):
            raise InputError(
                f"the field has {in_features} coordinates and {out_features} channels, the signal {shape[0]} and "
                f"{shape[1]}"
            )

    def drawn(self, points: int, random: torch.Generator) -> Samples:
        """So many points of each row, drawn with replacement: the same places in rows of the same points."""
        device = self.values.device
        chances = torch.rand(points, generator=random, dtype=torch.float64).to(device)
        if self.lengths is None:
            return self.at((chances * self.values.shape[1]).long())
        places = (chances * self.lengths[:, None]).long()[..., None]
        coordinates = self.coordinates.gather(1, places.expand(-1, -1, self.coordinates.shape[-1]))
        return Samples(coordinates, self.values.gather(1, places.expand(-1, -1, self.values.shape[-1])))

    def at(self, places: torch.Tensor) -> Samples:
        """The points at `places`, (points,), the same in every row."""
        places = places.to(self.values.device)
        return Samples(self.coordinates[:, places], self.values[:, places])

    def rows(self, which: Sequence[int]) -> Samples:
        """Some of the rows, in the order given."""
        index = torch.tensor(which, device=self.values.device, dtype=torch.long)
        coordinates = self.coordinates if len(self.coordinates) == 1 else self.coordinates[index]
        return Samples(coordinates, self.values[index], None if self.lengths is None else self.lengths[index])

    def error(self, estimate: torch.Tensor, loss: PointLoss | None = None) -> torch.Tensor:
        """The mean squared error, or another loss, of `estimate` (rows, points, channels) for each row, (rows,)."""
        if loss is not None:
            counts = [self.values.shape[1]] * len(self.values) if self.lengths is None else self.lengths.tolist()
            rows = zip(estimate, self.values, counts, strict=True)
            return torch.stack([loss(row[:count], values[:count]) for row, values, count in rows])
        difference = estimate - self.values
        if self.lengths is None:
            return difference.square().flatten(1).mean(1)
        counted = torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths[:, None]
        squares = (difference.square() * counted[..., None]).flatten(1).sum(1)
        return squares / (self.lengths * self.values.shape[-1])
