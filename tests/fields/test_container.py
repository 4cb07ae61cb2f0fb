"""Fields in integers as files: whole again, the same codes in NumPy and in torch, damage noticed whatever it is."""

import contextlib
import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.core import InputError
from hardy.fields import Field, HadamardQuant, IntegerField, IntegerModel, Signal, Wire, grid_coordinates, sample_photo
from hardy.fields.activations import KINDS
from hardy.fields.container import MAGIC, Contents, load_fields, packed, save_fields, unpacked
from hardy.fields.entropy import Reader, Writer
from hardy.fields.integer_model import grid_numerators

SIGNAL = sample_photo("flower", (9, 12))


def made(kind: str, rotate: str = "never", **settings: int) -> IntegerField:
    field = Field(2, 3, hidden_features=24, hidden_layers=2, activation=kind, seed=1)
    return HadamardQuant(rotate=rotate, **settings).quantize(field, SIGNAL)  # pyright: ignore


def same(a: IntegerModel, b: IntegerModel) -> bool:
    """Whether all numbers and arrays are equal."""
    first, second = packed([a]), packed([b])
    return first == second and np.array_equal(a.codes(POINTS, (9, 12)), b.codes(POINTS, (9, 12)))


POINTS = grid_numerators((9, 12))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rotate", ["never", "always"])
def test_numpy_and_torch_give_the_same_codes_with_any_number_of_threads(kind: str, rotate: str) -> None:
    field = made(kind, rotate, weight_bits=6, activation_bits=7)
    expected = field.model.codes(POINTS, (9, 12))
    assert expected.dtype == np.int64
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert np.array_equal(field.render((9, 12)).reshape(-1, 3).numpy(), expected)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(field.model.pixels((7, 5)), field.pixels((7, 5)).numpy())
    assert np.array_equal(field.model.pixels((7, 5), 16), field.pixels((7, 5), 16).numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rotate", ["never", "always"])
def test_a_saved_field_is_the_same_field(kind: str, rotate: str, tmp_path: Path) -> None:
    field = made(kind, rotate)
    size = field.save(tmp_path / "field.hardy")
    back = IntegerField.load(tmp_path / "field.hardy")
    assert size == (tmp_path / "field.hardy").stat().st_size
    assert size < field.bits / 8 + 100  # scales and biases are counted generously, and weights are entropy-coded
    assert same(field.model, back.model)
    assert torch.equal(back.render((4, 5)), field.render((4, 5)))
    assert (back.bits, back.rotated) == (field.bits, field.rotated)


def test_a_function_of_its_own_travels_as_a_table(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    field = HadamardQuant().quantize(model, SIGNAL)
    field.save(tmp_path / "tanh.hardy")
    assert torch.equal(IntegerField.load(tmp_path / "tanh.hardy").render((9, 12)), field.render((9, 12)))


def test_complex_matrices_are_stored_once() -> None:
    """WIRE's hidden matrices are [[re, -im], [im, re]] in real numbers; they count and are written once."""
    field = Field(2, 3, hidden_features=34, hidden_layers=3, activation=Wire())
    width = field.layers[1].weight.shape[0]
    for rotate in ("never", "always"):
        result = HadamardQuant(rotate=rotate).quantize(field, SIGNAL)
        hidden = result.model.layers[1]
        assert hidden.is_complex
        assert hidden.codes.shape == (2 * width, 2 * width)
        assert hidden.stored_bits == 2 * width * width * 8 + width * 30 + 2 * width * 32
        assert not result.model.layers[0].is_complex


def test_a_file_of_known_bytes_shows_known_pixels() -> None:
    """Weights that are exact in binary: file and picture are these wherever the test runs."""
    field = Field(2, 1, hidden_features=12, hidden_layers=2, activation="sine")
    with torch.no_grad():
        for index, parameter in enumerate(field.parameters()):
            places = torch.arange(parameter.numel()).reshape(parameter.shape)
            parameter.copy_(((places * 37 + 11 * index) % 64 - 32) / 1024.0)
    values = Signal.on_grid(field(grid_coordinates((8, 8))).detach().clamp(-1, 1).reshape(8, 8, 1))
    data = packed([HadamardQuant(rotate="never").quantize(field, values).model])
    (model,), _ = unpacked(data)
    digests = [hashlib.sha256(part).hexdigest()[:16] for part in (data, model.pixels((33, 47)).tobytes())]
    assert digests == KNOWN


KNOWN = ["e17f57d0b9a736b8", "5d7e3070267cc739"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_integers_come_back(data: st.DataObject) -> None:
    """Arrays of all spreads and offsets, beside numbers."""
    low = data.draw(st.integers(-(2**40), 2**40))
    span = data.draw(st.sampled_from([0, 1, 5, 255, 4095, 4096, 2**24, 2**40]))
    values = np.array(data.draw(st.lists(st.integers(low, low + span), min_size=1, max_size=40)))
    shifted = values << data.draw(st.integers(0, 4))
    number = data.draw(st.integers(0, 2**62))
    writer = Writer()
    writer.number(number)
    writer.array(shifted)
    writer.signed(-number // 2)
    writer.array(np.array([[1, -1], [0, 1]]))
    reader = Reader(writer.finished())
    assert reader.number() == number
    assert np.array_equal(reader.array(shifted.shape, 2**50), shifted)
    assert reader.signed() == -number // 2
    assert reader.array((2, 2), 1).tolist() == [[1, -1], [0, 1]]
    reader.finish()


@pytest.mark.parametrize("draw", ["gauss", "laplace", "even"])
def test_codes_cost_what_their_spread_allows(draw: str) -> None:
    """Within 3 % and the width's bytes of the entropy of the codes' own histogram, which a decoder would need too."""
    random = np.random.default_rng(0)
    values = {
        "gauss": random.normal(0, 9, 6000).round(),
        "laplace": random.laplace(0, 9, 6000).round(),
        "even": random.integers(-30, 31, 6000),
    }[draw].astype(np.int64)
    _, counts = np.unique(values, return_counts=True)
    entropy = -(counts * np.log2(counts / 6000)).sum() / 8
    writer = Writer()
    writer.array(values)
    assert len(writer.finished()) < 1.03 * entropy + 12


def test_fields_with_a_common_layer_share_it(tmp_path: Path) -> None:
    first = made("quad").model
    alone = len(packed([first]))
    together = save_fields([first, first], tmp_path / "two.hardy", Contents(kind="image", grids=((9, 12), (3, 4))))
    assert together < 1.4 * alone
    models, contents = load_fields(tmp_path / "two.hardy")
    assert all(same(model, first) for model in models)
    assert contents.grids == ((9, 12), (3, 4))
    with pytest.raises(InputError, match="holds 2 fields, not one"):
        IntegerField.load(tmp_path / "two.hardy")


FILE = packed([made("finer").model], Contents(kind="image", grids=((9, 12),)))


@given(st.integers(0, len(FILE) * 8 - 1))
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_goes_unnoticed(bit: int) -> None:
    broken = bytearray(FILE)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InputError, match="truncated or damaged|no file of hardy|is of version"):
        unpacked(bytes(broken))


@given(st.integers(0, len(FILE) - 1))
@settings(max_examples=60, deadline=None)
def test_no_truncation_goes_unnoticed(length: int) -> None:
    with pytest.raises(InputError, match="empty|truncated"):
        unpacked(FILE[:length])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_files_with_a_right_checksum_and_wrong_contents_are_read_or_refused(data: st.DataObject) -> None:
    """Whoever forges a checksum gets some field or one clear error, nothing else."""
    body = bytearray(FILE[9:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, min(120, len(body) - 1)))] = data.draw(st.integers(0, 255))
    forged = MAGIC + b"\x01" + zlib.crc32(body).to_bytes(4, "little") + bytes(body)
    with contextlib.suppress(InputError):
        models, _ = unpacked(forged)
        assert all(isinstance(model, IntegerModel) for model in models)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "no file of hardy's fields"),
        (MAGIC + b"\x04" + FILE[5:], "is of version 4; this hardy reads versions 1 to 3"),
        (FILE + b"\0", "truncated or damaged"),
        (FILE[:7], "the file is truncated"),
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.hardy").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_fields(tmp_path / "bad.hardy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read .*none.hardy: No such file"):
        load_fields(tmp_path / "none.hardy")
