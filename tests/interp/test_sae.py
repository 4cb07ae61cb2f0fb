"""Sparse autoencoders: known features are found, what is patched is exact, and the files are SAELens'."""

import json
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import assert_same, same_bytes, snapshot

from hardy import hooks, interp
from hardy.errors import InputError
from hardy.interp import SAE, Amplitude, Training
from hardy.interp.sae_training import checkpoint_in, fit, toy_superposition, train

QUICK: dict[str, Any] = {"expansion": 2, "k": 2, "steps": 1200, "batch": 256, "buffer": 4096, "dead_after": 20000}


def small(d_in: int = 32, width: int = 48, kind: str = "topk", point: str = "blocks.1.resid_post", **more: Any) -> SAE:
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=g) for shape in ((d_in, width), (width, d_in), (width,), (d_in,))]
    chosen: dict[str, Any] = {"k": 5} if kind == "topk" else {"threshold": torch.full((width,), 0.5)}
    return SAE(*parts, point, "some model", **chosen, **more)


def task() -> interp.Task:
    g = torch.Generator().manual_seed(2)
    clean = torch.randint(3, 64, (6, 5), generator=g)
    corrupt = clean.clone()
    corrupt[:, 2] = (corrupt[:, 2] + 7) % 60 + 3
    return interp.Task(clean, torch.arange(10, 16)[:, None], torch.arange(20, 26)[:, None], corrupt)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_features_of_a_toy_superposition_are_found(architecture: Any) -> None:
    directions, stream = toy_superposition(32, 16)
    steps = {"topk": 1000, "jumprelu": 2000}[architecture]
    trained = fit(stream, Training(architecture=architecture, learning_rate=3e-3, **{**QUICK, "steps": steps}))
    cosines = directions @ trained.sae.decoder.mT
    chance = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    chance = directions @ (chance / chance.norm(dim=1, keepdim=True)).mT
    assert cosines.max(1).values.mean() > 0.9 > chance.max(1).values.mean()
    assert trained.dead < 0.1
    assert trained.on == pytest.approx(2, abs=1)


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = Training(**{**QUICK, "steps": 40})
    _, stream = toy_superposition()
    whole = fit(stream, settings)
    left = 2 * [25]

    def stopped(number: int) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 22:
            raise KeyboardInterrupt
        return stream(number)

    place = checkpoint_in(tmp_path, settings)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, settings, checkpoint=place, every=5)
    assert place.path.exists()
    again = fit(stream, settings, checkpoint=place, every=5)
    assert same_bytes(whole.sae.decoder, again.sae.decoder)
    assert not place.path.exists()
    fit(stream, settings, checkpoint=place, every=5)
    place.save({"step": 1})
    other = checkpoint_in(tmp_path, Training(**{**QUICK, "steps": 40, "k": 3}))
    with pytest.raises(InputError, match="k is"):
        fit(stream, settings, checkpoint=other)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
