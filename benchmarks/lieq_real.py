"""LieQ on a real language model: which of its blocks deserve the bits, by each ranking, by chance, and by measuring.

    python -m benchmarks run lieq_real          (2 and 4 bits, as the paper; one, two and three planes)
    python -m benchmarks run lieq_real-milder   (3 and 5 bits)

Rankings are made on Python of the standard library (2,048 tokens) and judged on other modules and on encyclopedia
articles. Spearman's correlation of each with the perplexity drop and with the harm that few bits do in the block alone;
then so many blocks in more bits and all others in fewer, by each ranking, by it reversed, by chance, and by the
measured harm, which is no method but what can be had; then as many blocks in three trit-planes as in one, at the bytes
of two everywhere. Weights are turned by Hadamard matrices, as `hardy quantize` does; bits are round-to-nearest, planes
plain, both in groups of 128, so that a block's quantizer knows nothing of the others'. `--model` is the folder of a
real one; by default SmolLM2-135M among those in HARDY_REAL_MODELS.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.harness import Result, Value, mean_of, real_models, rows, text_of
from benchmarks.lieq import WINDOW, Bank, harm, named, random_orders, windows
from hardy import zoo
from hardy.core import Method, Ranking
from hardy.evaluate import encode
from hardy.quant import RoundToNearest, TritPlanes, combined, effective_rank, energy_gain, perplexity_drop

DEFAULT = "smollm2-135m"
PLANES = tuple(TritPlanes(planes=planes, rotation=128) for planes in (1, 2, 3))
SHARES, SWAPPED = (0.1, 0.25, 0.5, 0.75), (0.1, 0.25)
MEASURED = "measured harm"


def run(
    *, model: str = "", low: int = 2, high: int = 4, between: int = 0, planes: bool = True, calibration: int = 4,
    evaluation: int = 4,
) -> Result:  # fmt: skip
    """
    Args:
        model: folder of a real one.
        low, high: bits of a block that does not deserve more, and of one that does.
        between: bits that all blocks have in one line more; 0 for none.
        planes: whether one to three trit-planes are given out too.
        calibration, evaluation: windows, of each text.
    """
    torch.set_num_threads(1)
    found = real_models(model)
    name = DEFAULT if DEFAULT in found else next(iter(found))
    network, tokenizer = zoo.load(str(found[name]), dtype=torch.float32)
    ids = {kind: encode(tokenizer, text_of(kind)) for kind in ("prose", "code")}
    judged = {kind: windows(of, evaluation) for kind, of in ids.items()}
    seen = windows(encode(tokenizer, text_of("code", "calibration")), calibration)
    few, more, same = (RoundToNearest(bits=bits, rotation=128) if bits else None for bits in (low, high, between))
    whole = {"unmodified": None, f"{low} bits": few, f"{high} bits": more, "two planes": PLANES[1]}
    if same is not None:
        whole[f"{between} bits"] = same
    bank = Bank(network, [level for level in (few, more, same, *PLANES) if level is not None])
    blocks = list(bank.places)
    rankings = rankings_of(network, bank, seen, few)
    lines = agreements(rankings)
    orders = {by: ranking.order() for by, ranking in rankings.items()}
    orders["effective rank, reversed"] = rankings["effective rank"].reversed().order()
    orders |= {f"random {number}": order for number, order in enumerate(random_orders(blocks)[:3])}
    for label, level in whole.items():
        lines += judge(bank, {label: dict.fromkeys(blocks, level)}, judged, label, None, 0)
    for share in SHARES:
        m = round(share * len(blocks))
        mixtures = {by: {b: more if b in order[:m] else few for b in order} for by, order in orders.items()}
        lines += judge(bank, mixtures, judged, f"{m} of {len(blocks)} blocks at {high} bits", "bits", m)
    for share in SWAPPED if planes else ():
        m = round(share * len(blocks))
        mixtures = {by: swapped(order, m) for by, order in orders.items()}
        lines += judge(bank, mixtures, judged, f"{m} blocks in three planes, {m} in one", "planes", m)
    return Result(
        rows=lines,
        settings={
            "model": name, "weights": "dequantized from a 4-bit file", "window": WINDOW, "calibration": calibration,
            "evaluation": evaluation, "low": str(few), "high": str(more),
        },
        seeds=range(3),
        raw={by: dict(ranking.scores) for by, ranking in rankings.items()},
    )  # fmt: skip


def rankings_of(network: Any, bank: Bank, texts: list[torch.Tensor], few: Any) -> dict[str, Ranking]:
    drop, rank, gain = (by(network, texts) for by in (perplexity_drop, effective_rank, energy_gain))
    in_perplexity = named({block: math.expm1(min(score, 20)) for block, score in drop.scores.items()}, "perplexity")
    return {
        "effective rank": rank,
        "energy gain": gain,
        "perplexity drop": drop,
        "all three": combined([in_perplexity, rank, gain]),
        MEASURED: named(harm(bank, texts, few, None), f"{few.bits}-bit"),
    }


def agreements(rankings: Mapping[str, Ranking]) -> list[Any]:
    lines = []
    for by, ranking in rankings.items():
        with_drop = ranking.agreement(rankings["perplexity drop"]).spearman
        with_harm = ranking.agreement(rankings[MEASURED]).spearman
        lines += rows(by, {"by": by}, spearman_with_drop=with_drop, spearman_with_harm=with_harm)
    return lines


def swapped(order: Sequence[str], m: int) -> dict[str, Method | None]:
    """The first m in three planes, the last m in one, the others in two."""
    tail = len(order) - m
    return {block: PLANES[2 if i < m else 0 if i >= tail else 1] for i, block in enumerate(order)}


def judge(
    bank: Bank,
    mixtures: Mapping[str, Mapping[str, Method | None]],
    judged: Mapping[str, list[torch.Tensor]],
    label: str,
    what: str | None,
    m: int,
) -> list[Any]:
    """Perplexity of each mixture on each text; those of random orders as one row."""
    lines = []
    for kind, texts in judged.items():
        found = {by: statistics.mean(bank.losses(dict(mixture), texts)) for by, mixture in mixtures.items()}
        chance = [loss for by, loss in found.items() if by.startswith("random ")]
        kept = {by: Value(loss, "nats/token") for by, loss in found.items() if not by.startswith("random ")}
        if chance:
            kept["random"] = mean_of(chance, "nats/token")
        for by, loss in kept.items():
            details = {"by": by, "text": kind, "budget": label, "of": what, "blocks": m}
            details = {key: value for key, value in details.items() if value is not None}
            lines += rows(f"{label}, {by} | {kind}" if what else f"{label} | {kind}", details,
                          baseline=f"{label}, random | {kind}" if what and by != "random" else None,
                          loss=loss, perplexity=math.exp(loss.value))  # fmt: skip
            print(lines[-1].condition, round(lines[-1].value, 2), flush=True)
    return lines
