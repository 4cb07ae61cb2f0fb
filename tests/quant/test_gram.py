"""Gram matrices of inputs: exact, each product taken once, the model left as soon as all is seen."""

import numpy as np
import pytest
import torch
from models import ConvNet, build
from torch import nn

from hardy.core import InputError, select
from hardy.hooks.statistics import SecondMoment, observe
from hardy.quant import gram as module
from hardy.quant.gram import Gram, count_calls, gather, place


def batches(count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 64, (2, 9), generator=draw) for _ in range(count)]


# Mamba multiplies with the weight of this module and never calls it.
SEEN = "linear,!*.dt_proj"


def grams_of(model: nn.Module, where: str, data: list) -> dict[str, Gram]:
    sites = select(model, where)
    found = gather(model, data, sites, count_calls(model, data[0], sites))
    return {site.name: found[place(site)] for site in sites}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "opt", "mamba"])
def test_like_the_observer_of_the_whole_model(architecture: str) -> None:
    model = build(architecture)
    where = SEEN if architecture == "mamba" else "linear"
    found = grams_of(model, where, batches())
    seen = observe(model, batches(), where, [SecondMoment])
    assert found.keys() == seen.keys()
    for name, (moment,) in seen.items():
        assert torch.equal(found[name].value, moment.value)
        assert found[name].tokens == moment.tokens


def test_inputs_that_several_weights_share_are_multiplied_once(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    rows = module._rows
    monkeypatch.setattr(module, "_rows", lambda features, name: names.append(name) or rows(features, name))
    grams_of(llama, "linear,!head", batches(1))
    kinds = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    assert names == [f"model.layers.{layer}.{kind}" for layer in (0, 1) for kind in kinds]


def test_wide_products_are_made_piece_by_piece(llama: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 20)
    found = grams_of(llama, "linear", batches())
    for name, (moment,) in observe(llama, batches(), "linear", [SecondMoment]).items():
        torch.testing.assert_close(found[name].value, moment.value)


@pytest.mark.parametrize("outputs", [8, 40])
def test_what_the_unmodified_model_gives_is_known_to_few_outputs_and_many(outputs: int) -> None:
    """A weight of few outputs has its products with the drift gathered, one of many the drift."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(24, outputs))
    given, wanted = (torch.randn(3, 50, 24, generator=draw) for _ in range(2))
    (site,) = select(model, "linear")
    known = {place(site): list(wanted)}
    gram = gather(model, list(given), [site], count_calls(model, given[0], [site]), known)[place(site)]
    assert (gram.missing is not None, gram.drift is not None) == (outputs == 8, outputs == 40)
    weight = model[0].weight.detach()
    drift = sum((w - x).double().T @ x.double() for w, x in zip(wanted, given, strict=True))
    assert gram.is_drifted
    torch.testing.assert_close(gram.missing_of(weight), weight.double() @ drift, rtol=1e-5, atol=1e-3)


def test_an_input_changed_in_place_is_another() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            return self.first(y) + self.second(y.mul_(2))

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    found = grams_of(Doubling(), "linear", [x])
    torch.testing.assert_close(found["second"].value, 4 * found["first"].value)


def test_the_rest_of_the_model_is_not_run(llama: nn.Module) -> None:
    ran = []
    llama.model.layers[1].register_forward_hook(lambda *_: ran.append(1))
    sites = select(llama, "linear", layers=0)
    calls = count_calls(llama, batches()[0], sites)
    assert len(ran) == 1, "calls are counted in one whole run"
    gather(llama, batches(), sites, calls)
    assert len(ran) == 1


def test_a_module_that_runs_twice_is_seen_twice() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = grams_of(model, "linear", [x, x])
    (gram,) = (g for g in found.values() if g.tokens)
    second = torch.tanh(layer(x)).detach()
    assert gram.tokens == 24
    torch.testing.assert_close(gram.value, 2 * (x.T @ x + second.T @ second).double())


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe"])
def test_experts_see_the_tokens_routed_to_them(architecture: str) -> None:
    model = build(architecture)
    site = next(s for s in select(model, "experts") if s.parameter == "gate_up_proj")
    experts, arguments = model.get_submodule(site.module), []
    experts.register_forward_pre_hook(lambda _, given: arguments.append(given))
    found = grams_of(model, "experts", batches())
    inner, outer = found[site.name], found[site.name.replace("gate_up", "down")]
    arguments = arguments[1:]  # the first run counts calls
    for expert in range(4):
        inputs = np.zeros((32, 32)), np.zeros((48, 48))
        count = 0
        for hidden, chosen, *_ in arguments:
            for token, of_token in zip(hidden, chosen, strict=True):
                if expert in of_token.tolist():
                    gate, up = (experts.gate_up_proj[expert] @ token).detach().split(48)
                    after = (nn.functional.silu(gate) * up).numpy()
                    for total, x in zip(inputs, (token.numpy(), after), strict=True):
                        total += np.outer(x, x)
                    count += 1
        assert inner.tokens[expert] == outer.tokens[expert] == count
        np.testing.assert_allclose(inner.value[expert], inputs[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outer.value[expert], inputs[1], rtol=1e-4, atol=1e-9)


class Idle(nn.Module):
    """As Mamba's dt_proj up to transformers 5.12 has it, a layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_module_that_no_batch_reaches_is_refused() -> None:
    with pytest.raises(InputError, match=r'idle was not run on any of the 3 batches; .*select="!idle'):
        grams_of(Idle(), "linear", [torch.rand(2, 8)] * 3)


def test_what_cannot_be_seen_is_refused(llama: nn.Module) -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(InputError, match=r'features.0 \(Conv2d\) cannot be calibrated.*; leave it out with select="!'):
        grams_of(ConvNet(), "conv", [x])
    with pytest.raises(InputError, match="embed_tokens .*cannot be calibrated"):
        grams_of(llama, "embedding", batches(1))
    model = build("mixtral")
    model.model.layers[0].mlp.experts.has_bias = True
    with pytest.raises(InputError, match=r'gate_up_proj \(MixtralExperts\).*select="!experts'):
        grams_of(model, "experts", batches(1))
    idle = nn.Module()
    idle.head, idle.forward = nn.Linear(2, 2), lambda x: x
    with pytest.raises(InputError, match="none of the 1 selected modules is run by the model; the first is head"):
        grams_of(idle, "linear", [torch.zeros(2)])
    with pytest.raises(InputError, match="the input of 0 holds NaN or infinite values"):
        grams_of(nn.Sequential(nn.Linear(2, 2)), "linear", [torch.tensor([[1.0, float("nan")]])])
    with pytest.raises(InputError, match="a batch is a tensor, a tuple or a mapping, got list"):
        grams_of(llama, "linear", [[1, 2]])
