"""LieQ on trained models: do its scores find the blocks that deserve bits?

Paper | ours | control, for every model:
(a) agreement of rankings: Spearman correlation of each with the perplexity drop and with what few bits do, over draws
    of calibration text and seeds of the random references. The paper reports more than 0.8 for effective rank.
(b) one block at 4 bits, all others at 2: where the top of each ranking stands among all single blocks.
(c) m = 0..L blocks at 4 bits in the order of each ranking, against random orders, the reversed ranking, the greedy
    order found on calibration text, and 2-bit rounding of all blocks in smaller groups at the same true bits.
(d) 1, 2 or 3 trit-planes per block in the bytes of two planes everywhere.
Rankings are made on calibration text and judged on evaluation text; bits are round-to-nearest in groups of 128.

    python -m benchmarks run lieq
    python -m benchmarks run lieq --model path/to/folder --out FOLDER
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import hardy
from benchmarks.harness import Result
from benchmarks.lieq_table import DROP, GREEDY, RANK, rows_of, show
from hardy.core import Method, Ranking, select, weight_of
from hardy.core.rng import generator
from hardy.core.units import exactly, units
from hardy.hooks import SecondMoment, Statistic, observe
from hardy.quant import LayerBits, RoundToNearest, TritPlanes, combined, effective_rank, energy_gain, perplexity_drop
from hardy.quant.spectral import Inputs, rank_drop
from hardy.studies.measure import perplexity_of
from hardy.zoo.text import PARTS

WINDOW, EVALUATION, CALIBRATION, DRAWS, RANDOM_ORDERS = 512, 8, 6, 3, 6
LOW, HIGH = RoundToNearest(bits=2), RoundToNearest(bits=4)
PLANES = tuple(TritPlanes(planes=planes) for planes in (1, 2, 3))

Losses = list[float]
"""Mean loss of every window, in nats per token."""


def windows(ids: torch.Tensor, count: int, draw: int = 0) -> list[torch.Tensor]:
    """`count` windows spread over a text, each (1, WINDOW) after its first token; other draws take other places."""
    step = (len(ids) - WINDOW) / count
    starts = [1 + round((i + draw / DRAWS) * step) for i in range(count)]
    return [torch.cat([ids[:1], ids[start : start + WINDOW - 1]])[None] for start in starts]


@torch.inference_mode()
def losses(model: Any, texts: Sequence[torch.Tensor]) -> Losses:
    return [hardy.evaluate.token_losses(model, text[0], window=text.shape[1]).mean().item() for text in texts]


class Bank:
    """Every block at every level, quantized once, so that a mixture is a matter of putting tensors in place."""

    def __init__(self, model: Any, levels: Sequence[Method]) -> None:
        sites = units(select(model), "block")
        self.places = {b: [model.get_submodule(site.module) for site in members] for b, members in sites.items()}
        self.intact = {block: [module.weight for module in modules] for block, modules in self.places.items()}
        self.stored = {}
        for level in levels:
            with level.apply(model):
                self.stored[level] = {b: [module.weight for module in ms] for b, ms in self.places.items()}
        self.model = model
        self.seen: dict[Any, Losses] = {}

    def losses(self, chosen: dict[str, Method | None], texts: Sequence[torch.Tensor]) -> Losses:
        """With every block at its level, None being untouched; each mixture is measured once."""
        key = (tuple(chosen[block] for block in self.places), id(texts))
        if key not in self.seen:
            for block, level in chosen.items():
                weights = self.intact[block] if level is None else self.stored[level][block]
                for module, weight in zip(self.places[block], weights, strict=True):
                    module.weight = weight
            self.seen[key] = losses(self.model, texts)
            for block, modules in self.places.items():
                for module, weight in zip(modules, self.intact[block], strict=True):
                    module.weight = weight
        return self.seen[key]


class Mean(Statistic):
    """Sum of the inputs, (dim,) float64."""

    def __init__(self) -> None:
        self.value = torch.zeros(())

    def update(self, features: torch.Tensor) -> None:
        self.value = self.value + features.double().sum(0)


def centred_effective_rank(model: Any, texts: list[torch.Tensor]) -> Ranking:
    """Effective rank about the mean input instead of about zero, of whole projections."""
    sites = units(select(model), "block")
    seen = observe(
        model, texts, [exactly(site) for members in sites.values() for site in members], [SecondMoment, Mean]
    )
    scores = {}
    for block, members in sites.items():
        drops = []
        for site in members:
            moment, mean = seen[site.name]
            offset = torch.outer(mean.value, mean.value) / moment.tokens
            weight, inputs = weight_of(model, site), Inputs(moment.value - offset)
            reference = torch.randn(weight.shape, generator=generator(0, "random-reference", site.name))
            drops.append(rank_drop(inputs.energies(weight), inputs.energies(reference)))
        scores[block] = statistics.mean(drops)
    return Ranking(scores=scores, meaning="drop about the mean", unit="relative drop", by="centred rank")


def why(model: Any, texts: list[torch.Tensor], drop: Ranking) -> dict[str, Any]:
    """What is behind the effective rank: single projections, and what they do with the mean of their inputs.

    For each role and block the effective-rank drop, the mean's share of the inputs' energy, and how much of the mean's
    energy passes the projection, relative to random weights of the same norm; for each role the Spearman correlation
    of its drops with the perplexity drop.
    """
    sites = select(model)
    seen = observe(model, texts, [exactly(site) for site in sites], [SecondMoment, Mean])
    scores = effective_rank(model, texts, unit="site").scores
    found: dict[str, dict[str, list[float]]] = {"rank_drop": {}, "mean_share": {}, "mean_passed": {}}
    for site in sites:
        moment, total = seen[site.name]
        mean, weight, role = total.value / moment.tokens, weight_of(model, site).double(), site.role or "other"
        expected = mean.square().sum() * weight.square().sum() / weight.shape[1]
        values = (
            scores[site.name],
            (moment.tokens * mean.square().sum() / moment.value.trace()).item(),
            ((weight @ mean).square().sum() / expected).item(),
        )
        for kind, value in zip(found, values, strict=True):
            found[kind].setdefault(role, []).append(value)
    drops = list(drop.scores.values())
    correlate: Callable[..., Any] = spearmanr
    agreeing = {role: float(correlate(scores, drops).statistic) for role, scores in found["rank_drop"].items()}
    return {**found, "agreement_with_the_perplexity_drop": agreeing}


def harm(bank: Bank, texts: list[torch.Tensor], level: Method, others: Method | None) -> dict[str, float]:
    """How much the mean loss rises when one block is at `level` and all others at `others`."""
    blocks = list(bank.places)
    base, *alone = (
        statistics.mean(bank.losses(dict.fromkeys(blocks, others) | chosen, texts))
        for chosen in ({}, *({block: level} for block in blocks))
    )
    return {block: loss - base for block, loss in zip(blocks, alone, strict=True)}


def named(scores: dict[str, float], by: str) -> Ranking:
    return Ranking(scores=scores, meaning="score", unit="nats/token", by=by)


def rankings(model: Any, bank: Bank, texts: list[torch.Tensor], draw: int) -> dict[str, Ranking]:
    """Every ranking of one draw of calibration text, with random references of its own."""
    seeds = range(3 * draw, 3 * draw + 3)
    drop = perplexity_drop(model, texts)
    rank, gain = effective_rank(model, texts, seeds=seeds), energy_gain(model, texts, seeds=seeds)
    # As `layer_importance` does, whose increase of the perplexity is this one but for a factor that scaling removes.
    in_perplexity = named({block: math.expm1(score) for block, score in drop.scores.items()}, "perplexity")
    saved = {block: -change for block, change in harm(bank, texts, HIGH, LOW).items()}
    return {
        RANK: rank,
        "energy gain": gain,
        DROP: drop,
        "all three (LieQ v1)": combined([in_perplexity, rank, gain]),
        "harm of 2 bits in it alone": named(harm(bank, texts, LOW, None), "2-bit"),
        "saved by 4 bits in it alone": named(saved, "4-bit"),
        "effective rank, centred": centred_effective_rank(model, texts),
        "depth": named({block: float(i) for i, block in enumerate(drop.scores)}, "depth"),
    }


def agreement(drawn: list[dict[str, Ranking]]) -> list[dict[str, Any]]:
    """Spearman correlation of every pair, mean, least and largest over draws."""
    rows = []
    names = list(drawn[0])
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            rho = [draw[first].agreement(draw[second]).spearman for draw in drawn]
            rows.append({"pair": [first, second], "mean": statistics.mean(rho), "least": min(rho), "most": max(rho)})
    return rows


def greedy(bank: Bank, texts: list[torch.Tensor]) -> list[str]:
    """Blocks in the order in which 4 bits in one more lowers the loss most, on `texts`."""
    blocks, order = list(bank.places), []
    while len(order) < len(blocks):
        tried = {
            block: sum(bank.losses({b: HIGH if b in [*order, block] else LOW for b in blocks}, texts))
            for block in blocks
            if block not in order
        }
        order.append(min(tried, key=lambda block: tried[block]))
    return order


def curve(bank: Bank, order: list[str], texts: list[torch.Tensor]) -> list[Losses]:
    """Losses with the first m = 0..L blocks of `order` at 4 bits."""
    return [bank.losses({b: HIGH if b in order[:m] else LOW for b in order}, texts) for m in range(len(order) + 1)]


def by_planes(order: list[str], m: int) -> dict[str, Method | None]:
    """The first m of `order` in three planes, the last m in one, the others in two: the bytes of two everywhere."""
    tail = len(order) - m
    return {b: PLANES[2 if i < m else 0 if i >= tail else 1] for i, b in enumerate(order)}


def random_orders(blocks: list[str]) -> list[list[str]]:
    return [random.Random(seed).sample(blocks, len(blocks)) for seed in range(RANDOM_ORDERS)]


def compared(ours: Losses, base: Losses) -> dict[str, float]:
    """Perplexity, and how much lower the loss is than `base`'s, with the standard error over windows."""
    gains = [b - a for a, b in zip(ours, base, strict=True)]
    return {
        "perplexity": perplexity_of(statistics.mean(ours)),
        "gain": statistics.mean(gains),
        "gain_se": statistics.stdev(gains) / len(gains) ** 0.5,
    }


