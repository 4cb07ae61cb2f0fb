"""GGUF: each plane as gguf's own reader and dequantizer see it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hardy
from hardy.core import InputError
from hardy.quant import Pack, RoundToNearest, TritPlanes
from hardy.quant.gguf_export import export_gguf, q4_0, tq2_0

gguf = pytest.importorskip("gguf", reason="gguf is not installed")


def test_blocks_are_those_of_gguf() -> None:
    generator = torch.Generator().manual_seed(0)
    trits = torch.randint(-1, 2, (3, 512), generator=generator, dtype=torch.int8)
    scales = torch.rand(3, 2, generator=generator).half().float()
    weight = (trits.view(3, 2, 256) * scales[..., None]).view(3, 512).numpy()
    ours = tq2_0(trits, scales)
    assert np.array_equal(ours, gguf.quants.quantize(weight, gguf.GGMLQuantizationType.TQ2_0))


def test_small_blocks_are_those_of_gguf() -> None:
    generator = torch.Generator().manual_seed(0)
    trits = torch.randint(-1, 2, (3, 96), generator=generator, dtype=torch.int8)
    scales = torch.rand(3, 3, generator=generator).half().float()
    weight = (trits.view(3, 3, 32) * scales[..., None]).view(3, 96).numpy()
    assert np.array_equal(gguf.quants.dequantize(q4_0(trits, scales), gguf.GGMLQuantizationType.Q4_0), weight)


@pytest.mark.parametrize(
    ("width", "group_size", "kind"),
    [(576, 128, "Q4_0"), (640, 128, "Q4_0"), (896, 256, "Q4_0"), (512, 256, "TQ2_0"), (1536, None, "TQ2_0")],
)
def test_widths_that_are_no_multiple_of_256_have_a_way(
    width: int, group_size: int | None, kind: str, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(width, 6))
    change = TritPlanes(planes=2, group_size=group_size, select="*").apply(model)
    Pack().apply(model)
    assert export_gguf(model, tmp_path / "model.gguf") == {"0.weight.ptqtp0": kind, "0.weight.ptqtp1": kind}
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    parts = [tensors[f"0.weight.ptqtp{index}"] for index in range(2)]
    total = sum(gguf.quants.dequantize(part.data, part.tensor_type) for part in parts)
    assert np.array_equal(total, change.stored["0"].dequantize().numpy())


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_the_planes_add_up_to_the_weight(planes: int, tmp_path: Path) -> None:
    model, _ = hardy.zoo.load("tiny-llama")
    change = TritPlanes(planes=planes, group_size=256, select="attention", layers="0").apply(model)
    Pack().apply(model)
    names = export_gguf(model, tmp_path / "model.gguf")
    assert len(names) == 4 * planes
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for name, stored in change.stored.items():
        parts = [tensors.pop(f"{name}.weight.ptqtp{index}") for index in range(planes)]
        assert {part.tensor_type for part in parts} == {gguf.GGMLQuantizationType.TQ2_0}
        total = sum(gguf.quants.dequantize(part.data, part.tensor_type) for part in parts)
        assert np.array_equal(total, stored.dequantize().numpy())
    for name, tensor in tensors.items():
        assert np.array_equal(tensor.data, model.state_dict()[name].numpy())


def test_what_does_not_fit_is_refused(llama: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no packed trit-planes"):
        export_gguf(llama, tmp_path / "model.gguf")
    TritPlanes(group_size=16).apply(llama)
    Pack().apply(llama)
    with pytest.raises(InputError, match=r"q_proj has 32 inputs in groups of 16; GGUF has one scale for 32"):
        export_gguf(llama, tmp_path / "model.gguf")
    grid = nn.Sequential(nn.Linear(256, 2), nn.Linear(256, 2))
    TritPlanes(group_size=256, select="0").apply(grid)
    RoundToNearest(bits=4, select="1").apply(grid)
    Pack().apply(grid)
    with pytest.raises(InputError, match="1 is on a grid; GGUF export writes trit-planes only"):
        export_gguf(grid, tmp_path / "model.gguf")
    named = nn.Sequential()
    named.add_module("n" * 60, nn.Linear(256, 2))
    TritPlanes(group_size=256).apply(named)
    Pack().apply(named)
    with pytest.raises(InputError, match="GGUF names have at most 63 characters"):
        export_gguf(named, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
