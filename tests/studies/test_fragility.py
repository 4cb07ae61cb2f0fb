from pathlib import Path

import pytest
import torch

import hardy
from hardy.core import Ranking, select
from hardy.core.units import units
from hardy.errors import InputError
from hardy.quant import RoundToNearest
from hardy.runs.conditions import Cell, Condition, Result, Results
from hardy.studies import fragility, locate
from hardy.studies.measure import unmodified

INTACT = unmodified("calibration")


def broken(name: str, *losses: float | None) -> tuple[Condition, list[Result]]:
    cells = tuple(Cell(condition=name, arguments={}, seed=seed) for seed in range(len(losses)))
    results = [
        Result(cell=cell, values=None, error="Traceback:\nx")
        if loss is None
        else Result(cell=cell, values={"loss": loss})
        for cell, loss in zip(cells, losses, strict=True)
    ]
    return Condition(name=name, cells=cells), results


def ranking(intact: float | None, *others: tuple[Condition, list[Result]]) -> Ranking:
    first = Result(cell=INTACT.cells[0], values=None if intact is None else {"loss": intact}, error="x")
    results = Results([first, *(result for _, group in others for result in group)])
    return fragility.ranking(results, [INTACT, *(c for c, _ in others)], "noise", "this layer", "noise of 0.1")


def test_score_is_the_mean_increase_over_the_intact_model() -> None:
    found = ranking(2.0, broken("a", 2.5, 3.5), broken("b", 2.25))
    assert dict(found.scores) == {"a": 1.0, "b": 0.25}
    assert found.by == "noise"
    assert found.meaning == "increase of the loss when this layer alone has noise of 0.1"


def test_a_failed_layer_is_left_out_aloud_and_a_failed_intact_model_is_an_error() -> None:
    with pytest.warns(fragility.FailedCells, match="1 of 2 units are not in the ranking by noise.*; b: x"):
        found = ranking(2.0, broken("a", 3.0, None), broken("b", None))
    assert dict(found.scores) == {"a": 1.0}
    with pytest.raises(InputError, match="unmodified model could not be measured: x"):
        ranking(None, broken("a", 3.0))


def test_weight_error_is_the_rounding_error_and_leaves_the_model_alone(micro_llama: Path) -> None:
    model, _ = hardy.zoo.load(str(micro_llama))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sites = select(model, "mlp")
    method = RoundToNearest(bits=2, group_size=16)
    ranking = fragility.weight_error(model, units(sites, "projection"), method)
    assert list(ranking.scores) == [site.name for site in sites]
    blocks = fragility.weight_error(model, units(sites, "block"), method)
    assert list(blocks.scores) == ["model.layers.0.*", "model.layers.1.*"]
    weight = model.get_submodule(sites[0].module).weight.detach()
    error = hardy.quant.round_to_nearest.fit(weight, 2, 16, False).dequantize() - weight
    assert ranking.scores[sites[0].name] == pytest.approx(float(error.norm() / weight.norm()), rel=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_locate_finds_the_only_layers_that_matter(micro_llama: Path, tmp_path: Path) -> None:
    """Everything but one feed-forward block is cut off: breaking the rest costs exactly nothing."""
    model, tokenizer = hardy.zoo.load(str(micro_llama))
    with torch.no_grad():
        for name in ("0.self_attn.o_proj", "1.self_attn.o_proj", "0.mlp.down_proj"):
            model.get_submodule(f"model.layers.{name}").weight.zero_()
    model.save_pretrained(tmp_path / "cut")
    tokenizer.save_pretrained(tmp_path / "cut")
    ranking = locate(str(tmp_path / "cut"), bits=2, group_size=16, tokens=128, window=64, workers=1)
    assert isinstance(ranking, Ranking)
    assert len(ranking) == 14
    felt = {name for name, score in ranking.scores.items() if score != 0}
    assert felt == {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")}


def test_locate_refuses_what_it_cannot_use(micro_llama: Path) -> None:
    name = str(micro_llama)
    with pytest.raises(InputError, match="'nois'.*did you mean noise.*there are: .*effective-rank.*rtn, noise"):
        locate(name, by="nois")
    with pytest.raises(InputError, match="bits must be an integer from 2 to 8, got 1"):
        locate(name, bits=1)
    with pytest.raises(InputError, match="seeds must hold at least one chip instance"):
        locate(name, by="noise", seeds=())
    with pytest.raises(InputError, match="matches nothing"):
        locate(name, select="experts")


def test_many_measurements_are_said_beside_those_of_whole_blocks(
    micro_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hardy.studies.fragility.MANY", 3)
    with caplog.at_level("INFO", logger="hardy"):
        locate(str(micro_llama), by="noise", tokens=128, window=64, workers=1, seeds=(0, 1))
    (said,) = [each.getMessage() for each in caplog.records if "measurements" in each.getMessage()]
    assert said == "29 measurements, one layer after the other; by blocks (unit block) it is 5"
