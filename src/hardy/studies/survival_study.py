"""How a language model survives few bits and noisy analog hardware, where it breaks first, and what protection buys.

The main job of hardy. Layers are located on one part of the text and protection is judged on the other, against
random layers of the same number and size, so that nothing is chosen on the figures that are reported.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardy import checks
from hardy.core import selection
from hardy.core.method import Method, WeightMethod
from hardy.core.ranking import Ranking
from hardy.core.rng import derive
from hardy.core.selection import LINEAR, Selector
from hardy.core.surgery import weight_of
from hardy.core.units import units
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.noise import AdditiveNoise, ProportionalNoise
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.report import Report, Row
from hardy.runs.conditions import Condition, Results
from hardy.runs.workers import Backend
from hardy.studies import fragility, survival_report
from hardy.studies.measure import condition, dense, perplexity_row, study_of, unmodified
from hardy.studies.repair_study import check_repair, checked
from hardy.studies.repair_study import repairs as repaired
from hardy.zoo.subject import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a survival study measures; the defaults are those of `hardy study`.

    Args:
        bits: of round-to-nearest on all layers.
        additive: noise strengths, relative to each output channel's absmax.
        proportional: noise strengths, relative to each weight.
        n_seeds: chip instances per noise strength, and random draws per control.
        group_size: weights that share a scale.
        break_bits: one layer at a time, then all but the protected ones, at so many bits.
        break_noise: the same with additive noise of this strength.
        keep: shares of the layers that are protected.
        select: the layers, as in `hardy.core.selection.select`.
    """

    bits: tuple[int, ...] = (8, 4, 3, 2)
    additive: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)
    proportional: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    n_seeds: int = 5
    group_size: int | None = 128
    break_bits: int = 2
    break_noise: float = 0.05
    keep: tuple[float, ...] = (0.05, 0.1, 0.25)
    select: Selector = LINEAR

    def __post_init__(self) -> None:
        checks.integer("n_seeds", self.n_seeds, at_least=1)
        bad = [share for share in self.keep if not 0 < share < 1]
        if bad or not self.keep:
            raise InputError(f"keep must hold shares of the layers between 0 and 1, got {bad[0] if bad else 'none'}")
        # Building the methods checks bits, strengths and group size before anything long begins.
        self.whole_model()
        self.breaking("rtn", self.select)
        self.breaking("noise", self.select)

    def whole_model(self) -> dict[str, dict[float, Condition]]:
        """What is done to all layers at once: "rounding" by bits, "additive" and "proportional" by strength."""
        chips = range(self.n_seeds)
        return {
            "rounding": {
                bits: condition(
                    f"{bits}-bit", RoundToNearest(bits=bits, group_size=self.group_size, select=self.select)
                )
                for bits in self.bits
            },
            "additive": {
                strength: condition(
                    f"additive noise {strength:g}", AdditiveNoise(strength=strength, select=self.select), chips
                )
                for strength in self.additive
            },
            "proportional": {
                strength: condition(
                    f"proportional noise {strength:g}", ProportionalNoise(strength=strength, select=self.select), chips
                )
                for strength in self.proportional
            },
        }

    def breaking(self, by: str, select: Selector) -> WeightMethod:
        """The damage that locator `by` does to `select`."""
        return fragility.breaking(by, self.break_bits, self.break_noise, self.group_size, select)

    def counts(self, layers: int) -> list[int]:
        """How many of `layers` are protected, for each share: at least one, never all."""
        return sorted({min(layers - 1, max(1, round(share * layers))) for share in self.keep})


