"""Recurrent and attention modules, which multiply with weights of their own, against torch's own and step by step."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from hardy.analog import Deploy, clipping, drift
from hardy.analog.layers import stored_weights
from hardy.core import InputError
from hardy.hardware import AdditiveDevice, Chip

FINE = dataclasses.replace(Chip.preset("ideal"), dac_bits=16, adc_bits=16, adc_range=64.0, tile_rows=16)
CALIBRATED = dataclasses.replace(FINE, dac_range="calibrated", adc_range="calibrated", adc_percentile=100)
COARSE = dataclasses.replace(Chip.preset("ideal"), dac_bits=3, adc_bits=3, tile_rows=16)
READ_NOISE = Chip(device=AdditiveDevice.of_weight(read=0.05))

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(6, 8),
    "deep": lambda: nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True, proj_size=3),
    "gru": lambda: nn.GRU(6, 8, num_layers=2, bidirectional=True),
    "rnn": lambda: nn.RNN(6, 8, nonlinearity="relu", bias=False),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(make()).eval()


def flat(outputs: object) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs if part is not None for tensor in flat(part)]  # pyright: ignore[reportGeneralTypeIssues]


def near(first: object, second: object, tolerance: float = 2e-3) -> None:
    for a, b in zip(flat(first), flat(second), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_modules_are_torchs_on_a_perfect_chip(kind: str) -> None:
    model = seeded(RECURRENT[kind])
    x = torch.randn(5, 5, 6, generator=torch.Generator().manual_seed(1))
    packed = pack_padded_sequence(x, torch.tensor([3, 5, 1, 5, 2]), batch_first=kind == "deep", enforce_sorted=False)
    start = model(x)[1]  # some states to begin with
    for chip in (Chip.preset("ideal"), FINE, CALIBRATED):
        clean = [model(x), model[0](x, start), model(packed), model(x[0])]
        module = model[0]
        with Deploy(chip=chip).apply(model, [x] if chip is CALIBRATED else None) as change:
            near(model(x), clean[0])
            if chip is not CALIBRATED:  # for what was seen
                near(model[0](x, start), clean[1])
                near(model(packed), clean[2])
                near(model(x[0]), clean[3])
            assert change.report.value("share_on_chip", "all selected weights") == 1
        assert model[0] is module
        assert all(torch.equal(a, b) for a, b in zip(flat(model(x)), flat(clean[0]), strict=True))


@pytest.mark.parametrize("kind", RECURRENT)
def test_every_product_of_a_recurrent_module_is_converted(kind: str) -> None:
    model = seeded(RECURRENT[kind])
    x = torch.randn(5, 5, 6, generator=torch.Generator().manual_seed(1))
    matrices = {f"0.{name}" for name, p in model[0].named_parameters() if p.ndim == 2}
    clean = model(x)[0]
    with Deploy(chip=COARSE, select="0").apply(model):
        assert (model(x)[0] - clean).norm() > 0.02 * clean.norm()
        assert {row.condition for row in clipping(model).select("clipped_outputs")[1:]} == matrices
    with Deploy(chip=READ_NOISE, select="0").apply(model):
        assert not torch.equal(model(x)[0], model(x)[0])
        twin = seeded(RECURRENT[kind])
        twin.load_state_dict(model.state_dict())
        with Deploy(chip=READ_NOISE, select="0").apply(twin):
            twin(x), twin(x)
            model(x)
            assert not torch.equal(twin(x)[0], model(x)[0]), "each has its own series of reads"


def test_an_lstm_on_noisy_cells_is_torchs_with_what_the_cells_hold() -> None:
    model = seeded(RECURRENT["deep"])
    x = torch.randn(5, 5, 6, generator=torch.Generator().manual_seed(1))
    with Deploy(chip=Chip.preset("pcm").without_periphery(), seed=2).apply(model):
        drift(model, 3600)
        noisy = model(x)
        held = [stored.values(parameter).detach().clone() for parameter, stored in stored_weights(model)]
    names = [name for name, p in model[0].named_parameters() if p.ndim == 2]
    twin = seeded(RECURRENT["deep"])
    twin[0].load_state_dict(dict(zip(names, held, strict=True)), strict=False)
    near(noisy, twin(x), 1e-6)


def test_states_that_are_fed_back_have_a_range_of_their_own() -> None:
    """A first state is zero and the next ones small: a range that these had given would clip all that follow."""
    model = seeded(lambda: nn.LSTM(6, 8))
    x = torch.cat([0.01 * torch.randn(3, 2, 6), 3 * torch.randn(9, 2, 6)])
    with Deploy(chip=CALIBRATED).apply(model):
        model(x)
        report = clipping(model)
        assert report.value("clipped_inputs", "0.weight_hh_l0") < 0.01
        assert report.value("clipped_outputs", "0.weight_hh_l0") < 0.01


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "packed": lambda: nn.MultiheadAttention(16, 4, batch_first=True),
    "no bias": lambda: nn.MultiheadAttention(16, 4, bias=False, add_bias_kv=True, add_zero_attn=True),
    "separate": lambda: nn.MultiheadAttention(16, 4, kdim=6, vdim=10),
}


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("gradients", [True, False])
def test_attention_is_torchs_on_a_perfect_chip(kind: str, gradients: bool) -> None:
    model = seeded(ATTENTION[kind])
    attention, random = model[0], torch.Generator().manual_seed(1)
    sizes = (16, 6, 10) if kind == "separate" else (16, 16, 16)
    query, key, value = (torch.randn(3, 3, size, generator=random) for size in sizes)
    calls: list[Callable[[], object]] = [
        lambda: attention(query, key, value),
        lambda: attention(query[0], key[0], value[0], average_attn_weights=False),
        lambda: attention(query, key, value, attn_mask=torch.ones(3, 3).triu(1).bool(), need_weights=False),
    ]
    if kind != "separate":
        calls += [lambda: attention(query, query, query), lambda: attention(query, key, key, need_weights=False)]
    with torch.set_grad_enabled(gradients):
        clean = [call() for call in calls]
        with Deploy(chip=FINE).apply(model) as change:
            for call, expected in zip(calls, clean, strict=True):
                near(call(), expected)
                assert not torch.equal(flat(call())[0], flat(expected)[0])
            assert change.report.value("share_on_chip", "all selected weights") > 0.9
        with Deploy(chip=COARSE, select=nn.MultiheadAttention).apply(model):
            assert (flat(calls[0]())[0] - flat(clean[0])[0]).norm() > 0.02 * flat(clean[0])[0].norm()
            names = {row.condition.rpartition(".")[2] for row in clipping(model).select("clipped_outputs")[1:]}
            assert names == ({"q_proj_weight", "k_proj_weight", "v_proj_weight"} if kind == "separate" else set("qkv"))


def test_what_is_on_a_chip_is_not_put_there_again() -> None:
    model = seeded(RECURRENT["lstm"])
    with Deploy(chip=FINE).apply(model), pytest.raises(InputError, match="0 is on a chip already"):
        Deploy(chip=FINE).apply(model)
