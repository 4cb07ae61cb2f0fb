"""The points of a signal as examples that a teacher chooses among: INT and NINT (arXiv 2405.10531, 2511.15487)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch

from hardy.fields.samples import PointLoss, Samples

_AT_ONCE = 65536


class Points:
    """The points of one signal under the network that is fitted to it, as it is now; see `hardy.core.teaching`.

    Args:
        parameters: of one network, each (1, ...).
        predict: values (1, points, channels) at parameters and coordinates (1, points, d).
        samples: one row.
        loss: of estimate and values, a mean over points; None for the squared error. Other losses of a fit are measured
            by their squared error, too: how sturdy a network is says nothing of a point.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        predict: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor],
        samples: Samples,
        loss: PointLoss | None,
    ) -> None:
        self.parameters = {name: tensor.detach() for name, tensor in parameters.items()}
        self.predict, self.samples, self.loss = predict, samples, loss or torch.nn.functional.mse_loss

    def __len__(self) -> int:
        return self.samples.values.shape[1]

    def losses(self) -> torch.Tensor:
        """See `Examples.losses`."""
        with torch.no_grad():
            values = self.samples.values[0]
            return torch.vmap(lambda row, truth: self.loss(row[None], truth[None]))(self._estimate(), values)

    def gradient_norms(self) -> torch.Tensor:
        """See `Examples.gradient_norms`: for the squared error 2 |estimate - value| / channels."""
        return self._slope(self._estimate()).norm(dim=1)

    def kernel_norms(self) -> torch.Tensor:
        """See `Examples.kernel_norms`."""
        slope = self._slope(self._estimate())
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in self.parameters.items()}
        direction = {name: torch.zeros_like(tensor) for name, tensor in leaves.items()}
        for block, rows in zip(self._blocks(), slope.split(_AT_ONCE), strict=True):
            with torch.enable_grad():
                found = torch.autograd.grad(self.predict(leaves, block)[0], list(leaves.values()), rows)
            for total, part in zip(direction.values(), found, strict=True):
                total += part
        moved = []
        with warnings.catch_warnings():  # torch's forward mode compiles helpers in a way that it calls deprecated
            warnings.filterwarnings("ignore", "`torch.jit.*` is deprecated", DeprecationWarning)
            for block in self._blocks():
                found = torch.func.jvp(
                    lambda at, block=block: self.predict(at, block)[0], (self.parameters,), (direction,)
                )
                moved.append(found[1].norm(dim=1))
        return torch.cat(moved)

    def _blocks(self) -> tuple[torch.Tensor, ...]:
        return self.samples.coordinates.split(_AT_ONCE, 1)

    @torch.no_grad()
    def _estimate(self) -> torch.Tensor:
        return torch.cat([self.predict(self.parameters, block)[0] for block in self._blocks()])

    def _slope(self, estimate: torch.Tensor) -> torch.Tensor:
        """The gradient of each point's loss at its estimate, (points, channels)."""
        with torch.enable_grad():
            leaf = estimate.detach().requires_grad_()
            (slope,) = torch.autograd.grad(len(leaf) * self.loss(leaf, self.samples.values[0]), leaf)
        return slope
