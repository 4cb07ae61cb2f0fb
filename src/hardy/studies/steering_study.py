"""Does the vector still steer? A direction made on a model as it is, added to the model on few bits or under noise.

In every state of the model the same doses of the old vector, of one made in that state, and of random ones of the same
length are added: how far they shift what is judged, and how far they move what they are not about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from hardy import checks
from hardy.core.method import Method, from_dict
from hardy.core.ranking import rank_correlation
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.interp import Directions, Pair, SteeringVector, Task, scores
from hardy.interp.vectors import divergence
from hardy.report import Report, Row
from hardy.report.figures import Lines, Series
from hardy.runs.checkpoint import digest
from hardy.runs.progress import silenced
from hardy.runs.study import Study
from hardy.studies.circuit_study import WHOLE, under, usual_conditions, with_seed
from hardy.zoo.subject import Subject

SCALES = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """The model, what judges it, and the vector that was made while it was whole."""

    subject: Subject
    pairs: Sequence[Pair]
    judge: Task
    ids: torch.Tensor
    layer: int
    scales: tuple[float, ...]
    chances: int
    vector: torch.Tensor


def measure(known: _Known, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What each vector does at each dose, with a method applied.

    Args:
        known: of the intact model.
        arguments: "method", as of `Method.to_dict`, or None for the model as it is.
        seed: of the method, where it draws.
    """
    if arguments["method"] is None:
        return _steered(known)
    with with_seed(from_dict(arguments["method"]), seed).apply(known.subject.model):
        return _steered(known)


def _steered(known: _Known) -> dict[str, float]:
    subject, model = known.subject, known.subject.model
    with silenced():
        own = Directions.make(model, subject.tokenizer, known.pairs).values[known.layer]
    if not torch.isfinite(own).all():
        raise InputError("the activations are not finite: there is no vector to make")
    with torch.no_grad():
        before = model(input_ids=known.ids, use_cache=False).logits.float().log_softmax(-1)
    plain = scores(model, known.judge)
    values = {
        "score": plain.mean().item(),
        "cosine of old and own vector": torch.cosine_similarity(own, known.vector, 0).item(),
    }
    vectors = {"old vector": [known.vector], "own vector": [own], "random vectors": []}
    for number in range(known.chances):
        chance = torch.randn(len(own), generator=generator(number, "random-direction"))
        vectors["random vectors"].append(chance / chance.norm() * known.vector.norm())
    for kind, several in vectors.items():
        shifts = {scale: [] for scale in known.scales}
        spilled = {scale: [] for scale in known.scales}
        for vector in several:
            for scale in known.scales:
                with SteeringVector(vector=vector, layer=known.layer, scale=scale).apply(model):
                    moved = scores(model, known.judge)
                    if scale == 0 and not torch.equal(moved, plain):
                        raise InputError(f"a dose of 0 changes the score by {(moved - plain).abs().max().item():.3g}")
                    shifts[scale].append((moved - plain).mean().item())
                    spilled[scale].append(divergence(model, before, known.ids))
        low, high = min(known.scales), max(known.scales)
        effects = [up - down for up, down in zip(shifts[high], shifts[low], strict=True)]
        # Random ones go either way, and their mean says nothing: what counts is how far one of them gets.
        values[f"{kind}: effect"] = fmean(map(abs, effects) if kind == "random vectors" else effects)
        values[f"{kind}: divergence"] = fmean([*spilled[low], *spilled[high]])
        curves = zip(*shifts.values(), strict=True)
        values[f"{kind}: dose response"] = fmean([rank_correlation(known.scales, curve) for curve in curves])
        for scale in known.scales:
            values[f"{kind}: shift at {scale:g}"] = fmean(shifts[scale])
            values[f"{kind}: divergence at {scale:g}"] = fmean(spilled[scale])
    return values


