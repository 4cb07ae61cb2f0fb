"""The accelerator draws what the integer model draws, in the cycles that its plan says."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="the extra rtl is not installed")

from hardy.errors import InputError
from hardy.fields.integer_model import IntegerModel, LinearCodes, Requantization, UnitCodes
from hardy.rtl.accelerator_core import Accelerator, divided
from hardy.rtl.drawing_pixels import draw
from hardy.rtl.pipeline import Pipeline
from hardy.rtl.program import Program
from hardy.rtl.simulation import simulate

FRACTION = 6
UNITS = {
    "quad": UnitCodes(kind="quad"),
    "sine": UnitCodes(kind="sine"),
    "triangle": UnitCodes(kind="triangle"),
    "finer": UnitCodes(kind="finer", numbers=(5000000, 22)),
    "wavelet": UnitCodes(kind="wavelet", numbers=(500000,)),
    "gauss": UnitCodes(kind="gauss"),
}


def linear(rng: np.random.Generator, rows: int, columns: int, shift: int) -> LinearCodes:
    return LinearCodes(
        codes=rng.integers(-128, 128, (rows, columns)),
        factors=rng.integers(1 << 22, 1 << 23, rows),
        shifts=np.full(rows, shift) + rng.integers(0, 2, rows),
        bias=rng.integers(-100, 100, rows),
        bits=8,
    )


def random_model(unit: UnitCodes, *, rotated: bool, width: int = 6, seed: int = 0) -> IntegerModel:
    rng = np.random.default_rng(seed)
    spread = 16 if unit.kind == "gauss" else 24
    layers = (linear(rng, width, 2, spread - 2), linear(rng, width, width, spread), linear(rng, 3, width, 27))
    steps = tuple(Requantization(m=7000000 + n, shift=23, zero=3 - 5 * n, bits=8, rotated=rotated) for n in range(2))
    return IntegerModel(layers=layers, units=(unit, unit), requantizations=steps, frequencies=0, fraction_bits=FRACTION)


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize(("lanes", "rotated"), [(1, False), (4, True)])
def test_pixels_are_those_of_the_integer_model(kind: str, lanes: int, rotated: bool) -> None:
    model, grid = random_model(UNITS[kind], rotated=rotated), (16, 16)
    program = Program(model, grid, lanes)
    core = Accelerator(program)
    pixels = [(0, 0), (3, 11), (14, 9), (15, 15)]
    found, last, cycles = draw(core, pixels, stalls=True)
    wanted = model.pixels(grid)
    np.testing.assert_array_equal(found, [wanted[y, x] for x, y in pixels])
    assert len(np.unique(wanted.reshape(-1, 3), axis=0)) > 20  # a picture, not a constant
    assert last.tolist() == [False] * 3 + [True]
    assert cycles == [sum(program.cycles(core.latencies).values())] * len(pixels)


def test_a_whole_picture_of_a_grid_that_is_no_power_of_two() -> None:
    model, grid = random_model(UNITS["quad"], rotated=False, width=4, seed=1), (5, 11)
    found, _, _ = draw(Accelerator(Program(model, grid, 3)), [(x, y) for y in range(5) for x in range(11)])
    np.testing.assert_array_equal(found.reshape(5, 11, 3), model.pixels(grid))


@pytest.mark.parametrize("by", [1, 2, 3, 5, 7, 8, 100, 255])
def test_division_by_a_constant_is_exact(by: int) -> None:
    from amaranth import signed

    pipeline = Pipeline([lambda m, v: {"y": divided(v["x"], by)}], {"x": signed(10)}, {"y": signed(12)})
    codes = np.arange(-512, 512)
    np.testing.assert_array_equal(simulate(pipeline, codes)["y"], codes // by)


def test_what_cannot_be_built_is_said() -> None:
    model = random_model(UNITS["quad"], rotated=False)
    for lanes in (0, -4):
        with pytest.raises(InputError, match="lanes must be an integer of at least 1"):
            Program(model, (16, 16), lanes)
    with pytest.raises(InputError, match="draws pictures"):
        Program(model, (16,), 4)  # pyright: ignore[reportArgumentType]
    layer = model.layers[1]
    heavy = LinearCodes(codes=layer.codes << 40, factors=layer.factors, shifts=layer.shifts, bias=layer.bias, bits=8)
    broken = IntegerModel(
        layers=(model.layers[0], heavy, model.layers[2]),
        units=model.units, requantizations=model.requantizations, frequencies=0, fraction_bits=FRACTION,
    )  # fmt: skip
    with pytest.raises(InputError, match="accumulator of layer 1 could need"):
        Program(broken, (16, 16), 4)
