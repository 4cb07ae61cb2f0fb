"""HaLoRA: its penalty, what stays digital and frozen, Deploy under adapters, merging refused, the Trainer."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import transformers
from models import build, same_bytes
from torch import nn

from hardy.analog import AnalogLinear, Deploy, HaLoRA, NoiseAware
from hardy.core import InputError, changes, select
from hardy.hardware import AdditiveNoise, Chip

peft = pytest.importorskip("peft", reason="the extra peft is not installed")

# PEFT asks a model for what transformers is about to rename; HaLoRA keeps that from its users.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

NOISE = AdditiveNoise(strength=0.05)
CELLS = Chip.preset("pcm").without_periphery()


def adapted_llama(**fields: object) -> tuple[HaLoRA, nn.Module]:
    method = HaLoRA(**{"chip": NOISE, "rank": 2, **fields})  # pyright: ignore[reportArgumentType]
    return method, method.adapt(build("llama"))


def grown(model: nn.Module) -> nn.Module:
    """With second factors that are not zero, as after training."""
    random = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
    return model


def adapters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora_" in name}


def test_only_adapters_are_trained_and_the_model_begins_as_it_was(ids: torch.Tensor) -> None:
    plain = build("llama")
    method, model = adapted_llama()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2  # two factors, query and value, two layers
    assert all("lora_" in name for name in trained)
    assert same_bytes(model.eval()(ids).logits, plain(ids).logits)
    state = torch.get_rng_state()
    again, other = adapted_llama()[1], adapted_llama(seed=1)[1]
    assert torch.equal(state, torch.get_rng_state())
    assert all(same_bytes(tensor, adapters(again)[name]) for name, tensor in adapters(model).items())
    assert not all(torch.equal(tensor, adapters(other)[name]) for name, tensor in adapters(model).items())
    assert method.penalty(model) > 0


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_the_penalty_is_the_formula(norm: str) -> None:
    """Loop over adapters and eigenvalues: singular values of a Gram matrix are squares of those of the factor."""
    method, model = adapted_llama(norm=norm, penalty_weight=0.5)
    grown(model)
    expected = 0.0
    for name, tensor in adapters(model).items():
        squares = torch.linalg.svdvals(tensor.double()).square()
        assert "lora_A" in name or "lora_B" in name
        expected += squares.max().item() if norm == "spectral" else squares.square().sum().sqrt().item()
    assert method.penalty(model).item() == pytest.approx(0.5 * expected, rel=1e-5)


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_the_penalty_has_a_gradient_at_the_start_where_b_is_zero(norm: str) -> None:
    method, model = adapted_llama(norm=norm)
    method.penalty(model).backward()
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            assert parameter.grad.abs().sum() > 0
        elif "lora_B" in name:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_the_base_is_noisy_in_training_and_the_adapters_never(ids: torch.Tensor) -> None:
    _, model = adapted_llama()
    grown(model)
    noisy = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert len(noisy) == 2 * 7, "all matrices in the layers, with an adapter or without"
    assert not any("lora_" in name for name in noisy)
    before = adapters(model)
    first, second = (model.train()(ids).logits for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)
    assert all(same_bytes(tensor, adapters(model)[name]) for name, tensor in before.items())
    _, plain = adapted_llama(chip=None, penalty_weight=0.0)
    assert torch.equal(plain.train()(ids).logits, plain(ids).logits)


def test_the_gradient_goes_through_the_noisy_base(ids: torch.Tensor) -> None:
    """The base is frozen, so the gradient of the adapters under fixed noise is that of the model with that noise."""
    _, model = adapted_llama(resample="never", noisy="mlp")
    grown(model).train()
    fixed = copy.deepcopy(model)
    for module in fixed.modules():
        if "forward" in vars(module):
            noisy = vars(module).pop("forward").noisy(torch.zeros(1, module.in_features), module.weight)[1]
            module.weight.data = noisy
    grads = []
    for each in (model, fixed):
        each(ids, labels=ids).loss.backward()
        grads.append([p.grad for p in each.parameters() if p.requires_grad])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_merging_is_refused_with_the_reason_and_nothing_is_changed(ids: torch.Tensor) -> None:
    _, model = adapted_llama()
    outputs = grown(model).eval()(ids).logits
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    for merge in (model.merge_and_unload, model.merge_adapter, layer.merge):
        with pytest.raises(InputError, match="cannot be merged: .*noisy arrays.*unload"):
            merge()
    assert same_bytes(model(ids).logits, outputs)


def test_deploy_puts_the_base_on_the_chip_and_leaves_the_adapters(ids: torch.Tensor) -> None:
    """For adapters of any origin: here plain PEFT ones, whose merge is refused while the base is on the chip."""
    model = peft.get_peft_model(build("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    grown(model).eval()
    before, outputs = adapters(model), model(ids).logits
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with Deploy(chip=CELLS, seed=1).apply(model):
        kinds = {name: type(module) for name, module in model.named_modules()}
        assert sum(kind is AnalogLinear for kind in kinds.values()) == 2 * 7
        assert type(layer.base_layer) is AnalogLinear
        assert all(kind is not AnalogLinear for name, kind in kinds.items() if "lora_" in name)
        assert all(same_bytes(tensor, adapters(model)[name]) for name, tensor in before.items())
        assert not torch.equal(model(ids).logits, outputs)
        with pytest.raises(InputError, match="cannot be merged"):
            model.merge_and_unload()
    assert same_bytes(model(ids).logits, outputs)
    layer.merge()
    with pytest.raises(InputError, match="q_proj.base_layer is merged into it; call unmerge_adapter"):
        Deploy(chip=CELLS, seed=1).apply(model)
    layer.unmerge()
    for method in (Deploy(chip=CELLS, select="*lora_A*"), NoiseAware(chip=NOISE, select=nn.Linear)):
        with pytest.raises(InputError, match="is part of an adapter, which stays digital"):
            method.apply(model)


def test_a_trained_one_is_deployed_on_any_chip(ids: torch.Tensor) -> None:
    _, model = adapted_llama(chip="pcm")
    grown(model).eval()
    clean = model(ids).logits
    with Deploy(chip="reram-wan", seed=2).apply(model):
        assert not torch.equal(model(ids).logits, clean)
        with pytest.raises(InputError, match="cannot be merged"):
            model.merge_adapter()
    assert same_bytes(model(ids).logits, clean)
    with pytest.raises(InputError, match="cannot be merged"):
        model.merge_adapter()
    changes(model)[0].undo()
    assert torch.equal(model.train()(ids).logits, model(ids).logits)


def test_roles_of_layers_under_adapters() -> None:
    plain = [site.role for site in select(build("llama"), "linear")]
    _, model = adapted_llama(select="linear,!head")
    assert [site.role for site in select(model, "linear")] == plain
    assert len(select(model, "attention.q")) == 2
    assert all(site.name.endswith("q_proj.base_layer") for site in select(model, "attention.q"))


@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")  # of the oldest PEFT
def test_adapters_are_saved_and_loaded_as_those_of_peft(ids: torch.Tensor, tmp_path: Path) -> None:
    _, model = adapted_llama()
    outputs = grown(model).eval()(ids).logits
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("llama"), tmp_path).eval()
    assert same_bytes(again(ids).logits, outputs)


def test_in_the_trainer_the_penalty_counts_once_for_each_optimizer_step(ids: torch.Tensor, tmp_path: Path) -> None:
    method, model = adapted_llama(penalty_weight=1.0)
    seen = []

    class Spy(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: object, state: object, control: object, **kwargs: object) -> None:
            seen.append([p.grad.clone() for p in model.parameters() if p.requires_grad])

    data = [{"input_ids": row, "labels": row} for row in ids.repeat(4, 1)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=3,
        report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    before, after = Spy(), Spy()
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(method.penalty(model), parameters)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=data, callbacks=[before, method.callback(model), after]
    )
    trainer.train()
    assert len(seen) == 2
    for first, second, gradient in zip(*seen, expected, strict=True):
        torch.testing.assert_close(second - first, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("rank", 2.5),
        ("alpha", 0.0),
        ("penalty_weight", -1.0),
        ("norm", "nuclear"),
        ("seed", 1.5),
        ("chip", "no-such-chip"),
        ("resample", 0),
        ("warmup_steps", -1),
    ],
)
def test_bad_fields_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=str(value)):
        HaLoRA(**{"chip": NOISE, field: value})  # pyright: ignore[reportArgumentType]


def test_models_that_cannot_be_adapted_are_refused() -> None:
    method = HaLoRA(chip=NOISE)
    with pytest.raises(InputError, match="has no low-rank adapters"):
        method.penalty(build("llama"))
    with pytest.raises(InputError, match="has adapters already"):
        method.adapt(adapted_llama()[1])
    with pytest.raises(InputError, match="'attention.q' matches nothing in Sequential"):
        method.adapt(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(InputError, match="c_attn:q is a part of a fused projection"):
        method.adapt(build("gpt2"))
    with pytest.raises(InputError, match="c_proj is Conv1D; HaLoRA puts adapters on whole nn.Linear"):
        HaLoRA(chip=NOISE, select="mlp.down").adapt(build("gpt2"))
    moe = build("mixtral")
    with pytest.raises(InputError, match="noise-aware training takes nn.Linear"):
        method.adapt(moe)
    assert not any("lora" in name for name, _ in moe.named_modules())
    HaLoRA(chip=NOISE, noisy="attention").adapt(moe)


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'pip install "hardy-nn\[peft\]"'):
        HaLoRA(chip=NOISE).adapt(build("llama"))
