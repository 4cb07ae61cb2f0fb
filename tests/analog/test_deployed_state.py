"""What is on the chip is what is in the model: every kind of layer, loaded, trained, programmed, aged and undone.

Nothing is silent: a layer that its parent passes over is computed on the chip all the same, or is an error by name.
"""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import assert_same, build, snapshot
from torch import nn

import hardy
from hardy.analog import Deploy, HybridProjection, Redundancy, clipping, drift, program
from hardy.analog.layers import stored_weights
from hardy.core import InputError, chain, changes
from hardy.hardware import AdditiveNoise, Chip

CELLS = Chip.preset("pcm").without_periphery()
READ_NOISE = dataclasses.replace(Chip.preset("reram-wan"), dac_bits=None, adc_bits=None)
SLICED = dataclasses.replace(
    Chip.preset("pcm"), cell_levels=16, weight_slices=2, input_slice_bits=1, adc="ramp", adc_mismatch=0.05,
    nonlinearity=1.0,
)  # fmt: skip
COARSE = dataclasses.replace(Chip.preset("ideal"), dac_bits=3, adc_bits=3, tile_rows=16)


class Attention(nn.Module):
    """nn.MultiheadAttention, which reads the weight of its out_proj."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class States(nn.Module):
    """What a recurrent module gives at each step."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(x)[0]


