"""Does a steering vector still steer a model on few bits and under noise? Doses, side effects, random vectors.

    python -m benchmarks run steering_survival
    python -m benchmarks run steering_survival-smollm2

A vector made on the model as it is, added after 2 to 4 bits, 1 to 3 trit-planes (groups of 64) or 5 % noise, beside one
made in that state and random ones of its length, at five doses from -1 to 1 times the vector; 0 is checked to be
exact. On SmolLM2-135M it is sentiment: 40 pairs, of every fourth layer the one with the largest shift after other
openings, judged by words that are in no pair after eight neutral openings; on a small model that was trained on texts
of two moods it is the mood. The side effect is the divergence on prose, or on texts of neutral mood, from what the
model says in that state.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Result, real_models, text_of
from hardy import interp, zoo
from hardy.core.rng import generator
from hardy.evaluate import encode
from hardy.interp import Directions, Pair, planted, prompts
from hardy.studies import steering_survival


def run(*, model: str = "", seeds: int = 3, work: Path | None = None) -> Result:
    settings: dict[str, Any] = {"model": model or "trained on two moods"}
    if model:
        subject = zoo.Subject.of(str(real_models()[model]))
        tokenizer = subject.tokenizer
        pairs = prompts.sentiment(tokenizer, 40)
        judge, other = (
            interp.Task.of(prompts.sentiment_openings(tokenizer, choosing=choosing), tokenizer, name="neutral openings")
            for choosing in (False, True)
        )
        ids = encode(tokenizer, text_of("prose")[:3000])[:64][None]
        settings["weights"] = "dequantized from a 4-bit file"
    else:
        subject, pairs, judge, other, ids = moods()
    made = Directions.make(subject.model, subject.tokenizer, pairs)
    some = Directions({n: v for n, v in made.values.items() if n % 4 == 0}) if model else made
    layer = some.best_layer(subject.model, other)
    report = steering_survival(subject, pairs, judge, ids, layer=layer, seeds=seeds, chances=seeds, out=work)
    print(report.summary[0], flush=True)
    return Result(
        rows=list(report.rows), settings=settings | {"layer": layer}, seeds=range(seeds),
        notes=[*report.summary, *report.notes],
    )  # fmt: skip


def moods() -> tuple[zoo.Subject, list[Pair], interp.Task, interp.Task, torch.Tensor]:
    """A model of two moods; what makes its vector, judges it, chooses the layer, and should stay as it is."""
    model = planted.trained(planted.Plan(vocabulary=64, blocks=3), planted.moods_draw(), steps=300)
    random = generator(0, "mood-pairs")
    sides = [planted.spelled(planted.moods(40, random, mood)[:, :6]) for mood in (planted.CHEERFUL, planted.GLOOMY)]
    tokenizer = planted.tokenizer(64)
    subject = zoo.Subject.of((model, tokenizer), tokens=64, window=32)
    pairs = [Pair(*both) for both in zip(*sides, strict=True)]
    ids = planted.moods(16, random, planted.NEUTRAL)
    return subject, pairs, planted.mood_task(), planted.mood_task(seed=1), ids
