"""Blocks replaced by the identity: against models built without the block, and what must be refused."""

import math

import pytest
import torch
from models import CONFIGS, ConvNet, build, same_bytes
from torch import nn

from hardy.core import InputError, Ranking, select
from hardy.evaluate import mean_loss
from hardy.quant import combined, effective_rank, energy_gain, layer_importance, perplexity_drop


@pytest.fixture
def text() -> torch.Tensor:
    """(2, 40) token ids."""
    return torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(5))


def loss_by_loop(model: nn.Module, text: torch.Tensor) -> float:
    nats, count = 0.0, 0
    with torch.no_grad():
        for row in text:
            logits = model(input_ids=row[None], use_cache=False).logits[0].double()
            for position in range(len(row) - 1):
                scores = logits[position].tolist()
                nats += math.log(sum(math.exp(score) for score in scores)) - scores[int(row[position + 1])]
                count += 1
    return nats / count


LAYERS = {"llama": "model.layers", "gpt2": "transformer.h", "mixtral": "model.layers", "mamba": "backbone.layers"}


@pytest.mark.parametrize("architecture", list(LAYERS))
def test_a_block_less_is_a_model_without_it(architecture: str, text: torch.Tensor) -> None:
    model = build(architecture)
    whole = loss_by_loop(model, text)
    nats = perplexity_drop(model, [text])
    perplexity = perplexity_drop(model, [text[:1], {"input_ids": text[1:]}], measure="perplexity")
    for layer in (0, 1):
        shorter = build(architecture)
        blocks = shorter.get_submodule(LAYERS[architecture])
        assert isinstance(blocks, nn.ModuleList)
        del blocks[layer]
        shorter.config.num_hidden_layers = 1
        expected = loss_by_loop(shorter, text)
        name = f"{LAYERS[architecture]}.{layer}.*"
        assert nats.scores[name] == pytest.approx(expected - whole, abs=1e-5)
        assert perplexity.scores[name] == pytest.approx(math.exp(expected) - math.exp(whole), abs=1e-3)
    assert nats.unit == "nats/token"
    assert perplexity.unit == "perplexity"


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_every_architecture_gets_its_blocks_ranked_and_is_left_as_it_was(architecture: str, text: torch.Tensor) -> None:
    model = build(architecture)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ranking = perplexity_drop(model, [text])
    assert len(ranking) == 2
    assert all(select(model, name) for name in ranking.scores)
    assert any(score != 0 for score in ranking.scores.values())
    assert all(same_bytes(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_blocks_before_the_one_removed_run_once(text: torch.Tensor) -> None:
    model = build("llama")
    calls = [0, 0]
    for number in (0, 1):
        module = model.get_submodule(f"model.layers.{number}.mlp")
        module.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
    perplexity_drop(model, [text] * 10)
    assert calls[0] < calls[1]


def test_only_the_blocks_that_hold_the_selection(text: torch.Tensor) -> None:
    assert list(perplexity_drop(build("llama"), [text], select="model.layers.1.mlp.*").scores) == ["model.layers.1.*"]


def test_the_mean_loss_is_over_tokens_not_batches(text: torch.Tensor) -> None:
    model = build("llama")
    parts = [text[:1, :10], text[:, 10:]]
    total = sum(loss_by_loop(model, part) * part.shape[0] * (part.shape[1] - 1) for part in parts)
    with torch.no_grad():
        assert mean_loss(model, parts).item() == pytest.approx(total / (9 + 2 * 29), abs=1e-6)


class Narrowing(nn.Module):
    """Blocks that do not keep the shape of their input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 4)), nn.Sequential(nn.Linear(4, 64))])

    def forward(self, input_ids: torch.Tensor) -> object:
        stream = torch.ones(*input_ids.shape, 8)
        for block in self.blocks:
            stream = block(stream)
        return type("Output", (), {"logits": stream})()


def test_what_cannot_be_measured_is_refused(text: torch.Tensor) -> None:
    model = build("llama")
    with pytest.raises(InputError, match="measure must be loss or perplexity, got 'perplexety'; did you mean perplex"):
        perplexity_drop(model, [text], measure="perplexety")
    with pytest.raises(InputError, match="at least one batch of text, got none"):
        perplexity_drop(model, [])
    for batch, shown in [
        (text[0], r"torch.int64 \(40,\)"),
        (text.float(), r"torch.float32 \(2, 40\)"),
        (text[:, :1], r"torch.int64 \(2, 1\)"),
        ("text", "a str"),
        ({"inputs": text}, "a dict"),
    ]:
        with pytest.raises(InputError, match=f"token ids .* got {shown}"):
            perplexity_drop(model, [batch])
    mask = torch.ones_like(text)
    mask[0, -1] = 0
    with pytest.raises(InputError, match="padded"):
        perplexity_drop(model, [{"input_ids": text, "attention_mask": mask}])
    with pytest.raises(InputError, match="LlamaModel gives no logits; the loss needs a causal language model"):
        perplexity_drop(model.model, [text])
    with pytest.raises(InputError, match="LlamaForCausalLM has no numbered blocks that hold 'head'"):
        perplexity_drop(model, [text], select="head")
    narrowing = Narrowing()
    with pytest.raises(InputError, match=r"blocks.0 \(Sequential\) does not map a stream to one of the same shape"):
        perplexity_drop(narrowing, [text])
    assert not any(module._forward_hooks for module in narrowing.modules())
    with pytest.raises(InputError, match="ConvNet has no numbered blocks"):
        perplexity_drop(ConvNet(), [text], select="conv")


def ranking(by: str, **scores: float) -> Ranking:
    return Ranking(scores=scores, meaning="m", unit="u", by=by)


def test_scores_are_scaled_and_averaged() -> None:
    first, second = ranking("first", a=10.0, b=20.0, c=30.0), ranking("second", c=-1.0, a=1.0, b=1.0)
    assert dict(combined([first, second]).scores) == pytest.approx({"a": 0.5, "b": 0.75, "c": 0.5})
    assert dict(combined([first, second], [3, 1]).scores) == pytest.approx({"a": 0.25, "b": 0.625, "c": 0.75})
    assert combined([first, second], [5, 0]).order() == first.order()
    assert "first, second" in combined([first, second]).meaning


def test_what_cannot_be_combined_is_refused() -> None:
    first = ranking("first", a=1.0, b=2.0)
    with pytest.raises(InputError, match="first and other rank different units; b is in one of them only"):
        combined([first, ranking("other", a=1.0, c=2.0)])
    with pytest.raises(InputError, match="flat gives all 2 units the same score, 3.0"):
        combined([first, ranking("flat", a=3.0, b=3.0)])
    for weights in ([1.0], [0, 0], [1, -1], [1, math.inf], [1, True], ["1", 1]):
        with pytest.raises(InputError, match="weights must be 2 numbers of at least 0 and not all 0, got"):
            combined([first, first], weights)
    with pytest.raises(InputError, match="weights must be 0 numbers"):
        combined([])


def test_layer_importance_is_the_mean_of_the_three(text: torch.Tensor) -> None:
    model = build("llama")
    parts = [
        perplexity_drop(model, [text], measure="perplexity"),
        effective_rank(model, [text]),
        energy_gain(model, [text]),
    ]
    score = layer_importance(model, iter([text]), weights=(1, 2, 3))
    assert score == combined(parts, [1, 2, 3], by="lieq-v1")
    with pytest.raises(InputError, match="weights must be 3 numbers"):
        layer_importance(model, [text], weights=(1, 1))
