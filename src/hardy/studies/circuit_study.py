"""Does the circuit survive? What carries a behaviour inside of a model, before and after bits or noise took their toll.

The same locators are run on the model as it is and as each method leaves it: whether the heads and edges that matter
are the same, whether the old circuit still carries the behaviour, and how much of the behaviour is left at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hardy import checks
from hardy.core.method import Method, from_dict
from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.hardware import ProportionalNoise
from hardy.interp import AttributionPatching, Task, circuit, scores
from hardy.interp.circuit import Circuit
from hardy.interp.knockouts import overlap
from hardy.quant import RoundToNearest, TritPlanes
from hardy.report import Report, Row
from hardy.runs.checkpoint import digest
from hardy.runs.conditions import Condition, Results
from hardy.runs.progress import silenced
from hardy.runs.study import Study
from hardy.zoo.subject import Subject

WHOLE = "unmodified"


def usual_conditions(noise: float = 0.05) -> dict[str, Method]:
    """2 to 4 bits, 1 to 3 trit-planes, all in groups of 64, and noise in proportion to each weight."""
    found: dict[str, Method] = {f"{bits} bits": RoundToNearest(bits=bits, group_size=64) for bits in (4, 3, 2)}
    found |= {f"{n} trit-planes": TritPlanes(planes=n, group_size=64) for n in (3, 2, 1)}
    return found | {f"{noise:.0%} noise": ProportionalNoise(strength=noise)}


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """The model with what was found in it while it was whole."""

    model: nn.Module
    task: Task
    heads: Ranking
    edges: Circuit
    score: float
    steps: int
    batch: int
    share: float
    k: int


def _located(model: nn.Module, task: Task, steps: int, batch: int) -> tuple[Ranking, Circuit]:
    with silenced():
        heads = AttributionPatching(object="head", batch=batch, steps=steps).locate(model, task)
        return heads, circuit.find(model, task, steps=steps, batch=batch)


def _kept(known: _Known, edges: Circuit | None, seed: int = 0) -> float:
    """Faithfulness of the top edges of a circuit, or of as many at random."""
    graph = known.edges.graph
    chosen = edges.top if edges is not None else lambda k: known.edges.random(k, seed)
    with silenced():
        found = circuit.faithfulness(
            known.model, known.task, chosen, graph, sizes=(known.share,), batch=known.batch
        )  # fmt: skip
    return found.values[0]


def measure(known: _Known, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What of the circuit is there with a method applied.

    Args:
        known: of the intact model.
        arguments: "method", as of `Method.to_dict`, or None for the model as it is.
        seed: of the method, where it draws; and of what is chosen at random.
    """
    if arguments["method"] is None:
        return _compared(known, seed)
    with with_seed(from_dict(arguments["method"]), seed).apply(known.model):
        return _compared(known, seed)


def _compared(known: _Known, seed: int) -> dict[str, float]:
    clean = scores(known.model, known.task)
    values = {"score_kept": clean.mean().item() / known.score, "accuracy": (clean > 0).float().mean().item()}
    try:
        heads, edges = _located(known.model, known.task, known.steps, known.batch)
    except InputError:  # clean and corrupt prompts score the same: there is no behaviour left to explain
        return values | {"behaviour_gone": 1.0}
    mine, old = edges.ranking(), known.edges.ranking()
    count = max(1, round(known.share * known.edges.graph.edges))
    return values | {
        "heads_spearman": known.heads.agreement(heads).spearman,
        "heads_shared": overlap(known.heads, heads, known.k),
        "heads_shared_by_chance": overlap(known.heads, heads.shuffled(seed), known.k),
        "edges_spearman": old.agreement(mine).spearman,
        "edges_shared": overlap(old, mine, count),
        "old_circuit": _kept(known, known.edges),
        "new_circuit": _kept(known, edges),
        "random_edges": _kept(known, None, seed),
        "behaviour_gone": 0.0,
    }


METRICS = (
    "score_kept", "accuracy", "heads_spearman", "heads_shared", "heads_shared_by_chance", "edges_spearman",
    "edges_shared", "old_circuit", "new_circuit", "random_edges", "behaviour_gone",
)  # fmt: skip


