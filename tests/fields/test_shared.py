"""Shared fields: parameter counts, values, joint fits, images added to a frozen trunk, rendering at twice the size."""

import copy

import pytest
import torch

import hardy
from hardy.core import InputError
from hardy.fields import (
    Field,
    GradientNorm,
    HadamardQuant,
    Schedule,
    SharedField,
    SharpnessAware,
    Signal,
    WeightPerturbation,
    add_images,
    fit_many,
    fit_shared,
    sample_photo,
)


def photos(size: int = 24, count: int = 4) -> list[Signal]:
    """Crops of the two photos that come along, side by side."""
    wide = [sample_photo(name, (size, 4 * size)).arranged() for name in ("china", "flower")]
    crops = [picture[:, i * size : (i + 1) * size] for i in range(4) for picture in wide]
    return [Signal.on_grid(crop) for crop in crops[:count]]


def model(images: int = 4, **settings) -> SharedField:
    return SharedField(images, 2, 3, **{"hidden_features": 24, "shared_layers": 2, **settings})


def test_counts_are_the_published_ones() -> None:
    """Four photos, 48 units, three shared layers."""
    with_projection = SharedField(4, 2, 3, hidden_features=48)
    assert with_projection.parameter_counts() == {
        "shared": 3 * (48 * 48 + 48),
        "per_image": (2 * 48 + 48) + (48 * 48 + 48) + (48 * 3 + 3),
        "total": 17_628,
        "separate": 29_388,
    }
    assert sum(p.numel() for p in with_projection.parameters()) == 17_628
    assert SharedField(4, 2, 3, hidden_features=48, projections=0).parameter_counts()["total"] == 8_220
    early = SharedField(4, 2, 3, hidden_features=48, share="early").parameter_counts()
    assert early["shared"] == (2 * 48 + 48) + 3 * (48 * 48 + 48)
    assert early["separate"] == 29_388
    wire = SharedField(2, 2, 3, hidden_features=48, activation="wire")
    stored = sum(2 * p.numel() for p in wire.parameters())
    assert wire.parameter_counts()["total"] == stored


@pytest.mark.parametrize("images", [10, 16, 100])
def test_the_saving_of_wide_networks_is_its_formula(images: int) -> None:
    counts = SharedField(images, 2, 3, hidden_features=128, shared_layers=3).parameter_counts()
    assert 1 - counts["total"] / counts["separate"] == pytest.approx(1 - 1 / 3 - 1 / images, abs=0.02)


@pytest.mark.parametrize("share", ["middle", "early"])
@pytest.mark.parametrize("projections", [0, 1, 2])
@pytest.mark.parametrize("kind", ["sine", "wire", "relu"])
def test_evaluation_is_that_of_each_field(share: str, projections: int, kind: str) -> None:
    shared = model(3, share=share, projections=projections, activation=kind)
    points = torch.rand(3, 10, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    close = 1e-3 if kind == "wire" else 1e-5  # wavelets of wavelets enlarge a rounding a hundredfold
    found = shared.evaluate(shared.own_parameters(range(3)), shared.shared_parameters(), points)
    for image in range(3):
        torch.testing.assert_close(found[image], shared.field(image)(points[image]), atol=close, rtol=close)
        assert torch.equal(shared(points[image], image), shared.field(image)(points[image]))


def test_fields_are_views() -> None:
    shared = model(2)
    with torch.no_grad():
        shared.field(0).layers[2].weight.zero_()
    assert not shared.shared["2"].weight.any()
    assert shared.field(0).layers[2] is shared.field(1).layers[2]
    assert shared.field(0).layers[1] is not shared.field(1).layers[1]


def test_projections_are_worth_their_parameters_and_sharing_has_a_price() -> None:
    signals, schedule = photos(), Schedule(steps=300)
    bare, projected = model(projections=0), model()
    for shared in (bare, projected):
        result = fit_shared(shared, signals, schedule=schedule)
        each = shared.psnr(signals)
        assert result.psnr == pytest.approx(sum(each) / 4, abs=0.01)
    fields = [Field(2, 3, hidden_features=24, hidden_layers=3, seed=i) for i in range(4)]
    separate = sum(result.psnr for result in fit_many(fields, signals, schedule=schedule)) / 4
    psnr = {"bare": sum(bare.psnr(signals)) / 4, "projected": sum(projected.psnr(signals)) / 4, "separate": separate}
    assert psnr["projected"] > psnr["bare"] + 1, psnr
    assert psnr["separate"] > psnr["projected"], psnr


@pytest.mark.parametrize("share", ["middle", "early"])
def test_an_image_is_added_and_nothing_else_changes(share: str) -> None:
    signals = photos(16)
    shared = model(2, share=share)
    fit_shared(shared, signals[:2], schedule=Schedule(steps=150))
    before = copy.deepcopy(shared)
    fits = add_images(shared, signals[2:], schedule=Schedule(steps=150))
    assert len(shared.own) == 4
    for image, result in zip((2, 3), fits, strict=True):
        assert result.psnr == pytest.approx(shared.field(image).psnr(signals[image]), abs=0.01)
        assert result.psnr > result.history[0][1] + 3
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, shared.state_dict()[name]), name
    alone = copy.deepcopy(before)
    single = add_images(alone, signals[2:3], schedule=Schedule(steps=150))
    assert single[0].psnr == pytest.approx(fits[0].psnr, abs=0.1)


