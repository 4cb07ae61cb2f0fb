from pathlib import Path

import pytest
import torch

import hardy
from hardy.core import Cell, Ranking, Result, select
from hardy.errors import InputError
from hardy.studies import fragility, locate


def result(condition: str, loss: float | None, seed: int = 0) -> Result:
    values = None if loss is None else {"loss": loss}
    return Result(cell=Cell(condition=condition, arguments={}, seed=seed), values=values, error=None if values else "x")


def test_score_is_the_mean_increase_over_the_intact_model() -> None:
    results = [result("unmodified", 2.0), result("a", 2.5, 0), result("a", 3.5, 1), result("b", 2.25)]
    ranking = fragility.ranking(results, "noise", bits=2, strength=0.1)
    assert dict(ranking.scores) == {"a": 1.0, "b": 0.25}
    assert ranking.by == "noise"
    assert "noise of 0.1" in ranking.meaning


def test_a_failed_layer_is_left_out_and_a_failed_intact_model_is_an_error() -> None:
    ranking = fragility.ranking(
        [result("unmodified", 2.0), result("a", 3.0), result("b", None)], "rtn", bits=2, strength=0
    )
    assert list(ranking.scores) == ["a"]
    with pytest.raises(InputError, match="unmodified model could not be measured: x"):
        fragility.ranking([result("unmodified", None), result("a", 3.0)], "rtn", bits=2, strength=0)


def test_weight_error_is_the_rounding_error_and_leaves_the_model_alone(micro_llama: Path) -> None:
    model, _ = hardy.zoo.load(str(micro_llama))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sites = select(model, "mlp")
    ranking = fragility.weight_error(model, sites, bits=2, group_size=16)
    assert list(ranking.scores) == [site.name for site in sites]
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
    with pytest.raises(InputError, match="'nois'.*did you mean noise.*rtn, noise, weight-error, effective-rank"):
        locate(name, by="nois")
    with pytest.raises(InputError, match="bits must be an integer from 2 to 8, got 1"):
        locate(name, bits=1)
    with pytest.raises(InputError, match="seeds must be at least 1"):
        locate(name, by="noise", seeds=0)
    with pytest.raises(InputError, match="matches nothing"):
        locate(name, select="experts")
