"""Write the README's measured figures and plots from the committed results; a test says when they drift.

python benchmarks/readme.py
"""

import json
import re
from pathlib import Path
from typing import Any

from hardy.files import write_text
from hardy.report import Report
from hardy.report.figures import Lines, Series, save_png
from hardy.zoo import card

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
PLOTS = ("bits", "noise", "fragility-rtn", "fragility-noise", "protection-rtn", "protection-noise")


def block(name: str, text: str) -> str:
    """`text` between the markers that `written` looks for."""
    return f"<!-- generated: {name} -->\n{text}\n<!-- end: {name} -->"


def survival_block() -> str:
    """The table and sentences of the survival study."""
    result = json.loads((ROOT / "benchmarks" / "results" / "survival.json").read_text(encoding="utf-8"))
    report = Report.from_json(result["report"])
    lines = ["| condition | true bits per weight | perplexity | sd | n |", "|---|---:|---:|---:|---:|"]
    for row in report.select("perplexity"):
        bits = row.details.get("bits_per_weight")
        shown = "" if bits is None else f"{bits:.2f}"
        spread = "" if row.spread is None else f"{row.spread:.2g}"
        lines.append(f"| {row.condition} | {shown} | {row.value:.4g} | {spread} | {row.n} |")
    machine, versions = result["machine"], result["versions"]
    where = f"{machine['cores']} cores ({machine['processor']}), torch {versions['torch']}"
    lines += ["", f"`{result['command']}` took {result['seconds']:.0f} s on {where}."]
    return "\n".join(lines)


def zoo_block() -> str:
    """What the zoo's models reach."""
    figures = card("tiny-llama")
    held_out = figures["held_out"]
    return (
        f"`tiny-llama`: {figures['parameters'] / 1e6:.2f} M parameters, {figures['recipe']['steps']} steps, "
        f"{figures['data']['tokens_seen'] / 1e6:.0f} M tokens; on held-out modules {held_out['bits_per_byte']:.3f} "
        f"bits per byte, {100 * held_out['below_xz']:.0f} % below `xz -9e` ({held_out['bits_per_byte_xz_9e']:.3f})."
    )


RESULTS = ROOT / "benchmarks" / "results"