@pytest.mark.parametrize("point", ["blocks.1.resid_post", "blocks.0.mlp_out", "blocks.1.attn.z", "embed"])
def test_features_are_objects_and_what_they_leave_unexplained_stays(kind: str, point: str, ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    before = snapshot(model)
    sae = small(kind=kind, point=point)
    with torch.no_grad():
        plain = model(ids).logits
    with torch.no_grad(), sae.attached(model), hooks.record(model, [point, sae.name]) as seen:
        assert same_bytes(model(ids).logits, plain)
    with torch.no_grad(), sae.attached(model), hooks.patch(model, {sae.name: lambda f: f.clone()}):
        assert same_bytes(model(ids).logits, plain)
    activation, features = seen[point].flatten(2), seen[sae.name]
    torch.testing.assert_close(features, sae.encode(activation))
    on = int(features[0, -1].argmax())
    expected = activation + (3 - features[..., on : on + 1]) * sae.decoder[on]
    with torch.no_grad(), sae.attached(model), interp.patch(model, {f"{sae.name}.{on}": 3.0}):
        by_name = model(ids).logits
    with torch.no_grad(), hooks.patch(model, {point: lambda x: expected.view_as(x)}):
        torch.testing.assert_close(by_name, model(ids).logits)
    assert_same(before, model)
    with pytest.raises(InputError, match="attach a sparse autoencoder"):
        interp.locate(model, task(), object="feature", by="magnitude")


def test_gradients_of_features_are_along_their_directions_and_leave_those_before_alone(ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    sae = small(point="blocks.0.resid_post")

    def gradients(*names: str) -> list[torch.Tensor]:
        with sae.attached(model), hooks.record(model, list(names)) as seen:
            score = model(ids).logits[0, -1, 5]
        return list(torch.autograd.grad(score, [seen[name] for name in names]))

    both = gradients("embed", "blocks.0.resid_post", sae.name)
    torch.testing.assert_close(both[2], both[1] @ sae.decoder.mT)
    torch.testing.assert_close(both[0], gradients("embed")[0])


@pytest.mark.parametrize(
    "by", ["patching", "attribution-patching", "gradient", "magnitude", "direct-logit-attribution"]
)
def test_locators_rank_features(by: str) -> None:
    model = models.build("llama")
    with small().attached(model):
        ranking = interp.locate(model, task(), object="features", by=by)
        assert len(ranking) == 48
        lost = interp.knocked_out(model, task(), ranking.top(48))
    assert isinstance(lost, float)


def test_rates_of_features_are_counted_by_hand() -> None:
    model, given = models.build("llama"), task()
    sae = small()
    with sae.attached(model):
        rates = interp.locate(model, given, object="feature", by="magnitude", statistic="rate")
        contrast = interp.locate(model, given, object="feature", by="magnitude", statistic="rate-contrast")
        seen = {side: interp.record(model, given.inputs(side), "feature")[sae.name] for side in ("clean", "corrupt")}
    by_hand = {side: (f > 0).double().mean((0, 1)) for side, f in seen.items()}
    for i in range(48):
        assert rates.scores[f"{sae.name}.{i}"] == pytest.approx(by_hand["clean"][i].item())
        difference = abs(by_hand["clean"][i] - by_hand["corrupt"][i]).item()
        assert contrast.scores[f"{sae.name}.{i}"] == pytest.approx(difference)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_files_are_those_of_saelens(kind: str, tmp_path: Path) -> None:
    sae = small(kind=kind, layers=2)
    sae.save(tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == kind
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    read = SAE.load(tmp_path / "sae")
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    assert same_bytes(read.encode(x), sae.encode(x))
    assert (read.point, read.model, read.layers) == (sae.point, sae.model, 2)


def test_older_files_of_saelens_are_read(tmp_path: Path) -> None:
    sae = small()
    sae.save(tmp_path)
    config = {"hook_name": "blocks.1.hook_resid_post", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard", "model_name": "m", **config}))
    assert SAE.load(tmp_path).k == 5
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "gated", **config}))
    with pytest.raises(InputError, match="architecture must be topk, jumprelu or standard, got 'gated'"):
        SAE.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"normalize_activations": "layer_norm", **config}))
    with pytest.raises(InputError, match="normalize_activations must be none here, got 'layer_norm'"):
        SAE.load(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        SAE.load(tmp_path)


def test_another_models_autoencoder_is_refused_and_the_model_is_as_it_was() -> None:
    model = models.build("llama")
    before = snapshot(model)
    for sae, message in (
        (small(d_in=16), "width 16, that of LlamaForCausalLM is of width 32"),
        (small(point="blocks.7.resid_post"), "no activation 'blocks.7.resid_post'"),
        (small(layers=12), "with 12 blocks; LlamaForCausalLM has 2"),
    ):
        with pytest.raises(InputError, match=message), sae.attached(model):
            pass
    assert_same(before, model)


def test_a_feature_is_clamped_as_a_method_and_inside_generate(tmp_path: Path, ids: torch.Tensor) -> None:
    model: Any = models.build("llama")
    sae = small()
    sae.save(tmp_path / "sae")
    clamp = Amplitude(units=(f"{sae.name}.3",), value=4.0, sae=str(tmp_path / "sae"))
    with torch.no_grad(), sae.attached(model), interp.patch(model, {f"{sae.name}.3": 4.0}):
        expected = model.generate(ids[:1], max_new_tokens=4, do_sample=False, eos_token_id=None)
    with clamp.apply(model):
        got = model.generate(ids[:1], max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(expected, got)
    with pytest.raises(InputError, match="give its folder as sae="):
        Amplitude(units=(f"{sae.name}.3",)).apply(model)


def test_training_on_a_model_streams_and_explains_more_than_the_start(ids: torch.Tensor) -> None:
    model = models.build("llama")
    g = torch.Generator().manual_seed(0)
    batches = [torch.randint(3, 64, (4, 16), generator=g) for _ in range(8)]
    settings = Training(**{**QUICK, "steps": 150, "k": 8, "batch": 64, "buffer": 256})
    trained = train(model, batches, "blocks.0.mlp_out", settings, name="tiny")
    losses = list(trained.losses.values())
    assert losses[-1] < losses[0]
    assert trained.sae.point == "blocks.0.mlp_out"
    with pytest.raises(InputError, match="no activation"):
        train(model, batches, "blocks.9.mlp_out", settings)
    with pytest.raises(InputError, match="needs text, got no batches"):
        train(model, [], "blocks.0.mlp_out", settings)
