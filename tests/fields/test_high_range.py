"""Pictures of high dynamic range as logarithms, and louder sounds: what comes back, what is said and refused."""

from pathlib import Path

import numpy as np
import pytest

from hardy.cli import main as command_line
from hardy.core import InputError
from hardy.fields import sample_photo
from hardy.fields.container import Contents, load_fields, packed, unpacked
from hardy.fields.high_range import light, logarithms, read_light, save_light
from hardy.fields.latent_codec import encode_latents
from hardy.fields.media import load_media


def hardy(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["hardy", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0)


def scene(channels: int = 3) -> np.ndarray:
    """A lamp of 5000 beside shadows of 0.01, (24, 32, channels)."""
    y, x = np.mgrid[:24, :32] / 16 - 0.75
    lamp = 5000 * np.exp(-8 * (x**2 + y**2))
    return (lamp[..., None] + 0.01 + 0.05 * x[..., None].clip(0)).repeat(channels, -1).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_logarithms_come_back_within_half_a_step(channels: int) -> None:
    samples, (low, high), dark = logarithms(scene(channels))
    assert dark == 0
    assert 2.0**low <= scene().min() < 2.0 ** (low + 1)
    assert 2.0 ** (high - 1) < scene().max() <= 2.0**high
    ratio = light(samples, (low, high)) / scene(channels)
    assert np.abs(np.log2(ratio)).max() <= 0.5001 * (high - low) / 65535


def test_what_is_too_dark_is_raised_and_counted() -> None:
    picture = scene()
    picture[0] = 0
    picture[1] = 1e-9
    samples, (low, high), dark = logarithms(picture)
    assert high - low == 24
    assert dark == pytest.approx(2 / 24)
    assert (samples[:2] == 0).all()


@pytest.mark.parametrize("ending", [".npy", ".hdr", ".pfm", ".tiff"])
def test_files_of_every_kind(ending: str, tmp_path: Path) -> None:
    if ending != ".npy":
        pytest.importorskip("cv2")
    save_light(scene(), tmp_path / f"a{ending}")
    found = read_light(tmp_path / f"a{ending}")
    np.testing.assert_allclose(found, scene(), rtol=0.01 if ending == ".hdr" else 0)


def test_latents_and_networks_hold_light(tmp_path: Path) -> None:
    np.save(tmp_path / "lamp.npy", scene())
    signal, contents = load_media(tmp_path / "lamp.npy", hdr=True)
    assert contents.sample_bits == 16
    result = encode_latents(signal, contents, target_psnr=50, preset="fast")
    models, back = unpacked(result.data)
    assert back == contents
    assert packed(models, back) == result.data  # pyright: ignore[reportArgumentType]
    assert result.psnr[0] >= 50


def test_the_commands_keep_light_and_loudness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "lamp.npy", scene())
    monkeypatch.chdir(tmp_path)
    assert (
        hardy(monkeypatch, "field", "encode", "lamp.npy", "lamp.hardy", "--hdr", "--target", "55", "--preset", "fast")
        == 0
    )
    assert hardy(monkeypatch, "field", "info", "lamp.hardy") == 0
    assert "logarithms of light from 2^-4 to 2^13" in capsys.readouterr().out
    assert hardy(monkeypatch, "field", "decode", "lamp.hardy", "again.npy") == 0
    ratio = np.load("again.npy") / scene()
    assert np.abs(np.log2(ratio)).mean() < 0.05  # of 20 stops
    assert hardy(monkeypatch, "field", "decode", "lamp.hardy", "again.png") == 2
    assert "light of high range is written to .hdr, .pfm" in capsys.readouterr().err
    assert hardy(monkeypatch, "field", "encode", "lamp.npy", "other.hardy") == 2
    assert "is of high dynamic range: --hdr keeps its light as logarithms" in capsys.readouterr().err
    assert hardy(monkeypatch, "field", "encode", "flower", "other.hardy", "--normalize") == 2
    assert "--normalize is for sounds" in capsys.readouterr().err
    assert hardy(monkeypatch, "field", "encode", "flower", "other.hardy", "--field", "hash") == 2
    assert "a hash grid is kept in floating point" in capsys.readouterr().err


def test_a_quiet_sound_is_made_louder_on_demand(tmp_path: Path) -> None:
    from scipy.io import wavfile

    quiet = (np.sin(np.arange(400) / 9) * 300).astype(np.int16)
    wavfile.write(tmp_path / "quiet.wav", 8000, quiet)
    assert load_media(tmp_path / "quiet.wav")[0].values.abs().max() < 0.01
    assert load_media(tmp_path / "quiet.wav", normalize=True)[0].values.abs().max() == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4), np.float32), "it is dark everywhere"),
        (np.full((4, 4), np.nan, np.float32), "light is finite and not below zero"),
        (-np.ones((4, 4), np.float32), "light is finite and not below zero"),
        (np.ones((4, 4), np.uint8), "it holds uint8, no floating-point numbers"),
        (np.ones((4, 4, 2), np.float32), r"it has the shape \(4, 4, 2\)"),
    ],
)
def test_refusals(values: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=message):
        load_media(tmp_path / "a.npy", hdr=True)
    with pytest.raises(InputError, match=r"light of high range is read from \.hdr"):
        read_light(tmp_path / "a.exr")


def test_a_range_that_cannot_be_is_damage(tmp_path: Path) -> None:
    of_eight = Contents(kind="image", grids=((8, 8),))
    made = encode_latents(sample_photo("flower", 8), of_eight, bits_per_point=12, preset="fast")
    (model,), _ = unpacked(made.data)
    wrong = Contents(kind="image", grids=((8, 8),), stops=(3, 2))
    (tmp_path / "a.hardy").write_bytes(packed([model], wrong))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="is damaged: a picture of 8 bits has logarithms from 3 to 2"):
        load_fields(tmp_path / "a.hardy")
