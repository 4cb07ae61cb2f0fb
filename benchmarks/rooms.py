"""The README's table of rooms: what each does, and one figure of it with its control, out of committed results."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness.record import Record
from benchmarks.panels import row


@dataclass(frozen=True)
class Room:
    """A line: the link to its page, what the room does, its figure, and the page that has all of them."""

    link: str
    what: str
    figure: Callable[[], str]
    results: str = ""


def value(result: str, metric: str, condition: str, **details: object) -> float:
    return row(result, metric, condition, **details).value


def study() -> str:
    noisy, located, random = (
        value("real_chip-study-smollm2", "perplexity", f"noise of 0.05 absmax, {kept} kept")
        for kept in ("none", "3 most fragile", "3 random")
    )
    intact = value("real_chip-study-smollm2", "perplexity", "unmodified")
    return (
        f"SmolLM2-135M, 5 % noise: perplexity {noisy:.1f}; 3 located layers kept: {located:.1f}; 3 random: "
        f"{random:.1f}; unmodified {intact:.1f}"
    )


def quant() -> str:
    found = {
        name: row("real_quantizers-gemma", "perplexity_prose", name, model="gemma3-270m")
        for name in ("two trit-planes, calibrated", "llama.cpp Q3_K", "unmodified")
    }
    bits = value("real_quantizers-gemma", "bits_per_weight", "two trit-planes, calibrated", model="gemma3-270m")
    planes, rival, intact = (each.value for each in found.values())
    return (
        f"Gemma 3 270M, {bits:.2f} bits: perplexity {planes:.0f}, llama.cpp's Q3_K {rival:.0f}, unmodified {intact:.0f}"
    )


def analog() -> str:
    trained, plain = (
        value("noise_aware-vision", "accuracy", name, noise=0.1) for name in ("full gradient", "plain fine-tuning")
    )
    return f"10 % noise, ResNet-20: {trained:.1f} % trained for it, {plain:.1f} % as long without"


def fields() -> str:
    found = Record.read("codec").report.select("bd_rate", "hardy, default")
    means = {each.details["against"]: each.value for each in found if "photo" not in each.details}
    jpeg, webp = (f"{-means[name]:.0f} %" for name in ("JPEG 4:4:4", "WebP"))
    return f"Kodak 1 to 8: {jpeg} fewer bytes than JPEG, {webp} fewer than WebP"


def stream() -> str:
    ratio = value("stream-speed", "time_of_dense", "hardy, 4 bits | 4096 tokens")
    return f"behind 4,096 tokens at 4 bits: {ratio:.2f} of `DynamicCache`'s time"


def binary() -> str:
    ours, dense = (
        value("binary_chip", "accuracy", f"{kind} weights", chip="2 % stuck cells") for kind in ("binary", "float")
    )
    return f"2 % of cells stuck: binary {ours:.1f} %, float {dense:.1f} %"


def splat() -> str:
    work = [
        value(f"splat-{scene}", "pairs_to_vanilla", "global_to_local")
        for scene in ("fox-135", "fox-135-long", "fox-270", "room", "room-long")
    ]
    return f"vanilla's PSNR with {min(work):.0%} to {max(work):.0%} of its work".replace("%", " %")


def interp() -> str:
    worst = value("interp_peers", "largest_difference", "attribution of heads")
    ratio = value("interp_peers", "ratio", "hardy / TransformerLens, patching")
    return f"SmolLM2-135M: TransformerLens' attributions to {worst:.0e}, patching in {ratio:.2f} of its time".replace(
        "e-0", "e-"
    )


def teach() -> str:
    names = {arm: f"graph-regression: {arm}" for arm in ("full", "random", "batch")}
    full, random, batch = (value("teach_paper", "MAE", name) for name in names.values())
    share = value("teach_paper", "CPU seconds", names["random"]) / value("teach_paper", "CPU seconds", names["full"])
    return (
        f"{share:.0%} of full training's time by the schedule; error {full:.3f}, random {random:.3f}, the paper's rule "
        f"{batch:.3f}"
    ).replace("%", " %")


def rtl() -> str:
    ours, cordic, table = (
        value("rtl", "transistors", f"{unit}, 16 bits") for unit in ("quad-folded", "cordic-radians", "sine-table")
    )
    return f"a 16-bit quadratic unit: {ours:,.0f} transistors, CORDIC {cordic:,.0f}, a table of sines {table:,.0f}"


def trust() -> str:
    files, faults = (value("fuzz", metric, "all formats") for metric in ("cases", "faults"))
    return f"{files:,.0f} mutated files: {'no' if not faults else round(faults)} fault"


def gpu() -> str:
    shape = {"rows": 14336, "columns": 4096, "tokens": 1}
    int4, half = (value("gpu", metric, "hardy, 2 planes", **shape) for metric in ("of_int4", "of_bfloat16"))
    return f"one token, two planes, 14336 x 4096: {int4:.2f} of torch's int4, {half:.2f} of bfloat16"


ROOMS = (
    Room("[study](docs/study.md)", "how a model survives, where it breaks, what protection buys", study, "chips"),
    Room("[quant](docs/quantize.md)", "trit-planes, GPTQ, bits by layer, packed models", quant, "quantization"),
    Room(
        "[analog](docs/chip.md)",
        "models on memory cells; [repairs](docs/repair.md), [training](docs/noise_aware.md), "
        "[reasoning](docs/reasoning.md)",
        analog,
        "chips",
    ),
    Room(
        "[fields](docs/fields.md)",
        "signals as small networks, exact in integers; [a codec](docs/codec.md)",
        fields,
        "fields",
    ),
    Room("[stream](docs/stream.md)", "caches of language models and videos within a budget, packed", stream),
    Room("[binary](docs/binary.md)", "one-bit weights, few-bit activations", binary),
    Room("[splat](docs/splat.md)", "3D Gaussians on a CPU, [holes filled](docs/inpaint.md)", splat, "splats"),
    Room("[interp](docs/interpret.md)", "heads, neurons and streams located, steered, edited", interp),
    Room("[teach](docs/teach.md)", "training on what still teaches", teach),
    Room("[rtl](docs/rtl.md)", "fields and activation units as Verilog", rtl),
    Room("[trust](docs/trust.md)", "what is promised of files and readers", trust),
    Room("[GPU, cores](docs/gpu.md)", "the same bits on CUDA and on every thread", gpu),
)


def overview() -> str:
    lines = ["| room | what it does | a figure, and its control |", "|---|---|---|"]
    for room in ROOMS:
        more = f" ([all](docs/results/{room.results}.md))" if room.results else ""
        lines.append(f"| {room.link} | {room.what} | {room.figure()}{more} |")
    return "\n".join(lines)
