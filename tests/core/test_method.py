"""Methods as data, and what their reports say."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from models import build
from torch import nn

from hardy.core import Chain, Edits, InputError, Method, Row, Site, WeightMethod, chain
from hardy.core.method import from_dict
from hardy.hardware import AdditiveNoise, ProportionalNoise
from hardy.quant import LayerBits, RoundToNearest


def test_a_method_is_frozen_hashable_and_keyword_only() -> None:
    method = RoundToNearest(bits=4, select=["mlp", "!mlp.up"])
    assert hash(method) == hash(RoundToNearest(bits=4, select=("mlp", "!mlp.up")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.bits = 3
    with pytest.raises(TypeError):
        RoundToNearest(4)
    assert str(method) == "RoundToNearest(select=('mlp', '!mlp.up'), bits=4)"


def test_through_json_and_back() -> None:
    method = chain(RoundToNearest(bits=3, select=["mlp", "!mlp.up"]), chain(AdditiveNoise(strength=0.1, layers="-1:")))
    assert from_dict(json.loads(json.dumps(method.to_dict()))) == method


@pytest.mark.parametrize("where", [nn.Linear, lambda name, module: True, ["mlp", nn.Linear]])
def test_a_selector_that_cannot_be_stored_is_refused_when_stored(where: object) -> None:
    with pytest.raises(InputError, match=r"RoundToNearest\.select=.* cannot be stored; use a role"):
        RoundToNearest(bits=4, select=where).to_dict()


GOOD = RoundToNearest(bits=4).to_dict()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "None is not a method of hardy"),
        ({"method": "os.system", "fields": {}}, "'os.system' is not a method of hardy"),
        ({"method": "hardy.nowhere.Method"}, "is not a method of hardy"),
        ({"method": "hardy..x"}, "is not a method of hardy"),
        ({"method": "hardy.core.selection.Site"}, "is not a method of hardy"),
        ({"method": "hardy.core.method.Method"}, "is not a method of hardy"),
        (GOOD | {"fields": {"bits": 4, "group": 3}}, "has no field 'group'; did you mean group_size"),
        (GOOD | {"fields": {"bits": 11}}, "bits must be an integer from 2 to 8, got 11"),
        (GOOD | {"fields": {}}, "missing.*bits"),
        (GOOD | {"fields": [1]}, r"must be a mapping, got \[1\]"),
    ],
)
def test_records_that_are_not_methods_are_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(record)


@pytest.mark.parametrize("methods", [(), ("mlp",), (nn.Linear(1, 1),)])
def test_a_chain_takes_methods(methods: tuple[object, ...]) -> None:
    with pytest.raises(InputError, match="a chain takes one or more methods"):
        Chain(methods=methods)


def test_a_chain_does_its_methods_in_order_and_says_which_did_what(llama: nn.Module) -> None:
    one, two = AdditiveNoise(strength=0.1, select="mlp"), RoundToNearest(bits=4, group_size=16)
    with chain(one, two).apply(llama) as change:
        together = [p.clone() for p in llama.parameters()]
        assert {row.details["method"] for row in change.report.rows} == {"AdditiveNoise", "RoundToNearest"}
    with one.apply(llama), two.apply(llama):
        assert all(torch.equal(a, b) for a, b in zip(together, llama.parameters(), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches(Method):
    """Says how many batches it was given."""

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[torch.Tensor] | None) -> list[Row]:
        return [Row(metric="batches", condition="all", value=sum(1 for _ in data or ()))]


@pytest.mark.parametrize("kind", [list, iter, lambda batches: (batch for batch in batches), tuple])
def test_every_method_of_a_chain_sees_all_the_data(kind: Callable[[list[int]], Iterable[int]]) -> None:
    nested = chain(Batches(), chain(Batches(), Batches()), Batches())
    report = nested.apply(nn.Linear(1, 1), kind([1, 2, 3])).report
    assert [row.value for row in report.select("batches")] == [3, 3, 3, 3]


def test_parts_are_all_methods_inside() -> None:
    low, high, noise = RoundToNearest(bits=2), RoundToNearest(bits=4), AdditiveNoise(strength=0.1)
    levels = LayerBits(budget=3, low=low, between=(RoundToNearest(bits=3),), high=high, ranking={"*": 1.0})
    method = chain(chain(noise), levels)
    assert list(method.parts()) == [method, chain(noise), noise, levels, low, high, RoundToNearest(bits=3)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift(WeightMethod):
    """Adds 0.5, and says that a weight takes three bits."""

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        return weight + 0.5, {"bits": 3.0 * weight.numel()}


def test_the_report_counts_error_and_totals_over_all_sites() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.fill_(0.0)
    report = Shift(layers=0).apply(model).report
    assert report.value("relative_error", "0") == report.value("relative_error", "all selected weights") == 0.5
    model[0].weight.data.fill_(1.0)
    report = Shift().apply(model).report
    assert report.value("relative_error", "1") == float("inf"), "an error where there was nothing is not 'no error'"
    assert report.value("relative_error", "all selected weights") == pytest.approx((6 * 0.25 / 4) ** 0.5)
    assert report.value("bits_per_weight", "all selected weights") == 3.0
    assert report.select("bits_per_weight", "0")[0].details == {"weights": 4}


def test_the_error_is_that_of_the_stored_dtype() -> None:
    model = build("llama", dtype=torch.bfloat16)
    tiny = ProportionalNoise(strength=1e-6).apply(model).report
    assert tiny.value("relative_error", "all selected weights") == 0.0, "bfloat16 cannot hold a change this small"
