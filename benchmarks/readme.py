"""What the README and docs show of the committed results: which tables, which lines, which columns.

python -m benchmarks tables
"""

import ast
import functools
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import (
    binary_tables,
    chip_tables,
    field_tables,
    interp_tables,
    panels,
    rooms,
    rtl_tables,
    stream_tables,
    systems,
    trust_tables,
)
from benchmarks.harness.catalogue import FOLDER
from benchmarks.harness.record import Record, committed
from benchmarks.harness.result import Value, mean_of
from benchmarks.harness.result import rows as measured_rows
from benchmarks.harness.tables import Cell, Lines, of_columns, table, values_of
from hardy.files import write_text
from hardy.report import Row
from hardy.report.figures import Lines as Plot
from hardy.report.figures import Series, save_png
from hardy.zoo import card

ROOT = FOLDER.parent
IMAGES = ROOT / "docs" / "images"
PLOTS = ("bits", "noise", "fragility-rtn", "fragility-noise", "protection-rtn", "protection-noise")

record = functools.cache(Record.read)


def rows(*names: str) -> list[Row]:
    return [row for name in names for row in record(name).report.rows]


def survival() -> str:
    found = record("survival")
    of_perplexity = [row for row in found.report.rows if row.metric == "perplexity"]
    cells = (
        "{condition}",
        "{bits_per_weight:.2f}",
        "{perplexity.value:.4g}",
        "{perplexity.spread:.2g}",
        "{perplexity.n}",
    )
    where = f"{found.machine['cores']} cores ({found.machine['processor']}), torch {found.versions['torch']}"
    return (
        table(
            ("condition", "true bits per weight", "perplexity", "sd", "n"),
            Lines(rows=of_perplexity, cells=cells),
        )
        + f"\n\n`hardy study` took {found.seconds:.0f} s on {where}."
    )


def zoo() -> str:
    figures = card("tiny-llama")
    held_out = figures["held_out"]
    return (
        f"`tiny-llama`: {figures['parameters'] / 1e6:.2f} M parameters, {figures['recipe']['steps']} steps, "
        f"{figures['data']['tokens_seen'] / 1e6:.0f} M tokens; on held-out modules {held_out['bits_per_byte']:.3f} "
        f"bits per byte, {100 * held_out['below_xz']:.0f} % below `xz -9e` ({held_out['bits_per_byte_xz_9e']:.3f})."
    )


def quantizers() -> str:
    found = rows("quantizers")
    headers = ("true bits per weight", "method", "perplexity", "loss, nats/token (sd over calibration draws)")
    cells = ("{bits_per_weight:.2f}", "{kind}, groups of {group_size}", "{perplexity.value:.2f}", "{loss:.3f}")
    parts = []
    for model in values_of("model", found):
        of_model = [row for row in found if row.details["model"] == model]
        intact = {row.metric: row.value for row in of_model if row.condition == "unmodified"}
        methods = [row for row in of_model if row.condition != "unmodified"]
        parts.append(
            f"`{model}`, {intact['parameters'] / 1e6:.2f} M parameters, unmodified perplexity "
            f"{intact['perplexity']:.2f}:\n\n{table(headers, Lines(rows=methods, cells=cells))}"
        )
    return "\n\n".join(parts)


def real_quantizers() -> str:
    found = rows(*(name for name in committed() if name.startswith("real_quantizers")))
    columns = {
        "method": "{condition}",
        "embedding bits": "{embedding_bits}",
        "calibrated on": "{calibration}",
        "true bits": "{bits_per_weight:.2f}",
        "MB": "{megabytes:.1f}",
        "prose": "{perplexity_prose:.2f}",
        "reference": "{perplexity_reference:.2f}",
        "agreement: prose, %": "{agreement_prose:.0%}",
        "reference, %": "{agreement_reference:.0%}",
        "CPU-s/M": "{cpu_seconds_per_million:.2f}",
    }
    parts = []
    for model in values_of("model", found):
        of_model = [row for row in found if row.details["model"] == model]
        intact = {row.metric: row.value for row in of_model if row.condition == "unmodified"}
        of_methods = [row for row in of_model if row.condition != "unmodified"]
        parts.append(
            f"`{model}`, unmodified (a dequantized 4-bit file) {intact['megabytes']:.0f} MB at 16 bits, perplexity "
            f"{intact['perplexity_prose']:.2f} on prose and {intact['perplexity_reference']:.2f} on the language "
            f"reference:\n\n{of_columns(columns, of_methods)}"
        )
    return "\n\n".join(parts)


def real_questions() -> str:
    columns = {
        "method": "{condition}",
        "true bits": ("{bits_per_weight:.2f}", "16"),
        "MB": "{megabytes:.1f}",
        "prose": "{perplexity_prose:.2f}",
        "reference": "{perplexity_reference:.2f}",
        "next sentence (chance 25), %": "{right_continuation:.0%}",
        "is or are (50), %": "{right_agreement:.0%}",
        "knowledge (25), %": "{right_knowledge:.0%}",
        "answers as unmodified, %": "{same_answers:.0%}",
        "CPU-s/M": ("{cpu_seconds_per_million:.2f}", ""),
    }
    return of_columns(columns, rows("real_questions"))


