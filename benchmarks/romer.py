"""ROMER on tiny-moe: how noise shifts the load of the experts, and what each repair gives back.

    python -m benchmarks run romer

Each chip instance is repaired for itself, as one would a chip that was programmed: everything is counted and chosen
on the calibration text under that instance, and measured on the evaluation text. Beside the two steps of ROMER and
both: random replacement (the control), a digital router, digital experts of largest maximum neuron norm (the
criterion of arXiv 2603.02633; a quarter of them is our choice, and attention stays analog), and a bias that balances
the load. Ten instances, three noises.
"""

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
ANALOG = "linear,router,!head"


def additive(strength: float, where: str, seed: int) -> Any:
    return AdditiveNoise(strength=strength, relative_to="tensor-absmax", select=where, seed=seed)


def reram(_: float, where: str, seed: int) -> Any:
    return Deploy(chip=Chip.preset("reram-wan").without_periphery(), select=where, seed=seed)


NOISES: dict[str, tuple[Callable[[float, str, int], Any], float]] = {
    "additive 5 % of each tensor's largest weight": (additive, 0.05),
    "additive 10 % of each tensor's largest weight": (additive, 0.10),
    "ReRAM (Wan et al.)": (reram, 1.0),
}


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
    evaluation, calibration = (
        hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(part), window=256, tokens=count)
        for part, count in (("evaluation", TOKENS), ("calibration", CALIBRATION_TOKENS))
    )
    found = blocks(model)

    def measured() -> dict[str, float]:
        with torch.inference_mode():
            perplexity = mean_loss(model, evaluation).exp().item()
        return {"perplexity": perplexity, **load(routing(model, evaluation, found)[1])}

    lines, raw = rows("unmodified", **measured()), []
    for name, (kind, strength) in NOISES.items():
        values: dict[str, list[dict[str, float]]] = {}
        for seed in SEEDS:
            noise = kind(strength, ANALOG, seed)
            repairs = {
                "expert replacement": ExpertReplacement(noise=noise, seeds=(seed,), threshold=0.5, share=0.125),
                "router calibration": RouterCalibration(noise=noise, seeds=(seed,)),
                "random replacement": RandomReplacement(count=2, seed=seed),
            }
            for label, repair in {"noisy": None, **repairs}.items():
                with repair.apply(model, calibration) if repair is not None else nullcontext():
                    with noise.apply(model):
                        values.setdefault(label, []).append(measured())
                    if label == "expert replacement":
                        with repairs["router calibration"].apply(model, calibration), noise.apply(model):
                            values.setdefault("both", []).append(measured())
            with kind(strength, "linear,!head,!router", seed).apply(model):
                values.setdefault("digital router", []).append(measured())
            restore = top_norm_digital(model)
            with noise.apply(model):
                restore()
                values.setdefault("digital top-norm experts", []).append(measured())
            edits = Edits(model)
            balance(model, noise, calibration, edits)
            with noise.apply(model):
                values.setdefault("load-balancing bias", []).append(measured())
            edits.undo()
            print(name, seed, {label: round(each[-1]["perplexity"], 2) for label, each in values.items()}, flush=True)
        noisy = [found["perplexity"] for found in values["noisy"]]
        for label, each in values.items():
            perplexity = [found["perplexity"] for found in each]
            ratios = [value / other for value, other in zip(perplexity, noisy, strict=True)]
            loads = {key: statistics.fmean(found[key] for found in each) for key in each[0] if key != "perplexity"}
            lines += rows(
                label,
                {"noise": name},
                seeds=SEEDS,
                baseline="noisy",
                perplexity=mean_of(perplexity),
                ratio_to_noisy=mean_of(ratios),
                **{key: Value(value, n=len(each)) for key, value in loads.items()},
            )
            raw.append({"condition": label, "noise": name, "perplexity": perplexity})
    settings = {"tokens": TOKENS, "calibration_tokens": CALIBRATION_TOKENS, "analog": ANALOG}
    return Result(rows=lines, settings=settings, seeds=SEEDS, raw=raw)
