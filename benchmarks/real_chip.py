"""Published language models on a chip: perplexity over instances and time, what breaks first, and where copies pay.

simulate: what `hardy simulate` says of the model on measured ReRAM cells with 8-bit converters, now and after a day.
study: what `hardy study` says of the matrices that write to the residual stream.
sensitivity: the loss when one block alone is noisy, or one kind of projection in all blocks. Chip instances are drawn
    until the mean is three standard errors from zero, or there are twelve; the rest is said to be undecided.
redundancy: three copies of a third of the layers, shallow, middle or deep, at equal arrays, beside a random third and
    no copies; the same chip instances for all, so that differences are paired.

Losses in nats per token, means and standard deviations over chip instances; perplexity is that of the mean loss.
Text: held-out modules of the standard library.

    python -m benchmarks run real_chip-simulate-smollm2      (or -study-, -sensitivity-, -redundancy-; or -gemma3)
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Value, mean_of, real_models, rows
from hardy.analog import Deploy, Redundancy
from hardy.core import LINEAR, Method, chain, select
from hardy.core.units import exactly, units
from hardy.files import read_json, write_json
from hardy.hardware import AdditiveNoise, Chip, ProportionalNoise
from hardy.report import Report, Row
from hardy.studies import Plan, simulate, survival
from hardy.studies.measure import loss_on
from hardy.zoo import Subject

CELLS = Chip.preset("reram-wan").without_periphery()
NOISES: dict[str, Callable[[int, Any], Method]] = {
    "proportional 0.2": lambda seed, where: ProportionalNoise(strength=0.2, seed=seed, select=where),
    "ReRAM (Wan et al.)": lambda seed, where: Deploy(chip=CELLS, seed=seed, select=where),
}
ADDITIVE = "additive, 5 % of each output's largest weight"
CERTAIN, LEAST, MOST = 3.0, 4, 12


class Kept:
    """Losses measured once each, kept in a folder."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder

    def loss(self, name: str, method: Method | None) -> float:
        file = self.folder / f"{name}.json".replace(" ", "_").replace("/", "_")
        if file.is_file():
            return read_json(file)
        model, windows = self.subject.model, self.subject.windows["evaluation"]
        if method is None:
            value = loss_on(model, windows)
        else:
            with method.apply(model, stored=False):
                value = loss_on(model, windows)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, value)
        return value


def sensitivity(kept: Kept) -> tuple[list[Row], list[Any]]:
    model, intact = kept.subject.model, kept.loss("unmodified", None)
    found, raw = rows("unmodified", loss=intact), []
    for unit in ("block", "role"):
        decided = 0
        parts = units(select(model, LINEAR), unit)
        for name, sites in parts.items():
            where, values = tuple(exactly(site) for site in sites), []
            for seed in range(MOST):
                method = AdditiveNoise(strength=0.05, seed=seed, select=where)
                values.append(kept.loss(f"{name} {seed}", method) - intact)
                if seed + 1 >= LEAST and _is_certain(values):
                    break
            lost = mean_of(values, "nats/token")
            details = {"unit": unit, "noise": ADDITIVE, "certain": _is_certain(values)}
            found += rows(name, details, seeds=range(len(values)), baseline="unmodified", lost=lost)
            raw.append({"unit": unit, "part": name, "lost": values})
            decided += _is_certain(values)
            print(f"{unit} {name}: {lost.value:+.4f} ± {lost.spread:.4f}, {lost.n} instances", flush=True)
        found += rows(f"all {unit}s", {"unit": unit}, certain_sign=Value(decided / len(parts), n=len(parts)))
    return found, raw


def _is_certain(values: Sequence[float]) -> bool:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return abs(statistics.fmean(values)) >= CERTAIN * error


def redundancy(kept: Kept, seeds: int) -> tuple[list[Row], list[Any]]:
    model, intact = kept.subject.model, kept.loss("unmodified", None)
    count = model.config.get_text_config().num_hidden_layers
    third = count // 3
    places: dict[str, tuple[int, ...]] = {
        "no copies": (),
        "shallow": tuple(range(third)),
        "middle": tuple(range((count - third) // 2, (count - third) // 2 + third)),
        "deep": tuple(range(count - third, count)),
        "random": tuple(sorted(random.Random(0).sample(range(count), third))),
    }
    found, raw = rows("unmodified", loss=intact, perplexity=math.exp(intact)), []
    for noise, make in NOISES.items():
        of_place: dict[str, list[float]] = {}
        for place, layers in places.items():
            values = []
            for seed in range(seeds):
                method = make(seed, LINEAR)
                if layers:
                    method = chain(Redundancy(copies=3, layers=layers), method)
                values.append(kept.loss(f"{noise} {place} {seed}", method))
            of_place[place] = values
            gained = [a - b for a, b in zip(of_place["no copies"], values, strict=True)]
            mean = mean_of(values, "nats/token")
            details = {"noise": noise, "extra_layers": 2 * len(layers)}
            found += rows(
                place, details, seeds=range(seeds), baseline="no copies", loss=mean, perplexity=math.exp(mean.value),
                gained=mean_of(gained, "nats/token") if layers else None,
                gained_error=_error(gained) if layers else None,
            )  # fmt: skip
            raw.append({"condition": place, "noise": noise, "layers": layers, "loss": values})
            print(f"{noise}; {place}: {mean.value:.4f} ± {mean.spread or 0:.4f}", flush=True)
    return found, raw


def _error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def of_report(report: Report, folder: str, model: str, size: dict[str, Any], seeds: Sequence[int]) -> Result:
    """What a study found, without the place that the model was in."""
    notes = [note.replace(folder, model) for note in report.notes]
    settings = {**size, "summary": list(report.summary), "perplexity": "of the mean loss"}
    return Result(rows=report.rows, settings=settings, seeds=seeds, notes=notes)


def run(
    *, part: str = "simulate", model: str = "smollm2-135m", models: str = "", tokens: int = 512, seeds: int = 10,
    work: Path,
) -> Result:  # fmt: skip
    folder = str(real_models(models)[model])
    size: dict[str, Any] = {"tokens": tokens, "window": 256}
    if part == "simulate":
        report = simulate(folder, chip="reram-wan", times=("0", "1d"), n_seeds=seeds, out=work, workers=1, **size)
        report.print(metrics=("perplexity", "loss"))
        return of_report(report, folder, model, size, range(seeds))
    if part == "study":
        instances = min(seeds, 3)
        plan = Plan(
            bits=(8, 4, 3, 2), additive=(0.02, 0.05), proportional=(0.1, 0.2), n_seeds=instances,
            keep=(0.05, 0.1, 0.25), select="attention.o,mlp.down",
        )  # fmt: skip
        report = survival(folder, out=work, plan=plan, workers=1, **size)
        report.print(metrics=("perplexity",))
        return of_report(report, folder, model, size, range(instances))
    kept = Kept(Subject.of(folder, **size), work)
    found, raw = sensitivity(kept) if part == "sensitivity" else redundancy(kept, seeds)
    settings = {"tokens": tokens, "loss": "mean ± standard deviation", "perplexity": "of the mean loss"}
    used = MOST if part == "sensitivity" else seeds
    return Result(rows=found, settings=settings, seeds=range(used), raw=raw)
