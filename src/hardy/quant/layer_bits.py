"""Layer bits: more bits for the layers at the top of a ranking, fewer for the rest, within a budget of true bits.

Source: LieQ (arXiv 2508.03332), with any locator in the place of its score and any quantizer as a level. Where we
differ: the budget counts what is stored, scales and zero points included, and is never exceeded; and there may be more
than two levels, such as one, two and three trit-planes. `hardy.quant.bit_budget` has the arithmetic, and the paper's.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from hardy.core.layers import Layers
from hardy.core.method import ALL_SELECTED, Method
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector, Site, select
from hardy.core.surgery import Edits, weight_of
from hardy.core.units import exactly
from hardy.errors import InputError
from hardy.quant.bit_budget import allocate
from hardy.quant.quantizer import Quantizer
from hardy.report import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerBits(Method):
    """Give each unit of a ranking the lower or the higher of two methods, or one of several, within a bit budget.

    The units at the top of the ranking get `high`, as many as the budget allows, the rest `low`. With `between` there
    are more levels, and the values of the scores say how far apart they are (see `hardy.quant.bit_budget.allocate`):
    scores should then be in proportion to the harm that a layer's error does, as those of a measured ranking are.

    Args:
        budget: the most bits per weight over all selected weights, as the report counts them.
        low: the method of the least bits. It chooses no places itself: its `select` and `layers` stay at their
            defaults. The same holds for `high` and `between`.
        high: the method of the most bits.
        ranking: of units, each the name of a site or a pattern that `select` understands ("model.layers.3.*",
            "mlp.down"), or a mapping of such names to scores. Every selected weight is in exactly one unit.
        between: methods between `low` and `high`, each of more bits than the one before.
        select: which weights, as in `hardy.core.selection.select`.
        layers: in which layers; all by default.

    The report has, beside what the members report of each site, the level of every unit.
    """

    budget: float
    low: Quantizer
    high: Quantizer
    ranking: Ranking
    between: tuple[Quantizer, ...] = ()
    select: Selector = LINEAR
    layers: Layers | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ranking, Mapping):
            ranking = Ranking(scores=self.ranking, meaning="score given by name", unit="score", by="given scores")
            object.__setattr__(self, "ranking", ranking)
        super().__post_init__()

    def check(self) -> None:
        number = isinstance(self.budget, int | float) and not isinstance(self.budget, bool)
        if not (number and math.isfinite(self.budget) and self.budget > 0):
            raise InputError(f"budget must be a positive number of bits per weight, got {self.budget!r}")
        if not isinstance(self.between, tuple):
            raise InputError(f"between must be a tuple of methods, got {self.between!r}")
        named = [("low", self.low), *(("between", method) for method in self.between), ("high", self.high)]
        for name, method in named:
            if not isinstance(method, Quantizer):
                raise InputError(f"{name} must be a quantizer, a method that has stored_bits, got {method!r}")
            for field, default in (("select", LINEAR), ("layers", None)):
                if getattr(method, field) != default:
                    raise InputError(
                        f"{name} has {field}={getattr(method, field)!r}; LayerBits chooses the places, so set {field} "
                        "there and leave it out here"
                    )
        if not isinstance(self.ranking, Ranking):
            raise InputError(f"ranking must be a Ranking, or scores by name, got {self.ranking!r}")

    @property
    def levels(self) -> tuple[Quantizer, ...]:
        """The methods, from the least bits to the most."""
        return (self.low, *self.between, self.high)

    def allocation(self, model: nn.Module) -> dict[str, Quantizer]:
        """Which method each unit of `model` gets, in the order of the ranking; the model is only looked at.

        Raises:
            InputError: as `apply`.
        """
        _, chosen = self._plan(model)
        return {name: self.levels[level] for name, level in chosen.items()}

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        members, chosen = self._plan(model)
        sites = [site for unit in members.values() for site in unit]
        distinct = set(_first_of_ties(model, sites).values())
        before = {site: weight_of(model, site) for site in sites if site.name in distinct}
        data = data if data is None else list(data)  # every level goes through it
        totals: dict[str, float] = {}
        rows = []
        for level, method in enumerate(self.levels):
            places = tuple(exactly(site) for name in chosen if chosen[name] == level for site in members[name])
            if not places:
                continue
            fields: dict[str, Any] = {"select": places}
            for row in dataclasses.replace(method, **fields).edit(model, edits, data):
                if row.condition != ALL_SELECTED:
                    rows.append(dataclasses.replace(row, details={**row.details, "method": str(method)}))
                elif row.metric.endswith("_per_weight"):
                    totals[row.metric] = totals.get(row.metric, 0.0) + row.value * int(row.details["weights"] or 0)
        error = sum((weight_of(model, s).double() - old.double()).square().sum().item() for s, old in before.items())
        energy = sum(old.double().square().sum().item() for old in before.values())
        size = sum(old.numel() for old in before.values())
        relative = (error / energy) ** 0.5 if energy else math.inf if error else 0.0
        overall = {"relative_error": relative} | {metric: total / size for metric, total in totals.items()}
        details = {"weights": size}
        return [
            *(Row(metric=metric, condition=ALL_SELECTED, value=v, details=details) for metric, v in overall.items()),
            *(
                Row(
                    metric="level",
                    condition=name,
                    value=level,
                    details={"method": str(self.levels[level]), "score": self.ranking.scores[name]},
                )
                for name, level in chosen.items()
            ),
            *rows,
        ]

    def _plan(self, model: nn.Module) -> tuple[dict[str, list[Site]], dict[str, int]]:
        """The sites of each unit, each weight once, and the unit's level; both in the order of the ranking."""
        sites = select(model, self.select, layers=self.layers)
        unit_of: dict[str, str] = {}
        for name in self.ranking.order():
            matched = {site.name for site in select(model, name)}
            for site in sites:
                if site.name in matched or (site.rows is not None and site.module in matched):
                    if site.name in unit_of:
                        raise InputError(f"{site.name} is in two units of the ranking, {unit_of[site.name]} and {name}")
                    unit_of[site.name] = name
        scoreless = [site.name for site in sites if site.name not in unit_of]
        if scoreless:
            raise InputError(
                f"{len(scoreless)} of {len(sites)} selected weights are in no unit of the ranking by "
                f"{self.ranking.by}; the first is {scoreless[0]}"
            )
        members: dict[str, list[Site]] = {}
        bits: dict[str, list[int]] = {}
        weights: dict[str, int] = {}
        first = _first_of_ties(model, sites)
        for site in sites:
            unit = unit_of[first[site.name]]  # a weight that is tied between units goes with the first of them
            members.setdefault(unit, []).append(site)
            if first[site.name] == site.name:
                shape = weight_of(model, site).shape
                costs = [method.stored_bits(shape) for method in self.levels]
                bits[unit] = [a + b for a, b in zip(bits.get(unit, [0] * len(costs)), costs, strict=True)]
                weights[unit] = weights.get(unit, 0) + math.prod(shape)
        scores = {name: self.ranking.scores[name] for name in self.ranking.order() if name in members}
        return members, allocate(scores, weights, bits, self.budget)

    def __str__(self) -> str:
        between = f"between=({', '.join(map(str, self.between))}), " if self.between else ""
        return f"LayerBits(budget={self.budget}, low={self.low}, {between}high={self.high}, ranking={self.ranking})"


def _first_of_ties(model: nn.Module, sites: Sequence[Site]) -> dict[str, str]:
    """For each site the first one that holds the same weight, most often itself."""
    first: dict[tuple[int, tuple[int, int] | None], str] = {}
    names = {}
    for site in sites:
        weight = getattr(model.get_submodule(site.module), site.parameter or "", site)
        names[site.name] = first.setdefault((id(weight), site.rows), site.name)
    return names
