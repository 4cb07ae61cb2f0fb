"""Locators on models whose answer is planted, negative controls, and what is refused."""

from typing import Any

import models
import pytest
import torch
from models import assert_same, same_bytes, snapshot

import hardy
from hardy import hooks
from hardy.errors import InputError
from hardy.interp import (
    DirectLogitAttribution,
    LogitLens,
    Patching,
    PrefixMatching,
    Task,
    block_influence,
    controls,
    knocked_out,
    language_neurons,
    locate,
    patch,
    record,
    scores,
)
from hardy.interp.locating import locator_of
from hardy.interp.prompts import induction
from hardy.quant import Pack, RoundToNearest, TritPlanes

RIGHT, WRONG, SIGN, PLAIN = 40, 50, 5, 6


def build(architecture: str, **options: Any) -> Any:
    return models.build(architecture, **options)


def planted(kind: str) -> Any:
    """A Llama that answers by one neuron (7 of block 1), or by one head (2 of block 0), and does nothing else.

    The token SIGN at the end says "right": its neuron, or its head by way of the value, writes the difference of the
    two answers' rows of the head.
    """
    model: Any = build("llama", tied=False)
    with torch.no_grad():
        toward = model.lm_head.weight[RIGHT] - model.lm_head.weight[WRONG]
        embedded = model.model.embed_tokens.weight
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        read = embedded[SIGN] - embedded[PLAIN]
        if kind == "neuron":
            mlp = model.model.layers[1].mlp
            mlp.gate_proj.weight[7] = 20 * read
            mlp.up_proj.weight[7] = 20 * read
            mlp.down_proj.weight[:, 7] = 5 * toward
        else:
            attention = model.model.layers[0].self_attn
            attention.v_proj.weight[8] = 20 * read  # the first of kv head 1, which heads 2 and 3 read
            attention.o_proj.weight[:, 2 * 8] = 50 * toward
    return model


def task(n: int = 12) -> Task:
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(10, 35, (n, 6), generator=draw)
    clean[:, -1] = SIGN
    corrupt = clean.clone()
    corrupt[:, -1] = PLAIN
    return Task(clean, torch.full((n, 1), RIGHT), torch.full((n, 1), WRONG), corrupt)


@pytest.mark.parametrize(
    ("by", "options"),
    [
        ("patching", {}),
        ("patching", {"mode": "noise"}),
        ("patching", {"mode": "zero"}),
        ("attribution-patching", {"steps": 8}),
        ("gradient", {}),
        ("magnitude", {"statistic": "contrast"}),
        ("direct-logit-attribution", {}),
    ],
)
def test_the_planted_neuron_is_found(by: str, options: dict[str, Any]) -> None:
    model, given = planted("neuron"), task()
    before = snapshot(model)
    ranking = locate(model, given, object="neuron", by=by, **options)
    if by == "magnitude":  # others differ too, and write nothing: size alone cannot know
        assert "blocks.1.mlp.post.7" in ranking.top(3)
    else:
        assert ranking.top(1) == ["blocks.1.mlp.post.7"]
    assert_same(before, model)


@pytest.mark.parametrize("by", ["patching", "attribution-patching", "gradient", "direct-logit-attribution", "probing"])
def test_the_planted_head_is_found(by: str) -> None:
    model, given = planted("head"), task()
    options: dict[str, Any] = {"folds": 3} if by == "probing" else {}
    ranking = locate(model, given, object="head", by=by, **options)
    if by == "probing":  # heads that read the sign know it as well, whether they write it or not
        assert ranking.scores["blocks.0.attn.z.2"] > 0.3
        return
    assert ranking.top(1) == ["blocks.0.attn.z.2"]
    assert knocked_out(model, given, ranking.top(1)) == pytest.approx(
        scores(model, given, "corrupt").mean().item(), abs=1e-4
    )
    judged = controls(locator_of(by, "head"), ranking, model, given, k=1)
    assert judged.lost(judged.top) == pytest.approx(1, abs=1e-3)
    for seed, score in enumerate(judged.random):  # the other heads do nothing at all
        planted_one = ranking.sample(1, seed) == ["blocks.0.attn.z.2"]
        assert judged.lost(score) == pytest.approx(1 if planted_one else 0, abs=1e-3)


