"""Write the README's measured figures and plots from the committed results; a test says when they drift.

python benchmarks/readme.py
"""

import json
import re
from pathlib import Path

from hardy.core.files import write_text
from hardy.core.report import Report
from hardy.core.report.figures import save_png
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


def written(text: str) -> str:
    """`text` of the README with its generated blocks made anew."""
    for name, content in (("survival", survival_block()), ("zoo", zoo_block())):
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


if __name__ == "__main__":
    main()
