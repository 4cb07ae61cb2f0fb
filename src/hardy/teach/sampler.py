"""What a teacher chose, as a sampler that any PyTorch or PyG `DataLoader` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.teach.teacher import Teacher


class TeacherSampler(Sampler[int]):
    """Goes through the ids that the teacher chose, in a new random order each time; before its first choice, all ids.

    Args:
        dataset: what is sampled; only its length is asked for.
        teacher: its seed is that of the order, too.
        shuffle: False keeps the ids in increasing order.

    Raises:
        InputError: the dataset has no length, as a stream has none.
    """

    def __init__(self, dataset: Sized, teacher: Teacher, *, shuffle: bool = True) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"a teacher needs examples with ids: {type(dataset).__name__} has no length or no items")
        self.dataset, self.teacher, self.shuffle = dataset, teacher, checks.boolean("shuffle", shuffle)
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        ids = self._ids().sort().values  # a selector's order says nothing about that of training
        if self.shuffle:
            ids = ids[torch.randperm(len(ids), generator=generator(self.teacher.seed, "order", self.passes))]
        self.passes += 1
        return iter(ids.tolist())

    def __len__(self) -> int:
        return len(self._ids())

    def _ids(self) -> torch.Tensor:
        size = len(self.dataset)
        if self.teacher.size not in (None, size):
            raise InputError(f"the teacher chose among {self.teacher.size} examples; the sampler's dataset has {size}")
        return torch.arange(size) if self.teacher.ids is None else self.teacher.ids

    def state_dict(self) -> dict[str, Any]:
        """How many passes were begun; the teacher has a state of its own."""
        return {"passes": self.passes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next pass is the one that would have followed."""
        self.passes = checks.integer("passes", state.get("passes"), at_least=0)
