"""Block by block with everything else left in its file: the same bytes as in memory, little of it, and it goes on."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CONFIGS, build
from safetensors.torch import load_file

from hardy.core import select
from hardy.errors import InputError
from hardy.quant import GPTQ, CalibratedTritPlanes, Pack, PackedHead, RoundToNearest, TritLinear, TritPlanes
from hardy.quant.block_by_block import BlockByBlock, Done, chain_of, pack_tables
from hardy.quant.quantizer import Quantizer
from hardy.studies.measure import loss_on
from hardy.studies.quantize import quantize

METHODS = [
    TritPlanes(planes=2, group_size=16),
    CalibratedTritPlanes(planes=2, group_size=8, iterations=2),
    GPTQ(bits=3, group_size=None),
    CalibratedTritPlanes(planes=2, group_size=8, iterations=1, correction=0.3),
]
CHAINED = [name for name in CONFIGS if name not in ("mamba",)]
TEXT: dict[str, Any] = {"tokens": 128, "window": 64, "group_size": 16, "calibration_tokens": 128}


def data() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, 64, (2, 9), generator=draw) for _ in range(3)]


def blocks_of(model: torch.nn.Module, method: Quantizer) -> list[str]:
    return chain_of(model, select(model, method.select), data()[0])


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("architecture", CHAINED)
def test_the_same_bytes_as_in_memory(architecture: str, method: Quantizer, tmp_path: Path) -> None:
    model: Any = build(architecture)
    whole = copy.deepcopy(model)
    expected = method.apply(whole, data()).report
    loss = loss_on(whole, [data()[0][0]])
    Pack().apply(whole)
    blocks = blocks_of(model, method)
    assert len(blocks) == 2
    parts = BlockByBlock(model, blocks, tmp_path, torch.float32)
    kept: list[int] = []
    done = parts.quantize(method, data(), Done(), lambda done: kept.append(done.at))
    assert kept == [1, 2]
    assert done.rows() == list(expected.rows)
    found, wanted = model.state_dict(), whole.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert parts.losses([data()[0][0]], "") == pytest.approx(loss, abs=0.05)  # activations are rounded to int8


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gpt2"])
def test_stored_dtypes_stay_and_float32_is_computed_in(architecture: str, tmp_path: Path) -> None:
    model: Any = build(architecture).to(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    window = data()[0][0]
    parts = BlockByBlock(model, blocks_of(model, METHODS[0]), tmp_path, torch.float32)
    assert parts.losses([window], "") == pytest.approx(loss_on(exact, [window]), abs=1e-6)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    METHODS[1].apply(exact, data())
    parts.quantize(METHODS[1], data(), Done(), lambda _: None)
    Pack().apply(exact)
    for name, layer in exact.named_modules():
        if isinstance(layer, TritLinear):
            assert torch.equal(layer.dequantize(), model.get_submodule(name).dequantize())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("method", [METHODS[1], METHODS[3]], ids=str)
def test_a_run_goes_on_where_it_was(method: Quantizer, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    states: list[dict[str, Any]] = []

    def stop(done: Done) -> None:
        states.append(copy.deepcopy(done.to_dict()))
        raise StoppedError

    model: Any = build("llama")
    whole = copy.deepcopy(model)
    with pytest.raises(StoppedError):
        BlockByBlock(model, blocks_of(model, method), tmp_path, torch.float32).quantize(method, data(), Done(), stop)
    fresh: Any = build("llama")
    parts = BlockByBlock(fresh, blocks_of(fresh, method), tmp_path, torch.float32)
    done = parts.quantize(method, data(), Done.from_dict(states[0]), lambda _: None)
    assert done.rows() == list(method.apply(whole, data()).report.rows)
    Pack().apply(whole)
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())


def test_tables_in_pieces_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    method = RoundToNearest(bits=4, group_size=16)
    model: Any = build("gpt2")  # whose head is tied
    whole = copy.deepcopy(model)
    entries = pack_tables(model, method)
    assert [entry["site"] for entry in entries] == ["transformer.wte"]
    assert isinstance(model.lm_head, PackedHead)
    method = RoundToNearest(bits=4, group_size=16, select=("transformer.wte", "lm_head"))
    rows = method.apply(whole).report.rows
    Pack().apply(whole)
    ids = data()[0]
    assert torch.equal(model(ids).logits, whole(ids).logits)
    assert Done(entries=entries).rows()[0].value == pytest.approx(rows[0].value)


RUN = """
import sys
from hardy.studies.quantize import quantize
quantize(sys.argv[1], sys.argv[2], planes=(2,), tokens=128, window=64, group_size=16, calibration_tokens=128)
"""


def test_killed_at_any_block_the_same_command_goes_on(micro_llama: Path, tmp_path: Path) -> None:
    """Killed for good, by the system, after its first block."""
    whole = quantize(str(micro_llama), tmp_path / "whole", planes=(2,), **TEXT)
    killing = RUN.replace(
        "quantize(sys",
        "import os, signal\n"
        "from hardy.runs.checkpoint import Checkpoint\n"
        "save = Checkpoint.save\n"
        "def dying(self, state):\n"
        "    save(self, state)\n"
        "    if state['done']['at'] == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Checkpoint.save = dying\n"
        "quantize(sys",
        1,
    )
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", killing, micro_llama, out], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not out.exists()
    with pytest.raises(InputError, match=r"state.safetensors belongs to another quantization: method is"):
        quantize(str(micro_llama), out, planes=(1,), **TEXT)
    report = quantize(str(micro_llama), out, planes=(2,), **TEXT)
    assert report.rows == whole.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    for name, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert torch.equal(load_file(out / "model.safetensors")[name], tensor), name


MEASURED = """
import sys, threading, time
import torch
from hardy.studies.quantize import quantize
from hardy.zoo.loading import load

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

load(sys.argv[1], dtype="auto")
torch.nn.Linear(8, 8)(torch.ones(8)).sum().backward()
before, most = anonymous(), [0.0]

def watch():
    while True:
        most[0] = max(most[0], anonymous())
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
sizes = {'tokens': 64, 'window': 64, 'calibration_tokens': 64, 'group_size': 512}  # few groups take less time
quantize(sys.argv[1], sys.argv[2], bits=(4,), calibration='held-out', **sizes)
print(most[0] - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read off /proc")
def test_memory_is_that_of_a_block_and_not_of_the_model(micro_llama: Path, tmp_path: Path) -> None:
    """Three times as many layers take hardly more."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    sizes, peaks = [], []
    for layers in (2, 6):
        config = LlamaConfig(
            vocab_size=270, hidden_size=512, intermediate_size=512, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=8, bos_token_id=0, eos_token_id=0, max_position_embeddings=64,
        )  # fmt: skip
        source, out = tmp_path / f"source-{layers}", tmp_path / f"out-{layers}"
        model: Any = LlamaForCausalLM(config).bfloat16()
        sizes.append(4 * sum(parameter.numel() for parameter in model.parameters()) / 2**20)
        model.save_pretrained(source)
        AutoTokenizer.from_pretrained(micro_llama).save_pretrained(source)
        command = [sys.executable, "-c", MEASURED, source, out]
        freeing = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed is gone
        environment = os.environ | freeing
        ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
        peaks.append(float(ended.stdout.splitlines()[-1]))
    # 27 MB more in float32; 4 MB more of what is stored, which is written at once.
    assert sizes[1] - sizes[0] > 26
    assert peaks[1] - peaks[0] < 0.3 * (sizes[1] - sizes[0]), (peaks, sizes)
