"""Adapters of PEFT beside packed layers: they train, come back from disk, and never touch the few bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build

from hardy.errors import InputError
from hardy.quant import Pack, RoundToNearest, TritPlanes, lora, unpack

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's
peft: Any = pytest.importorskip("peft", reason="peft is not installed")


def packed() -> Any:
    model = build("llama")
    TritPlanes(group_size=16, select="attention").apply(model)
    RoundToNearest(bits=4, group_size=16, select="mlp").apply(model)
    Pack().apply(model)
    return model


def adapted(model: Any) -> Any:
    return peft.get_peft_model(model, lora(peft.LoraConfig(target_modules=["q_proj", "up_proj"], r=4)))


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # of PEFT 0.20, of a model with no folder
def test_adapters_train_beside_packed_layers_and_come_back(ids: torch.Tensor, tmp_path: Path) -> None:
    model = packed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(ids).logits.detach()
    adapter = adapted(model)
    torch.testing.assert_close(adapter(ids).logits, expected)  # a new adapter adds nothing
    optimizer = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        loss = adapter(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    after = adapter.get_base_model().state_dict()
    for name, tensor in before.items():
        parts = name.rsplit(".", 1)
        assert torch.equal(after[name] if name in after else after[f"{parts[0]}.base_layer.{parts[1]}"], tensor)
    adapter.save_pretrained(tmp_path)
    again = adapted(packed())
    again.load_adapter(str(tmp_path), "default")
    torch.testing.assert_close(again.eval()(ids).logits, adapter.eval()(ids).logits)


def test_what_needs_dense_weights_is_refused_and_works_on_the_unpacked_model(ids: torch.Tensor) -> None:
    adapter = adapted(packed())
    with pytest.raises(InputError, match="cannot be merged into a packed layer; unpack the model first"):
        adapter.merge_and_unload()
    with pytest.raises(InputError, match="use_dora needs dense weights"):
        lora(peft.LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(InputError, match="init_lora_weights='pissa' needs dense weights"):
        lora(peft.LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa"))
    with pytest.raises(InputError, match=r"must be a peft.LoraConfig, got dict"):
        lora({"target_modules": ["q_proj"]})  # pyright: ignore[reportArgumentType]
    merged = adapted(unpack(packed())).merge_and_unload()
    assert torch.isfinite(merged(ids).logits).all()
