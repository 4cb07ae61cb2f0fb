"""Queries, keys and values as objects: named, patched, shared among heads; and the corrections of AtP* for them."""

from typing import Any

import models
import pytest
import torch
from models import assert_same, same_bytes, snapshot

from hardy import hooks, interp
from hardy.errors import InputError
from hardy.interp import Amplitude, AttributionPatching, GradDrop, Patching, QKFix, Task
from hardy.interp.objects import kind_named
from hardy.interp.tuning import parts_of


def task(n: int = 4) -> Task:
    draw = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(3, 64, (n, 5), generator=draw) for _ in range(2))
    return Task(clean, torch.full((n, 1), 5), torch.full((n, 1), 9), corrupt)


@pytest.mark.parametrize("word", ["q", "query", "queries", "hook_q"])
def test_names_of_users_are_understood(word: str) -> None:
    assert kind_named(word).name == "query"
    assert kind_named("hook_z").name == "head"
    assert str(interp.unit_named("blocks.1.attn.hook_q.3")) == "blocks.1.attn.q.3"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3"])
@pytest.mark.parametrize("object", ["q", "k", "v"])
def test_patching_one_is_patching_it_by_hand(architecture: str, object: str) -> None:
    model: Any = models.build(architecture)
    given, before = task(), snapshot(model)
    found = Patching(object=object).effects(model, given)
    config = model.config
    grouped = object != "q" and architecture in ("llama", "qwen3", "gemma3")
    heads = config.num_key_value_heads if grouped else config.num_attention_heads
    assert list(found) == [f"blocks.{b}.attn.{object}.{h}" for b in range(2) for h in range(heads)]
    clean = interp.record(model, given.inputs(), object)[f"blocks.1.attn.{object}"]

    def put(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, :1], clean[:, :, 1:2], x[:, :, 2:]], 2)

    with hooks.patch(model, {f"blocks.1.attn.{object}": put}):
        by_hand = interp.scores(model, given, "corrupt").mean()
    low, high = (interp.scores(model, given, side).mean() for side in ("corrupt", "clean"))
    assert found[f"blocks.1.attn.{object}.1"] == pytest.approx(((by_hand - low) / (high - low)).item(), abs=1e-3)
    assert_same(before, model)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3"])
@pytest.mark.parametrize("object", ["query", "key"])
def test_the_fix_is_the_pattern_with_clean_queries_or_keys(architecture: str, object: str) -> None:
    """Against the pattern patched by hand for one head, whose queries alone (or whose group's keys) are clean."""
    model: Any = models.build(architecture)
    given = task()
    units = list(interp.locate(model, given, object=object, by="attribution-patching").scores)
    unit = interp.unit_named(units[-1])
    pattern = f"blocks.{unit.block}.attn.pattern"
    before = model.config._attn_implementation
    found = QKFix(object=object).effects(model, given)
    assert model.config._attn_implementation == before
    apart = QKFix(object=object, per_position=True).effects(model, given)
    model.set_attn_implementation("eager")
    clean = interp.record(model, given.inputs(), [unit.point])[unit.point]
    with torch.no_grad(), interp.patch(model, {str(unit): clean[unit.place]}), hooks.record(model, pattern) as seen:
        model(**given.inputs("corrupt"))
    with hooks.record(model, pattern) as base:
        score = given.score(model(**given.inputs("corrupt")).logits)
        (gradient,) = torch.autograd.grad(score.sum(), base[pattern])
    effect = (interp.scores(model, given) - score.detach()).sum()
    expected = ((seen[pattern] - base[pattern].detach()) * gradient).sum() / effect
    assert found[str(unit)] == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert len(apart) == len(found) * given.length
    if object == "query":  # rows of the pattern are apart, so positions add up
        total = sum(value for name, value in apart.items() if name.startswith(f"{unit}@"))
        assert total == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)


def test_a_saturated_softmax_hides_from_the_gradient_and_not_from_the_fix() -> None:
    model: Any = models.build("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.mul_(80)
        layer.self_attn.o_proj.weight.data.mul_(0.05)  # nearly linear from the pattern on
    given = task(8)
    exact, plain, fixed = (
        torch.tensor(list(locator(object="query").effects(model, given).values()))
        for locator in (Patching, AttributionPatching, QKFix)
    )
    assert (fixed - exact).abs().mean() < 0.3 * (plain - exact).abs().mean()
    assert torch.corrcoef(torch.stack([fixed, exact]))[0, 1] > 0.95


def test_both_corrections_and_what_they_do_not_take() -> None:
    model: Any = models.build("llama")
    given, before = task(), snapshot(model)
    for object, heads in (("query", 4), ("key", 2), ("value", 2)):
        values = GradDrop(object=object).effects(model, given)
        assert len(values) == 2 * heads
        assert all(value >= 0 for value in values.values())
    for wrong in ("head", "value"):
        with pytest.raises(InputError, match="qk-fix cannot score object"):
            QKFix(object=wrong)
    with pytest.raises(InputError, match="q, k and v write nothing"):
        interp.DirectLogitAttribution(object="k")
    assert_same(before, model)


def test_they_are_steered_and_trained() -> None:
    model: Any = models.build("llama")
    ids = task().clean
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with Amplitude(units=("blocks.0.attn.k.1", "blocks.1.attn.hook_q.2"), scale=0.5).apply(model):
            changed = model(input_ids=ids).logits
        with interp.patch(model, {"blocks.0.attn.k.1": lambda k: 0.5 * k, "blocks.1.attn.q.2": lambda q: 0.5 * q}):
            torch.testing.assert_close(model(input_ids=ids).logits, changed)
    assert not torch.allclose(changed, plain)
    assert same_bytes(model(input_ids=ids).logits, plain)
    (part,) = parts_of(model, ["blocks.0.attn.k.1"])
    assert part.module.endswith("layers.0.self_attn.k_proj")
    assert (part.axis, part.places) == (0, tuple(range(8, 16)))
    with pytest.raises(InputError, match="has 2 heads"):
        parts_of(model, ["blocks.0.attn.v.2"])
