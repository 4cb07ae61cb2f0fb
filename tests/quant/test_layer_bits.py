"""Bits by a ranking: which place gets which method, exact bits, ties, fused projections, and what must be refused."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from models import CONFIGS, assert_same, build, same_bytes, snapshot
from torch import nn

import hardy
from hardy.core import Edits, InputError, Method, Ranking, Row, select
from hardy.core.method import from_dict
from hardy.quant import LayerBits, RoundToNearest, TritPlanes

TWO, FOUR = RoundToNearest(bits=2, group_size=16), RoundToNearest(bits=4, group_size=16)
BLOCKS = {"model.layers.0.*": 1.0, "model.layers.1.*": 2.0}


def method(**fields: Any) -> LayerBits:
    return LayerBits(**{"budget": 4.3, "low": TWO, "high": FOUR, "ranking": BLOCKS, **fields})


def total_bits(change: Any) -> float:
    """Over the sites of the report, weight by weight."""
    rows = change.report.select("bits_per_weight")
    return sum(row.value * row.details["weights"] for row in rows if row.condition != "all selected weights")


def test_the_top_unit_gets_the_high_method_and_the_rest_the_low_one(llama: nn.Module) -> None:
    before = snapshot(llama)
    expected = {}
    for name, level in (("model.layers.0.*", TWO), ("model.layers.1.*", FOUR)):
        with dataclasses.replace(level, select="linear,!head", layers=name.split(".")[2]).apply(llama):
            expected |= {key: tensor.clone() for key, tensor in llama.state_dict().items() if f".{name[13]}." in key}
    with method().apply(llama) as change:
        assert all(same_bytes(llama.state_dict()[key], tensor) for key, tensor in expected.items())
        report = change.report
        assert report.value("level", "model.layers.1.*") == 1
        assert report.value("level", "model.layers.0.*") == 0
        assert report.value("bits_per_weight", "model.layers.1.mlp.up_proj") == 4 + 20 / 16
        assert report.select("bits_per_weight", "model.layers.0.mlp.up_proj")[0].details["method"] == str(TWO)
        overall = report.value("bits_per_weight", "all selected weights")
        assert overall == (2 + 18 / 16 + 4 + 20 / 16) / 2
        assert report.select("bits_per_weight", "all selected weights")[0].details["weights"] * overall == total_bits(
            change
        )
    assert_same(before, llama)


def test_the_overall_error_is_that_of_all_weights(llama: nn.Module) -> None:
    weights = {s.name: llama.get_submodule(s.module).weight.detach().clone() for s in select(llama, "linear,!head")}
    with method().apply(llama) as change:
        error = sum((llama.get_submodule(n).weight - w).double().square().sum().item() for n, w in weights.items())
        energy = sum(w.double().square().sum().item() for w in weights.values())
        reported = change.report.value("relative_error", "all selected weights")
    assert reported == pytest.approx((error / energy) ** 0.5)


def test_facts_that_only_one_level_reports_are_per_weight_of_all(llama: nn.Module) -> None:
    ours = method(low=TWO, high=TritPlanes(planes=3, group_size=16, iterations=1), budget=9)
    ours = dataclasses.replace(ours, budget=8.0)
    with ours.apply(llama) as change:
        rows = change.report.select("unconverged_per_weight")
        total = sum(row.value * row.details["weights"] for row in rows[1:])
        assert rows[0].condition == "all selected weights"
        assert rows[0].value * rows[0].details["weights"] == pytest.approx(total)
        assert rows[0].details["weights"] == 2 * sum(
            llama.get_submodule(site.module).weight.numel() for site in select(llama, layers=0)
        )


@pytest.mark.parametrize("architecture", list(CONFIGS))
@pytest.mark.parametrize("budget", [3.3, 3.7, 4.2, 4.9, 6.0])
def test_the_report_never_exceeds_the_budget_on_any_architecture(architecture: str, budget: float) -> None:
    model = build(architecture)
    sites = select(model)
    names = {site.name: float(len(site.name) * 7 % 5) for site in sites}
    ours = method(ranking=names, budget=budget, between=(dataclasses.replace(TWO, bits=3),))
    predicted = ours.allocation(model)
    with ours.apply(model) as change:
        overall = change.report.select("bits_per_weight", "all selected weights")[0]
        assert overall.value <= budget
        assert overall.value * overall.details["weights"] == pytest.approx(total_bits(change))
        for row in change.report.select("level"):
            assert row.details["method"] == str(predicted[row.condition])


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_blocks_of_any_architecture_are_units(architecture: str) -> None:
    """Fused projections too, which a glob names as a whole and the selection in parts."""
    model = build(architecture)
    prefix = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
    block = {"mamba": "backbone.layers"}.get(architecture) or prefix.get(architecture, "model.layers")
    ours = method(ranking={f"{block}.0.*": 1.0, f"{block}.1.*": 2.0}, budget=5.0)
    with ours.apply(model) as change:
        reported = {row.condition for row in change.report.select("bits_per_weight")}
        assert reported == {"all selected weights"} | {site.name for site in select(model)}
        four = {site.name for site in select(model, layers=1)}
        for row in change.report.select("bits_per_weight"):
            if row.condition != "all selected weights":
                assert (row.details["method"] == str(FOUR)) == (row.condition in four)


def test_roles_and_sites_are_units_too(llama: nn.Module) -> None:
    ranking = {"mlp.down": 3.0, "attention": 2.0, "mlp.gate": 1.0, "model.layers.*.mlp.up_proj": 0.0}
    chosen = method(ranking=ranking, budget=3.8).allocation(llama)
    assert list(chosen.items()) == [
        ("mlp.down", FOUR), ("attention", TWO), ("mlp.gate", TWO), ("model.layers.*.mlp.up_proj", TWO)
    ]  # fmt: skip


def test_units_outside_the_selection_are_left_out_of_budget_and_report(llama: nn.Module) -> None:
    ours = method(select="mlp", layers=1, budget=5.3, ranking={**BLOCKS, "head": 9.0})
    assert ours.allocation(llama) == {"model.layers.1.*": FOUR}
    with ours.apply(llama) as change:
        assert [row.condition for row in change.report.select("level")] == ["model.layers.1.*"]
        assert len(change.report.select("bits_per_weight")) == 4


def test_a_weight_tied_between_units_is_stored_once_and_stays_tied(llama: nn.Module) -> None:
    first, second = (llama.get_submodule(f"model.layers.{i}.mlp.up_proj") for i in (0, 1))
    second.weight = first.weight
    before = snapshot(llama)
    weights = {
        id(module): module for site in select(llama) if (module := llama.get_submodule(site.module)) is not second
    }
    old = {key: module.weight.detach().clone() for key, module in weights.items()}
    with method(budget=4.2).apply(llama) as change:
        assert second.weight is first.weight
        overall = change.report.select("bits_per_weight", "all selected weights")[0]
        assert overall.value <= 4.2
        assert overall.value * overall.details["weights"] == pytest.approx(total_bits(change))
        assert overall.details["weights"] == sum(weight.numel() for weight in old.values())
        error = sum((weights[key].weight - weight).double().square().sum().item() for key, weight in old.items())
        energy = sum(weight.double().square().sum().item() for weight in old.values())
        assert change.report.value("relative_error", "all selected weights") == pytest.approx((error / energy) ** 0.5)
    assert_same(before, llama)


def test_a_ladder_of_planes(llama: nn.Module) -> None:
    planes = [TritPlanes(planes=k, group_size=16) for k in (1, 2, 3)]
    costs = [plane.stored_bits((1, 32)) / 32 for plane in planes]
    ours = method(low=planes[0], between=[planes[1]], high=planes[2], ranking={**BLOCKS, "model.layers.1.*": 1e6})
    assert ours.levels == tuple(planes)
    middle = dataclasses.replace(ours, budget=costs[1] + 0.2)
    assert middle.allocation(llama) == {"model.layers.1.*": planes[2], "model.layers.0.*": planes[0]}
    alike = dataclasses.replace(middle, ranking=Ranking(scores=BLOCKS, meaning="m", unit="u", by="alike"))
    assert set(alike.allocation(llama).values()) == {planes[1]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(RoundToNearest):
    """Says into how many batches of data it looked."""

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        batches = len(list(data or []))
        rows = super().edit(model, edits, data)
        return [*rows, Row(metric="batches", condition=str(self.bits), value=batches)]


def test_every_level_gets_all_of_the_data(llama: nn.Module) -> None:
    ours = method(low=Counting(bits=2, group_size=16), high=Counting(bits=4, group_size=16))
    with ours.apply(llama, data=iter([1, 2, 3])) as change:
        assert [row.value for row in change.report.select("batches")] == [3, 3]


def test_the_ranking_is_stored_with_the_method(llama: nn.Module, tmp_path: Any) -> None:
    ranking = Ranking(scores=BLOCKS, meaning="m", unit="u", by="hand")
    for ours in (method(ranking=ranking), method(between=(dataclasses.replace(TWO, bits=3),))):
        again = from_dict(json.loads(json.dumps(ours.to_dict())))
        assert again == ours
        assert again.ranking.order() == ["model.layers.1.*", "model.layers.0.*"]
    with method(ranking=ranking).apply(llama) as change:
        assert change.report.settings["ranking"] == "2 units by hand"
        assert change.report.title == f"LayerBits(budget=4.3, low={TWO}, high={FOUR}, ranking=2 units by hand)"
        hardy.save(llama, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "hardy.json").read_text())
    assert from_dict(record["methods"][0]) == method(ranking=ranking)


def test_what_cannot_be_met_is_refused_and_the_model_left_alone(llama: nn.Module) -> None:
    before = snapshot(llama)
    for ours, message in [
        (method(budget=3), "budget of 3 bits per weight cannot be met: the least is 3.125, with every unit at the low"),
        (method(ranking={"model.layers.0.*": 1.0}), "7 of 14 selected weights are in no unit of the ranking by given"),
        (method(ranking={**BLOCKS, "mlp.up": 3.0}), "mlp.up_proj is in two units of the ranking, mlp.up and model.lay"),
        (method(ranking={**BLOCKS, "model.layers.2.*": 3.0}), "'model.layers.2.\\*' matches nothing"),
        (method(low=FOUR, high=TWO, budget=6), "fewest bits to the most; model.layers.0.* takes"),
        (method(select="norm", ranking={"norm": 1.0}), "model.layers.0.input_layernorm .* has no weight matrix"),
    ]:
        with pytest.raises(InputError, match=message):
            ours.apply(llama)
    assert_same(before, llama)


def test_members_do_not_choose_places() -> None:
    for fields in ({"low": dataclasses.replace(TWO, select="mlp")}, {"high": dataclasses.replace(FOUR, layers=1)}):
        with pytest.raises(InputError, match="(low|high) has (select|layers)=.*LayerBits chooses the places"):
            method(**fields)
    with pytest.raises(InputError, match="between has layers='last'"):
        method(between=(dataclasses.replace(TWO, layers="last"),))


def test_scores_by_name_must_be_numbers_and_not_none() -> None:
    with pytest.raises(InputError, match="score of a by given scores is nan"):
        method(ranking={"a": float("nan")})
    with pytest.raises(InputError, match="given scores needs at least one unit"):
        method(ranking={})


class Foreign(Method):
    """A method that has no `stored_bits`."""

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        raise AssertionError


def test_a_level_must_say_what_it_costs() -> None:
    with pytest.raises(InputError, match=r"high must be a quantizer, a method that has stored_bits, got Foreign\(\)"):
        method(high=Foreign())


def test_bfloat16_keeps_its_type(llama: nn.Module) -> None:
    model = build("llama", dtype=torch.bfloat16)
    with method().apply(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