def result_of(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def quantizers_block() -> str:
    """Perplexity at true bits, a table for each model."""
    lines = []
    for name, model in result_of("quantizers")["models"].items():
        lines += [
            f"`{name}`, {model['parameters'] / 1e6:.2f} M parameters, unmodified perplexity "
            f"{model['unmodified']['perplexity']:.2f}:",
            "",
            "| true bits per weight | method | perplexity | loss, nats/token (sd over calibration draws) |",
            "|---:|---|---:|---:|",
        ]
        for row in model["rows"]:
            spread = "" if row["sd"] is None else f" ± {row['sd']:.3f}"
            size = re.search(r"group_size=(\d+)", row["method"])
            groups = int(size[1]) if size else 64 if row["kind"] == "hqq" else 128
            label = f"{row['kind']}, groups of {groups}"
            lines.append(
                f"| {row['bits_per_weight']:.2f} | {label} | {row['perplexity']:.2f} | {row['loss']:.3f}{spread} |"
            )
        lines.append("")
    return "\n".join(lines).strip()


def quantizers_figure() -> Lines:
    """Loss against true bits on tiny-llama, a line for each method in its larger groups."""
    model = result_of("quantizers")["models"]["tiny-llama"]
    series = []
    for kind in (
        "round to nearest",
        "clipped rounding",
        "hqq",
        "GPTQ",
        "auto-round",
        "trit-planes",
        "calibrated trit-planes",
    ):
        rows = [row for row in model["rows"] if row["kind"] == kind]
        if kind in ("round to nearest", "clipped rounding", "GPTQ"):
            rows = [row for row in rows if "group_size=43" not in row["method"]]
        if rows:
            bits, losses = (tuple(row[field] for row in rows) for field in ("bits_per_weight", "loss"))
            style = "dashed" if kind == "round to nearest" else "line"
            series.append(Series(label=kind, x=bits, y=losses, style=style))
    intact = model["unmodified"]["loss"]
    series.append(Series(label="unmodified", x=(1.7, 5.3), y=(intact, intact), style="dashed"))
    return Lines(
        title="tiny-llama: loss against true bits per weight",
        caption="scales and zero points counted; lower left is better",
        x_label="true bits per weight",
        y_label="loss [nats/token]",
        series=tuple(series),
    )


def kernels_block() -> str:
    """Products with packed trit-planes against the peers: one token, one thread."""
    result = result_of("trit_kernels")
    rows = [row for row in result["rows"] if row["batch"] == 1 and row["threads"] == 1]
    lines = [
        "| one token, one thread | 4096 x 4096 | 11008 x 4096, from memory, median | bandwidth | output error |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["peer"] for row in rows):
        small, large = (row for row in rows if row["peer"] == name)
        share = large["from_memory_gb_per_s"]["median"] / result["read_gb_per_s"]["median"]
        lines.append(
            f"| {name} | {small['repeated_us']['best']:.0f} us | {large['from_memory_us']['median']:.0f} us | "
            f"{large['from_memory_gb_per_s']['median']:.0f} GB/s, {100 * share:.0f} % | {small['error']:.1e} |"
        )
    return "\n".join(lines)


def decode_block() -> str:
    """Tokens per second of `generate`, as ratios, and peak memory."""
    result = result_of("decode")
    lines = [
        "| | threads | tokens per second | times float32 | times bfloat16 | weights, MB | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['variant']} | {row['threads']} | {row['tokens_per_second']['median']:.1f} | "
            f"{row['times_float32']:.2f} | {row['times_bfloat16']:.2f} | {row['weights_mb']:.0f} | "
            f"{row['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def fields_block() -> str:
    """Activations of fields on photographs, and the codec beside JPEG and WebP."""
    result = result_of("fields")
    lines = [
        f"Fields of {len(result['photos'])} photographs, mean PSNR ± spread over photographs (`{result['command']}`):",
        "",
        "| activation | PSNR, dB | median steps to 30 dB |",
        "|---|---:|---:|",
    ]
    best: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        name = row["activation"].partition("(")[0].lower()
        if row["omega_chosen"] is not False and row["psnr"] > best.get(name, {"psnr": 0})["psnr"]:
            best[name] = row
    for name, row in sorted(best.items(), key=lambda pair: -pair[1]["psnr"]):
        steps = row["median_steps_to_30_db"]
        shown = "-" if steps is None else f"{steps:.0f}"
        lines.append(f"| {name} | {row['psnr']:.1f} ± {row['spread_over_photos']:.1f} | {shown} |")
    codec = result_of("codec")
    lines += [
        "",
        f"The codec on {len(codec['photos'])} photographs beside JPEG and WebP of the same size, all headers counted "
        f"(`{codec['command']}`):",
        "",
        "| bits per pixel | PSNR, dB | JPEG | WebP | seconds to encode |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in codec["summary"]:
        peers = (
            f"{row[name]:.1f}" if row[f"{name}_photos"] == len(codec["photos"]) else "-" for name in ("jpeg", "webp")
        )
        lines.append(
            f"| {row['bits_per_pixel']:.2f} | {row['psnr']:.1f} | {' | '.join(peers)} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _with_chips(row: dict[str, Any], value: str, digits: int) -> str:
    """A mean, and its standard deviation over chip instances, if there was noise."""
    spread = row["sd_over_instances"]
    return f"{row[value]:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def noise_aware_block() -> str:
    """Training through noise on two models, with its spread over chip instances."""
    parts = result_of("noise_aware")
    vision, language = parts["vision"], parts["language"]
    levels = list(dict.fromkeys(row["noise"] for row in vision["rows"]))
    percents = [f"{100 * level:g} %" for level in levels]
    lines = [
        "| training | " + " | ".join(f"accuracy, {p}" for p in percents) + " | "
        + " | ".join(f"perplexity, {p}" for p in percents) + " |",
        "|---" + "|---:" * (2 * len(levels)) + "|",
    ]  # fmt: skip
    for way in dict.fromkeys(row["way"] for row in vision["rows"]):
        cells = [
            _with_chips(row, "mean", digits)
            for part, digits in ((vision, 1), (language, 2))
            for row in part["rows"]
            if row["way"] == way
        ]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def repairs_block() -> str:
    """Each repair beside the chip as it is and its control, at one noise that hurts and on measured cells."""
    lines = [
        "| repair | model, noise | no noise | on the chip | repaired | control |",
        "|---|---|---:|---:|---:|---:|",
    ]

    def told(row: dict[str, Any], digits: int = 1) -> str:
        value = row.get("perplexity", row.get("mean", 0.0))
        return f"{value:.{digits}f} ± {row['std']:.{digits}f}"

    hpd = result_of("hpd")
    for noise, strength in (("proportional", "0.3"), ("relative to the tensor's largest weight", "0.0707")):
        rows = hpd["noises"][noise]["strengths"][strength]
        cells = (told(rows[name]) for name in ("noisy", "HPD last", "HPD random"))
        lines.append(
            f"| HPD, last output projection; a random one | tiny-mamba, perplexity, {noise} {strength} | "
            f"{hpd['unmodified']:.1f} | {' | '.join(cells)} |"
        )
    romer = result_of("romer")
    for noise in ("additive 10 % of each tensor's largest weight", "ReRAM (Wan et al.)"):
        cells = (told(romer["noises"][noise][name]) for name in ("noisy", "both", "random replacement"))
        lines.append(
            f"| ROMER, both parts; random replacement | tiny-moe, perplexity, {noise} | "
            f"{romer['unmodified']['perplexity']:.1f} | {' | '.join(cells)} |"
        )
    copies = result_of("redundancy")
    for noise in ("proportional 0.3", "ReRAM (Wan et al.) with 0.5 % of cells stuck"):
        for place in ("shallow", "middle", "deep"):
            cells = (told(copies["noises"][noise][name]) for name in ("none", place, "random"))
            lines.append(
                f"| three copies of two {place} layers; of random ones | tiny-llama, perplexity, {noise} | "
                f"{copies['unmodified']:.1f} | {' | '.join(cells)} |"
            )
    reasoning = result_of("reasoning")["noises"]
    for noise, level in (("proportional", "proportional 0.4"), ("additive", "additive 0.141421")):
        found = reasoning[noise]["accuracy"]
        for place in ("shallow", "middle", "deep"):
            names = (f"steps, {level}", f"steps, {place} copied, {level}")
            cells = [told(found[name], 2) for name in names]
            lines.append(
                f"| three copies of two {place} layers | tiny-reasoner, accuracy in written steps, {level} | "
                f"{found['steps, no noise']['mean']:.2f} | {' | '.join(cells)} | |"
            )
    return "\n".join(lines)


def noise_cost_block() -> str:
    """Step time and peak memory of the gradients, by simulator."""
    lines = ["| | simulator | gradient | step, s | peak memory, MB |", "|---|---|---|---:|---:|"]
    lines += [
        f"| {row['task']} | {row['noise']} | {row['way']} | {row['step_s']:.3f} | {row['peak_mb']:.0f} |"
        for row in result_of("noise_aware")["cost"]["rows"]
    ]
    return "\n".join(lines)


def halora_block() -> str:
    """Adapters on a noisy base, with the spread over training seeds."""
    result = result_of("halora")
    levels = list(dict.fromkeys(row["noise"] for row in result["rows"]))
    lines = [
        "| adapters | " + " | ".join(f"noise {100 * level:g} %" for level in levels) + " |",
        "|---" + "|---:" * len(levels) + "|",
    ]
    for way in dict.fromkeys(row["way"] for row in result["rows"]):
        cells = [
            f"{100 * row['accuracy']:.1f} ± {100 * row['sd_over_seeds']:.1f}"
            for row in result["rows"]
            if row["way"] == way
        ]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chip_block() -> str:
    """What an analog layer costs in time beside a digital one."""
    speed = result_of("chip")["speed"]
    lines = ["| forward and backward, one thread | times nn.Linear |", "|---|---:|"]
    lines += [f"| {row['layer']} | {row['ratio_of_median']:.2f} |" for row in speed["rows"]]
    return "\n".join(lines)


SPLAT_WHOLE = ("vanilla", "global_to_local", "reactivate", "both")


def splat_scenes() -> list[tuple[str, dict[str, Any]]]:
    """Every result of benchmarks/splat.py, named by its scene, steps and budget; the shorter trainings first."""
    found = [result_of(file.stem) for file in RESULTS.glob("splat-*.json")]
    found.sort(key=lambda result: (result["steps"] > 1500, result["scene"]["name"], result["scene"]["height"]))
    named = []
    for result in found:
        scene = result["scene"]
        budget = f", at most {result['budget']:,} Gaussians" if result["budget"] else ""
        named.append((f"{scene['name']} {scene['width']} x {scene['height']}, {result['steps']} steps{budget}", result))
    return named


def splat_row(row: dict[str, Any], base: dict[str, Any]) -> str:
    spread = "" if row["psnr_spread"] is None else f" ± {row['psnr_spread']:.2f}"
    work, time = row["pairs_to_vanilla"], row["seconds_to_vanilla"]
    reached = f"{row['reached']} of {row['seeds']} did | " if work is None else f"{work:.2f} | {time:.2f}"
    return (
        f"{row['strategy']} | {row['psnr']:.2f}{spread} | {row['training_psnr']:.1f} | {row['ssim']:.3f} | "
        f"{row['gaussians']:,.0f} | {row['seconds']:.0f} | {row['pairs'] / base['pairs']:.2f} | {reached} |"
    )


SPLAT_COLUMNS = "PSNR, dB | on training views | SSIM | Gaussians | seconds | work | work to vanilla's | time to it |"


def splat_block() -> str:
    """The strategies of densification on each scene."""
    lines = [f"| scene | strategy | {SPLAT_COLUMNS}", "|---|---|" + "---:|" * 8]
    for name, result in splat_scenes():
        rows = {row["strategy"]: row for row in result["rows"]}
        lines += [f"| {name} | {splat_row(rows[each], rows['vanilla'])}" for each in SPLAT_WHOLE]
    return "\n".join(lines)


def splat_parts_block() -> str:
    """Vanilla with one part of the other strategies at a time."""
    lines = []
    for name, result in splat_scenes():
        rows = {row["strategy"]: row for row in result["rows"]}
        parts = [row for each, row in rows.items() if each not in SPLAT_WHOLE]
        if parts:
            command = result["command"].split(" --only")[0]
            lines += [f"{name[0].upper()}{name[1:]} (`{command}`):", "", f"| strategy | {SPLAT_COLUMNS}"]
            lines += ["|---|" + "---:|" * 8]
            lines += [f"| {splat_row(row, rows['vanilla'])}" for row in (rows["vanilla"], *parts)] + [""]
    return "\n".join(lines).strip()


def rasterizer_block() -> str:
    """Forward and backward of the rasterizer by instruction set and threads."""
    lines = [
        "| Gaussians, size | path | threads | forward, ms | backward, ms | million pairs per second |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['gaussians']:,}, {row['width']} x {row['height']} | {row['path']} | {row['threads']} | "
        f"{row['forward_ms']:.0f} | {row['backward_ms']:.0f} | {row['million_pairs_per_second']:.0f} |"
        for row in result_of("rasterize")["rows"]
    ]
    return "\n".join(lines)


BLOCKS = {
    "survival": survival_block,
    "zoo": zoo_block,
    "quantizers": quantizers_block,
    "kernels": kernels_block,
    "decode": decode_block,
    "fields": fields_block,
    "chip": chip_block,
    "noise-aware": noise_aware_block,
    "repairs": repairs_block,
    "noise-cost": noise_cost_block,
    "halora": halora_block,
    "splat": splat_block,
    "splat-parts": splat_parts_block,
    "rasterizer": rasterizer_block,
}


def written(text: str) -> str:
    """`text` of the README with its generated blocks made anew."""
    for name, make in BLOCKS.items():
        content = make()
        pattern = rf"<!-- generated: {name} -->.*?<!-- end: {name} -->"
        text, count = re.subn(pattern, lambda _, n=name, c=content: block(n, c), text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README.md must have the block {name} once, it has it {count} times")
    return text


def main() -> None:
    write_text(README, written(README.read_text(encoding="utf-8")))
    result = json.loads((ROOT / "benchmarks" / "results" / "survival.json").read_text(encoding="utf-8"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, figure in zip(PLOTS, Report.from_json(result["report"]).figures, strict=True):
        save_png(figure, IMAGES / f"{name}.png", dpi=110)
    save_png(quantizers_figure(), IMAGES / "quantizers.png", dpi=110)


if __name__ == "__main__":
    main()
