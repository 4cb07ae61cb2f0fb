"""Hybrid projection on a model from outside: a published RWKV, read from its own file format."""

from pathlib import Path

import numpy as np
import torch
from reference import rwkv as reference

from benchmarks import rwkv
from hardy.analog import Deploy, HybridProjection
from hardy.evaluate import mean_loss
from hardy.hardware import Chip
from hardy.hardware.device import AdditiveDevice


def test_reads_a_file_and_gives_the_logits_of_loops_before_and_after_the_split(tmp_path: Path) -> None:
    weights = reference.weights(width=32, hidden=48, heads=2, layers=3)
    reference.write(tmp_path / "rwkv.bin", weights)
    model, ids = rwkv.Rwkv(rwkv.read(tmp_path / "rwkv.bin")), list(b"It was in the house.")
    expected = torch.from_numpy(reference.forward(weights, ids)).float()
    with torch.inference_mode():
        assert (model(torch.tensor([ids])).logits[0] - expected).abs().max() < 1e-4
        with HybridProjection(select="layers.*.time.output", basis="singular").apply(model) as change:
            assert change.report.value("digital_macs", "all selected weights") == 3 * 32 * 32
            assert (model(torch.tensor([ids])).logits[0] - expected).abs().max() < 1e-3


def test_logits_are_the_published_ones_before_and_after_the_split(data: Path) -> None:
    model = rwkv.Rwkv(rwkv.read(data / "lm" / "tiny-rwkv-5v2-730K-FP32.bin"))
    expected = torch.from_numpy(np.fromfile(data / "lm" / "expected-logits-5v2-730K.bin", "<f4"))
    prompt = torch.tensor([list(b'"in')])
    with torch.inference_mode():
        assert (model(prompt).logits[0, -1] - expected).abs().max() < 1e-5
        with HybridProjection(select="layers.*.time.output", basis="singular").apply(model) as change:
            assert change.report.value("digital_macs", "all selected weights") == 12 * 64 * 64
            assert (model(prompt).logits[0, -1] - expected).abs().max() < 1e-4


def test_scaled_columns_lose_less_than_plain_ones_under_noise_relative_to_the_tensor(data: Path) -> None:
    model = rwkv.Rwkv(rwkv.read(data / "lm" / "tiny-rwkv-5v2-730K-FP32.bin"))
    batches = [rwkv.windows("The company of the people was in the house, and the weather was good. " * 8, 64, 8)]
    chip = Chip(device=AdditiveDevice(program=0.02), weight_range="tensor")
    losses = {}
    for columns in ("scaled", "plain"):
        split = HybridProjection(select="layers.*.time.output", columns=columns, basis="singular")
        with torch.inference_mode(), split.apply(model):
            losses[columns] = []
            for seed in range(4):
                with Deploy(chip=chip, seed=seed).apply(model):
                    losses[columns].append(mean_loss(model, batches).item())
    assert sum(losses["scaled"]) < sum(losses["plain"])
