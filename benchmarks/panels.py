"""The README's picture: a panel for each room, drawn from committed results."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.harness.record import Record
from hardy.files import write_atomic
from hardy.report import Row

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c959f"


def row(result: str, metric: str, condition: str, **details: object) -> Row:
    """The one row of a result.

    Raises:
        ValueError: there are none, or several.
    """
    (found,) = (
        each
        for each in Record.read(result).report.select(metric, condition)
        if all(each.details.get(name) == value for name, value in details.items())
    )
    return found


def bars(ax: Axes, found: dict[str, tuple[Row, str]]) -> None:
    """A bar for each name, with its spread and its value."""
    names, values = list(found), [each.value for each, _ in found.values()]
    spreads = [each.spread or 0.0 for each, _ in found.values()]
    drawn = ax.bar(names, values, yerr=spreads, color=[color for _, color in found.values()], ecolor="#57606a")
    texts = [f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" for value in values]
    low = [value < max(values) / 12 for value in values]
    inside = ["" if each else text for each, text in zip(low, texts, strict=True)]
    above = [text if each else "" for each, text in zip(low, texts, strict=True)]
    ax.bar_label(drawn, inside, fontsize=7, label_type="center", color="white", fontweight="bold")
    ax.bar_label(drawn, above, fontsize=7, fontweight="bold")
    ax.tick_params("x", labelsize=7)


def study(ax: Axes) -> None:
    conditions = {"none": "none kept", "14 random": "14 random kept", "14 located": "14 most fragile kept"}
    colors = (GREY, GREY, BLUE)
    named = zip(conditions.items(), colors, strict=True)
    bars(ax, {name: (row("survival", "perplexity", f"2-bit rounding, {c}"), color) for (name, c), color in named})
    ax.set(title="study: layers kept from 2 bits", ylabel="perplexity")


def quant(ax: Axes) -> None:
    losses = [each for each in Record.read("quantizers").report.select("loss") if each.details["model"] == "tiny-llama"]
    for kind, color in (("round to nearest", GREY), ("GPTQ", ORANGE), ("calibrated trit-planes", BLUE)):
        points = [each for each in losses if each.details.get("kind") == kind and each.details["group_size"] == 128]
        points.sort(key=lambda each: float(each.details["bits_per_weight"] or 0))
        bits = [float(each.details["bits_per_weight"] or 0) for each in points]
        ax.plot(bits, [each.value for each in points], "o-", ms=3, color=color, label=kind)
    ax.legend(frameon=False, fontsize=6)
    ax.set(title="quant: true bits per weight", ylabel="loss [nats]")


def analog(ax: Axes) -> None:
    names = {
        "not\ntrained": "no fine-tuning",
        "trained\nplainly": "plain fine-tuning",
        "with the\nnoise": "full gradient",
    }
    colors = (GREY, GREY, BLUE)
    found = zip(names.items(), colors, strict=True)
    bars(ax, {name: (row("noise_aware-vision", "accuracy", c, noise=0.1), color) for (name, c), color in found})
    ax.set(title="analog: ResNet-20, 10 % noise", ylabel="accuracy [%]")


def fields(ax: Axes) -> None:
    order = {"relu": GREY, "wire": GREY, "gauss": GREY, "sine": GREY, "quad": BLUE}
    shown = {
        each.details["kind"]: each for each in Record.read("fields").report.select("psnr") if each.details["shown"]
    }
    bars(ax, {name: (shown[name], color) for name, color in order.items()})
    ax.set(title="fields: eight photographs", ylabel="PSNR [dB]")


def stream(ax: Axes) -> None:
    names = {
        "Dynamic-\nCache": ("dense", GREY),
        "4 bits": ("hardy, 4 bits", BLUE),
        "1,024 kept\nin 4 bits": ("hardy, 4 bits, at most 1024 tokens", BLUE),
    }
    bars(ax, {name: (row("stream-speed", "cache", f"{c} | 4096 tokens"), color) for name, (c, color) in names.items()})
    ax.set(title="stream: cache behind 4,096 tokens", ylabel="MB")


def binary(ax: Axes) -> None:
    names = {"float": GREY, "8-bit": GREY, "binary": BLUE}
    chip = "2 % stuck cells"
    bars(ax, {k: (row("binary_chip", "accuracy", f"{k} weights", chip=chip), color) for k, color in names.items()})
    ax.set(title="binary: 2 % of cells stuck", ylabel="accuracy [%]")


def splat(ax: Axes) -> None:
    names = {"vanilla": GREY, "reactivate": ORANGE, "global_to_local": BLUE}
    bars(
        ax,
        {
            name.replace("_to_", "_to_\n"): (row("splat-room-long", "pairs_to_vanilla", name, whole=True), color)
            for name, color in names.items()
        },
    )
    ax.set(title="splat: work to vanilla's PSNR", ylabel="share")


def interp(ax: Axes) -> None:
    scales = (-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)
    for direction, color in (("random 0", GREY), ("random 1", GREY), ("random 2", GREY), ("mean-difference", BLUE)):
        shifts = [row("interp-steer", "shift", f"sentiment, {direction}, scale {scale:g}").value for scale in scales]
        ax.plot(scales, shifts, "o-", ms=3, color=color, label="random" if direction == "random 0" else None)
    ax.lines[-1].set_label("sentiment")
    ax.legend(frameon=False, fontsize=6)
    ax.set(title="interp: steering SmolLM2-135M", xlabel="scale", ylabel="shift [nats]")


def teach(ax: Axes) -> None:
    names = {"random": GREY, "soft": ORANGE, "mix": BLUE}
    found = {name: row("teach_table", "MAE", f"generated graph-regression: {name}") for name in ("full", *names)}
    bars(ax, {name: (each, names.get(name, GREY)) for name, each in found.items()})
    ax.set(title="teach: half the samples, which?", ylabel="error")


def rtl(ax: Axes) -> None:
    names = {"CORDIC": "cordic-radians", "table": "sine-table", "quad": "quad-folded"}
    bars(
        ax,
        {
            name: (row("rtl", "transistors", f"{unit}, 16 bits"), BLUE if name == "quad" else GREY)
            for name, unit in names.items()
        },
    )
    ax.set(title="rtl: a 16-bit activation", ylabel="transistors")


PANELS: tuple[Callable[[Axes], None], ...] = (
    study, quant, analog, fields, stream, binary, splat, interp, teach, rtl,
)  # fmt: skip


def save(path: Path) -> None:
    """Draw all panels into a PNG."""
    with plt.rc_context({"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure, places = plt.subplots(2, 5, figsize=(12.6, 4.6), layout="constrained")
        for panel, ax in zip(PANELS, places.flat, strict=True):
            panel(ax)
            ax.yaxis.label.set_size(7)
            ax.tick_params("y", labelsize=7)
        write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
        plt.close(figure)