_PLANES = ("one trit-plane", "two trit-planes", "three trit-planes")


def real_quantizers_plot() -> Plot:
    """How many times the unmodified perplexity, on the text that nothing was calibrated on, against the file's size."""
    names = [name for name in committed() if name.startswith("real_quantizers")]
    found = [row for row in rows(*names) if row.details["model"] == "smollm2-135m"]
    sizes = {
        (row.condition, row.details.get("embedding_bits")): row.value for row in found if row.metric == "megabytes"
    }
    losses = {
        (row.condition, row.details.get("embedding_bits")): row.value
        for row in found
        if row.metric == "perplexity_reference"
    }
    intact = losses["unmodified", None]
    families = {
        "trit-planes, plain": ("two trit-planes, plain",),
        "trit-planes, calibrated": tuple(f"{count}, calibrated" for count in _PLANES),
        "GPTQ, rotated": ("GPTQ 3 bits, corrected and rotated",),
        "round to nearest": ("round to nearest 4 bits",),
        "GPTQ": ("GPTQ 3 bits", "GPTQ 4 bits"),
        "llama.cpp": ("llama.cpp IQ2_XXS", "llama.cpp Q2_K", "llama.cpp Q3_K", "llama.cpp Q4_K"),
        "hqq": ("hqq 3 bits", "hqq 4 bits"),
        "auto-round": ("auto-round (light) 3 bits",),
    }  # fmt: skip
    series = []
    for label, names in families.items():
        points = [(sizes[name, 8], losses[name, 8] / intact) for name in names if (name, 8) in losses]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        series.append(Series(label=label, x=x, y=y, style="points"))
    return Plot(
        title="SmolLM2-135M: perplexity against file size",
        caption="everything in the file counted, embedding at 8 bits; text that nothing was calibrated on",
        x_label="file [MB]",
        y_label="perplexity, times the unmodified",
        series=tuple(series),
        log_y=True,
    )


def kernels() -> str:
    cells = (
        "{condition}",
        "{at[rows=4096].repeated_us_best.value:.0f} us",
        "{at[rows=11008].from_memory_us_median.value:.0f} us",
        "{at[rows=11008].from_memory_gb_per_s_median.value:.0f} GB/s, "
        "{at[rows=11008].share_of_the_read_bandwidth.value:.0%} %",
        "{at[rows=4096].error.value:.1e}",
    )
    headers = ("one token, one thread", "4096 x 4096", "11008 x 4096, from memory, median", "bandwidth", "output error")
    return table(headers, Lines(rows=rows("trit_kernels"), where={"batch": 1, "threads": 1}, cells=cells))


def decode() -> str:
    columns = {
        "": "{condition}",
        "threads": "{threads}",
        "tokens per second": "{tokens_per_second.value:.1f}",
        "times float32": "{times_float32.value:.2f}",
        "times bfloat16": "{times_bfloat16.value:.2f}",
        "weights, MB": "{weights_mb.value:.0f}",
        "peak memory, MB": "{peak_mb.value:.0f}",
    }
    return of_columns(columns, rows("decode"), by=("condition", "threads"))


def real_decode() -> str:
    found, parts = rows("real_decode"), []
    for model in values_of("model", found):
        of_model = [row for row in found if row.details["model"] == model and not row.condition.endswith("a step")]
        speeds: dict[str, Cell] = {"": "{condition}", "perplexity": "{perplexity.value:.1f}"}
        for threads in values_of("threads", of_model):
            for prompt in values_of("prompt", of_model):
                at = f"at[threads={threads}].at[prompt={prompt}]"
                speeds[f"{threads} thread{'s' * (threads > 1)}, {prompt:,} before"] = (
                    f"{{{at}.tokens_per_second.value:.1f}} ({{{at}.times_rival.value:.2f}})"
                )
        step = {row.metric: row.value for row in found if row.details["model"] == model and "a step" in row.condition}
        shares = ", ".join(
            f"{words} {step[f'share_of_{part}']:.0%}"
            for part, words in (
                ("products", "products"), ("head", "the head"), ("attention", "attention"),
                ("norms_and_gates", "norms, gates and rotations"),
                ("python", "the rest, which is Python and weights that a product alone finds in the cache,"),
            )
        )  # fmt: skip
        told = f"A step of two planes on one thread, {step['milliseconds']:.1f} ms: {shares}."
        parts.append(f"`{model}`:\n\n{of_columns(speeds, of_model, by=('condition',))}\n\n{told}")
    machine = record("real_decode").machine
    load = " to ".join(f"{value:.1f}" for value in machine["load"])
    return "\n\n".join([*parts, f"{machine['processor']}, {machine['cores']} cores, load {load}."])


