"""Units equal their integer references for all codes of a format, and these the field's."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="the extra rtl is not installed")

from amaranth import Cat
from amaranth.sim import Simulator

from hardy.errors import InputError
from hardy.fields.integer_model import UnitCodes, _activated, _wave
from hardy.rtl import UNITS, Format, design
from hardy.rtl.exact_units import divided, stages_of
from hardy.rtl.macs import FloatMac
from hardy.rtl.pipeline import Pipeline, grouped
from hardy.rtl.simulation import simulate
from hardy.rtl.waves import folded_square

# What the methods allow at 12 fraction bits, in units of the last place: half a step of the table (8 codes of phase,
# at most pi / 2 steep), the sagitta of a line ((pi / 2)^2 / 8) and half for each rounding; of CORDIC and Gauss seen.
ERRORS = {
    "quad-generic": 0.5, "quad-folded": 0.5, "sine-table": 8 * np.pi / 2 + 0.51, "sine-interpolated": 1.31,
    "sine-polynomial": 2.5, "cordic-turns": 3, "cordic-radians": 5, "gauss": 1, "wire": 1.31 + 1 + 0.5, "finer": 2.1,
    "relu": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_every_code_of_four_periods_and_more(name: str) -> None:
    unit = design(name, Format(10, 6))
    codes = np.arange(-512, 512)
    found, wanted = simulate(unit.pipeline(), codes), unit.reference(codes)
    for port in unit.outputs:
        np.testing.assert_array_equal(found[port], wanted[port])


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(("bits", "fraction"), [(4, 1), (32, 30)])
def test_the_edges_of_what_a_format_holds(name: str, bits: int, fraction: int) -> None:
    unit = design(name, Format(bits, fraction))
    codes = unit.format.codes(100)
    found, wanted = simulate(unit.pipeline(), codes), unit.reference(codes)
    for port in unit.outputs:
        np.testing.assert_array_equal(found[port], wanted[port])


@pytest.mark.parametrize("name", UNITS)
def test_errors_are_those_of_the_method(name: str) -> None:
    unit = design(name, Format(16, 12))
    assert unit.error(unit.format.codes(1 << 16)) <= ERRORS[name]


@pytest.mark.parametrize("fraction", [1, 5, 12])
def test_quad_is_the_wave_of_the_integer_model(fraction: int) -> None:
    codes = np.arange(-(1 << 15), 1 << 15)
    unit = design("quad", Format(16, fraction))
    np.testing.assert_array_equal(unit.reference(codes)["y"], _wave("quad", codes, fraction))


def test_cordic_beats_its_rotations_error_with_more_bits() -> None:
    errors = [design("cordic-turns", Format(f + 4, f)).error(np.arange(-(2 << f), 2 << f)) / 2**f for f in (6, 8, 10)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("name", ["quad", "wire", "cordic-radians"])
def test_fewer_ranks_give_the_same_bits_sooner(name: str) -> None:
    unit = design(name, Format(9, 5))
    codes = unit.format.codes(512)
    for ranks in (1, 2):
        pipeline = unit.pipeline(ranks)
        assert pipeline.latency == ranks
        found = simulate(pipeline, codes)
        for port in unit.outputs:
            np.testing.assert_array_equal(found[port], unit.reference(codes)[port])


def test_values_are_carried_as_long_as_they_are_read() -> None:
    from amaranth import signed

    stages = (
        lambda m, v: {"double": v["x"] + v["x"]},
        lambda m, v: {"unused": v["x"] - 1},
        lambda m, v: {"y": v["double"] + v["x"]},
    )
    found = simulate(Pipeline(stages, {"x": signed(8)}, {"y": signed(10)}), np.arange(-128, 128))
    np.testing.assert_array_equal(found["y"], 3 * np.arange(-128, 128))


def test_groups_are_even_and_keep_the_order() -> None:
    stages = [lambda m, v: {}] * 7
    assert [len(group) for group in grouped(stages, 3)] == [2, 2, 3]
    with pytest.raises(InputError, match="ranks must be an integer from 1 to 7"):
        grouped(stages, 8)


def test_the_folded_square_is_the_square() -> None:
    from amaranth import unsigned

    pipeline = Pipeline([lambda m, v: {"y": folded_square(v["x"])}], {"x": unsigned(7)}, {"y": unsigned(14)})
    np.testing.assert_array_equal(simulate(pipeline, np.arange(128))["y"], np.arange(128) ** 2)


@pytest.mark.parametrize(
    ("bits", "fraction", "message"),
    [
        (3, 1, "bits must be an integer from 4 to 32"),
        (33, 8, "bits must be an integer from 4 to 32"),
        (16, 0, "fraction must be an integer of at least 1|fraction"),
        (16, 15, "fraction must be at most bits - 2 = 14"),
        (16, 20, "fraction must be at most bits - 2 = 14"),
    ],
)
def test_formats_that_cannot_be(bits: int, fraction: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Format(bits, fraction)


@pytest.mark.parametrize("by", [1, 3, 8, 255])
def test_division_by_a_constant_is_exact(by: int) -> None:
    from amaranth import signed

    pipeline = Pipeline([lambda m, v: {"y": divided(v["x"], by)}], {"x": signed(10)}, {"y": signed(12)})
    codes = np.arange(-512, 512)
    np.testing.assert_array_equal(simulate(pipeline, codes)["y"], codes // by)


@pytest.mark.parametrize("kind", ["relu", "gauss"])
def test_units_that_saturate_are_those_of_the_integer_model(kind: str) -> None:
    from amaranth import signed

    ends = [-(1 << 17), -32769, -32768, -32767, 32766, 32767, 32768, (1 << 17) - 1]
    codes, unit = np.concatenate([np.arange(-33000, 33000, 401), ends]), UnitCodes(kind=kind)
    pipeline = Pipeline(stages_of(unit, 12), {"x": signed(18)}, {"y": signed(16)})
    np.testing.assert_array_equal(simulate(pipeline, codes)["y"], _activated(unit, codes, 12))


def test_a_multiplier_of_binary32_rounds_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    a, b = ((rng.standard_normal(600) * 2.0 ** rng.integers(-12, 12, 600)).astype(np.float32) for _ in "ab")
    a[::17], a[1::40], b[1::40] = 0, -a[::40], b[::40]  # zeros, and sums that cancel
    clear = rng.random(600) < 0.2
    mac, found, wanted, total = FloatMac(), [], [], np.float32(0)

    async def drive(context: Any) -> None:
        for x, y, first in zip(a.view(np.uint32).tolist(), b.view(np.uint32).tolist(), clear.tolist(), strict=True):
            context.set(Cat(mac.a, mac.b, mac.clear), x | y << 32 | first << 64)
            await context.tick()
            found.append(context.get(mac.sum))

    simulator = Simulator(mac)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    for x, y, first in zip(a, b, clear, strict=True):
        total = np.float32((np.float32(0) if first else total) + np.float32(x * y))
        wanted.append(total)
    np.testing.assert_array_equal(np.array(found, dtype=np.uint32).view(np.float32), np.array(wanted))


def test_unknown_units_are_named() -> None:
    with pytest.raises(InputError, match="quad-folded"):
        design("quad-foldd", Format(16, 12))
    with pytest.raises(InputError, match="squarer must be"):
        design("quad", Format(16, 12), "round")
