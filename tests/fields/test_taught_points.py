"""A teacher as one more way to draw the points of a fit."""

from pathlib import Path

import pytest
import torch

from hardy import InputError
from hardy.fields import Field, Schedule, Signal, fit, fit_many, sample_photo
from hardy.fields.field import stacked
from hardy.fields.points import Points
from hardy.fields.samples import Samples
from hardy.teach import Teacher, schedules, selectors

STEPS = 12
FIFTH = schedules.Constant(ratio=0.2)


@pytest.fixture
def photo() -> Signal:
    return sample_photo("flower", 9)


def a_field() -> Field:
    return Field(2, 3, hidden_features=8, hidden_layers=2)


def points(field: Field, photo: Signal, loss: object = None) -> Points:
    return Points(stacked([field]), field.evaluate, Samples.of([photo]), loss)  # pyright: ignore[reportArgumentType]


def test_points_are_scored_by_the_closed_forms_and_the_kernel(photo: Signal) -> None:
    field = a_field()
    output = field(photo.coordinates)
    error = (output - photo.values).detach()
    examples = points(field, photo)
    assert len(examples) == 81
    assert torch.allclose(examples.losses(), error.square().mean(1), atol=1e-6)
    assert torch.allclose(examples.gradient_norms(), 2 * error.norm(dim=1) / 3, atol=1e-6)
    absolute = points(field, photo, torch.nn.functional.l1_loss)
    assert torch.allclose(absolute.losses(), error.abs().mean(1), atol=1e-6)
    assert torch.allclose(absolute.gradient_norms(), torch.full((81,), 3**-0.5), atol=1e-6)
    rows = [
        torch.cat([part.flatten() for part in torch.autograd.grad(value, list(field.parameters()), retain_graph=True)])
        for value in output.flatten()
    ]
    jacobian = torch.stack(rows)
    expected = (jacobian @ (jacobian.T @ (2 * error.flatten() / 3))).reshape(81, 3).norm(dim=1)
    assert torch.allclose(examples.kernel_norms(), expected, rtol=1e-3, atol=1e-6)


def test_a_fit_sees_what_the_teacher_chose(photo: Signal) -> None:
    plain, taught = a_field(), a_field()
    fit(plain, photo, steps=STEPS)
    fit(taught, photo, steps=STEPS, teacher=Teacher(STEPS, selector="full"))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain.parameters(), taught.parameters(), strict=True))
    teacher = Teacher(1, selector="hard", ratio=FIFTH)
    field = a_field()
    error = (field(photo.coordinates) - photo.values).norm(dim=1)
    fit(field, photo, steps=1, teacher=teacher)
    assert teacher.ids is not None
    assert sorted(teacher.ids.tolist()) == sorted(error.argsort(descending=True)[:16].tolist())


def test_a_taught_fit_goes_on_the_same(photo: Signal, tmp_path: Path) -> None:
    file = tmp_path / "fit.safetensors"

    def teacher() -> Teacher:
        kind = selectors.KernelGuided(period=2)
        return Teacher(STEPS, selector=kind, ratio=FIFTH, interval=schedules.Growing(first=1, last=4, dense=0.25))

    class Broken(Teacher):
        def choose(self, examples: object) -> torch.Tensor:
            if self.time == 9:
                raise KeyboardInterrupt
            return super().choose(examples)  # pyright: ignore[reportArgumentType]

    schedule = Schedule(steps=STEPS, check_every=4)
    whole, broken = a_field(), a_field()
    expected = fit(whole, photo, teacher=teacher(), schedule=schedule)
    begun = Broken(STEPS, selector=selectors.KernelGuided(period=2), ratio=FIFTH, interval=teacher().interval)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, photo, teacher=begun, schedule=schedule, checkpoint=file)
    again = a_field()
    assert fit(again, photo, teacher=teacher(), schedule=schedule, checkpoint=file).psnr == expected.psnr
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(InputError, match="belongs to another fit: teacher is"):
        fit(a_field(), photo, teacher=Teacher(STEPS), schedule=schedule, checkpoint=file)


def test_nints_budget_falls_and_its_shares_are_different_points() -> None:
    scores = torch.arange(1000.0)
    kernel = scores.flip(0)
    kind, random = selectors.KernelGuided(), torch.Generator().manual_seed(0)
    assert [round(kind.share(n), 4) for n in (0, 1, 10, 11, 60)] == [0.3, 0.1104, 0.1104, 0.0406, 0.0]
    assert [n for n in range(70) if kind.is_due(n)] == [0, 10, 20, 30, 40, 50]
    chosen = kind.guided(scores, kernel, 0.3, 200, random)
    assert len(chosen.unique()) == 200
    assert set(range(60)) <= set(chosen.tolist())  # the kernel's highest; 140 of the others are random
    half = selectors.KernelGuided(kernel=0.25, random=0.5).guided(scores, kernel, 0.25, 200, random)
    assert {*range(50), *range(950, 1000)} <= set(half.tolist())
    with pytest.raises(InputError, match=r"kernel \+ random must be"):
        selectors.KernelGuided(kernel=0.5, random=0.7)


def test_what_no_teacher_can_lead_is_told(photo: Signal) -> None:
    with pytest.raises(InputError, match="the teacher is for 3 updates, the fit has 12 steps"):
        fit(a_field(), photo, steps=STEPS, teacher=Teacher(3))
    with pytest.raises(InputError, match="points and a teacher exclude each other"):
        fit(a_field(), photo, steps=STEPS, points=4, teacher=Teacher(STEPS))
    assert len(fit_many([a_field()], [photo], steps=1)) == 1
