"""What the commands of this room do, each with its report: interpret, and find a circuit."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.interp import circuit, prompts
from hardy.interp.causal import Patching
from hardy.interp.edge_search import acdc, learned_masks
from hardy.interp.knockouts import Controls, controls
from hardy.interp.locating import locator_of
from hardy.interp.locator import Locator
from hardy.interp.objects import Unit, unit_named
from hardy.interp.sae import SAE
from hardy.interp.task import Example, Task, scores
from hardy.reading import reading
from hardy.report import Report, Row
from hardy.report.figures import HeatMap, Lines, Series
from hardy.runs.checkpoint import Checkpoint, digest
from hardy.runs.progress import progress
from hardy.zoo.subject import Source, Subject

_EXAMPLES = 16
_CHUNK = 16
_COLUMNS = 40


def task_of(
    given: str | Path | Task, subject: Subject, *, n: int = _EXAMPLES, seed: int = 0, first_token: bool = False
) -> Task:
    """The task of a file, or of the name of a known behaviour ("indirect-object", "greater-than", "induction").

    Raises:
        InputError: there is neither.
    """
    if isinstance(given, Task):
        return given.to(subject.device)
    name = str(given)
    if name in (*prompts.TASKS, "induction"):
        lines = prompts.written(name, subject.tokenizer, n, seed)
        answers = [
            {key: (v,) if isinstance(v, str) else tuple(v) for key, v in r.items() if key in ("right", "wrong")}
            for r in lines
        ]
        examples = [Example(r["clean"], corrupt=r.get("corrupt"), **a) for r, a in zip(lines, answers, strict=True)]
        return Task.of(examples, subject.tokenizer, name=name, first_token=first_token).to(subject.device)
    if not Path(name).is_file():
        known = ", ".join([*prompts.TASKS, "induction"])
        raise InputError(f"task is a file of JSON lines, or one of {known}; there is no file {name}")
    return Task.of(name, subject.tokenizer, first_token=first_token).to(subject.device)


def interpret(
    model: Source,
    task: str | Path | Task,
    *,
    object: str = "head",
    by: str = "attribution-patching",
    out: str | Path | None = None,
    n: int = _EXAMPLES,
    seed: int = 0,
    first_token: bool = False,
    k: int | None = None,
    sae: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Report:
    """Rank the objects of a model by their part in a task, beside random objects and shuffled answers.

    Args:
        model: what `hardy.zoo.Subject.of` takes.
        task: a task file, the name of a known behaviour, or a task.
        object, by, options: as of `hardy.interp.locate`.
        out: folder of the report and of `ranking.json`; patching that was interrupted goes on from there.
        n, seed: examples of a known behaviour, and their draw.
        first_token: judge answers of several tokens by their first.
        k: objects that are knocked out in the controls.
        sae: folder of the sparse autoencoder whose features are ranked, for object "feature".
        device, dtype: of the model.

    Raises:
        InputError: any of these cannot be used.
    """
    locator = locator_of(by, object, **options)
    dictionary = None if sae is None else SAE.load(sae)
    if (locator.object == "feature") != (dictionary is not None):
        raise InputError(
            f"object feature needs sae=, the folder of a sparse autoencoder; got {locator.object}, {sae!r}"
        )
    subject = Subject.of(model, device=device, dtype=dtype)
    given = task_of(task, subject, n=n, seed=seed, first_token=first_token)
    with contextlib.nullcontext() if dictionary is None else dictionary.attached(subject.model):
        return _interpret(subject, given, locator, k, out)


def _interpret(subject: Subject, given: Task, locator: Locator, k: int | None, out: str | Path | None) -> Report:
    clean = scores(subject.model, given)
    if isinstance(locator, Patching) and out is not None:
        effects = _resumed(locator, subject, given, Path(out))
    else:
        effects = locator.effects(subject.model, locator.fitting(given))
    ranking = Ranking(
        scores={name: abs(v) for name, v in effects.items()} if locator.magnitude_ranks else effects,
        meaning=locator.meaning,
        unit=locator.unit,
        by=locator.by,
    )
    judged = controls(locator, ranking, subject.model, given, k=k)
    report = _interpreted(subject, given, locator, ranking, effects, judged, clean)
    if out is not None:
        ranking.save(Path(out) / "ranking.json")
        report.save(out)
    return report


def _resumed(locator: Patching, subject: Subject, task: Task, out: Path) -> dict[str, float]:
    """Patching, some units at a time; what is done is kept in `out` until all is."""
    identity = {
        "model": subject.digest,
        "task": digest([t for t in (task.clean, task.corrupt, task.right, task.wrong) if t is not None]),
        "locator": {f.name: getattr(locator, f.name) for f in dataclasses.fields(locator)},
    }
    checkpoint = Checkpoint(out / "patching.safetensors", kind="patching", identity=identity)
    with reading(checkpoint.path):
        stored = (checkpoint.load() or {}).get("effects", {})
        done = {str(name): float(effect) for name, effect in stored.items()}
    names = list(locator.among) or [str(unit) for unit in locator.units(subject.model, task)]
    waiting = [name for name in names if name not in done]
    with progress(f"patching {locator.object}", len(names), done=len(done)) as bar:
        for start in range(0, len(waiting), _CHUNK):
            some = dataclasses.replace(locator, among=tuple(waiting[start : start + _CHUNK]))
            done |= some.effects(subject.model, locator.fitting(task))
            checkpoint.save({"effects": done})
            bar.update(len(done))
    checkpoint.path.unlink(missing_ok=True)
    return {name: done[name] for name in names}


def _interpreted(
    subject: Subject,
    task: Task,
    locator: Locator,
    ranking: Ranking,
    effects: Mapping[str, float],
    judged: Controls,
    clean: torch.Tensor,
) -> Report:
    rows = [Row(metric="score", condition="clean", value=clean.mean().item(), n=len(task), unit="nats")]
    if judged.corrupt is not None:
        rows.append(Row(metric="score", condition="corrupt", value=judged.corrupt, n=len(task), unit="nats"))
    top, chance = f"top {judged.k} knocked out", f"{judged.k} at random knocked out"
    rows.append(Row(metric="effect_lost", condition=top, value=judged.lost(judged.top), baseline=chance))
    lost = [judged.lost(score) for score in judged.random]
    rows.append(
        Row(
            metric="effect_lost",
            condition=chance,
            value=statistics.mean(lost),
            spread=statistics.stdev(lost),
            n=len(lost),
            seeds=tuple(range(len(lost))),
        )
    )
    notes = list(task.notes)
    if judged.shuffled is not None:
        rows.append(
            Row(
                metric="effect_lost",
                condition=f"top {judged.k} for shuffled answers",
                value=judged.lost(judged.shuffled),
            )
        )
    else:
        notes.append(f"no ranking could be made for shuffled answers: {judged.why_not}")
    for name in ranking.top(min(len(ranking), 50)):
        rows.append(Row(metric=locator.meaning, condition=name, value=effects[name], unit=locator.unit))
    accuracy = (clean > 0).float().mean().item()
    if accuracy < 0.6:
        notes.append(f"the model itself is right in {accuracy:.0%} of the examples: there is little to explain")
    first = ranking.top(1)[0]
    better = judged.lost(judged.top) - statistics.mean(lost)
    summary = (
        f"{first} matters most for {task.name} in {subject.name}, by {ranking.by}.",
        f"Without the top {judged.k} of {len(ranking)} the behaviour loses {judged.lost(judged.top):.0%} of its "
        f"effect, without as many at random {statistics.mean(lost):.0%}."
        + ("" if better > 0 else " That is no better than chance."),
    )
    settings = {"model": subject.name, "task": task.name, "examples": len(task)}
    settings |= {field.name: getattr(locator, field.name) for field in dataclasses.fields(locator)}
    figures = heat_maps(effects, locator)
    return Report(
        title=f"What matters for {task.name}",
        summary=summary,
        rows=tuple(rows),
        figures=figures,
        settings=settings,
        notes=tuple(notes),
    )


def heat_maps(effects: Mapping[str, float], locator: Locator) -> tuple[HeatMap, ...]:
    """Layer by head or position, of what has both; nothing for neurons, which are too many to see."""
    units = {unit_named(name): value for name, value in effects.items()}
    columns = sorted({_column(unit) for unit in units}, key=lambda c: (c[0] is not None and c[0], c[1]))
    if len(columns) > _COLUMNS:
        columns = columns[:_COLUMNS] if locator.object not in ("neuron", "feature") else []
    if not columns:
        return ()
    points = list(dict.fromkeys(unit.point for unit in units))
    values = {(unit.point, _column(unit)): value for unit, value in units.items()}
    names = tuple(_column_name(c, locator.object) for c in columns)
    grid = tuple(tuple(values.get((point, column)) for column in columns) for point in points)
    labels = tuple(point.removesuffix(".attn.z") for point in points)
    title = f"{locator.object} by {locator.by}"
    return (HeatMap(title=title, caption=locator.meaning, rows=labels, columns=names, values=grid, unit=locator.unit),)


def _column(unit: Unit) -> tuple[Any, Any]:
    return (unit.position or 0, unit.index or 0)


def _column_name(column: tuple[Any, Any], kind: str) -> str:
    position, index = column
    parts = [str(index)] * (kind in ("head", "neuron")) + [f"@{position}"] * bool(position)
    return " ".join(parts) or "all"


def find_circuit(
    model: Source,
    task: str | Path | Task,
    *,
    by: str = "eap",
    steps: int = 5,
    threshold: float = 0.01,
    out: str | Path | None = None,
    n: int = 8,
    seed: int = 0,
    batch: int = 4,
    sizes: Sequence[float] = circuit.SIZES,
    device: str | None = None,
    dtype: str | None = None,
) -> Report:
    """The edges that carry a task, and how faithful circuits of them are beside random edges.

    Args:
        model, task, out, n, seed, device, dtype: as of `interpret`.
        by: "eap", attribution; "acdc", edges removed one by one; "masks", gates that are learned.
        steps: as of `hardy.interp.circuit.find`, and of `learned_masks`.
        threshold: of `acdc`.
        batch: examples at once, of attribution and of faithfulness.
        sizes: shares of all edges.
    """
    checks.one_of("by", by, ("eap", "acdc", "masks"))
    subject = Subject.of(model, device=device, dtype=dtype)
    given = task_of(task, subject, n=n, seed=seed)
    if by == "acdc":
        found = acdc(subject.model, given, threshold=threshold)
    elif by == "masks":
        found = learned_masks(subject.model, given, steps=steps, seed=seed)
    else:
        found = circuit.find(subject.model, given, steps=steps, batch=batch)
    curves = {
        found.by: circuit.faithfulness(subject.model, given, found.top, found.graph, sizes=sizes, batch=batch),
        "random edges": circuit.faithfulness(
            subject.model, given, lambda k: found.random(k, seed), found.graph, sizes=sizes, batch=batch
        ),
    }
    rows = []
    for name, curve in curves.items():
        baseline = None if name == "random edges" else "random edges"
        rows.append(Row(metric="cpr", condition=name, value=curve.cpr, baseline=baseline))
        rows.append(Row(metric="cmd", condition=name, value=curve.cmd, baseline=baseline))
        rows += [
            Row(metric="faithfulness", condition=f"{name}, {size:.1%} of all", value=value, details={"size": size})
            for size, value in zip(curve.sizes, curve.values, strict=True)
        ]
    ranking = found.ranking()
    rows += [
        Row(metric="edge", condition=e, value=ranking.scores[e], unit="share of the effect")
        for e in ranking.top(min(30, len(ranking)))
    ]
    enough = next((size for size, v in zip(sizes, curves[found.by].values, strict=True) if v >= 0.8), None)
    said = "no circuit of these sizes keeps 80 %" if enough is None else f"{enough:.1%} of the edges keep 80 %"
    figure = Lines(
        title="Faithfulness",
        caption="1 is the whole model, 0 the corrupt run.",
        x_label="share of edges",
        y_label="faithfulness",
        log_x=True,
        series=tuple(Series(label=name, x=curve.sizes, y=curve.values) for name, curve in curves.items()),
    )
    report = Report(
        title=f"The circuit of {given.name}",
        summary=(
            f"Of {found.graph.edges} edges of {subject.name}, {said}; CPR {curves[found.by].cpr:.2f}, random "
            f"{curves['random edges'].cpr:.2f}.",
        ),
        rows=tuple(rows),
        figures=(figure,),
        settings={"model": subject.name, "task": given.name, "steps": steps, "examples": len(given)},
        notes=given.notes,
    )
    if out is not None:
        ranking.save(Path(out) / "edges.json")
        report.save(out)
    return report
