"""What a budget costs a language model: perplexity of a long text and recall of planted facts, against bytes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from hardy import checks
from hardy.errors import InputError
from hardy.evaluate.language import context_length, encode
from hardy.hooks.caches import cache_argument
from hardy.report import Report, Row
from hardy.report.figures import Lines
from hardy.runs.conditions import Condition, Results, curve
from hardy.runs.study import Study
from hardy.stream.cache import CompressedCache
from hardy.stream.policy import Budget, KVPolicy
from hardy.stream.recall import Stream, asked, planted
from hardy.stream.scorers import scorer_of
from hardy.zoo.subject import Source, Subject
from hardy.zoo.text import texts_of

DENSE, RANDOM = "dense", "random"
METRICS = ("perplexity", "recall", "cache bytes")


@dataclasses.dataclass(frozen=True)
class Streams:
    """What all cells share: a model, and for each seed a text with planted facts."""

    model: Any
    streams: tuple[Stream, ...]
    chunk: int


def evaluate(
    model: Source = "tiny-llama",
    *,
    text: str | None = None,
    budgets: Sequence[int | str] = (128, 256),
    policies: Sequence[str] = ("sink-recent", "pooled-query"),
    bits: Sequence[int] = (16, 4),
    codec: str = "affine",
    tokens: int | None = None,
    chunk: int = 64,
    facts: int = 4,
    seeds: int = 2,
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    workers: int | None = 1,
) -> Report:
    """Stream a text through caches of each policy, budget and width, and ask for planted facts at its end.

    The text is read in chunks; every token counts towards the perplexity but those of the first chunk. Each arm reads
    the same texts. The dense cache and random eviction are always among the arms.

    Args:
        model: a zoo name, folder, file, hub id, or model and tokenizer.
        text: a UTF-8 file, whose second half is read; by default held-out standard-library modules.
        budgets: as of `KVPolicy`.
        policies: names of scorers.
        bits: widths of codes; at 16 nothing is packed.
        codec: "affine" or "lloyd-max".
        tokens: of each text, with the facts about as many; by default the model's context, at most 4096.
        chunk: tokens that are read at once, after each of which is evicted what is too much.
        facts: planted in each text.
        seeds: texts, each from another place with other facts.
        out: folder of the study and its report; the same call goes on.
        device, dtype: of a model that is loaded.
        workers: processes at once.

    Raises:
        InputError: an option is out of range or a policy unknown, before anything is loaded; or the text is too short.
    """
    known = [scorer_of(name).name for name in policies]
    limits = [Budget.of(budget) for budget in budgets]
    widths = [KVPolicy(bits=width, codec=codec).coder.key_bits for width in bits]
    if not known or not limits or not widths:
        raise InputError("policies, budgets and bits must name at least one each")
    for limit in limits:
        for name in known:
            least = KVPolicy(budget=limit, scorer=name).least
            if limit.unit == "frames":
                raise InputError(
                    f"a budget of {limit} is for streams of frames; a language model's is in tokens or bytes"
                )
            if limit.unit == "tokens" and limit.amount < least:
                raise InputError(f"a budget of {limit} is less than what {name} protects and one more, {least} tokens")
    checks.integer("chunk", chunk, at_least=1)
    checks.integer("facts", facts, at_least=0)
    checks.integer("seeds", seeds, at_least=1)
    subject = Subject.of(model, text=text, device=device, dtype=dtype)
    shared, settings = _streams(subject, tokens, chunk, facts, seeds)
    settings |= {"budgets": [str(limit) for limit in limits], "policies": known, "bits": widths, "codec": codec}
    arms = conditions(known, limits, widths, codec, seeds)
    _check_bytes(subject.model, shared.streams[0], [arm.cells[0].arguments for arm in arms])
    study = Study(
        name="stream", run=measure, settings=settings, subject=shared, out=None if out is None else Path(out),
        workers=workers, memory=subject.activations,
    )  # fmt: skip
    results = study.results([cell for cells in zip(*(arm.cells for arm in arms), strict=True) for cell in cells])
    results.needed(arms[0])
    report = report_of(subject.name, arms, results, settings)
    if out is not None:
        report.save(Path(out))
    return report


def conditions(
    policies: Sequence[str], budgets: Sequence[Budget], bits: Sequence[int], codec: str, seeds: int
) -> list[Condition]:
    """The arms: dense, each width without a budget, and each policy and random eviction at each budget and width."""
    arms = [Condition.of(DENSE, {"kind": DENSE}, range(seeds))]
    for width in bits:
        whole = {"kind": "all", "bits": width, "codec": codec}
        arms.append(Condition.of(f"all, {width} bits", whole, range(seeds), baseline=DENSE))
    for width in bits:
        for budget in budgets:
            for name in dict.fromkeys((RANDOM, *policies)):
                label = f"{name}, {budget}, {width} bits"
                control = f"{RANDOM}, {budget}, {width} bits"
                amount = f"{budget.amount} {'b' if budget.unit == 'bytes' else budget.unit}"
                given = {"kind": name, "budget": amount, "bits": width, "codec": codec}
                arms.append(Condition.of(label, given, range(seeds), baseline=DENSE if name == RANDOM else control))
    return arms


def _streams(
    subject: Subject, tokens: int | None, chunk: int, facts: int, seeds: int
) -> tuple[Streams, dict[str, Any]]:
    limit = context_length(subject.model)
    count = min(limit or 4096, 4096) if tokens is None else checks.integer("tokens", tokens, at_least=2 * chunk)
    # What is asked at the end needs room too, and the facts are in the text.
    body = count - 24 * facts - 24 if tokens is None else count
    if body < 2 * chunk:
        raise InputError(f"a stream of {count} tokens is less than two chunks of {chunk} beside {facts} facts")
    ids = encode(subject.tokenizer, texts_of(subject.text)["evaluation"])
    begin = ids[:1] if subject.tokenizer.bos_token_id is not None else ids[:0]
    rest = ids[len(begin) :]
    if len(rest) < body:
        raise InputError(f"the text has {len(rest)} tokens, the stream is to have {body}; give more, or fewer --tokens")
    starts = [round(i * (len(rest) - body) / max(1, seeds - 1)) for i in range(seeds)]
    streams = []
    for seed, start in enumerate(starts):
        stream = planted(subject.tokenizer, rest[start : start + body], facts, seed)
        streams.append(Stream(torch.cat([begin, stream.ids]), stream.questions))
    settings = subject.settings()
    for name in ("tokens", "window"):
        settings.pop(name)
    settings |= {"stream_tokens": len(streams[0].ids), "chunk": chunk, "facts": facts, "seeds": seeds, "context": limit}
    return Streams(subject.model, tuple(streams), chunk), settings


@torch.inference_mode()
def _check_bytes(model: Any, stream: Stream, arms: Sequence[Mapping[str, Any]]) -> None:
    """Say before anything is measured that a budget in bytes is less than what is protected takes: one token tells."""
    for arguments in arms:
        if Budget.of(arguments.get("budget", 1)).unit == "bytes":
            model(stream.ids[None, :1], past_key_values=CompressedCache.for_model(model, _policy(arguments)))


def _policy(arguments: Mapping[str, Any]) -> KVPolicy:
    policy = KVPolicy(bits=arguments["bits"], codec=arguments["codec"])
    if arguments["kind"] == "all":
        return policy
    return dataclasses.replace(policy, budget=arguments["budget"], scorer=arguments["kind"])


def measure(shared: Streams, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One cell of `evaluate`."""
    model = shared.model
    if arguments["kind"] == DENSE:
        cache: Any = DynamicCache(config=model.config)
        return streamed(model, cache, shared.streams[seed], shared.chunk, dense_bytes, forked)
    cache = CompressedCache.for_model(model, _policy(arguments))
    values = streamed(model, cache, shared.streams[seed], shared.chunk, lambda c: c.nbytes, lambda c: c.copy(model))
    return values | {name: float(cache.stats[name]) for name in ("kept", "requantized")}


