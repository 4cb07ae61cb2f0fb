"""A training on disk, from which it goes on to the same result as if it had never stopped."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hardy.errors import InputError
from hardy.files import write_atomic

FORMAT = "hardy-splat-training"
NAME = "checkpoint.safetensors"


def save(
    path: Path,
    settings: dict[str, Any],
    params: dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
    progress: dict[str, Any],
) -> None:
    """Write parameters, moments and the strategy's state in one file, atomically. `progress` is plain JSON data."""
    tensors = {f"params.{name}": value.detach() for name, value in params.items()}
    for name, optimizer in optimizers.items():
        for key, value in optimizer.state.get(params[name], {}).items():
            tensors[f"optimizers.{name}.{key}"] = value
    tensors |= {f"state.{key}": value for key, value in state.items() if isinstance(value, torch.Tensor)}
    plain = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
    record = {"settings": settings, "state": plain, "progress": progress}
    made = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "record": json.dumps(record)}
    write_atomic(path, lambda temporary: save_file(made, temporary, metadata))


def load(
    path: Path,
    settings: dict[str, Any],
    params: dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
) -> dict[str, Any]:
    """Put everything back in place; returns the progress.

    Raises:
        InputError: the file is damaged, or of a training with other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"{path} is no training of hardy")
            record = json.loads(metadata["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged: {error}") from None
    asked = json.loads(json.dumps(settings))
    for name in asked.keys() | record["settings"].keys():
        old, new = record["settings"].get(name), asked.get(name)
        if old != new:
            raise InputError(
                f"{path} is of a training with {name} {str(old)[:200]}, not {str(new)[:200]}; choose another folder"
            )
    for name, old in list(params.items()):
        params[name] = torch.nn.Parameter(tensors[f"params.{name}"].to(old.device))
        optimizer = optimizers[name]
        optimizer.param_groups[0]["params"] = [params[name]]
        optimizer.state.pop(old, None)
        prefix = f"optimizers.{name}."
        named = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        moments = {key: value.to(old.device) for key, value in named.items()}
        if moments:
            optimizer.state[params[name]] = moments
    state.clear()
    state |= record["state"]
    device = params["means"].device
    named = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    state |= {key: value.to(device) for key, value in named.items()}
    return record["progress"]
