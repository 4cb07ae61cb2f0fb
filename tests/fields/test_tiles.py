"""Large pictures in tiles and albums of latents: what comes back, no seams, one step for all, and damage noticed."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hardy.core import InputError
from hardy.fields import Signal, latent_tiles, sample_photo
from hardy.fields.codec import decode
from hardy.fields.container import MAGIC, NEWEST, Contents, checksum, load_fields, packed, unpacked
from hardy.fields.latent_codec import encode_latent_album, encode_latents
from hardy.fields.latent_tiles import OVERLAP, Layout, TiledField


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 48 pixels, from pictures of 64 x 64 on."""
    monkeypatch.setattr(latent_tiles, "MOST_PIXELS", 64 * 64 - 1)
    monkeypatch.setattr(latent_tiles, "SIDE", 48)


def contents_of(*signals: Signal) -> Contents:
    return Contents(kind="image", grids=tuple(signal.grid or () for signal in signals))


def pixels_of(signal: Signal) -> np.ndarray:
    return ((signal.arranged().double().numpy() + 1) * 127.5).round()


@pytest.mark.parametrize(("grid", "counts"), [((100, 70), (3, 2)), ((3000, 4000), (3, 4)), ((1000, 2000), (1, 1))])
def test_tiles_cover_a_picture_and_their_shares_make_up_one(grid: tuple[int, int], counts: tuple[int, int]) -> None:
    layout = Layout(grid, counts)
    assert layout.possible
    if grid[0] > 100:
        assert Layout.of(grid) == layout
    total = np.zeros(grid, dtype=np.int64)
    for rows, columns in layout.tiles():
        total[rows, columns] += layout.shares(0, rows)[:, None] * layout.shares(1, columns)
    assert (total == (2 * OVERLAP) ** 2).all()
    assert not Layout((100, 20), (8, 1)).possible  # tiles of 12 rows share more than they have


def test_the_same_picture_everywhere_is_that_picture() -> None:
    random = np.random.default_rng(0)
    for kind in (np.uint8, np.uint16):
        picture = random.integers(0, np.iinfo(kind).max, (100, 70, 3), dtype=kind, endpoint=True)
        layout = Layout((100, 70), (3, 2))
        where = list(layout.tiles())
        made = layout.together(lambda index, picture=picture, where=where: picture[where[index]])
        assert made.dtype == kind
        assert (made == picture).all()


@pytest.mark.usefixtures("small_tiles")
def test_a_large_picture_comes_back_as_promised_and_without_seams(tmp_path: Path) -> None:
    photo = sample_photo("china", (96, 128))
    said: list[str] = []
    result = encode_latents(photo, contents_of(photo), bits_per_point=1.0, preset="fast", report=said.append)
    assert said[0].startswith("128 x 96 pixels in 6 tiles: about ")
    assert len(result.data) <= 96 * 128 / 8
    (tmp_path / "photo.hardy").write_bytes(result.data)
    (field,), contents = load_fields(tmp_path / "photo.hardy")
    assert isinstance(field, TiledField)
    assert contents.grids == ((96, 128),)
    shown = decode(field, (96, 128))
    error = np.square(shown - pixels_of(photo)).mean()
    assert 10 * np.log10(255**2 / error) == pytest.approx(result.psnr[0], abs=1e-6)
    assert packed([field], contents) == result.data
    assert decode(field, (48, 64)).shape == (48, 64, 3)
    # A jump across a seam that the picture has not would show in the differences of the error.
    jumps = np.abs(np.diff(shown - pixels_of(photo), axis=1)).mean((0, 2))
    seams = [column for start, _ in field.layout.spans(1)[1:] for column in range(start, start + OVERLAP)]
    assert jumps[seams].mean() < 1.15 * jumps.mean()


@pytest.mark.usefixtures("small_tiles")
def test_tiles_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = sample_photo("flower", 96)
    tiled = encode_latents(photo, contents_of(photo), target_psnr=32, preset="fast")
    monkeypatch.setattr(latent_tiles, "MOST_PIXELS", 96 * 96)
    whole = encode_latents(photo, contents_of(photo), target_psnr=32, preset="fast")
    assert 32 <= whole.psnr[0] < 32.1  # what a size or a PSNR is expected to be has jumps, and this photo's is at one
    assert len(tiled.data) < 1.6 * len(whole.data)  # tiles of 48 pixels, of which a third is overlap


def test_an_album_has_one_step_and_every_picture_its_size(tmp_path: Path) -> None:
    signals = [sample_photo("china", (32, 40)), sample_photo("flower", (24, 24))]
    contents = contents_of(*signals)
    result = encode_latent_album(signals, contents, bits_per_point=2.0, preset="fast")
    points = 32 * 40 + 24 * 24
    assert 0.9 * points * 2 / 8 < len(result.data) <= points * 2 / 8
    models, back = unpacked(result.data)
    assert back.grids == ((32, 40), (24, 24))
    for model, signal, psnr in zip(models, signals, result.psnr, strict=True):
        error = np.square(decode(model, signal.grid or ()) - pixels_of(signal)).mean()
        assert 10 * np.log10(255**2 / error) == pytest.approx(psnr, abs=1e-6)
    aimed = encode_latent_album(signals, contents, target_psnr=30, preset="fast")
    assert 30 <= min(aimed.psnr) < 30.1
    with pytest.raises(InputError, match="an album has at least one picture"):
        encode_latent_album([], Contents(kind="image"), bits_per_point=1.0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("counts", [(0, 1), (9, 1), (127, 127)])
def test_impossible_tiles_are_damage(counts: tuple[int, int]) -> None:
    photo = Signal.on_grid(torch.zeros(64, 64, 1))
    data = encode_latents(photo, contents_of(photo), bits_per_point=1.0, preset="fast").data
    body = bytearray(data[9:])
    place = body.index(bytes([64, 64, 2, 2])) + 2
    body[place : place + 2] = bytes(counts)
    changed = MAGIC + bytes([NEWEST]) + checksum(NEWEST, bytes(body)).to_bytes(4, "little") + bytes(body)
    with pytest.raises(InputError, match="the file is damaged: a picture of 64 x 64 has"):
        unpacked(changed)


@pytest.mark.usefixtures("small_tiles")
def test_damage_with_a_right_checksum_is_read_or_refused() -> None:
    photo = Signal.on_grid(sample_photo("china", 64).arranged()[..., :1])
    data, random = (
        encode_latents(photo, contents_of(photo), bits_per_point=0.5, preset="fast").data,
        np.random.default_rng(0),
    )
    for _ in range(25):
        body = bytearray(data[9:])
        body[random.integers(0, len(body))] ^= 1 << random.integers(0, 8)
        changed = MAGIC + bytes([NEWEST]) + checksum(NEWEST, bytes(body)).to_bytes(4, "little") + bytes(body)
        with contextlib.suppress(InputError):
            (model,), contents = unpacked(changed)
            assert decode(model, contents.grids[0]).size
    for version in (1, 2):
        with pytest.raises(InputError, match="its checksum does not fit"):
            unpacked(MAGIC + bytes([version]) + data[5:])
