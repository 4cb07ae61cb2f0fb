"""A language model within a budget of cache: perplexity and recall against bytes, tokens per second, growth.

    python -m benchmarks run stream-quality
    python -m benchmarks run stream-speed
    python -m benchmarks run stream-growth

A real model reads 512 tokens (`--tokens`) of prose and of code with four planted facts, 128 at a time, and is asked for
them at the end, when the cache has long chosen. Scorers (`--scorers all` for all of them) at the same bytes, in 16 bits
and in 4, beside random eviction, the dense cache, few bits without a budget and, with `--peers`, transformers'
quantized caches; `stream-long` has all of these. A fact is recalled if every digit is the most likely token. Speed: one
token at a time after 1024, 4096 and 16384 random keys, all caches in turns. Growth: greedy generation within a budget,
and the store alone for 50,000 tokens. `--model` is the folder of a real model; by default SmolLM2-135M among those in
HARDY_REAL_MODELS.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, QuantizedCache

from benchmarks.harness import (
    TEXTS,
    NotMeasuredError,
    Result,
    Value,
    in_turns,
    mean_of,
    peak_memory,
    real_models,
    rows,
    text_of,
    timed,
)
from hardy import zoo
from hardy.core.rng import generator
from hardy.evaluate import encode
from hardy.runs import Cell, Study
from hardy.stream import CompressedCache, KVPolicy
from hardy.stream.evaluation import dense_bytes, streamed
from hardy.stream.recall import Stream, planted
from hardy.stream.scorers import SCORERS

PEERS = ("transformers", "optimum-quanto", "hqq", "kvpress")
DEFAULT = "smollm2-135m"
CHUNK, FACTS = 128, 4
CONTEXTS = (1024, 4096, 16384)
PEER_ARMS = {"quanto, 4 bits": ("quanto", 4), "hqq, 4 bits": ("hqq", 4)}


@dataclasses.dataclass(frozen=True)
class Shared:
    model: Any
    streams: Mapping[str, Stream]


def run(
    *,
    part: str = "quality",
    model: str = "",
    scorers: str = "sink-recent,random,pooled-query,snapkv",
    peers: bool = False,
    seeds: int = 1,
    tokens: int = 512,
    budget: str = "4MB",
    work: Path | None = None,
) -> Result:
    """
    Args:
        part: quality, speed or growth.
        model: folder of a real one.
        scorers: names, with commas between them, or all.
        peers: whether transformers' quantized caches are measured too.
        seeds: so many streams of each text.
        tokens: of a stream.
        budget: to whose bytes every scorer is held; 4 MB are 170 tokens in 16 bits.
        work: where finished arms are kept.
    """
    found = real_models(model)
    name = DEFAULT if DEFAULT in found else next(iter(found))
    network, tokenizer = zoo.load(str(found[name]), dtype=torch.float32)
    if part == "quality":
        chosen = arms(list(SCORERS) if scorers == "all" else scorers.split(","), peers, budget)
        result = quality(network, tokenizer, name, chosen, seeds, tokens, work)
    elif part == "speed":
        result = speed(network)
    elif part == "growth":
        result = growth(network)
    else:
        raise NotMeasuredError(f"there are parts quality, speed and growth, not {part!r}")
    settings = {**result.settings, "model": name, "weights": "dequantized from a 4-bit file"}
    return dataclasses.replace(result, settings=settings)


def arms(scorers: Sequence[str], peers: bool, budget: str) -> dict[str, dict[str, Any]]:
    """Every arm and what makes it."""
    found: dict[str, dict[str, Any]] = {"dense": {"kind": "dense"}}
    found |= {f"all, {bits} bits": {"bits": bits} for bits in (4, 2)}
    found |= {f"all, {bits} bits, rotated": {"bits": bits, "codec": "lloyd-max"} for bits in (4,)}
    for bits in (16, 4):
        for scorer in scorers:
            found[f"{scorer}, {budget}, {bits} bits"] = {"bits": bits, "scorer": scorer, "budget": budget}
    if not peers:
        return found
    return found | {arm: {"kind": backend, "bits": bits} for arm, (backend, bits) in PEER_ARMS.items()}


def quality(
    model: Any,
    tokenizer: Any,
    name: str,
    chosen: Mapping[str, Mapping[str, Any]],
    seeds: int,
    tokens: int,
    work: Path | None,
) -> Result:
    streams = {f"{kind} {seed}": stream_of(tokenizer, kind, seed, tokens) for kind in TEXTS for seed in range(seeds)}
    settings = {"model": name, "tokens": tokens, "chunk": CHUNK, "facts": FACTS}
    study = Study(
        name="stream", run=measure, settings=settings, subject=Shared(model, streams), out=work, workers=1
    )  # fmt: skip
    cells = {
        (arm, kind): [Cell(condition=f"{arm} | {kind}", arguments={**how, "text": kind}, seed=s) for s in range(seeds)]
        for kind in TEXTS
        for arm, how in chosen.items()
    }
    ordered = sorted(cells, key=lambda place: place[0] in PEER_ARMS)  # the peers last
    results = study.results([cell for place in ordered for cell in cells[place]])
    by_key = {result.cell.key: result for result in results}
    lines, notes = [], []
    for (arm, kind), group in cells.items():
        measured = [by_key[cell.key] for cell in group]
        if any(result.values is None for result in measured):
            notes.append(f"{arm} on {kind} was not measured: {str(measured[0].error).strip().splitlines()[-1]}")
            continue
        values: list[Any] = [result.values for result in measured]
        scorer = arm.partition(",")[0]
        baseline = arm.replace(scorer, "random") if scorer in SCORERS and scorer != "random" else "dense"
        lines += rows(
            f"{arm} | {kind}",
            {"arm": arm, "text": kind, "kept": values[0].get("kept"), "requantized": values[0].get("requantized")},
            seeds=range(seeds),
            baseline=None if arm == "dense" else f"{baseline} | {kind}",
            perplexity=mean_of([math.exp(v["loss"]) for v in values]),
            recall=mean_of([v["recall"] for v in values], "of facts"),
            answer_loss=mean_of([v["answer_loss"] for v in values], "nats/token"),
            cache=mean_of([v["bytes"] / 1e6 for v in values], "MB"),
            seconds=mean_of([v["seconds"] for v in values], "s"),
        )
    notes.append("the dense cache is in float32, as the model")
    notes.append("seconds are of a busy machine and one run each: not for comparison")
    return Result(rows=lines, settings=settings, seeds=range(seeds), notes=notes)


def stream_of(tokenizer: Any, kind: str, seed: int, tokens: int) -> Stream:
    ids = encode(tokenizer, text_of(kind))
    start = 1 + seed * 4 * tokens
    stream = planted(tokenizer, ids[start : start + tokens - 24 * FACTS], FACTS, seed)
    begin = ids[:1] if tokenizer.bos_token_id is not None else ids[:0]
    return Stream(torch.cat([begin, stream.ids]), stream.questions)


def measure(shared: Shared, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    model, stream = shared.model, shared.streams[f"{arguments['text']} {seed}"]
    kind = arguments.get("kind")
    if kind == "dense":
        return streamed(model, DynamicCache(config=model.config), stream, CHUNK, dense_bytes, copy.deepcopy)
    if kind is not None:
        peer = QuantizedCache(backend=kind, config=model.config, nbits=arguments["bits"], **PEER_AXES[kind])
        return streamed(model, peer, stream, CHUNK, reachable_bytes, layers_copied)
    policy = KVPolicy(**{key: value for key, value in arguments.items() if key != "text"})
    cache = CompressedCache.for_model(model, policy)
    found = streamed(model, cache, stream, CHUNK, lambda c: c.nbytes, lambda c: c.copy(model))
    return found | {name: float(cache.stats[name]) for name in ("kept", "requantized")}


PEER_AXES = {"quanto": {"axis_key": 0, "axis_value": 0}, "hqq": {"axis_key": 1, "axis_value": 1}}


def layers_copied(cache: Any) -> Any:
    """A cache with layers of its own; their tensors are shared, since each update puts new ones in their place."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def reachable_bytes(cache: Any) -> int:
    """Bytes of every tensor that the layers of a cache hold, however deep."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def walk(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)
        elif hasattr(value, "__dict__"):
            walk(vars(value))

    walk(cache.layers)
    return sum(found.values())


def speed(model: Any) -> Result:
    """Milliseconds per token after a context of random keys and values, all caches in turns."""
    lines, notes = [], []
    config = model.config
    heads, dim = config.num_key_value_heads, config.head_dim
    for context in CONTEXTS:
        chance = generator(0, "stream-speed", context)
        caches: dict[str, Any] = {
            "dense": DynamicCache(config=config),
            "hardy, 16 bits": CompressedCache.for_model(model, KVPolicy(bits=16)),
            "hardy, 4 bits": CompressedCache.for_model(model, KVPolicy(bits=4)),
            "hardy, 4 bits, at most 1024 tokens": CompressedCache.for_model(model, KVPolicy(bits=4, budget=1024)),
            "hardy, 4 bits, unpacked for SDPA": CompressedCache(config, KVPolicy(bits=4)),
        }
        for layer in range(config.num_hidden_layers):
            keys, values = (torch.randn(1, heads, context, dim, generator=chance) for _ in range(2))
            for cache in caches.values():
                cache.update(keys, values, layer)
        with torch.inference_mode():
            steps = {name: timed(functools.partial(step, model, cache)) for name, cache in caches.items()}
            times = in_turns(steps, rounds=7)
        for name, seconds in times.items():
            ratios = [one / dense for one, dense in zip(seconds, times["dense"], strict=True)]
            size = caches[name].nbytes if isinstance(caches[name], CompressedCache) else reachable_bytes(caches[name])
            lines += rows(
                f"{name} | {context} tokens",
                {"arm": name, "context": context},
                baseline=None if name == "dense" else f"dense | {context} tokens",
                milliseconds=Value(1e3 * sorted(seconds)[len(seconds) // 2], "ms/token", n=len(seconds)),
                time_of_dense=Value(sorted(ratios)[len(ratios) // 2], "x", n=len(ratios)),
                tokens_per_second=1 / sorted(seconds)[len(seconds) // 2],
                cache=Value(size / 1e6, "MB"),
            )
            print(lines[-3], flush=True)
    notes.append("medians over seven rounds in which all caches take turns; ratios are of the same round")
    limit = config.max_position_embeddings
    if max(CONTEXTS) > limit:
        notes.append(
            f"the model is made for {limit} positions: what it writes after more means nothing, what it costs does"
        )
    notes.append("one thread; what is written to the caches while timing is the same token again and again")
    return Result(rows=lines, seeds=(0,), notes=notes)


def step(model: Any, cache: Any) -> None:
    model(torch.full((1, 1), 1000), past_key_values=cache)


def growth(model: Any) -> Result:
    """Bytes of the cache and of the process while the model writes, and the same for the store alone for 50,000."""
    lines = []
    policy = KVPolicy(budget="3MB", bits=4)
    cache = CompressedCache.for_model(model, policy)
    ids = torch.full((1, 1), 1000)
    held: dict[int, tuple[int, float]] = {}
    with torch.inference_mode():
        for count in range(1, 601):
            ids = model(ids, past_key_values=cache).logits[:, -1:].argmax(-1)
            if count % 150 == 0:
                held[count] = cache.nbytes, peak_memory("VmRSS")
                print(count, held[count], flush=True)
    most = 0
    for count, (size, resident) in held.items():
        lines += rows(f"after {count} tokens", cache=Value(size / 1e6, "MB"), process=Value(resident, "MB"))
        most = max(most, size)
    alone = CompressedCache.for_model(model, policy)
    sizes = []
    shape = (1, model.config.num_key_value_heads, 1, model.config.head_dim)
    chance = generator(0, "stream-growth")
    for count in range(1, 50_001):
        keys, values = (torch.randn(shape, generator=chance) for _ in range(2))
        with alone.being_observed():  # so that nothing is unpacked for an attention that is not there
            alone.update(keys, values, 0)  # the layers do not know of each other: one will do
            alone.layers[0].settle()
        if count % 5000 == 0:
            sizes.append(alone.nbytes)
    lines += rows("store alone, 5,000 tokens", cache=Value(sizes[0] / 1e6, "MB"))
    lines += rows("store alone, 50,000 tokens", cache=Value(max(sizes) / 1e6, "MB"))
    return Result(rows=lines, seeds=(0,), settings={"policy": str(policy)}, raw={"store alone": sizes})
