"""LoReFT: the stream is moved inside of a subspace of low rank, which is trained (Wu et al. 2024).

h <- h + R^T (W h + b - R h) with R R^T = 1, after one block. R is kept orthonormal by PyTorch's parametrization.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from hardy import checks, hooks
from hardy.core.method import Method
from hardy.core.rng import generator
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.interp.steering import Positions, Steered, _Where, as_floats, block_name, width_of
from hardy.interp.task import Task, last_logits
from hardy.report import Row
from hardy.runs.progress import progress


def moved(stream: torch.Tensor, rotation: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """h + R^T (W h + b - R h).

    Args:
        stream: (..., d_model).
        rotation: R, (rank, d_model), orthonormal rows.
        weight: W, (rank, d_model).
        bias: b, (rank,).
    """
    return stream + (stream @ (weight - rotation).mT + bias) @ rotation


class _Moving:
    def __init__(self, parts: Sequence[torch.Tensor], strength: float, where: _Where) -> None:
        self.parts, self.strength, self.where = list(parts), strength, where

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        if self.strength == 0:
            return stream
        wide = stream.float()
        new = wide + self.strength * (moved(wide, *(part.to(stream.device) for part in self.parts)) - wide)
        rows = self.where.rows
        return new.to(stream.dtype) if rows is None else torch.where(rows.unsqueeze(-1), new.to(stream.dtype), stream)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoReFT(Method):
    """Moves the residual stream after a block inside of a subspace; `LoReFT.train` finds it.

    It works inside `generate`, on packed layers and on a chip, and is applied again to a model that is loaded.

    Args:
        rotation: R, (rank, d_model), orthonormal rows.
        weight: W, (rank, d_model).
        bias: b, (rank,).
        layer: number of the block.
        positions: as of `SteeringVector`.
        strength: 0 changes nothing, to the last bit.
    """

    rotation: tuple[tuple[float, ...], ...]
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    layer: int
    positions: Positions = "last"
    strength: float = 1.0

    def check(self) -> None:
        for name in ("rotation", "weight"):
            rows = tuple(as_floats(row, name) for row in checks.items(name, getattr(self, name)))
            object.__setattr__(self, name, rows)
        bias = tuple(checks.number("bias", value) for value in checks.items("bias", self.bias))
        object.__setattr__(self, "bias", bias)
        shapes = {name: (len(getattr(self, name)), len(getattr(self, name)[0])) for name in ("rotation", "weight")
                  if getattr(self, name)}  # fmt: skip
        if len(set(shapes.values())) != 1 or len(shapes) != 2 or len(bias) != len(self.rotation):
            raise InputError(
                f"rotation and weight must be (rank, d_model), bias (rank,): got {shapes}, bias {bias[:1]}"
            )
        r = torch.tensor(self.rotation, dtype=torch.float64)
        if (error := (r @ r.mT - torch.eye(len(r), dtype=r.dtype)).abs().max().item()) > 1e-3:
            raise InputError(
                f"rotation must have orthonormal rows, got {self.rotation[0]!r:.60}..., off by {error:.2g}"
            )
        checks.integer("layer", self.layer, at_least=0)
        checks.one_of("positions", self.positions, ("all", "last", "generated"))
        checks.number("strength", self.strength)

    @property
    def reapplied(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"LoReFT(layer={self.layer}, rank={len(self.rotation)}, positions={self.positions!r})"

    @classmethod
    def train(
        cls, model: nn.Module, task: Task, *, layer: int, rank: int = 4, steps: int = 100, learning_rate: float = 1e-2,
        side: str = "clean", seed: int = 0,
    ) -> LoReFT:  # fmt: skip
        """Find the intervention at the last position that makes the right answers likely; the model is left as it is.

        Args:
            model: any decoder.
            task: whose right answers are to be given.
            layer: block after which the stream is moved.
            rank: of the subspace.
            steps, learning_rate: of Adam on all examples at once.
            side: "clean" prompts, or "corrupt".
            seed: of the start.
        """
        block_name(model, layer)
        width = width_of(model)
        checks.integer("rank", rank, at_least=1, at_most=width)
        checks.integer("steps", steps, at_least=1)
        random = generator(seed, "loreft")
        device = next(model.parameters()).device
        basis = nn.Linear(width, rank, bias=False, device=device)
        start = torch.linalg.qr(torch.randn(width, rank, generator=random)).Q.mT
        with torch.no_grad():
            basis.weight.copy_(start)
        orthogonal(basis)
        weight = nn.Parameter(start.to(device).clone())
        bias = nn.Parameter(torch.zeros(rank, device=device))
        optimizer = torch.optim.Adam([*basis.parameters(), weight, bias], lr=learning_rate)
        losses: list[float] = []

        def put(stream: torch.Tensor) -> torch.Tensor:
            last = moved(stream[:, -1:].float(), basis.weight, weight, bias).to(stream.dtype)
            return torch.cat([stream[:, :-1], last], 1)

        with progress(f"LoReFT after block {layer}", steps) as bar, torch.enable_grad():
            for _ in range(steps):
                with hooks.patch(model, {f"blocks.{layer}.resid_post": put}):
                    logits = last_logits(model, task.inputs(side)).float().log_softmax(-1)
                real = task.right >= 0
                likely = logits.gather(1, task.right.clamp_min(0)).masked_fill(~real, float("-inf")).logsumexp(1)
                loss = -likely.mean()
                wanted = [*basis.parameters(), weight, bias]
                for parameter, gradient in zip(wanted, torch.autograd.grad(loss, wanted), strict=True):
                    parameter.grad = gradient
                optimizer.step()
                losses.append(loss.item())
                bar.advance(note=f"loss {losses[-1]:.3g}")
        checks.finite("loss", torch.tensor(losses))
        plain: Any = [t.detach().cpu().double().tolist() for t in (basis.weight, weight, bias)]
        rotation, moving = (tuple(map(tuple, rows)) for rows in plain[:2])
        return cls(rotation=rotation, weight=moving, bias=tuple(plain[2]), layer=layer)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        block = model.get_submodule(block_name(model, self.layer))
        if (width := width_of(model)) != len(self.rotation[0]):
            raise InputError(f"rotation is of width {len(self.rotation[0])}, the residual stream of {width}")
        device = next(model.parameters()).device
        parts = [torch.tensor(part, device=device) for part in (self.rotation, self.weight, self.bias)]
        where = _Where(model, self.positions)
        edits.swap(model, "forward", where)
        edits.swap(block, "forward", Steered(block, _Moving(parts, self.strength, where)))
        return [Row(metric="rank", condition=f"blocks.{self.layer}.resid_post", value=len(self.rotation))]
