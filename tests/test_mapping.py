"""Weights in a file: they stay what they are, and leave memory when they are released."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hardy.core import select
from hardy.core.surgery import Edits, weight_of
from hardy.mapping import is_in_file, release, to_file, trim
from hardy.quant import RoundToNearest


def resident(what: str = "RssFile") -> int:
    """Bytes that this process has in memory: of files, of its own ("RssAnon") or all ("VmRSS")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 4096), nn.LayerNorm(4096), nn.Linear(4096, 1024, bias=False)).eval()
    model[2].weight.data = model[2].weight.data.to(torch.bfloat16)
    model.register_buffer("empty", torch.empty(0))
    return model


def test_weights_in_a_file_are_the_same_objects_with_the_same_values(model: nn.Module) -> None:
    parameters, before = list(model.parameters()), {k: v.clone() for k, v in model.state_dict().items()}
    assert to_file(model)
    assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
    assert all(is_in_file(parameter) for parameter in parameters)
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    assert to_file(model)
    assert model[1].weight is model[0].weight
    with torch.no_grad():
        model[0].weight.fill_(2)
    release(model[0].weight)
    assert model[1].weight.eq(2).all()  # what was written after the mapping is in the file too


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux does")
def test_what_is_released_leaves_memory_and_comes_back(model: nn.Module) -> None:
    to_file(model)
    total = model[0].weight.sum()
    before = resident()
    release(model[0].weight)
    assert before - resident() > 0.9 * model[0].weight.nbytes
    assert model[0].weight.sum() == total


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux does")
def test_a_weight_that_an_edit_replaced_leaves_memory_and_undo_brings_it_back(model: nn.Module) -> None:
    to_file(model)
    site = select(model, "0")[0]
    clean = weight_of(model, site).clone()
    before = resident()
    edits = Edits(model)
    edits.set_weight(site, clean * 2)
    assert before - resident() > 0.9 * clean.nbytes
    edits.undo()
    assert torch.equal(model[0].weight, clean)


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux does")
def test_a_quantized_model_whose_bits_nobody_wants_is_in_memory_once() -> None:
    model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False, dtype=torch.bfloat16) for _ in range(12)))
    weights, x = sum(parameter.nbytes for parameter in model.parameters()), torch.ones(1, 1024, dtype=torch.bfloat16)
    model(x)  # the library's code is in memory from now on
    to_file(model)
    for parameter in model.parameters():
        release(parameter)
    trim()
    before = resident("VmRSS")
    with RoundToNearest(bits=4).apply(model, stored=False) as change:
        assert not change.stored
        trim()
        assert resident("VmRSS") - before < 1.3 * weights
        with torch.no_grad():
            model(x)
        assert resident("VmRSS") - before < 1.3 * weights


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux does")
def test_what_was_freed_in_pieces_goes_back_to_the_system() -> None:
    pieces = [torch.ones(16000) for _ in range(2000)]
    last, pieces = pieces[-1], pieces[:-1]  # what is freed below it stays in the heap
    before = resident("RssAnon")
    size = sum(piece.nbytes for piece in pieces)
    del pieces
    trim()
    assert before - resident("RssAnon") > 0.9 * size
    assert last.sum() == 16000


def test_a_tensor_that_is_in_no_file_is_left_alone() -> None:
    tensor = torch.arange(5000.0)
    release(tensor)
    assert tensor[-1] == 4999
    assert not is_in_file(tensor)


def test_without_room_on_the_disk_the_weights_stay_in_memory(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardy.mapping.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert not to_file(model)
    assert not is_in_file(model[0].weight)