def quantize_cost() -> str:
    columns: dict[str, Cell] = {
        "command": "{condition}",
        "estimate, s": ("{estimate.value:.0f}", ""),
        "seconds": ("{seconds.value:.0f}", ""),
        "of a processor": ("{processor_seconds.value:.0f}", ""),
        "a block, s": ("{seconds_per_block.value:.0f}", ""),
        "all blocks, h": ("{hours_extrapolated.value:.2f}", ""),
        "peak, held, MB": "{anonymous.value:.0f}",
        "with pages of files, MB": "{resident.value:.0f}",
        "source, MB": "{source.value:.0f}",
        "packed, MB": ("{packed.value:.0f}", ""),
    }
    names = [name for name in ("quantize_cost", "quantize_cost-8b") if name in committed()]
    machine = record(names[0]).machine
    load = " to ".join("unknown" if value is None else f"{value:.1f}" for value in machine["load"])
    where = f"{machine['processor']}, {machine['cores']} cores, load {load}."
    return f"{of_columns(columns, rows(*names))}\n\n{where}"


def lieq_real(name: str = "lieq_real") -> str:
    """Spearman's correlations, and the perplexity of each budget by each ranking, on both kinds of text."""
    found = [row for row in rows(name) if row.metric != "loss"]
    agreements = [row for row in found if row.metric.startswith("spearman")]
    of_rankings: dict[str, Cell] = {
        "blocks by": "{by}",
        "Spearman with the drop": "{spearman_with_drop.value:.2f}",
        "with the harm": "{spearman_with_harm.value:.2f}",
    }
    given = [row for row in found if "of" in row.details]
    columns: dict[str, Cell] = {"budget": "{budget}", "perplexity on": "{text}"}
    columns |= {by: f"{{at[by={by}].perplexity.value:.4g}}" for by in values_of("by", given)}
    whole = [row for row in found if row.metric == "perplexity" and "of" not in row.details]
    limits = {kind: [row for row in whole if row.details["text"] == kind] for kind in ("prose", "code")}
    said = "; ".join(
        f"{kind}: " + ", ".join(f"{row.details['budget']} {row.value:.4g}" for row in of) for kind, of in limits.items()
    )
    shown = f"{of_columns(of_rankings, agreements)}\n\n{of_columns(columns, given, by=('budget', 'text'))}"
    return f"{shown}\n\nEverywhere alike, perplexity on {said}."


def fields() -> str:
    columns = {
        "activation": "{kind}",
        "PSNR, dB": "{psnr:.1f}",
        "median steps to 30 dB": "{median_steps_to_30_db.value:.0f}",
    }
    photos = len(record("fields").report.settings["photos"])
    return (
        f"Fields of {photos} photographs, mean PSNR ± spread over photographs (`{record('fields').command}`):\n\n"
        + of_columns(columns, rows("fields"), where={"shown": True}, order="psnr")
        + f"\n\n{codec()}"
    )


def codec() -> str:
    found = rows("codec")
    forms = values_of("against", found)
    means = [row for row in found if "photo" not in row.details]
    against: dict[str, Cell] = {f"{form}, %": "{at[against=" + form + "].bd_rate.value:+.1f}" for form in forms}
    columns = {"": "{condition}", **against, "s to encode": "{encode.value:.1f}", "s to decode": "{decode.value:.2f}"}
    at: dict[str, Cell] = {f"{rate:g}": f"{{at[asked={rate}].psnr.value:.2f}}" for rate in values_of("asked", means)}
    photos = len(record("codec").report.settings["photos"])
    return (
        f"{photos} Kodak photographs at full size: how many percent more bytes at equal PSNR (BD-rate, mean over the "
        f"photographs) than each of five codecs (`{record('codec').command}`):\n\n"
        + of_columns(columns, [row for row in means if row.metric != "psnr"])
        + "\n\nPSNR in dB, mean over the photographs, at bits per pixel:\n\n"
        + of_columns({"": "{condition}", **at}, [row for row in means if row.metric == "psnr"])
    )


def codec_plot() -> Plot:
    """Mean PSNR against rate on the photographs, a line for each codec."""
    found = [row for row in rows("codec") if row.metric == "psnr" and "photo" not in row.details]
    series = []
    for name in dict.fromkeys(row.condition for row in found):
        of_name = [row for row in found if row.condition == name]
        rates = tuple(float(str(row.details["asked"])) for row in of_name)
        values = tuple(row.value for row in of_name)
        series.append(Series(label=name, x=rates, y=values, style="line" if "hardy" in name else "dashed"))
    return Plot(
        title="Kodak at full size: PSNR against bits per pixel",
        caption="all bytes of a file counted; upper left is better",
        x_label="bits per pixel",
        y_label="PSNR [dB]",
        series=tuple(series),
    )


def noise_aware() -> str:
    found = rows("noise_aware-vision", "noise_aware-language")
    levels = values_of("noise", found)
    columns = {"training": "{condition}"}
    for metric, digits in (("accuracy", 1), ("perplexity", 2)):
        columns |= {f"{metric}, {100 * x:g} %": f"{{at[noise={x}].{metric}:.{digits}f}}" for x in levels}
    return of_columns(columns, found)


