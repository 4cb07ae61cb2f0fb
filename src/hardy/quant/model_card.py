"""The README.md of a folder with a packed model: what it is, how good it is, and how to load it."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardy.quant.unpacking import PACKED
from hardy.report import Report

_LOAD = """```python
import hardy.quant  # teaches transformers the packed layers
from transformers import {kind}, AutoTokenizer

model = {kind}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

Without `import hardy.quant` transformers refuses the folder. Adapters of PEFT: `hardy.quant.lora`.
In a shell: `hardy generate {quoted} --prompt "..."`{chat}.
"""


def model_card(report: Report, folder: Path, *, name: str, base: str, sees: bool = False) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        report: of `hardy.studies.quantize`: rows of perplexity, size and bits per weight, and its settings.
        folder: where its files are.
        name: what the folder is called in the end.
        base: the name of the model that was quantized; of a path its last part is shown.
        sees: whether it is a language model that takes pictures as well.
    """
    base = Path(base).name if Path(base).exists() else base
    settings: Mapping[str, Any] = report.settings
    lines = ["---", "library_name: hardy", f"base_model: {json.dumps(base)}", "tags:", "- quantized", "---", ""]
    lines += [f"# {name}", "", f"`{base}`, stored in few bits by hardy: {settings.get('method', 'unknown')}."]
    perplexity = [(row.condition, f"{row.value:.2f}") for row in report.rows if row.metric == "perplexity"]
    size = [(row.condition, f"{row.value:.1f} MB") for row in report.rows if row.metric == "size"]
    bits = next((row.value for row in report.select("bits_per_weight", PACKED)), None)
    facts = [("calibrated on", settings.get("calibration", "none"))]
    if bits is not None:
        facts.append(("true bits per quantized weight, scales counted", f"{bits:.2f}"))
    facts += [(f"file, {condition}", value) for condition, value in size]
    facts += [(f"perplexity, {condition}", value) for condition, value in perplexity]
    facts.append(("perplexity measured on", f"{settings.get('text')}, {settings.get('tokens')} tokens"))
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts), ""]
    lines += [f"- {note}" for note in report.notes] + ([""] if report.notes else [])
    template = (folder / "chat_template.jinja").is_file() or _template_in(folder / "tokenizer_config.json")
    quoted, kind = shlex.quote(name), "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
    chat = f" or `hardy chat {quoted}`" if template else ""
    lines += ["## How to load it", "", _LOAD.format(folder=name, quoted=quoted, chat=chat, kind=kind)]
    lines += ["Layer by layer: `report.html`. The base model's licence holds for this one too.", ""]
    return "\n".join(lines)


def _template_in(file: Path) -> bool:
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("chat_template"))
