"""Analog's locators under the names that `hardy locate` has for them."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hardy.analog.deploy import Deploy
from hardy.analog.sensitivity import Measure, Unit, noise_sensitivity
from hardy.core.locators import locator
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR, Selector
from hardy.hardware.chip import Chip


@locator(
    "noise-sensitivity",
    units=("projection", "block", "role"),
    summary="increase of the loss, or change of the predictions, when this part alone is on the chip",
)
def chip_sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    select: Selector = LINEAR,
    unit: Unit = "projection",
    chip: str | Chip = "reram-wan",
    measure: Measure = "loss",
    seeds: Sequence[int] = (0, 1, 2),
) -> Ranking:
    """`noise_sensitivity` with a chip, or what `Chip.named` takes, as the noise."""
    noise = Deploy(chip=Chip.named(chip) if isinstance(chip, str) else chip)
    return noise_sensitivity(model, batches, noise=noise, select=select, unit=unit, measure=measure, seeds=seeds)
