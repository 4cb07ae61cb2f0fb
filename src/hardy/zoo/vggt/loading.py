"""Weights of a VGGT from a file: safetensors, or what torch.save wrote of the public ones, of which no code is run."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hardy.errors import InputError
from hardy.files import write_atomic
from hardy.reading import check_room, reading
from hardy.zoo.vggt.aggregator import image_statistics
from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.model import VGGT
from hardy.zoo.vggt.tracks import PREFIX

_SIZES = "vggt_config"


def load_vggt(
    path: str | Path, config: VGGTConfig | None = None, *, dtype: torch.dtype = torch.float32
) -> tuple[VGGT, int]:
    """A model in evaluation mode with the weights of a file, and how many tensors of its head for tracks were left out.

    Args:
        path: facebook/VGGT-1B's `model.pt` or `model.safetensors`, StreamVGGT's `checkpoints.pth`, or others of the
            sizes that `config` says.
        config: the sizes; by default those that `save_vggt` wrote into the file, or of the public weights.
        dtype: of the weights.

    Raises:
        InputError: the file is missing or damaged, a tensor is missing, misshapen, not finite, or of no part of the
            model; or they do not fit into the memory.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file of weights {path}")
    with reading(path, "the weights"):
        config = _stored_config(Path(path)) if config is None else config
    with torch.device("meta"):
        model = VGGT(config)
    needed = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    check_room(f"a VGGT of {needed / dtype.itemsize / 1e6:.4g} M parameters", needed, "give a smaller dtype")
    with reading(path, "the weights"):
        tensors = _tensors(Path(path))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    wanted = model.state_dict()
    _check_names(str(path), wanted, kept)
    for name, tensor in kept.items():
        if tuple(tensor.shape) != tuple(wanted[name].shape):
            raise InputError(f"{path}: {name} is {tuple(tensor.shape)}, this model has {tuple(wanted[name].shape)}")
        if not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise InputError(f"{path}: {name} has NaN or infinite weights")
    made = {name: tensor.to(dtype) for name, tensor in kept.items()}
    model.load_state_dict(made, assign=True)
    for name, values in image_statistics().items():  # of the meta device until here
        setattr(model.aggregator, name, values.to(dtype))
    return model.eval().requires_grad_(False), len(tensors) - len(kept)


def save_vggt(model: VGGT, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and sizes of a model to a .safetensors file, atomically."""
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    metadata = {_SIZES: json.dumps(dataclasses.asdict(model.config))}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))


def _stored_config(path: Path) -> VGGTConfig | None:
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        stored = (file.metadata() or {}).get(_SIZES)
    return None if stored is None else VGGTConfig(**json.loads(stored))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is neither a .safetensors file nor one of torch.save")
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    for wrapper in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise InputError(f"{path} holds no state dict: names and tensors")
    return dict(found)


def _check_names(path: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        told = [f"{len(names)} are {how}, {names[0]} first" for how, names in
                (("missing", missing), ("of no part of the model", extra)) if names]  # fmt: skip
        raise InputError(f"{path} does not fit this VGGT: of its tensors {' and '.join(told)}")
