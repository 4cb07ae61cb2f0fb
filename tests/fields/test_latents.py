"""Pictures as latents: integers as in slow loops, sizes and targets met, every kind of picture, and damage noticed."""

import hashlib
import io
import math
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardy.cli import main as command_line
from hardy.core import InputError
from hardy.fields import (
    IntegerField,
    LatentField,
    Signal,
    image,
    latent_context,
    latent_start,
    noisy_psnr,
    robustness,
    sample_photo,
)
from hardy.fields.codec import Encoded, decode
from hardy.fields.container import MAGIC, Contents, load_fields, packed, unpacked
from hardy.fields.latent_codec import PRESETS, encode_latents
from hardy.fields.latent_color import predicted, slopes
from hardy.fields.latent_context import LARGEST, LOGARITHM, SMALLEST, Seen, order, symbols_of
from hardy.fields.latent_field import multiply_adds
from hardy.fields.latent_quantization import Photo
from hardy.fields.latent_start import start
from hardy.fields.latent_training import learned
from hardy.fields.lifting import Filters, levels_of, put_together, shapes, taken_apart
from hardy.fields.media import load_media, save_media
from hardy.fields.resampling import resampled
from hardy.hardware import AdditiveNoise
from hardy.opening import load as opened
from tests.reference import latents as loops

PICTURE = Image.effect_mandelbrot((30, 21), (-2.2, -1.3, 0.9, 1.3), 30)
GRIDS = [(1, 1), (1, 7), (5, 1), (2, 3), (13, 18), (21, 30), (33, 64)]