def survival(
    model: Source = "tiny-llama",
    *,
    text: str | None = None,
    out: str | Path = "hardy-study",
    plan: Plan | None = None,
    repairs: Sequence[str] = (),
    chip: str | Chip = "reram-wan",
    tokens: int | None = None,
    window: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Report:
    """Measure `model` under every condition of `plan`, locate its fragile layers, protect them, and report.

    Finished cells are kept in `out`; the same call goes on where an interrupted one stopped.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes: a name, folder, file or hub id, or (model, tokenizer).
        text: a UTF-8 file; its first half serves to locate, its second to report. By default held-out
            standard-library modules, some for each purpose.
        out: folder of the study and of report.json, report.md and report.html.
        plan: the conditions.
        repairs: those that a table sets against extra hardware, each in a study of its own below `out`, on as many
            chip instances as `plan` has seeds; as `hardy.studies.repairs` takes them.
        chip: of the repairs.
        tokens, window, device, dtype: as in `hardy.zoo.Subject.of`.
        backend, workers: where the cells run, as in `Study.results`.

    Raises:
        InputError: any of these cannot be used, or `out` belongs to a different study.
    """
    plan = plan or Plan()
    chip = Chip.named(chip) if isinstance(chip, str) else chip
    subject = dense(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    study = study_of(subject, "survival", out=out, plan=_plain(plan))
    sites = selection.select(subject.model, plan.select)
    if len(sites) < 4:
        raise InputError(
            f"{subject.name} has {len(sites)} layers to choose from; protecting some of them takes at least 4"
        )
    sizes = {site.name: weight_of(subject.model, site).numel() for site in sites}
    wanted = checked(subject.model, repairs)
    for name in wanted:
        check_repair(subject.model, name, chip)
    run: dict[str, Any] = {"backend": backend, "workers": workers}

    damages = {by: fragility.describe(by, plan.break_bits, plan.break_noise) for by in ("rtn", "noise")}
    chips = range(min(plan.n_seeds, 2))  # one layer's noise averages out over the whole ranking
    alone = units(sites, "projection")
    for by in damages:
        fragility.check_rankable(subject.model, alone, plan.breaking(by, plan.select), by)
    located = {by: fragility.conditions(alone, plan.breaking(by, plan.select), chips) for by in damages}
    whole = plan.whole_model()
    conditions = [unmodified(), *(each for group in whole.values() for each in group.values())]
    results = study.results(
        [*conditions, *located["rtn"], *located["noise"]], **run, title="few bits, noise, one layer at a time"
    )
    rankings = {by: fragility.ranking(results, located[by], by, "this layer", damages[by]) for by in damages}
    protection = {by: _protection(plan, by, damage, rankings[by], sizes) for by, damage in damages.items()}
    conditions += [c for groups in protection.values() for group in groups.values() for c in group.values()]
    results += study.results(conditions, **run, title="protect")
    rankings["weight-error"] = fragility.weight_error(subject.model, alone, plan.breaking("rtn", plan.select))
    report = survival_report.build(
        settings=study.settings,
        sites=sites,
        rows={c.name: row for c in conditions if (row := _row(c, results))},
        whole=whole,
        protection=protection,
        rankings=rankings,
        failures=results.failures(),
        notes=(*subject.notes, *results.notes()),
    )
    if wanted:
        more = repaired(subject, wanted, out=Path(out) / "repairs", chip=chip, n_seeds=plan.n_seeds, **run)
        report = dataclasses.replace(
            report,
            rows=(*report.rows, *more.rows),
            figures=(*report.figures, *more.figures),
            settings=dict(report.settings) | {"repairs": dict(more.settings)},
            notes=tuple(dict.fromkeys((*report.notes, *more.notes))),
        )
    report.save(out)
    return report


def _row(condition: Condition, results: Results) -> Row | None:
    """The perplexity under a condition; layers that are kept count 16 bits per weight."""
    row = perplexity_row(condition, results)
    if row is None or (kept := condition.details.get("share_kept")) is None:
        return row
    facts: dict[str, Any] = dict(row.details)
    facts.pop("relative_error", None)  # of the damaged layers only: it says nothing about protection
    if "bits_per_weight" in facts:
        facts["bits_per_weight"] = (1 - kept) * facts["bits_per_weight"] + 16 * kept
    return dataclasses.replace(row, details=facts)


def _protection(
    plan: Plan, by: str, damage: str, ranking: Ranking, sizes: Mapping[str, int]
) -> dict[str, dict[float, Condition]]:
    """Damage everywhere but in the k most fragile, the k least fragile, or k random layers; by kind, then by k."""
    chips = range(plan.n_seeds) if by == "noise" else (0,)
    everywhere = f"{damage}, none kept"
    groups: dict[str, dict[float, Condition]] = {kind: {} for kind in ("none", *survival_report.KINDS)}
    groups["none"][0] = condition(everywhere, plan.breaking(by, tuple(sizes)), chips)

    def keeping(names: Sequence[str]) -> Method:
        return plan.breaking(by, tuple(name for name in sizes if name not in names))

    def kept(names: Sequence[str]) -> float:
        return sum(sizes[name] for name in names) / sum(sizes.values())

    for k in plan.counts(len(sizes)):
        top, bottom = ranking.top(k), ranking.bottom(k)
        budget = sum(sizes[name] for name in top)
        draws = [equal_budget_sample(sizes, k, budget, seed=derive(i, "control", by, k)) for i in range(plan.n_seeds)]
        control = f"{damage}, {k} random kept"
        groups["most fragile"][k] = condition(
            f"{damage}, {k} most fragile kept", keeping(top), chips, baseline=control, share_kept=kept(top)
        )
        groups["least fragile"][k] = condition(
            f"{damage}, {k} least fragile kept", keeping(bottom), chips, baseline=control, share_kept=kept(bottom)
        )
        random_cells = [condition(control, keeping(names), [i]).cells[0] for i, names in enumerate(draws)]
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
