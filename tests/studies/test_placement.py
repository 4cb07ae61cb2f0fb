"""Placement: the best choice within a budget, its controls, and the study that measures them."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from models import build

from hardy.core import InputError
from hardy.core.method import from_dict
from hardy.hardware import Chip
from hardy.hardware.cost import model_cost
from hardy.studies import place
from hardy.studies.placement_plan import DIGITAL, Budget, Costs, Part, controls, evenly

CHIP = Chip.preset("reram-wan")


def parts(count: int = 5) -> list[Part]:
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(count, generator=random).tolist()
    sizes = torch.randint(100, 900, (count, 2), generator=random).tolist()
    return [
        Part(name=f"layers.{i}", inputs=n, outputs=m, loss=loss, copies=(1, 2))
        for i, (loss, (n, m)) in enumerate(zip(losses, sizes, strict=True))
    ]


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("kind", ["energy", "arrays"])
def test_the_best_placement_is_that_of_trying_all(kind: str, share: float) -> None:
    costs = Costs(parts=parts(), chip=CHIP)
    low, high = costs.all(1).energy, costs.all(DIGITAL).energy
    if kind == "energy":
        budget = Budget(energy=low + share * (high - low))
    else:
        budget = Budget(arrays=int((0.5 + share) * costs.all(1).arrays), energy=low + 0.7 * (high - low))
    best = costs.best(budget)
    tried = (
        costs.placement(dict(zip([part.name for part in costs.parts], choice, strict=True)))
        for choice in itertools.product((DIGITAL, 1, 2), repeat=len(costs.parts))
    )
    allowed = [placement for placement in tried if budget.holds(placement.energy, placement.arrays)]
    assert budget.holds(best.energy, best.arrays)
    assert best.expected_loss == pytest.approx(min(placement.expected_loss for placement in allowed), rel=1e-3)


def test_without_room_for_anything_the_budget_is_refused_with_what_there_is() -> None:
    costs = Costs(parts=parts(), chip=CHIP)
    with pytest.raises(InputError, match="no placement is within the budget; all digital takes .* and no array"):
        costs.best(Budget(energy=1.0))


def test_controls_spend_the_same_budget_by_their_own_order() -> None:
    costs = Costs(parts=parts(9), chip=CHIP)
    budget = Budget(energy=0.5 * (costs.all(1).energy + costs.all(DIGITAL).energy))
    found = controls(costs, budget, (0, 1))
    assert list(found) == ["most sensitive digital", "evenly over depth", "at random 0", "at random 1"]
    best = costs.best(budget)
    for placement in found.values():
        assert budget.holds(placement.energy, placement.arrays)
        assert placement.expected_loss >= best.expected_loss - 1e-9
        assert 0 < sum(choice == DIGITAL for choice in placement.choices.values()) < 9
    most = max(costs.parts, key=lambda part: part.loss)
    assert found["most sensitive digital"].choices[most.name] == DIGITAL
    assert found["at random 0"].choices != found["at random 1"].choices


def test_the_order_over_depth_is_spread() -> None:
    names = [str(i) for i in range(10)]
    order = evenly(names)
    assert sorted(order) == names
    assert {int(name) >= 5 for name in order[:2]} == {True, False}


def test_the_method_of_a_placement_does_what_it_says() -> None:
    model = build("llama")
    sites = [name for name, module in model.named_modules() if name.endswith(("q_proj", "down_proj"))]
    choices = {name: (2 if name.endswith("q_proj") else DIGITAL) for name in sites}
    shapes = {name: model.get_submodule(name).weight.shape for name in sites}
    costs = Costs(parts=[Part(name=n, inputs=shapes[n][1], outputs=shapes[n][0], loss=0.1) for n in sites], chip=CHIP)
    placement = costs.placement(choices)
    method = placement.method(CHIP, seed=3)
    assert method is not None
    assert from_dict(method.to_dict()) == method
    with method.apply(model, [torch.arange(16)[None]]):
        on_chip = [name for name, module in model.named_modules() if type(module).__name__ == "AnalogLinear"]
        counted = model_cost(model, CHIP, select=r"re:.*\.copies\.\d+")
    assert {name.rpartition(".copies.")[0] for name in on_chip} == {n for n in sites if n.endswith("q_proj")}
    assert len(on_chip) == 2 * len({name.rpartition(".copies.")[0] for name in on_chip})
    assert counted.value("arrays", "all selected weights") == placement.arrays
    assert costs.all(DIGITAL).method(CHIP) is None


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
    assert plan["choices"] == choices


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
