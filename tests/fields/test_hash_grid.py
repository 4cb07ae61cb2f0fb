"""Hash grids: features against a slow loop, fits, batches, files, and what they cannot be turned into."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from hardy.core import InputError
from hardy.fields import (
    Field,
    GradientNorm,
    HadamardQuant,
    HashGrid,
    WeightPerturbation,
    fit,
    fit_many,
    load_field,
    noisy_psnr,
    sample_photo,
    save_field,
)
from hardy.hardware import AdditiveNoise

GRID = HashGrid(levels=4, table_size=64, coarsest=3, finest=24)
PRIMES = (1, 2654435761, 805459861)


def made(seed: int = 0, encoding: HashGrid = GRID) -> Field:
    return Field(
        2, 3, hidden_features=16, hidden_layers=2, activation="relu", encoding=encoding, seed=seed
    )  # fmt: skip


def by_loops(point: list[float], tables: torch.Tensor, grid: HashGrid) -> list[float]:
    """The features of one point, corner by corner."""
    found, first, d = [], 0, len(point)
    for level in range(grid.levels):
        cells = round(grid.coarsest * (grid.finest / grid.coarsest) ** (level / (grid.levels - 1)))
        entries = min((cells + 1) ** d, grid.table_size)
        places = [(x + 1) / 2 * cells for x in point]
        lower = [min(cells - 1, max(0, math.floor(place))) for place in places]
        features = [0.0] * grid.features
        for corner in itertools.product((0, 1), repeat=d):
            share, row, hashed = 1.0, 0, 0
            for axis, side in enumerate(corner):
                inside = places[axis] - lower[axis]
                share *= inside if side else 1 - inside
                row = row * (cells + 1) + lower[axis] + side
                hashed ^= (lower[axis] + side) * PRIMES[axis]
            row = row if entries == (cells + 1) ** d else hashed % grid.table_size
            features = [f + share * t for f, t in zip(features, tables[first + row].tolist(), strict=True)]
        found += features
        first += entries
    return found


@pytest.mark.parametrize("d", [1, 2, 3])
def test_features_are_those_of_slow_loops(d: int) -> None:
    random = torch.Generator().manual_seed(d)
    tables = torch.rand((sum(GRID.entries(d)), 2), generator=random) - 0.5
    points = torch.rand((40, d), generator=random) * 2 - 1
    points[:2] = torch.tensor([[-1.0], [1.0]])  # the corners of everything
    expected = torch.tensor([by_loops(point, tables, GRID) for point in points.tolist()])
    torch.testing.assert_close(GRID.encode(points, tables), expected, atol=1e-5, rtol=1e-4)
    assert GRID.entries(d)[-1] == (25 if d == 1 else 64)


def test_features_are_linear_within_a_cell_and_continuous_across_its_sides() -> None:
    tables = GRID.draw_tables(2, torch.Generator().manual_seed(0)) * 1e4
    side = -1 + 2 * 8 / 24  # of cells of the coarsest and of the finest level
    around = torch.tensor([[side - 1e-6, 0.3], [side, 0.3], [side + 1e-6, 0.3]])
    before, at, after = GRID.encode(around, tables)
    torch.testing.assert_close(before, at, atol=1e-3, rtol=0)
    torch.testing.assert_close(after, at, atol=1e-3, rtol=0)


def test_it_fits_a_photo_in_fewer_steps_than_a_sine() -> None:
    photo, encoding = sample_photo("china", 32), HashGrid(levels=4, table_size=2**10, coarsest=4, finest=32)
    field = made(encoding=encoding)
    of_grid = fit(field, photo, steps=100)
    of_sine = fit(Field(2, 3, hidden_features=16), photo, steps=100)
    assert of_grid.psnr > of_sine.psnr + 3
    assert field.render((64, 64)).shape == (64, 64, 3)


def test_a_batch_fits_each_as_alone_and_every_loss_reaches_the_tables() -> None:
    signals = [sample_photo(name, 12) for name in ("china", "flower")]
    together, alone = [made(0), made(1)], [made(0), made(1)]
    fit_many(together, signals, steps=8)
    for field, signal in zip(alone, signals, strict=True):
        fit(field, signal, steps=8)
    for one, other in zip(together, alone, strict=True):
        for name, tensor in one.named_parameters():
            torch.testing.assert_close(tensor, other.get_parameter(name), atol=1e-4, rtol=1e-3, msg=name)
    noise = AdditiveNoise(strength=0.05, relative_to="tensor-std")
    for loss in (GradientNorm(), WeightPerturbation(noise=noise)):
        field = made()
        before = field.get_parameter("tables.weight").clone()
        fit(field, signals[0], loss=loss, steps=3)
        assert not torch.equal(field.get_parameter("tables.weight"), before)
    assert noisy_psnr(together[0], signals[0], noise, 2).mean() < together[0].psnr(signals[0])


def test_files_and_what_has_no_form_in_integers(tmp_path: Path) -> None:
    field, photo = made(3), sample_photo("china", 12)
    save_field(field, tmp_path / "field.safetensors")
    back = load_field(tmp_path / "field.safetensors")
    assert isinstance(back, Field)
    assert back.settings == field.settings
    assert torch.equal(back(photo.coordinates), field(photo.coordinates))
    with pytest.raises(InputError, match="a field with a hash grid has no form in integers"):
        HadamardQuant().quantize(field, photo)
    with pytest.raises(InputError, match="fields of one batch must be alike: encoding of field 1 is None"):
        fit_many([field, Field(2, 3, hidden_features=16, hidden_layers=2, activation="relu")], [photo, photo], steps=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_render(dtype: torch.dtype) -> None:
    field = made().to(dtype)
    fit(field, sample_photo("china", 12), steps=2)
    assert torch.isfinite(field.render((12, 12))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HashGrid(table_size=100), "table_size of a hash grid must be a power of two, got 100"),
        (lambda: HashGrid(coarsest=64, finest=32), "finest of a hash grid must be .*64"),
        (lambda: HashGrid(levels=0), "levels of a hash grid must be"),
        (lambda: Field(7, 1, encoding=GRID), "a hash grid takes at most 6 coordinates, got 7"),
        (lambda: Field(2, 1, encoding="hash"), "encoding must be a HashGrid or None, got 'hash'"),  # pyright: ignore
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
