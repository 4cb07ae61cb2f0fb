"""What the page of interpretability shows: heads, edits, autoencoders, circuits and directions on few bits."""

import dataclasses
import functools
from collections.abc import Callable

from benchmarks.harness.record import rows
from benchmarks.harness.tables import Cell, of_columns


def located_heads() -> str:
    columns: dict[str, Cell] = {
        "behaviour: located by": "{condition}",
        "effect lost without the top 10": "{effect_lost:.2f}",
        "Spearman with patching": "{spearman_with_patching.value:.2f}",
        "first head of patching among the top 10": "{best_patched_in_top_10.value:.0f}",
    }
    found = [row for row in rows("interp-locate") if row.metric in ("effect_lost", "spearman_with_patching",
                                                                   "best_patched_in_top_10")]  # fmt: skip
    return of_columns(columns, found)


def edits(name: str) -> str:
    columns: dict[str, Cell] = {
        "edit": "{condition}",
        "efficacy": "{efficacy:.2f}",
        "paraphrase": "{paraphrase:.2f}",
        "locality": "{locality:.2f}",
        "divergence on other text, nats/token": "{divergence:.3f}",
    }
    return of_columns(columns, [row for row in rows(name) if row.metric != "facts_known"])


def planted() -> str:
    columns: dict[str, Cell] = {
        "what": "{condition}",
        "measured": "{value.value:.3g}",
        "needed": "{needed}",
        "control": "{control.value:.3g}",
    }
    return of_columns(columns, rows("interp_planted"))


def circuits(name: str) -> str:
    columns: dict[str, Cell] = {
        "condition": "{condition}",
        "score kept": "{score_kept:.2f}",
        "right": "{accuracy.value:.2f}",
        "heads, Spearman": "{heads_spearman:.2f}",
        "top 10 shared": "{heads_shared.value:.2f}",
        "by chance": "{heads_shared_by_chance.value:.2f}",
        "edges, Spearman": "{edges_spearman:.2f}",
        "top 5 % shared": "{edges_shared.value:.2f}",
        "old circuit": "{old_circuit:.2f}",
        "own circuit": "{new_circuit:.2f}",
        "random edges": "{random_edges.value:.2f}",
    }
    found = [row for row in rows(name) if row.metric in CIRCUIT_METRICS and ": " not in row.condition]
    return of_columns(columns, found)


CIRCUIT_METRICS = (
    "score_kept", "accuracy", "heads_spearman", "heads_shared", "heads_shared_by_chance", "edges_spearman",
    "edges_shared", "old_circuit", "new_circuit", "random_edges",
)  # fmt: skip  # fmt: skip


def steering(name: str) -> str:
    columns: dict[str, Cell] = {
        "condition": "{condition}",
        "old vector, nats": "{old vector effect:.2f}",
        "own vector": "{own vector effect:.2f}",
        "random vectors, size": "{random vectors effect:.2f}",
        "dose and response, Spearman": "{old vector dose response.value:.2f}",
        "side effect of the old vector, nats/token": "{old vector divergence:.2f}",
        "of random ones": "{random vectors divergence:.2f}",
        "cosine of old and own": "{cosine of old and own vector:.2f}",
    }
    found = [dataclasses.replace(row, metric=row.metric.replace(":", "")) for row in rows(name)]
    return of_columns(columns, found)


def located_budget(name: str) -> str:
    columns: dict[str, Cell] = {
        "budget, by": "{condition}",
        "score kept": "{score_kept:.2f}",
        "loss added, nats/token": "{loss_increase:.3f}",
    }
    found = [row for row in rows(name) if ": " in row.condition]
    return of_columns(columns, found)


def autoencoders() -> str:
    """What each explains and keeps of the model on two kinds of text, and what it costs."""
    columns: dict[str, Cell] = {"": "{arm}"}
    for text in ("prose", "code"):
        at = f"at[text={text}]"
        columns |= {
            f"{text}: explained": f"{{{at}.explained.value:.3f}}",
            f"{text}: loss, nats/token": f"{{{at}.loss.value:.2f}}",
            f"{text}: loss kept": f"{{{at}.loss_kept.value:.3f}}",
            f"{text}: on": f"{{{at}.on.value:.0f}}",
        }
    found = rows("interp_sae")
    return of_columns(columns, [row for row in found if "text" in row.details], by=("arm",))


def features() -> str:
    found = [row for row in rows("interp_sae") if row.condition.startswith("indirect objects")]
    columns: dict[str, Cell] = {
        "effect of indirect objects lost": "{condition}",
        "without the ten": "{effect_lost.value:.2f}",
        "without ten at random": "{without_random:.2f}",
        "without ten by shuffled answers": "{without_shuffled.value:.2f}",
    }
    return of_columns(columns, found, by=("condition",))


def autoencoder_on_few_bits() -> str:
    found = [row for row in rows("interp_sae") if row.metric in ("explained", "same_features") and not row.details]
    columns: dict[str, Cell] = {
        "model": "{condition}", "explained": "{explained.value:.3f}", "features still on": "{same_features.value:.2f}"
    }  # fmt: skip
    return of_columns(columns, found, by=("condition",))


def _of(name: str, block: Callable[[str], str]) -> tuple[str, Callable[[], str]]:
    return name, functools.partial(block, name)


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "interp-locate": ("interp-locate", located_heads),
    "interp-planted": ("interp_planted", planted),
    "interp-edit": _of("interp-edit", edits),
    "interp-edit-qwen": _of("interp-edit-qwen", edits),
    "interp-autoencoders": ("interp_sae", autoencoders),
    "interp-features": ("interp_sae", features),
    "interp-autoencoder-bits": ("interp_sae", autoencoder_on_few_bits),
    "circuit-smollm2": _of("circuit_survival-smollm2-circuit", circuits),
    "circuit-tiny": _of("circuit_survival", circuits),
    "steering-smollm2": _of("steering_survival-smollm2", steering),
    "steering-planted": _of("steering_survival", steering),
    "located-budget": _of("circuit_survival", located_budget),
    "located-budget-smollm2": _of("circuit_survival-smollm2-budget", located_budget),
    "located-budget-smollm2-milder": _of("circuit_survival-smollm2-milder", located_budget),
}
