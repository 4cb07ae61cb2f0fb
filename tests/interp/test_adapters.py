"""A located fine-tuning as an adapter of PEFT, and an adapter of PEFT as a task vector: the same logits."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import models
import pytest
import torch

from hardy.errors import InputError
from hardy.interp import MaskedFineTuning, TaskVectors, adapter_task_vector, write_adapter

UNITS = ("blocks.0.attn.z.1", "blocks.1.mlp.post.3", "blocks.1.attn.k.0")


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_gives_the_tuned_model_back(architecture: str, ids: torch.Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model: Any = models.build(architecture)
    base, units = copy.deepcopy(model), UNITS[: 3 if architecture == "llama" else 2]
    with MaskedFineTuning(units=units, steps=3, learning_rate=1e-2).apply(model, [ids]):
        expected = logits(model, ids)
        write_adapter(base, model, tmp_path)
    assert not torch.allclose(expected, logits(base, ids), atol=1e-3)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert min(config["rank_pattern"].values()) == 1  # one neuron
    assert max(config["rank_pattern"].values()) == 8  # one head
    vector = adapter_task_vector(tmp_path, base, tmp_path / "vector.safetensors")
    with TaskVectors(files=(str(vector),)).apply(base):
        torch.testing.assert_close(logits(base, ids), expected, rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
        torch.testing.assert_close(logits(adapted, ids), expected, rtol=1e-4, atol=1e-5)
        merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, ids), expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_peft_wrote_is_added(ids: torch.Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base: Any = models.build("llama")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], use_rslora=True,
                             rank_pattern={"down_proj": 2}, alpha_pattern={"layers.1.mlp.down_proj": 7})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(copy.deepcopy(base), config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
        expected = logits(adapted, ids)
        adapted.save_pretrained(str(tmp_path))
    vector = adapter_task_vector(tmp_path, base, tmp_path / "v.safetensors")
    with TaskVectors(files=(str(vector),)).apply(base):
        torch.testing.assert_close(logits(base, ids), expected, rtol=1e-4, atol=1e-4)


def test_what_no_adapter_can_hold_is_refused(tmp_path: Path) -> None:
    base: Any = models.build("llama")
    with pytest.raises(InputError, match="nothing to write"):
        write_adapter(base, base, tmp_path / "none")
    tuned = copy.deepcopy(base)
    tuned.model.norm.weight.data.add_(1)
    with pytest.raises(InputError, match=r"model\.norm\.weight was changed"):
        write_adapter(base, tuned, tmp_path / "norm")
    with pytest.raises(InputError, match="adapter_config.json is missing"):
        adapter_task_vector(tmp_path, base, tmp_path / "v")
    tuned = copy.deepcopy(base)
    tuned.model.layers[0].mlp.down_proj.weight.data[:, 2] += 1
    folder = write_adapter(base, tuned, tmp_path / "one")
    with pytest.raises(InputError, match="lacks a layer model.layers.0.mlp.down_proj in GPT2"):
        adapter_task_vector(folder, models.build("gpt2"), tmp_path / "v")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(InputError, match="plain LoRA adapter without biases, got DoRA"):
        adapter_task_vector(folder, base, tmp_path / "v")
    assert not (tmp_path / "v").exists()
