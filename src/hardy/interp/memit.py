"""Many facts at once, over the MLPs of several blocks: MEMIT (Meng et al. 2023) and AlphaEdit (Fang et al. 2025).

The stream after the last of the blocks is to have a new value at each subject; block by block the down projection takes
its share of what is still missing, R. MEMIT adds R K^T (weight C + K K^T)^-1, C the second moment of the keys of
ordinary text. AlphaEdit first projects on the keys that ordinary text does not have, so that its values stay exactly:
R K^T P (K K^T P + ridge)^-1. Where we differ: both papers take absolute numbers for what is small in C; here they are
relative to its mean eigenvalue.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from hardy import checks, hooks
from hardy.core.method import Method, WeightLedger
from hardy.core.selection import select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.interp.baking import refuse_norms_after
from hardy.interp.rome import ROME, second_moment
from hardy.interp.steering import block_name
from hardy.report import Row


def spread(keys: torch.Tensor, missing: torch.Tensor, moment: torch.Tensor, weight: float) -> torch.Tensor:
    """R K^T (weight C + K K^T)^-1, (out, in).

    Args:
        keys: K, (in, facts).
        missing: R, (out, facts).
        moment: C, (in, in).
        weight: of C: how much other keys keep their values.
    """
    return torch.linalg.solve(weight * moment + keys @ keys.mT, keys @ missing.mT).mT


def projected(
    keys: torch.Tensor, missing: torch.Tensor, moment: torch.Tensor, small: float, ridge: float
) -> tuple[torch.Tensor, int]:
    """R K^T P (K K^T P + ridge)^-1, (out, in), with P on the eigenvectors of C below `small` times the mean eigenvalue,
    and how many of them there are.

    Args:
        keys, missing, moment: as of `spread`.
        small: relative eigenvalue.
        ridge: relative to the mean squared length of the keys.
    """
    values, vectors = torch.linalg.eigh(moment)
    null = vectors[:, values < small * values.mean()]
    p = null @ null.mT
    k = p @ keys
    size = ridge * keys.square().sum(0).mean()
    inverse = torch.linalg.solve(k.mT @ k + size * torch.eye(k.shape[1], dtype=k.dtype, device=k.device), k.mT)
    return missing @ inverse, null.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactEdits(Method):
    """What both ways of editing many facts share: `apply(model, data)` takes batches of ordinary text.

    Args:
        facts: each as of `ROME.of`; its layer is not used, its search for the value is.
        layers: numbers of the blocks whose MLPs are edited, in order.
    """

    facts: tuple[ROME, ...]
    layers: tuple[int, ...]

    def check(self) -> None:
        for fact in checks.items("facts", self.facts):
            if not isinstance(fact, ROME):
                raise InputError(f"facts are edits as of ROME.of, got {fact!r}")
        layers = [checks.integer("layers", layer, at_least=0) for layer in checks.items("layers", self.layers)]
        if not self.facts or not layers or layers != sorted(set(layers)):
            missing = "facts" if not self.facts else "layers"
            raise InputError(
                f"{missing} must be one or more, layers in rising order, got {getattr(self, missing)[:1] or 'none'}"
            )

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self.facts)} facts, layers={self.layers})"

    @abc.abstractmethod
    def update(self, keys: torch.Tensor, missing: torch.Tensor, moment: torch.Tensor) -> tuple[torch.Tensor, list[Row]]:
        """What is added to a weight, (out, in), and facts for the report; see `spread`."""

    def edit(self, model: Any, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        batches = [] if data is None else list(data)
        if not batches:
            raise InputError(f"{type(self).__name__} needs batches of ordinary text: apply(model, batches)")
        refuse_norms_after(model)
        blocks = blocks_of(model)
        projections = []
        for layer in self.layers:
            name, down = block_name(model, layer), blocks[layer].mlp.get("down")
            if not down:
                raise InputError(f"{name} has no single down projection, so no place for a fact")
            projections.append(f"{name}.{down}")
        last = f"blocks.{self.layers[-1]}.resid_post"
        goals, chances = [], []
        for fact in self.facts:
            _, old = fact.key_and_value(model, projections[-1])
            value, before, after = fact.value_for(model, projections[-1], old)
            goals.append(self._stream(model, fact, last) + (value - old).double())
            chances.append((before, after))
        ledger = WeightLedger(model, edits)
        rows: list[Row] = []
        for number, projection in enumerate(projections):
            moment = second_moment(model, projection, batches, 1e-6)
            keys = torch.stack([fact.key_and_value(model, projection)[0].double() for fact in self.facts], 1)
            now = torch.stack([self._stream(model, fact, last) for fact in self.facts], 1)
            missing = (torch.stack(goals, 1) - now) / (len(projections) - number)
            change, told = self.update(keys, missing, moment)
            site = next(s for s in select(model, "mlp.down") if s.module == projection)
            weight = ledger.read(site)
            ledger.write(site, weight, (weight.double() + change).float(), {})
            rows += [dataclasses.replace(row, condition=projection) for row in told]
        for index, condition in enumerate(("before", "with the values found")):
            mean = sum(chance[index] for chance in chances) / len(chances)
            rows.append(Row(metric="target_log_probability", condition=condition, value=mean, unit="nats"))
        return ledger.rows() + rows

    @staticmethod
    @torch.no_grad()
    def _stream(model: Any, fact: ROME, point: str) -> torch.Tensor:
        ids = torch.tensor([fact.prompt], device=model.device)
        with hooks.record(model, [point]) as seen:
            model(input_ids=ids, use_cache=False)
        return seen[point][0, fact.subject].double()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEMIT(FactEdits):
    """Edits many facts at once.

    Args:
        facts, layers: as of `FactEdits`.
        weight: of the second moment of other keys: more keeps them better, and takes less of the facts.
    """

    weight: float = 1.0

    def check(self) -> None:
        super().check()
        checks.number("weight", self.weight, above=0)

    def update(self, keys: torch.Tensor, missing: torch.Tensor, moment: torch.Tensor) -> tuple[torch.Tensor, list[Row]]:
        return spread(keys, missing, moment, self.weight), []


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlphaEdit(FactEdits):
    """Edits many facts in what the keys of ordinary text leave free, so that edits one after the other stay apart.

    Args:
        facts, layers: as of `FactEdits`.
        small: eigenvalues of the second moment below this share of their mean count as free.
        ridge: of the solution, relative to the mean squared length of the keys.
    """

    small: float = 0.02
    ridge: float = 0.01

    def check(self) -> None:
        super().check()
        checks.number("small", self.small, above=0, at_most=1)
        checks.number("ridge", self.ridge, above=0)

    def update(self, keys: torch.Tensor, missing: torch.Tensor, moment: torch.Tensor) -> tuple[torch.Tensor, list[Row]]:
        change, free = projected(keys, missing, moment, self.small, self.ridge)
        if not free:
            raise InputError(f"ordinary text leaves no direction free at small={self.small}: raise it, or use MEMIT")
        return change, [Row(metric="free_directions", condition="", value=free / len(moment))]