def noise_cost() -> str:
    columns = {
        "": "{task}",
        "simulator": "{noise}",
        "gradient": "{condition}",
        "step, s": "{step_s.value:.3f}",
        "peak memory, MB": "{peak_mb.value:.0f}",
    }
    return of_columns(columns, rows("noise_aware-cost"), by=("task", "noise", "condition"))


def halora() -> str:
    found = rows("halora")
    levels = values_of("noise", found)
    columns = {f"noise {100 * x:g} %": f"{{at[noise={x}].accuracy:.1%}}" for x in levels}
    return of_columns({"adapters": "{condition}"} | columns, found)


def repairs() -> str:
    """Each repair beside the chip as it is and its control, at one noise that hurts and on measured cells."""

    def lines(name: str, what: str, where: dict[str, object], repaired: str, control: str, noisy: str) -> Lines:
        intact = next(row.value for row in rows(name) if (row.condition, row.metric) == ("unmodified", "perplexity"))
        cells = [f"{{at[{condition}].perplexity:.1f}}" for condition in (noisy, repaired, control)]
        by = tuple(key for key in where if key != "condition")
        return Lines(rows=rows(name), by=by, where=where, cells=(*what.split("|"), f"{intact:.1f}", *cells))

    hpd = "HPD, last output projection; a random one|tiny-mamba, perplexity, {noise} {strength:g}"
    romer = "ROMER, both parts; random replacement|tiny-moe, perplexity, {noise}, {placement}"
    parts = [
        lines("hpd", hpd, {"noise": noise, "strength": strength}, "HPD last", "HPD random", "noisy")
        for noise, strength in (("proportional", 0.3), ("relative to the tensor's largest weight", 0.0707))
    ]
    parts += [
        lines("romer", romer, {"noise": noise, "placement": placement}, "both", "random replacement", "noisy")
        for noise, placement in (
            ("additive 40 % of each tensor's largest weight", "experts and routers"),
            ("additive 10 % of each tensor's largest weight", "everything"),
            ("ReRAM (Wan et al.)", "everything"),
        )
    ]
    for noise in ("proportional 0.3", "ReRAM (Wan et al.) with 0.5 % of cells stuck"):
        for place in ("shallow", "middle", "deep"):
            what = f"three copies of two {place} layers; of random ones|tiny-llama, perplexity, {{noise}}"
            parts.append(lines("redundancy", what, {"noise": noise}, place, "random", "none"))
    for noise, level in (("proportional", "proportional 0.4"), ("additive", "additive 0.141421")):
        for place in ("shallow", "middle", "deep"):
            accuracies = ("steps, no noise", f"steps, {level}", f"steps, {place} copied, {level}")
            cells = (
                f"three copies of two {place} layers",
                f"tiny-reasoner, accuracy in written steps, {level}",
                *(f"{{at[{condition}].accuracy:.2f}}" for condition in accuracies),
                "",
            )
            parts.append(Lines(rows=rows("reasoning"), by=("noise",), where={"noise": noise}, cells=cells))
    return table(("repair", "model, noise", "no noise", "on the chip", "repaired", "control"), *parts)


def romer() -> str:
    """Perplexity of the mixture by what is on the chip, and in brackets the mean ratio to the noisy model."""
    found = [row for row in rows("romer") if row.condition != "unmodified"]
    at = {(row.details["placement"], row.details["noise"], row.condition, row.metric): row for row in found}
    places = list(dict.fromkeys((row.details["placement"], row.details["noise"]) for row in found))
    lines = [f"| | {' | '.join(f'{placement}, {noise}' for placement, noise in places)} |"]
    lines.append("|---|" + "---:|" * len(places))
    for condition in dict.fromkeys(row.condition for row in found):
        cells = []
        for place in places:
            perplexity, ratio = (at[(*place, condition, metric)] for metric in ("perplexity", "ratio_to_noisy"))
            spread = "" if ratio.spread in (None, 0.0) else f" ± {ratio.spread:.3f}"
            cells.append(f"{perplexity.value:.1f} ({ratio.value:.3f}{spread})")
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chip() -> str:
    columns = {
        "forward and backward, one thread": "{condition}",
        "times nn.Linear": "{ratio_of_median.value:.2f}",
    }
    return of_columns(columns, rows("chip"), where={"part": "speed"})


SPLAT = {
    "strategy": "{condition}",
    "PSNR, dB": "{psnr:.2f}",
    "on training views": "{training_psnr.value:.1f}",
    "SSIM": "{ssim.value:.3f}",
    "Gaussians": "{gaussians.value:,.0f}",
    "seconds": "{seconds.value:.0f}",
    "work": "{work.value:.2f}",
    "work to vanilla's": ("{pairs_to_vanilla.value:.2f}", "{reached} of {of} did"),
    "time to it": "{seconds_to_vanilla.value:.2f}",
}