def rate_of(model: Any, level: dict[str, Any]) -> float:
    """True bits per weight of a quantizer for each block."""
    bits = size = 0
    for block, sites in units(select(model), "block").items():
        for site in sites:
            shape = weight_of(model, site).shape
            bits, size = bits + level[block].stored_bits(shape), size + shape.numel()
    return bits / size


def uniform_at(model: Any, budget: float, texts: list[torch.Tensor], blocks: list[str]) -> dict[str, float]:
    """All blocks alike within `budget`: 2 to 4 bits in the smallest groups that fit; the best of them on `texts`."""
    found = []
    for bits in (2, 3, 4):
        for size in (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, None):
            level = RoundToNearest(bits=bits, group_size=size)
            if rate_of(model, dict.fromkeys(blocks, level)) <= budget:
                with level.apply(model) as change:
                    rate = change.report.value("bits_per_weight", "all selected weights")
                    found.append((statistics.mean(losses(model, texts)), bits, size, rate))
                break
    loss, bits, size, rate = min(found)
    return {"bits": bits, "group_size": size, "bits_per_weight": rate, "loss": loss, "perplexity": perplexity_of(loss)}


def single_block(bank: Bank, drawn: list[dict[str, Ranking]], texts: list[torch.Tensor]) -> dict[str, Any]:
    """(b)"""
    blocks = list(bank.places)
    all_low = dict.fromkeys(blocks, LOW)
    low = bank.losses(all_low, texts)
    each = {block: compared(bank.losses(all_low | {block: HIGH}, texts), low) for block in blocks}
    best_first = sorted(blocks, key=lambda block: each[block]["perplexity"])
    return {
        "each": [each[block] for block in blocks],
        "place_of_the_top": {by: [1 + best_first.index(draw[by].order()[0]) for draw in drawn] for by in drawn[0]},
        "random_mean_gain": statistics.mean(row["gain"] for row in each.values()),
    }