def test_the_patch_map_shows_where_the_answer_is() -> None:
    effects = Patching(object="residual").effects(planted("neuron"), task())
    assert effects["blocks.0.resid_post@-1"] == pytest.approx(1, abs=1e-4)
    assert effects["blocks.0.resid_post@-2"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma3"])
def test_clean_into_clean_changes_nothing(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    with torch.no_grad():
        plain = model(ids).logits
        held = record(model, ids, ["head", "residual", "neuron"])
        with patch(model, held):
            again = model(ids).logits
    assert same_bytes(plain, again)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_starting_at_the_block_is_the_whole_run(architecture: str) -> None:
    """A patch of the last block, run from there, against the same patch in a whole run."""
    model, given = build(architecture), task()
    assert given.corrupt is not None
    given = Task(given.clean, given.right, given.wrong, given.corrupt.flip(1))
    clean = record(model, given.clean, "head")["blocks.1.attn.z"]
    with (
        torch.no_grad(),
        hooks.patch(model, {"blocks.1.attn.z": lambda z: torch.cat([z[:, :, :1], clean[:, :, 1:2], z[:, :, 2:]], 2)}),
    ):
        by_hand = given.score(model(given.corrupt).logits).mean().item()
    low, high = (scores(model, given, side).mean().item() for side in ("corrupt", "clean"))
    found = Patching(among=("blocks.1.attn.z.1",)).effects(model, given)["blocks.1.attn.z.1"]
    assert found == pytest.approx((by_hand - low) / (high - low), abs=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_parts_add_up_to_the_difference_of_logits(architecture: str) -> None:
    model, given = build(architecture), task()
    total = sum(
        sum(DirectLogitAttribution(object=kind).effects(model, given).values()) for kind in ("attention", "ffn")
    )
    with hooks.record(model, "blocks.0.resid_pre") as seen, torch.no_grad():
        logits = model(given.clean).logits
    from hardy.interp.vocabulary import final_norm, readers

    norm = final_norm(model)
    name = next(name for name, module in model.named_modules() if module is norm)
    with hooks.record(model, [(name, "input")]) as last, torch.no_grad():
        model(given.clean)
    reader = readers(model, norm, last[(name, "input")][:, -1:], given)
    start = (seen["blocks.0.resid_pre"][:, -1].double() * reader).sum(1).mean().item()
    bias = getattr(norm, "bias", None)
    toward = model.get_output_embeddings().weight[RIGHT] - model.get_output_embeddings().weight[WRONG]
    constant = 0.0 if bias is None else (bias @ toward).item()
    assert total + start + constant == pytest.approx(given.score(logits).mean().item(), abs=1e-4)
    heads = DirectLogitAttribution(object="head").effects(model, given)
    whole = DirectLogitAttribution(object="attention").effects(model, given)
    if architecture == "llama":  # without biases
        for layer in range(2):
            parts = sum(v for k, v in heads.items() if k.startswith(f"blocks.{layer}."))
            assert parts == pytest.approx(whole[f"blocks.{layer}.attn_out"], abs=1e-5)


def test_the_lens_at_the_last_layer_is_the_model() -> None:
    model, given = build("llama"), task()
    found = LogitLens().effects(model, given)
    assert found["blocks.1.resid_post@-1"] == pytest.approx(scores(model, given).mean().item(), abs=1e-4)


def test_prefix_matching_against_a_loop() -> None:
    model, given = build("llama"), induction(range(3, 60), n=3, length=6, begin=1)
    found = PrefixMatching().effects(model, given)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(given.inputs()["input_ids"], attention_mask=given.mask, output_attentions=True).attentions
    for layer, pattern in enumerate(patterns):
        for head in range(4):
            values = []
            for row, (ids, pattern_row) in enumerate(zip(given.clean.tolist(), pattern[:, head], strict=True)):
                real = [1] * len(ids) if given.mask is None else given.mask[row].tolist()
                for q, token in enumerate(ids):
                    at = [k + 1 for k in range(q) if ids[k] == token and real[k] and real[q]]
                    if at:
                        values.append(sum(pattern_row[q, k].item() for k in at))
            assert found[f"blocks.{layer}.attn.z.{head}"] == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_a_block_that_does_nothing_has_no_influence() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    ranking = block_influence(model, task())
    assert ranking.bottom(1) == ["blocks.1"]
    assert ranking.scores["blocks.1"] == pytest.approx(0, abs=1e-6)


def test_neurons_of_one_language() -> None:
    model = planted("neuron")
    mlp = model.model.layers[1].mlp
    with torch.no_grad():
        mlp.gate_proj.weight[7] *= 50
        mlp.up_proj.weight[7] = mlp.gate_proj.weight[7]
    first = torch.full((4, 8), SIGN)
    second = torch.full((4, 8), PLAIN)
    ranking, chosen = language_neurons(model, {"one": first, "two": second}, share=0.5, least=0.5)
    assert set(chosen.values()) <= {"one", "two"}
    assert len(ranking) >= len(chosen) > 0


@pytest.mark.parametrize("pack", ["trits", "grid"])
def test_packed_models_are_located_alike(pack: str) -> None:
    model = planted("head")
    method = TritPlanes(planes=3, group_size=8) if pack == "trits" else RoundToNearest(bits=8, group_size=8)
    method.apply(model)
    dense = locate(model, task(), by="attribution-patching")
    Pack().apply(model)
    packed = locate(model, task(), by="patching")
    assert packed.top(1) == dense.top(1) == ["blocks.0.attn.z.2"]
    assert packed.scores["blocks.0.attn.z.2"] == pytest.approx(1, abs=3e-2)


def test_what_cannot_be_is_refused_and_leaves_the_model_alone() -> None:
    model, given = build("llama"), task()
    before = snapshot(model)
    with pytest.raises(InputError, match="has no head to look at"):
        locate(build("mamba"), given)
    with pytest.raises(InputError, match="neurons of experts"):
        locate(build("olmoe"), given, object="neuron")
    with pytest.raises(InputError, match="did you mean"):
        locate(model, given, by="patchin")
    with pytest.raises(InputError, match="compares the coordinates of one activation"):
        locate(model, given, by="massive", object="neuron")
    with pytest.raises(InputError, match="no corrupt"):
        locate(model, Task(given.clean, given.right, given.wrong), by="patching")
    with pytest.raises(InputError, match="nothing tells them apart"):
        locate(model, Task(given.clean, given.right, given.wrong, given.clean), by="attribution-patching")
    with pytest.raises(InputError, match="has 4 of them"), torch.no_grad(), patch(model, {"blocks.0.attn.z.9": 0.0}):
        model(given.clean)
    with pytest.raises(InputError, match="was not run"), patch(model, {"blocks.0.attn.z.1": 0.0}):
        pass
    model.model.layers[0].self_attn.v_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        locate(model, given)
    model.model.layers[0].self_attn.v_proj.weight.data.copy_(before["model.layers.0.self_attn.v_proj.weight"][1])
    assert_same(before, model)


def test_left_padding_changes_no_score() -> None:
    model, given = build("llama"), task(4)
    assert given.corrupt is not None
    padded = [torch.cat([torch.zeros(4, 2, dtype=torch.long), ids], 1) for ids in (given.clean, given.corrupt)]
    mask = torch.ones_like(padded[0])
    mask[:, :2] = 0
    other = Task(padded[0], given.right, given.wrong, padded[1], mask)
    one, two = (locate(model, t, by="attribution-patching") for t in (given, other))
    for name, value in one.scores.items():
        assert two.scores[name] == pytest.approx(value, abs=1e-3)


def test_hardy_locate_knows_them(micro_llama: Any) -> None:
    model, tokenizer = hardy.zoo.load(str(micro_llama))
    with pytest.raises(InputError, match="explains a behaviour"):
        hardy.locate((model, tokenizer), by="patching")
    ids = tokenizer("def add", return_tensors="pt").input_ids
    given = Task(ids.repeat(2, 1), torch.tensor([[5], [6]]), torch.tensor([[7], [8]]), ids.flip(1).repeat(2, 1))
    assert len(hardy.locate((model, tokenizer), by="attribution-patching", task=given)) == 8
