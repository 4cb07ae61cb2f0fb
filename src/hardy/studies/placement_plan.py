"""Which matrices of a model go on a chip, in how many copies and bits, and which stay digital, within a budget.

A choice for each part, so that the sum of the measured losses is smallest while the sums of energies and arrays keep
within the budget: a multiple-choice knapsack, solved as the integer program that it is (HiGHS, through SciPy).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import LinearConstraint, milp

from hardy.analog import Deploy, Redundancy
from hardy.core.method import Chain, Method
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.cost import Parts, matrix_cost


@dataclasses.dataclass(frozen=True, order=True)
class Choice:
    """How a part is held.

    Attributes:
        copies: of it on the chip, whose outputs are averaged; 0 where it is digital.
        slices: pairs of cells that share a weight, as `Chip.weight_slices`; 0 where it is digital.
    """

    copies: int = 1
    slices: int = 1

    def __str__(self) -> str:
        if self == DIGITAL:
            return "digital"
        parts = (f"{self.copies} copies" * (self.copies > 1), f"{self.slices} slices a weight" * (self.slices > 1))
        return " of ".join(part for part in parts if part) or "once"


DIGITAL = Choice(0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A matrix that a chip could take.

    Attributes:
        name: of its site.
        inputs, outputs: its size.
        losses: number of slices of a weight -> what the whole model loses when this part alone is on the chip like
            that, nats per token; not below 0.
        copies: the numbers of copies that it may have on the chip.
    """

    name: str
    inputs: int
    outputs: int
    losses: Mapping[int, float]
    copies: tuple[int, ...] = (1, 2, 4)

    def choices(self) -> list[Choice]:
        """All that it may be."""
        return [DIGITAL, *(Choice(copies, slices) for slices in self.losses for copies in self.copies)]

    def expected_loss(self, choice: Choice) -> float:
        """Of `choice`: a mean over copies has a part of the noise's variance, and the loss grows with that."""
        return 0.0 if choice == DIGITAL else self.losses[choice.slices] / choice.copies

    def energy(self, choice: Choice, chip: Chip, parts: Parts) -> float:
        """pJ for a product with one vector."""
        if choice == DIGITAL:
            return self.inputs * self.outputs * parts.multiply_add
        return matrix_cost(
            self.inputs, self.outputs, of_slices(chip, choice.slices), parts=parts, copies=choice.copies
        ).energy

    def arrays(self, choice: Choice, chip: Chip) -> int:
        """Tiles of the chip."""
        if choice == DIGITAL:
            return 0
        return matrix_cost(self.inputs, self.outputs, of_slices(chip, choice.slices), copies=choice.copies).arrays