def scenes() -> list[tuple[str, Record]]:
    """The results of splat.py by scene, steps and budget; the shorter trainings first."""

    def key(found: Record) -> tuple[bool, str, int, int]:
        scene, options = found.report.settings["scene"], found.report.settings["options"]
        return options["steps"] > 1500, scene["name"], scene["height"], options["budget"]

    named = []
    for found in sorted((record(name) for name in committed() if name.startswith("splat-")), key=key):
        scene, options = found.report.settings["scene"], found.report.settings["options"]
        budget = f", at most {options['budget']:,} Gaussians" if options["budget"] else ""
        named.append((f"{scene['name']} {scene['width']} x {scene['height']}, {options['steps']} steps{budget}", found))
    return named


def splat() -> str:
    parts = [
        Lines(rows=found.report.rows, where={"whole": True}, cells=(name, *SPLAT.values())) for name, found in scenes()
    ]
    return table(("scene", *SPLAT), *parts)


def splat_parts() -> str:
    texts = []
    for name, found in scenes():
        parts = [row for row in found.report.rows if row.condition == "vanilla" or not row.details["whole"]]
        if len(values_of("condition", parts)) > 1:
            title = f"{name[0].upper()}{name[1:]} (`{found.command}`):"
            texts.append(f"{title}\n\n{of_columns(SPLAT, parts)}")
    return "\n\n".join(texts)


def inpainting(name: str) -> str:
    columns: dict[str, Cell] = {
        "": "{method}",
        "holes, dB": "{hole:.1f}",
        "others see it": "{seen:.1f}",
        "nobody does": "{unseen:.1f}",
        "shadow": "{shadow:.1f}",
        "held-out views": "{held_out:.1f}",
        "SSIM": "{ssim.value:.2f}",
        "views agree, dB": "{agreement:.1f}",
        "photos agree, dB": "{photos_agree.value:.1f}",
        "seconds": "{seconds.value:.0f}",
    }
    found = rows(name)
    parts = []
    for scene in values_of("scene", found):
        of_scene = [row for row in found if row.details["scene"] == scene]
        known = {row.metric for row in of_scene} | {"method"}
        shown = {title: cell for title, cell in columns.items() if re.findall(r"\w+", str(cell))[0] in known}
        parts.append(f"{scene[0].upper()}{scene[1:]}:\n\n{of_columns(shown, of_scene, by=('method',))}")
    return "\n\n".join(parts)


def inpainting_margins(name: str) -> str:
    columns: dict[str, Cell] = {
        "scene": "{scene}",
        "pixels that others see": "{at[method=true photos].share_seen.value:.0f} %",
        "holes": "{at[method=whole].hole_above_2d:+.1f}",
        "others see it": "{at[method=whole].seen_above_2d:+.1f}",
        "nobody does": "{at[method=whole].unseen_above_2d:+.1f}",
        "views agree": "{at[method=whole].agreement_above_2d:+.1f}",
    }
    return of_columns(columns, rows(name), by=("scene",))


def rasterizer() -> str:
    columns = {
        "Gaussians, size": "{gaussians:,}, {width} x {height}",
        "path": "{condition}",
        "threads": "{threads}",
        "forward, ms": "{forward_ms.value:.0f}",
        "backward, ms": "{backward_ms.value:.0f}",
        "million pairs per second": "{million_pairs_per_second.value:.0f}",
    }
    return of_columns(columns, rows("rasterize"), by=("case", "condition", "threads"))


def gpu() -> str:
    columns: dict[str, Cell] = {
        "work": "{rows} x {columns}",
        "tokens": "{tokens}",
        "product": "{condition}",
        "repeated, µs": "{repeated_us.value:.1f}",
        "from memory, µs": "{from_memory_us.value:.1f}",
        "of bfloat16": "{of_bfloat16.value:.2f}",
        "of int4": "{of_int4.value:.2f}",
    }
    return of_columns(columns, rows("gpu"), by=("rows", "columns", "tokens", "condition"))


def cores() -> str:
    columns: dict[str, Cell] = {
        "work": "{condition}",
        "threads": "{threads}",
        "wall clock": "{seconds.value:.2g} {seconds.unit}",
        "processor time": "{processor_seconds.value:.2g} {processor_seconds.unit}",
        "× one thread": "{times_one_thread.value:.2f}",
        "torch's, × (wall clock)": "{torch_seconds_of_compiled.value:.1f}",
        "torch's, × (processor time)": "{torch_processor_seconds_of_compiled.value:.1f}",
    }
    found = record("cores")
    lines = of_columns(columns, found.report.rows, by=("condition", "threads"))
    load = " to ".join(f"{value:.1f}" for value in found.machine["load"])
    return f"{lines}\n\n{found.machine['processor']}, {found.machine['cores']} cores, load {load}."