def steering_survival(
    subject: Subject,
    pairs: Sequence[Pair],
    judge: Task,
    ids: torch.Tensor,
    *,
    layer: int | None = None,
    scales: Sequence[float] = SCALES,
    methods: Mapping[str, Method] | None = None,
    seeds: int = 3,
    chances: int = 3,
    out: str | Path | None = None,
) -> Report:
    """Add a vector made on the intact model to the model as each method leaves it, beside one made there and random.

    Args:
        subject: any decoder.
        pairs: make the vectors.
        judge: whose score the vector is to shift; not what it is made from.
        ids: (n, positions) of text that it should not change, for the side effect.
        layer: block after which it is added; the middle one by default.
        scales: doses; the effect is the shift from the lowest to the highest of them. A dose of 0 must change nothing.
        methods: condition -> what is done to the model; as of `circuit_survival`.
        seeds: of the methods that draw.
        chances: random vectors of the length of the old one.
        out: folder where finished cells are kept; the same call goes on from there.

    Raises:
        InputError: the model has no such layer, or the vector moves nothing in the intact model.
    """
    chosen = usual_conditions() if methods is None else dict(methods)
    checks.integer("seeds", seeds, at_least=1)
    checks.integer("chances", chances, at_least=1)
    doses = tuple(sorted({checks.number("scales", scale) for scale in scales}))
    if len(doses) < 2:
        raise InputError(f"scales must be at least two doses, got {tuple(scales)}")
    made = Directions.make(subject.model, subject.tokenizer, pairs)
    steering = made.steering(subject.model, layer)
    vector, place = made.values[steering.layer], steering.layer
    known = _Known(subject, pairs, judge, ids, place, doses, chances, vector)
    settings = {
        "model": subject.name, "model_sha256": subject.digest, "pairs": len(pairs), "layer": place,
        "scales": list(doses), "random vectors": chances, "judge": judge.name, "examples": len(judge),
        "made_of_sha256": digest([judge.clean, judge.right, judge.wrong, ids, vector]),
    }  # fmt: skip
    study = Study(
        name="steering survival", run=measure, settings=settings, subject=known, out=None if out is None else Path(out)
    )
    conditions = under(chosen, seeds)
    results = study.results(conditions, workers=1, title="steering survival")
    results.needed(conditions[0])
    metrics = dict.fromkeys(name for result in results if result.values for name in result.values)
    found = [
        c.row(results, lambda values, metric=metric: values.get(metric), metric=metric)
        for c in conditions
        for metric in metrics
    ]
    rows = [dataclasses.replace(row, unit=_unit(row.metric)) for row in found if row is not None]
    report = Report(
        title=f"Does the vector still steer {subject.name}?",
        summary=(_said(rows, chosen),),
        rows=(*rows, *results.failures()),
        figures=(_curves(rows, doses, chosen),),
        settings=settings,
        notes=(
            f"an effect is the shift of the score of {judge.name} from dose {doses[0]:g} to {doses[-1]:g} of the "
            "vector, that of random vectors the mean of its sizes; divergence is from the model as it then is, on "
            "text that the vector is not about; a dose of 0 was checked to change nothing, to the last bit",
            *results.notes(),
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _unit(metric: str) -> str:
    if "divergence" in metric:
        return "nats/token"
    return "" if metric.startswith("cosine") or metric.endswith("dose response") else "nats"


def _said(rows: Sequence[Row], chosen: Mapping[str, Method]) -> str:
    values = {(row.metric, row.condition): row.value for row in rows}
    whole = values["old vector: effect", WHOLE]
    parts = [
        f"at {name} {values['old vector: effect', name] / whole:.0%} (random vectors: "
        f"{values['random vectors: effect', name] / abs(whole):.0%})"
        for name in chosen
        if ("old vector: effect", name) in values and whole
    ]
    chance = values["random vectors: effect", WHOLE]
    return (
        f"The vector shifts the intact model by {whole:.2f} nats, random ones of its length by {chance:.2f}; of that "
        f"effect there is left: {'; '.join(parts)}."
    )


def _curves(rows: Sequence[Row], doses: Sequence[float], chosen: Mapping[str, Method]) -> Lines:
    """Shift by dose of the old vector in every state, and of random ones in the intact model."""
    values = {(row.metric, row.condition): row.value for row in rows}
    series = [
        Series(label=name, x=tuple(doses), y=tuple(values[f"old vector: shift at {dose:g}", name] for dose in doses))
        for name in (WHOLE, *chosen)
        if ("old vector: effect", name) in values
    ]
    chance = tuple(values[f"random vectors: shift at {dose:g}", WHOLE] for dose in doses)
    series.append(Series(label="random vectors, unmodified", x=tuple(doses), y=chance, style="dashed"))
    return Lines(
        title="Dose and response of the old vector",
        caption="By how much the score shifts from what the model, in each state, says without the vector.",
        x_label="times the vector",
        y_label="shift, nats",
        series=tuple(series),
    )
