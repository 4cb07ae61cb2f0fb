"""The arithmetic of a bit budget: which unit gets which level, exactly and never above the budget; and LieQ's rule.

Source: LieQ (arXiv 2508.03332) for `nominal_high`: the top of a ranking at the high level, the rest at the low one.
Where we differ in `allocate`: bits are those that storage takes, with scales and zero points, and the budget is never
exceeded; the paper rounds the number of layers, and counts the codes alone. For more than two levels, which the paper
does not have, bits go where they lower the harm most per bit, with the distortion at b bits per weight as 4^-b: the
greedy allocation of rate-distortion theory (Shoham and Gersho 1988).
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from hardy.errors import InputError


def allocate(
    scores: Mapping[str, float], weights: Mapping[str, int], bits: Mapping[str, Sequence[int]], budget: float
) -> dict[str, int]:
    """The level of every unit, 0 the cheapest, within a budget.

    Levels are raised one by one, each time one unit by one level, until the next raise would exceed the budget. They
    are taken in the order of score times the distortion that the raise saves per bit, with 4^-b as the distortion of a
    level of b bits per weight. So of two levels the units with the highest scores get the higher one. With more
    levels the values of the scores count too, as the harm that a unit's distortion does: the more they differ, the
    further apart are the levels; units with scores of 0 or less are raised last, in their order. A higher score never
    gets a lower level, and of equal scores the first is raised first.

    Args:
        scores: unit -> score, finite; higher means "matters more".
        weights: unit -> number of weights in it.
        bits: unit -> what it takes to store it at each level, in total; more from level to level.
        budget: the most bits per weight over all units.

    Returns:
        unit -> index into its `bits`.

    Raises:
        InputError: the budget is below every unit at its lowest level (the error names what that takes), a level
            does not take more bits than the one before, or the mappings do not fit together.
    """
    names = sorted(scores, key=lambda name: -scores[name])
    _check_units(scores, weights, bits)
    total, spent = sum(weights.values()), sum(costs[0] for costs in bits.values())
    if not spent / total <= budget:
        raise InputError(
            f"a budget of {budget:g} bits per weight cannot be met: the least is {_rounded_up(spent / total)}, "
            "with every unit at the lowest level"
        )
    count = len(bits[names[0]])
    rates = [sum(costs[level] for costs in bits.values()) / total for level in range(count)]
    distortions = [4.0 ** (rates[0] - rate) for rate in rates]  # relative to the lowest level's
    saved = [(distortions[i] - distortions[i + 1]) / (rates[i + 1] - rates[i]) for i in range(count - 1)]
    # Sorting is stable: equal ones stay in the order of levels, and within a level in that of the ranking.
    raises = [(name, level) for level in range(count - 1) for name in names]
    raises.sort(key=lambda step: -max(scores[step[0]], 0.0) * saved[step[1]])
    levels = dict.fromkeys(names, 0)
    for name, level in raises:
        spent += bits[name][level + 1] - bits[name][level]
        if spent / total > budget:
            break
        levels[name] = level + 1
    return levels


def _check_units(scores: Mapping[str, float], weights: Mapping[str, int], bits: Mapping[str, Sequence[int]]) -> None:
    if not scores or not set(scores) == set(weights) == set(bits):
        odd = sorted((set(scores) | set(weights) | set(bits)) - (set(scores) & set(weights) & set(bits)))
        shown = f"{odd[0]} lacks one" if odd else "there are none"
        raise InputError(f"every unit needs a score, a number of weights and its bits; {shown}")
    count = len(next(iter(bits.values())))
    for name, costs in bits.items():
        if not math.isfinite(scores[name]) or weights[name] < 1:
            raise InputError(
                f"{name} has the score {scores[name]} and {weights[name]} weights; scores must be finite and weights "
                "positive"
            )
        if len(costs) != count or not costs or any(a >= b for a, b in itertools.pairwise(costs)):
            raise InputError(
                f"levels must be the same for all units and go from the fewest bits to the most; {name} takes "
                f"{', '.join(map(str, costs)) or 'none'}"
            )


def nominal_high(
    scores: Mapping[str, float], weights: Mapping[str, int], budget: float, *, low: int = 2, high: int = 4
) -> list[str]:
    """The units that LieQ gives `high` bits: a share f = (budget - low) / (high - low) from the top of the ranking.

    Of units of the same size round(f * units), half up; else the fewest from the top that hold a share f of the
    weights. Bits are nominal, those of the codes alone, and the result may lie above the budget; `LayerBits` does not.

    Raises:
        InputError: the budget is not between `low` and `high`, or a unit has no size.
    """
    if not low <= budget <= high or low >= high:
        raise InputError(f"budget must be between the {low} and {high} bits of the levels, got {budget!r}")
    missing = [name for name in scores if not weights.get(name, 0) > 0]
    if missing:
        raise InputError(f"{missing[0]} has no size: give how many weights it has, a positive number")
    order = sorted(scores, key=lambda name: -scores[name])
    share = (budget - low) / (high - low)
    if len({weights[name] for name in order}) == 1:
        return order[: math.floor(share * len(order) + 0.5)]
    needed, held, top = share * sum(weights[name] for name in order), 0, []
    for name in order:
        if held >= needed:
            break
        top.append(name)
        held += weights[name]
    return top


def nominal_bits(weights: Mapping[str, int], chosen: Sequence[str], *, low: int = 2, high: int = 4) -> float:
    """Mean bits per weight with `chosen` at `high` and the rest at `low`; / 16 it is LieQ's compression ratio."""
    total = sum((high if name in set(chosen) else low) * size for name, size in weights.items())
    return total / sum(weights.values())


def _rounded_up(value: float) -> float:
    """To six decimals, so that what an error names is enough."""
    return math.ceil(value * 1e6) / 1e6