class Reader(nn.Module):
    """Multiplies with the weight of a layer that it does not call."""

    def __init__(self, product: Callable[[torch.Tensor, Any], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.product = nn.Linear(16, 16, bias=False), product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x, self.layer.weight)


class Keeper(nn.Module):
    """Has the parameter of a layer at hand from before, and never looks at the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.kept = (self.layer.weight,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.kept[0].T


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True), 2)


def conv2d() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(1))


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8)), "linear"),
    "convolution": (conv2d, "conv"),
    "groups": (lambda: nn.Sequential(nn.Conv1d(5, 10, 3, groups=5, padding="same", padding_mode="reflect")), "conv"),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose1d(5, 6, 3, stride=2)), "conv"),
    "lstm": (lambda: States(nn.LSTM(16, 8, num_layers=2, bidirectional=True)), "recurrent"),
    "gru": (lambda: States(nn.GRU(16, 8)), "recurrent"),
    "attention": (Attention, "linear"),
    "whole attention": (Attention, "attention,linear"),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True), 2),
        "linear",
    ),
    "matmul": (lambda: Reader(lambda x, w: (w @ x.mT).mT), "linear"),
    "functional": (lambda: Reader(nn.functional.linear), "linear"),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    make, where = KINDS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval(), where


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def on_arrays(model: nn.Module) -> list[torch.Tensor]:
    return [stored.values(parameter).detach().clone() for parameter, stored in stored_weights(model)]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("gradients", [True, False])
def test_converters_act_and_reads_differ(kind: tuple[nn.Module, str], x: torch.Tensor, gradients: bool) -> None:
    model, where = kind
    with torch.set_grad_enabled(gradients):
        clean, before = model(x).detach(), snapshot(model)
        with Deploy(chip=READ_NOISE, select=where).apply(model):
            assert not torch.equal(model(x), model(x)), "every read is another draw"
        with Deploy(chip=COARSE, select=where).apply(model):
            assert (model(x) - clean).norm() > 0.02 * clean.norm()
            assert all(row.details["conversions"] for row in clipping(model).rows)
        with Deploy(chip=CELLS, select=where).apply(model):
            assert torch.equal(model(x), model(x))
            assert not torch.allclose(model(x), clean, rtol=1e-3)
        assert torch.equal(model(x).detach(), clean)
    assert_same(before, model)


def test_fast_and_plain_attention_are_one_model_on_a_chip(x: torch.Tensor) -> None:
    """torch's fast path of nn.TransformerEncoder reads weights and calls no layer."""
    make, where = KINDS["encoder"]
    model = make().eval()
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with Deploy(chip=COARSE, select=where).apply(model, [x]):
        plain = model(x, src_key_padding_mask=mask)
        with torch.no_grad():
            fast = model(x, src_key_padding_mask=mask)
    torch.testing.assert_close(fast[~mask], plain[~mask])


STEPS = ("load", "train", "program", "drift")


@pytest.mark.parametrize("order", [(a, b) for a in STEPS for b in STEPS if a != b], ids=" then ".join)
def test_whatever_happens_the_arrays_hold_the_weights_of_now(
    kind: tuple[nn.Module, str], x: torch.Tensor, order: tuple[str, str]
) -> None:
    model, where = kind
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # before anything is on a chip
    other = {name: tensor + 0.1 for name, tensor in model.state_dict().items()}
    change = Deploy(chip=CELLS, seed=1, select=where).apply(model, [x])
    seed, seconds = 1, 0.0
    for step in order:
        if step == "load":
            model.load_state_dict(other)
        elif step == "train":
            held = on_arrays(model)
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert not any(torch.equal(a, b) for a, b in zip(held, on_arrays(model), strict=True))
        elif step == "program":
            program(model, 7)
            seed = 7
        else:
            drift(model, 3600)
            seconds = 3600.0
    seen, held, weights = model(x), on_arrays(model), copy.deepcopy(model.state_dict())
    change.undo()
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(weights)
    assert same(list(fresh.state_dict().values()), list(weights.values())), "undo keeps what was loaded and trained"
    with Deploy(chip=CELLS, seed=seed, seconds=seconds, select=where).apply(fresh, [x]):
        assert same(on_arrays(fresh), held)
        assert torch.equal(fresh(x), seen)


@pytest.mark.parametrize("slices", [1, 3])
def test_slices_follow_what_becomes_of_the_weights(x: torch.Tensor, slices: int) -> None:
    chip = dataclasses.replace(SLICED.without_periphery(), weight_slices=slices, dac_bits=8, input_slice_bits=2)
    model = KINDS["linear"][0]()
    change = Deploy(chip=chip, seed=1, select="linear").apply(model, [x])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.load_state_dict({name: tensor + 0.1 for name, tensor in model.state_dict().items()})
    model(x).square().sum().backward()
    optimizer.step()
    program(model, 7)
    drift(model, 3600)
    seen, weights = model(x).detach(), copy.deepcopy(model.state_dict())
    change.undo()
    fresh = KINDS["linear"][0]()
    fresh.load_state_dict(weights)
    with Deploy(chip=chip, seed=7, seconds=3600, select="linear").apply(fresh, [x]):
        torch.testing.assert_close(fresh(x), seen, rtol=0, atol=0)
        torch.testing.assert_close(fresh.double()(x.double()).float(), seen, rtol=1e-4, atol=1e-5)
    for layer in model:
        if isinstance(layer, nn.Linear):
            assert not torch.equal(layer.weight, chip.program(layer.weight, seed=7, site="0"))


def test_all_parameters_train(kind: tuple[nn.Module, str], x: torch.Tensor) -> None:
    model, where = kind
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    Deploy(chip="reram-wan", select=where).apply(model, [x])
    model(x).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if not name.endswith("in_proj_bias"):  # keys have no part in it
            assert not torch.equal(parameter, before[name]), name


def test_weights_that_are_no_numbers_are_not_programmed(x: torch.Tensor) -> None:
    model = KINDS["linear"][0]()
    Deploy(chip=CELLS, select="linear").apply(model)
    held = on_arrays(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict({**state, "0.weight": torch.full_like(state["0.weight"], float("nan"))})
    for step in (lambda: program(model, 2), lambda: drift(model, 10), lambda: model(x)):
        with pytest.raises(InputError, match="0 holds 384 NaN"):
            step()
    model.load_state_dict(state)
    assert same(held, on_arrays(model))


def test_products_that_no_array_follows_are_errors_by_name(x: torch.Tensor) -> None:
    for product, what in (
        (lambda x, w: x @ w, "multiplying with its transpose"),
        (lambda x, w: torch.einsum("bti,oi->bto", x, w), "einsum"),
        (lambda x, w: x @ torch.tanh(w), "tanh"),
    ):
        model = Reader(product)
        clean = model(x)
        with (
            Deploy(chip=COARSE, select="linear").apply(model),
            pytest.raises(InputError, match=f"^layer is on the chip, but the model reads .*{what} cannot be computed"),
        ):
            model(x)
        with Deploy(chip=CELLS, select="linear").apply(model):
            assert not torch.allclose(model(x), clean, rtol=1e-3), "the values are those of the cells"
        assert torch.equal(model(x), clean), "an error leaves nothing behind"


def test_a_layer_that_has_no_part_is_an_error_by_name(x: torch.Tensor) -> None:
    model = nn.Sequential(Keeper(), nn.Linear(16, 4))
    for chip in (COARSE, CELLS):
        with (
            Deploy(chip=chip, select="linear").apply(model, None),
            pytest.raises(InputError, match="^0.layer is on the chip, but Keeper ran without calling it"),
        ):
            model(x)
    with Deploy(chip=COARSE, select="linear,!0.layer").apply(model):
        model(x)


def test_a_module_that_did_not_run_is_no_error(x: torch.Tensor) -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 16)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.experts[0](x)

    model = Either()
    with Deploy(chip=COARSE, select="linear").apply(model):
        model(x)


def test_mamba_reads_the_weight_of_its_time_step(ids: torch.Tensor) -> None:
    model = build("mamba")
    clean = model(ids).logits.detach()
    with Deploy(chip=COARSE, select="ssm.dt").apply(model, [ids]):
        assert not torch.equal(model(ids).logits, clean)
        names = {row.condition for row in clipping(model).select("clipped_outputs")}
        assert names == {"all selected weights", *(f"backbone.layers.{i}.mixer.dt_proj" for i in range(2))}
    fine = dataclasses.replace(COARSE, dac_bits=16, adc_bits=16)
    with Deploy(chip=fine, select="ssm.dt").apply(model, [ids]):
        torch.testing.assert_close(model(ids).logits, clean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("repair", [Redundancy(select="ssm.dt"), HybridProjection(select="ssm.dt")], ids=str)
def test_what_is_read_instead_of_called_is_on_arrays_in_copies_and_in_two_steps_too(repair, ids: torch.Tensor) -> None:
    model = build("mamba")
    clean = model(ids).logits.detach()
    with repair.apply(model):
        with Deploy(chip=COARSE, select="ssm.dt").apply(model, [ids]):
            assert not torch.equal(model(ids).logits, clean)
            converted = {row.condition for row in clipping(model).select("clipped_outputs")}
            assert len(converted) == 1 + 2 * (2 if isinstance(repair, Redundancy) else 1)
        fine = dataclasses.replace(COARSE, dac_bits=16, adc_bits=16)
        with Deploy(chip=fine, select="ssm.dt").apply(model, [ids]):
            torch.testing.assert_close(model(ids).logits, clean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chip", ["pcm-foundation", "reram-wan", COARSE, CELLS, SLICED], ids=str)
def test_a_stored_model_comes_back_on_its_chip(chip: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    model = build("llama")
    AdditiveNoise(strength=0.02, select="mlp.down").apply(model)
    chain(AdditiveNoise(strength=0.01, select="mlp.up"), Deploy(chip=chip, seed=3, select="mlp")).apply(model, [ids])
    if not isinstance(chip, str):
        program(model, 5)
    expected = model(ids).logits if isinstance(chip, Chip) else None
    hardy.save(model, tmp_path / "model")
    twins = [hardy.load(tmp_path / "model") for _ in range(2)]
    assert same(on_arrays(model), on_arrays(twins[0]))
    for (_, ours), (_, theirs) in zip(stored_weights(model), stored_weights(twins[0]), strict=True):
        assert [array.periphery for array in ours.arrays] == [array.periphery for array in theirs.arrays]
    first, second = (twin(ids).logits for twin in twins)
    assert torch.equal(first, second)
    assert expected is None or torch.equal(first, expected)
    hardy.save(twins[0], tmp_path / "again")
    assert same(on_arrays(model), on_arrays(hardy.load(tmp_path / "again")))
    assert len(changes(twins[0])) == 1
    changes(twins[0])[0].undo()
    digital = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(twins[0](ids).logits, digital(ids).logits)


def test_every_kind_comes_back_on_its_chip(kind: tuple[nn.Module, str], x: torch.Tensor, tmp_path: Path) -> None:
    model, where = kind
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    Deploy(chip=SLICED, seed=3, select=where).apply(model, [x])
    model(x)
    hardy.save(model, tmp_path / "model")
    assert hardy.load(tmp_path / "model", into=twin) is twin
    assert same(on_arrays(model), on_arrays(twin))
    for (_, ours), (_, theirs) in zip(stored_weights(model), stored_weights(twin), strict=True):
        assert [array.periphery for array in ours.arrays] == [array.periphery for array in theirs.arrays]
    assert twin(x).shape == model(x).shape


def test_what_is_stored_as_a_plain_weight_is_not_stored_on_a_chip(tmp_path: Path) -> None:
    for method in (Redundancy(copies=2, select="mlp.up"), HybridProjection(select="mlp.up", layers=None)):
        model = build("llama")
        chain(method, Deploy(chip=CELLS, select="mlp")).apply(model)
        with pytest.raises(InputError, match=r"mlp.up_proj \(.*Linear\) cannot be stored: its .* on a chip"):
            hardy.save(model, tmp_path / "model")


def test_what_stays_digital_is_said() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.conv = nn.Embedding(10, 16), nn.Conv2d(1, 4, 3)
            self.back, self.lstm, self.final = nn.ConvTranspose1d(4, 4, 3), nn.GRU(16, 16), nn.Linear(16, 4)
            self.cell = nn.LSTMCell(16, 16)
            self.grouped, self.attention = nn.Conv2d(32, 32, 3, groups=32), nn.MultiheadAttention(16, 2)

    model = Mixed()
    with pytest.warns(UserWarning, match="weights that are multiplied stay digital beside 2,708 on the chip: cell"):
        change = Deploy(chip="pcm").apply(model)
    reasons = {row.condition: row.details["reason"] for row in change.report.select("digital_weights")}
    assert reasons["embedding.weight"] == "an embedding is looked up, not multiplied"
    assert reasons["cell.weight_ih"] == "a chip takes no LSTMCell"
    assert "its 32 groups would take as many arrays" in reasons["grouped.weight"]
    on_chip = {"conv.weight", "back.weight", "final.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    on_chip |= {"attention.in_proj_weight", "attention.out_proj.weight"}
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    assert set(matrices) - set(reasons) == on_chip
    share = sum(matrices[name] for name in on_chip) / sum(matrices.values())
    assert change.report.value("share_on_chip", "all selected weights") == pytest.approx(share)
    change.undo()
    asked = Deploy(chip="pcm", select="final").apply(model)  # who chooses is told in the report alone
    assert asked.report.select("digital_weights", condition="conv.weight")[0].details["reason"] == "not selected"


def test_convolutions_go_on_the_chip_unless_something_else_is_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    with Deploy(chip="pcm").apply(model) as change:
        assert change.report.value("share_on_chip", "all selected weights") == 1
        images = torch.rand(2, 3, 5, 5)
        model(images)
        assert model[0](images[0]).shape == (8, 3, 3), "an image without a batch"
    with pytest.raises(InputError, match="nothing in this Sequential goes on a chip: its 32 groups would"):
        Deploy(chip="pcm").apply(nn.Sequential(nn.Conv1d(32, 32, 3, groups=32)))
