"""Weights over several cells, inputs in steps, converters of unequal parts, non-ohmic cells: against loops."""

import dataclasses
import json
import math

import pytest
import torch

from hardy.core import InputError
from hardy.core.rng import generator
from hardy.hardware import PCM, AdditiveDevice, Chip, Device, Periphery, ReramWan, analog_product, program_matrix
from hardy.hardware.converters import convert, draw_converters
from hardy.hardware.crossbar import ArrayState, cell_targets
from hardy.hardware.product import Clips, calibrated

IDEAL = Chip.preset("ideal")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(out: int = 7, width: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, width, generator=seeded(seed))


def product(
    x: torch.Tensor, held: ArrayState, chip: Chip, clips: Clips | None = None, **ranges: object
) -> torch.Tensor:
    periphery = Periphery.of(chip, **ranges)  # pyright: ignore[reportArgumentType]
    return analog_product(
        x, held.weight, held.scale, held.read_variance, periphery, seeded(), clips,
        converters=held.converters, slices=held.slices,
    )  # fmt: skip


@pytest.mark.parametrize("device", [AdditiveDevice(program=0.1), PCM()], ids=["additive", "pcm"])
@pytest.mark.parametrize(("levels", "slices"), [(2, 7), (4, 3), (16, 2), (5, 1)])
def test_programming_against_a_loop_over_cells(device: Device, levels: int, slices: int) -> None:
    weight, seconds = matrix(3, 4), 60.0 if isinstance(device, PCM) else 0.0
    weight[1, 2] = 0
    chip = Chip(device=device, cell_levels=levels, weight_slices=slices)
    held = program_matrix(weight, chip, seed=5, site="layer", seconds=seconds)
    most, span = levels**slices - 1, device.g_max - device.g_min
    for number in range(slices):
        name = "layer" if slices == 1 else f"layer.slice{number}"
        normals = torch.randn(device.normals, 2, 3, 4, generator=generator(5, "chip", name, 0, 0, "cells"))
        part = held.slices[number] if slices > 1 else held
        worth = (levels - 1) * levels ** (slices - 1 - number) / most
        for o in range(3):
            full = weight[o].abs().max().item()
            assert part.scale[o, 0].item() == pytest.approx(full * worth)
            for i in range(4):
                code = round(abs(weight[o, i].item()) / full * most)
                digit = code // levels ** (slices - 1 - number) % levels
                cells = []
                for side, sign in enumerate((1, -1)):
                    share = digit / (levels - 1) if sign * weight[o, i].item() > 0 else 0
                    target = torch.tensor([device.g_min + share * span], dtype=torch.float64)
                    draw = normals[:, side, o, i].reshape(-1, 1)
                    cells.append(device.conductance(target, draw, seconds).item())
                expected = (cells[0] - cells[1]) / span * full * worth
                assert part.weight[o, i].item() == pytest.approx(expected, rel=1e-4, abs=2e-5)
    if slices > 1:
        torch.testing.assert_close(held.weight, torch.stack([part.weight for part in held.slices]).sum(0))


@pytest.mark.parametrize(("levels", "slices"), [(None, 1), (4, 1), (4, 3)])
def test_what_cells_are_told_is_what_perfect_ones_hold(levels: int | None, slices: int) -> None:
    weight = matrix()
    chip = Chip(device=AdditiveDevice(g_min=2.0), cell_levels=levels, weight_slices=slices, tile_rows=4, tile_columns=3)
    told = cell_targets(weight, chip)
    held = program_matrix(weight, chip, seed=0, site="x")
    assert len(told) == slices
    for cells, part in zip(told, held.slices or (held,), strict=True):
        full = part.scale.repeat_interleave(4, 1)[:, :10]
        torch.testing.assert_close((cells[0] - cells[1]) / 23 * full, part.weight)
        assert cells.min() == 2
        if levels:
            numbers = (cells - 2) / 23 * (levels - 1)
            assert (numbers - numbers.round()).abs().max() < 1e-4


@pytest.mark.parametrize(("levels", "slices"), [(2, 1), (2, 8), (4, 4), (16, 1), (256, 3)])
def test_perfect_cells_hold_a_weight_to_half_a_level(levels: int, slices: int) -> None:
    weight = matrix(20, 30)
    chip = dataclasses.replace(IDEAL, cell_levels=levels, weight_slices=slices, tile_rows=8, weight_range="tile")
    held = program_matrix(weight, chip, seed=0, site="x")
    full = held.scale.repeat_interleave(8, 1)[:, :30]
    assert ((held.weight - weight).abs() <= full / (levels**slices - 1) / 2 * (1 + 1e-4) + 1e-6).all()
    torch.testing.assert_close(chip.program(held.weight, seed=0, site="x"), held.weight, rtol=0, atol=1e-6)


