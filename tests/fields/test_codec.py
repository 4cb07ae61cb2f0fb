"""The codec: sizes and targets kept, every kind of picture back as it was, honest refusals, and the command line."""

import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from scipy.io import wavfile

from hardy.cli import main as command_line
from hardy.core import InputError
from hardy.evaluate import psnr
from hardy.fields import IntegerModel, Signal, audio, entropy, image
from hardy.fields.codec import Encoded, decode, encode, encode_album, first_omega, scaled
from hardy.fields.container import Contents, load_fields, unpacked
from hardy.fields.media import load_media, save_media

PICTURE = Image.effect_mandelbrot((30, 21), (-2.2, -1.3, 0.9, 1.3), 30)


def hardy(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr("sys.argv", ["hardy", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0)


def opened(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def encoded(source: Path, **aims: float) -> Encoded:
    signal, contents = load_media(source)
    return encode(signal, contents, steps=60, **aims)  # pyright: ignore[reportArgumentType]


def test_a_size_is_kept_and_the_file_shows_what_was_promised(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "grey.png")
    for bits in (6.0, 9.0):
        result = encoded(tmp_path / "grey.png", bits_per_point=bits)
        assert 8 * len(result.data) / (30 * 21) == result.bits_per_point <= bits
        (model,), contents = unpacked(result.data)
        samples = decode(model, contents.grids[0])
        target = torch.tensor(np.asarray(PICTURE))[..., None] / 255.0
        assert psnr(torch.from_numpy(samples) / 255.0, target) == pytest.approx(result.psnr[0], abs=0.1)
        assert np.array_equal(samples, model.pixels(contents.grids[0]))


def test_a_target_is_reached_and_more_costs_more(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "grey.png")
    results = [encoded(tmp_path / "grey.png", target_psnr=target) for target in (16.0, 20.0)]
    assert [result.psnr[0] >= target for result, target in zip(results, (16.0, 20.0), strict=True)] == [True, True]
    assert len(results[0].data) < len(results[1].data)
    assert results[0].data == encoded(tmp_path / "grey.png", target_psnr=16.0).data


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [
        ("L", (21, 30, 1), np.uint8),
        ("LA", (21, 30, 2), np.uint8),
        ("RGB", (21, 30, 3), np.uint8),
        ("RGBA", (21, 30, 4), np.uint8),
        ("P", (21, 30, 3), np.uint8),
        ("1", (21, 30, 1), np.uint8),
        ("I;16", (21, 30, 1), np.uint16),
    ],
)
def test_pictures_of_every_kind_come_back(mode: str, shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    picture = PICTURE.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(PICTURE).astype(np.uint16) * 257)
    picture.save(tmp_path / "in.png")
    result = encoded(tmp_path / "in.png", bits_per_point=16.0)
    (model,), contents = unpacked(result.data)
    save_media(decode(model, contents.grids[0], contents.sample_bits), tmp_path / "out.png", contents)
    back = opened(tmp_path / "out.png")
    assert back.dtype == dtype
    assert back.reshape(shape).shape == shape
    signal = load_media(tmp_path / "in.png")[0]
    assert image(tmp_path / "out.png").psnr(signal.values) == pytest.approx(result.psnr[0], abs=0.2)
    assert result.psnr[0] > (12 if mode == "1" else 17)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_odd_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    PICTURE.resize(size).save(tmp_path / "in.png")
    (model,), contents = unpacked(encoded(tmp_path / "in.png", target_psnr=20.0).data)
    assert decode(model, contents.grids[0]).shape == (size[1], size[0], 1)


def test_colour_spaces_are_not_taken_for_transparency(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (200, 30, 30))
    red.convert("CMYK").save(tmp_path / "cmyk.tif")
    values = image(tmp_path / "cmyk.tif").arranged()
    assert values.shape == (8, 8, 3)
    torch.testing.assert_close((values[0, 0] + 1) * 127.5, torch.tensor([200.0, 30.0, 30.0]), atol=2, rtol=0)


def test_a_video_and_a_sound(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(3):
        PICTURE.rotate(10 * index).convert("RGB").save(tmp_path / "frames" / f"{index}.png")
    result = encoded(tmp_path / "frames", bits_per_point=8.0)
    (model,), contents = unpacked(result.data)
    save_media(decode(model, scaled(contents.grids[0], 2, (1, 2))), tmp_path / "back", contents)
    frames = sorted((tmp_path / "back").iterdir())
    assert [opened(frame).shape for frame in frames] == [(42, 60, 3)] * 3

    wave = (20000 * np.sin(np.arange(800) / 9)).astype(np.int16)
    wavfile.write(tmp_path / "in.wav", 8000, wave)
    result = encoded(tmp_path / "in.wav", target_psnr=15.0)
    (model,), contents = unpacked(result.data)
    save_media(decode(model, contents.grids[0], 16), tmp_path / "out.wav", contents)
    rate, back = wavfile.read(tmp_path / "out.wav")
    assert (rate, back.dtype, back.shape) == (8000, np.int16, (800,) if back.ndim == 1 else (800, 1))
    error = np.mean((back.reshape(-1) / 32768 - wave / 32768) ** 2)
    assert 10 * np.log10(4 / error) == pytest.approx(result.psnr[0], abs=0.2)


def test_an_album_shares_and_each_picture_is_its_own(tmp_path: Path) -> None:
    pictures = [PICTURE, PICTURE.rotate(180), PICTURE.resize((20, 25))]
    signals = [image(picture) for picture in pictures]
    grids = tuple(signal.grid for signal in signals if signal.grid)
    album = encode_album(signals, Contents(kind="image", grids=grids), width=24, steps=150)
    models, contents = unpacked(album.data)
    assert isinstance(models[0], IntegerModel)
    assert isinstance(models[2], IntegerModel)
    shown = [torch.from_numpy(decode(*pair)) for pair in zip(models, contents.grids, strict=True)]
    found = [image(pixels.numpy()) for pixels in shown]
    for index, signal in enumerate(signals):
        assert found[index].psnr(signal.values) == pytest.approx(album.psnr[index], abs=0.2)
        assert album.psnr[index] > 14
    assert np.array_equal(models[0].layers[2].codes, models[2].layers[2].codes)
    apart = encode_album(signals[:1], Contents(kind="image", grids=grids[:1]), width=24, steps=2)
    assert len(album.data) < 2.4 * len(apart.data)


def test_the_commands_do_all_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURE.save("a.png")
    PICTURE.rotate(90).save("b.png")
    assert hardy(monkeypatch, "field", "encode", "a.png", "--bpp", 8, "--steps", 20) == 0
    assert hardy(monkeypatch, "field", "decode", "a.png.hardy", "twice.png", "--scale", 2) == 0
    assert opened("twice.png").shape == (42, 60)
    assert hardy(monkeypatch, "field", "album", "a.png", "b.png", "ab.hardy", "--width", 8, "--steps", 20) == 0
    assert hardy(monkeypatch, "field", "decode", "ab.hardy", "back") == 0
    assert sorted(path.name for path in Path("back").iterdir()) == ["picture-00000.png", "picture-00001.png"]
    assert "bits per pixel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "none.png"], "there is no none.png; known by name are china and flower"),
        (["encode", "empty.png"], "empty.png is empty"),
        (["encode", "text.png"], "cannot read the picture text.png"),
        (["encode", "a.png", "--target", "30", "--bpp", "1"], "--target and --bpp exclude each other"),
        (["encode", "a.png", "--target", "many"], "--target takes a PSNR such as 35dB, got 'many'"),
        (["encode", "a.png", "--target", "-3"], "target must be a finite number above 0"),
        (["encode", "a.png", "--bpp", "nan"], "bits per pixel must be a finite number above 0, got nan"),
        (["encode", "a.png", "--field", "latents", "--steps", "9"], "--steps and --seed are of --field coordinates"),
        (["encode", "a.png", "--device", "cuda"], "latents are encoded on the CPU; --device cuda is of --field coord"),
        (["encode", "a.png", "--field", "coordinates", "--device", "gpu"], "device 'gpu' is not there"),
        (["album", "a.png", "b.hardy", "--bpp", "1", "--device", "cuda"], "latents are encoded on the CPU"),
        (["album", "a.png", "b.hardy", "--device", "gpu"], "device 'gpu' is not there"),
        (["encode", "a.png", "--field", "waves"], "field must be latents or coordinates, got 'waves'"),
        (["encode", "a.png", "--preset", "slow"], "preset must be fast, default or best, got 'slow'"),
        (
            ["encode", "a.png", "--field", "coordinates", "--steps", "0"],
            "steps must be an integer of at least 1, got 0",
        ),
        (["decode", "a.png", "b.png"], "a.png: this is no file of hardy's fields"),
        (["decode", "empty.png", "b.png"], "empty.png: the file is empty"),
        (["decode", "good.hardy", "b.txt"], "pictures are written to .png"),
        (["decode", "good.hardy", "b.png", "--scale", "0"], "scale must be a finite number above 0"),
        (["decode", "good.hardy", "b.png", "--scale", "5000"], "is too large: 32768 per axis at most"),
        (["album", "a.png"], "an album takes pictures and last a file ending in .hardy"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURE.save("a.png")
    Path("empty.png").touch()
    Path("text.png").write_text("no picture")
    Path("good.hardy").write_bytes(GOOD)
    assert hardy(monkeypatch, "field", *arguments) == 2
    captured = capsys.readouterr().err
    line = captured.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert re.search(message, line), line


GOOD = encode(image(PICTURE), Contents(kind="image", grids=((21, 30),)), bits_per_point=8.0, steps=1).data


def test_a_target_out_of_reach_says_what_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardy.fields.codec.WIDTHS", (6, 8, 10))
    with pytest.raises(InputError, match=r"90 dB are not reached: \d+\.\d\d dB at the most, .* up to 10 units after 5"):
        encode(image(PICTURE), Contents(kind="image", grids=((21, 30),)), target_psnr=90.0, steps=5)


def test_fields_are_fitted_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []

    def stop(field: torch.nn.Module, *_: object, **__: object) -> None:
        seen.append(next(field.parameters()).device)
        raise InterruptedError

    monkeypatch.setattr("hardy.fields.codec.fit", stop)
    monkeypatch.setattr("hardy.fields.codec.fit_shared", stop)
    signal, contents = image(np.zeros((8, 8, 3), np.uint8)), Contents(kind="image", grids=((8, 8),))
    for run in (
        lambda: encode(signal, contents, bits_per_point=9, device="meta"),
        lambda: encode_album([signal], contents, device="meta"),
    ):
        with pytest.raises(InterruptedError):
            run()
    assert seen == [torch.device("meta")] * 2


def test_signals_without_a_grid_or_with_a_long_one_are_refused() -> None:
    scattered = Signal(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(InputError, match="a signal on a grid"):
        encode(scattered, Contents(), target_psnr=30.0)
    with pytest.raises(InputError, match="at most 32768 points per axis"):
        encode(Signal.on_grid(torch.zeros(40000, 1, 1)), Contents(kind="image"), target_psnr=30.0)


def test_encoding_in_a_pipe_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PICTURE.save(tmp_path / "p.png")
    monkeypatch.setenv("HARDY_PROGRESS", "lines")
    monkeypatch.setattr("hardy.runs.progress.EVERY", 0.0)
    assert (
        hardy(monkeypatch, "field", "encode", tmp_path / "p.png", tmp_path / "f.hardy", "--bpp", 4, "--steps", 3,
            "--field", "coordinates") == 0
    )  # fmt: skip
    said = capsys.readouterr()
    assert "fit: 2/3 (67%)" in said.err
    assert "bits per pixel" in said.out


def test_without_constriction_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    entropy._stream.cache_clear()
    try:
        with pytest.raises(InputError, match=r'entropy coding needs constriction: pip install "hardy-nn\[codec\]"'):
            entropy.Writer()
    finally:
        entropy._stream.cache_clear()


def test_a_budget_below_the_smallest_field_gives_that_one_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURE.crop((0, 0, 30, 1)).save("line.png")
    assert (
        hardy(monkeypatch, "field", "encode", "line.png", "--field", "coordinates", "--bpp", "0.01", "--steps", "1")
        == 0
    )
    captured = capsys.readouterr()
    size = Path("line.png.hardy").stat().st_size
    assert re.search(rf"no field fits into 0\.01 bits per point, 0 bytes here: .* {size} bytes", captured.err)
    assert f"{size} bytes" in captured.out
    with pytest.warns(UserWarning, match="no field fits into 0.01 bits per point"):
        encode(image(PICTURE), Contents(kind="image", grids=((21, 30),)), bits_per_point=0.01, steps=1)


def test_a_budget_far_above_the_widest_field_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardy.fields.codec.WIDTHS", (6,))
    contents = Contents(kind="image", grids=((21, 30),))
    with pytest.warns(UserWarning, match=r"the widest network of the search, of 6 units, takes \d+ of the 1575 bytes"):
        encode(image(PICTURE), contents, bits_per_point=20, steps=1)


def test_the_first_frequency_of_a_sound_grows_with_its_length() -> None:
    assert first_omega(image(PICTURE)) == 30
    lengths = [first_omega(audio(torch.zeros(samples).numpy())) for samples in (100, 640, 64000)]
    assert lengths == [30, 30, 300]


def test_a_long_sound_is_cut_into_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hardy.fields.codec.PIECE", 300)
    wave = (20000 * np.sin(np.arange(800) / 9)).astype(np.int16)
    wavfile.write("in.wav", 8000, wave)
    assert hardy(monkeypatch, "field", "encode", "in.wav", "f.hardy", "--target", "12dB", "--steps", 60) == 0
    said = capsys.readouterr()
    assert "piece 3 of 3, 266 samples" in said.err
    assert "bits per sample" in said.out
    assert hardy(monkeypatch, "field", "decode", "f.hardy", "out.wav") == 0
    rate, back = wavfile.read("out.wav")
    assert (rate, len(back)) == (8000, 800)
    error = np.mean((back.reshape(-1) / 32768 - wave / 32768) ** 2)
    promised = float(re.search(r"([\d.]+) dB", said.out)[1])  # pyright: ignore[reportOptionalSubscript]
    assert 10 * np.log10(4 / error) == pytest.approx(promised, abs=0.2)


def test_an_animated_picture_is_a_film_and_pages_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = [PICTURE.rotate(40 * index).convert("RGB") for index in range(3)]
    frames[0].save("in.gif", save_all=True, append_images=frames[1:], duration=50)
    contents = load_media("in.gif")[1]
    assert (contents.kind, contents.grids, contents.rate) == ("video", ((3, 21, 30),), 20)
    assert hardy(monkeypatch, "field", "encode", "in.gif", "f.hardy", "--bpp", 8, "--steps", 20) == 0
    assert "(width " in capsys.readouterr().out
    for name in ("out.gif", "out.webp"):
        assert hardy(monkeypatch, "field", "decode", "f.hardy", name) == 0
        with Image.open(name) as back:
            assert (back.n_frames, back.size) == (3, (30, 21))  # pyright: ignore[reportAttributeAccessIssue]
            back.load()
            assert back.info["duration"] == 50
    frames[0].save("pages.tif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"pages.tif has 3 pages: the first is taken"):
        assert load_media("pages.tif")[1].kind == "image"


@pytest.mark.parametrize("field", ["latents", "coordinates"])
def test_a_colour_profile_is_kept_or_left_out_on_demand(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    PICTURE.convert("RGB").save("in.png", icc_profile=profile)
    more = ("--steps", 5) if field == "coordinates" else ()
    assert hardy(monkeypatch, "field", "encode", "in.png", "f.hardy", "--bpp", 16, "--field", field, *more) == 0
    assert hardy(monkeypatch, "field", "info", "f.hardy") == 0
    assert f"a colour profile of {len(profile)} bytes" in capsys.readouterr().out
    assert hardy(monkeypatch, "field", "decode", "f.hardy", "out.png") == 0
    with Image.open("out.png") as back:
        assert back.info["icc_profile"] == profile
    assert hardy(
        monkeypatch, "field", "encode", "in.png", "g.hardy", "--bpp", 8, "--field", field, "--no-profile", *more
    ) == 0  # fmt: skip
    assert load_fields("g.hardy")[1].profile == b""
    PICTURE.convert("CMYK").save("inks.tif", icc_profile=profile)
    assert load_media("inks.tif")[1].profile == b""


def test_sixteen_bits_of_colour_are_refused_not_cut(tmp_path: Path) -> None:
    """A PNG of 16 bits in three channels, which Pillow can read only as one of 8."""
    rows = b"".join(b"\0" + bytes(range(1, 13)) for _ in range(2))
    chunks = [(b"IHDR", struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(InputError, match=r"deep.png: a picture of 16 bits in 3 channels would lose half of them"):
        load_media(tmp_path / "deep.png")
