"""The cost model against counts done by hand, and its published figures."""

import dataclasses

import pytest
from models import build
from torch import nn

from hardy.core import InputError
from hardy.hardware import Chip
from hardy.hardware.cost import Parts, adc_area, adc_energy, lossless_adc_bits, matrix_cost, model_cost

CHIP = dataclasses.replace(Chip.preset("reram-wan"), dac_bits=4, adc_bits=8, tile_rows=256, tile_columns=128)


def test_a_matrix_counted_by_hand() -> None:
    """600 x 200 on 256 x 128: 3 tiles along the inputs, 2 along the outputs; 4 one-bit steps."""
    cost = matrix_cost(600, 200, CHIP)
    assert cost.arrays == 6
    assert cost.utilisation == pytest.approx(600 * 200 / (6 * 256 * 128))
    assert cost.cycles == 4 * 128
    assert cost.nanoseconds == pytest.approx(4 * (3.16 + 128 / 1.28))
    assert cost.cell == pytest.approx(4 * 600 * 200 * 2 * 1.12e-3)
    assert cost.driver == pytest.approx(4 * 600 * 2 * 0.39)
    assert cost.adc == pytest.approx(4 * 3 * 200 * 1.6)
    assert cost.digital == pytest.approx(4 * 3 * 200 * 0.02 + 2 * 200 * 0.1)
    assert cost.energy == pytest.approx(cost.cell + cost.driver + cost.adc + cost.digital)
    assert cost.adc_share == pytest.approx(cost.adc / cost.energy)
    assert 0.4 < cost.adc_share < 0.9


def test_the_table_of_converters() -> None:
    assert [adc_energy(bits) for bits in (4, 6, 8, 10)] == pytest.approx([0.7, 1.26, 1.6, 4.6])
    assert adc_energy(7) == pytest.approx((1.26 * 1.6) ** 0.5)
    assert [adc_area(bits) for bits in (4, 6, 8)] == [500, 580, 1200]
    assert [adc_energy(bits) for bits in (2, 11, 12)] == pytest.approx([0.7**2 / 1.26, 4 * 4.6, 16 * 4.6])
    for bits in (0, 13, 8.0, True):
        with pytest.raises(InputError, match="known from 1 to 12 bits"):
            adc_energy(bits)
    with pytest.raises(InputError, match="known for 4, 6 and 8 bits, got 10"):
        adc_area(10)


@pytest.mark.parametrize(
    ("rows", "driver", "cell", "coding", "bits"),
    [
        (128, 1, 1, "pair", 7),
        (128, 1, 2, "pair", 8),
        (256, 2, 1, "offset", 10),
        (100, 1, 1, "pair", 7),
        (1, 1, 1, "pair", 0),
    ],
)
def test_bits_of_a_lossless_converter(rows: int, driver: int, cell: int, coding: str, bits: int) -> None:
    assert lossless_adc_bits(rows, driver, cell, coding) == bits


def test_energy_is_nearly_linear_in_the_bits_of_the_activations() -> None:
    energies = {bits: matrix_cost(600, 200, dataclasses.replace(CHIP, dac_bits=bits)).energy for bits in (2, 4, 8)}
    assert energies[4] / energies[2] == pytest.approx(2, rel=0.01)
    assert energies[8] / energies[2] == pytest.approx(4, rel=0.02)


def test_copies_cost_copies() -> None:
    one, three = matrix_cost(600, 200, CHIP), matrix_cost(600, 200, CHIP, copies=3)
    assert three.arrays == 3 * one.arrays
    assert (three.adc, three.cell, three.driver) == pytest.approx((3 * one.adc, 3 * one.cell, 3 * one.driver))
    assert three.cycles == one.cycles, "they work side by side"
    assert three.utilisation == pytest.approx(one.utilisation)


def test_a_model_is_the_sum_of_its_matrices(llama: nn.Module) -> None:
    report = model_cost(llama, CHIP)
    energies = [row.value for row in report.select("energy") if row.condition.startswith("model.")]
    assert len(energies) == 14
    assert report.value("energy", "all selected weights") == pytest.approx(sum(energies))
    assert report.value("arrays", "all selected weights") == 14
    assert report.value("energy", "model.layers.0.mlp.up_proj") == pytest.approx(matrix_cost(32, 48, CHIP).energy)
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert report.value("energy", "digital") == pytest.approx(1.5 * weights)


