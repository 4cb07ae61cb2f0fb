"""HPD's regimes on tiny-mamba: how noise is scaled, how strong it is, and what of the model is on the chip.

    python -m benchmarks run hpd_regimes

Output projections alone are on noisy arrays, the last of them or all, as in the paper's system; everything else is
digital. (hpd.py has the same with every projection on the chip.) Each of them as it is; split by its singular vectors,
with scaled columns (ours) and with plain ones (the paper's); the control at equal cost, as many digital multiplications
with a random rotation of the same inputs; and a Hadamard matrix, which takes additions alone, both with scaled columns.
Ten chip instances, evaluation text; mean loss with its deviation, and the median of perplexity, because at strong noise
its mean is its worst instance. Beside each split what the law says of its error (`expected_error`, inputs of the
calibration text).
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

import hardy
from benchmarks.harness import Result, mean_of, rows
from hardy.analog import Deploy, HybridProjection
from hardy.analog.hybrid_projection import Noise, expected_error
from hardy.core import Change, select
from hardy.evaluate import mean_loss
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise
from hardy.hooks.statistics import SecondMoment, observe

SEEDS = range(10)
NOISES: dict[str, tuple[Noise | None, dict[float, Chip]]] = {
    "relative to the tensor's largest weight": (
        "tensor",
        {s: Chip.with_noise(AdditiveNoise(strength=s, relative_to="tensor-absmax")) for s in (0.1, 0.3, 1.0)},
    ),
    "relative to each output's largest weight": (
        "output", {s: Chip.with_noise(AdditiveNoise(strength=s)) for s in (0.1, 0.3)},
    ),
    "proportional": ("proportional", {s: Chip.with_noise(ProportionalNoise(strength=s)) for s in (0.3, 1.0)}),
    "ReRAM (Wan et al.)": (None, {1.0: Chip.preset("reram-wan").without_periphery()}),
}  # fmt: skip
PLACEMENTS: dict[str, Any] = {"the last output projection": "last", "all output projections": None}
SPLITS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "singular vectors, scaled columns": {"basis": "singular"},
    "singular vectors, plain columns": {"basis": "singular", "columns": "plain"},
    "random rotation": {"basis": "random"},
    "Hadamard matrix": {"basis": "hadamard"},
}


def split(model: Any, name: str, layers: Any) -> Change | None:
    """Change the output projections of `layers`; None where they stay as they are."""
    return HybridProjection(layers=layers, **SPLITS[name]).apply(model) if SPLITS[name] else None


def of_law(model: Any, layers: Any, noise: Noise | None, moments: dict[str, torch.Tensor]) -> dict[str, float]:
    """By split: the error at the output that the law expects of it, over that of the layer as it is, a mean in logs."""
    if noise is None:
        return {}
    sites = select(model, "ssm.out", layers=layers)
    plain = {site.name: expected_error(weight_of(model, site.name), moments[site.name], noise) for site in sites}
    found = {}
    for name in [*SPLITS][1:]:
        change, ratios = split(model, name, layers), []
        for site in sites:
            layer = model.get_submodule(site.name)
            turned = layer.gain[:, None] * layer.rotation
            seen = turned @ moments[site.name] @ turned.mT
            ratios.append(math.sqrt(expected_error(layer.array.weight.detach(), seen, noise) / plain[site.name]))
        found[name] = statistics.geometric_mean(ratios)
        assert change is not None
        change.undo()
    return found


def weight_of(model: Any, name: str) -> torch.Tensor:
    return model.get_submodule(name).weight.detach()


def losses(model: Any, batches: Sequence[torch.Tensor], chip: Chip, layers: Any, name: str) -> list[float]:
    change = split(model, name, layers)
    values = []
    for seed in SEEDS:
        with torch.inference_mode(), Deploy(chip=chip, seed=seed, select="ssm.out", layers=layers).apply(model):
            values.append(mean_loss(model, batches).item())
    if change is not None:
        change.undo()
    return values


def run(*, tokens: int = 1024) -> Result:
    model, tokenizer = hardy.zoo.load("tiny-mamba")
    evaluation, calibration = (
        hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(part), window=256, tokens=tokens)
        for part in ("evaluation", "calibration")
    )
    outputs = [site.name for site in select(model, "ssm.out")]
    seen = observe(model, calibration, tuple(outputs), [SecondMoment])
    moments = {name: moment.value.float() for name, (moment,) in seen.items()}  # times the tokens: ratios are the same
    with torch.inference_mode():
        intact = mean_loss(model, evaluation).item()
    found = rows("unmodified", loss=intact, perplexity=math.exp(intact))
    raw = []
    for placement, layers in PLACEMENTS.items():
        for noise, (kind, chips) in NOISES.items():
            expected = of_law(model, layers, kind, moments)
            for strength, chip in chips.items():
                details = {"placement": placement, "noise": noise, "strength": strength}
                for name in SPLITS:
                    values = losses(model, evaluation, chip, layers, name)
                    median = math.exp(statistics.median(values))
                    lost = mean_of([value - intact for value in values], "nats/token")
                    found += rows(
                        name, details, seeds=SEEDS, baseline="as it is", loss=mean_of(values, "nats/token"), lost=lost,
                        perplexity=median, expected_error=expected.get(name),
                    )  # fmt: skip
                    raw.append({"condition": name, **details, "loss": values})
                    print(f"{placement}; {noise} {strength}: {name}: {median:.1f}, lost {lost.value:.3f}", flush=True)
    settings = {"tokens": tokens, "perplexity": "median over chip instances", "loss": "mean ± standard deviation"}
    return Result(rows=found, settings=settings, seeds=SEEDS, raw=raw)
