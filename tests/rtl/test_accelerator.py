"""The accelerator computes the integer model's codes, layer by layer, in the cycles that its plan says."""

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="the extra rtl is not installed")

from hardy.errors import InputError
from hardy.fields.integer_model import (
    IntegerModel,
    LinearCodes,
    Requantization,
    UnitCodes,
    grid_numerators,
    hadamard_matrix,
)
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.drawing_pixels import Drawn, draw
from hardy.rtl.picture_testbench import taps
from hardy.rtl.program import Program
from hardy.rtl.transform import ParallelTransform

FRACTION = 6
UNITS = {
    "quad": UnitCodes(kind="quad"),
    "sine": UnitCodes(kind="sine"),
    "triangle": UnitCodes(kind="triangle"),
    "finer": UnitCodes(kind="finer", numbers=(5000000, 22)),
    "wavelet": UnitCodes(kind="wavelet", numbers=(500000,)),
    "gauss": UnitCodes(kind="gauss"),
    "relu": UnitCodes(kind="relu"),
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
    spread = {"gauss": 16, "relu": 18}.get(unit.kind, 24)
    layers = (linear(rng, width, 2, spread - 2), linear(rng, width, width, spread), linear(rng, 3, width, 27))
    steps = tuple(Requantization(m=7000000 + n, shift=23, zero=3 - 5 * n, bits=8, rotated=rotated) for n in range(2))
    return IntegerModel(layers=layers, units=(unit, unit), requantizations=steps, frequencies=0, fraction_bits=FRACTION)


def check(
    core: Accelerator, pixels: list[tuple[int, int]], drawn: Drawn, picture: int = 0, *, colours: int = 20
) -> None:
    """Colours, every layer's codes, and cycles; the picture has more than so many colours, and is no constant."""
    plan = core.program
    places = [y * plan.grid[1] + x for x, y in pixels]
    wanted = plan.models[picture].pixels(plan.grid).reshape(-1, 3)
    assert len(np.unique(wanted, axis=0)) > colours
    np.testing.assert_array_equal(drawn.colours, wanted[places])
    for name, codes in taps(plan, picture, grid_numerators(plan.grid)[places]).items():
        np.testing.assert_array_equal(drawn.taps[name], codes, err_msg=name)
    assert drawn.cycles == [sum(core.cycles.values())] * len(pixels)


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize(
    ("lanes", "transform", "rotated"), [(1, "none", False), (4, "serial", True), (16, "parallel", True)]
)
def test_pixels_and_codes_are_those_of_the_integer_model(kind: str, lanes: int, transform: str, rotated: bool) -> None:
    core = Accelerator(Program([random_model(UNITS[kind], rotated=rotated)], (16, 16), lanes, transform))
    pixels = [(0, 0), (3, 11), (15, 15)]
    drawn = draw(core, pixels, stalls=True)
    check(core, pixels, drawn)
    assert drawn.last.tolist() == [False, False, True]


def test_a_whole_picture_of_a_grid_that_is_no_power_of_two() -> None:
    core = Accelerator(Program([random_model(UNITS["quad"], rotated=False, width=4, seed=1)], (5, 11), 3))
    pixels = [(x, y) for y in range(5) for x in range(11)]
    check(core, pixels, draw(core, pixels))


@pytest.mark.parametrize(("grid", "lanes"), [((8, 8), 4), ((5, 12), 3)])
def test_coordinates_are_encoded_as_waves(grid: tuple[int, int], lanes: int) -> None:
    plain = random_model(UNITS["relu"], rotated=True, width=6)
    first = linear(np.random.default_rng(3), 6, 2 * (1 + 2 * 3), 27)
    model = dataclasses.replace(plain, layers=(first, *plain.layers[1:]), frequencies=3)
    core = Accelerator(Program([model], grid, lanes))
    pixels = [(0, 0), (3, 4), (5, 1), (grid[1] - 1, grid[0] - 1)]
    check(core, pixels, draw(core, pixels, stalls=True))


@pytest.mark.parametrize("grid", [(5, 11), (8, 8)])
def test_a_first_layer_that_counts_up_gives_the_same_codes(grid: tuple[int, int]) -> None:
    core = Accelerator(Program([random_model(UNITS["sine"], rotated=False, width=4, seed=2)], grid, 3, order="raster"))
    pixels = [(x, y) for y in range(grid[0]) for x in range(grid[1] if y % 2 else 2)]  # lines may end early
    pixels += [(0, 0), (1, 0), (0, 1)]  # and pictures
    check(core, pixels, draw(core, pixels, stalls=True))


def album(*, rotated: bool = False) -> list[IntegerModel]:
    """Two pictures whose second layers have the same weights."""
    one, two = (random_model(UNITS["wavelet"], rotated=rotated, width=8, seed=seed) for seed in (0, 1))
    shared = dataclasses.replace(two.layers[1], codes=one.layers[1].codes)
    return [one, dataclasses.replace(two, layers=(two.layers[0], shared, two.layers[2]))]


def test_pictures_of_an_album_are_written_one_after_the_other() -> None:
    core = Accelerator(Program(album(rotated=True), (8, 8), 3))
    assert core.program.shared == [False, True, False]
    assert core.contents.trunk
    pixels = [(2, 5), (7, 7)]
    for picture in (None, 1):
        check(core, pixels, draw(core, pixels, picture=picture), picture or 0, colours=4)


def test_albums_that_differ_in_more_than_weights_are_refused() -> None:
    one, two = album()
    with pytest.raises(InputError, match="picture 2 of the album differs from the first in its activations"):
        Program([one, dataclasses.replace(two, units=(UNITS["quad"], UNITS["wavelet"]))], (8, 8), 3)
    with pytest.raises(InputError, match="differs from the first in its transforms"):
        Program([one, album(rotated=True)[1]], (8, 8), 3)


@pytest.mark.parametrize(("width", "parts"), [(8, 1), (24, 1), (6, 1), (24, 2), (3, 1)])
def test_the_parallel_transform_is_the_hadamard_matrix(width: int, parts: int) -> None:
    from amaranth import signed
    from amaranth.sim import Simulator

    network = ParallelTransform(width, parts, signed(16))
    values = np.random.default_rng(0).integers(-100, 100, width)
    found, order = [], np.arange(width).reshape(parts, -1).T.reshape(-1)

    async def drive(context: Any) -> None:
        context.set(network.push, 1)
        for value in values[order].tolist():
            context.set(network.value, value)
            await context.tick()
        context.set(network.push, 0)
        context.set(network.go, 1)
        for step in range(network.steps):
            context.set(network.paley, int(step == 0 and network.base > 1))
            await context.tick()
        context.set(network.go, 0)
        context.set(network.pop, 1)
        for _ in range(width):
            found.append(context.get(network.first))
            await context.tick()

    simulator = Simulator(network)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    np.testing.assert_array_equal(np.array(found), (hadamard_matrix(width, parts) @ values)[order])


def test_what_cannot_be_built_is_said() -> None:
    model = random_model(UNITS["quad"], rotated=False)
    for lanes in (0, -4):
        with pytest.raises(InputError, match="lanes must be an integer of at least 1"):
            Program([model], (16, 16), lanes)
    with pytest.raises(InputError, match="quantized with Hadamard transforms"):
        Program([random_model(UNITS["quad"], rotated=True)], (16, 16), 4, "none")
    with pytest.raises(InputError, match="the grid's width must be an integer from 1 to 32768, got 0"):
        Program([model], (16, 0), 4)
    with pytest.raises(InputError, match="draws pictures"):
        Program([model], (16,), 4)  # pyright: ignore[reportArgumentType]
    layer = model.layers[1]
    heavy = LinearCodes(codes=layer.codes << 40, factors=layer.factors, shifts=layer.shifts, bias=layer.bias, bits=8)
    broken = IntegerModel(
        layers=(model.layers[0], heavy, model.layers[2]),
        units=model.units, requantizations=model.requantizations, frequencies=0, fraction_bits=FRACTION,
    )  # fmt: skip
    with pytest.raises(InputError, match="accumulator of layer 1 could need"):
        Program([broken], (16, 16), 4)
