"""Probing: how well the clean prompts are told from the corrupt ones by a linear probe on one object.

k-fold logistic regression on standardised activations at the last position (or the unit's own), with the control that
Hewitt and Liang (2019) ask for: selectivity is the accuracy less that of probes for shuffled labels.
"""

from __future__ import annotations

import dataclasses
import warnings

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probing(Locator):
    """Accuracy of a linear probe less that for shuffled labels.

    Args:
        folds: of the cross-validation; a pair is in one fold.
        shuffles: of the labels.
        penalty: inverse strength of the L2 penalty, sklearn's C.
        seed: of folds and shuffles.
    """

    folds: int = 5
    shuffles: int = 3
    penalty: float = 0.1
    seed: int = 0

    by = "probing"
    family = "probing"
    meaning = "selectivity: accuracy of a linear probe less that for shuffled labels"
    unit = "accuracy"
    kinds = ("embedding", "residual", "attention", "head", "ffn")
    why_not = "one number has no direction; probe the ffn, or use magnitude with cohen-d"

    def check(self) -> None:
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
        scores = {}
        for unit in track(units, f"probing {self.object}"):
            sides = [torch.cat([values[unit.point][_place(unit)] for values in found]) for found in parts.values()]
            x = torch.cat(sides).double().flatten(1).cpu().numpy()
            real = np.repeat([1, 0], len(task))
            accuracy = cross_validated(x, real, np.tile(fold, 2), self.penalty)
            controls = []
            for _ in range(self.shuffles):
                flips = random.integers(0, 2, len(task))  # which of a pair is called clean
                controls.append(cross_validated(x, np.concatenate([flips, 1 - flips]), np.tile(fold, 2), self.penalty))
            scores[str(unit)] = accuracy - float(np.mean(controls))
        return scores


def _place(unit: Unit) -> tuple[slice | int, ...]:
    """Of the unit, at the last position where it has none of its own."""
    return unit.place if unit.position is not None else dataclasses.replace(unit, position=-1).place


def cross_validated(x: np.ndarray, labels: np.ndarray, fold: np.ndarray, penalty: float) -> float:
    """Accuracy of logistic regression over folds.

    Args:
        x: (samples, features).
        labels: (samples,) 0 or 1.
        fold: (samples,).
        penalty: sklearn's C.
    """
    from sklearn.linear_model import LogisticRegression

    right = 0
    for held in np.unique(fold):
        train, test = fold != held, fold == held
        mean, scale = x[train].mean(0), x[train].std(0)
        scale[scale < 1e-9] = 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: the last digit of a probe decides nothing
            probe = LogisticRegression(C=penalty, max_iter=200).fit((x[train] - mean) / scale, labels[train])
        right += int((probe.predict((x[test] - mean) / scale) == labels[test]).sum())
    return right / len(labels)
