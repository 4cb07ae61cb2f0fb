"""GGUF export: every trit-plane as a valid TQ2_0 tensor, everything else as float16 or float32.

An exchange of tensors: the sum of the planes `NAME.weight.ptqtp0`, `.ptqtp1` ... is the weight, under the names of the
Hugging Face model. llama.cpp reads the file and each tensor in it, but has no graph that adds planes up.
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
from hardy.quant.trit_linear import TritLinear

BLOCK = 256
"""Weights of a TQ2_0 block, which has one float16 scale."""

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


def export_gguf(model: nn.Module, path: str | Path) -> list[str]:
    """Write the packed trit-planes of `model`, and all its other tensors, to a GGUF file.

    Args:
        model: with `TritLinear` layers, as `Pack` leaves it; their groups must be of a multiple of 256 weights.
        path: the file; it appears whole or not at all.

    Returns:
        The names of the TQ2_0 tensors.

    Raises:
        InputError: `gguf` is not installed, no layer is of trit-planes, or a layer does not fit TQ2_0's blocks.
    """
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:
        raise InputError(f"GGUF export needs the package gguf: {install('export')}") from None
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, TritLinear)}
    if not layers:
        raise InputError("the model has no packed trit-planes; apply TritPlanes and Pack first")
    for name, layer in layers.items():
        if layer.in_features % BLOCK or (layer.group_size % BLOCK and layer.group_size < layer.in_features):
            raise InputError(
                f"{name} has {layer.in_features} inputs in groups of {layer.group_size}; TQ2_0 has one scale for "
                f"{BLOCK} weights, so quantize with group_size={BLOCK}, or a multiple of it that divides the inputs"
            )
    planes = {
        f"{name}.weight.ptqtp{index}": plane
        for name, layer in layers.items()
        for index, plane in enumerate(_planes(layer))
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
        for name, plane in planes.items():
            writer.add_tensor(name, plane, raw_dtype=gguf.GGMLQuantizationType.TQ2_0)
        for name, tensor in others.items():
            plain = tensor.detach().cpu()
            plain = plain.float() if plain.dtype == torch.bfloat16 or plain.ndim < 2 else plain
            writer.add_tensor(name, np.ascontiguousarray(plain.numpy()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomic(Path(path), write)
    return list(planes)


def _planes(layer: TritLinear) -> list[np.ndarray]:
    """The TQ2_0 bytes of each plane."""
    trits, scales = unpack(layer.matrix())
    repeats = min(layer.group_size, layer.in_features) // BLOCK
    return [
        tq2_0(
            ungrouped(plane, layer.in_features).cpu(), scale.reshape(len(plane), -1).repeat_interleave(repeats, 1).cpu()
        )
        for plane, scale in zip(trits, scales, strict=True)
    ]
