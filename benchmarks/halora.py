"""HaLoRA against LoRA and LoRA + noise: low-rank adapters for a second task on a frozen base in noisy arrays.

The base is tiny-llama, which knows Python; the task is generated: the larger of two digits, 100 problems in all. What
is looked at is not whether adapters generalise but whether what they learned holds, so all problems are trained on and
judged, on chip instances that training did not draw, over noise levels including none; the whole base is noisy. All
three are the same class: LoRA has neither noise nor penalty in training, LoRA + noise no penalty. Steps, data and first
adapters are the same.

The learning rate of each way, from three, and the factor of the penalty, from two, were chosen with --choose for the
mean accuracy over noise levels, on chip instances and training seeds of their own.

    python -m benchmarks run halora [--choose]
"""

import statistics
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

import hardy
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.analog import HaLoRA
from hardy.core.rng import generator
from hardy.hardware import AdditiveNoise

PEERS = ("peft",)
RELATIVE_TO = "tensor-absmax"
TRAINED_AT = 0.04
LEVELS = (0.0, 0.02, 0.04, 0.06)
RANK, ALPHA = 8, 16.0
SELECT = "attention.q,attention.k,attention.v,mlp.up,mlp.down"
STEPS, BATCH = 120, 24
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
CHOSEN = {"LoRA": 3e-3, "LoRA + noise": 3e-3, "HaLoRA": 1e-2}
PENALTY = 1e-3
PENALTIES = (1e-4, 1e-3)
SEEDS = (0, 1, 2)
CHOOSING_SEEDS = (50, 51, 52)
INSTANCES = 10


def problems(tokenizer: Any, rows: Iterable[int] = range(100)) -> tuple[torch.Tensor, torch.Tensor]:
    """`assert max(3, 7) == ` as ids (count, tokens), and the id of the digit that follows; there are 100."""
    pairs = [(row // 10, row % 10) for row in rows]
    texts = [f"assert max({first}, {second}) == " for first, second in pairs]
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    answers = torch.tensor([tokenizer(str(max(pair)), add_special_tokens=False)["input_ids"] for pair in pairs])
    assert answers.shape == (len(ids), 1)
    return ids, answers[:, 0]


def method(arm: str, seed: int, penalty: float = PENALTY, **fields: Any) -> HaLoRA:
    noise = None if arm == "LoRA" else AdditiveNoise(strength=TRAINED_AT, relative_to=RELATIVE_TO)
    return HaLoRA(
        chip=noise, penalty_weight=penalty if arm == "HaLoRA" else 0.0, rank=RANK, alpha=ALPHA, select=SELECT,
        seed=seed, **fields,
    )  # fmt: skip


def trained(halora: HaLoRA, seed: int, rate: float, steps: int = STEPS) -> tuple[nn.Module, float]:
    """tiny-llama with adapters trained on the task, and the mean loss of the last 20 steps."""
    model, tokenizer = hardy.zoo.load("tiny-llama")
    adapted = halora.adapt(model).train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
    )
    losses = []
    for step in range(steps):
        rows = torch.randint(100, (BATCH,), generator=generator(seed, "batch", step)).tolist()
        ids, answers = problems(tokenizer, rows)
        logits = adapted(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        loss = nn.functional.cross_entropy(logits, answers)
        (loss + halora.penalty(adapted)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
    return adapted.eval(), statistics.mean(losses[-20:])


@torch.inference_mode()
def accuracy(model: Any, ids: torch.Tensor, answers: torch.Tensor) -> float:
    found = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
    return (found == answers).double().mean().item()


def noisy_accuracy(
    model: nn.Module, strength: float, data: tuple[torch.Tensor, torch.Tensor], first: int
) -> list[float]:
    """Accuracy on each chip instance; one number without noise."""
    if strength == 0:
        return [accuracy(model, *data)]
    values = []
    for instance in range(INSTANCES):
        with AdditiveNoise(strength=strength, relative_to=RELATIVE_TO, seed=first + instance).apply(model):
            values.append(accuracy(model, *data))
    return values


ARMS = ("LoRA", "LoRA + noise", "HaLoRA")


def choices() -> Result:
    """What each learning rate and factor of the penalty give, on chip instances and seeds for choosing."""
    _, tokenizer = hardy.zoo.load("tiny-llama")
    data, found = problems(tokenizer), []
    for arm, penalty in (("LoRA", 0.0), ("LoRA + noise", 0.0), *(("HaLoRA", mu) for mu in PENALTIES)):
        for rate in LEARNING_RATES:
            accuracies, losses = [], []
            for seed in CHOOSING_SEEDS:
                model, loss = trained(method(arm, seed, penalty), seed, rate)
                accuracies.append([statistics.mean(noisy_accuracy(model, level, data, 5000)) for level in LEVELS[::2]])
                losses.append(round(loss, 3))
            means = [statistics.mean(values) for values in zip(*accuracies, strict=True)]
            for level, value in zip(LEVELS[::2], means, strict=True):
                details = {"noise": level, "penalty_weight": penalty, "learning_rate": rate}
                found += rows(arm, details, seeds=CHOOSING_SEEDS, accuracy=Value(value, "share", n=len(CHOOSING_SEEDS)))
            print(arm, penalty, rate, f"{statistics.mean(means):.3f}", means, losses, flush=True)
    return Result(rows=found, seeds=CHOOSING_SEEDS)


def compare() -> Result:
    """Every way, seed and level: mean over seeds and chip instances, and both spreads."""
    _, tokenizer = hardy.zoo.load("tiny-llama")
    data = problems(tokenizer)
    values: dict[tuple[str, float], list[list[float]]] = {}
    for arm in ARMS:
        for seed in SEEDS:
            model, _ = trained(method(arm, seed), seed, CHOSEN[arm])
            for level in LEVELS:
                values.setdefault((arm, level), []).append(noisy_accuracy(model, level, data, 1000))
        means = {level: statistics.mean(map(statistics.mean, values[arm, level])) for level in LEVELS}
        print(f"{arm:14}" + "  ".join(f"{level:g}: {value:.3f}" for level, value in means.items()), flush=True)
    found = []
    for (arm, level), of_seeds in values.items():
        within = [statistics.stdev(instances) for instances in of_seeds if len(instances) > 1]
        found += rows(
            arm,
            {"noise": level},
            seeds=SEEDS,
            accuracy=mean_of([statistics.mean(instances) for instances in of_seeds], "share"),
            sd_over_instances=Value(statistics.mean(within), "share") if within else None,
        )
    return Result(
        rows=found,
        settings={
            "noise": f"additive, relative to {RELATIVE_TO}",
            "trained_at": TRAINED_AT,
            "penalty_weight": PENALTY,
            "rank": RANK,
            "alpha": ALPHA,
            "select": SELECT,
            "steps": STEPS,
            "batch": BATCH,
            "learning_rates": CHOSEN,
            "problems": 100,
            "chip_seeds": [1000, 1000 + INSTANCES - 1],
        },
        seeds=SEEDS,
        raw=[{"way": arm, "noise": level, "accuracies": of_seeds} for (arm, level), of_seeds in values.items()],
    )


def run(*, choose: bool = False) -> Result:
    return choices() if choose else compare()