def extras() -> str:
    """The extras of pyproject.toml, with what its comments say they are for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    lines = ["| extra | for | brings |", "|---|---|---|"]
    for name, bracket, rest in re.findall(r"^(\w+) = (\[)(.*?)(?=^\w+ = |\Z)", section, re.DOTALL | re.MULTILINE):
        said = re.search(r"# (.*)", rest)
        packages = re.findall(r'"([^"]+)"', bracket + rest)
        brings = ", ".join(re.split(r"[>=<;]", package)[0].strip() for package in packages)
        lines.append(f"| `{name}` | {said[1] if said else ''} | {brings} |")
    return "\n".join(lines)


def gallery() -> str:
    """Thumbnails of the gallery's scripts, with what their first lines say."""
    figures = []
    for name in runpy.run_path(str(ROOT / "gallery" / "run.py"))["scripts"]():
        script = ROOT / "gallery" / f"{name}.py"
        title, _, said = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")
        picture = f"images/gallery/{name}.png"
        caption = f"**{title}.** {' '.join(said.split())} `gallery/{name}.py`"
        figures.append(f"<figure markdown>\n[![{title}]({picture})]({picture})\n\n{caption}\n</figure>")
    return '<div class="gallery" markdown>\n\n' + "\n\n".join(figures) + "\n\n</div>"


def gallery_times() -> str:
    """How long the scripts took, in a sentence."""
    found = record("gallery")
    least = {row.condition: row.value for row in found.report.select("least")}
    without = [row.condition for row in found.report.select("picture") if not row.value]
    longest = max(least, key=lambda name: least[name])
    said = (
        f"{len(least) - len(without)} of {len(least)} ended with their picture ({found.date}); the longest, "
        f"`{longest}`, took {least[longest]:.0f} s of two cores, all together {sum(least.values()) / 60:.0f} minutes."
    )
    return said + (f" Without one: {', '.join(without)}." if without else "")


def splat_clones() -> str:
    columns: dict[str, Cell] = {
        "scene, strategy": "{condition}",
        "PSNR, dB": "{psnr:.2f}",
        "gain over it as it is, dB": "{gain:.2f}",
        "SSIM": "{ssim.value:.3f}",
        "Gaussians": "{gaussians.value:,.0f}",
    }
    return of_columns(columns, rows("splat_clones"), by=("condition",))


def busy_neighbour() -> str:
    columns: dict[str, Cell] = {
        "": "{condition}",
        "seconds": "{seconds:.1f}",
        "slowest": "{slowest.value:.1f}",
        "seconds of a processor": "{cpu_seconds:.1f}",
    }
    return of_columns(columns, rows("busy_neighbour"), by=("condition",))


def teach() -> str:
    arms = ("full", "random", "soft", "hard", "mix", "soft, loss cap", "oracle")
    columns: dict[str, Cell] = {"labels": "{set}", "metric": ("{at[arm=full].MAE.metric}", "{at[arm=full].AUC.metric}")}
    for arm in arms:
        columns[arm] = (f"{{at[arm={arm}].MAE:.3f}}", f"{{at[arm={arm}].AUC:.3f}}")
    return of_columns(columns, [row for row in rows("teach_table") if row.metric in ("MAE", "AUC")], by=("set",))


def teach_random() -> str:
    found = [row for row in rows("teach_table") if row.metric.startswith("better than random (")]
    metrics = dict.fromkeys(row.metric for row in found)
    columns: dict[str, Cell] = {"labels": "{set}"}
    for arm in ("soft", "hard", "mix", "soft, loss cap", "oracle"):
        columns[arm] = tuple(f"{{at[arm={arm}].{metric}:+.3f}}" for metric in metrics)
    columns["seeds for soft"] = "{at[arm=soft].seeds_needed}"
    return of_columns(columns, found, by=("set",))


def teach_equal() -> str:
    found = [row for row in rows("teach_table") if " at equal " in row.metric or row.metric == "CPU time saved"]
    columns: dict[str, Cell] = {"labels": "{set}"}
    for arm in ("random", "soft"):
        columns[f"{arm}: CPU time saved"] = f"{{at[arm={arm}].CPU time saved:.0f}} %"
    for arm in ("soft", "hard", "mix"):
        columns[f"{arm} over random, equal seconds"] = tuple(
            f"{{at[arm={arm}].better than random at equal CPU seconds ({metric}):+.3f}}" for metric in ("MAE", "AUC")
        )
    for arm in ("random", "soft"):
        columns[f"{arm} over full, equal samples"] = tuple(
            f"{{at[arm={arm}].better than full at equal samples ({metric}):+.3f}}" for metric in ("MAE", "AUC")
        )
    return of_columns(columns, found, by=("set",))