def recovery(bank: Bank, orders: dict[str, list[str]], texts: list[torch.Tensor]) -> dict[str, Any]:
    """(c)"""
    blocks = list(bank.places)
    low = bank.losses(dict.fromkeys(blocks, LOW), texts)
    curves = {by: curve(bank, order, texts) for by, order in orders.items()}
    shuffled = [curve(bank, order, texts) for order in random_orders(blocks)]
    rates = [
        rate_of(bank.model, {b: HIGH if i < m else LOW for i, b in enumerate(orders[DROP])})
        for m in range(len(blocks) + 1)
    ]
    return {
        "bits_per_weight": rates,
        "orders": {by: [compared(point, low) for point in points] for by, points in curves.items()},
        "area": {by: area(points, low) for by, points in curves.items()},
        "random_area": [area(points, low) for points in shuffled],
        "random": [mean_gain([points[m] for points in shuffled], low) for m in range(len(blocks) + 1)],
        "uniform": [uniform_at(bank.model, rate, texts, blocks) for rate in rates],
    }


def planes(
    bank: Bank, orders: dict[str, list[str]], ladders: dict[str, Ranking], texts: list[torch.Tensor]
) -> dict[str, Any]:
    """(d)"""
    blocks = list(bank.places)
    half = range(len(blocks) // 2 + 1)
    two = bank.losses(dict.fromkeys(blocks, PLANES[1]), texts)
    swapped = {by: [bank.losses(by_planes(order, m), texts) for m in half] for by, order in orders.items()}
    shuffled = [[bank.losses(by_planes(order, m), texts) for m in half] for order in random_orders(blocks)]
    budget = rate_of(bank.model, dict.fromkeys(blocks, PLANES[1]))
    automatic = {}
    for by, ranking in ladders.items():
        ladder = LayerBits(budget=budget, low=PLANES[0], between=(PLANES[1],), high=PLANES[2], ranking=ranking)
        levels: dict[str, Any] = dict(ladder.allocation(bank.model))
        with ladder.apply(bank.model) as change:
            spent = change.report.value("bits_per_weight", "all selected weights")
            found = compared(losses(bank.model, texts), two)
        automatic[by] = {"planes": [levels[block].planes for block in blocks], "bits_per_weight": spent, **found}
    return {
        "uniform": {f"{p.planes}": compared(bank.losses(dict.fromkeys(blocks, p), texts), two) for p in PLANES},
        "bits_per_weight": budget,
        "orders": {by: [compared(point, two) for point in points] for by, points in swapped.items()},
        "random": [mean_gain([points[m] for points in shuffled], two) for m in half],
        "automatic": automatic,
    }


def mean_gain(found: list[Losses], base: Losses) -> dict[str, float]:
    gains = [compared(each, base)["gain"] for each in found]
    return {"gain": statistics.mean(gains), "sd": statistics.stdev(gains)}


def measured(name: str) -> dict[str, Any]:
    begun = time.monotonic()
    model, tokenizer = hardy.zoo.load(name)
    ids = {part: hardy.evaluate.encode(tokenizer, hardy.zoo.held_out_text(part)) for part in PARTS}
    evaluation = windows(ids["evaluation"], EVALUATION)
    draws = [windows(ids["calibration"], CALIBRATION, draw) for draw in range(DRAWS)]
    bank = Bank(model, [LOW, HIGH, *PLANES])
    blocks = list(bank.places)
    drawn = [rankings(model, bank, texts, draw) for draw, texts in enumerate(draws)]
    progress(begun, "rankings")
    orders = {by: ranking.order() for by, ranking in drawn[0].items() if by != "depth"}
    orders[f"{RANK}, reversed"] = drawn[0][RANK].reversed().order()
    orders["first block first"] = blocks
    orders[GREEDY] = greedy(bank, draws[0])
    progress(begun, "greedy order")
    one_block = single_block(bank, drawn, evaluation)
    recovered = recovery(bank, orders, evaluation)
    progress(begun, "recovery")
    ladders = {"harm of one plane in it alone": named(harm(bank, draws[0], PLANES[0], None), "one plane")}
    ladders |= {DROP: drawn[0][DROP], RANK: drawn[0][RANK]}
    by_planes = planes(bank, orders, ladders, evaluation)
    progress(begun, "planes")
    uniform = {"unmodified": None, "2-bit": LOW, "4-bit": HIGH}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "blocks": len(blocks),
        "perplexity": {
            label: perplexity_of(statistics.mean(bank.losses(dict.fromkeys(blocks, level), evaluation)))
            for label, level in uniform.items()
        },
        "rankings": [{by: list(ranking.scores.values()) for by, ranking in draw.items()} for draw in drawn],
        "agreement": agreement(drawn),
        "one_block": one_block,
        "recovery": recovered,
        "planes": by_planes,
        "why": why(model, draws[0], drawn[0][DROP]),
    }


def area(points: list[Losses], low: Losses) -> float:
    """Mean over m = 1..L-1 of how much lower the loss is than with all blocks at 2 bits."""
    return statistics.mean(compared(point, low)["gain"] for point in points[1:-1])


def progress(begun: float, what: str) -> None:
    print(f"  {time.monotonic() - begun:5.0f} s  {what}", flush=True)


def run(*, model: str = "tiny-llama") -> Result:
    found = measured(model)
    show(Path(model).name, found)
    return Result(
        rows=rows_of(found, DRAWS, EVALUATION),
        settings={
            "window": WINDOW,
            "evaluation_windows": EVALUATION,
            "calibration_windows": CALIBRATION,
            "calibration_draws": DRAWS,
            "random_orders": RANDOM_ORDERS,
            "quantizers": {"low": str(LOW), "high": str(HIGH), "planes": [str(level) for level in PLANES]},
        },
        seeds=range(3 * DRAWS),
        raw=found,
    )
