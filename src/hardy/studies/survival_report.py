"""Sentences, tables and plots of a survival study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hardy.core.ranking import Ranking
from hardy.core.roles import ROLES
from hardy.core.selection import Site
from hardy.report import Report, Row
from hardy.report.figures import HeatMap, Lines, Series
from hardy.runs.conditions import Condition, curve
from hardy.studies.measure import INTACT

AGREEMENT = "agreement of rankings (Spearman)"
KINDS = ("most fragile", "random", "least fragile")
Conditions = Mapping[str, Mapping[float, Condition]]


def build(
    *,
    settings: Mapping[str, Any],
    sites: Sequence[Site],
    rows: Mapping[str, Row],
    whole: Conditions,
    protection: Mapping[str, Conditions],
    rankings: Mapping[str, Ranking],
    failures: Sequence[Row],
    notes: Sequence[str],
) -> Report:
    """The report of a survival study.

    Args:
        settings: of the study.
        sites: the layers, in model order.
        rows: perplexity by name of the condition.
        whole: what was done to all layers: "rounding" by bits, "additive" and "proportional" by strength.
        protection: by locator, by kind of kept layers ("none" and `KINDS`), by their number.
        rankings: by locator; those that are not in `protection` were made without text.
        failures: how many cells of which condition failed.
        notes: what else there is to say.
    """
    measured = {by: rankings[by] for by in protection}
    return Report(
        title=f"How {settings['model']} survives few bits and noisy analog hardware",
        summary=(
            *_survival_sentences(rows, whole),
            *(
                sentence
                for by in protection
                for sentence in _protection_sentences(rows, protection[by], measured[by], sites)
            ),
        ),
        rows=(
            *rows.values(),
            *_agreements(rankings),
            *(row for by in measured for row in _scores(measured[by], sites)),
            *failures,
        ),
        figures=(
            _bits_figure(rows, whole),
            _noise_figure(rows, whole),
            *(heat_map(ranking, sites) for ranking in measured.values()),
            *(_protection_figure(rows, protection[by], measured[by]) for by in protection),
        ),
        settings=settings,
        notes=(
            "Layers were located on the calibration text; every perplexity here is of the evaluation text.",
            "Random layers are drawn with the same number and, as nearly as possible, the same number of weights.",
            *notes,
        ),
    )


def _survival_sentences(rows: Mapping[str, Row], whole: Conditions) -> list[str]:
    if INTACT not in rows:
        return []
    intact = rows[INTACT].value
    sentences = [f"Unmodified, the perplexity is {intact:.4g}."]
    few = [rows[c.name] for _, c in sorted(whole["rounding"].items(), reverse=True) if c.name in rows]
    if few:
        shown = ", ".join(
            f"{_times(row.value, intact)} at {row.condition} ({row.details['bits_per_weight']:.2f} true)" for row in few
        )
        sentences.append(f"Rounding all layers to the nearest costs {shown}.")
    for kind in ("additive", "proportional"):
        noisy = [(s, rows[c.name]) for s, c in sorted(whole[kind].items()) if c.name in rows]
        if noisy:
            shown = ", ".join(f"{_times(row.value, intact)} at {strength:g}" for strength, row in noisy)
            sentences.append(f"{kind.capitalize()} weight noise costs {shown} (mean over {noisy[0][1].n} chips).")
    return sentences


def _protection_sentences(
    rows: Mapping[str, Row], groups: Conditions, ranking: Ranking, sites: Sequence[Site]
) -> list[str]:
    names = {site.name: site.short_name for site in sites}
    first, second = ranking.top(2)
    sentences = [
        f"By {ranking.by}, {names[first]} breaks first (+{ranking.scores[first]:.3g} {ranking.unit}), then "
        f"{names[second]} (+{ranking.scores[second]:.3g})."
    ]
    k = max(groups["random"])
    picked = {kind: rows.get(groups[kind][k].name) for kind in KINDS}
    none = rows.get(groups["none"][0].name)
    top, control, bottom = (picked[kind] for kind in KINDS)
    if none and top and control and bottom:
        sentences.append(
            f"With {none.condition.removesuffix(', none kept')} everywhere the perplexity is {none.value:.4g}; keeping "
            f"the {k:g} most fragile of {len(sites)} layers gives {top.value:.4g}, {k:g} random ones of the same size "
            f"{control.value:.4g} (sd {control.spread or 0:.2g}, {control.n} draws), the {k:g} least fragile "
            f"{bottom.value:.4g}."
        )
    return sentences


def _times(value: float, intact: float) -> str:
    ratio = value / intact
    return f"x{ratio:.3g}" if ratio >= 2 else f"{100 * (ratio - 1):+.2g} %"


def _agreements(rankings: Mapping[str, Ranking]) -> list[Row]:
    """Spearman rank correlation of every pair of rankings."""
    names = list(rankings)
    rows = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            agreement = rankings[first].agreement(rankings[second])
            rows.append(
                Row(
                    metric=AGREEMENT,
                    condition=f"{first} and {second}",
                    value=agreement.spearman,
                    details={"layers": agreement.n, "p_value": agreement.p_value},
                )
            )
    return rows


def _scores(ranking: Ranking, sites: Sequence[Site]) -> list[Row]:
    names = {site.name: site.short_name for site in sites}
    return [
        Row(
            metric=ranking.meaning,
            condition=names[name],
            value=ranking.scores[name],
            unit=ranking.unit,
            baseline=INTACT,
            details={"place": place, "site": name},
        )
        for place, name in enumerate(ranking.order(), start=1)
    ]


def _series(
    label: str,
    rows: Mapping[str, Row],
    points: Mapping[float, Condition],
    style: Literal["line", "dashed"] = "line",
    x: str | None = None,
) -> Series:
    """One line through the rows of `points`, at their keys or at the detail called `x`."""
    found = [(key, rows[each.name]) for key, each in sorted(points.items()) if each.name in rows]
    return curve(label, [(float(row.details[x] or 0) if x else key, row) for key, row in found], style)


def _level(rows: Mapping[str, Row], condition: str, label: str, xs: Sequence[float]) -> Series:
    """A dashed level line from the first to the last of `xs`."""
    ends = (min(xs), max(xs)) if xs else (0.0, 1.0)
    value = rows[condition].value if condition in rows else float("nan")
    return Series(label=label, x=ends, y=(value, value), style="dashed")


def _bits_figure(rows: Mapping[str, Row], whole: Conditions) -> Lines:
    line = _series("round-to-nearest", rows, whole["rounding"], x="bits_per_weight")
    return Lines(
        title="Perplexity against bits",
        caption="All layers rounded to the nearest; bits per weight count scales and zero points.",
        x_label="true bits per weight",
        y_label="perplexity",
        series=(line, _level(rows, INTACT, INTACT, line.x)),
        log_y=True,
    )


def _noise_figure(rows: Mapping[str, Row], whole: Conditions) -> Lines:
    lines = (
        _series("additive, of channel absmax", rows, whole["additive"]),
        _series("proportional, of each weight", rows, whole["proportional"]),
    )
    return Lines(
        title="Perplexity against noise",
        caption="Programming noise on all layers: of the mean loss over chip instances, and its standard deviation.",
        x_label="noise strength",
        y_label="perplexity",
        series=(*lines, _level(rows, INTACT, INTACT, [x for line in lines for x in line.x])),
        log_x=True,
        log_y=True,
    )


def heat_map(ranking: Ranking, sites: Sequence[Site], title: str | None = None) -> HeatMap:
    """Layers, stack by stack, by projections, expert by expert; without a role, by the last part of the name.

    What still falls into one cell is told apart by its name in the layer, so that no score hides another.
    """
    order = {role: place for place, role in enumerate(ROLES)}
    inside = [site for site in sites if site.layer is not None]
    cells = Counter((site.layer_name, site.part_name) for site in inside)
    shared = {part for (_, part), count in cells.items() if count > 1}
    of = {s.name: (s.layer_name, _name_in_layer(s) if s.part_name in shared else s.part_name) for s in inside}
    by_column = sorted(inside, key=lambda s: (order.get(s.role or "", len(order)), s.role or s.name, s.expert or 0))
    columns = list(dict.fromkeys(of[site.name][1] for site in by_column))
    layers = list(dict.fromkeys(site.layer_name for site in inside))
    scores = {of[name]: score for name, score in ranking.scores.items() if name in of}
    return HeatMap(
        title=title or f"Fragility by {ranking.by}",
        caption=f"{ranking.meaning.capitalize()}.",
        rows=tuple(layers),
        columns=tuple(columns),
        values=tuple(tuple(scores.get((layer, column)) for column in columns) for layer in layers),
        unit=ranking.unit,
    )


def _name_in_layer(site: Site) -> str:
    return site.name.partition(f"{site.layer}.")[2] or site.name


def _protection_figure(rows: Mapping[str, Row], groups: Conditions, ranking: Ranking) -> Lines:
    everywhere = groups["none"][0]
    styles: dict[str, Literal["line", "dashed"]] = {"most fragile": "line", "random": "dashed", "least fragile": "line"}
    damage = everywhere.name.removesuffix(", none kept")
    return Lines(
        title=f"What protection buys: {damage}",
        caption=f"All layers have {damage} but for the kept ones, chosen by {ranking.by}. Random layers, the control, "
        "have the same number and size; mean and standard deviation over draws.",
        x_label="layers kept intact",
        y_label="perplexity",
        series=tuple(_series(kind, rows, {0: everywhere, **groups[kind]}, styles[kind]) for kind in KINDS),
        log_y=True,
    )