def hardy(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr("sys.argv", ["hardy", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0)


def encoded(signal: Signal, preset: str = "fast", sample_bits: int = 8, **aims: float) -> Encoded:
    assert signal.grid is not None
    contents = Contents(kind="image", grids=(signal.grid,), sample_bits=sample_bits)
    return encode_latents(signal, contents, preset=preset, **aims)  # pyright: ignore[reportArgumentType]


def drawn(grid: tuple[int, int], planes: int = 3, seed: int = 0, size: float = 3.0) -> LatentField:
    """A field of random latents, most of them zero, and random weights."""
    random = np.random.default_rng(seed)
    parts = [
        [
            (random.laplace(size=(planes, *shape)) ** 3 * size).astype(np.int64).clip(-LARGEST, LARGEST)
            for shape in level
        ]
        for level in shapes(grid, levels_of(grid))
    ]
    weights = random.integers(0, 25, (len(parts) - 1, planes, 2))
    weights[:, 0, 1] = 0
    return LatentField(
        grid=grid,
        sample_bits=8,
        latents=parts,
        colors=random.integers(-9000, 9000, (planes, planes)),
        offset=random.integers(0, 4000, planes),
        weights=weights,
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_a_plane_taken_apart_and_put_together_is_the_plane(grid: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).normal(size=(2, *grid)) * 50
    levels = taken_apart(plane, levels_of(grid), Filters.cdf97())
    assert [tuple(part.shape[1:] for part in level) for level in levels] == shapes(grid, levels_of(grid))
    assert sum(part.size for level in levels for part in level) == plane.size
    *details, (made,) = [[np.round(part * 1024).astype(np.int64) for part in level] for level in levels]
    for level in reversed(details):
        made = put_together(made, level, Filters.cdf97())
    assert np.abs(made / 1024 - plane).max() < 0.02
    energy = sum(float((part**2).sum()) for level in levels for part in level) / float((plane**2).sum())
    assert 0.8 < energy < 1.25  # next to orthonormal: an error of a latent is one of the picture


@pytest.mark.parametrize("grid", [(13, 18), (9, 4), (1, 9)])
def test_planes_are_those_of_slow_loops(grid: tuple[int, int]) -> None:
    field, filters, network = drawn(grid), start().filters, start().upsampling
    steps = filters.steps.tolist()

    def join(even: list[int], odd: list[int]) -> list[int]:
        return loops.joined(even, odd, steps, filters.low, filters.high)

    *details, (smallest,) = field.latents
    made = [(plane << 10).tolist() for plane in smallest]
    for level in reversed(range(len(details))):
        largest = max(abs(value) for plane in made for row in plane for value in row)
        values: list[list[loops.Plane]] = []
        for plane in range(3):
            own, first = field.weights[level, plane].tolist()
            of_plane = []
            for detail, part in enumerate(details[level]):
                shown = (part[plane] << 10).tolist()
                for y, row in enumerate(shown):
                    for x in range(len(row)):
                        if own and detail < 2:
                            said = loops.guessed(made[plane], y, x, network.first.tolist(), network.second.tolist())
                            row[x] += said[detail] * own >> 4
                        if first and plane:
                            at = (min(y, len(made[0]) - 1), min(x, len(made[0][0]) - 1))
                            slope = loops.slope(made[0], made[plane], *at, largest)
                            row[x] += ((slope * values[0][detail][y][x]) >> 10) * first >> 4
                of_plane.append(shown)
            values.append(of_plane)
        made = [loops.put_together(plane, *of_plane, join) for plane, of_plane in zip(made, values, strict=True)]
    assert np.array_equal(field.planes(), np.array(made))


def test_classes_are_those_of_slow_loops() -> None:
    field = drawn((13, 18))
    *details, _ = field.latents
    networks = start().contexts
    seen, known = Seen(3, [[part.shape[1:] for part in level] for level in details]), {}
    for place in order(3, len(details)):
        symbols = symbols_of(np.abs(details[place.level][place.detail][place.plane][place.where]))
        found = networks.classes(place, seen.features(place)).reshape(symbols.shape)
        rows, columns = (range(*part.indices(10**6)) for part in place.where)
        for i in range(symbols.shape[0]):
            for j in range(symbols.shape[1]):
                features = loops.features(
                    lambda *at: known.get(at, 0), place.level, place.plane, place.detail, rows[i], columns[j]
                )
                expected = loops.context_class(
                    features,
                    networks.first[place.network].tolist(),
                    networks.first_bias[place.network, place.kind].tolist(),
                    networks.second[place.network].tolist(),
                    int(networks.second_bias[place.network, place.kind]),
                )
                assert found[i, j] == expected
        seen.put(place, symbols)
        for i in range(symbols.shape[0]):
            for j in range(symbols.shape[1]):
                at = (place.level, place.detail, place.plane, rows[i], columns[j])
                known[at] = int(LOGARITHM[symbols[i, j]])


def test_products_in_floating_point_are_those_of_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = sample_photo("china", (40, 56))
    data = encoded(signal, bits_per_point=2.0).data
    expected = unpacked(data)[0][0].pixels((40, 56))

    def product(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
        return weights.astype(np.int64) @ values.astype(np.int64)

    for module in (latent_context, latent_start):
        monkeypatch.setattr(module, "exact_product", product)
    assert np.array_equal(unpacked(data)[0][0].pixels((40, 56)), expected)


def test_sums_of_products_stay_below_what_float32_holds() -> None:
    networks, most = start().contexts, 127 * np.ones(latent_context.FEATURES)
    most[8:10] *= 2
    most[10] *= 8
    most[[19, 20, 22, 23]] *= 2
    most[[25, 27]] *= 4
    assert (np.abs(networks.first.astype(np.int64)) @ most).max() < 2**24
    assert 1023 * np.abs(networks.second.astype(np.int64)).sum(1).max() < 2**24
    assert 254 * np.abs(start().upsampling.first.astype(np.int64)).sum(1).max() < 2**24
    assert 256 * np.abs(start().upsampling.second.astype(np.int64)).sum(1).max() < 2**24


@pytest.mark.parametrize("grid", GRIDS)
def test_a_file_holds_what_was_written(grid: tuple[int, int]) -> None:
    for planes in (1, 3, 4):
        field = drawn(grid, planes, size=40.0)
        (back,), contents = unpacked(packed([field], Contents(kind="image", grids=(grid,))))
        assert isinstance(back, LatentField)
        assert contents.grids == (grid,)
        for ours, theirs in zip(field.latents, back.latents, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert np.array_equal(field.pixels(), back.pixels())


def test_symbols_and_what_they_stand_for() -> None:
    sizes = np.array([0, 1, 11, 12, 13, 14, 17, 18, LARGEST])
    assert symbols_of(sizes).tolist() == [0, 1, 11, 12, 12, 13, 13, 14, len(SMALLEST) - 1]
    assert (SMALLEST[symbols_of(sizes)] <= sizes).all()


def test_a_budget_is_met_and_what_comes_back_is_what_was_promised() -> None:
    signal = sample_photo("flower", (64, 96))
    for preset, slack in (("fast", 0.02), ("default", 0.011)):
        result = encoded(signal, preset, bits_per_point=1.2)
        assert 1.2 * (1 - slack) <= result.bits_per_point <= 1.2
        assert result.bits_per_point == 8 * len(result.data) / (64 * 96)
        (field,), contents = unpacked(result.data)
        back = image(decode(field, contents.grids[0]))
        assert signal.psnr(back.values) == pytest.approx(result.psnr[0], abs=1e-3)
    assert result.data == encoded(signal, bits_per_point=1.2, preset="default").data


def test_a_target_is_met_with_little_to_spare_and_more_costs_more() -> None:
    signal = sample_photo("flower", (40, 56))
    results = [encoded(signal, target_psnr=target) for target in (30.0, 40.0)]
    for result, target in zip(results, (30.0, 40.0), strict=True):
        assert target <= result.psnr[0] < target + 0.1
    assert len(results[0].data) < len(results[1].data)


def test_it_is_ahead_of_jpeg() -> None:
    """At equal bytes, JPEG's tables and headers taken off, 4:4:4: on a crop, so a control and no result."""
    signal = sample_photo("china", (96, 128))
    pixels = ((signal.arranged().numpy() + 1) * 127.5).round().astype(np.uint8)
    for quality in (30, 70):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0)
        with Image.open(buffer) as opened:
            jpeg = image(np.asarray(opened)).psnr(signal.values)
        size = 8 * (len(buffer.getvalue()) - 330) / (96 * 128)
        assert encoded(signal, bits_per_point=size).psnr[0] > jpeg + 1.0


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "I;16"])
def test_pictures_of_every_kind_come_back(mode: str, tmp_path: Path) -> None:
    picture = PICTURE.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(PICTURE).astype(np.uint16) * 257)
    picture.save(tmp_path / "in.png")
    signal, contents = load_media(tmp_path / "in.png")
    result = encode_latents(signal, contents, target_psnr=30.0, preset="fast")
    (field,), contents = unpacked(result.data)
    save_media(decode(field, contents.grids[0], contents.sample_bits), tmp_path / "out.png", contents)
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert after.mode == (before.mode if mode != "1" else "L")
        assert after.size == before.size
    assert image(tmp_path / "out.png").psnr(signal.values) == pytest.approx(result.psnr[0], abs=0.01)
    assert result.psnr[0] >= 30


@pytest.mark.parametrize("grid", [(1, 1), (1, 200), (200, 1), (3, 5)])
def test_tiny_pictures_give_the_nearest_file_there_is(grid: tuple[int, int]) -> None:
    signal = Signal.on_grid(torch.rand(*grid, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    with pytest.warns(UserWarning, match=r"no file of this picture fits into 0.01 bits per pixel, \d bytes"):
        result = encoded(signal, bits_per_point=0.01)
    assert len(result.data) < 90
    assert unpacked(result.data)[0][0].pixels(grid).shape == (*grid, 3)
    assert encoded(signal, target_psnr=45.0).psnr[0] >= 45


def test_a_flat_picture_and_a_perfect_one() -> None:
    flat = encoded(Signal.on_grid(torch.full((40, 50, 3), 0.2)), bits_per_point=1.0)
    assert flat.psnr[0] == math.inf
    assert len(flat.data) < 120
    photo = encoded(sample_photo("china", 24), target_psnr=60.0)
    assert photo.psnr[0] >= 60


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 2**31))
def test_damage_is_an_error_of_one_line(noise: bytes, where: int) -> None:
    body = bytearray(GOOD[9:])
    at = where % len(body)
    body[at : at + len(noise)] = noise
    for data in (bytes(body), bytes(body[:at])):
        whole = MAGIC + bytes([2]) + zlib.crc32(data).to_bytes(4, "little") + data
        try:
            fields, contents = unpacked(whole)
        except InputError as error:
            said = str(error)
        else:
            said = ""
            fields[0].pixels(contents.grids[0])
        assert "\n" not in said


GOOD = encoded(image(PICTURE), bits_per_point=4.0).data


def test_a_few_bytes_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    body = bytearray(GOOD[9:])
    size = bytes([0x80, 0x80, 0x02])  # 32768
    grid = body.index(bytes([21, 30]))
    body[grid : grid + 2] = size + size
    body[0] += 4
    data = MAGIC + bytes([2]) + zlib.crc32(bytes(body)).to_bytes(4, "little") + bytes(body)
    (tmp_path / "bomb.hardy").write_bytes(data)
    with pytest.raises(InputError, match=r"declare 1073741824 points .*most_points \(--most-points\) allows more"):
        load_fields(tmp_path / "bomb.hardy")


def test_a_file_of_before_shows_the_pixels_of_then() -> None:
    """Whatever machine reads it, and whatever is learned later."""
    field = opened(Path(__file__).parents[1] / "data" / "latents-1.hardy")
    assert isinstance(field, LatentField)
    assert hashlib.sha256(field.pixels((45, 60)).tobytes()).hexdigest() == (
        "233d203594a6523d1cc8dba6bc66908fab166de51dbea4ac6d9c74c951918582"
    )


def test_tiles_of_light_of_before_too() -> None:
    fields, contents = load_fields(Path(__file__).parents[1] / "data" / "latents-3.hardy")
    assert contents.stops == (-7, 13)
    found = [hashlib.sha256(decode(*shown).tobytes()).hexdigest() for shown in zip(fields, contents.grids, strict=True)]
    assert found == [
        "de80a66889d62465d9da713a7a7d95dcbfa7d103ee78066f0f67468ae7ec811c",
        "6d7ad411c9bd6206dd0084953a6d98de5e348b19b944e84eab117f3c39189f4d",
    ]


def test_what_needs_a_network_refuses_latents(tmp_path: Path) -> None:
    (tmp_path / "picture.hardy").write_bytes(GOOD)
    with pytest.raises(InputError, match=r"picture.hardy holds a picture as latents, no network"):
        IntegerField.load(tmp_path / "picture.hardy")
    with pytest.raises(InputError, match=r"holds a picture as latents; the accelerator draws networks of coordinates"):
        pytest.importorskip("hardy.rtl.exporting").accelerator(tmp_path / "picture.hardy")
    noise = AdditiveNoise(strength=0.1)
    for ask in (noisy_psnr, lambda field, signal, noise: robustness(field, signal, [noise])):
        with pytest.raises(InputError, match="a picture as latents has no weights of its own that noise could fall on"):
            ask(opened(tmp_path / "picture.hardy"), sample_photo("flower", 8), noise)


def test_newer_files_are_refused() -> None:
    body = bytes(GOOD[9:]).replace(b"\x01", b"\x02", 1)
    with pytest.raises(InputError, match="its latents are of start 2, and this hardy knows 1: a newer one reads it"):
        unpacked(MAGIC + bytes([2]) + zlib.crc32(body).to_bytes(4, "little") + body)
    with pytest.raises(InputError, match="the file is of version 4; this hardy reads versions 1 to 3"):
        unpacked(MAGIC + bytes([4]) + GOOD[5:])


@pytest.mark.parametrize("grid", [(42, 60), (21, 30), (10, 15), (50, 61), (13, 200)])
def test_another_size_is_a_cubic_interpolation_in_integers(grid: tuple[int, int]) -> None:
    pixels = np.asarray(PICTURE)[..., None]
    found = resampled(pixels, grid, 255)[..., 0]
    expected = np.asarray(PICTURE.resize((grid[1], grid[0]), Image.Resampling.BICUBIC)).astype(int)
    inner = (slice(4, -4), slice(4, -4)) if min(grid) > 10 else (slice(None), slice(None))
    assert np.abs(found - expected)[inner].mean() < 0.5
    assert np.array_equal(resampled(np.full((5, 9, 2), 7), grid, 255), np.full((*grid, 2), 7))
    assert unpacked(GOOD)[0][0].pixels(grid).shape == (*grid, 1)


def test_slopes_follow_one_plane_that_is_a_multiple_of_another() -> None:
    first = (np.random.default_rng(0).normal(size=(12, 15)) * 2e5).astype(np.int64)
    found = slopes(np.stack([first, first // 2, -first]), 10)
    assert np.abs(found[0] - 512).max() < 8
    assert np.abs(found[1] + 1024).max() < 8
    assert np.abs(predicted(first, found[0]) - first // 2).max() < 8000
    assert not slopes(np.zeros((2, 4, 4), dtype=np.int64), 10).any()


def test_a_decoder_is_small() -> None:
    assert multiply_adds(3) < 3000
    assert latent_start.FILE.stat().st_size < 40000


def test_a_step_is_found_for_every_preset_and_wrong_ones_are_refused() -> None:
    photo = Photo(sample_photo("flower", 32).arranged(), 8)
    sizes = [
        len(packed([photo.field(20.0, PRESETS[name].sweeps)], Contents(kind="image", grids=((32, 32),))))
        for name in PRESETS
    ]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(InputError, match="preset must be fast, default or best, got 'slow'"):
        encoded(sample_photo("flower", 16), "slow", bits_per_point=1.0)
    with pytest.raises(InputError, match="latents are for pictures, got a signal of the kind audio"):
        encode_latents(Signal.on_grid(torch.zeros(9, 1)), Contents(kind="audio"), bits_per_point=1.0)
    with pytest.raises(InputError, match="exactly one of a target in dB and bits per pixel is wanted"):
        encoded(sample_photo("flower", 16))


def test_what_is_learned_can_be_learned_again(tmp_path: Path) -> None:
    learned(tmp_path / "start.npz", steps=3, pictures=1, scales=(8.0,))
    with np.load(tmp_path / "start.npz") as found, np.load(latent_start.FILE) as shipped:
        assert {name: found[name].shape for name in found} == {name: shipped[name].shape for name in shipped}
        with latent_start.using(found):
            data = encoded(sample_photo("flower", 24), target_psnr=30.0).data
            assert unpacked(data)[0][0].pixels((24, 24)).shape == (24, 24, 3)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARDY_PROGRESS", "lines")
    monkeypatch.setattr("hardy.runs.progress.EVERY", 0.0)
    PICTURE.convert("RGB").save("a.png")
    assert hardy(monkeypatch, "field", "encode", "a.png", "--bpp", 3, "--preset", "fast") == 0
    said = capsys.readouterr()
    assert re.search(r"30 x 21 pixels: about \d+ s", said.err.splitlines()[0])
    assert re.search(r"encode: 1/\d", said.err)
    assert re.search(r"a.png.hardy: \d+ bytes, 2.\d+ bits per pixel, .* \(step ", said.out)
    assert hardy(monkeypatch, "field", "info", "a.png.hardy") == 0
    assert re.search(r"21 x 30: 1890 latents at 2 levels, \d+.\d% of them not zero", capsys.readouterr().out)
    assert hardy(monkeypatch, "field", "decode", "a.png.hardy", "b.png", "--scale", 2) == 0
    with Image.open("b.png") as back:
        assert back.size == (60, 42)
