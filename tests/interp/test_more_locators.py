"""Sinks, massive activations, Fisher, GradDrop, probes, tuned lens, patchscope: against what is planted."""

from typing import Any

import models
import pytest
import torch

from hardy import hooks, interp
from hardy.errors import InputError
from hardy.interp import BlockInfluence, Fisher, GradDrop, Massive, Patchscope, Probing, Sink, Task, TunedLens


def task(n: int = 10) -> Task:
    g = torch.Generator().manual_seed(2)
    clean = torch.randint(3, 60, (n, 6), generator=g)
    corrupt = clean.clone()
    clean[:, -1], corrupt[:, -1] = 60, 61
    return Task(clean, torch.full((n, 1), 10), torch.full((n, 1), 20), corrupt)


def test_a_head_that_rests_on_the_first_token_is_the_top_sink() -> None:
    model: Any = models.build("llama")
    scores = Sink().effects(model, task())
    model.set_attn_implementation("eager")
    with torch.no_grad(), hooks.record(model, "blocks.1.attn.pattern") as seen:
        model(input_ids=task().clean)
    expected = seen["blocks.1.attn.pattern"][:, 2, 1:, 0].mean().item()
    assert scores["blocks.1.attn.z.2"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="have one token"):
        Sink().effects(model, Task(task().clean[:, :1], task().right, task().wrong))


def test_a_planted_massive_activation_is_found() -> None:
    model: Any = models.build("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[60, 7] = 500.0
    found = interp.locate(model, task(), object="residual", by="massive")
    assert set(found.top(2)) == {"blocks.0.resid_post@-1", "blocks.1.resid_post@-1"}
    assert found.scores["blocks.0.resid_post@-1"] > 1000 > found.scores["blocks.0.resid_post@-2"]
    assert Massive(object="ffn", per_position=False).effects(model, task())["blocks.0.mlp_out"] > 1


def test_a_block_that_does_nothing_has_no_influence() -> None:
    model: Any = models.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    scores = BlockInfluence().effects(model, task())
    assert scores["blocks.1.resid_post"] == pytest.approx(0, abs=1e-6)
    assert scores["blocks.0.resid_post"] > 0.01
    before = interp.scores(model, task())
    with interp.LayerSkip(layers=(1,)).apply(model):
        torch.testing.assert_close(interp.scores(model, task()), before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_fisher_is_the_squared_gradient_of_the_weights_of_a_neuron(architecture: str) -> None:
    model: Any = models.build(architecture)
    given = task(3)
    found = Fisher().effects(model, given)
    mlp = model.model.layers[1].mlp if architecture == "llama" else model.transformer.h[1].mlp
    layers = [mlp.gate_proj, mlp.up_proj, mlp.down_proj] if architecture == "llama" else [mlp.c_fc, mlp.c_proj]
    expected = 0.0
    for i in range(3):
        model.zero_grad()
        given.take(slice(i, i + 1)).score(model(input_ids=given.clean[i : i + 1]).logits).sum().backward()
        for place, layer in enumerate(layers):
            squares = layer.weight.grad.square() / 3
            column = (place == len(layers) - 1) == (architecture == "llama")
            expected += (squares[:, 5] if column else squares[5]).sum().item()
    assert found["blocks.1.mlp.post.5"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="no weights of its own"):
        Fisher(object="residual")


def test_grad_drop_sees_an_object_whose_paths_cancel() -> None:
    model: Any = models.build("llama", tied=False)
    given = task()
    plain = interp.AttributionPatching(object="residual").effects(model, given)
    dropped = GradDrop(object="residual").effects(model, given)
    # Of the last stream no block is left to be cut off: with two blocks, twice the size of the plain effect.
    last = "blocks.1.resid_post@-1"
    assert dropped[last] == pytest.approx(2 * abs(plain[last]), rel=1e-3)
    assert all(value >= 0 for value in dropped.values())


@pytest.mark.parametrize(("object", "probe"), [("residual", "mass-mean"), ("residual", "sparse"), ("neuron", None)])
def test_probes_tell_the_planted_token_and_shuffled_labels_are_taken_off(object: str, probe: Any) -> None:
    model = models.build("llama")
    found = interp.locate(model, task(), object=object, by="probing", probe=probe, shuffles=2)
    best = found.top(1)[0]
    assert found.scores[best] > 0.25
    if object == "residual":
        assert found.scores["blocks.0.resid_post@-3"] <= 0.25  # nothing differs there
    with pytest.raises(InputError, match="probe must be logistic, mass-mean or sparse"):
        Probing(probe="ridge")  # pyright: ignore[reportArgumentType]


def test_a_tuned_lens_is_nearer_to_the_answer_than_the_heads_own() -> None:
    model = models.build("llama")
    g = torch.Generator().manual_seed(0)
    batches = [torch.randint(3, 64, (8, 12), generator=g) for _ in range(4)]
    tuned = TunedLens.fit(model, batches, steps=40, learning_rate=1e-2)
    before, after = tuned.divergence["blocks.0.resid_post"]
    assert after < 0.7 * before
    ranking = tuned.locate(model, task())
    last = interp.LogitLens(per_position=False).effects(model, task())["blocks.1.resid_post"]
    assert ranking.scores["blocks.1.resid_post"] == pytest.approx(last, abs=1e-5)


def test_a_stream_put_at_the_end_of_the_last_block_says_what_it_said() -> None:
    model = models.build("llama")
    found = Patchscope().effects(model, task())
    clean = interp.scores(model, task()).double().mean().item()
    assert found["blocks.1.resid_post@-1"] == pytest.approx(clean, abs=1e-5)
