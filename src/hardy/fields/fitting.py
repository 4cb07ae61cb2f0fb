"""Fit fields to signals: Adam with exponential decay, many fields of one shape in each product, resumable.

Source: the protocol of FINER++'s benchmark (full batch, Adam, learning rate falling tenfold over the fit), which the
papers compared here very likely share.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardy.core.teaching import Teaching
from hardy.errors import InputError
from hardy.fields.descent import Fit, Schedule, descend, schedule_of
from hardy.fields.field import Field, stacked, unstack
from hardy.fields.losses import Loss, SquaredError
from hardy.fields.samples import PointLoss, Samples
from hardy.fields.signals import Signal

_LONG_ENOUGH = 300
"""Steps after which a field should be better than a constant."""
_NO_BETTER, _FLAT = 0.1, 60.0
"""In dB: a field that is not better by so much; a signal that is a constant itself."""


def fit(
    field: Field,
    signal: Signal,
    *,
    loss: Loss | PointLoss | None = None,
    schedule: Schedule | None = None,
    teacher: Teaching | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **schedule_fields: Any,
) -> Fit:
    """Fit `field` to `signal` in place.

    Args:
        field: on any device; the signal goes there.
        signal: with as many coordinates and channels as the field has.
        loss: what is minimised: a `Loss`, or a function of the field's and the signal's values such as torch's
            `l1_loss`; the squared error by default.
        schedule: steps, learning rate, target; or give the fields of `Schedule` here (`steps=500`).
        teacher: chooses the points of each step, by what they still teach: `hardy.teach.Teacher(steps, ...)`. By
            default each step sees all points, or as many as the schedule draws.
        checkpoint: a file that is written at checks, and from which a fit that was broken off goes on.
        progress: whether to show a progress bar.

    Returns:
        What came of it. A field that is no better than a constant after 300 steps or more is warned of.

    Raises:
        InputError: field and signal do not fit, the fit diverged (the field is then as it was), the teacher is for
            another number of steps, or the checkpoint is damaged or of another fit.
    """
    schedule = schedule_of(schedule, schedule_fields)
    (result,) = _fitted([field], [signal], loss, schedule, teacher, checkpoint, progress)
    if math.isnan(result.psnr):
        raise InputError(f"the fit diverged within {result.steps} steps; use a smaller learning_rate or a weaker loss")
    if result.steps >= _LONG_ENOUGH:
        constant = signal.psnr(signal.values.mean(0, keepdim=True).expand_as(signal.values))
        if result.psnr < constant + _NO_BETTER and constant < _FLAT:
            warnings.warn(
                f"after {result.steps} steps the field has {result.psnr:.2f} dB, where the signal's mean has "
                f"{constant:.2f}: the learning rate or the activation's frequency is too high for it",
                stacklevel=2,
            )
    return result


def fit_many(
    fields: Sequence[Field],
    signals: Sequence[Signal],
    *,
    loss: Loss | PointLoss | None = None,
    schedule: Schedule | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **schedule_fields: Any,
) -> list[Fit]:
    """Fit each of `fields` to the signal at its place, all in one batch; each as `fit` would alone, up to rounding.

    Fields that reach the target or diverge leave the batch. One that diverged has the psnr NaN and is as it was.

    Args:
        fields: of one activation and one shape, on one device; their weights may differ.
        signals: as many. Their sizes may differ, at the cost of the largest unless `points` are drawn.
        loss: see `fit`.
        schedule: see `fit`.
        checkpoint: see `fit`.
        progress: see `fit`.

    Returns:
        What came of each, in order.

    Raises:
        InputError: fields and signals do not fit each other, or the checkpoint is damaged or of another fit.
    """
    return _fitted(fields, signals, loss, schedule_of(schedule, schedule_fields), None, checkpoint, progress)


def _fitted(
    fields: Sequence[Field],
    signals: Sequence[Signal],
    loss: Loss | PointLoss | None,
    schedule: Schedule,
    teacher: Teaching | None,
    checkpoint: str | Path | None,
    progress: bool,
) -> list[Fit]:
    parameters = stacked(fields)
    first = fields[0]
    samples = Samples.of(signals, parameters["layers.0.weight"].device)
    samples.check(first.in_features, first.out_features, len(fields))
    fitted, fits = descend(
        parameters,
        first.evaluate,
        samples,
        loss=loss or SquaredError(),
        schedule=schedule,
        teacher=teacher,
        learning_rate=first.learning_rate,
        checkpoint=checkpoint,
        progress=progress,
    )
    unstack(fitted, fields)
    return fits