def test_what_methods_add(llama: nn.Module) -> None:
    plain = model_cost(llama, CHIP).value("energy", "all selected weights")
    name = "model.layers.1.mlp.down_proj"
    redundant = model_cost(llama, CHIP, copies={name: 2})
    assert redundant.value("arrays", "all selected weights") == 15
    extra = matrix_cost(48, 32, CHIP, copies=2).energy - matrix_cost(48, 32, CHIP).energy
    assert redundant.value("energy", "all selected weights") == pytest.approx(plain + extra)
    hybrid = model_cost(llama, CHIP, digital_products=48 * 48).value("energy", "all selected weights")
    assert hybrid == pytest.approx(plain + 48 * 48 * 1.5)


def test_experts_are_all_stored_and_few_are_used() -> None:
    model = build("mixtral")  # 4 experts, 2 for a token
    report = model_cost(model, CHIP, select="experts")
    for row in report.select("arrays")[1:]:
        assert row.value == 4
    single = matrix_cost(32, 96, CHIP).energy
    assert report.value("energy", "model.layers.0.mlp.experts.gate_up_proj") == pytest.approx(2 * single)
    del model.config.num_experts_per_tok
    model.config = None
    with pytest.raises(InputError, match="does not say how many experts a token uses"):
        model_cost(model, CHIP, select="experts")


def test_a_chip_without_adc_costs_no_conversions_and_says_so() -> None:
    cost = matrix_cost(4, 4, dataclasses.replace(CHIP, adc_bits=None))
    assert cost.adc == cost.adc_share == 0
    assert cost.energy > 0
    report = model_cost(nn.Sequential(nn.Linear(4, 4)), dataclasses.replace(CHIP, adc_bits=None), select="0")
    assert any("no ADC" in note for note in report.notes)
    assert not any("no ADC" in note for note in model_cost(nn.Sequential(nn.Linear(4, 4)), CHIP, select="0").notes)


def test_slices_of_weights_and_of_inputs_counted_by_hand() -> None:
    plain = dataclasses.replace(CHIP, dac_bits=8)
    serial = dataclasses.replace(plain, input_slice_bits=2, cell_levels=4, weight_slices=3)
    one, cost = matrix_cost(600, 200, plain), matrix_cost(600, 200, serial)
    assert cost.arrays == 3 * one.arrays == 18
    assert cost.utilisation == pytest.approx(one.utilisation)
    assert cost.cycles == 4 * 128, "seven bits of magnitude, two at once"
    assert cost.adc == pytest.approx(3 * 4 * 3 * 200 * 1.6)
    assert cost.cell == pytest.approx(3 * 4 * 600 * 200 * 2 * 1.12e-3)
    assert cost.digital == pytest.approx(3 * 4 * 3 * 200 * 0.02 + (3 * 3 - 1) * 200 * 0.1)
    assert matrix_cost(600, 200, serial, input_bits=1).cycles == 128, "a sign takes a step too"


def test_a_ramp_takes_a_step_for_each_code_and_all_outputs_at_once() -> None:
    ramp = dataclasses.replace(CHIP, adc="ramp")
    cost = matrix_cost(600, 200, ramp, parts=Parts(ramp_step=0.01))
    assert cost.cycles == 4
    assert cost.nanoseconds == pytest.approx(4 * (3.16 + 256))
    assert cost.adc == pytest.approx(4 * 3 * 200 * 256 * 0.01)
    assert matrix_cost(600, 200, ramp).adc == 0
    model = nn.Sequential(nn.Linear(4, 4))
    assert any("step of a ramp" in note for note in model_cost(model, ramp, select="0").notes)
    assert not any("ramp" in n for n in model_cost(model, ramp, select="0", parts=Parts(ramp_step=0.01)).notes)


@pytest.mark.parametrize("bits", [*range(1, 13), None])
def test_every_resolution_has_a_cost(bits: int | None) -> None:
    cost = matrix_cost(600, 200, dataclasses.replace(CHIP, adc_bits=bits))
    assert cost.nanoseconds > 0
    assert cost.adc == pytest.approx(4 * 3 * 200 * adc_energy(bits) if bits else 0)


