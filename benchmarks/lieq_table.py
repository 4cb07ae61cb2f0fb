"""The rows and the table that benchmarks/lieq.py prints of one model's results."""

import statistics
from typing import Any

from benchmarks.harness import Value, mean_of, rows
from hardy.report import Row

RANK, DROP = "effective rank (LieQ v2)", "perplexity drop"
GREEDY = "greedy on calibration text"
NATS = "nats/token"


def show(name: str, result: dict[str, Any]) -> None:
    """The table of one model."""
    shown = ", ".join(f"{key} {value:.2f}" for key, value in result["perplexity"].items())
    print(f"\n{name}: {result['blocks']} blocks, perplexity {shown}")
    print("(a) Spearman correlation, mean (least..most over draws); the paper: above 0.8 with the perplexity drop")
    for target in ("perplexity drop", "harm of 2 bits in it alone", "saved by 4 bits in it alone", "depth"):
        print(f"  with {target}")
        for row in result["agreement"]:
            if target in row["pair"]:
                other = row["pair"][1 - row["pair"].index(target)]
                print(f"    {other:32} {row['mean']:6.2f}  ({row['least']:.2f}..{row['most']:.2f})")
    one = result["one_block"]
    gains = [row["gain"] for row in one["each"]]
    print("(b) nats per token that one block at 4 bits saves: " + " ".join(f"{gain:.3f}" for gain in gains))
    print(f"    best {max(gains):.3f}, random {one['random_mean_gain']:.3f}, worst {min(gains):.3f}; by draw:")
    for by, places in one["place_of_the_top"].items():
        scores = [draw[by] for draw in result["rankings"]]
        top, bottom = (statistics.mean(gains[s.index(end(s))] for s in scores) for end in (max, min))
        print(f"    {by:32} top {top:.3f} (places {places} of {result['blocks']}), bottom {bottom:.3f}")
    recovery = result["recovery"]
    chance = recovery["random_area"]
    print("(c) saved, mean over m = 1..L-1, nats per token")
    print(f"    {'random orders':32} {statistics.mean(chance):6.3f} ± {statistics.stdev(chance):.3f}")
    for by, value in sorted(recovery["area"].items(), key=lambda item: -item[1]):
        print(f"    {by:32} {value:6.3f}")
    print(f"    perplexity at m = {list(range(result['blocks'] + 1))}")
    for by in (RANK, DROP, GREEDY):
        print(f"    {by:32} " + " ".join(f"{row['perplexity']:6.1f}" for row in recovery["orders"][by]))
    print(
        f"    {'uniform, at most these bits':32} "
        + " ".join(f"{row['perplexity']:6.1f}" for row in recovery["uniform"])
    )
    print(f"    {'bits per weight':32} " + " ".join(f"{rate:6.2f}" for rate in recovery["bits_per_weight"]))
    planes = result["planes"]
    print(
        f"(d) m blocks in three planes and m in one, {planes['bits_per_weight']:.3f} bits; saved against two everywhere"
    )
    print("    uniform: " + ", ".join(f"{k} planes {row['perplexity']:.2f}" for k, row in planes["uniform"].items()))
    for by, points in planes["orders"].items():
        print(f"    {by:32} " + " ".join(f"{row['gain']:7.3f}±{row['gain_se']:.3f}" for row in points[1:]))
    print(
        f"    {'random orders':32} " + " ".join(f"{row['gain']:7.3f}±{row['sd']:.3f}" for row in planes["random"][1:])
    )
    for by, row in planes["automatic"].items():
        print(f"    by LayerBits, {by}: {row['planes']} {row['gain']:.4f} ± {row['gain_se']:.4f}")
    why = result["why"]
    print("why: by role, correlation of its effective-rank drop with the perplexity drop; and by block, energy of the")
    print("     mean input that it passes on relative to random weights, and that energy's share in the inputs")
    for role, rho in why["agreement_with_the_perplexity_drop"].items():
        passed, share = (
            " ".join(f"{value:5.2f}" for value in why[kind][role]) for kind in ("mean_passed", "mean_share")
        )
        print(f"    {role:14} {rho:6.2f}   {passed}   {share}")


def rows_of(found: dict[str, Any], draws: int, windows: int) -> list[Row]:
    """The figures of every part, as rows, of so many draws of calibration text and windows of evaluation text."""
    lines = [row for name, value in found["perplexity"].items() for row in rows(name, perplexity=value)]
    for pair in found["agreement"]:
        (first, second), least, most = pair["pair"], pair["least"], pair["most"]
        lines += rows(first, {"with": second, "least": least, "most": most}, spearman=Value(pair["mean"], n=draws))
    for by, places in found["one_block"]["place_of_the_top"].items():
        for draw, place in enumerate(places):
            lines += rows(by, {"draw": draw}, place_of_the_top=place)
    recovery, planes = found["recovery"], found["planes"]
    for by, area in recovery["area"].items():
        lines += rows(by, saved_over_all_m=Value(area, NATS))
    lines += rows("random orders", saved_over_all_m=mean_of(recovery["random_area"], NATS))
    for by, points in recovery["orders"].items():
        for m, point in enumerate(points):
            details = {"blocks_at_4_bits": m, "bits_per_weight": recovery["bits_per_weight"][m]}
            lines += rows(by, details, perplexity=point["perplexity"])
    for m, level in enumerate(recovery["uniform"]):
        lines += rows("uniform", {"blocks_at_4_bits": m, **level}, perplexity=level["perplexity"])
    for by, level in planes["automatic"].items():
        lines += rows(f"LayerBits, {by}", {"bits_per_weight": level["bits_per_weight"]}, perplexity=level["perplexity"],
                      saved_by_planes=Value(level["gain"], NATS, level["gain_se"], windows))  # fmt: skip
    return lines
