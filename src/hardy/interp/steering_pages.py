"""What `hardy steer` does, each with its report: make a direction, and show what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.core.method import Method
from hardy.errors import InputError
from hardy.evaluate import encode
from hardy.interp import prompts
from hardy.interp.task import Task
from hardy.interp.vectors import By, Directions, Pair, activations, divergence, read_pairs
from hardy.report import Report, Row
from hardy.report.figures import Lines, Series
from hardy.zoo.subject import Source, Subject
from hardy.zoo.text import held_out_text


def pairs_of(given: str | Path | Sequence[Pair], subject: Subject, *, n: int = 60) -> list[Pair]:
    """The pairs of a file, or of the name of a known kind ("sentiment", "truth"), or as they are.

    Args:
        given: which.
        subject: whose tokenizer takes them.
        n: pairs of a known kind.
    """
    if isinstance(given, str) and given in prompts.PAIRS:
        return prompts.PAIRS[given](subject.tokenizer, n)
    return read_pairs(given) if isinstance(given, str | Path) else list(given)


def judge_of(task: str | Path | None, pairs: str | Path | Sequence[Pair], subject: Subject) -> Task:
    """What judges a direction: a task file, or for the known pairs of sentiment neutral openings.

    Raises:
        InputError: other pairs come without a task.
    """
    if task is not None:
        return Task.of(task, subject.tokenizer).to(subject.device)
    if pairs != "sentiment":
        raise InputError(f"task is needed to judge the direction of {pairs}: a file of prompts with right and wrong")
    examples = prompts.sentiment_openings(subject.tokenizer)
    return Task.of(examples, subject.tokenizer, name="neutral openings").to(subject.device)


def make_directions(
    model: Source,
    pairs: str | Path | Sequence[Pair],
    out: str | Path,
    *,
    by: By = "mean-difference",
    n: int = 60,
    device: str | None = None,
    dtype: str | None = None,
) -> Report:
    """Make a direction for every layer from pairs of texts, judged on a third of them that it does not see.

    The file `directions.safetensors` and the report go to the folder `out`.

    Args:
        model: what `hardy.zoo.Subject.of` takes.
        pairs: a pair file, or "sentiment" or "truth".
        out: folder.
        by: "mean-difference", "pca" or "probe".
        n: pairs of a known kind.
        device, dtype: of the model.
    """
    subject = Subject.of(model, device=device, dtype=dtype)
    given = pairs_of(pairs, subject, n=n)
    if len(given) < 3:
        raise InputError(f"a direction needs at least three pairs, one of them held out, got {len(given)}")
    made, held = given[: -(len(given) // 3)], given[-(len(given) // 3) :]
    directions = Directions.make(subject.model, subject.tokenizer, made, by=by, name=subject.name)
    both = activations(subject.model, subject.tokenizer, [p.positive for p in held] + [p.negative for p in held])
    rows, curve = [], []
    for layer, vector in directions.values.items():
        ahead = ((both[layer][: len(held)] - both[layer][len(held) :]) @ vector > 0).float().mean().item()
        curve.append(ahead)
        rows.append(Row(metric="held_out_pairs_told_apart", condition=f"after block {layer}", value=ahead, n=len(held)))
        rows.append(Row(metric="norm", condition=f"after block {layer}", value=vector.norm().item()))
    best = max(range(len(curve)), key=curve.__getitem__)
    directions.save(Path(out) / "directions.safetensors")
    figure = Lines(
        title="Pairs told apart",
        caption="On pairs that the direction was not made from; half would be chance.",
        x_label="block",
        y_label="share",
        series=(Series(label=by, x=tuple(map(float, directions.values)), y=tuple(curve)),),
    )
    report = Report(
        title=f"Directions of {subject.name}",
        summary=(
            f"{len(made)} pairs made them; {curve[best]:.0%} of {len(held)} others are told apart after block {best}.",
        ),
        rows=tuple(rows),
        figures=(figure,),
        settings={"model": subject.name, "by": by, "pairs": len(given)},
    )
    report.save(out)
    return report


def steer(
    model: Source,
    steering: Method | Sequence[Method],
    prompt_texts: Sequence[str],
    *,
    tokens: int = 40,
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Report:
    """The text of a model before and after a change, and what else the change does, on text it is not about.

    Args:
        model: what `hardy.zoo.Subject.of` takes.
        steering: a method, or several; functions of the model where they depend on it.
        prompt_texts: prompts.
        tokens: generated for each.
        out: folder of the report.
        device, dtype: of the model.
    """
    subject = Subject.of(model, device=device, dtype=dtype)
    methods = [steering] if isinstance(steering, Method) else list(steering)
    checks.integer("tokens", tokens, at_least=1)
    ids = encode(subject.tokenizer, held_out_text()[:6000])[:256][None].to(subject.device)
    with torch.no_grad():
        reference = subject.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    before = [continued(subject, text, tokens) for text in prompt_texts]
    changes = [method.apply(subject.model) for method in methods]
    try:
        after = [continued(subject, text, tokens) for text in prompt_texts]
        spilled = divergence(subject.model, reference, ids)
    finally:
        for change in reversed(changes):
            change.undo()
    notes = []
    for text, old, new in zip(prompt_texts, before, after, strict=True):
        notes += [f"{text!r} before: {old!r}", f"{text!r} after: {new!r}"]
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    report = Report(
        title=f"Steering {subject.name}",
        summary=(
            f"{changed} of {len(before)} texts change; on code that it is not about, the model moves by {spilled:.3g} "
            "nats per token.",
        ),
        rows=(
            Row(metric="texts_changed", condition="steered", value=changed, n=max(1, len(before))),
            Row(metric="divergence", condition="held-out standard-library modules", value=spilled, unit="nats/token"),
        ),
        settings={"model": subject.name, "steering": [str(method) for method in methods], "tokens": tokens},
        notes=tuple(notes),
    )
    if out is not None:
        report.save(out)
    return report


@torch.no_grad()
def continued(subject: Subject, text: str, tokens: int) -> str:
    """What the model writes after `text`, its likeliest token at each place."""
    inputs = subject.tokenizer(text, return_tensors="pt").to(subject.device)
    model: Any = subject.model
    ids = model.generate(
        inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=subject.tokenizer.eos_token_id,
    )
    return str(subject.tokenizer.decode(ids[0, inputs.input_ids.shape[1] :]))
