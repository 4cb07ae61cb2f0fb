"""Objects, locators and steerers put together: of every triple, what runs, or why not.

The seven objects, six families of locators and three of steerers are those of the survey "Locate, Steer, and Improve"
(arXiv 2601.14004). `how` says what a triple is made of, `make` makes the steerer of a ranking, and `table` is the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from hardy import checks
from hardy.core.method import Method
from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.interp import circuit
from hardy.interp.amplitude import Amplitude
from hardy.interp.head_vectors import HeadVectors
from hardy.interp.locating import locate
from hardy.interp.locator import LOCATORS, recorded
from hardy.interp.loreft import LoReFT
from hardy.interp.objects import unit_named
from hardy.interp.sae import SAE
from hardy.interp.steering import SteeringVector
from hardy.interp.task import Task
from hardy.interp.tuning import MaskedFineTuning

Steerer = Literal["amplitude", "vector", "optimization"]
STEERERS: tuple[Steerer, ...] = ("amplitude", "vector", "optimization")
FAMILIES = ("magnitude", "causal", "gradient", "probing", "vocabulary", "circuit")
OBJECTS = ("embedding", "residual", "attention", "ffn", "neuron", "feature", "circuit")
"""The survey's rows; "attention" is heads and whole blocks."""

_KIND = {"attention": "head"}
_FIRST = {
    "magnitude": "magnitude", "causal": "patching", "gradient": "attribution-patching", "probing": "probing",
    "circuit": "path-patching",
}  # fmt: skip
_NO_STEERER = {
    ("embedding", "vector"): "a vector added to all tokens is one added to the stream: take object residual",
    ("embedding", "optimization"): "the rows of the embedding belong to all texts that use a token",
    ("feature", "optimization"): "the weights of the autoencoder are not the model's: train the heads or the MLP there",
}
_NO_LOCATOR = {
    ("residual", "circuit"): "the stream is the sum of what edges carry, and no end of one",
    ("neuron", "circuit"): "edges are between heads and MLPs; the ffn of the neuron is one end",
    ("feature", "circuit"): "edges are between heads and MLPs, and go through a feature together with what it leaves",
    ("circuit", "magnitude"): "an edge is the effect of one object on another, which has no size of its own",
    ("circuit", "probing"): "an edge is the effect of one object on another, with nothing to read a label from",
    ("circuit", "vocabulary"): "an edge to the logits is direct-logit-attribution of its sender: take that object",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a triple is made of.

    Attributes:
        by: name of the locator; "eap", "acdc" or "masks" for circuits.
        method: class of the method that steers.
    """

    by: str
    method: type[Method]


def how(object: str, family: str, steerer: str) -> Recipe:
    """What runs for a triple.

    Raises:
        InputError: it makes no sense, and why.
    """
    checks.one_of("object", object, OBJECTS)
    checks.one_of("family", family, FAMILIES)
    checks.one_of("steerer", steerer, STEERERS)
    if reason := _NO_LOCATOR.get((object, family)) or _NO_STEERER.get((object, steerer)):
        raise InputError(f"{object} by {family}, {steerer}: {reason}")
    methods: dict[str, type[Method]] = {
        "amplitude": Amplitude,
        "vector": HeadVectors if object in ("attention", "circuit") else SteeringVector,
        "optimization": LoReFT if object == "residual" else MaskedFineTuning,
    }
    if object == "circuit":
        return Recipe({"causal": "acdc", "gradient": "eap", "circuit": "masks"}[family], methods[steerer])
    if family == "vocabulary":
        by = "logit-lens" if object == "residual" else "direct-logit-attribution"
    else:
        by = _FIRST[family]
    assert _KIND.get(object, object) in LOCATORS[by].kinds
    return Recipe(by, methods[steerer])


def rank(model: nn.Module, task: Task, object: str, family: str, **options: Any) -> Ranking:
    """The ranking of a triple's first two; `options` are the locator's.

    Raises:
        InputError: as of `how`, and of the locator.
    """
    recipe = how(object, family, "amplitude")
    if object != "circuit":
        return locate(model, task, object=_KIND.get(object, object), by=recipe.by, **options)
    from hardy.interp.edge_search import acdc, learned_masks

    finders: dict[str, Any] = {"eap": circuit.find, "acdc": acdc, "masks": learned_masks}
    return finders[recipe.by](model, task, **options).ranking()


def make(
    model: nn.Module, task: Task, ranking: Ranking, steerer: str, *, k: int = 1, sae: str = "", **settings: Any
) -> Method:
    """The method that steers by the top of a ranking.

    Args:
        model, task: of the ranking; clean prompts are the side that vectors go to, corrupt ones the side they leave.
        ranking: of objects, or of edges.
        steerer: "amplitude", "vector" or "optimization".
        k: objects at the top; a vector in the stream is of the first.
        sae: folder of the autoencoder whose features the objects are.
        settings: fields of the method.

    Raises:
        InputError: as of `how`.
    """
    names = _ends(ranking.top(k))
    first = unit_named(names[0])
    object = _object_of(first.point)
    edges = " -> " in ranking.top(1)[0]
    recipe = how("circuit" if edges else object, "gradient", checks.one_of("steerer", steerer, STEERERS))
    plain = tuple(dict.fromkeys(str(dataclasses.replace(unit_named(name), position=None)) for name in names))
    if recipe.method is Amplitude:
        return Amplitude(units=plain, sae=sae, **settings)
    if recipe.method is HeadVectors:
        heads = [name for name in plain if name.rpartition(".")[0].endswith(".attn.z")]
        if not heads:
            raise InputError(f"no head is among the top {k}: {', '.join(plain[:3])}; take more, or another steerer")
        order = Ranking.from_array(range(len(heads), 0, -1), heads, meaning="order", unit="place", by=ranking.by)
        return HeadVectors.of(model, task, order, k=len(heads), **settings)
    if recipe.method is MaskedFineTuning:
        return MaskedFineTuning(units=plain, **settings)
    layer = int(first.block or 0)
    if recipe.method is LoReFT:
        return LoReFT.train(model, task, layer=layer, **settings)
    return SteeringVector(vector=_vector(model, task, names[0], sae), layer=layer, **settings)


def _object_of(point: str) -> str:
    ends = {".feature": "feature", "resid_post": "residual", ".attn.z": "attention", "attn_out": "attention",
            "mlp_out": "ffn", "mlp.post": "neuron", "embed": "embedding"}  # fmt: skip
    return next(name for end, name in ends.items() if point.endswith(end))


def _ends(names: Sequence[str]) -> list[str]:
    """Objects as they are; of edges the senders, which are heads and MLPs, and receivers of that kind."""
    if " -> " not in names[0]:
        return list(names)
    senders = [name.partition(" -> ")[0] for name in names]
    kept = [name for name in dict.fromkeys(senders) if name != "embed"]
    if not kept:
        raise InputError(f"the top {len(names)} edges start from the embedding alone: take more of them")
    return sorted(kept, key=lambda name: not unit_named(name).point.endswith(".attn.z"))


def _vector(model: Any, task: Task, name: str, sae: str) -> torch.Tensor:
    """The direction in the stream of an object: its own where it has one, else the difference of its means."""
    unit = unit_named(name)
    kind = _object_of(unit.point)
    if kind == "feature":
        dictionary = SAE.load(sae)
        return torch.tensor(dictionary.steering(unit.index or 0).vector)
    if kind == "neuron":
        block = next(b for b in blocks_of(model) if unit.point.startswith(f"{b.label}."))
        down: Any = model.get_submodule(f"{block.name}.{block.mlp['down']}")
        matrix = down.weight if type(down).__name__ == "Conv1D" else down.weight.mT
        return matrix[unit.index].detach().float()
    clean, corrupt = (recorded(model, [unit.point], task.inputs(side))[0][unit.point] for side in ("clean", "corrupt"))
    at = -1 if unit.position is None else unit.position
    found = (clean[:, at].double().mean(0) - corrupt[:, at].double().mean(0)).float()
    if not found.any():
        raise InputError(f"clean and corrupt prompts of {task.name} are the same at {name}: there is no vector to add")
    return found


def table() -> str:
    """All triples as a Markdown table: for each object and family what locates, and which steerers follow."""
    lines = ["| object | " + " | ".join(FAMILIES) + " | steered by |", "|---" * (len(FAMILIES) + 2) + "|"]
    reasons: dict[str, str] = {}
    for object in OBJECTS:
        cells = []
        for family in FAMILIES:
            if reason := _NO_LOCATOR.get((object, family)):
                cells.append(_note(reasons, reason))
            else:
                cells.append(f"`{how(object, family, 'amplitude').by}`")
        methods = []
        for steerer in STEERERS:
            reason = _NO_STEERER.get((object, steerer))
            if reason:
                methods.append(f"no {steerer} {_note(reasons, reason)}")
            else:
                family = next(f for f in FAMILIES if (object, f) not in _NO_LOCATOR)
                methods.append(f"`{how(object, family, steerer).method.__name__}`")
        lines.append(f"| {object} | " + " | ".join(cells) + f" | {', '.join(methods)} |")
    notes = [f"{mark}: {reason}." for reason, mark in reasons.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _note(reasons: dict[str, str], reason: str) -> str:
    return reasons.setdefault(reason, f"({len(reasons) + 1})")
