"""Real models and two kinds of real text, from outside the project: benchmarks that need them say so without them."""

import os
from collections.abc import Sequence
from pathlib import Path

import hardy
from benchmarks.harness.catalogue import FOLDER, NotMeasuredError

SHARED = FOLDER.parents[1] / "shared" / "data"
VARIABLE = "HARDY_REAL_MODELS"

TEXTS = ("prose", "code")
"""Encyclopedia articles (WikiText-2) and Python (the standard library); what is calibrated on one is judged on both."""


def real_models(folders: str | Sequence[str] = "") -> dict[str, Path]:
    """Hugging Face folders by name: those given, else those in HARDY_REAL_MODELS, several divided as in PATH.

    A folder without a config.json is searched one level down.

    Raises:
        NotMeasuredError: neither names a model.
    """
    given = folders or os.environ.get(VARIABLE, "")
    paths = [Path(part) for part in (given.split(os.pathsep) if isinstance(given, str) else given) if part]
    found: dict[str, Path] = {}
    for path in paths:
        inside = [path] if (path / "config.json").is_file() else sorted(p.parent for p in path.glob("*/config.json"))
        if not inside:
            raise NotMeasuredError(f"no model is in {path}")
        found |= {folder.name: folder for folder in inside}
    if not found:
        raise NotMeasuredError(f"no real model: name a folder, or set {VARIABLE}")
    return found


def text_of(kind: str, part: str = "evaluation") -> str:
    """Text of one of the kinds in TEXTS to judge on, or with "calibration" to calibrate on.

    Raises:
        NotMeasuredError: WikiText-2 is not beside the checkout.
        ValueError: there is no such kind or part.
    """
    if kind not in TEXTS or part not in ("evaluation", "calibration"):
        raise ValueError(f"a text is one of {TEXTS}, for evaluation or calibration, got {kind!r}, {part!r}")
    if kind == "code":
        return hardy.zoo.held_out_text(part)
    file = SHARED / "text" / "wikitext2" / {"evaluation": "test.txt", "calibration": "valid.txt"}[part]
    if not file.is_file():
        raise NotMeasuredError(f"no prose: {file} is not there")
    return file.read_text(encoding="utf-8")
