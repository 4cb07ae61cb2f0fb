"""Probing: how well the clean prompts are told from the corrupt ones by a linear probe on one object.

k-fold logistic regression on standardised activations at the last position (or the unit's own), with the control that
Hewitt and Liang (2019) ask for: selectivity is the accuracy less that of probes for shuffled labels.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal

import numpy as np
import torch
from torch import nn

from hardy import checks
from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.interp.locator import Locator, recorded
from hardy.interp.objects import Unit
from hardy.interp.task import Task
from hardy.runs.progress import track

Probe = Literal["logistic", "mass-mean", "sparse"]
PROBES: tuple[Probe, ...] = ("logistic", "mass-mean", "sparse")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probing(Locator):
    """Accuracy of a linear probe less that for shuffled labels.

    Args:
        probe: "logistic" regression; "mass-mean", the difference of the two means as direction (Marks and Tegmark
            2024); or "sparse", a regression on the few coordinates whose means differ most (Gurnee et al. 2023). None
            for the first, and for the second where the object is one number.
        nonzero: coordinates of a sparse probe.
        folds: of the cross-validation; a pair is in one fold.
        shuffles: of the labels.
        penalty: inverse strength of the L2 penalty, sklearn's C.
        seed: of folds and shuffles.
    """

    probe: Probe | None = None
    nonzero: int = 4
    folds: int = 5
    shuffles: int = 3
    penalty: float = 0.1
    seed: int = 0

    by = "probing"
    family = "probing"
    meaning = "selectivity: accuracy of a linear probe less that for shuffled labels"
    unit = "accuracy"

    def check(self) -> None:
        if self.probe is not None:
            checks.one_of("probe", self.probe, PROBES)
        checks.integer("nonzero", self.nonzero, at_least=1)
        checks.integer("folds", self.folds, at_least=2)
        checks.integer("shuffles", self.shuffles, at_least=1)
        checks.number("penalty", self.penalty, above=0)
        checks.integer("seed", self.seed)

    def effects(self, model: nn.Module, task: Task) -> dict[str, float]:
        if len(task) < 2 * self.folds:
            raise InputError(f"{self.folds} folds need at least {2 * self.folds} pairs, {task.name} has {len(task)}")
        units = self.units(model, task)
        points = list(dict.fromkeys(unit.point for unit in units))
        parts = {"clean": [], "corrupt": []}
        for part in task.batches(self.batch):
            for side, found in parts.items():
                found.append(recorded(model, points, part.inputs(side))[0])
        random = np.random.default_rng(derive(self.seed, "probing"))
        fold = random.permutation(np.arange(len(task)) % self.folds)
        scalar = self.object in ("neuron", "feature")
        probe: Probe = self.probe or ("mass-mean" if scalar else "logistic")
        scores = {}
        for unit in track(units, f"probing {self.object}"):
            sides = [torch.cat([values[unit.point][_place(unit)] for values in found]) for found in parts.values()]
            x = torch.cat(sides).double().reshape(2 * len(task), -1).cpu().numpy()
            real = np.repeat([1, 0], len(task))
            accuracy = cross_validated(x, real, np.tile(fold, 2), self.penalty, probe, self.nonzero)
            controls = []
            for _ in range(self.shuffles):
                flips = random.integers(0, 2, len(task))  # which of a pair is called clean
                labels = np.concatenate([flips, 1 - flips])
                controls.append(cross_validated(x, labels, np.tile(fold, 2), self.penalty, probe, self.nonzero))
            scores[str(unit)] = accuracy - float(np.mean(controls))
        return scores


def _place(unit: Unit) -> tuple[slice | int, ...]:
    """Of the unit, at the last position where it has none of its own."""
    return unit.place if unit.position is not None else dataclasses.replace(unit, position=-1).place


def cross_validated(
    x: np.ndarray, labels: np.ndarray, fold: np.ndarray, penalty: float, probe: Probe = "logistic", nonzero: int = 4
) -> float:
    """Accuracy of a probe over folds.

    Args:
        x: (samples, features).
        labels: (samples,) 0 or 1.
        fold: (samples,).
        penalty: sklearn's C.
        probe, nonzero: as of `Probing`.
    """
    from sklearn.linear_model import LogisticRegression

    right = 0
    for held in np.unique(fold):
        train, test = fold != held, fold == held
        mean, scale = x[train].mean(0), x[train].std(0)
        scale[scale < 1e-9] = 1.0
        seen, judged = (x[train] - mean) / scale, (x[test] - mean) / scale
        one, other = seen[labels[train] == 1].mean(0), seen[labels[train] == 0].mean(0)
        if probe == "mass-mean":
            direction = one - other
            said = (judged - (one + other) / 2) @ direction > 0
            right += int((said.astype(int) == labels[test]).sum())
            continue
        if probe == "sparse":
            some = np.argsort(-np.abs(one - other), kind="stable")[:nonzero]
            seen, judged = seen[:, some], judged[:, some]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: the last digit of a probe decides nothing
            fitted = LogisticRegression(C=penalty, max_iter=200).fit(seen, labels[train])
        right += int((fitted.predict(judged) == labels[test]).sum())
    return right / len(labels)
