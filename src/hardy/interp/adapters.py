"""What a located fine-tuning changed, as an adapter of PEFT; and a LoRA adapter of anybody as a task vector.

A change of some rows or columns of a matrix is a product of as many columns and rows, so the adapter (LoRA, Hu et al.
2022) gives the tuned weights back, not something near them, and every program that reads LoRA takes it. PEFT has no
form for interventions on activations such as LoReFT; `hardy.save` keeps those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hardy import checks
from hardy.core.roles import is_linear, is_transposed
from hardy.errors import InputError
from hardy.files import read_json, write_atomic, write_json
from hardy.interp.task_vectors import save_vector
from hardy.reading import reading

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def write_adapter(base: nn.Module, tuned: nn.Module, folder: str | Path, *, name: str = "") -> Path:
    """Write what differs between two models as a LoRA adapter of PEFT, exactly.

    Args:
        base: the model as it was, such as a copy made before.
        tuned: of the same architecture, with some matrices changed in some rows or columns.
        folder: of adapter_config.json and adapter_model.safetensors.
        name: of the base model, as PEFT is to load it.

    Raises:
        InputError: other parameters than matrices of linear layers differ, or nothing does.
    """
    before, after = (dict(model.named_parameters()) for model in (base, tuned))
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in after.items()}:
        raise InputError(f"{type(base).__name__} and {type(tuned).__name__} have parameters of other names or shapes")
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    kinds: set[bool] = set()
    for parameter, old in before.items():
        change = after[parameter].detach().float().cpu() - old.detach().float().cpu()
        if not change.any():
            continue
        module, _, attribute = parameter.rpartition(".")
        layer = base.get_submodule(module)
        if attribute != "weight" or not is_linear(layer):
            raise InputError(
                f"{parameter} was changed, and LoRA holds matrices of linear layers: use write_task_vector"
            )
        kinds.add(is_transposed(layer))
        matrix = checks.finite(parameter, change.mT if is_transposed(layer) else change)
        inner, outer = factors(matrix)
        ranks[module] = len(inner)
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = inner.contiguous()
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = outer.contiguous()
    if not tensors:
        raise InputError("the two models are the same: there is nothing to write")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": name, "inference_mode": True,
        "target_modules": sorted(ranks), "r": max(ranks.values()), "lora_alpha": max(ranks.values()),
        "rank_pattern": ranks, "alpha_pattern": ranks, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": kinds == {True},
    }  # fmt: skip
    write_atomic(Path(folder) / WEIGHTS, lambda temporary: save_file(tensors, temporary, {"format": "pt"}))
    write_json(Path(folder) / CONFIG, config)
    return Path(folder)


def factors(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors whose product `outer @ inner` is a matrix that is 0 but for some rows or columns, to the last bit.

    Args:
        matrix: (out, in).

    Returns:
        (rank, in) and (out, rank), the rank being how many rows, or columns if they are fewer, are not 0.
    """
    rows, columns = (matrix.any(axis).nonzero().flatten() for axis in (1, 0))
    if len(rows) <= len(columns):
        outer = torch.zeros(len(matrix), len(rows))
        outer[rows, torch.arange(len(rows))] = 1
        return matrix[rows], outer
    inner = torch.zeros(len(columns), matrix.shape[1])
    inner[torch.arange(len(columns)), columns] = 1
    return inner, matrix[:, columns]


def adapter_task_vector(folder: str | Path, model: nn.Module, path: str | Path) -> Path:
    """Write a LoRA adapter of PEFT as a task vector, which `TaskVectors` adds, takes away and merges.

    Args:
        folder: of the adapter.
        model: that it is of.
        path: of the task vector.

    Raises:
        InputError: the folder holds no plain LoRA, or one of another model.
    """
    folder = Path(folder)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"{folder} holds no adapter: {file} is missing")
    with reading(folder / CONFIG):
        config = dict(read_json(folder / CONFIG))
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        kind = "DoRA" if config.get("use_dora") else f"{config.get('peft_type')}, bias {config.get('bias')}"
        raise InputError(f"{folder} must hold a plain LoRA adapter without biases, got {kind}")
    with reading(folder / WEIGHTS), safe_open(folder / WEIGHTS, "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a mapping
    parameters = dict(model.named_parameters())
    found: dict[str, torch.Tensor] = {}
    for key, inner in tensors.items():
        if not key.endswith(".lora_A.weight"):
            if not key.endswith(".lora_B.weight"):
                raise InputError(f"{folder} must hold a plain LoRA adapter, got {key}")
            continue
        module = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        outer, weight = tensors.get(key.replace("lora_A", "lora_B")), parameters.get(f"{module}.weight")
        if outer is None or weight is None:
            missing = "its lora_B" if outer is None else f"a layer {module} in {type(model).__name__}"
            raise InputError(f"{folder}: {key} lacks {missing}")
        rank = len(inner)
        scale = _of(config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
        scale = checks.number(f"{folder}: lora_alpha", scale) / (rank**0.5 if config.get("use_rslora") else rank)
        change = scale * (outer @ inner)
        change = change.mT if is_transposed(model.get_submodule(module)) else change
        if change.shape != weight.shape:
            raise InputError(f"{folder}: {module} is of shape {tuple(change.shape)}, the model's {tuple(weight.shape)}")
        found[f"{module}.weight"] = checks.finite(key, change)
    if not found:
        raise InputError(f"{folder / WEIGHTS} holds no LoRA matrices")
    return save_vector(found, path)


def _of(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """What a pattern of PEFT says of a module: the first that its name, or an end of it, matches."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
