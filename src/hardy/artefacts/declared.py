"""What a model's configuration declares against what its files hold: compared before anything of that size is built."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from hardy.errors import InputError
from hardy.reading import check_room, reading

_LAYERS = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?)")
_WEIGHTS_PER_BYTE = 16
"""No format stores a weight in less than half a bit."""


def check_declared(place: Path, config: Any, build: Callable[[], nn.Module]) -> nn.Module:
    """Refuse a configuration that declares more layers or weights than the files beside it can hold.

    Args:
        place: a folder of safetensors, or else of `.bin` files, or a GGUF file.
        config: of transformers.
        build: makes the model of `config`; called on the meta device, where weights take no memory.

    Returns:
        The model on the meta device.

    Raises:
        InputError: more is declared than stored, what the model makes for itself does not fit into memory, or a file of
            weights is damaged.
    """
    size, tensors = _stored(place)
    for name, count in _layers(config.to_dict()):
        if count > tensors:
            raise InputError(f"{place} declares {name} {count}, and its files hold {tensors} tensors")
    with torch.device("meta"):
        model = build()
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _WEIGHTS_PER_BYTE * size:
        raise InputError(f"{place} declares {count} weights, and its files hold {size} bytes")
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    check_room(f"what the model in {place} makes beside its weights", buffers)
    return model


def _stored(place: Path) -> tuple[int, int]:
    """Bytes and tensors that the files hold."""
    if place.is_file():
        with reading(place), open(place, "rb") as file:
            return place.stat().st_size, struct.unpack("<4sIQ", file.read(16))[2]
    size = tensors = 0
    for path in sorted(place.glob("*.safetensors")):
        with reading(path), safe_open(path, "pt") as file:
            tensors += len(file.keys())
        size += path.stat().st_size
    if not tensors:  # PyTorch's own files, whose tensors only unpickling counts: none takes less than a byte
        size = tensors = sum(path.stat().st_size for path in place.glob("*.bin"))
    return size, tensors


def _layers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _layers(value)
        elif isinstance(value, int) and _LAYERS.fullmatch(str(name)):
            yield name, value
