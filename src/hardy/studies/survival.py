"""How a language model survives few bits and noisy analog hardware, where it breaks first, and what protection buys.

The main job of hardy. Layers are located on one part of the text and protection is judged on the other, against
random layers of the same number and size, so that nothing is chosen on the figures that are reported.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardy.core import selection
from hardy.core.method import Method
from hardy.core.ranking import Ranking
from hardy.core.rng import derive
from hardy.core.selection import LINEAR, Selector
from hardy.core.study import Backend, Cell, Result, Study
from hardy.core.surgery import weight_of
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.noise import AdditiveNoise, ProportionalNoise
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.report import Report, Row
from hardy.studies import fragility, survival_report
from hardy.studies.measure import INTACT, load_dense, measure, perplexity_of, settings_for
from hardy.studies.repair import checked
from hardy.studies.repair import repairs as repaired


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """A named state of the model: the cells that measure it, and the condition it is judged against.

    `details` are facts for the row; with "share_kept" that share of the weights counts 16 bits each.
    """

    name: str
    cells: tuple[Cell, ...]
    baseline: str | None = None
    details: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def row(self, results: Sequence[Result]) -> Row | None:
        """Perplexity, mean and sample standard deviation over the cells that did not fail; None if all did."""
        values = [result.values for result in results if result.values]
        if not values:
            return None
        perplexities = [perplexity_of(value["loss"]) for value in values]
        names = {name: None for value in values for name in value if name != "loss"}
        facts = {name: statistics.fmean(value.get(name, 0.0) for value in values) for name in names}
        if (kept := self.details.get("share_kept")) is not None:
            facts.pop("relative_error", None)  # of the damaged layers only: it says nothing about protection
            if "bits_per_weight" in facts:
                facts["bits_per_weight"] = (1 - kept) * facts["bits_per_weight"] + 16 * kept
        return Row(
            metric="perplexity",
            condition=self.name,
            value=statistics.fmean(perplexities),
            spread=statistics.stdev(perplexities) if len(values) > 1 and max(perplexities) < math.inf else None,
            n=len(perplexities),
            seeds=tuple(result.cell.seed for result in results if result.values),
            baseline=self.baseline,
            details=facts | dict(self.details),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a survival study measures; the defaults are those of `hardy study`.

    Args:
        bits: of round-to-nearest on all layers.
        additive: noise strengths, relative to each output channel's absmax.
        proportional: noise strengths, relative to each weight.
        seeds: chip instances per noise strength, and random draws per control.
        group_size: weights that share a scale.
        break_bits: one layer at a time, then all but the protected ones, at so many bits.
        break_noise: the same with additive noise of this strength.
        keep: shares of the layers that are protected.
        select: the layers, as in `hardy.core.selection.select`.
    """

    bits: tuple[int, ...] = (8, 4, 3, 2)
    additive: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)
    proportional: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    seeds: int = 5
    group_size: int | None = 128
    break_bits: int = 2
    break_noise: float = 0.05
    keep: tuple[float, ...] = (0.05, 0.1, 0.25)
    select: Selector = LINEAR

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")
        bad = [share for share in self.keep if not 0 < share < 1]
        if bad or not self.keep:
            raise InputError(f"keep must hold shares of the layers between 0 and 1, got {bad[0] if bad else 'none'}")
        # Building the methods checks bits, strengths and group size before anything long begins.
        self.whole_model()
        self.breaking("rtn", self.select)
        self.breaking("noise", self.select)

    def whole_model(self) -> dict[str, dict[float, Condition]]:
        """What is done to all layers at once: "rounding" by bits, "additive" and "proportional" by strength."""
        chips = range(self.seeds)
        return {
            "rounding": {
                bits: _condition(
                    f"{bits}-bit", RoundToNearest(bits=bits, group_size=self.group_size, select=self.select)
                )
                for bits in self.bits
            },
            "additive": {
                strength: _condition(
                    f"additive noise {strength:g}", AdditiveNoise(strength=strength, select=self.select), chips
                )
                for strength in self.additive
            },
            "proportional": {
                strength: _condition(
                    f"proportional noise {strength:g}", ProportionalNoise(strength=strength, select=self.select), chips
                )
                for strength in self.proportional
            },
        }

    def breaking(self, by: str, select: Selector) -> Method:
        """The damage that locator `by` does to `select`."""
        return fragility.breaking(by, self.break_bits, self.break_noise, self.group_size, select)

    def counts(self, layers: int) -> list[int]:
        """How many of `layers` are protected, for each share: at least one, never all."""
        return sorted({min(layers - 1, max(1, round(share * layers))) for share in self.keep})


