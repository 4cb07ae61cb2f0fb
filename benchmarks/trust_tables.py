"""What the page of promises shows: mutated files, killed commands, and the versions that the tests passed with."""

import json
from collections.abc import Callable

from benchmarks.harness.catalogue import FOLDER
from benchmarks.harness.record import Record
from benchmarks.harness.tables import Lines, table

PROVEN = FOLDER.parent / ".ci" / "proven.json"
KEY_PACKAGES = ("torch", "transformers", "numpy", "safetensors")


def fuzz() -> str:
    """All formats in one sentence, and each in a line."""
    found = Record.read("fuzz")
    rows = [row for row in found.report.rows if row.condition != "all formats"]
    cases, faults = (
        next(row.value for row in found.report.rows if (row.condition, row.metric) == ("all formats", metric))
        for metric in ("cases", "faults")
    )
    columns = {
        "format": "{condition}", "cases": "{cases.value:,.0f}", "read all the same": "{read.value:,.0f}",
        "slowest, s": "{slowest.value:.2f}", "tracebacks": "{traceback.value:.0f}",
        "file not named": "{unnamed.value:.0f}", "over 10 s": "{hang.value:.0f}", "over 1 GB": "{memory.value:.0f}",
    }  # fmt: skip
    said = (
        f"{cases:,.0f} mutated files of {found.report.settings['formats']} formats, {faults:.0f} faults ({found.date})."
    )
    return f"{said}\n\n{table(tuple(columns), Lines(rows=rows, cells=tuple(columns.values())))}"


def kills() -> str:
    columns = {
        "command": "{condition}", "kills": "{kills.value:.0f}", "of them at a step on files": "{on_files.value:.0f}",
        "SIGKILL": "{SIGKILL}", "SIGINT": "{SIGINT}", "SIGTERM": "{SIGTERM}",
        "files compared": "{files.value:.0f}", "byte for byte": "{same_bytes.value:.0f}",
        "rerun failed": "{failed.value:.0f}", "file differs": "{differs.value:.0f}",
        "left over": "{left_over.value:.0f}", "rude to Ctrl-C": "{rude.value:.0f}",
    }  # fmt: skip
    found = Record.read("kills")
    return table(tuple(columns), Lines(rows=found.report.rows, cells=tuple(columns.values())))


def versions() -> str:
    """What .ci/floors recorded."""
    if not PROVEN.is_file():
        return "Not tried yet: `.ci/floors lowest 3.10`."
    head = ("versions", "Python", *KEY_PACKAGES, "parts of the suite", "passed", "skipped", "date", "commit")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, run in json.loads(PROVEN.read_text(encoding="utf-8")).items():
        which, python = name.split()
        packages = [run["versions"][package] for package in KEY_PACKAGES]
        cells = [
            which,
            python,
            *packages,
            f"{len(run['parts'])} of {run['of']}",
            f"{run['passed']:,}",
            f"{run['skipped']:,}",
            run["date"],
            *run["commits"][-1:],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {"trust-fuzz": ("fuzz", fuzz), "trust-kills": ("kills", kills)}
"""By the name of the block: the result it needs, and what writes it."""