@torch.inference_mode()
def streamed(
    model: Any,
    cache: Any,
    stream: Stream,
    chunk: int,
    size: Callable[[Any], int],
    fork: Callable[[Any], Any],
) -> dict[str, float]:
    """Read a stream into `cache`, then ask what it knows: loss, recall, the loss of answers, bytes and seconds.

    Args:
        model: a causal language model.
        cache: any cache of transformers, empty.
        stream: what is read and asked.
        chunk: tokens at once.
        size: bytes of a cache.
        fork: a copy of a cache, which a question goes on with.
    """
    ids = stream.ids[None].to(model.device)
    total, count, last, most = 0.0, 0, None, 0
    begun = time.perf_counter()
    for part in ids.split(chunk, 1):
        logits = model(part, **cache_argument(model, cache)).logits[0].float()
        if last is not None:
            before = torch.cat([last, logits[:-1]])
            total += float(cross_entropy(before, part[0], reduction="sum"))
            count += part.shape[1]
        last = logits[-1:]
        most = max(most, size(cache))
    seconds = time.perf_counter() - begun
    values = {"loss": total / count, "bytes": float(most), "seconds": seconds}
    if stream.questions:
        found = [asked(model, fork(cache), question, answer) for question, answer, _ in stream.questions]
        values["recall"] = sum(right for right, _ in found) / len(found)
        values["answer_loss"] = sum(loss for _, loss in found) / len(found)
    return values


