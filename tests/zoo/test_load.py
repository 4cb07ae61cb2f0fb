import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hardy
from hardy.errors import InputError
from hardy.zoo import load


@pytest.fixture
def folder(micro_llama: Path, tmp_path: Path) -> Path:
    """A copy of a small working model, to be damaged."""
    return Path(shutil.copytree(micro_llama, tmp_path / "model"))


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def edit_weights(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors") | change
    save_file(
        {k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors", metadata={"format": "pt"}
    )


def test_a_hugging_face_folder_loads_in_evaluation_mode(folder: Path) -> None:
    model, tokenizer = load(str(folder))
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer.decode(tokenizer("x = 1")["input_ids"], skip_special_tokens=True) == "x = 1"
    assert load(str(folder), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_an_artefact_of_hardy_loads_and_a_damaged_one_is_refused(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load(str(folder))
    hardy.quant.RoundToNearest(bits=4, group_size=16).apply(model)
    hardy.save(model, tmp_path / "saved", tokenizer=tokenizer)
    again, _ = load(str(tmp_path / "saved"))
    ids = torch.arange(10)[None]
    assert torch.equal(model(ids).logits, again(ids).logits)
    (tmp_path / "saved" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"damaged.*tokenizer\.json"):
        load(str(tmp_path / "saved"))


def test_unknown_names_are_refused_with_near_misses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'tiny-lama'.*did you mean tiny-llama"):
        load("tiny-lama")
    with pytest.raises(InputError, match="'./nowhere'"):
        load("./nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="it is a file, not a .gguf"):
        load(str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"without config\.json"):
        load(str(tmp_path / "empty"))


def test_a_hub_id_that_cannot_be_had_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hardy.zoo.loading.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no\nroute"))
    )
    with pytest.raises(InputError, match="'some/model'.*tiny-llama.*not on the hub: no route"):
        load("some/model")


def test_a_hub_id_is_read_from_its_downloaded_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardy.zoo.loading.snapshot_download", lambda name, **_: str(folder))
    assert load("some/model")[0].config.hidden_size == 32


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="cannot read the weights"):
        load(str(folder))


def test_missing_weights_are_refused_by_name(folder: Path) -> None:
    edit_weights(folder, {"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(InputError, match=r"missing or misshapen.*layers\.1\.mlp\.up_proj"):
        load(str(folder))


def test_nan_weights_are_refused_by_name(folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].clone()
    weight[0, 0] = float("nan")
    edit_weights(folder, {"model.layers.0.mlp.up_proj.weight": weight})
    with pytest.raises(InputError, match=r"1 NaN or infinite.*layers\.0\.mlp\.up_proj"):
        load(str(folder))


def test_configurations_that_are_no_causal_language_model_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the configuration"):
        load(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(InputError, match="is a BertModel, not a causal language model"):
        load(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(InputError, match="is a ViTModel, not a causal language model"):
        load(str(folder))


def test_a_model_without_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        load(str(folder))


def test_generation_is_seeded_and_leaves_the_global_generator_alone(folder: Path) -> None:
    model, tokenizer = load(str(folder))
    before = torch.random.get_rng_state()
    sampled = [
        hardy.zoo.generate(model, tokenizer, "def", max_new_tokens=12, temperature=1.0, seed=s) for s in (0, 0, 1)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert sampled[0] == sampled[1] != sampled[2]
    assert hardy.zoo.generate(model, tokenizer, "def", max_new_tokens=5) == hardy.zoo.generate(
        model, tokenizer, "def", max_new_tokens=5
    )


def test_generation_refuses_what_it_cannot_do(folder: Path) -> None:
    model, tokenizer = load(str(folder))
    for wrong in ({"temperature": -1.0}, {"temperature": float("nan")}, {"max_new_tokens": 0}):
        with pytest.raises(InputError, match="must be"):
            hardy.zoo.generate(model, tokenizer, "def", **wrong)
    with pytest.raises(InputError, match="prompt is empty"):
        hardy.zoo.generate(model, tokenizer, "")