def test_twice_the_size_stays_in_place() -> None:
    """The means of 2 x 2 pixels of the fine rendering are near the fitted pixels; one pixel aside they are not."""
    signals = [Signal.on_grid(photo.arranged()) for photo in photos(24, 2)]
    shared = model(2, hidden_features=32)
    fit_shared(shared, signals, schedule=Schedule(steps=400))
    for image, signal in enumerate(signals):
        fine = shared.field(image).render((48, 48))
        pooled = fine.unflatten(0, (24, 2)).unflatten(2, (24, 2)).mean((1, 3))
        aside = fine.roll((1, 1), (0, 1)).unflatten(0, (24, 2)).unflatten(2, (24, 2)).mean((1, 3))
        assert signal.psnr(pooled.reshape(-1, 3)) > signal.psnr(aside.reshape(-1, 3)) + 1


def test_images_of_different_sizes() -> None:
    signals = [photos(16, 1)[0], sample_photo("flower", (12, 20))]
    shared = model(2)
    result = fit_shared(shared, signals, schedule=Schedule(steps=100))
    assert result.psnr == pytest.approx(sum(shared.psnr(signals)) / 2, abs=0.01)
    assert result.psnr > result.history[0][1] + 5


@pytest.mark.parametrize("loss", [GradientNorm(), SharpnessAware(), WeightPerturbation()], ids=str)
def test_robust_losses(loss: hardy.fields.Loss) -> None:
    signals, shared = photos(12, 2), model(2)
    result = fit_shared(shared, signals, loss=loss, schedule=Schedule(steps=40))
    assert result.psnr > result.history[0][1] + 3


def test_seeds_integers_saving(tmp_path) -> None:
    signals, shared = photos(16, 2), model(2, seed=4)
    assert torch.equal(shared.own[1]["0"].weight, model(3, seed=4).own[1]["0"].weight)
    fit_shared(shared, signals, schedule=Schedule(steps=80), checkpoint=tmp_path / "fit.safetensors")
    resumed = model(2, seed=4)
    fit_shared(resumed, signals, schedule=Schedule(steps=80), checkpoint=tmp_path / "fit.safetensors")
    assert torch.equal(resumed.own[1]["0"].weight, shared.own[1]["0"].weight)
    made = HadamardQuant().quantize(shared.field(1), signals[1])
    assert made.psnr(signals[1]) == pytest.approx(shared.field(1).psnr(signals[1]), abs=0.5)
    hardy.save(shared, tmp_path / "album")
    assert hardy.load(tmp_path / "album", into=model(2)).psnr(signals) == shared.psnr(signals)


def test_a_fit_that_diverges_leaves_all_as_it_was() -> None:
    signals, schedule = photos(12, 2), Schedule(steps=50, learning_rate=1e30, check_every=5)
    shared = model(2, activation="relu")
    before = copy.deepcopy(shared.state_dict())
    with pytest.raises(InputError, match="diverged"):
        fit_shared(shared, signals, schedule=schedule)
    with pytest.raises(InputError, match="diverged"):
        add_images(shared, signals, schedule=schedule)
    assert shared.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedField(0, 2, 3), "images must be an integer of at least 1, got 0"),
        (lambda: model(projections=-1), "projections .* at least 0, got -1"),
        (lambda: model(shared_layers=0), "shared_layers .* got 0"),
        (lambda: model(share="late"), "share must be middle or early, got 'late'"),
        (lambda: model().field(4), "image must be an integer from 0 to 3, got 4"),
        (lambda: model().psnr(photos(4, 2)), "2 signals are given for 4 images"),
        (lambda: fit_shared(model(), photos(4, 2)), "2 signals are given for 4 fields"),
        (lambda: add_images(SharedField(1, 1, 3), photos(4, 1)), "the field has 1 coordinates"),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