def dense_bytes(cache: Any) -> int:
    """Bytes of the tensors of a cache of transformers."""
    held = [tensor for layer in cache.layers for tensor in vars(layer).values() if isinstance(tensor, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())


def forked(cache: Any) -> Any:
    """A copy of a cache of transformers."""
    import copy

    return copy.deepcopy(cache)


def report_of(name: str, arms: Sequence[Condition], results: Results, settings: Mapping[str, Any]) -> Report:
    """The page: rows of every arm, and curves of perplexity and recall against bytes."""
    rows: list[Row] = []
    for arm in arms:
        made = {
            "perplexity": arm.row(results, lambda v: math.exp(v["loss"]), metric="perplexity", facts=("kept",)),
            "recall": arm.row(results, lambda v: v.get("recall"), metric="recall"),
            "answer loss": arm.row(results, lambda v: v.get("answer_loss"), metric="answer loss"),
            "cache bytes": arm.row(results, lambda v: v["bytes"], metric="cache bytes"),
            "seconds": arm.row(results, lambda v: v["seconds"], metric="seconds"),
        }
        units = {"recall": "of facts", "answer loss": "nats/token", "cache bytes": "B", "seconds": "s"}
        rows += [dataclasses.replace(row, unit=units.get(m, "")) for m, row in made.items() if row is not None]
    figures = []
    for metric, label in (("perplexity", "perplexity"), ("recall", "share of planted facts recalled")):
        if lines := _lines(metric, label, arms, rows):
            figures.append(lines)
    notes = [
        "bytes are the most that the cache held after a chunk, every tensor; the dense cache has the model's dtype",
        "a fact counts as recalled if each token of the answer is the most likely one",
        *results.notes(),
    ]
    if settings["context"] is not None and settings["stream_tokens"] > settings["context"]:
        notes.append(
            f"the stream has {settings['stream_tokens']} tokens, the model was made for {settings['context']}: "
            "positions beyond that are new to it, whatever the cache"
        )
    return Report(
        title=f"Streaming a text through {name} within a budget",
        summary=_summary(arms, rows),
        rows=(*rows, *results.failures()),
        figures=tuple(figures),
        settings=settings,
        notes=tuple(notes),
    )


def _lines(metric: str, label: str, arms: Sequence[Condition], rows: Sequence[Row]) -> Lines | None:
    by = {(row.metric, row.condition): row for row in rows}
    groups: dict[str, list[tuple[float, Row]]] = {}
    for arm in arms:
        row, size = by.get((metric, arm.name)), by.get(("cache bytes", arm.name))
        if row is None or size is None or not math.isfinite(row.value):
            continue
        kind, _, rest = arm.name.partition(", ")
        group = f"{kind}, {rest.rpartition(', ')[2]}" if kind not in (DENSE, "all") else kind
        groups.setdefault(group, []).append((size.value / 1e6, row))
    if not groups:
        return None
    series = tuple(
        curve(group, points, "dashed" if group.startswith(RANDOM) or group == DENSE else "line")
        for group, points in groups.items()
    )
    caption = "Grey lines are controls: the dense cache, and tokens evicted by lot."
    return Lines(
        title=f"{metric.capitalize()} against bytes",
        caption=caption,
        x_label="cache [MB]",
        y_label=label,
        series=series,
        log_x=True,
    )


def _summary(arms: Sequence[Condition], rows: Sequence[Row]) -> tuple[str, ...]:
    by = {(row.metric, row.condition): row for row in rows}
    dense = by[("perplexity", DENSE)]
    told = [f"The dense cache: perplexity {dense.value:.4g}, {by[('cache bytes', DENSE)].value / 1e6:.3g} MB."]
    recalled = by.get(("recall", DENSE))
    if recalled is not None and recalled.value == 0:
        told.append("Not even the dense cache recalls a fact: recall says nothing about the others here.")
    bounded = [arm.name for arm in arms if arm.baseline not in (None, DENSE) and ("perplexity", arm.name) in by]
    if bounded:
        best = min(bounded, key=lambda name: by[("perplexity", name)].value)
        row, size = by[("perplexity", best)], by[("cache bytes", best)]
        sentence = f"Within a budget the lowest perplexity is {row.value:.4g}, by {best}, in {size.value / 1e6:.3g} MB"
        control = by.get(("perplexity", row.baseline or ""))
        told.append(sentence + (f"; random eviction there has {control.value:.4g}." if control else "."))
    return tuple(told)
