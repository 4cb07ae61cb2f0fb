"""Teaching token sequences: fine-tuning a language model on prose by AtteNT's rule, beside random sequences.

tiny-llama, which knows Python, or another model (a folder of Hugging Face), is fine-tuned on WikiText-2 and judged on
other articles of it. Sequences are scored by their own loss and drawn softly (AtteNT's default) or taken by the
highest; their share grows from 20 % to all, and they are chosen anew every other epoch. With rubbish, a tenth of them
has shuffled tokens: such can never be learned, and their loss stays the highest; a cap leaves the highest tenth out.

Controls: all sequences in every epoch, and random ones by the same schedule; loss on held-out text at the end, at equal
CPU seconds, and the seconds to what random choice of the same seed ends with, choosing included.

    python -m benchmarks run teach_tokens
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import hardy
from benchmarks.harness import Result, mean_of, real_models, rows, text_of
from hardy.core.rng import generator
from hardy.teach import Teacher, TeacherSampler, schedules, scores

Curve = tuple[list[float], list[float], float]
"""CPU seconds and held-out loss after every epoch, and the seconds of choosing."""
ARMS: dict[str, tuple[str, Any]] = {
    "full": ("full", "loss"),
    "soft": ("soft", "loss"),
    "hard": ("hard", "loss"),
    "random": ("random", "loss"),
}
AGAINST_RUBBISH: dict[str, tuple[str, Any]] = {
    "soft, loss cap": ("soft", scores.LossCap(quantile=0.9, score=scores.loss))
}


def sequences(
    tokenizer: Any, part: str, count: int, length: int, seed: int, rubbish: float = 0.0
) -> list[dict[str, torch.Tensor]]:
    """Pieces of prose from random places, of `length` tokens each; a share of them shuffled."""
    text = text_of("prose", part)
    found = []
    for index in range(count):
        random = generator(seed, part, index)
        begin = int(torch.randint(len(text) - 12 * length, (), generator=random))
        ids = torch.tensor(tokenizer(text[begin : begin + 12 * length], add_special_tokens=False)["input_ids"][:length])
        assert len(ids) == length
        if index < rubbish * count:
            ids = ids[torch.randperm(length, generator=random)]
        found.append({"input_ids": ids, "labels": ids.clone()})
    return found


@torch.inference_mode()
def loss_on(model: Any, held_out: list[dict[str, torch.Tensor]]) -> float:
    model.eval()
    ids = torch.stack([each["input_ids"] for each in held_out])
    total = sum(float(model(input_ids=part, labels=part).loss) * len(part) for part in ids.split(8))
    model.train()
    return total / len(ids)


def trained(
    name: str, arm: str, seed: int, epochs: int, rate: float, data_of: Callable[[Any], tuple[Any, Any]]
) -> Curve:
    """One fine-tuning."""
    selector, score = (ARMS | AGAINST_RUBBISH)[arm]
    model, tokenizer = loaded(name)
    data, held_out = data_of(tokenizer)
    ratio, interval = schedules.Linear(start=0.2), schedules.Every(updates=2)
    teacher = Teacher(epochs, selector=selector, score=score, ratio=ratio, interval=interval, seed=seed)
    loader = DataLoader(data, batch_size=8, sampler=TeacherSampler(data, teacher))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    seconds, losses, clock = [0.0], [loss_on(model, held_out)], 0.0
    for _ in range(epochs):
        begun = time.process_time()
        teacher.update(model, nn.CrossEntropyLoss(), data, batch_size=16)
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        clock += time.process_time() - begun
        seconds.append(clock)
        losses.append(loss_on(model, held_out))
    return seconds, losses, teacher.seconds


def seconds_to(goal: float, curve: Curve) -> float | None:
    """CPU seconds until the loss is as low as `goal`, between epochs on a straight line; None where it never is."""
    seconds, losses, _ = curve
    for place in range(1, len(losses)):
        if losses[place] <= goal:
            part = (losses[place - 1] - goal) / max(losses[place - 1] - losses[place], 1e-12)
            return seconds[place - 1] + min(max(part, 0.0), 1.0) * (seconds[place] - seconds[place - 1])
    return None


def loaded(name: str) -> tuple[Any, Any]:
    if name == "tiny-llama":
        return hardy.zoo.load(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real_models()[name]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def run(
    *, model: str = "tiny-llama", epochs: int = 5, count: int = 32, length: int = 64, rate: float = 1e-3,
    rubbish: float = 0.0, judged: int = 16, bfloat16: bool = False, seeds: int = 5,
) -> Result:  # fmt: skip
    arms = [*ARMS, *(AGAINST_RUBBISH if rubbish else ())]
    curves: dict[str, list[Curve]] = {arm: [] for arm in arms}
    for seed in range(seeds):

        def data_of(tokenizer: Any, seed: int = seed) -> tuple[Any, Any]:
            data = sequences(tokenizer, "calibration", count, length, seed, rubbish)
            return data, sequences(tokenizer, "evaluation", judged, length, 1000)

        for arm in arms:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                curves[arm].append(trained(model, arm, seed, epochs, rate, data_of))
            seconds, losses, _ = curves[arm][-1]
            print(f"seed {seed}, {arm}: loss {losses[0]:.3f} to {losses[-1]:.3f} in {seconds[-1]:.1f} s", flush=True)
    ends = [min(curves[arm][seed][0][-1] for arm in arms) for seed in range(seeds)]
    goals = [losses[-1] for _, losses, _ in curves["random"]]
    equal = {
        arm: [float(np.interp(end, *of_seed[:2])) for end, of_seed in zip(ends, of_arm, strict=True)]
        for arm, of_arm in curves.items()
    }
    found = []
    for arm, of_arm in curves.items():
        baseline = "random" if arm != "random" else "full"
        final = [losses[-1] for _, losses, _ in of_arm]
        other = [losses[-1] for _, losses, _ in curves[baseline]]
        reached = [seconds_to(goal, curve) for goal, curve in zip(goals, of_arm, strict=True)]
        times = [each for each in reached if each is not None]
        found += rows(
            arm,
            {"model": model, "rubbish": rubbish, "reached": len(times), "runs": seeds},
            seeds=range(seeds),
            baseline=baseline,
            loss_before=mean_of([losses[0] for _, losses, _ in of_arm], "nats"),
            loss=mean_of(final, "nats"),
            loss_at_equal_seconds=mean_of(equal[arm], "nats"),
            below_the_baseline=mean_of([b - a for a, b in zip(final, other, strict=True)], "nats"),
            below_the_baseline_at_equal_seconds=mean_of(
                [b - a for a, b in zip(equal[arm], equal[baseline], strict=True)], "nats"
            ),
            cpu_seconds=mean_of([seconds[-1] for seconds, _, _ in of_arm], "s"),
            cpu_seconds_to_what_random_ends_with=mean_of(times, "s") if times else None,
            seconds_of_choosing=mean_of([choosing for *_, choosing in of_arm], "s"),
        )
    return Result(rows=found, seeds=range(seeds), raw={
        arm: [{"seconds": a, "losses": b} for a, b, _ in of_arm] for arm, of_arm in curves.items()
    })  # fmt: skip
