"""Is a ranking of what carries a behaviour good for a budget? Bits, and cells without noise, spent by it and by others.

Every ranking of blocks is given the same budget: more bits for the blocks at its top within one number of bits per
weight, and half of the blocks kept from noise. What is measured is the behaviour itself, and the loss on text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hardy.core.locators import locator_named
from hardy.core.method import Method
from hardy.core.ranking import Ranking
from hardy.core.selection import LINEAR
from hardy.hardware import ProportionalNoise
from hardy.hooks.blocks import blocks_of
from hardy.interp import AttributionPatching, Task, scores, unit_named
from hardy.quant import LayerBits, RoundToNearest
from hardy.report import Report, Row
from hardy.runs.progress import silenced, track
from hardy.zoo.subject import Subject

LOCATED = "located"


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


def located_budget(
    subject: Subject,
    task: Task,
    judge: Task,
    *,
    others: Sequence[str] = ("effective-rank", "perplexity-drop"),
    low: int = 2,
    high: int = 4,
    group_size: int = 64,
    noise: float = 0.1,
    seeds: int = 3,
) -> Report:
    """Spend one budget by the located ranking, by others, and by random ones.

    Args:
        subject: a decoder, with its text.
        task: what is located.
        judge: other examples of the same behaviour, on which it is measured.
        others: locators of blocks to compare with.
        low, high: bits of the blocks at the bottom and at the top; the budget is midway between what both store.
        group_size: weights that share a scale.
        noise: relative standard deviation of the weights that are not kept from it.
        seeds: of random rankings, and of the noise.
    """
    model = subject.model
    rankings = {LOCATED: blocks_for(subject, task)}
    for name in others:
        with silenced():
            rankings[name] = locator_named(name)(subject, select=LINEAR, unit="block")
    for seed in range(seeds):
        rankings[f"random {seed}"] = rankings[LOCATED].shuffled(seed)
    clean = scores(model, judge).mean().item()
    plain = loss_of(subject)
    rows = [
        Row(metric="score", condition="unmodified", value=clean, unit="nats", n=len(judge)),
        Row(metric="loss", condition="unmodified", value=plain, unit="nats/token"),
    ]
    lower, higher = (RoundToNearest(bits=bits, group_size=group_size) for bits in (low, high))
    budget = sum(m.stored_bits((1, 64 * group_size)) / (64 * group_size) for m in (lower, higher)) / 2
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name, ranking in track(rankings.items(), "budgets"):
        kind = name.partition(" ")[0] if name.startswith("random") else name
        bits = LayerBits(budget=budget, low=lower, high=higher, ranking=ranking)
        kept = ranking.top(len(ranking) // 2)
        cells: list[tuple[str, Method]] = [(f"{budget:.2f} bits per weight", bits)]
        cells += [
            (f"{noise:.0%} noise, half of the blocks kept from it", _noise(kept, noise, seed)) for seed in range(seeds)
        ]
        for condition, method in cells:
            with silenced(), method.apply(model):
                measured = scores(model, judge).mean().item() / clean, loss_of(subject) - plain
            found.setdefault((kind, condition), []).append(measured)
    for (kind, condition), pairs in found.items():
        for metric, place, unit in (("score_kept", 0, ""), ("loss_increase", 1, "nats/token")):
            values = [pair[place] for pair in pairs]
            spread = torch.tensor(values, dtype=torch.float64).std().item() if len(values) > 1 else None
            rows.append(
                Row(
                    metric=metric, condition=f"{condition}: {kind}", value=sum(values) / len(values), spread=spread,
                    n=len(values), unit=unit, baseline=None if kind == "random" else f"{condition}: random",
                )
            )  # fmt: skip
    rows += [
        Row(metric="agreement_with_located", condition=name, value=rankings[LOCATED].agreement(rankings[name]).spearman)
        for name in others
    ]
    return Report(
        title=f"A budget for {task.name} in {subject.name}",
        summary=(_said(rows),),
        rows=tuple(rows),
        settings={"model": subject.name, "task": task.name, "budget": budget, "noise": noise, "seeds": seeds},
    )


def _noise(kept: Sequence[str], noise: float, seed: int) -> ProportionalNoise:
    return ProportionalNoise(strength=noise, seed=seed, select=(*_linear(), *(f"!{name}" for name in kept)))


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
        f"random ones {values['score_kept', f'{condition}: random']:.0%}"
        for condition in conditions
    ]
    return "; ".join(parts) + "."
