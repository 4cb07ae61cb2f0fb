"""What `hardy quantize` takes, as a user runs it: seconds and memory of the command, on real models and at 8B.

Every arm is the command in a process of its own. Memory is looked at ten times a second: `anonymous` is what the
process holds, `resident` counts the pages of the model's file that are in memory as well, which the system takes back
when it needs them. The interpreter with torch and transformers is in both. "8B" has the shape of Llama 3 8B and random
weights, in files of 8 blocks; it is calibrated on 2,048 tokens of held-out modules, since a random model writes
nothing. Calibrated, it and the real model of 1.5B are stopped after their first blocks, and the rest is said as so many
times those.

    HARDY_REAL_MODELS=... python -m benchmarks run quantize_cost      (real models)
    HARDY_REAL_MODELS=... python -m benchmarks run quantize_cost-8b   (takes 25 GB of disk)
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.harness import NotMeasuredError, Result, Value, real_models, rows

LARGE = "8B shape"
SHAPE: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "dtype": "bfloat16",
}  # fmt: skip
PER_FILE = 8
REAL = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
STOPPED = ("qwen2.5-coder-1.5b",)
DEFAULT = "by default"
SETTINGS: dict[str, Sequence[str]] = {DEFAULT: (), "without data": ("--calibration", "none")}


def run(*, models: str = "", only: str = "", layers: int = 32, blocks: int = 1, work: Path | None = None) -> Result:
    """
    Args:
        models: folders, as HARDY_REAL_MODELS.
        only: names of models, with commas between them; "8B shape" is one.
        layers: of that one.
        blocks: so many blocks are calibrated of what is stopped.
        work: where finished arms are kept.
    """
    assert work is not None
    work.mkdir(parents=True, exist_ok=True)
    wanted = only.split(",") if only else [*REAL, LARGE]
    found, notes = [], []
    for name, folder in real_models(models).items():
        if name in wanted and name in REAL:
            for setting, options in SETTINGS.items():
                stop = blocks if name in STOPPED and setting == DEFAULT else None
                facts = kept(work / f"{name} {setting}.json", name, setting, [folder, *options], work, stop)
                if stop is not None:
                    of = AutoConfig.from_pretrained(folder).num_hidden_layers
                    facts |= extrapolated(facts, of)
                    notes.append(f"{name}, {setting}: {stop} of {of} blocks")
                found += rows(f"{name}, two planes, {setting}", {"model": name}, **facts)
    if LARGE in wanted:
        folder = work / "large"
        source = large(folder, layers) if not all((work / f"{LARGE} {arm}.json").is_file() for arm in _ARMS) else folder
        judged = ["--tokens", "256", "--window", "256"]
        for arm, options in _ARMS.items():
            stop = None if arm == "without data" else blocks
            facts = kept(work / f"{LARGE} {arm}.json", LARGE, arm, [source, *judged, *options], work, stop)
            if stop is not None:
                facts |= extrapolated(facts, layers)
                notes.append(f"{LARGE}, calibrated: {stop} of {layers} blocks")
            found += rows(f"{LARGE}, two planes, {arm}", {"model": LARGE, "layers": layers}, **facts)
        shutil.rmtree(folder, ignore_errors=True)
    if not found:
        raise NotMeasuredError(f"none of {', '.join(wanted)} is among the models")
    return Result(rows=found, seeds=[0], notes=notes)


_ARMS: dict[str, Sequence[str]] = {
    "without data": ("--calibration", "none"),
    "calibrated": ("--calibration", "held-out", "--calibration-tokens", "2048"),
}


def extrapolated(facts: Mapping[str, Value], blocks: int) -> dict[str, Value]:
    return {"hours_extrapolated": Value(facts["seconds_per_block"].value * blocks / 3600, "h")}


def kept(
    file: Path, name: str, arm: str, arguments: Sequence[Any], work: Path, blocks: int | None = None
) -> dict[str, Value]:
    """What a command took, or took in an earlier run."""
    if not file.is_file():
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out.with_name(".out.unfinished"), ignore_errors=True)
        facts = watched([str(each) for each in arguments], out, blocks)
        file.write_text(json.dumps(facts))
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out.with_name(".out.unfinished"), ignore_errors=True)
    facts = json.loads(file.read_text())
    print(f"{name}, {arm}: " + "  ".join(f"{key} {value:.4g}" for key, value in facts.items()), flush=True)
    return {key: Value(value, UNITS.get(key, "")) for key, value in facts.items()}


UNITS = {
    "seconds": "s", "processor_seconds": "s", "seconds_per_block": "s", "anonymous": "MB", "resident": "MB",
    "source": "MB", "packed": "MB", "estimate": "s",
}  # fmt: skip


def watched(arguments: Sequence[str], out: Path, blocks: int | None) -> dict[str, float]:
    """Run `hardy quantize` to its end, or until so many blocks are done."""
    source, *options = arguments
    command = [sys.executable, "-m", "hardy", "quantize", source, str(out), "--planes", "2", *options]
    begun = time.perf_counter()
    log = out.with_name("log.txt")
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written)
        facts = {"anonymous": 0.0, "resident": 0.0}
        ended: list[float] = []
        while (waited := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            for key, field in (("anonymous", "RssAnon"), ("resident", "VmRSS")):
                facts[key] = max(facts[key], _memory(process.pid, field))
            done = len(list(out.with_name(f".{out.name}.unfinished").glob("block-*.safetensors")))
            ended += [time.perf_counter()] * (done - len(ended))
            if blocks is not None and done > blocks:  # one more is finished, so that each has a beginning and an end
                process.terminate()  # an interrupt is ignored by what runs in the background
                _, status, usage = os.wait4(process.pid, 0)
                waited = (process.pid, status, usage)
                break
            time.sleep(0.1)
    _, status, usage = waited
    process.returncode = os.waitstatus_to_exitcode(status)
    if blocks is None and process.returncode:
        raise NotMeasuredError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    if blocks is not None:
        facts["seconds_per_block"] = (ended[-1] - ended[0]) / (len(ended) - 1)
    else:
        facts["packed"] = _size(out)
        facts["seconds"] = time.perf_counter() - begun
        facts["processor_seconds"] = usage.ru_utime + usage.ru_stime
    if estimate := re.search(r"about (\d+) (minute|second)", log.read_text()):
        facts["estimate"] = float(estimate[1]) * (60 if estimate[2] == "minute" else 1)
    return facts | {"source": _size(Path(source))}


def _memory(process: int, field: str) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(f"{field}:")), 0.0)


def _size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def large(folder: Path, layers: int) -> Path:
    """The folder of a model of that shape with random weights, written a few blocks at a time."""
    config = LlamaConfig(**{**SHAPE, "num_hidden_layers": layers})
    if (folder / "model.safetensors.index.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(next(iter(real_models("").values()))).save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()}
    generator, index = torch.Generator().manual_seed(0), {}

    def file_of(name: str) -> int:
        block = re.match(r"model\.layers\.(\d+)\.", name)
        return 0 if block is None else 1 + int(block[1]) // PER_FILE

    for number, names in itertools.groupby(sorted(shapes, key=file_of), file_of):
        file = f"model-{number}.safetensors"
        tensors = {
            name: torch.ones(shapes[name], dtype=torch.bfloat16)
            if len(shapes[name]) == 1
            else torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            for name in names
        }
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder
