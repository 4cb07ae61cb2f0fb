"""What the pages of chips and repairs show: HPD's regimes, training at a fair budget, published models, placement."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from benchmarks.harness.record import rows
from benchmarks.harness.tables import Cell, of_columns


def hpd_regimes() -> str:
    """The median perplexity of each split, and the error that the law expects of it beside that of the layer."""
    found = [row for row in rows("hpd_regimes") if row.condition != "unmodified"]
    columns = {"on the chip": "{placement}", "noise": "{noise} {strength:g}"}
    for name in dict.fromkeys(row.condition for row in found):
        columns[name] = f"{{at[{name}].perplexity.value:.4g}}"
        if name != "as it is":
            columns[f"law, {name}"] = f"{{at[{name}].expected_error.value:.2f}}"
    return of_columns(columns, found, by=("placement", "noise", "strength"))


def hpd_real() -> str:
    columns = {
        "": "{condition}", "layers split": "{split_layers.value:.0f}", "loss": "{loss:.3f}",
        "perplexity": "{perplexity.value:.4g}", "gained, nats/token": "{gained:.3f}",
    }  # fmt: skip
    return of_columns(columns, rows("hpd_real"), by=("condition",))


def hpd(name: str, splits: Mapping[str, str]) -> str:
    """Perplexity under each noise, as it is and with what is split; a chip has no strength but its own."""
    columns: dict[str, Cell] = {
        "noise": ("{noise} {strength:.3g}", "{noise}"),
        "as it is": "{at[noisy].perplexity:.2f}",
    }
    columns |= {label: f"{{at[{split}].perplexity:.2f}}" for label, split in splits.items()}
    found = [row for row in rows(name) if row.condition != "unmodified"]
    own = [{key: value for key, value in row.details.items() if (key, value) != ("strength", 1)} for row in found]
    found = [dataclasses.replace(row, details=details) for row, details in zip(found, own, strict=True)]
    return of_columns(columns, found, by=("noise", "strength"))


ALL_SPLIT = {
    "all output projections": "HPD all output projections, scaled",
    "the same, plain columns": "HPD all output projections, plain",
    "by a Hadamard matrix": "all output projections, Hadamard",
}
OF_MAMBA = {
    "last split": "HPD last",
    "a random one": "HPD random",
    **ALL_SPLIT,
    "all inputs and outputs": "HPD every input and output projection, scaled",
}
OF_RWKV = {"last split": "HPD last, scaled", "a random one": "HPD random, scaled", **ALL_SPLIT}


def noise_trained(part: str, metric: str, digits: int) -> str:
    columns = {"training": "{condition}", "rate": "{learning_rate:g}", "CPU seconds": "{cpu_seconds.value:.0f}"}
    shown = {"none": "no noise", "additive 0.05": "additive 5 %", "additive 0.1": "additive 10 %", "simulator": "chip"}
    columns |= {f"{metric}, {words}": f"{{at[noise={name}].{metric}:.{digits}f}}" for name, words in shown.items()}
    return of_columns(columns, rows(f"noise_trained-{part}"))


def simulated(model: str) -> str:
    columns = {
        "": "{condition}", "perplexity": "{perplexity:.4g}", "loss": "{loss:.3f}", "chip instances": "{loss.n}"
    }  # fmt: skip
    found = [row for row in rows(f"real_chip-simulate-{model}") if row.metric in ("perplexity", "loss")]
    return of_columns(columns, found)


def studied(model: str) -> str:
    columns = {
        "": "{condition}", "true bits per weight": "{bits_per_weight:.2f}", "perplexity": "{perplexity:.4g}",
        "n": "{perplexity.n}",
    }  # fmt: skip
    return of_columns(columns, [row for row in rows(f"real_chip-study-{model}") if row.metric == "perplexity"])


def sensitivity(model: str) -> str:
    """Kinds of projections and blocks, the most sensitive first."""
    found = [row for row in rows(f"real_chip-sensitivity-{model}") if row.metric == "lost"]
    columns = {
        "": "{unit}", "noisy alone": "{condition}", "lost, nats/token": "{lost:.4f}", "chip instances": "{lost.n}",
        "sign certain": "{certain}",
    }  # fmt: skip
    return of_columns(columns, found, by=("unit", "condition"), order="lost")


def redundancy_of_tiny_llama() -> str:
    """The median perplexity of each choice of layers under each noise."""
    found = [row for row in rows("redundancy") if row.condition != "unmodified"]
    noises = dict.fromkeys(str(row.details["noise"]) for row in found)
    columns = {"layers copied": "{condition}", "arrays": "{arrays:.0f}"}
    columns |= {noise: f"{{at[noise={noise}].perplexity:.2f}}" for noise in noises}
    return of_columns(columns, found, by=("condition",))


def redundancy(model: str) -> str:
    columns = {
        "noise": "{noise}", "three copies of": "{condition}", "loss": "{loss:.3f}",
        "perplexity": "{perplexity.value:.4g}", "gained": "{gained.value:.3f}",
        "± standard error": "{gained_error.value:.3f}",
    }  # fmt: skip
    found = rows(f"real_chip-redundancy-{model}")
    return of_columns(columns, found, by=("noise", "condition"))


def reasoning(part: str) -> str:
    columns = {
        "": "{condition}", "right": "{accuracy:.2f}", "tokens": "{tokens:.1f}", "without an end": "{unfinished:.2f}",
    }  # fmt: skip
    found = [row for row in rows(f"real_reasoning-{part}") if row.metric in ("accuracy", "tokens", "unfinished")]
    return of_columns(columns, found)


def placement(name: str) -> str:
    columns = {
        "energy at most": "{budget:g}", "": "{condition}", "lost, nats/token": "{lost:.4f}",
        "energy": "{energy.value:.2f}", "arrays": "{arrays.value:.0f}", "digital": "{digital_matrices.value:.0f}",
        "in copies": "{copied_matrices.value:.0f}",
    }  # fmt: skip
    if name.endswith("bits"):
        columns["in two pairs of cells"] = "{sliced_matrices.value:.0f}"
    return of_columns(columns, rows(name), by=("budget", "condition"))


def speed() -> str:
    columns = {
        "": "{part}", "contender": "{condition}", "ms": "{milliseconds.value:.1f}",
        "times": "{ratio_of_median.value:.2f}",
    }  # fmt: skip
    return of_columns(columns, rows("chip_speed"), by=("part", "condition"))


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "hpd": ("hpd", functools.partial(hpd, "hpd", OF_MAMBA)),
    "hpd-rwkv": ("hpd_rwkv", functools.partial(hpd, "hpd_rwkv", OF_RWKV)),
    "redundancy": ("redundancy", redundancy_of_tiny_llama),
    "hpd-real": ("hpd_real", hpd_real),
    "hpd-regimes": ("hpd_regimes", hpd_regimes),
    "noise-trained-vision": ("noise_trained-vision", functools.partial(noise_trained, "vision", "accuracy", 1)),
    "noise-trained-language": ("noise_trained-language", functools.partial(noise_trained, "language", "perplexity", 2)),
    **{
        f"real-{part}-{model}": (f"real_chip-{part}-{model}", functools.partial(block, model))
        for model in ("smollm2", "gemma3")
        for part, block in {
            "simulate": simulated,
            "study": studied,
            "sensitivity": sensitivity,
            "redundancy": redundancy,
        }.items()
    },
    **{
        f"real-reasoning-{part}": (f"real_reasoning-{part}", functools.partial(reasoning, part))
        for part in ("mild", "strong", "copies")
    },
    **{
        name: (name, functools.partial(placement, name))
        for name in ("placement", "placement-bits", "placement-smollm2", "placement-gemma3")
    },
    "chip-speed": ("chip_speed", speed),
}
"""By the name of the block: the result it needs, and what writes it."""