def test_buffers_are_a_range_beside_the_sum() -> None:
    model = nn.Sequential(nn.Linear(600, 200))
    report = model_cost(model, CHIP, select="0")
    assert report.value("buffer_energy", "8 KB") == pytest.approx(800 * 0.5 * 1.25)
    assert report.value("buffer_energy", "1 MB") == pytest.approx(800 * 0.5 * 12.5)
    assert report.value("energy", "all selected weights") == pytest.approx(matrix_cost(600, 200, CHIP).energy)
    assert "500 pJ/token more in memories of 8 KB, 5e+03 in ones of 1 MB" in report.notes[0]


def test_groups_of_a_convolution_are_counted_one_by_one() -> None:
    grouped, one = nn.Sequential(nn.Conv2d(8, 12, 3, groups=4)), nn.Sequential(nn.Conv2d(2, 3, 3))
    of_all, of_one = (model_cost(model, CHIP, select="conv") for model in (grouped, one))
    for metric in ("arrays", "energy"):
        assert of_all.value(metric, "0") == pytest.approx(4 * of_one.value(metric, "0"))
    assert of_all.value("energy", "digital") == pytest.approx(4 * of_one.value("energy", "digital"))


def test_a_transposed_convolution_takes_a_position_and_gives_a_patch() -> None:
    report = model_cost(nn.Sequential(nn.ConvTranspose2d(8, 12, 3, groups=4)), CHIP, select="conv")
    assert report.value("energy", "0") == pytest.approx(4 * matrix_cost(2, 3 * 9, CHIP).energy)
    assert report.value("energy", "digital") == pytest.approx(1.5 * 4 * 2 * 3 * 9)


def test_recurrent_layers_and_attention_are_counted_matrix_by_matrix() -> None:
    lstm = nn.LSTM(20, 30, num_layers=2, bidirectional=True, proj_size=10)
    report = model_cost(nn.Sequential(lstm), CHIP, select="0")
    assert {row.condition for row in report.select("energy")} == {
        "all selected weights", "digital", *(f"0.{name}" for name, p in lstm.named_parameters() if p.ndim == 2),
    }  # fmt: skip
    expected = matrix_cost(20, 120, CHIP).energy + matrix_cost(10, 120, CHIP).energy + matrix_cost(30, 10, CHIP).energy
    first = sum(report.value("energy", f"0.weight_{part}_l0_reverse") for part in ("ih", "hh", "hr"))
    assert first == pytest.approx(expected)
    attention = nn.Sequential(nn.MultiheadAttention(16, 2))
    report = model_cost(attention, CHIP, select=nn.MultiheadAttention)
    assert report.value("arrays", "0.in_proj_weight") == 3
    assert report.value("energy", "0.in_proj_weight") == pytest.approx(3 * matrix_cost(16, 16, CHIP).energy)
    assert report.value("energy", "digital") == pytest.approx(1.5 * 3 * 16 * 16)


def test_what_is_multiplied_and_not_counted_is_said() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.GRU(4, 5), nn.Linear(5, 3), nn.LayerNorm(3))
    (note,) = [note for note in model_cost(model, CHIP, select="linear").notes if note.startswith("Not selected")]
    assert note == "Not selected, and not counted: 135 weights of 1.weight_ih_l0, 1.weight_hh_l0."
    assert not [note for note in model_cost(model, CHIP, select=["1", "2"]).notes if note.startswith("Not selected")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matrix_cost(0, 1, CHIP), "inputs must be an integer of at least 1, got 0"),
        (lambda: matrix_cost(1, 1.5, CHIP), "outputs must be an integer of at least 1, got 1.5"),
        (lambda: matrix_cost(1, 1, CHIP, copies=0), "copies must be an integer of at least 1, got 0"),
        (lambda: matrix_cost(1, 1, dataclasses.replace(CHIP, adc_bits=13)), "known from 1 to 12 bits, got 13"),
        (lambda: Parts(driver_bits=0), "driver_bits must be an integer of at least 1, got 0"),
        (lambda: Parts(ramp_step=-1), "ramp_step must be a finite number of at least 0, got -1"),
        (lambda: Parts(cell=-1), "cell must be a finite number of at least 0, got -1"),
        (lambda: lossless_adc_bits(0, 1, 1), "rows must be an integer of at least 1, got 0"),
        (lambda: lossless_adc_bits(8, 1, 1, "twos"), "coding must be pair or offset, got 'twos'"),
        (lambda: model_cost(build("llama"), CHIP, copies={"nowhere": 2}), "copies names 'nowhere', which is not"),
        (lambda: model_cost(build("llama"), CHIP, digital_products=-1), "digital_products must be"),
    ],
)
def test_bad_inputs(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
