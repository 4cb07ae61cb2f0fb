"""Placement: the best choice within a budget, its controls, and the study that measures them."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from models import build

from hardy.core import InputError
from hardy.core.method import from_dict
from hardy.hardware import Chip
from hardy.hardware.cost import matrix_cost
from hardy.studies import place
from hardy.studies.placement_plan import DIGITAL, Budget, Choice, Costs, Part, controls, evenly
from hardy.studies.placement_study import expected_of

CHIP = Chip.preset("reram-wan")
LEVELS = dataclasses.replace(CHIP, cell_levels=8)
ONCE, TWICE = Choice(1, 1), Choice(2, 1)


def parts(count: int = 5) -> list[Part]:
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(count, generator=random).tolist()
    sizes = torch.randint(100, 900, (count, 2), generator=random).tolist()
    return [
        Part(name=f"layers.{i}", inputs=n, outputs=m, losses={1: loss, 2: loss / 5}, copies=(1, 2))
        for i, (loss, (n, m)) in enumerate(zip(losses, sizes, strict=True))
    ]


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("kind", ["energy", "arrays"])
def test_the_best_placement_is_that_of_trying_all(kind: str, share: float) -> None:
    costs = Costs(parts=parts(4), chip=LEVELS)
    low, high = costs.all(ONCE).energy, costs.all(DIGITAL).energy
    if kind == "energy":
        budget = Budget(energy=low + share * (high - low))
    else:
        budget = Budget(arrays=int((0.5 + share) * costs.all(ONCE).arrays), energy=low + 0.7 * (high - low))
    best = costs.best(budget)
    tried = (
        costs.placement(dict(zip([part.name for part in costs.parts], choice, strict=True)))
        for choice in itertools.product((DIGITAL, ONCE, TWICE, Choice(1, 2), Choice(2, 2)), repeat=len(costs.parts))
    )
    allowed = [placement for placement in tried if budget.holds(placement.energy, placement.arrays)]
    assert budget.holds(best.energy, best.arrays)
    assert best.expected_loss == pytest.approx(min(placement.expected_loss for placement in allowed), rel=1e-3)


def test_without_room_for_anything_the_budget_is_refused_with_what_there_is() -> None:
    costs = Costs(parts=parts(), chip=LEVELS)
    with pytest.raises(InputError, match="no placement is within the budget; all digital takes .* and no array"):
        costs.best(Budget(energy=1.0))


def test_controls_spend_the_same_budget_by_their_own_order() -> None:
    costs = Costs(parts=parts(9), chip=LEVELS)
    budget = Budget(energy=0.5 * (costs.all(ONCE).energy + costs.all(DIGITAL).energy))
    found = controls(costs, budget, (0, 1))
    assert list(found) == ["most sensitive digital", "evenly over depth", "at random 0", "at random 1"]
    best = costs.best(budget)
    for placement in found.values():
        assert budget.holds(placement.energy, placement.arrays)
        assert placement.expected_loss >= best.expected_loss - 1e-9
        assert 0 < sum(choice == DIGITAL for choice in placement.choices.values()) < 9
    most = max(costs.parts, key=lambda part: part.losses[1])
    assert found["most sensitive digital"].choices[most.name] == DIGITAL
    assert found["at random 0"].choices != found["at random 1"].choices


def test_the_order_over_depth_is_spread() -> None:
    names = [str(i) for i in range(10)]
    order = evenly(names)
    assert sorted(order) == names
    assert {int(name) >= 5 for name in order[:2]} == {True, False}


@pytest.mark.parametrize("choice", [ONCE, TWICE, Choice(1, 2), Choice(2, 2)], ids=str)
def test_the_method_of_a_placement_does_what_it_says(choice: Choice) -> None:
    model = build("llama")
    sites = [name for name, module in model.named_modules() if name.endswith(("q_proj", "o_proj", "down_proj"))]
    kinds = {"q_proj": choice, "o_proj": ONCE, "down_proj": DIGITAL}
    choices = {name: kinds[name.rpartition(".")[2]] for name in sites}
    shapes = {name: model.get_submodule(name).weight.shape for name in sites}
    losses = {1: 0.1, 2: 0.05}
    costs = Costs(
        parts=[Part(name=n, inputs=shapes[n][1], outputs=shapes[n][0], losses=losses) for n in sites], chip=LEVELS
    )
    placement = costs.placement(choices)
    method = placement.method(LEVELS, seed=3)
    assert method is not None
    assert from_dict(method.to_dict()) == method
    with method.apply(model, [torch.arange(16)[None]]):
        on_chip = [(name, layer) for name, layer in model.named_modules() if type(layer).__name__ == "AnalogLinear"]
        arrays = 0
        for name, layer in on_chip:
            of = choices[name.partition(".copies.")[0]]
            (array,) = layer.arrays
            assert array.chip.weight_slices == of.slices
            arrays += matrix_cost(layer.in_features, layer.out_features, array.chip).arrays
    expected = [name for name, of in choices.items() for _ in range(of.copies)]
    assert sorted(name.partition(".copies.")[0] for name, _ in on_chip) == sorted(expected)
    assert arrays == placement.arrays
    assert costs.all(DIGITAL).method(LEVELS) is None


def test_a_loss_that_cannot_be_seen_is_expected_to_be_as_large_as_it_is_uncertain() -> None:
    assert expected_of([0.3]) == 0.3
    assert expected_of([-0.3]) == 0.0
    assert expected_of([0.2, 0.2]) == 0.2
    assert expected_of([1.0, 1.1]) == pytest.approx(1.05, abs=1e-6)  # far from 0 nothing is cut off
    sure, unsure = expected_of([-0.01, 0.01]), expected_of([-0.1, 0.1])
    assert unsure == pytest.approx(10 * sure)
    assert sure == pytest.approx(0.01 * math.sqrt(2 / math.pi))  # half a normal
    assert 0 < expected_of([-1.0, -1.001]) < 1e-3
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) - 0.5
    assert expected_of([-1.5, 0.5]) == pytest.approx(draws[draws > 0].mean().item(), abs=0.01)


def test_cells_without_levels_hold_no_digits() -> None:
    with pytest.raises(InputError, match="weight_slices=2 needs cell_levels"):
        place("tiny-llama", chip=CHIP, slices=(2,), tokens=256, window=128)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("placement") / "study"
    options = {
        "energy": 0.7, "n_seeds": 1, "n_judged": 2, "tokens": 256, "window": 128, "workers": 1,
        "select": "attention.q,mlp.down",
    }  # fmt: skip
    place("tiny-llama", out=out, **options)
    return out, options


def test_a_study_measures_the_plan_beside_its_controls(study: tuple[Path, dict[str, object]]) -> None:
    out, _ = study
    report = json.loads((out / "report.json").read_text())
    losses = {row["condition"]: row["value"] for row in report["rows"] if row["metric"] == "loss"}
    assert set(losses) == {
        "unmodified", "planned", "most sensitive digital", "evenly over depth", "at random 0", "at random 1",
        "at random 2", "all on the chip",
    }  # fmt: skip
    energies = {row["condition"]: row["value"] for row in report["rows"] if row["metric"] == "energy"}
    assert all(value <= 0.7 + 1e-9 for name, value in energies.items() if name != "all on the chip")
    assert losses["planned"] <= losses["all on the chip"]
    plan = json.loads((out / "placement.json").read_text())
    choices = {row["condition"]: row["value"] for row in report["rows"] if row["metric"] == "copies_on_the_chip"}
    assert {name: choice["copies"] for name, choice in plan["choices"].items()} == choices


def test_a_study_weighs_more_bits_where_the_cells_have_levels(tmp_path: Path) -> None:
    options = {"n_seeds": 1, "n_judged": 2, "tokens": 256, "window": 128, "workers": 1, "select": "mlp.down"}
    coarse = dataclasses.replace(CHIP, cell_levels=4)
    report = place("tiny-llama", chip=coarse, energy=0.9, copies=(1,), slices=(2,), out=tmp_path, **options)
    of_choices = {row.condition: (row.value, row.details) for row in report.select("slices_of_a_weight")}
    plan = json.loads((tmp_path / "placement.json").read_text())["choices"]
    assert {name: choice["slices"] for name, choice in plan.items()} == {
        n: value for n, (value, _) in of_choices.items()
    }
    assert 2 in {value for value, _ in of_choices.values()}
    alone = {row.condition: row.details["loss_alone"] for row in report.select("copies_on_the_chip")}
    assert all(details["loss_alone"] < alone[name] for name, (value, details) in of_choices.items() if value == 2)
    assert report.value("sliced_matrices", "planned") == [value for value, _ in of_choices.values()].count(2)
    assert report.value("loss", "planned") < report.value("loss", "all on the chip")


def test_a_study_of_a_placement_resumes(study: tuple[Path, dict[str, object]]) -> None:
    out, options = study
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    place("tiny-llama", out=out, **options)
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0}, "energy must be a finite number above 0, got 0"),
        ({"energy": 0.5, "copies": ()}, "copies must hold at least one number"),
        ({"energy": 0.5, "slices": (17,)}, "slices must be an integer from 1 to 16, got 17"),
        ({"energy": 0.5, "copies": (0,)}, "copies must be an integer from 1 to 64, got 0"),
        ({"arrays": 0}, "arrays must be a finite number above 0, got 0"),
        ({"energy": 1e-6}, "no placement is within the budget"),
        ({"energy": 0.5, "n_judged": 1}, "n_judged must be an integer of at least 2"),
        ({"energy": 0.5, "chip": "rream-wan"}, "no chip 'rream-wan'; did you mean reram-wan"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        place("tiny-llama", tokens=256, window=128, **options)
