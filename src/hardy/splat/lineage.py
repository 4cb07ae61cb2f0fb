"""What became of Gaussians in a training: which ones still feel a gradient, and how those that multiplied moved.

The split and clone displacements are those of Decomposing Densification (arXiv 2507.20239), frozen Gaussians those of
ReAct-GS (arXiv 2510.19653). Where we differ: frozen is a mean gradient over all training views, taken at the end, below
a stated limit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.splat.ply import NAMES, Parameters
from hardy.splat.scene import Scene
from hardy.splat.strategies.criteria import Criterion, MeanGradient
from hardy.splat.training import Options, view_loss

FROZEN = 2e-5
"""A tenth of the gradient at which `vanilla` lets a Gaussian multiply."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestry:
    """Gaussians of one kind: how many, as a share of all, and their mean distance from where their line began."""

    share: float
    displacement: float


def activity(
    parameters: Parameters, scene: Scene, criterion: Criterion | None = None, options: Options | None = None
) -> Ranking:
    """How strongly each Gaussian is pulled by the training views: its number -> the criterion over all of them.

    Gaussians that no training view shows are left out.

    Args:
        parameters: as `train` or `load_ply` gives them.
        scene: whose training views are gone through once.
        criterion: of densification; by default the mean gradient.
        options: of the training, for its loss.

    Raises:
        InputError: no view shows any Gaussian.
    """
    criterion = criterion or MeanGradient()
    options = options or Options()
    degree = round((parameters["shN"].shape[1] + 1) ** 0.5) - 1
    params = {name: parameters[name].detach().clone().requires_grad_() for name in NAMES}
    total, weight = (params["means"].new_zeros(len(params["means"])) for _ in range(2))
    for view in scene.views:
        loss, info = view_loss(params, view.to(total.device), options, degree)
        info["means2d"].retain_grad()
        loss.backward()
        value, share = criterion.measure(info, 0, scene.extent)
        total += torch.nan_to_num(value * share)
        weight += torch.nan_to_num(share)
    shown = weight > 0
    if not bool(shown.any()):
        raise InputError(f"none of the {len(scene.views)} training views shows any of the {len(total)} Gaussians")
    pull = (total / weight.clamp(min=1e-12)).tolist()
    scores = {str(i): pull[i] for i in shown.nonzero()[:, 0].tolist()}
    meaning = "gradient by the centre over the training views"
    return Ranking(scores=scores, meaning=meaning, unit="1 / half an image", by=type(criterion).__name__)


def frozen_share(pulls: Ranking, limit: float = FROZEN) -> float:
    """The share of Gaussians in `activity` below `limit`: hardly any view moves or multiplies them any more."""
    return sum(score < limit for score in pulls.scores.values()) / len(pulls)


def ancestry(parameters: Parameters, state: Mapping[str, Any]) -> dict[str, Ancestry]:
    """By kind, what the lines of Gaussians went through: as at the start, mostly split, mostly cloned, both alike.

    Args:
        parameters: of the training.
        state: of its strategy.

    Raises:
        InputError: the strategy keeps no lineage, as `mcmc`, or it is not of these Gaussians.
    """
    count = len(parameters["means"])
    if any(name not in state or len(state[name]) != count for name in ("home", "splits", "clones")):
        raise InputError(f"the state holds no lineage of these {count} Gaussians; mcmc keeps none")
    moved = (parameters["means"].detach() - state["home"]).norm(dim=1)
    splits, clones = state["splits"], state["clones"]
    kinds = {
        "as at the start": (splits == 0) & (clones == 0),
        "mostly split": splits > clones,
        "mostly cloned": clones > splits,
        "both alike": (splits == clones) & (splits > 0),
    }
    return {
        kind: Ancestry(
            share=mask.float().mean().item(), displacement=moved[mask].mean().item() if bool(mask.any()) else 0.0
        )
        for kind, mask in kinds.items()
    }
