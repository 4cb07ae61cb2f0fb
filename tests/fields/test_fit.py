"""Fitting: Adam written out, batches against single fits, targets, sampling, divergence, going on after a kill."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.fields import adam

import hardy
from hardy.core import InputError
from hardy.fields import Field, GradientNorm, Schedule, Signal, audio, distance, fit, fit_many, image, sample_photo
from hardy.fields.activations import KINDS
from hardy.fields.samples import Samples


def photo(name: str = "china", size: int = 16) -> Signal:
    return sample_photo(name, size)


def small(seed: int = 0, kind: str = "sine", width: int = 12) -> Field:
    return Field(2, 3, hidden_features=width, hidden_layers=2, activation=kind, seed=seed)


def same(a: Field, b: Field, tolerance: float = 1e-4) -> None:
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_it_is_adam_with_exponential_decay() -> None:
    fitted, expected, signal = small(), small(), photo()
    result = fit(fitted, signal, schedule=Schedule(steps=12, learning_rate=2e-3, decay=0.2))
    adam(expected, signal.coordinates, signal.values, steps=12, rate=2e-3, decay=0.2)
    same(fitted, expected)
    assert result.psnr == pytest.approx(fitted.psnr(signal), abs=1e-3)
    assert result.steps == 12
    assert [step for step, _ in result.history] == [0, 12]
    assert result.history[0][1] == pytest.approx(small().psnr(signal), abs=1e-3)


def test_every_activation_fits_a_photo() -> None:
    signal = photo(size=24)
    mean = signal.psnr(signal.values.mean(0).expand_as(signal.values))
    for kind in KINDS:
        field = small(kind=kind, width=24)
        result = fit(field, signal, schedule=Schedule(steps=150))
        assert result.psnr > mean + 3, kind
        assert field.psnr(signal) == pytest.approx(result.psnr, abs=1e-2)


def test_a_batch_fits_each_as_alone_and_in_its_place() -> None:
    signals = [photo("china"), photo("flower"), photo("china")]
    schedule = Schedule(steps=25)
    together, alone = [small(seed) for seed in range(3)], [small(seed) for seed in range(3)]
    batch = fit_many(together, signals, schedule=schedule)
    single = [fit(field, signal, schedule=schedule) for field, signal in zip(alone, signals, strict=True)]
    for a, b, one, other in zip(batch, single, together, alone, strict=True):
        same(one, other, tolerance=2e-3)
        assert a.psnr == pytest.approx(b.psnr, abs=0.02)


@pytest.mark.parametrize("points", [None, 50])
def test_signals_of_different_sizes(points: int | None) -> None:
    """The padding of the shorter signal is never seen."""
    signals = [photo(size=9), photo("flower", 16)]
    schedule = Schedule(steps=20, points=points)
    together = [small(seed) for seed in range(2)]
    batch = fit_many(together, signals, schedule=schedule)
    for index, signal in enumerate(signals):
        alone = small(index)
        assert batch[index].psnr == pytest.approx(fit(alone, signal, schedule=schedule).psnr, abs=0.02)
        assert batch[index].psnr == pytest.approx(together[index].psnr(signal), abs=1e-3)


def test_drawn_points_depend_on_the_seed_alone() -> None:
    results = []
    for seed in (0, 0, 1):
        field = small()
        fit(field, photo(), schedule=Schedule(steps=10, points=20, seed=seed))
        results.append(field.layers[0].weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_field_that_reaches_its_target_leaves_the_batch_and_the_others_go_on() -> None:
    flat = Signal.on_grid(torch.full((16, 16, 3), 0.25))
    schedule = Schedule(steps=60, target_psnr=28.0, check_every=5)
    fields = [small(0), small(1), small(2)]
    fits = fit_many(fields, [photo(), flat, photo("flower")], schedule=schedule)
    assert fits[1].steps < 60
    assert fits[0].steps == fits[2].steps == 60
    assert fits[1].psnr >= 28
    assert fits[1].steps_to(28.0) == fits[1].steps
    assert fits[0].steps_to(99.0) is None
    assert fields[1].psnr(flat) == pytest.approx(fits[1].psnr, abs=0.01), "its weights are those of that check"
    alone = small(2)
    assert fit(alone, photo("flower"), schedule=schedule).psnr == pytest.approx(fits[2].psnr, abs=0.05)


def test_divergence_is_said_and_leaves_the_field_as_it_was() -> None:
    field, before = small(kind="relu"), small(kind="relu")
    schedule = Schedule(steps=100, learning_rate=1e30, check_every=10)
    with pytest.raises(InputError, match="diverged within .* smaller learning_rate"):
        fit(field, photo(), schedule=schedule)
    same(field, before, tolerance=0)


@pytest.mark.parametrize("loss", [None, GradientNorm(strength=0.01)])
def test_a_fit_that_was_broken_off_goes_on_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: hardy.fields.Loss | None
) -> None:
    schedule = Schedule(steps=40, check_every=10, points=64, target_psnr=22.0)
    flat = Signal.on_grid(torch.full((16, 16, 3), 0.25))  # reaches the target early and leaves

    def fields() -> list[Field]:
        return [small(seed) for seed in range(3)]

    whole, broken = fields(), fields()
    signals = [photo(), flat, photo("flower")]
    expected = fit_many(whole, signals, loss=loss, schedule=schedule)
    assert expected[1].steps < 40

    steps = iter(range(35))
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: next(steps) >= 0 and step(self))
    with pytest.raises(StopIteration):
        fit_many(broken, signals, loss=loss, schedule=schedule, checkpoint=tmp_path / "fit.safetensors")
    monkeypatch.undo()
    again = fields()
    resumed = fit_many(again, signals, loss=loss, schedule=schedule, checkpoint=tmp_path / "fit.safetensors")
    for a, b in zip(expected, resumed, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)
    for a, b in zip(whole, again, strict=True):
        same(a, b, tolerance=0)
    # A finished one is read, not fitted again.
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("a step too many"))
    finished = fields()
    fit_many(finished, signals, loss=loss, schedule=schedule, checkpoint=tmp_path / "fit.safetensors")
    same(finished[0], whole[0], tolerance=0)


def test_checkpoints_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "fit.safetensors"
    fit(small(), photo(), schedule=Schedule(steps=2), checkpoint=file)
    with pytest.raises(InputError, match="another fit: schedule.steps is 2 there, 3 here"):
        fit(small(), photo(), schedule=Schedule(steps=3), checkpoint=file)
    with pytest.raises(InputError, match=r"layers.0.weight is \[1, 12, 2\] there"):
        fit(small(width=8), photo(), schedule=Schedule(steps=2), checkpoint=file)
    with pytest.raises(InputError, match="another fit: signals is"):
        fit(small(), photo("flower"), schedule=Schedule(steps=2), checkpoint=file)
    whole = file.read_bytes()
    for damage in (b"", b"rubbish" * 9, whole[:-40], whole[:200]):
        file.write_bytes(damage)
        with pytest.raises(InputError, match="is damaged|is not a checkpoint"):
            fit(small(), photo(), schedule=Schedule(steps=2), checkpoint=file)


def test_any_loss_of_torch_and_the_plain_arguments() -> None:
    """What is minimised is that loss: its gradient, written out by hand."""
    fitted, expected, signal = small(), small(), photo()
    result = fit(fitted, signal, loss=torch.nn.functional.l1_loss, steps=8, learning_rate=1e-3, decay=1.0)
    assert result.steps == 8
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-3)
    for _ in range(8):
        optimizer.zero_grad()
        (expected(signal.coordinates) - signal.values).abs().mean().backward()
        optimizer.step()
    same(fitted, expected, tolerance=1e-5)
    batch = [small(), small()]
    fit_many(batch, [signal, photo(size=9)], loss=torch.nn.functional.l1_loss, steps=8, learning_rate=1e-3, decay=1.0)
    same(batch[0], expected, tolerance=1e-5)
    alone = small()
    fit(alone, photo(size=9), loss=torch.nn.functional.l1_loss, steps=8, learning_rate=1e-3, decay=1.0)
    same(batch[1], alone, tolerance=1e-5)


@pytest.mark.parametrize("kind", ["sine", "relu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fields_of_other_dtypes_do_all_that_fields_do(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    signal = photo(size=8)
    field = small(kind=kind).to(dtype)
    fit(field, signal, steps=20)
    assert {parameter.dtype for parameter in field.parameters()} == {dtype}
    assert field.render((5, 7)).shape == (5, 7, 3)
    assert field.render((8, 8)).dtype == dtype
    reference = small(kind=kind)
    reference.load_state_dict(field.state_dict())
    tolerance = 1.5 if dtype == torch.bfloat16 else 1e-4
    assert field.psnr(signal) == pytest.approx(reference.psnr(signal), abs=tolerance)
    assert field(signal.coordinates.to(dtype)).dtype == dtype
    hardy.fields.save_field(field, tmp_path / "field.safetensors")
    again = hardy.fields.load_field(tmp_path / "field.safetensors")
    assert isinstance(again, Field)
    assert torch.equal(again(signal.coordinates), field(signal.coordinates))
    assert hardy.fields.HadamardQuant().quantize(field, signal).psnr(signal) > 0
    noise = hardy.hardware.AdditiveNoise(strength=0.01, relative_to="tensor-std")
    fit(field, signal, loss=hardy.fields.WeightPerturbation(noise=noise), steps=2)
    assert hardy.fields.noisy_psnr(field, signal, noise, 2).isfinite().all()


def test_a_fit_in_a_pipe_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("hardy.runs.progress.EVERY", 0.0)
    monkeypatch.setenv("HARDY_PROGRESS", "lines")
    fit(small(), photo(), steps=4, check_every=2, progress=True)
    assert "fit: 2/4 (50%)" in capsys.readouterr().err


def test_sound_video_and_shapes() -> None:
    wave = audio(np.sin(np.arange(400) / 9) * 0.8)
    sound = Field(1, 1, hidden_features=16, activation=hardy.fields.Sine(first_omega=300.0))
    assert fit(sound, wave, schedule=Schedule(steps=150)).psnr > 25
    ball = distance(lambda points: points.norm(dim=1) - 0.5, (10, 10, 10), truncation=0.3)
    shape = Field(3, 1, hidden_features=16, activation=hardy.fields.Quad(first_omega=3.0))
    assert fit(shape, ball, schedule=Schedule(steps=300, learning_rate=5e-3, points=300)).psnr > 20


def test_saved_fields_are_loaded(tmp_path: Path) -> None:
    for kind in ("quad", "wire"):
        field = small(3, kind)
        hardy.save(field, tmp_path / kind)
        loaded = hardy.load(tmp_path / kind, into=small(9, kind))
        assert torch.equal(loaded(photo().coordinates), field.eval()(photo().coordinates))


def test_methods_of_the_house_work_on_fields() -> None:
    field, signal = small(), photo()
    fit(field, signal, schedule=Schedule(steps=50))
    clean = field.psnr(signal)
    with hardy.quant.RoundToNearest(bits=3, group_size=None, select="linear").apply(field):
        assert field.psnr(signal) < clean
    assert field.psnr(signal) == clean


def test_padding_is_not_counted() -> None:
    samples = Samples.of([photo(size=4), photo("flower", 6)])
    assert samples.lengths is not None
    estimate = torch.zeros_like(samples.values)
    expected = [photo(size=4).values.square().mean(), photo("flower", 6).values.square().mean()]
    torch.testing.assert_close(samples.error(estimate), torch.stack(expected))
    drawn = samples.drawn(1000, torch.Generator().manual_seed(0))
    assert drawn.coordinates[0].abs().min() == 0.25, "points of the signal, not of its padding at zero"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Schedule(steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: Schedule(check_every=0), "check_every .* got 0"),
        (lambda: Schedule(points=-1), "points .* got -1"),
        (lambda: Schedule(learning_rate=0.0), "learning_rate .* above 0, got 0.0"),
        (lambda: Schedule(decay=float("inf")), "decay .* got inf"),
        (lambda: Schedule(target_psnr=-1), "target_psnr .* got -1"),
        (lambda: fit(small(), photo(), schedule=Schedule(), steps=3), "steps and a schedule exclude each other"),
        (lambda: Schedule(seed=1.5), "seed must be an integer, got 1.5"),  # pyright: ignore[reportArgumentType]
        (lambda: fit(Field(1, 3), photo()), "the field has 1 coordinates and 3 channels, the signal 2 and 3"),
        (lambda: fit_many([small()], [photo(), photo()]), "2 signals are given for 1 fields"),
        (lambda: fit_many([small()], []), "no signals"),
        (lambda: fit_many([], [photo()]), "no fields"),
        (
            lambda: fit_many([small(), small()], [photo(), image(np.zeros((16, 16)))]),
            "signal 1 has 1 values per point, not 3",
        ),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_field_worse_than_a_constant_is_warned_of() -> None:
    signal = Signal.on_grid(torch.linspace(-0.2, 0.2, 64).reshape(8, 8, 1))
    field = Field(2, 1, hidden_features=8, hidden_layers=2)
    with pytest.warns(UserWarning, match=r"after 300 steps the field has .* dB, where the signal's mean has"):
        fit(field, signal, steps=300, learning_rate=1e5)
    constant = Signal.on_grid(torch.full((4, 4, 1), 0.3))
    fit(Field(2, 1, hidden_features=2, hidden_layers=1), constant, steps=300)  # nobody is better than its mean


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_field_of_another_precision_fits_and_renders(dtype: torch.dtype) -> None:
    signal = Signal.on_grid(torch.linspace(-0.5, 0.5, 64).reshape(8, 8, 1))
    field = Field(2, 1, hidden_features=8, hidden_layers=2).to(dtype)
    fit(field, signal, steps=5)
    assert field.render((8, 8)).dtype == dtype