def survival(
    model: str = "tiny-llama",
    *,
    text: str | None = None,
    out: str | Path = "hardy-study",
    plan: Plan | None = None,
    repairs: Sequence[str] = (),
    chip: str | Chip = "reram-wan",
    tokens: int = 3072,
    window: int | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Report:
    """Measure `model` under every condition of `plan`, locate its fragile layers, protect them, and report.

    Finished cells are kept in `out`; the same call goes on where an interrupted one stopped.

    Args:
        model: a zoo name, a Hugging Face folder or a hub id.
        text: a UTF-8 file; its first half serves to locate, its second to report. By default held-out
            standard-library modules, some for each purpose.
        out: folder of the study and of report.json, report.md and report.html.
        plan: the conditions.
        repairs: those that a table sets against extra hardware, each in a study of its own below `out`, on as many
            chip instances as `plan` has seeds; as `hardy.studies.repairs` takes them.
        chip: of the repairs.
        tokens: text per measurement.
        window: tokens the model sees at once; by default its context, at most 512.
        backend, workers: where the cells run, as in `Study.results`.

    Raises:
        InputError: any of these cannot be used, or `out` belongs to a different study.
    """
    plan = plan or Plan()
    settings = settings_for(model, text, tokens, window)
    loaded, _ = load_dense(model)
    sites = selection.select(loaded, plan.select)
    if len(sites) < 4:
        raise InputError(f"{model} has {len(sites)} layers to choose from; protecting some of them takes at least 4")
    sizes = {site.name: weight_of(loaded, site).numel() for site in sites}
    wanted = checked(loaded, repairs)
    study = Study(name="survival", run=measure, settings=settings | {"plan": _plain(plan)}, out=Path(out))
    run: dict[str, Any] = {"backend": backend, "workers": workers}

    broken = {"bits": plan.break_bits, "strength": plan.break_noise}
    chips = range(min(plan.seeds, 2))  # one layer's noise averages out over the whole ranking
    located = {
        by: fragility.cells(sites, by, **broken, group_size=plan.group_size, seeds=chips) for by in ("rtn", "noise")
    }
    intact = Condition(name=INTACT, cells=(Cell(condition=INTACT, arguments={"part": "evaluation", "method": None}),))
    whole = plan.whole_model()
    conditions = [intact, *(condition for group in whole.values() for condition in group.values())]
    results = study.results(
        [*_cells(conditions), *located["rtn"], *located["noise"]], **run, title="few bits, noise, one layer at a time"
    )
    found = {result.cell.key: result for result in results}
    rankings = {by: fragility.ranking([found[cell.key] for cell in grid], by, **broken) for by, grid in located.items()}

    protection = {by: _protection(plan, by, fragility.describe(by, **broken), rankings[by], sizes) for by in located}
    conditions += [c for groups in protection.values() for group in groups.values() for c in group.values()]
    results += study.results(_cells(conditions), **run, title="protect")
    found |= {result.cell.key: result for result in results}
    rankings["weight-error"] = fragility.weight_error(loaded, sites, bits=plan.break_bits, group_size=plan.group_size)

    report = survival_report.build(
        settings=study.settings,
        sites=sites,
        rows={c.name: row for c in conditions if (row := c.row([found[cell.key] for cell in c.cells]))},
        whole=whole,
        protection=protection,
        rankings=rankings,
        failures=[result for result in found.values() if result.error],
    )
    if wanted:
        more = repaired(
            model, wanted, out=Path(out) / "repairs", chip=chip, seeds=plan.seeds, text=text, tokens=tokens,
            window=window, **run,
        )  # fmt: skip
        report = dataclasses.replace(
            report,
            rows=(*report.rows, *more.rows),
            figures=(*report.figures, *more.figures),
            settings=dict(report.settings) | {"repairs": dict(more.settings)},
            notes=(*report.notes, *more.notes),
        )
    report.save(out)
    return report


def _cells(conditions: Sequence[Condition]) -> list[Cell]:
    return [cell for condition in conditions for cell in condition.cells]


def _condition(
    name: str, method: Method, seeds: Sequence[int] = (0,), *, baseline: str = INTACT, **details: Any
) -> Condition:
    arguments = {"part": "evaluation", "method": method.to_dict()}
    cells = tuple(Cell(condition=name, arguments=arguments, seed=seed) for seed in seeds)
    return Condition(name=name, cells=cells, baseline=baseline, details=details)


def _protection(
    plan: Plan, by: str, damage: str, ranking: Ranking, sizes: Mapping[str, int]
) -> dict[str, dict[float, Condition]]:
    """Damage everywhere but in the k most fragile, the k least fragile, or k random layers; by kind, then by k."""
    chips = range(plan.seeds) if by == "noise" else (0,)
    everywhere = f"{damage}, none kept"
    groups: dict[str, dict[float, Condition]] = {kind: {} for kind in ("none", *survival_report.KINDS)}
    groups["none"][0] = _condition(everywhere, plan.breaking(by, tuple(sizes)), chips)

    def keeping(names: Sequence[str]) -> Method:
        return plan.breaking(by, tuple(name for name in sizes if name not in names))

    def kept(names: Sequence[str]) -> float:
        return sum(sizes[name] for name in names) / sum(sizes.values())

    for k in plan.counts(len(sizes)):
        top, bottom = ranking.top(k), ranking.bottom(k)
        budget = sum(sizes[name] for name in top)
        draws = [equal_budget_sample(sizes, k, budget, seed=derive(i, "control", by, k)) for i in range(plan.seeds)]
        control = f"{damage}, {k} random kept"
        groups["most fragile"][k] = _condition(
            f"{damage}, {k} most fragile kept", keeping(top), chips, baseline=control, share_kept=kept(top)
        )
        groups["least fragile"][k] = _condition(
            f"{damage}, {k} least fragile kept", keeping(bottom), chips, baseline=control, share_kept=kept(bottom)
        )
        random_cells = [_condition(control, keeping(names), [i]).cells[0] for i, names in enumerate(draws)]
        groups["random"][k] = Condition(
            name=control,
            cells=tuple(random_cells),
            baseline=everywhere,
            details={"share_kept": sum(map(kept, draws)) / len(draws)},
        )
    return groups


def equal_budget_sample(sizes: Mapping[str, int], k: int, budget: int, seed: int, tries: int = 1000) -> list[str]:
    """`k` random names whose sizes add up to `budget`, or as near to it as `tries` draws come.

    A control of equal number but smaller layers would flatter whatever it is compared with.
    """
    source = random.Random(seed)
    names = list(sizes)
    best: list[str] = []
    for _ in range(tries):
        drawn = source.sample(names, k)
        distance = abs(sum(sizes[name] for name in drawn) - budget)
        if not best or distance < abs(sum(sizes[name] for name in best) - budget):
            best = drawn
        if distance == 0:
            break
    return best


def _plain(plan: Plan) -> dict[str, Any]:
    values = dataclasses.asdict(plan)
    if not isinstance(plan.select, str):
        raise InputError("a stored study takes its layers as a string: a role, glob or re: pattern")
    return values
