"""Is a ranking of what carries a behaviour good for a budget? Bits, and cells without noise, spent by it and by others.

Every ranking of blocks is given the same budget: more bits for the blocks at its top within one number of bits per
weight, half of the blocks kept from noise, or half of them in several copies whose mean is read. What is measured is
the behaviour itself, and the loss on text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hardy.analog import equivalent_noise
from hardy.core.locators import locator_named
from hardy.core.method import Method, chain
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR
from hardy.hardware import ProportionalNoise
from hardy.hooks.blocks import blocks_of
from hardy.interp import AttributionPatching, Task, scores, unit_named
from hardy.quant import LayerBits, RoundToNearest
from hardy.report import Report, Row
from hardy.runs.checkpoint import digest
from hardy.runs.conditions import Cell, Condition
from hardy.runs.progress import silenced
from hardy.runs.study import Study
from hardy.zoo.subject import Subject

LOCATED, RANDOM = "located", "random"


def blocks_for(subject: Subject, task: Task, *, steps: int = 2, batch: int = 8) -> Ranking:
    """Blocks by the sum of the sizes of what their heads and MLP carry of a task, under the names that `select` takes.

    Args:
        subject: any decoder.
        task: with corrupt prompts.
        steps, batch: of attribution patching.
    """
    names = {block.label: f"{block.name}.*" for block in blocks_of(subject.model)}
    totals = dict.fromkeys(names.values(), 0.0)
    for object in ("head", "ffn"):
        with silenced():
            effects = AttributionPatching(object=object, steps=steps, batch=batch).effects(subject.model, task)
        for name, value in effects.items():
            totals[names[f"blocks.{unit_named(name).block}"]] += abs(value)
    meaning = f"what the heads and the MLP carry of {task.name}"
    return Ranking(scores=totals, meaning=meaning, unit="share of the effect", by="attribution-patching")


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """The model, the rankings of its blocks, what judges them, and what a budget is."""

    subject: Subject
    judge: Task
    rankings: Mapping[str, Ranking]
    low: RoundToNearest
    high: RoundToNearest
    bits: float
    noise: float
    copies: int
    score: float
    loss: float


def measure(known: _Known, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """The behaviour and the loss with one budget spent by one ranking.

    Args:
        known: of the study.
        arguments: "budget" ("bits", "protection" or "copies") and "ranking", a name.
        seed: of the noise.
    """
    ranking = known.rankings[arguments["ranking"]]
    chosen = ranking.top(len(ranking) // 2)
    noisy = ProportionalNoise(strength=known.noise, seed=seed)
    others = dataclasses.replace(noisy, select=(*_linear(), *(f"!{name}" for name in chosen)))
    if arguments["budget"] == "bits":
        method: Method = LayerBits(budget=known.bits, low=known.low, high=known.high, ranking=ranking)
    elif arguments["budget"] == "protection":
        method = others
    else:  # the mean of several copies is one draw of less noise
        copied = equivalent_noise(noisy, known.copies)
        method = chain(others, dataclasses.replace(copied, select=(*_linear(), *(f"!{n}" for n in _rest(ranking)))))
    with silenced(), method.apply(known.subject.model):
        score = scores(known.subject.model, known.judge).mean().item()
        return {"score_kept": score / known.score, "loss_increase": loss_of(known.subject) - known.loss}


def _rest(ranking: Ranking) -> list[str]:
    return ranking.bottom(len(ranking) - len(ranking) // 2)


def located_budget(
    subject: Subject,
    task: Task,
    judge: Task,
    *,
    others: Sequence[str] = ("effective-rank", "perplexity-drop"),
    low: int = 2,
    high: int = 4,
    group_size: int = 64,
    noise: float = 0.3,
    copies: int = 4,
    seeds: int = 3,
    out: str | Path | None = None,
) -> Report:
    """Spend one budget by the located ranking, by others, and by random ones.

    Args:
        subject: a decoder, with its text.
        task: what is located.
        judge: other examples of the same behaviour, on which it is measured.
        others: locators of blocks to compare with.
        low, high: bits of the blocks at the bottom and at the top; the budget is midway between what both store.
        group_size: weights that share a scale.
        noise: relative standard deviation of the weights; half of the blocks are kept from it, or have copies.
        copies: of a matrix whose mean is read, as `hardy.analog.Redundancy` makes them.
        seeds: of random rankings, and of the noise.
        out: folder where finished cells are kept; the same call goes on from there.
    """
    model = subject.model
    rankings = {LOCATED: blocks_for(subject, task)}
    for name in others:
        with silenced():
            rankings[name] = locator_named(name)(subject, select=LINEAR, unit="block")
    for seed in range(seeds):
        rankings[f"random {seed}"] = rankings[LOCATED].shuffled(seed)
    clean, plain = scores(model, judge).mean().item(), loss_of(subject)
    lower, higher = (RoundToNearest(bits=bits, group_size=group_size) for bits in (low, high))
    bits = sum(m.stored_bits((1, 64 * group_size)) / (64 * group_size) for m in (lower, higher)) / 2
    settings = {
        "model": subject.name, "model_sha256": subject.digest, "task": task.name, "judged_on": len(judge),
        "task_sha256": digest([task.clean, task.right, judge.clean, judge.right]), "bits": [low, high],
        "group_size": group_size, "budget": bits, "noise": noise, "copies": copies, "seeds": seeds,
    }  # fmt: skip
    study = Study(
        name="located budget", run=measure, settings=settings, out=None if out is None else Path(out),
        subject=_Known(subject, judge, rankings, lower, higher, bits, noise, copies, clean, plain),
    )  # fmt: skip
    budgets = {
        "bits": f"{bits:.2f} bits per weight",
        "protection": f"{noise:.0%} noise, half of the blocks kept from it",
        "copies": f"{noise:.0%} noise, {copies} copies of half of the blocks",
    }
    conditions = []
    for budget, said in budgets.items():
        for kind in (LOCATED, *others, RANDOM):
            names = [name for name in rankings if name == kind or (kind == RANDOM and name.startswith(f"{RANDOM} "))]
            cells = [
                Cell(condition=f"{said}: {kind}", arguments={"budget": budget, "ranking": name}, seed=seed)
                for name in names
                for seed in range(1 if budget == "bits" else seeds)
            ]
            baseline = None if kind == RANDOM else f"{said}: {RANDOM}"
            conditions.append(Condition(name=f"{said}: {kind}", cells=tuple(cells), baseline=baseline))
    results = study.results(conditions, workers=1, title="located budget")
    rows = [
        Row(metric="score", condition="unmodified", value=clean, unit="nats", n=len(judge)),
        Row(metric="loss", condition="unmodified", value=plain, unit="nats/token"),
    ]
    for condition in conditions:
        for metric, unit in (("score_kept", ""), ("loss_increase", "nats/token")):
            row = condition.row(results, lambda values, metric=metric: values.get(metric), metric=metric)
            if row is not None:
                rows.append(dataclasses.replace(row, unit=unit))
    rows += [
        Row(metric="agreement_with_located", condition=name, value=rankings[LOCATED].agreement(rankings[name]).spearman)
        for name in others
    ]
    report = Report(
        title=f"A budget for {task.name} in {subject.name}",
        summary=(_said(rows),),
        rows=(*rows, *results.failures()),
        settings=settings,
        notes=results.notes(),
    )
    if out is not None:
        report.save(out)
    return report


def _linear() -> tuple[Any, ...]:
    return LINEAR if isinstance(LINEAR, tuple) else (LINEAR,)


@torch.no_grad()
def loss_of(subject: Subject) -> float:
    """Mean cross-entropy on the subject's evaluation windows, nats per token."""
    model: Any = subject.model
    found = []
    for ids in subject.batches("evaluation"):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
    return sum(found) / len(found)


def _said(rows: Sequence[Row]) -> str:
    values: Mapping[tuple[str, str], float] = {(row.metric, row.condition): row.value for row in rows}
    conditions = dict.fromkeys(row.condition.rpartition(": ")[0] for row in rows if row.metric == "score_kept")
    parts = [
        f"at {condition} the located ranking keeps {values['score_kept', f'{condition}: {LOCATED}']:.0%} of the score, "
        f"random ones {values['score_kept', f'{condition}: {RANDOM}']:.0%}"
        for condition in conditions
    ]
    return "; ".join(parts) + "."
