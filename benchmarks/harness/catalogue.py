"""Which benchmarks there are, the options their committed results were measured with, and what identifies a script."""

import ast
import hashlib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1]

ABLATIONS = "two trit-planes, calibrated, not rotated; GPTQ 3 bits, corrected and rotated"

# Results that are one of several of a script, or not measured with its defaults; all others are named as their script.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "binary_training": ("binary_training", {}),
    "binary_training-long": ("binary_training", {"steps": 150, "seeds": 1, "only": 4}),
    "binary_training-seeds": ("binary_training", {"others": 3, "around": True, "only": 4}),
    "calibrated-quality": ("calibrated", {"part": "quality"}),
    "calibrated-speed": ("calibrated", {"part": "speed"}),
    "circuit_survival": ("circuit_survival", {}),
    "circuit_survival-smollm2-budget": (
        "circuit_survival",
        {"model": "smollm2-135m", "only": "budget", "seeds": 2},
    ),
    "circuit_survival-smollm2-milder": (
        "circuit_survival",
        {"model": "smollm2-135m", "only": "budget", "seeds": 3, "low": 3, "high": 5, "noise": 0.15},
    ),
    "circuit_survival-smollm2-circuit": ("circuit_survival", {"model": "smollm2-135m", "only": "circuit"}),
    "codec": ("codec", {}),
    "codec-best": ("codec", {"presets": "best"}),
    "inpaint": ("inpaint", {}),
    "inpaint-long": (
        "inpaint",
        {"width": 96, "views": 20, "steps": 800, "later": 200, "budget": 4000, "scenes": "hovering; standing; wall"},
    ),
    "interp-edit": ("interp", {"part": "edit"}),
    "interp-edit-qwen": (
        "interp",
        {"part": "edit", "named": "qwen2.5-coder-0.5b", "examples": 6, "blocks": "3,6", "moments": 24},
    ),
    "interp-locate": ("interp", {"part": "locate"}),
    "interp-steer": ("interp", {"part": "steer"}),
    "lieq_real": ("lieq_real", {}),
    "lieq_real-milder": ("lieq_real", {"low": 3, "high": 5, "between": 4, "planes": False}),
    "minr": ("minr", {}),
    "minr-100": ("minr", {"counts": "100", "crop": 96, "seeds": 1}),
    "noise_aware-cost": ("noise_aware", {"part": "cost"}),
    "noise_aware-language": ("noise_aware", {"part": "language"}),
    "noise_aware-vision": ("noise_aware", {"part": "vision"}),
    "noise_trained-language": ("noise_trained", {"part": "language"}),
    "noise_trained-vision": ("noise_trained", {"part": "vision"}),
    "placement": ("placement", {}),
    "placement-bits": ("placement", {"levels": 8}),
    "placement-gemma3": ("placement", {"model": "gemma3-270m"}),
    "placement-smollm2": ("placement", {"model": "smollm2-135m"}),
    "quantize_cost": (
        "quantize_cost",
        {"only": "smollm2-135m,gemma3-270m,qwen2.5-coder-0.5b,qwen2.5-coder-1.5b"},
    ),
    "quantize_cost-8b": ("quantize_cost", {"only": "8B shape"}),
    "rasterize": ("rasterize", {"repetitions": 15, "reference": True}),
    **{
        f"real_chip-{part}-{short}": ("real_chip", {"part": part, "model": model})
        for part in ("simulate", "study", "sensitivity", "redundancy")
        for short, model in (("smollm2", "smollm2-135m"), ("gemma3", "gemma3-270m"))
    },
    "real_quantizers": ("real_quantizers", {"only": "smollm2-135m"}),
    "real_quantizers-gemma": ("real_quantizers", {"only": "gemma3-270m", "without": ABLATIONS}),
    "real_quantizers-auto-round": (
        "real_quantizers",
        {"only": "smollm2-135m", "arms": "auto-round (light) 3 bits"},
    ),
    "real_quantizers-low": (
        "real_quantizers",
        {
            "only": "smollm2-135m",
            "arms": "one trit-plane, calibrated; llama.cpp IQ2_XXS; three trit-planes, calibrated",
        },
    ),
    "real_quantizers-qwen": ("real_quantizers", {"only": "qwen2.5-coder-0.5b", "without": ABLATIONS}),
    "real_quantizers-qwen15": (
        "real_quantizers",
        {
            "only": "qwen2.5-coder-1.5b",
            "tokens": 1024,
            "threads": 2,
            "arms": "two trit-planes, calibrated; round to nearest 4 bits; hqq 3 bits; llama.cpp Q3_K",
        },
    ),
    "real_questions": (
        "real_quantizers",
        {
            "only": "smollm2-135m",
            "asked": 80,
            "tokens": 4096,
            "arms": "two trit-planes, calibrated; two trit-planes, calibrated and tuned; round to nearest 4 bits; "
            "llama.cpp Q3_K; llama.cpp Q4_K",
        },
    ),
    "real_reasoning-mild": ("real_reasoning", {"levels": "0.1"}),
    "real_reasoning-strong": ("real_reasoning", {"levels": "0.2"}),
    "real_reasoning-copies": ("real_reasoning", {"part": "copies", "levels": "0.2", "seeds": 8}),
    "robust": ("robust", {}),
    "robust-long": ("robust", {"steps": 1500}),
    "splat-fox-135": ("splat", {}),
    "splat-fox-135-long": (
        "splat",
        {"steps": 4000, "budget": 30000, "only": "vanilla,global_to_local,reactivate,both"},
    ),
    "splat-fox-270": ("splat", {"downscale": 1}),
    "splat-room": ("splat", {"scene": "room", "steps": 1000, "budget": 20000}),
    "splat-room-long": ("splat", {"scene": "room", "steps": 5000, "budget": 20000}),
    "splat-room-unlimited": ("splat", {"scene": "room", "steps": 1000}),
    "steering_survival": ("steering_survival", {}),
    "steering_survival-smollm2": ("steering_survival", {"model": "smollm2-135m", "seeds": 2}),
    "stream-growth": ("stream", {"part": "growth"}),
    "stream-long": (
        "stream",
        {"part": "quality", "scorers": "all", "peers": True, "seeds": 2, "tokens": 1024, "budget": "6MB"},
    ),
    "stream-quality": ("stream", {"part": "quality"}),
    "stream-speed": ("stream", {"part": "speed"}),
    "stream-vision": ("stream_vision", {"part": "quality", "rooms": 3}),
    "stream-vision-speed": ("stream_vision", {"part": "speed"}),
    "stream-vision-whole": ("stream_vision", {"part": "whole"}),
    "teach_tokens": ("teach_tokens", {}),
    "teach_tokens-rubbish": ("teach_tokens", {"rubbish": 0.1}),
    "teach_tokens-smollm2": (
        "teach_tokens",
        {"model": "smollm2-135m", "epochs": 3, "count": 24, "rate": 2e-5, "judged": 16, "bfloat16": True, "seeds": 2},
    ),
}
SCRIPTS = {script for script, _ in VARIANTS.values()}