def test_noise_of_a_slice_counts_as_its_digit_does() -> None:
    """Reads of the sum of two slices: each has the noise of a cell, times what its digit is worth."""
    weight = matrix()
    device = AdditiveDevice.of_weight(read=0.05)
    held = program_matrix(weight, Chip(device=device, cell_levels=16, weight_slices=2), seed=0, site="x")
    full = weight.abs().amax(1, keepdim=True)
    expected = (0.05 * full).square() * ((15 * 16 / 255) ** 2 + (15 / 255) ** 2)
    torch.testing.assert_close(held.read_variance, expected, rtol=1e-4, atol=0)
    x = matrix(1, 10, seed=1)
    y = product(x.expand(100_000, -1), held, Chip(device=device))
    torch.testing.assert_close(y.std(0), x.norm() * expected[:, 0].sqrt(), rtol=0.015, atol=0)


def slow_product(x: torch.Tensor, held: ArrayState, chip: Chip, adc_ranges: list[float]) -> torch.Tensor:
    """Vector by vector, step by step, slice by slice, tile by tile, sum by sum; without noise."""
    parts = held.slices or (held,)
    result = torch.zeros(len(x), len(held.weight), dtype=torch.float64)
    top = 2 ** (chip.dac_bits - 1) - 1 if chip.dac_bits else 0
    for v, vector in enumerate(x.double().tolist()):
        full = max(abs(value) for value in vector) or 1.0
        if not chip.dac_bits:
            steps = [([value / full for value in vector], full)]
        else:
            codes = [round(value * top / full) for value in vector]
            if chip.input_slice_bits is None:
                steps = [([code / top for code in codes], full)]
            else:
                base, steps = 2**chip.input_slice_bits, []
                for k in range(math.ceil((chip.dac_bits - 1) / chip.input_slice_bits)):
                    digits = [int(math.copysign(abs(code) // base**k % base, code)) for code in codes]
                    steps.append(([d / (base - 1) for d in digits], full * (base - 1) * base**k / top))
        if b := chip.nonlinearity:
            steps = [([math.sinh(b * u) / math.sinh(b) for u in on_rows], worth) for on_rows, worth in steps]
        for on_rows, worth in steps:
            for part, adc_range in zip(parts, adc_ranges, strict=True):
                for o in range(len(held.weight)):
                    for tile, left in enumerate(range(0, len(vector), chip.tile_rows)):
                        right = min(len(vector), left + chip.tile_rows)
                        one = part.scale[o, tile].item()
                        cells = sum(on_rows[i] * part.weight[o, i].item() for i in range(left, right)) / one
                        if chip.adc_bits:
                            codes_out = 2 ** (chip.adc_bits - 1) - 1
                            code = max(-codes_out, min(codes_out, round(cells / adc_range * codes_out)))
                            cells = code * adc_range / codes_out
                        result[v, o] += worth * one * cells
    return result


@pytest.mark.parametrize("input_slice_bits", [None, 1, 3])
@pytest.mark.parametrize("weight_slices", [1, 2])
@pytest.mark.parametrize("adc_bits", [None, 7])
@pytest.mark.parametrize("nonlinearity", [0.0, 2.0])
def test_products_against_a_loop(
    input_slice_bits: int | None, weight_slices: int, adc_bits: int | None, nonlinearity: float
) -> None:
    chip = dataclasses.replace(
        IDEAL, dac_bits=6, input_slice_bits=input_slice_bits, cell_levels=16, weight_slices=weight_slices,
        tile_rows=4, adc_bits=adc_bits, nonlinearity=nonlinearity,
    )  # fmt: skip
    weight, x = matrix(), matrix(6, 10, seed=1)
    x[3] = 0
    held = program_matrix(weight, chip, seed=0, site="x")
    _, ranges = calibrated(x, weight, held.scale, chip, slices=held.slices)
    assert adc_bits is None or isinstance(ranges, tuple) == (weight_slices > 1)
    each = list(ranges) if isinstance(ranges, tuple) else [ranges or 1.0] * weight_slices
    fast = product(x, held, chip, output_range=ranges).double()
    off = (fast - slow_product(x, held, chip, each)).abs()
    # A sum on the edge between two codes may fall to either side in float32: rarely.
    assert (off > 2e-4).double().mean() <= (0.05 if adc_bits else 0)


def test_steps_and_slices_change_nothing_where_converters_lose_nothing() -> None:
    weight, x = matrix(), matrix(6, 10, seed=1)
    plain = dataclasses.replace(IDEAL, dac_bits=8, cell_levels=256)
    sliced = dataclasses.replace(
        plain, cell_levels=4, weight_slices=4, input_slice_bits=1, adc_bits=16, adc_range=16.0, tile_rows=4
    )
    held = [program_matrix(weight, chip, seed=0, site="x") for chip in (plain, sliced)]
    torch.testing.assert_close(held[0].weight, held[1].weight)
    first, second = product(x, held[0], plain), product(x, held[1], sliced)
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-2)
    assert (first - second).norm() < 1e-3 * first.norm()


def test_inputs_of_one_bit_do_not_meet_the_curve_of_the_cells() -> None:
    weight, x = matrix(), matrix(6, 10, seed=1)
    ohmic = dataclasses.replace(IDEAL, dac_bits=6, input_slice_bits=1)
    held = program_matrix(weight, ohmic, seed=0, site="x")
    for bits, same in ((1, True), (2, False)):
        chips = [dataclasses.replace(ohmic, input_slice_bits=bits, nonlinearity=b) for b in (0.0, 2.0)]
        first, second = (product(x, held, chip) for chip in chips)
        assert torch.allclose(first, second, rtol=1e-5, atol=1e-5) is same
    analog = dataclasses.replace(IDEAL, dac_range=2.0, nonlinearity=2.0)
    expected = 2 / math.sinh(2.0) * torch.sinh(x) @ weight.T
    torch.testing.assert_close(product(x, held, analog), expected)
    assert analog.has_range
    assert not analog.without_periphery().has_periphery


def test_every_slice_has_a_range_of_its_own_and_counts_its_clips() -> None:
    weight, x = matrix(16, 64), matrix(64, 64, seed=1)
    chip = dataclasses.replace(
        IDEAL, cell_levels=16, weight_slices=2, dac_bits=8, adc_bits=8, tile_rows=32, adc_percentile=100
    )
    held, clips = program_matrix(weight, chip, seed=0, site="x"), Clips()
    _, ranges = calibrated(x, weight, held.scale, chip, slices=held.slices)
    assert isinstance(ranges, tuple)
    assert ranges[0] != ranges[1]
    one_each = product(x, held, chip, clips, output_range=ranges) - x @ weight.T
    assert clips.of_outputs == 2 * 64 * 16 * 2
    assert clips.of_inputs == 64 * 64
    assert int(clips.outputs) <= 2  # a sum of exact inputs, and one of rounded ones
    shared = product(x, held, chip, output_range=max(*ranges, 12.0)) - x @ weight.T
    assert one_each.norm() < shared.norm()


def slow_code(value: float, parts: list[float], adc: str) -> int:
    """The code of one converter for one sum, in the order in which the circuit finds it."""
    size, code = abs(value) + 0.5, 0
    if adc == "ramp":
        while code < len(parts) and parts[code] <= size:
            code += 1
    else:
        level = 0.0
        for bit, capacitor in enumerate(parts):
            if size >= level + capacitor:
                level, code = level + capacitor, code + 2 ** (len(parts) - 1 - bit)
    return code if value >= 0 else -code


@pytest.mark.parametrize("adc", ["sar", "ramp"])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_converters_against_one_conversion_after_another(adc: str, bits: int) -> None:
    chip = dataclasses.replace(IDEAL, adc=adc, adc_bits=bits, adc_mismatch=0.1, tile_rows=4, tile_columns=3)
    parts = draw_converters(chip, torch.Size((7, 10)), 3, "layer")
    assert parts is not None
    codes = 2 ** (bits - 1) - 1
    values = torch.rand(3, 20, 7, generator=seeded()) * 2.4 * codes - 1.2 * codes
    fast = convert(values, parts, chip.adc, 3)
    for tile in range(3):
        for v in range(20):
            for o in range(7):
                own = parts[:, tile, o // 3 if adc == "ramp" else o].tolist()
                assert fast[tile, v, o].item() == slow_code(values[tile, v, o].item(), own, adc)
    assert fast.abs().max() <= codes
    if bits > 2:  # of one part nothing is left after trimming
        assert not torch.equal(fast, values.round().clamp(-codes, codes))


@pytest.mark.parametrize("adc", ["sar", "ramp"])
def test_converters_of_equal_parts_round(adc: str) -> None:
    chip = dataclasses.replace(IDEAL, adc=adc, adc_bits=6, adc_mismatch=1e-9)
    parts = draw_converters(chip, torch.Size((5, 4)), 0, "layer")
    assert parts is not None
    values = torch.rand(1, 200, 5, generator=seeded()) * 80 - 40
    assert torch.equal(convert(values, parts, chip.adc, 512), values.round().clamp(-31, 31))
    assert draw_converters(dataclasses.replace(chip, adc_mismatch=0.0), torch.Size((5, 4)), 0, "layer") is None


def test_errors_of_a_ramp_add_up_and_those_of_capacitors_are_their_own() -> None:
    """Middle of a ramp of n trimmed steps: `m sqrt(n) / 2`; largest capacitor of n/2 units, likewise trimmed."""
    chip = dataclasses.replace(IDEAL, adc_bits=8, adc_mismatch=0.05, tile_rows=1, tile_columns=1)
    ramp = draw_converters(dataclasses.replace(chip, adc="ramp"), torch.Size((40, 50)), 1, "x")
    sar = draw_converters(chip, torch.Size((40, 50)), 1, "x")
    assert ramp is not None
    assert sar is not None
    bridge = 0.05 * math.sqrt(127) / 2
    assert ramp[62].std().item() == pytest.approx(bridge, rel=0.06)
    assert sar[0].std().item() == pytest.approx(bridge, rel=0.06)
    for parts, last in ((ramp[-1], 127.0), (sar.sum(0), 127.0)):
        torch.testing.assert_close(parts, torch.full_like(parts, last))


def test_one_bit_is_the_sign_of_each_tile() -> None:
    weight, x = matrix(), matrix(6, 10, seed=1)
    chip = dataclasses.replace(IDEAL, adc_bits=1, adc_range=2.0, adc_mismatch=0.1, tile_rows=5)
    held = program_matrix(weight, chip, seed=0, site="x")
    signs = (x[:, :5] @ weight[:, :5].T).sign() + (x[:, 5:] @ weight[:, 5:].T).sign()
    expected = 2 * signs * weight.abs().amax(1) * x.abs().amax(1, keepdim=True)
    torch.testing.assert_close(product(x, held, chip), expected)


def test_a_chip_instance_has_its_own_converters() -> None:
    weight, x = matrix(), matrix(6, 10, seed=1)
    for adc in ("sar", "ramp"):
        chip = dataclasses.replace(IDEAL, dac_bits=8, adc_bits=5, adc_range=6.0, adc=adc, adc_mismatch=0.2)
        outputs = [
            product(x, program_matrix(weight, chip, seed=seed, site=site), chip)
            for seed, site in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
        ]
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])
        assert not torch.equal(outputs[0], outputs[3])
        even = dataclasses.replace(chip, adc_mismatch=0.0)
        assert not torch.equal(outputs[0], product(x, program_matrix(weight, even, seed=0, site="a"), even))


def test_through_json_and_back() -> None:
    chip = Chip(
        device=ReramWan(), cell_levels=4, weight_slices=4, dac_bits=8, input_slice_bits=1, adc_bits=8, adc="ramp",
        adc_mismatch=0.02, nonlinearity=1.5,
    )  # fmt: skip
    assert Chip.from_dict(json.loads(json.dumps(chip.to_dict()))) == chip
    former = {name: value for name, value in IDEAL.to_dict().items() if name not in {"weight_slices", "adc"}}
    assert Chip.from_dict(former) == IDEAL


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell_levels": 1}, "cell_levels \\(or None\\) must be an integer from 2 to 65536, got 1"),
        ({"weight_slices": 0}, "weight_slices must be an integer from 1 to 16, got 0"),
        ({"weight_slices": 2}, "weight_slices=2 needs cell_levels, the base of their digits"),
        ({"weight_slices": 7, "cell_levels": 16}, "7 cells of 16 levels hold more than 24 bits"),
        ({"input_slice_bits": 1}, "input_slice_bits needs dac_bits"),
        (
            {"input_slice_bits": 8, "dac_bits": 8},
            "input_slice_bits \\(or None\\) must be an integer from 1 to 7, got 8",
        ),
        ({"adc": "flash"}, "adc must be sar or ramp, got 'flash'"),
        ({"adc_mismatch": 0.6}, "adc_mismatch must be .* from 0 to 0.5, got 0.6"),
        ({"nonlinearity": -1}, "nonlinearity must be .* from 0 to 20, got -1"),
        ({"nonlinearity": 1, "wire_resistance": 1}, "a chip has nonlinearity or wire_resistance, got 1 and 1"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(IDEAL, **fields)
