"""Directions as llama.cpp's control vectors: GGUF files with "direction.N", the layout that repeng writes.

A control vector's N counts from 1: it is added after block N, counted from 0, and none is after block 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from hardy.errors import InputError, install
from hardy.files import write_atomic
from hardy.reading import reading


def write_control_vector(path: str | Path, values: Mapping[int, torch.Tensor], model_hint: str) -> Path:
    """Write directions for llama.cpp (`--control-vector`).

    Args:
        path: of the file.
        values: layer -> (d_model,); layer 0 has no place in the format and is refused.
        model_hint: `config.model_type` of the model.
    """
    gguf = _gguf()
    if 0 in values:
        raise InputError("a control vector has no place for layer 0; leave it out")

    def write(temporary: Path) -> None:
        writer = gguf.GGUFWriter(str(temporary), "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(values))
        for layer, vector in sorted(values.items()):
            writer.add_tensor(f"direction.{layer}", vector.float().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomic(path, write)
    return Path(path)


def read_control_vector(path: str | Path) -> tuple[dict[int, torch.Tensor], str, str]:
    """Layer -> direction, the model hint, and "control vector".

    Raises:
        InputError: it is no control vector.
    """
    gguf = _gguf()
    with reading(path):
        reader = gguf.GGUFReader(str(path))
        found = {
            int(tensor.name.removeprefix("direction.")): torch.from_numpy(tensor.data.copy()).float().flatten()
            for tensor in reader.tensors
            if tensor.name.startswith("direction.")
        }
        hint = reader.get_field("controlvector.model_hint")
        if not found:
            raise InputError(f"{path} is no GGUF control vector: it holds no direction")
        return found, str(hint.contents()) if hint is not None else "", "control vector"


def _gguf():
    try:
        import gguf
    except ImportError:
        raise InputError(f"control vectors need gguf: {install('export')}") from None
    return gguf