def teach_sets() -> str:
    """Gains over random choice as shares of random's error (of what is missing to an area of 1), over the sets."""
    found = rows("teach_table")
    value = {(row.metric, row.condition): row.value for row in found}
    made = []
    for kind, noiseless in (("without noise", True), ("real", False)):
        names = [
            name
            for name in values_of("set", found)
            if noiseless == (name.endswith("noiseless") or name.startswith("generated"))
        ]
        for arm in ("soft", "hard", "mix", "oracle"):
            details = {"labels": kind, "sets": len(names), "arm": arm}
            for label, equal in (("gain", ""), ("gain_at_equal_seconds", " at equal CPU seconds")):
                gains = []
                for name in names:
                    metric = "MAE" if ("MAE", f"{name}: random") in value else "AUC"
                    of_random = value[f"{metric}{equal}", f"{name}: random"]
                    gain = value[f"better than random{equal} ({metric})", f"{name}: {arm}"]
                    gains.append(100 * gain / (of_random if metric == "MAE" else 1 - of_random))
                whole = mean_of(gains, "%")
                better = Value(sum(gain > 0 for gain in gains))
                error = replace(whole, spread=(whole.spread or 0.0) / len(gains) ** 0.5)
                figures: dict[str, Any] = {label: error, f"better_{label}": better}
                made += measured_rows(arm, details, **figures)
    columns: dict[str, Cell] = {
        "labels": "{labels}", "": "{arm}", "less error than random, %": "{gain:+.1f}",
        "sets where better": "{better_gain.value:.0f} of {sets}",
        "at equal seconds, %": "{gain_at_equal_seconds:+.1f}",
        "sets": "{better_gain_at_equal_seconds.value:.0f} of {sets}",
    }  # fmt: skip
    return of_columns(columns, made, by=("labels", "arm"))


def teach_paper() -> str:
    columns: dict[str, Cell] = {
        "task": "{task}",
        "": "{arm}",
        "metric": ("MAE {MAE:.4f}", "AUC {AUC:.4f}"),
        "CPU seconds": "{CPU seconds:.0f}",
        "CPU time saved": ("{CPU time saved:.0f} %", "-"),
        "by the law": ("{saving_by_the_law.value:.0f} %", "-"),
        "better than random": (
            "{better than random (MAE):+.4f}", "{better than random (AUC):+.4f}", "-",
        ),
    }  # fmt: skip
    return of_columns(columns, rows("teach_paper"), by=("task", "arm"))


def teach_pixels() -> str:
    columns: dict[str, Cell] = {
        "each step": "{condition}",
        "PSNR": "{psnr:.1f}",
        "CPU seconds": "{cpu_seconds:.1f}",
        "at equal seconds": "{psnr_at_equal_seconds:.1f}",
        "over uniform there": ("{better_than_uniform_at_equal_seconds:+.1f}", "-"),
        "seconds to what uniform ends with": (
            "{cpu_seconds_to_what_uniform_ends_with.value:.1f} ({reached} of {runs})", "never",
        ),
        "choosing": "{share_of_choosing.value:.0%} %",
    }  # fmt: skip
    return of_columns(columns, rows("teach_pixels"))


TOKENS = [name for name in ("teach_tokens", "teach_tokens-rubbish", "teach_tokens-smollm2") if name in committed()]


def teach_tokens() -> str:
    columns: dict[str, Cell] = {
        "model": "{model}",
        "rubbish": "{rubbish:.0%} %",
        "sequences": "{condition}",
        "loss, nats": "{loss:.3f}",
        "CPU seconds": "{cpu_seconds:.1f}",
        "seconds to what random ends with": (
            "{cpu_seconds_to_what_random_ends_with:.1f} ({reached} of {runs})",
            "never",
        ),
        "loss at equal seconds": "{loss_at_equal_seconds:.3f}",
        "below random (random: below full)": "{below_the_baseline:+.3f}",
        "the same at equal seconds": "{below_the_baseline_at_equal_seconds:+.3f}",
    }
    return of_columns(columns, rows(*TOKENS), by=("model", "rubbish", "condition"))


def teach_cost() -> str:
    found = rows("teach_cost")
    columns: dict[str, Cell] = {"selector": "{condition}"}
    for count in values_of("graphs", found):
        columns[f"{count} graphs, s"] = f"{{at[graphs={count}].seconds.value:.2f}}"
        columns[f"of an epoch, {count}"] = f"{{at[graphs={count}].share_of_an_epoch.value:.0%}} %"
    return of_columns(columns, found)


TEACH = {"table": teach, "paper": teach_paper, "pixels": teach_pixels, "tokens": teach_tokens, "cost": teach_cost}


def where_measured(name: str, block: Callable[[], str]) -> str:
    """A block, or the command that would measure it."""
    return block() if name in committed() else f"Not measured yet: `python -m benchmarks run {name}`."


