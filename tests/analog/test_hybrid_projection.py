"""HPD: the split is exact, its error law holds, and it helps or hurts where the derivation says so."""

import pytest
import torch
from models import build
from torch import nn

from hardy.analog import AnalogLinear, Deploy, HybridProjection
from hardy.analog.hybrid_projection import HybridLinear, decompose, expected_error
from hardy.errors import InputError
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise
from hardy.hardware.device import ProportionalDevice


def _power_law(size: int = 512) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight with singular values 1/j, inputs (size, 500) alike in all directions, and inputs of low gain."""
    random = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=random))[0] for _ in range(2))
    values = 1 / torch.arange(1, size + 1)
    x = torch.randn(size, 500, generator=random)
    return (left * values) @ right.T, x, right @ (x / values[:, None])


def _noise(kind: str, matrix: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    size = {
        "proportional": 0.1 * matrix.abs(),
        "tensor": 0.02 * matrix.abs().max(),
        "row": 0.02 * matrix.abs().amax(1, keepdim=True),
        "absolute": torch.tensor(0.002),
    }[kind]
    return size * torch.randn(matrix.shape, generator=random)


@pytest.mark.parametrize("columns", ["scaled", "plain"])
def test_the_parts_make_up_the_weight(columns) -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    array, gain, rotation = decompose(weight, columns=columns)
    assert (array.shape, gain.shape, rotation.shape) == ((24, 24), (24,), (24, 40))
    torch.testing.assert_close((array * gain) @ rotation, weight)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(24), atol=1e-5, rtol=0)
    if columns == "scaled":
        torch.testing.assert_close(array.abs().amax(0), weight.abs().max().expand(24))
    else:
        assert bool((gain == 1).all())


def test_a_truncated_split_is_the_best_of_its_rank() -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    array, gain, rotation = decompose(weight, 5)
    tail = torch.linalg.svdvals(weight)[5:].square().sum().sqrt()
    torch.testing.assert_close(((array * gain) @ rotation - weight).norm(), tail)


@pytest.mark.parametrize("columns", ["scaled", "plain"])
def test_the_error_under_proportional_noise_is_that_share_of_the_output_whatever_the_input(columns) -> None:
    weight, _, low = _power_law(64)
    array, gain, rotation = decompose(weight, columns=columns)
    inputs = gain[:, None] * (rotation @ low[:, :20])
    random = torch.Generator().manual_seed(1)
    error = torch.stack([_noise("proportional", array, random) @ inputs for _ in range(4000)]).square().sum(1).mean(0)
    torch.testing.assert_close(error, 0.01 * (weight @ low[:, :20]).square().sum(0), rtol=0.05, atol=0)


# Relative output error of the plain layer and of the split one, 512 x 512, power-law spectrum: the shape that the
# derivation predicts. "plain" columns hurt where the noise is relative to a range; scaled ones do not.
@pytest.mark.parametrize(
    ("kind", "columns", "alike", "low_gain"),
    [
        ("proportional", "plain", (0.9, 1.1), (0.0, 0.3)),
        ("proportional", "scaled", (0.9, 1.1), (0.0, 0.3)),
        ("tensor", "plain", (4.0, 9.0), (4.0, 9.0)),
        ("row", "plain", (4.0, 7.0), (4.0, 7.0)),
        ("absolute", "plain", (0.9, 1.1), (0.9, 1.1)),
        ("tensor", "scaled", (0.0, 0.6), (0.0, 0.1)),
        ("row", "scaled", (0.8, 1.05), (0.0, 0.1)),
    ],
)
def test_where_it_helps_and_where_it_hurts(kind, columns, alike, low_gain) -> None:
    weight, x, low = _power_law()
    array, gain, rotation = decompose(weight, columns=columns)
    random = torch.Generator().manual_seed(2)
    for inputs, (least, most) in ((x, alike), (low, low_gain)):
        plain = (_noise(kind, weight, random) @ inputs).norm()
        split = (_noise(kind, array, random) @ (gain[:, None] * (rotation @ inputs))).norm()
        assert least <= split / plain <= most


def test_only_the_rotated_part_goes_on_arrays(ids: torch.Tensor) -> None:
    model = build("mamba")
    before = model(ids).logits
    HybridProjection(layers="last").apply(model)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)
    layer = model.get_submodule("backbone.layers.1.mixer.out_proj")
    assert isinstance(layer, HybridLinear)
    rotation, array = layer.rotation.clone(), layer.array.weight.detach().clone()
    with Deploy(chip="reram-wan", select="ssm.out", layers="last").apply(model) as change:
        assert isinstance(layer.array, AnalogLinear)
        assert [row.condition for row in change.report.rows][1] == "backbone.layers.1.mixer.out_proj.array"
        assert torch.equal(layer.rotation, rotation)
        assert not torch.equal(layer.array.stored_weight(), array)
        assert torch.isfinite(model(ids).logits).all()
    assert torch.equal(layer.array.weight, array)


def test_the_two_ways_to_compute_it_agree(ids: torch.Tensor) -> None:
    """With 14-bit converters the layer goes step by step, without converters it multiplies with the whole."""
    quiet = Chip(device=ProportionalDevice(program=0.1))
    import dataclasses

    fine = dataclasses.replace(quiet, dac_bits=16, adc_bits=16)
    outputs = []
    for chip in (quiet, fine):
        model = build("mamba")
        HybridProjection(layers="0:2").apply(model)
        Deploy(chip=chip, select="ssm.out", seed=3).apply(model)
        outputs.append(model(ids).logits)
    torch.testing.assert_close(*outputs, atol=1e-3, rtol=1e-2)


def test_its_state_is_that_of_a_plain_model() -> None:
    model, plain = build("mamba"), build("mamba")
    HybridProjection(layers="0:2").apply(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())


def test_moving_the_model_keeps_the_rotation_in_float32() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    HybridProjection(select="0", layers=None).apply(model)
    model.to(torch.bfloat16)
    assert model[0].rotation.dtype == torch.float32
    assert model(torch.ones(2, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_layer_is_split_only_where_the_noise_makes_that_pay() -> None:
    model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False))
    model[0].weight.data = _power_law(256)[0]
    signs = torch.randint(2, (256, 256), generator=torch.Generator().manual_seed(0))
    model[1].weight.data = 2.0 * signs - 1  # no weight is larger than the others

    def apply(basis="singular", **fields) -> list[float]:
        with HybridProjection(select="linear", basis=basis, **fields).apply(model) as change:
            ratios = [change.report.value("error_ratio", name) for name in "01"]
            assert [isinstance(layer, HybridLinear) for layer in model] == [ratio < 1 for ratio in ratios]
            assert change.report.value("split_layers", "all selected weights") == sum(ratio < 1 for ratio in ratios)
        return ratios

    for_tensor = AdditiveNoise(strength=0.02, relative_to="tensor-absmax")
    first, second = apply(noise=for_tensor)
    assert first < 0.7
    assert second > 1.5
    with pytest.warns(UserWarning, match=r"leaves all 2 layers as they are: under AdditiveNoise\(strength=0.02"):
        assert min(apply(columns="plain", basis="singular", noise=for_tensor)) > 1.5
    with pytest.warns(UserWarning, match=r"under Deploy.* times as large, or more"):
        apply(columns="plain", basis="singular", noise=Deploy(chip="reram-wan"))


@pytest.mark.parametrize("kind", ["proportional", "tensor", "row", "absolute"])
@pytest.mark.parametrize(
    ("columns", "basis"), [("scaled", "singular"), ("plain", "singular"), ("scaled", "random"), ("scaled", "hadamard")]
)
def test_the_law_of_the_error_is_what_draws_give(kind, columns, basis) -> None:
    weight, x, low = _power_law(48)
    array, gain, rotation = decompose(weight, columns=columns, basis=basis)
    law = {"row": "output"}.get(kind, kind)
    strength = {"proportional": 0.1, "absolute": 0.002}.get(kind, 0.02)
    random = torch.Generator().manual_seed(3)
    for inputs in (x[:, :40], low[:, :40]):
        for matrix, u in ((weight, inputs), (array, gain[:, None] * (rotation @ inputs))):
            drawn = [(_noise(kind, matrix, random) @ u).square().sum() / u.shape[1] for _ in range(600)]
            expected = strength**2 * expected_error(matrix, u @ u.T / u.shape[1], law)
            assert torch.stack(drawn).mean().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("basis", ["singular", "random", "hadamard"])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_a_basis_is_a_rotation_and_takes_nothing_away(basis, shape) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    array, gain, rotation = decompose(weight, basis=basis)
    assert rotation.shape == ((shape[1] if basis == "hadamard" else min(shape)), shape[1])
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(len(rotation)), atol=1e-5, rtol=0)
    torch.testing.assert_close((array * gain) @ rotation, weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(array.abs().amax(0), weight.abs().max().expand(len(gain)))
    other = decompose(weight, basis=basis, random=torch.Generator().manual_seed(5))
    assert torch.equal(other[2], rotation) == (basis == "singular")
    if basis == "random":  # of the space of the first singular vectors
        kept, first = decompose(weight, rank=3, basis=basis), decompose(weight, rank=3)
        torch.testing.assert_close(kept[2].mT @ kept[2], first[2].mT @ first[2], atol=1e-5, rtol=0)


def test_a_hadamard_matrix_is_never_made() -> None:
    layer = nn.Sequential(nn.Linear(4096, 4, bias=False))
    before = layer[0].weight.detach().clone()
    with HybridProjection(select="0").apply(layer):
        split = layer[0]
        assert max(tensor.numel() for tensor in (split.turn, split.gain, split.array.weight)) == 4 * 4096
        torch.testing.assert_close(split.weight, before, atol=1e-5, rtol=0)
        x = torch.randn(3, 4096, generator=torch.Generator().manual_seed(7))
        torch.testing.assert_close(split(x), x @ before.mT, atol=1e-4, rtol=1e-4)
        Deploy(chip=Chip.preset("reram-wan"), select="0.array").apply(layer)
        assert torch.isfinite(layer(x)).all()


@pytest.mark.filterwarnings("ignore:HybridProjection leaves all 1 layers")
def test_the_basis_is_the_one_of_less_error_layer_by_layer() -> None:
    weight, x, low = _power_law(64)
    sticks_out = torch.randn(64, 64, generator=torch.Generator().manual_seed(8))
    sticks_out[3, 5] = 30.0
    cases = {
        "singular": (weight, low.T, ProportionalNoise(strength=0.1)),
        "hadamard": (sticks_out, x.T, AdditiveNoise(strength=0.02, relative_to="tensor-absmax")),
    }
    for best, (matrix, inputs, noise) in cases.items():
        ratios = {}
        for basis in ("hadamard", "singular", "measured"):
            layer = nn.Sequential(nn.Linear(64, 64, bias=False))
            layer[0].weight.data = matrix.clone()
            with HybridProjection(select="0", basis=basis, noise=noise).apply(layer, [inputs]) as change:
                ratios[basis] = change.report.value("error_ratio", "0")
                if ratios[basis] < 1:
                    assert layer[0].turn.dim() == (1 if (best if basis == "measured" else basis) == "hadamard" else 2)
        assert ratios["measured"] == ratios[best] == min(ratios.values()) < 1


def test_a_weight_that_stands_out_is_spread_by_additions_alone() -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(6))
    weight[3, 5] = 20.0
    layer = nn.Sequential(nn.Linear(96, 64, bias=False))
    layer[0].weight.data = weight
    noise = AdditiveNoise(strength=0.02, relative_to="tensor-absmax")
    with HybridProjection(select="0", noise=noise).apply(layer) as change:
        assert change.report.value("error_ratio", "0") < 0.5
        assert change.report.value("digital_macs", "all selected weights") == 96
        assert change.report.value("digital_additions", "all selected weights") == 64 * 6 + 32 * 5


def test_calibration_data_shows_what_low_gain_inputs_gain() -> None:
    weight, _, low = _power_law(64)
    layer = nn.Sequential(nn.Linear(64, 64, bias=False))
    layer[0].weight.data = weight
    method = HybridProjection(select="0", basis="singular", noise=ProportionalNoise(strength=0.1))
    with method.apply(layer, [low.T]) as change:
        assert change.report.value("error_ratio", "0") < 0.5


def test_what_it_refuses() -> None:
    model = build("mamba")
    with pytest.raises(InputError, match=r"rank must be in 1\.\.32"):
        HybridProjection(rank=33, basis="singular").apply(model)
    with pytest.raises(InputError, match="rank=8 keeps singular values; with it basis must be singular or random"):
        HybridProjection(rank=8)
    with pytest.raises(InputError, match="rank=8 keeps singular values; with it basis must be singular or random"):
        decompose(torch.ones(16, 16), rank=8, basis="hadamard")
    with pytest.raises(InputError, match='basis="measured" needs noise'):
        HybridProjection(basis="measured")
    with pytest.raises(InputError, match="selection 'ssm.out' matches nothing in LlamaForCausalLM"):
        HybridProjection().apply(build("llama"))
    with pytest.raises(InputError, match="conv1d is a Conv1d; it takes nn.Linear"):
        HybridProjection(select="ssm.conv").apply(model)
    Deploy(chip="ideal", select="ssm.out").apply(model)
    with pytest.raises(InputError, match="out_proj is a AnalogLinear; apply HybridProjection before it"):
        HybridProjection().apply(model)