def circuit_survival(
    subject: Subject,
    task: Task,
    *,
    methods: Mapping[str, Method] | None = None,
    seeds: int = 3,
    steps: int = 2,
    share: float = 0.05,
    k: int = 10,
    batch: int = 8,
    out: str | Path | None = None,
) -> Report:
    """Locate a behaviour before and after each method, and compare.

    Args:
        subject: a model whose blocks are attention and MLP.
        task: with corrupt prompts, in the tokens of the model; it should be able to do it.
        methods: condition -> what is done to the model; `usual_conditions` by default.
        seeds: of the methods that draw.
        steps: of attribution, along the inputs.
        share: of the edges that make up a circuit.
        k: heads at the top that are compared.
        batch: examples at once.
        out: folder where finished cells are kept; the same call goes on from there.

    Raises:
        InputError: the model cannot do the task at all, or has no edges.
    """
    chosen = usual_conditions() if methods is None else dict(methods)
    checks.integer("seeds", seeds, at_least=1)
    checks.number("share", share, above=0, at_most=1)
    model = subject.model
    score = scores(model, task, batch=batch).mean().item()
    if score <= 0:
        raise InputError(f"{subject.name} scores {score:.3g} at {task.name}: there is no behaviour to survive")
    heads, edges = _located(model, task, steps, batch)
    known = _Known(model, task, heads, edges, score, steps, batch, share, min(k, len(heads)))
    settings = {
        "model": subject.name, "model_sha256": subject.digest, "task": task.name, "examples": len(task),
        "task_sha256": digest([task.clean, task.right, task.wrong]), "steps": steps, "share": share, "k": known.k,
    }  # fmt: skip
    study = Study(
        name="circuit survival", run=measure, settings=settings, subject=known, out=None if out is None else Path(out)
    )
    conditions = under(chosen, seeds)
    results = study.results(conditions, workers=1, title="circuit survival")
    rows = [Row(metric="score", condition=WHOLE, value=score, unit="nats", n=len(task))]
    rows.append(Row(metric="edges", condition=WHOLE, value=edges.graph.edges))
    found = [c.row(results, _named(metric), metric=metric) for c in conditions for metric in METRICS]
    rows += [row for row in found if row is not None]
    rows += results.failures()
    report = Report(
        title=f"Does the circuit of {task.name} survive in {subject.name}?",
        summary=(_said(results, chosen),),
        rows=tuple(rows),
        settings=settings,
        notes=(
            f"a circuit is the top {share:.0%} of the edges by attribution, all others carrying what they do in the "
            "corrupt run; faithfulness is 1 for all edges of the model as it then is, 0 for none",
            *results.notes(),
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _named(metric: str) -> Callable[[Mapping[str, float]], float | None]:
    return lambda values: values.get(metric)


def under(chosen: Mapping[str, Method], seeds: int) -> list[Condition]:
    """The unmodified model, and under each method by name, with so many seeds where it draws."""
    return [Condition.of(WHOLE, {"method": None})] + [
        Condition.of(name, {"method": method.to_dict()}, range(seeds if draws(method) else 1), baseline=WHOLE)
        for name, method in chosen.items()
    ]


def draws(method: Method) -> bool:
    """Whether a method has a seed."""
    return any(field.name == "seed" for field in dataclasses.fields(method))


def with_seed(method: Method, seed: int) -> Method:
    """The method with this seed, where it has one."""
    return dataclasses.replace(method, seed=seed) if draws(method) else method  # pyright: ignore[reportCallIssue]


def _said(results: Results, chosen: Mapping[str, Method]) -> str:
    parts = []
    for name in chosen:
        values = [r.values for r in results if r.cell.condition == name and r.values is not None]
        if not values or "old_circuit" not in values[0]:
            parts.append(f"at {name} nothing of the behaviour is left")
            continue
        kept, old = (sum(v.get(m, 0.0) for v in values) / len(values) for m in ("score_kept", "old_circuit"))
        parts.append(f"at {name} {kept:.0%} of the score is kept and the old circuit is {old:.0%} faithful")
    return "; ".join(parts) + "."