def of_slices(chip: Chip, slices: int) -> Chip:
    """`chip` whose weights are in so many pairs of cells.

    Raises:
        InputError: its cells have no levels, so that they hold no digits.
    """
    return dataclasses.replace(chip, weight_slices=slices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a placement may cost; None is no limit.

    Attributes:
        energy: pJ for one token.
        arrays: tiles.
    """

    energy: float | None = None
    arrays: int | None = None

    def holds(self, energy: float, arrays: int) -> bool:
        """Whether it is enough."""
        return (self.energy is None or energy <= self.energy * (1 + 1e-9)) and (
            self.arrays is None or arrays <= self.arrays
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """A choice for each part.

    Attributes:
        choices: name of a part -> how it is held.
        energy: pJ for one token, over all parts.
        arrays: tiles in all.
        expected_loss: the sum of the parts' own losses, nats per token; what they do together is measured, not summed.
    """

    choices: Mapping[str, Choice]
    energy: float
    arrays: int
    expected_loss: float

    def method(self, chip: Chip, seed: int = 0) -> Method | None:
        """What puts a model on `chip` like this; None where all of it is digital."""
        placed = {name: choice for name, choice in self.choices.items() if choice != DIGITAL}
        steps: list[Method] = []
        for copies in sorted({choice.copies for choice in placed.values()} - {1}):
            names = (f"re:{re.escape(name)}" for name, choice in placed.items() if choice.copies == copies)
            steps.append(Redundancy(copies=copies, select=tuple(names)))
        for slices in sorted({choice.slices for choice in placed.values()}):
            # What is copied is on the chip copy by copy.
            names = (
                f"re:{re.escape(name)}" + r"\.copies\.\d+" * (choice.copies > 1)
                for name, choice in placed.items()
                if choice.slices == slices
            )
            steps.append(Deploy(chip=of_slices(chip, slices), seed=seed, select=tuple(names)))
        return Chain(methods=tuple(steps)) if len(steps) > 1 else next(iter(steps), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """What every choice of every part costs on a chip."""

    parts: Sequence[Part]
    chip: Chip
    components: Parts = dataclasses.field(default_factory=Parts)

    @property
    def once(self) -> Choice:
        """On the chip as it is."""
        return Choice(1, self.chip.weight_slices)

    def placement(self, choices: Mapping[str, Choice]) -> Placement:
        """The placement of these choices."""
        chosen = [(part, choices[part.name]) for part in self.parts]
        return Placement(
            choices=dict(choices),
            energy=sum(part.energy(choice, self.chip, self.components) for part, choice in chosen),
            arrays=sum(part.arrays(choice, self.chip) for part, choice in chosen),
            expected_loss=sum(part.expected_loss(choice) for part, choice in chosen),
        )

    def all(self, choice: Choice) -> Placement:
        """Every part alike."""
        return self.placement({part.name: choice for part in self.parts})

    def best(self, budget: Budget) -> Placement:
        """The placement of the smallest expected loss within `budget`.

        Raises:
            InputError: no placement is within it; the message says what the cheapest ones cost.
        """
        options = [(part, choice) for part in self.parts for choice in part.choices()]
        one_each = np.array([[float(part is each) for part, _ in options] for each in self.parts])
        constraints = [LinearConstraint(one_each, 1, 1)]
        energies = np.array([part.energy(choice, self.chip, self.components) for part, choice in options])
        arrays = np.array([part.arrays(choice, self.chip) for part, choice in options], dtype=float)
        if budget.energy is not None:  # scaled, so that the solver's tolerance is small beside it
            constraints.append(LinearConstraint(energies[None] / budget.energy, -np.inf, 1))
        if budget.arrays is not None:
            constraints.append(LinearConstraint(arrays[None], -np.inf, budget.arrays))
        losses = np.array([part.expected_loss(choice) for part, choice in options])
        # Of two placements that lose the same, the one of less energy.
        aim = losses / max(losses.max(), 1e-12) + 1e-6 * energies / energies.max()
        found = milp(
            aim, constraints=constraints, integrality=np.ones(len(options)), bounds=(0, 1),
            options={"mip_rel_gap": 1e-4, "time_limit": 60.0},
        )  # fmt: skip
        if found.x is None:
            raise InputError(f"no placement is within the budget; {self.limits()}")
        chosen = [option for option, x in zip(options, found.x, strict=True) if x > 0.5]
        return self.placement({part.name: choice for part, choice in chosen})

    def limits(self) -> str:
        """What the two ends cost, in words."""
        digital, chip = self.all(DIGITAL), self.all(self.once)
        return (
            f"all digital takes {digital.energy:.4g} pJ per token and no array, all on the chip {chip.energy:.4g} pJ "
            f"and {chip.arrays} arrays"
        )

    def filled(self, budget: Budget, order: Sequence[str]) -> Placement:
        """The control's placement: parts change sides in `order` as long as the budget allows it.

        They go from the chip to digital where that is within the budget to begin with; else from digital to the chip,
        the last of `order` first. Each part that does not fit is passed over.

        Raises:
            InputError: neither end is within the budget.
        """
        for start, other, names in ((self.once, DIGITAL, order), (DIGITAL, self.once, [*reversed(order)])):
            choices = {part.name: start for part in self.parts}
            if not self._fits(budget, choices):
                continue
            for name in names:
                if self._fits(budget, {**choices, name: other}):
                    choices[name] = other
            return self.placement(choices)
        raise InputError(f"neither all digital nor all on the chip is within the budget; {self.limits()}")

    def _fits(self, budget: Budget, choices: Mapping[str, Choice]) -> bool:
        placement = self.placement(choices)
        return budget.holds(placement.energy, placement.arrays)


def controls(costs: Costs, budget: Budget, seeds: Sequence[int]) -> dict[str, Placement]:
    """Placements at the same budget that other rules choose: by sensitivity alone, evenly over depth, at random."""
    names = [part.name for part in costs.parts]
    by_loss = sorted(costs.parts, key=lambda part: part.losses[costs.once.slices], reverse=True)
    orders: dict[str, Callable[[], list[str]]] = {
        "most sensitive digital": lambda: [part.name for part in by_loss],
        "evenly over depth": lambda: evenly(names),
    }
    for seed in seeds:

        def shuffled(seed: int = seed) -> list[str]:
            order = torch.randperm(len(names), generator=generator(seed, "placement", "random"))
            return [names[i] for i in order.tolist()]

        orders[f"at random {seed}"] = shuffled
    return {name: costs.filled(budget, order()) for name, order in orders.items()}


def evenly(names: Sequence[str]) -> list[str]:
    """The same names, each next one far from those before it: the bit-reversed order of their places."""
    bits = max(1, (len(names) - 1).bit_length())
    return [names[i] for i in sorted(range(len(names)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))]
