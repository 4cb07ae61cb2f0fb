"""ROMER on tiny-moe: how noise shifts the load of the experts, and what each repair gives back.

    python -m benchmarks run romer

Each chip instance is repaired for itself, as one would a chip that was programmed: everything is counted and chosen
on the calibration text under that instance, and measured on the evaluation text. What is on the chip decides what a
repair of experts can give: everything, or only the experts, with or without their routers, attention staying digital.
"digital experts" and "digital experts and routers" are the ceiling: no noise at all where the repairs work.

Threshold and share of the replacement are chosen for each placement and noise on two other chips and on text that is
neither calibrated on nor judged. Beside the two steps of ROMER and both: random replacement of as many experts at most
(the control), digital experts of largest maximum neuron norm (the criterion of arXiv 2603.02633; a quarter of them is
our choice), and a bias that balances the load. Ten instances; perplexity is that of the mean loss over them.
"""

import math
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

import hardy
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.analog import Deploy, ExpertReplacement, RandomReplacement, RouterCalibration
from hardy.analog.experts import RepairedRouter, blocks, routing
from hardy.core.surgery import Edits
from hardy.evaluate import mean_loss
from hardy.hardware import AdditiveNoise, Chip

TOKENS, CALIBRATION_TOKENS = 2048, 1024
SEEDS = range(10)


def additive(strength: float, where: str, seed: int) -> Any:
    return AdditiveNoise(strength=strength, relative_to="tensor-absmax", select=where, seed=seed)


def reram(_: float, where: str, seed: int) -> Any:
    return Deploy(chip=Chip.preset("reram-wan").without_periphery(), select=where, seed=seed)


TENTH, FIFTH, TWO_FIFTHS = (f"additive {share} % of each tensor's largest weight" for share in (10, 20, 40))
RERAM = "ReRAM (Wan et al.)"
EVERYTHING, EXPERTS, ROUTED = "everything", "experts", "experts and routers"
PLACED = {EVERYTHING: "linear,router,!head", EXPERTS: "experts", ROUTED: "experts,router"}
NOISES: dict[str, tuple[Callable[[float, str, int], Any], float]] = {
    TENTH: (additive, 0.10),
    FIFTH: (additive, 0.20),
    TWO_FIFTHS: (additive, 0.40),
    RERAM: (reram, 1.0),
}
MEASURED = [
    *((EVERYTHING, noise) for noise in (TENTH, RERAM)),
    *((placement, noise) for placement in (EXPERTS, ROUTED) for noise in (FIFTH, TWO_FIFTHS)),
]
CHOICES: list[dict[str, Any]] = [
    {"threshold": threshold, "share": share} for threshold in (0.5, 1.0) for share in (0.125, 0.5, 0.75)
]
CHOICE_SEEDS = (100, 101)


def top_norm_digital(model: Any, share: float = 0.25) -> Callable[[], None]:
    """Remember the experts whose largest neuron is largest, to put them back after the noise."""
    kept = []
    for block in blocks(model):
        experts = model.get_submodule(block.experts)
        norms = torch.stack([experts.gate_up_proj[e].norm(dim=1).max() for e in range(block.count)])
        top = norms.topk(round(share * block.count)).indices
        kept += [(experts, name, top, getattr(experts, name).detach()[top].clone()) for name in block.stacks]

    def restore() -> None:
        for experts, name, top, values in kept:
            getattr(experts, name).data[top] = values

    return restore


def balance(model: Any, noise: Any, batches: list[torch.Tensor], edits: Edits, rate: float = 0.1) -> None:
    """Shift each logit up where an expert is used too little and down where too much, ten times."""
    found = blocks(model)
    shifts = [torch.zeros(block.count) for block in found]
    routers = [RepairedRouter(model.get_submodule(block.router)) for block in found]
    for block, router in zip(found, routers, strict=True):
        edits.set_module(block.router, router)
    with noise.apply(model):
        for _ in range(10):
            _, counts = routing(model, batches, found)
            for shift, router, count in zip(shifts, routers, counts, strict=True):
                shift += rate * (count.mean() - count).sign().float()
                router.shift.copy_(shift)


def load(counts: list[torch.Tensor]) -> dict[str, float]:
    """Mean over blocks: entropy of the shares relative to that of equal ones, and the largest load over the mean."""
    shares = [count / count.sum() for count in counts]
    entropy = [(-(p * p.clamp(min=1e-12).log()).sum() / torch.tensor(float(len(p))).log()).item() for p in shares]
    return {
        "relative_entropy": statistics.fmean(entropy),
        "max_violation": statistics.fmean((count.max() / count.mean() - 1).item() for count in counts),
        "idle": statistics.fmean((count < 0.25 * count.mean()).double().mean().item() for count in counts),
    }


