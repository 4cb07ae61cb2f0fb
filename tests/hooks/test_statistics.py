"""Streaming statistics against direct computation over all the data at once."""

from collections.abc import Iterator

import pytest
import torch
from models import ConvNet, build
from torch import nn

from hardy.core import InputError
from hardy.hooks import AbsMax, Histogram, RoutingCounts, SecondMoment, Statistic, observe


class Output(SecondMoment):
    """The Gram matrix of what comes out."""

    of = "output"


@pytest.fixture
def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(1)) * 3


def test_against_direct_computation(mlp: nn.Sequential, inputs: torch.Tensor) -> None:
    seen = observe(mlp, inputs, "linear", [SecondMoment, AbsMax, Histogram, Output])
    assert list(seen) == ["0", "2"]
    hidden = mlp[:2](inputs)
    for name, features, output in (("0", inputs, mlp[0](inputs)), ("2", hidden, mlp(inputs))):
        x, y = features.reshape(-1, features.shape[-1]).double(), output.reshape(-1, output.shape[-1]).double()
        gram, absmax, histogram, out = seen[name]
        torch.testing.assert_close(gram.value, x.T @ x, rtol=1e-5, atol=1e-5)
        assert gram.value.dtype == torch.float64
        assert gram.tokens == 28
        assert torch.equal(absmax.value.double(), x.abs().amax(0))
        torch.testing.assert_close(out.value, y.T @ y, rtol=1e-5, atol=1e-5)
        counts = [0] * 64
        for value in x.flatten().tolist():
            exponent = -33 if value == 0 else torch.tensor(abs(value)).log2().floor().int().item()
            counts[min(max(exponent + 32, 0), 63)] += 1
        assert histogram.value.tolist() == counts


def test_the_first_histogram_bin_holds_zeros_and_the_last_the_huge() -> None:
    histogram = Histogram()
    histogram.update(torch.tensor([[0.0, 2.0**-40, 1.0, 1.5, -2.0, 2.0**40]]))
    assert {i: n for i, n in enumerate(histogram.value.tolist()) if n} == {0: 2, 32: 2, 33: 1, 63: 1}


def test_many_small_batches_equal_one(mlp: nn.Sequential, inputs: torch.Tensor) -> None:
    statistics = [SecondMoment, AbsMax, Histogram]
    one = observe(mlp, [inputs], "linear", statistics)
    many = observe(mlp, (row[None] for batch in inputs for row in batch), "linear", statistics)
    for name in one:
        torch.testing.assert_close(one[name][0].value, many[name][0].value, rtol=1e-5, atol=1e-5)
        assert one[name][0].tokens == many[name][0].tokens
        torch.testing.assert_close(one[name][1].value, many[name][1].value)
        assert one[name][2].value.sum() == many[name][2].value.sum()


def test_a_batch_is_a_tensor_a_tuple_or_a_mapping(llama: nn.Module, ids: torch.Tensor) -> None:
    mask = torch.ones_like(ids)
    forms = [ids, {"input_ids": ids, "attention_mask": mask}, (ids, mask)]
    one, two, three = (observe(llama, [form], "mlp.down", [SecondMoment]) for form in forms)
    for name in one:
        assert one[name][0].tokens == 18
        assert torch.equal(one[name][0].value, two[name][0].value)
        assert torch.equal(one[name][0].value, three[name][0].value)
    with pytest.raises(InputError, match="a batch is a tensor, a tuple or a mapping, got str"):
        observe(llama, ["text"], "mlp.down", [AbsMax])


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe"])
def test_routing_counts(architecture: str, ids: torch.Tensor) -> None:
    model = build(architecture)
    seen = observe(model, [ids[:, :4], ids], "router", [lambda: RoutingCounts(2)])
    assert len(seen) == 2
    chosen = [[], []]
    with torch.inference_mode():
        for batch in (ids[:, :4], ids):
            for layer, logits in enumerate(model(batch, output_router_logits=True).router_logits):
                chosen[layer] += [
                    expert for row in logits.tolist() for expert in sorted(range(4), key=lambda e: -row[e])[:2]
                ]
    for counts, experts in zip(seen.values(), chosen, strict=True):
        assert counts[0].value.tolist() == [experts.count(expert) for expert in range(4)]


def test_a_fused_part_sees_the_whole_input_and_its_own_output(ids: torch.Tensor) -> None:
    model = build("gpt2")
    seen = observe(model, [ids], "attention.k", [SecondMoment, Output])
    whole = observe(model, [ids], "attention.qkv", [SecondMoment, Output])
    for part, all_of_it in zip(seen.values(), whole.values(), strict=True):
        assert torch.equal(part[0].value, all_of_it[0].value)
        torch.testing.assert_close(part[1].value, all_of_it[1].value[32:64, 32:64])


def test_embeddings_see_token_ids(llama: nn.Module, ids: torch.Tensor) -> None:
    seen = observe(llama, [ids], "embedding", [AbsMax])["model.embed_tokens"][0]
    assert torch.equal(seen.value, ids.amax(0))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_removed_also_after_an_exception(mlp: nn.Sequential, inputs: torch.Tensor) -> None:
    observe(mlp, [inputs], "linear", [AbsMax])
    assert hooks(mlp) == 0

    def interrupted() -> Iterator[torch.Tensor]:
        yield inputs
        assert hooks(mlp) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(mlp, interrupted(), "linear", [AbsMax])
    assert hooks(mlp) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(mlp: nn.Sequential, inputs: torch.Tensor, bad: float) -> None:
    inputs[2, 3, 4] = bad
    with pytest.raises(InputError, match="the input of 0 holds NaN or infinite values"):
        observe(mlp, [inputs], "linear", [AbsMax])
    assert hooks(mlp) == 0


def test_what_cannot_be_observed_is_refused(llama: nn.Module, mlp: nn.Sequential, ids: torch.Tensor) -> None:
    with pytest.raises(InputError, match="observe was given no batches"):
        observe(mlp, [], "linear", [AbsMax])
    with pytest.raises(InputError, match=r"experts\.down_proj is one of several weights.*observe model\.layers\.0"):
        observe(build("mixtral"), [ids], "experts.down", [AbsMax])
    with pytest.raises(InputError, match="the output of model is not a tensor; observe a module inside it"):
        observe(llama, [ids], "model", [Output])

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(InputError, match="none of the 1 sites was run by the model; the first is spare"):
        observe(Unused(), [torch.ones(1, 6)], "spare", [AbsMax])
    seen = observe(Unused(), [torch.ones(1, 6)], "linear", [AbsMax])
    assert not hasattr(seen["spare"][0], "value")


def test_nothing_is_left_on_the_model(llama: nn.Module, ids: torch.Tensor) -> None:
    observe(llama, [ids], "linear", [SecondMoment])
    assert all(parameter.grad is None for parameter in llama.parameters())
    net = ConvNet().train()
    observe(net, [torch.randn(2, 3, 8, 8)], "classifier", [AbsMax])
    assert net.training, "the mode is the caller's"


def test_a_statistic_of_ones_own(mlp: nn.Sequential, inputs: torch.Tensor) -> None:
    class Tokens(Statistic):
        def __init__(self) -> None:
            self.value = torch.zeros(())

        def update(self, features: torch.Tensor) -> None:
            self.value += len(features)

    assert observe(mlp, inputs, "0", [Tokens])["0"][0].value == 28
