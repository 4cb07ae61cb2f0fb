"""Quantizing a model from end to end: what is stored is what was measured, and nothing is written for bad input."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from models import SIZES
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

import hardy
from hardy.errors import InputError
from hardy.quant import (
    CalibratedTritPlanes,
    GridLinear,
    PackedEmbedding,
    PackedExperts,
    PackedHead,
    TritLinear,
    TritPlanes,
    unpack,
)
from hardy.report import Report
from hardy.studies.measure import dense, loss_on, perplexity_of
from hardy.studies.quantize import _estimate, levels, quantize
from hardy.zoo import Subject
from hardy.zoo.calibration import own_samples

TEXT = {"tokens": 128, "window": 64, "group_size": 16, "calibration_tokens": 128}


def test_the_folder_holds_what_the_report_says(micro_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = quantize(str(micro_llama), out, planes=(2,), **TEXT)
    assert report.value("perplexity", "packed") != report.value("perplexity", "unmodified")
    assert len(report.select("relative_error")) == 1 + 14 + 2
    assert report.value("bits_per_weight", "model.embed_tokens") == 8 + 16 / 32
    size = 8e6 * report.value("size", "packed")
    packed = report.select("bits_per_weight", "all packed layers")[0]
    norms = 5 * 32 * 32
    count = sum(parameter.numel() for parameter in hardy.zoo.load(str(micro_llama))[0].parameters())
    assert size == pytest.approx(report.value("bits_per_weight", "whole file") * count)
    assert 0 < size - norms - packed.value * int(packed.details["weights"] or 0) < 8 * 8000  # names and shapes
    assert report.select("unconverged_per_weight", "all selected weights")
    (said,) = report.summary
    assert said.startswith(f"{size / 8e6:.1f} MB instead of {report.value('size', 'unmodified'):.1f}, ")
    assert f"perplexity {report.value('perplexity', 'packed'):.4g}, " in said
    assert Report.load(out).rows == report.rows
    model, tokenizer = hardy.zoo.load(str(out))
    assert [layer.rotation for layer in model.modules() if isinstance(layer, TritLinear)] == 14 * [128]
    assert isinstance(model.get_input_embeddings(), PackedEmbedding)
    assert [type(method).__name__ for method in hardy.artefacts.history(model)] == [
        "RoundToNearest", "CalibratedTritPlanes", "Pack",
    ]  # fmt: skip
    text = hardy.zoo.held_out_text()
    windows = [ids[0] for ids in hardy.evaluate.batches(tokenizer, text, window=64, tokens=128, batch_size=1)]
    losses = [hardy.evaluate.token_losses(model, ids, window=64) for ids in windows]
    loss = torch.cat(losses).double().mean().item()
    assert perplexity_of(loss) == pytest.approx(report.value("perplexity", "packed"), rel=1e-6)


def test_a_study_works_on_the_result(micro_llama: Path, tmp_path: Path) -> None:
    quantize(str(micro_llama), tmp_path / "out", bits=(3,), embedding_bits=16, **TEXT)
    subject = Subject.of(str(tmp_path / "out"))
    ids = subject.batches("evaluation")[0]
    plain = dense(subject)
    assert sum(isinstance(layer, GridLinear) for layer in subject.model.modules()) == 14, "left as it was"
    assert not any(isinstance(layer, GridLinear) for layer in plain.model.modules())
    assert plain.model.get_input_embeddings().weight is subject.model.get_input_embeddings().weight
    name, layer = next((n, m) for n, m in subject.model.named_modules() if isinstance(m, GridLinear))
    assert torch.equal(plain.model.get_submodule(name).weight, layer.dequantize())
    dense_logits, packed_logits = plain.model(ids).logits, subject.model(ids).logits
    assert (dense_logits - packed_logits).std() < 0.02 * dense_logits.std(), "packed, activations are rounded to int8"
    (note,) = plain.notes
    assert note.startswith(f"14 packed layers of {tmp_path / 'out'} were unpacked: dense weights")
    ranking = hardy.locate(subject, by="weight-error", bits=2, group_size=16)
    assert len(ranking) == 14


def test_calibrated_within_a_budget(micro_llama: Path, tmp_path: Path) -> None:
    report = quantize(
        str(micro_llama), tmp_path / "out", planes=(1, 2), budget=4.4, by="perplexity-drop",
        calibration="held-out", **TEXT,
    )  # fmt: skip
    assert 0 < report.value("bits_per_weight", "all selected weights") <= 4.4
    assert report.select("output_error")
    planes = {
        layer.planes for layer in hardy.zoo.load(str(tmp_path / "out"))[0].modules() if isinstance(layer, TritLinear)
    }
    assert planes == {1, 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_quantized_keeps_its_dtype_and_its_bytes(
    dtype: torch.dtype, micro_llama: Path, tmp_path: Path
) -> None:
    model, tokenizer = hardy.zoo.load(str(micro_llama), dtype=dtype)
    model.model.norm.float()  # one that is kept in float32, as some models keep theirs
    model.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    report = quantize(str(tmp_path / "source"), tmp_path / "out", planes=(2,), select="mlp", embedding_bits=16, **TEXT)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    compared = [name for name in load_file(tmp_path / "source" / "model.safetensors") if ".mlp." not in name]
    assert len(compared) > 10
    for name, tensor in hardy.zoo.load(str(tmp_path / "source"), dtype="auto")[0].state_dict().items():
        assert name not in compared or (stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor)), name
    loaded, _ = hardy.zoo.load(str(tmp_path / "out"))  # in float32, as it was measured
    windows = [
        ids[0]
        for ids in hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(), window=64, tokens=128, batch_size=1)
    ]
    assert perplexity_of(loss_on(loaded, windows)) == report.value("perplexity", "packed")


def test_what_stays_dense_is_measured_as_it_is_stored(tmp_path: Path, micro_llama: Path) -> None:
    """A part of a fused projection has no packed layer; its quantized weights are rounded to the source's dtype."""
    tokenizer = hardy.zoo.load(str(micro_llama))[1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=270, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    report = quantize(str(tmp_path / "source"), tmp_path / "out", planes=(2,), **TEXT | {"select": "attention.q,mlp"})
    assert any(note.startswith("7.6% of the quantized weights have no packed layer") for note in report.notes)
    loaded, _ = hardy.zoo.load(str(tmp_path / "out"))
    windows = [
        ids[0]
        for ids in hardy.evaluate.batches(tokenizer, hardy.zoo.held_out_text(), window=64, tokens=128, batch_size=1)
    ]
    assert perplexity_of(loss_on(loaded, windows)) == report.value("perplexity", "packed")


def test_a_folder_without_its_report_never_appears(
    micro_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        quantize(str(micro_llama), tmp_path / "out", planes=(2,), **TEXT)
    assert [path.name for path in tmp_path.iterdir()] == [".out.unfinished"], "blocks to go on from"
    monkeypatch.undo()
    report = quantize(str(micro_llama), tmp_path / "out", planes=(2,), **TEXT)
    (tmp_path / "out" / "my notes").write_text("mine")
    assert hardy.load(tmp_path / "out")  # the report is no part of what is checked
    quantize(str(micro_llama), tmp_path / "out", planes=(1,), **TEXT)
    assert Report.load(tmp_path / "out").rows != report.rows
    assert (tmp_path / "out" / "my notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give either bits or planes, got bits none and planes none"),
        ({"bits": (3,), "planes": (2,)}, "give either bits or planes"),
        ({"bits": (2, 4)}, "several need one: got 2 kinds and a budget of None"),
        ({"bits": (3,), "budget": 3.0}, "takes no budget"),
        ({"bits": (9,)}, "bits must be an integer from 2 to 8, got 9"),
        ({"planes": (4,)}, "planes must be 1, 2 or 3, got 4"),
        ({"budget": 1.0}, "least"),
        ({"planes": (2,), "group_size": 128}, "group_size 128 is larger than the 32 inputs"),
        ({"planes": (2,), "calibration": "nowhere.txt"}, "nowhere.txt does not exist"),
        ({"planes": (2,), "calibration": "own,own"}, "calibration is own, held-out or a UTF-8 file"),
        ({"planes": (2,), "calibration": "own,none"}, "or none; got 'own,none'"),
        ({"planes": (2,), "calibration_tokens": 127}, "at least 128, a window of 64 from each of own, held-out"),
        ({"planes": (2,), "calibration": "none", "tune": 5}, "give planes, and not none of it"),
        ({"bits": (3,), "tune": 5}, "tune trains the scales of trit-planes"),
        ({"planes": (2,), "select": "experts"}, "matches nothing"),
        ({"budget": 4.0, "by": "efective-rank"}, "did you mean effective-rank"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    micro_llama: Path, tmp_path: Path, fields: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        quantize(str(micro_llama), tmp_path / "out", **{**TEXT, **fields})
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not an artefact of hardy"):
        quantize("tiny-llama", tmp_path, planes=(2,))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_levels_go_from_few_bits_to_many() -> None:
    assert [method.bits for method in levels((4, 2), (), 16, calibrated=False)] == [2, 4]
    assert [type(method).__name__ for method in levels((), (2,), 16, calibrated=True)] == ["CalibratedTritPlanes"]


def test_it_calibrates_on_its_own_samples_and_tunes_without_any_file(micro_llama: Path, tmp_path: Path) -> None:
    report = quantize(str(micro_llama), tmp_path / "out", planes=(2,), tune=3, **TEXT)
    assert report.settings["calibration"] == "own,held-out"
    assert report.settings["calibration tokens"] == 128
    assert report.select("output_error")
    assert report.value("divergence", "before tuning") >= 0
    assert report.value("perplexity", "before tuning") != report.value("perplexity", "packed")
    plain = quantize(str(micro_llama), tmp_path / "plain", planes=(2,), **TEXT | {"calibration": "none"})
    assert not plain.select("output_error")


def test_own_samples_are_the_models_and_those_of_the_seed() -> None:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    state = torch.random.get_rng_state()
    first, again, other = (own_samples(model, tokenizer, 3, window=24, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.shape == (3, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first[:, 0] == tokenizer.bos_token_id).all()
    drawn = torch.randint(0, model.config.vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = first[:, 0]
    assert loss_on(model, list(first)) < 0.8 * loss_on(model, list(drawn))


def test_what_does_not_fit_stays_and_is_said_before_anything_is_loaded(
    micro_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 32 and 48 inputs: only mlp.down has groups of 40."""
    report = quantize(str(micro_llama), tmp_path / "out", planes=(2,), **TEXT | {"group_size": 40})
    assert {row.condition for row in report.select("relative_error")} == {
        "all selected weights", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.embed_tokens",
        "lm_head",
    }  # fmt: skip
    (note,) = [note for note in report.notes if "stay as they are" in note]
    assert note.startswith("THE MODEL HARDLY SHRINKS: 12 layers (")
    assert "larger than the 32 inputs of model.layers.0.self_attn.q_proj" in note

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Subject, "of", loaded)
    with pytest.raises(InputError, match="matches nothing"):
        quantize(str(micro_llama), tmp_path / "none", planes=(2,), **TEXT | {"select": "nothing.*"})
    with pytest.raises(InputError, match="none of the selected layers can be quantized"):
        quantize(str(micro_llama), tmp_path / "none", planes=(2,), **TEXT | {"group_size": 128})


@pytest.mark.parametrize("calibration", ["none", "held-out"])
def test_narrow_projections_of_a_state_space_model_are_no_veto(
    micro_llama: Path, tmp_path: Path, calibration: str
) -> None:
    """The projections of the time step have 16 inputs, less than a group."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MambaConfig(
            vocab_size=270, hidden_size=32, state_size=4, time_step_rank=16, num_hidden_layers=2, bos_token_id=0,
            eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        MambaForCausalLM(config).save_pretrained(tmp_path / "source")
    hardy.zoo.load(str(micro_llama))[1].save_pretrained(tmp_path / "source")
    options = TEXT | {"group_size": 32, "calibration": calibration}
    report = quantize(str(tmp_path / "source"), tmp_path / "out", planes=(2,), **options)
    (note,) = [note for note in report.notes if "stay as they are" in note]
    assert note.startswith("2 layers (")
    assert "larger than the 16 inputs of backbone.layers.0.mixer.dt_proj" in note
    loaded, _ = hardy.zoo.load(str(tmp_path / "out"))
    assert isinstance(loaded.backbone.layers[0].mixer.in_proj, TritLinear)
    assert isinstance(loaded.backbone.layers[0].mixer.dt_proj, torch.nn.Linear)
    assert isinstance(loaded.get_output_embeddings(), PackedHead)


def test_what_cannot_be_quantized_stays_and_is_said_loudly(
    micro_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = MixtralConfig(**{**SIZES, "vocab_size": 270}, num_local_experts=4, num_experts_per_tok=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MixtralForCausalLM(config).save_pretrained(tmp_path / "source")
    hardy.zoo.load(str(micro_llama))[1].save_pretrained(tmp_path / "source")
    options = TEXT | {"calibration": "none", "group_size": 48}  # which the second matrices of experts have alone
    report = quantize(str(tmp_path / "source"), tmp_path / "out", planes=(2,), **options)
    (note,) = [note for note in report.notes if "stay as they are" in note]
    left, packed = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 4 * 2 * 32 * 48), 2 * 4 * 32 * 48
    share = left / (left + packed)
    assert note.startswith(
        f"THE MODEL HARDLY SHRINKS: 10 layers ({share:.1%} of the selected weights) stay as they are"
    )
    assert note in [record.message for record in caplog.records if record.levelname == "WARNING"]
    before, after = (hardy.zoo.load(str(tmp_path / name))[0].state_dict() for name in ("source", "out"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(before[name], after[name])


def test_a_selection_of_nothing_that_can_be_packed_is_refused(micro_llama: Path, tmp_path: Path) -> None:
    config = MambaConfig(
        vocab_size=270, hidden_size=32, state_size=4, time_step_rank=16, num_hidden_layers=2, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    MambaForCausalLM(config).save_pretrained(tmp_path / "source")
    hardy.zoo.load(str(micro_llama))[1].save_pretrained(tmp_path / "source")
    with pytest.raises(InputError, match="none of the selected layers can be quantized: no packed layer holds"):
        quantize(str(tmp_path / "source"), tmp_path / "out", planes=(2,), select="conv", **TEXT)


def test_a_large_loss_and_a_large_file_are_said_loudly(
    micro_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardy.studies.quantize.LOUD", 0.0)
    monkeypatch.setattr("hardy.studies.quantize._weights_on_disk", lambda path: 10 if "micro" in str(path) else 20)
    report = quantize(str(micro_llama), tmp_path / "out", planes=(1,), **TEXT)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    for beginning in ("PERPLEXITY IS ", "THE FILE IS LARGER THAN ITS SOURCE"):
        assert any(note.startswith(beginning) for note in report.notes)
        assert any(line.startswith(beginning) for line in said)


def sees(kind: str) -> Any:
    """A tiny model with random weights that takes pictures as well as text."""
    text = {**SIZES, "vocab_size": 270, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 28, "patch_size": 14}
    if kind == "llava":
        parts = {"vision_config": hf.CLIPVisionConfig(**vision), "text_config": hf.LlamaConfig(**text)}
        return hf.LlavaForConditionalGeneration(hf.LlavaConfig(**parts, image_token_index=5))
    parts = {
        "vision_config": hf.SiglipVisionConfig(**vision),
        "text_config": hf.Gemma3TextConfig(**text, head_dim=8, layer_types=["sliding_attention", "full_attention"]),
    }
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    return hf.Gemma3ForConditionalGeneration(hf.Gemma3Config(**parts, **tokens, mm_tokens_per_image=4))


@pytest.mark.parametrize("kind", ["llava", "gemma3"])
def test_of_a_model_that_sees_the_language_model_is_quantized(kind: str, micro_llama: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    sees(kind).save_pretrained(source)
    hf.AutoTokenizer.from_pretrained(micro_llama).save_pretrained(source)
    (source / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    report = quantize(str(source), out, planes=(2,), **TEXT)
    (note,) = (note for note in report.notes if "language_model" in note)
    assert "% of the weights of linear layers are not in model.language_model and stay as they are" in note
    loaded, _ = hardy.zoo.load(out)
    packed = [name for name, layer in loaded.named_modules() if isinstance(layer, TritLinear)]
    assert len(packed) == 14
    assert all(name.startswith("model.language_model.") for name in packed)
    before, _ = hardy.zoo.load(source)
    tower = [name for name, _ in before.named_parameters() if "vision" in name or "projector" in name]
    assert tower
    assert all(torch.equal(loaded.get_parameter(name), before.get_parameter(name)) for name in tower)
    theirs = hf.AutoModelForImageTextToText.from_pretrained(out)
    picture = {"pixel_values": torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))}
    ids = torch.tensor([[1, 5, 5, 5, 5, 2, 3]])
    assert torch.equal(theirs(input_ids=ids, **picture).logits, loaded(input_ids=ids, **picture).logits)
    assert (out / "preprocessor_config.json").is_file()
    assert "AutoModelForImageTextToText.from_pretrained" in (out / "README.md").read_text()


@pytest.mark.parametrize("calibration", ["none", "held-out"])
def test_experts_are_packed_and_calibrated(
    calibration: str, micro_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    sizes = {**SIZES, "vocab_size": 270, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2))
    model.save_pretrained(source)
    hf.AutoTokenizer.from_pretrained(micro_llama).save_pretrained(source)
    report = quantize(str(source), out, planes=(2,), calibration=calibration, **TEXT)
    (packed,) = report.select("bits_per_weight", "all packed layers")
    assert packed.details["weights left dense"] == 0
    assert packed.details["weights"] > 2 * 4 * 3 * 32 * 48, "all matrices of all experts, and the attention"
    with monkeypatch.context() as patched:
        patched.delattr("hardy.quant.packed_experts._Stack.dense")  # no dense stack is made
        loaded, _ = hardy.zoo.load(out)
        found = loaded(ids := torch.tensor([[1, 2, 3, 4]])).logits
    experts = loaded.get_submodule("model.layers.1.mlp.experts")
    assert isinstance(experts, PackedExperts)
    expected = unpack(hardy.zoo.load(out)[0])(ids).logits
    assert (found - expected).norm() < 0.03 * expected.norm(), "activations are rounded to int8"


@pytest.mark.parametrize(
    ("weights", "parameters", "calibration", "measured"),
    [(106, 135, 8192, 222), (100, 268, 8192, 215), (358, 630, 8192, 556), (106, 135, 0, 29), (358, 630, 0, 71)],
)
def test_the_estimate_is_within_twice_of_what_published_models_took(
    weights: int, parameters: int, calibration: int, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of weights and parameters, and seconds on two quiet cores, where a product ran at 150 GFLOP/s."""
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * 2 * 1024**3 / 150e9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    method = CalibratedTritPlanes() if calibration else TritPlanes()
    said = _estimate(weights * 10**6, parameters * 10**6, (method,), calibration, 6144)
    number, unit = said.split()
    seconds = int(number) * {"seconds": 1, "minutes": 60}[unit]
    assert measured / 2 <= seconds <= measured * 2