def run() -> Result:
    model: Any
    model, tokenizer = hardy.zoo.load("tiny-moe")
    evaluation, known = (
        hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(part), window=256, tokens=count)
        for part, count in (("evaluation", TOKENS), ("calibration", 2 * CALIBRATION_TOKENS))
    )
    windows = torch.cat(list(known)).split(CALIBRATION_TOKENS // 256)
    calibration, choice = [windows[0]], [windows[1]]
    found = blocks(model)

    def loss(batches: list[torch.Tensor]) -> float:
        with torch.inference_mode():
            return mean_loss(model, batches).item()

    def measured() -> dict[str, float]:
        return {"loss": loss(evaluation), **load(routing(model, evaluation, found)[1])}

    intact = measured()
    lines, raw = rows("unmodified", perplexity=math.exp(intact["loss"]), **intact), []
    for placement, name in MEASURED:
        (kind, strength), where = NOISES[name], PLACED[placement]

        def judged(settings: dict[str, Any], kind: Any = kind, strength: float = strength, where: str = where) -> float:
            losses = []
            for seed in CHOICE_SEEDS:
                noise = kind(strength, where, seed)
                repair = ExpertReplacement(noise=noise, seeds=(seed,), **settings)
                with repair.apply(model, calibration), noise.apply(model):
                    losses.append(loss(choice))
            return statistics.fmean(losses)

        chosen = min(CHOICES, key=judged)
        values: dict[str, list[dict[str, float]]] = {}
        for seed in SEEDS:
            noise = kind(strength, where, seed)
            repairs = {
                "expert replacement": ExpertReplacement(noise=noise, seeds=(seed,), **chosen),
                "router calibration": RouterCalibration(noise=noise, seeds=(seed,)),
                "random replacement": RandomReplacement(
                    count=min(int(chosen["share"] * found[0].count), found[0].count // 2), seed=seed
                ),
            }
            for label, repair in {"noisy": None, **repairs}.items():
                with repair.apply(model, calibration) if repair is not None else nullcontext():
                    with noise.apply(model):
                        values.setdefault(label, []).append(measured())
                    if label == "expert replacement":
                        with repairs["router calibration"].apply(model, calibration), noise.apply(model):
                            values.setdefault("both", []).append(measured())
            for label, spared in (("digital experts", "!experts"), ("digital experts and routers", "!experts,!router")):
                if placement == EVERYTHING or (placement == ROUTED and label == "digital experts"):
                    with kind(strength, f"{where},{spared}", seed).apply(model):
                        values.setdefault(label, []).append(measured())
                else:
                    values.setdefault(label, []).append(intact)
            restore = top_norm_digital(model)
            with noise.apply(model):
                restore()
                values.setdefault("digital top-norm experts", []).append(measured())
            edits = Edits(model)
            balance(model, noise, calibration, edits)
            with noise.apply(model):
                values.setdefault("load-balancing bias", []).append(measured())
            edits.undo()
            shown = {label: round(math.exp(each[-1]["loss"]), 2) for label, each in values.items()}
            print(placement, name, seed, chosen, shown, flush=True)
        noisy = [each["loss"] for each in values["noisy"]]
        for label, each in values.items():
            losses = [one["loss"] for one in each]
            ratios = [math.exp(value - other) for value, other in zip(losses, noisy, strict=True)]
            loads = {key: statistics.fmean(one[key] for one in each) for key in each[0] if key != "loss"}
            lines += rows(
                label,
                {
                    "placement": placement,
                    "noise": name,
                    **(chosen if "replacement" in label or label == "both" else {}),
                },
                seeds=SEEDS,
                baseline="noisy",
                loss=mean_of(losses),
                perplexity=Value(math.exp(statistics.fmean(losses)), n=len(losses)),
                ratio_to_noisy=mean_of(ratios),
                **{key: Value(value, n=len(each)) for key, value in loads.items()},
            )
            raw.append({"condition": label, "placement": placement, "noise": name, "loss": losses})
    settings = {"tokens": TOKENS, "calibration_tokens": CALIBRATION_TOKENS, "placed": PLACED}
    return Result(rows=lines, settings=settings, seeds=SEEDS, raw=raw)