BLOCKS: dict[str, Callable[[], str]] = {
    **{name: functools.partial(where_measured, *block) for name, block in interp_tables.BLOCKS.items()},
    "survival": survival,
    "zoo": zoo,
    "quantizers": quantizers,
    "quantize-cost": functools.partial(where_measured, "quantize_cost", quantize_cost),
    "real-decode": real_decode,
    "real-quantizers": real_quantizers,
    "lieq-real": functools.partial(where_measured, "lieq_real", lieq_real),
    "lieq-real-milder": functools.partial(
        where_measured, "lieq_real-milder", functools.partial(lieq_real, "lieq_real-milder")
    ),
    "real-questions": functools.partial(where_measured, "real_questions", real_questions),
    "kernels": kernels,
    "decode": decode,
    "fields": fields,
    "chip": chip,
    "noise-aware": noise_aware,
    "repairs": repairs,
    "romer": romer,
    "codec": codec,
    "noise-cost": noise_cost,
    "halora": halora,
    "splat": splat,
    "splat-parts": splat_parts,
    "splat-clones": splat_clones,
    "busy-neighbour": busy_neighbour,
    **{
        f"{block}{end}": functools.partial(where_measured, f"inpaint{end}", functools.partial(write, f"inpaint{end}"))
        for block, write in {"inpainting": inpainting, "inpainting-margins": inpainting_margins}.items()
        for end in ("", "-long")
    },
    "rasterizer": rasterizer,
    "gpu": gpu,
    "cores": cores,
    "rooms": rooms.overview,
    "systems-of-readme": lambda: systems.overview("docs/systems/"),
    "extras": extras,
    "gallery": gallery,
    "gallery-times": functools.partial(where_measured, "gallery", gallery_times),
    "systems": lambda: systems.overview(""),
    **{f"system-{name}": functools.partial(systems.claims, name) for name in systems.CLAIMS},
    **{name: functools.partial(where_measured, *block) for name, block in binary_tables.BLOCKS.items()},
    **{name: functools.partial(where_measured, name, block) for name, block in stream_tables.BLOCKS.items()},
    **{f"teach-{name}": functools.partial(where_measured, f"teach_{name}", block) for name, block in TEACH.items()},
    **{name: functools.partial(where_measured, needed, block) for name, (needed, block) in rtl_tables.BLOCKS.items()},
    **{name: functools.partial(where_measured, *block) for name, block in trust_tables.BLOCKS.items()},
    **{name: functools.partial(where_measured, *block) for name, block in chip_tables.BLOCKS.items()},
    **{name: functools.partial(where_measured, *block) for name, block in field_tables.BLOCKS.items()},
    "trust-versions": trust_tables.versions,
    "teach-random": functools.partial(where_measured, "teach_table", teach_random),
    "teach-sets": functools.partial(where_measured, "teach_table", teach_sets),
    "teach-equal": functools.partial(where_measured, "teach_table", teach_equal),
}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


PLOTTED = (
    "round to nearest",
    "clipped rounding",
    "hqq",
    "GPTQ",
    "auto-round",
    "trit-planes",
    "calibrated trit-planes",
)


def quantizers_plot() -> Plot:
    """Loss against true bits on tiny-llama, a line for each method in its larger groups."""
    losses = [row for row in rows("quantizers") if row.details["model"] == "tiny-llama" and row.metric == "loss"]
    series = []
    for kind in PLOTTED:
        points = [row for row in losses if row.details.get("kind") == kind and row.details["group_size"] != 43]
        if points:
            bits, values = (tuple(p.details["bits_per_weight"] for p in points), tuple(p.value for p in points))
            style = "dashed" if kind == "round to nearest" else "line"
            series.append(Series(label=kind, x=bits, y=values, style=style))
    intact = next(row.value for row in losses if row.condition == "unmodified")
    series.append(Series(label="unmodified", x=(1.7, 5.3), y=(intact, intact), style="dashed"))
    return Plot(
        title="tiny-llama: loss against true bits per weight",
        caption="scales and zero points counted; lower left is better",
        x_label="true bits per weight",
        y_label="loss [nats/token]",
        series=tuple(series),
    )


def written(text: str) -> str:
    """`text` of a page with its generated blocks made anew."""

    def block(found: re.Match[str]) -> str:
        return f"<!-- generated: {found[1]} -->\n{BLOCKS[found[1]]()}\n<!-- end: {found[1]} -->"

    return re.sub(r"<!-- generated: (\S+) -->.*?<!-- end: \1 -->", block, text, flags=re.DOTALL)


def shown() -> list[str]:
    """The names of the blocks on all pages."""
    return re.findall(r"<!-- generated: (\S+) -->", "".join(page.read_text(encoding="utf-8") for page in pages()))


def is_current() -> bool:
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    return sorted(shown()) == sorted(BLOCKS) and all(written(text) == text for text in texts)


def write() -> None:
    """The blocks of the README and of pages of docs, and the README's plots."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := written(text)) != text:
            write_text(page, new)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, figure in zip(PLOTS, record("survival").report.figures, strict=True):
        save_png(figure, IMAGES / f"{name}.png", dpi=110)
    save_png(quantizers_plot(), IMAGES / "quantizers.png", dpi=110)
    save_png(codec_plot(), IMAGES / "codec.png", dpi=110)
    save_png(real_quantizers_plot(), IMAGES / "real_quantizers.png", dpi=110)
    for name, figure in (rtl_tables.plots() | field_tables.plots()).items():
        save_png(figure, IMAGES / f"{name}.png", dpi=110)
    panels.save(IMAGES / "rooms.png")
