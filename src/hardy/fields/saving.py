"""Fields in floating point as files: safetensors with the settings beside the weights, versioned and checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from hardy import checks
from hardy.errors import InputError
from hardy.fields.activations import KINDS
from hardy.fields.field import TABLES, Field
from hardy.fields.hash_grid import HashGrid
from hardy.fields.shared import SharedField
from hardy.files import write_atomic
from hardy.reading import reading
from hardy.runs.checkpoint import digest

FORMAT, VERSION = "hardy-field", 1


def save_field(field: Field | SharedField, path: str | Path) -> None:
    """Write a field, or many with shared layers, to one file, atomically.

    Fields of integers have a `save` of their own.
    """
    shared = isinstance(field, SharedField)
    names = ["in_features", "out_features", "hidden_features"]
    names += ["shared_layers", "projections", "share", "seed"] if shared else ["hidden_layers"]
    settings: dict[str, Any] = {name: getattr(field, name) for name in names}
    if shared:
        settings["images"] = len(field.own)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(field.state_dict().items())}
    kind = field.activation
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "class": type(field).__name__,
        "settings": json.dumps(settings),
        "activation": json.dumps({"name": kind.name, **dataclasses.asdict(kind)}),
        "digest": digest(tensors.values()),
    }
    if isinstance(field, Field) and field.encoding is not None:
        metadata["encoding"] = json.dumps(dataclasses.asdict(field.encoding))
    write_atomic(path, lambda temporary: save_file(tensors, str(temporary), metadata))


def load_field(path: str | Path) -> Field | SharedField:
    """What `save_field` wrote, bit for bit.

    Raises:
        InputError: the file is missing, damaged, of another program, or newer than this hardy.
    """
    with reading(path, "the field"), safe_open(str(path), "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is no field of hardy")
    if metadata.get("version") != str(VERSION):
        raise InputError(f"{path} is of version {metadata.get('version')}; this hardy reads version {VERSION}")
    if metadata.get("digest") != digest(tensors.values()):
        raise InputError(f"{path} is damaged: its weights are not those that were saved")
    with reading(path):
        kind = json.loads(metadata["activation"])
        settings = json.loads(metadata["settings"])
        made = {"Field": Field, "SharedField": SharedField}[metadata["class"]]
        _check_settings(settings, tensors)
        if "encoding" in metadata:
            encoding = HashGrid(**json.loads(metadata["encoding"]))
            _check_tables(sum(encoding.entries(settings["in_features"])) * encoding.features, tensors)
            settings["encoding"] = encoding
        field = made(**settings, activation=KINDS[kind.pop("name")](**kind))
        field.load_state_dict(tensors, assign=True)  # keeps their dtype
    return field


def _check_tables(numbers: int, tensors: dict[str, Any]) -> None:
    if TABLES not in tensors or tensors[TABLES].numel() != numbers:
        raise InputError(f"its settings say tables of {numbers} numbers, and it holds others")


def _check_settings(settings: Any, tensors: dict[str, Any]) -> None:
    """Refuse settings of a field much larger than its stored tensors, before it is built."""
    sizes = {name: checks.integer(name, value, at_least=0) for name, value in settings.items() if name != "share"}
    stored = sum(tensor.numel() for tensor in tensors.values())
    for name, value in sizes.items():
        if value > max(stored, 2**16) and name != "seed":
            raise InputError(f"its settings say {name} {value}, and it holds {stored} numbers")
    layers = max(sizes.get(name, 0) for name in ("hidden_layers", "shared_layers", "images"))
    if layers > len(tensors):
        raise InputError(f"its settings say {layers} layers or images, and it holds {len(tensors)} tensors")
    if sizes["hidden_features"] ** 2 > 16 * max(stored, 2**16):
        raise InputError(f"its settings say layers of {sizes['hidden_features']}, and it holds {stored} numbers")
