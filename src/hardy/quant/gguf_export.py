"""GGUF export: every trit-plane as a valid TQ2_0 or Q4_0 tensor, everything else as float16 or float32.

An exchange of tensors: the sum of the planes `NAME.weight.ptqtp0`, `.ptqtp1` ... is the weight, under the names of the
Hugging Face model. llama.cpp reads the file and each tensor in it, but has no graph that adds planes up, so it does not
run the model.

TQ2_0 has one scale for 256 weights. Where rows or groups are no multiple of 256, as the 576, 640 or 896 inputs of small
models and the default groups of 128 are not, a plane is stored as Q4_0, which has one for 32: the same values at 4.5
bits instead of 2.06.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardy.errors import InputError, install
from hardy.files import write_atomic
from hardy.ops.rounding import ungrouped
from hardy.ops.trit_matrix import unpack
from hardy.quant.grid_linear import GridLinear
from hardy.quant.trit_linear import TritLinear

BLOCK, SMALL_BLOCK = 256, 32
"""Weights of a block of TQ2_0 and of Q4_0, which has one float16 scale."""

LONGEST_NAME = 63


def tq2_0(trits: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """Trits (rows, in) and the scale of each block of 256 (rows, in / 256) as TQ2_0 bytes (rows, in / 256 * 66).

    A block is 64 bytes of codes trit + 1, two bits each, and its scale: byte 32 * h + m of it holds, from the lowest
    bits, weights m, m + 32, m + 64 and m + 96 of half h.
    """
    codes = (trits.to(torch.int64) + 1).view(len(trits), -1, 2, 4, 32)
    places = 4 ** torch.arange(4)[:, None]
    codes = (codes * places).sum(-2).to(torch.uint8).flatten(-2)
    ends = scales.half()[..., None].view(torch.uint8)
    return torch.cat([codes, ends], -1).flatten(1).numpy()


def q4_0(trits: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """Trits (rows, in) and the scale of each block of 32 (rows, in / 32) as Q4_0 bytes (rows, in / 32 * 18).

    A block is its scale and 16 bytes of codes trit + 8, four bits each: byte m holds, from the lowest bits, weights m
    and m + 16.
    """
    codes = (trits.to(torch.int64) + 8).view(len(trits), -1, 2, 16)
    packed = (codes[:, :, 0] | codes[:, :, 1] << 4).to(torch.uint8)
    begins = scales.half()[..., None].view(torch.uint8)
    return torch.cat([begins, packed], -1).flatten(1).numpy()


def export_gguf(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Write the packed trit-planes of `model`, and all its other tensors, to a GGUF file.

    Args:
        model: with `TritLinear` layers, as `Pack` leaves it; rows and groups must be of a multiple of 32 weights.
        path: the file; it appears whole or not at all.

    Returns:
        The names of the planes, and the type of each: TQ2_0, or Q4_0 where rows or groups are no multiple of 256.

    Raises:
        InputError: `gguf` is not installed, no layer is of trit-planes, or a layer fits neither type's blocks.
    """
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:
        raise InputError(f"GGUF export needs the package gguf: {install('export')}") from None
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, TritLinear)}
    if not layers:
        raise InputError("the model has no packed trit-planes; apply TritPlanes and Pack first")
    if grids := [name for name, layer in model.named_modules() if isinstance(layer, GridLinear)]:
        raise InputError(f"{grids[0]} is on a grid; GGUF export writes trit-planes only: quantize with --planes")
    if rotated := [name for name, layer in layers.items() if layer.rotation]:
        raise InputError(f"{rotated[0]} takes rotated inputs, which GGUF does not know: quantize with --rotation 0")
    blocks = {name: _block(name, layer) for name, layer in layers.items()}
    planes = {
        f"{name}.weight.ptqtp{index}": (plane, "TQ2_0" if blocks[name] == BLOCK else "Q4_0")
        for name, layer in layers.items()
        for index, plane in enumerate(_planes(layer, blocks[name]))
    }
    others = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(name.startswith(f"{layer}.") and name.split(".")[-1] in ("trits", "scales") for layer in layers)
    }
    if long := [name for name in [*planes, *others] if len(name) > LONGEST_NAME]:
        raise InputError(f"GGUF names have at most {LONGEST_NAME} characters, {long[0]!r} has {len(long[0])}")

    def write(target: Path) -> None:
        config = getattr(model, "config", None)
        writer = gguf.GGUFWriter(str(target), getattr(config, "model_type", "unknown"))
        writer.add_string("hardy.planes", "a weight is the sum of its tensors .ptqtp0, .ptqtp1 and .ptqtp2")
        for name, (plane, kind) in planes.items():
            writer.add_tensor(name, plane, raw_dtype=gguf.GGMLQuantizationType[kind])
        for name, tensor in others.items():
            plain = tensor.detach().cpu()
            plain = plain.float() if plain.dtype == torch.bfloat16 or plain.ndim < 2 else plain
            writer.add_tensor(name, np.ascontiguousarray(plain.numpy()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomic(Path(path), write)
    return {name: kind for name, (_, kind) in planes.items()}


def _block(name: str, layer: TritLinear) -> int:
    """Weights of the largest block that a layer's rows and groups are made of."""
    for block in (BLOCK, SMALL_BLOCK):
        if not layer.in_features % block and not (layer.group_size % block and layer.group_size < layer.in_features):
            return block
    raise InputError(
        f"{name} has {layer.in_features} inputs in groups of {layer.group_size}; GGUF has one scale for {SMALL_BLOCK} "
        f"or {BLOCK} weights of a row, so quantize with a group size that is a multiple of {SMALL_BLOCK}, and leave "
        "layers whose inputs are none out of the selection"
    )


def _planes(layer: TritLinear, block: int) -> list[np.ndarray]:
    """The bytes of each plane, in blocks of so many weights."""
    trits, scales = unpack(layer.matrix())
    write, count = tq2_0 if block == BLOCK else q4_0, layer.in_features // block
    group = torch.arange(count) * block // layer.group_size  # of each block: the last group may be shorter
    return [
        write(ungrouped(plane, layer.in_features).cpu(), scale.reshape(len(plane), -1).cpu()[:, group])
        for plane, scale in zip(trits, scales, strict=True)
    ]