class NotMeasuredError(Exception):
    """A benchmark, or a part of one, that cannot run here: data, a package or a machine is missing."""


def names() -> list[str]:
    """Of every result that can be measured."""
    whole = {path.stem for path in FOLDER.glob("*.py") if has_run(path)} - SCRIPTS
    return sorted({*whole, *VARIANTS})


def of(name: str) -> tuple[str, dict[str, Any]]:
    """The script of a result, and its options.

    Raises:
        KeyError: there is no such benchmark.
    """
    if name not in names():
        raise KeyError(name)
    return VARIANTS.get(name, (name, {}))


def tree(script: str) -> ast.Module:
    return ast.parse((FOLDER / f"{script}.py").read_text(encoding="utf-8"))


def has_run(path: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree(path.stem).body)


def title(script: str) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(tree(script)) or script).splitlines()[0]


def sha256(script: str) -> str:
    """Of the code of a script and of the benchmarks it imports from: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in sorted(_with_imports(script, set())):
        digest.update(f"{name}: {_code(tree(name))}\n".encode())
    return digest.hexdigest()


def _with_imports(script: str, seen: set[str]) -> set[str]:
    seen.add(script)
    for node in ast.walk(tree(script)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "benchmarks":
            for name in (str(node.module).partition(".")[2], *(alias.name for alias in node.names)):
                if name not in seen and (FOLDER / f"{name}.py").is_file():
                    _with_imports(name, seen)
    return seen


def _code(node: Any) -> str:
    """A text of the syntax tree that is the same in every version of Python: without empty fields and docstrings."""
    if isinstance(node, list):
        return "[" + ",".join(map(_code, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    return f"{type(node).__name__}({','.join(f'{name}={_code(value)}' for name, value in fields.items())})"
