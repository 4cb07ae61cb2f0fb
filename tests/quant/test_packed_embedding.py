"""Embeddings and tied heads in few bits: the values that were found, the bytes that were promised, the ties kept."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import assert_same, snapshot
from torch import nn

import hardy
from hardy.artefacts.packing import describe, install
from hardy.core import InputError
from hardy.quant import Pack, PackedEmbedding, PackedHead, RoundToNearest, TritPlanes, round_to_nearest, unpack

GRIDS = [(8, None, True), (4, 16, False), (3, 7, False), (8, 16, False)]
IDS = torch.tensor([[0, 3, 3], [11, 1, 0]])


def gemma(tied: bool = True) -> Any:
    config = transformers.Gemma3TextConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Gemma3ForCausalLM(config).eval()


def quantized(model: Any) -> Any:
    TritPlanes(group_size=16).apply(model)
    RoundToNearest(bits=8, group_size=None, symmetric=True, select=("embedding", "head")).apply(model)
    return model


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), GRIDS)
def test_lookup_and_product_are_those_of_the_dense_table(bits: int, group_size: int | None, symmetric: bool) -> None:
    table = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    grid = round_to_nearest.fit(table, bits, group_size, symmetric)
    layer, dense = PackedEmbedding.from_stored(grid), grid.dequantize()
    assert torch.equal(layer.dequantize(), dense)
    assert torch.equal(layer(IDS), dense[IDS])
    x = torch.randn(2, 3, 20)
    assert torch.allclose(layer.product(x), x @ dense.T, atol=1e-5)
    stored = sum(value.nbytes for value in layer.state_dict().values())
    assert layer.bits == 8 * stored
    assert stored <= grid.bits / 8 + 2 * len(table)  # what fills the last bytes of a row
    again = PackedEmbedding(12, 20, bits, group_size, symmetric)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(IDS), layer(IDS))
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half(IDS).dtype == torch.bfloat16
    assert torch.equal(half.dequantize(), dense)


def test_scales_that_were_rounded_on_the_way_are_refused() -> None:
    layer = PackedEmbedding.from_stored(round_to_nearest.fit(torch.randn(4, 8), 4, 8, False))
    layer.scales = layer.scales.bfloat16()
    with pytest.raises(InputError, match=r"scales must be float16 \(4, 1\), got torch.bfloat16"):
        layer(torch.tensor([1]))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_packed_model_computes_what_the_quantized_one_did_and_comes_back(tied: bool, tmp_path: Path) -> None:
    model = quantized(gemma(tied))
    with torch.no_grad():
        before = model(IDS).logits
        change = Pack().apply(model)
        assert isinstance(model.model.embed_tokens, PackedEmbedding)
        assert isinstance(model.lm_head, PackedHead) == tied
        assert torch.allclose(model(IDS).logits, before, atol=2e-2)  # activations are rounded to int8
        rows = {row.condition: row for row in change.report.select("bits_per_weight")}
        assert rows["model.embed_tokens"].value == pytest.approx(8 + 16 / 32)
        moved = copy.deepcopy(model)
        assert torch.equal(moved(IDS).logits, model(IDS).logits)
        if tied:
            assert moved.lm_head.table is moved.model.embed_tokens
        hardy.save(model, tmp_path / "packed")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
        assert torch.equal(again(IDS).logits, model(IDS).logits)
        assert torch.equal(hardy.load(tmp_path / "packed")(IDS).logits, model(IDS).logits)
        dense: Any = unpack(again)
        assert (dense.lm_head.weight is dense.model.embed_tokens.weight) == tied
        assert torch.allclose(dense(IDS).logits, before, atol=1e-4)
        hardy.save(dense, tmp_path / "dense")
        loaded: Any = hardy.load(tmp_path / "dense")
        assert torch.equal(loaded(IDS).logits, dense(IDS).logits)
        assert loaded.config.tie_word_embeddings == tied


def test_a_tied_table_is_on_disk_once(tmp_path: Path) -> None:
    model = quantized(gemma())
    Pack().apply(model)
    hardy.save(model, tmp_path / "packed")
    size = (tmp_path / "packed" / "model.safetensors").stat().st_size
    stored = sum(layer.bits for layer in model.modules() if isinstance(layer, hardy.artefacts.PackedLayer)) // 8
    norms = sum(4 * p.numel() for p in model.parameters())
    assert stored + norms < size < stored + norms + 8000  # names and shapes


def test_undo_gives_the_tie_back() -> None:
    model = gemma()
    before = snapshot(model)
    method = RoundToNearest(bits=4, group_size=16, select=("embedding", "head"))
    with method.apply(model), Pack().apply(model):
        assert not isinstance(model.lm_head, nn.Linear)
    assert_same(before, model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings


def test_an_embedding_that_does_more_than_look_up_stays_dense() -> None:
    class Odd(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) ** 2

    model = nn.Sequential(Odd(10, 8), nn.Linear(8, 4))
    RoundToNearest(bits=4, group_size=8, select=("0", "1")).apply(model)
    change = Pack().apply(model)
    assert isinstance(model[0], Odd)
    assert [row.condition for row in change.report.rows if row.condition.endswith("dense")] == ["0, dense"]


def test_a_head_tied_to_nothing_is_refused() -> None:
    model = quantized(gemma())
    Pack().apply(model)
    described = describe(model)
    fresh = gemma()
    described["lm_head"]["embedding"] = "model.norm"
    with pytest.raises(InputError, match=r"a head is tied to model.norm, which is no packed embedding"):
        install(fresh, described)
