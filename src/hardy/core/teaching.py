"""What a teacher and what it teaches know of each other: graphs, pixels and token sequences are all `Examples`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch


class Examples(Protocol):
    """Training examples 0, 1, ... under a model as it is now; every measure is taken in this order, (examples,)."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def losses(self) -> torch.Tensor:
        """The loss of each: the mean over its labels that are there."""
        ...

    def gradient_norms(self) -> torch.Tensor:
        """The Euclidean norm of the gradient of each one's loss at the model's output for it."""
        ...

    def kernel_norms(self) -> torch.Tensor:
        """How far one step of gradient descent on all would move the output of each, per unit of the learning rate.

        That is |sum_j K(i, j) dL_j/df_j| with the neural tangent kernel K, taken as J (J^T dL/df): no kernel is made.
        """
        ...


class Teaching(Protocol):
    """Decides, step by step, which examples are trained on.

    Attributes:
        updates: how often `choose` will be called in all.
    """

    @property
    def updates(self) -> int: ...

    def choose(self, examples: Examples) -> torch.Tensor:
        """The ids to train on until the next call, (chosen,); `examples` are measured only when they need be."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain data and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...
