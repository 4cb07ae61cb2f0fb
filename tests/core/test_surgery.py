"""Editing and taking back: identical objects, identical bytes, whatever is tied, fused, stacked or transposed."""

import copy
import dataclasses
import gc
import weakref
from collections.abc import Mapping

import pytest
import torch
from models import CONFIGS, ConvNet, assert_same, build, snapshot
from torch import nn

from hardy.core import Edits, InputError, Site, WeightMethod, chain, changes, select, weight_of
from hardy.hardware import AdditiveNoise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(WeightMethod):
    """Multiplies weights, and fails at a site whose name contains `fail_at`."""

    factor: float = 2.0
    fail_at: str | None = None

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        if self.fail_at and self.fail_at in site.name:
            raise RuntimeError("failed half-way")
        return weight * self.factor, {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_scaling_reaches_the_model_and_undo_restores_the_very_tensors(
    architecture: str, dtype: torch.dtype, ids: torch.Tensor
) -> None:
    model = build(architecture, dtype=dtype)
    before = snapshot(model)
    with torch.inference_mode():
        logits = model(ids).logits
    with Scale().apply(model):
        sites = {(site.module, site.parameter) for site in select(model)}
        for name, (identity, tensor) in snapshot(model).items():
            edited = tuple(name.rsplit(".", 1)) in sites
            assert (identity != before[name][0]) == edited, name
            assert torch.equal(tensor, before[name][1] * 2 if edited else before[name][1]), name
        with torch.inference_mode():
            assert not torch.equal(model(ids).logits, logits)
    assert_same(before, model)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "mixtral"])
@pytest.mark.parametrize("where", ["head", "embedding", "head,embedding", "embedding,head,linear"])
def test_ties(architecture: str, where: str) -> None:
    model = build(architecture, tied=True)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embedding.weight, "the fixture must be tied"
    before, old = snapshot(model), head.weight
    both = "head" in where and "embedding" in where
    with Scale(select=where).apply(model) as change:
        assert (head.weight is embedding.weight) == both
        assert model.config.tie_word_embeddings == both
        assert torch.equal(head.weight, old * 2 if "head" in where else old)
        assert torch.equal(embedding.weight, old * 2 if "embedding" in where else old)
        sites = [row.condition for row in change.report.rows]
        assert len(sites) == len(set(sites))
        assert ("lm_head" in sites) == (where == "head"), "a tied weight is reported once, where it was edited first"
    assert model.config.tie_word_embeddings is True
    assert_same(before, model)


def test_a_chain_keeps_apart_what_an_earlier_method_untied() -> None:
    model = build("llama", tied=True)
    before, old = snapshot(model), model.lm_head.weight
    with chain(Scale(select="embedding", factor=2), Scale(select="head", factor=3)).apply(model):
        assert torch.equal(model.model.embed_tokens.weight, old * 2)
        assert torch.equal(model.lm_head.weight, old * 3)
    with chain(Scale(select="embedding,head", factor=2), Scale(select="embedding,head", factor=3)).apply(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert torch.equal(model.lm_head.weight, old * 6)
    assert_same(before, model)


@pytest.mark.parametrize("architecture", ["gpt2", "phi3"])
def test_parts_of_a_fused_projection_are_edited_one_by_one(architecture: str) -> None:
    model = build(architecture)
    before = snapshot(model)
    q, k, v = (select(model, f"attention.{part}", layers=0)[0] for part in "qkv")
    old = [weight_of(model, site).clone() for site in (q, k, v)]
    whole = model.get_submodule(q.module).weight
    with Scale(select="attention.q,attention.v", layers=0).apply(model) as change:
        assert torch.equal(weight_of(model, q), old[0] * 2)
        assert torch.equal(weight_of(model, k), old[1])
        assert torch.equal(weight_of(model, v), old[2] * 2)
        assert [row.value for row in change.report.select("relative_error")] == [1.0, 1.0, 1.0]
        with Scale(select="attention.k", layers=0).apply(model):
            assert torch.equal(model.get_submodule(q.module).weight, whole * 2)
        assert torch.equal(weight_of(model, k), old[1])
    assert_same(before, model)


def test_shapes_are_out_by_in_whatever_is_stored() -> None:
    shapes = {"gpt2": ("mlp.up", (128, 32)), "mixtral": ("experts.down", (4, 32, 48)), "mamba": ("ssm.conv", (64, 4))}
    for architecture, (role, shape) in shapes.items():
        model = build(architecture)
        assert weight_of(model, select(model, role)[0]).shape == shape
    net = ConvNet()
    assert weight_of(net, select(net, "conv")[1]).shape == (4, 6 * 9)


def test_a_transposed_stack_of_experts() -> None:
    class Experts(nn.Module):
        is_transposed = True

        def __init__(self) -> None:
            super().__init__()
            self.down_proj = nn.Parameter(torch.arange(24.0).reshape(2, 3, 4))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = Experts()

    model = Net()
    site = select(model, "experts.down")[0]
    assert weight_of(model, site).shape == (2, 4, 3)
    edits = Edits(model)
    edits.set_weight(site, weight_of(model, site) + torch.arange(4.0)[:, None])
    assert torch.equal(model.experts.down_proj, torch.arange(24.0).reshape(2, 3, 4) + torch.arange(4.0))


def test_a_convolution_keeps_its_shape() -> None:
    net = ConvNet()
    before = snapshot(net)
    old = net.features[0].weight.detach().clone()
    with Scale(select="conv").apply(net):
        assert torch.equal(net.features[0].weight, old * 2)
    assert_same(before, net)


def test_requires_grad_and_training_of_the_new_weight(llama: nn.Module, ids: torch.Tensor) -> None:
    llama.lm_head.weight.requires_grad_(False)
    before = snapshot(llama)
    with Scale(select="linear").apply(llama):
        assert not llama.lm_head.weight.requires_grad
        llama(ids, labels=ids).loss.backward()
        torch.optim.SGD(llama.parameters(), lr=1.0).step()
    norms = [name for name in before if "norm" in name or "embed" in name]
    assert norms
    for name, (identity, tensor) in snapshot(llama).items():
        assert identity == before[name][0]
        assert name in norms or torch.equal(tensor, before[name][1]), "training after the change must not reach the old"


def test_undo_in_the_wrong_order_is_refused_and_changes_nothing(llama: nn.Module) -> None:
    before = snapshot(llama)
    first = Scale(select="mlp").apply(llama)
    second = Scale(select="mlp.down,attention", factor=3).apply(llama)
    middle = snapshot(llama)
    with pytest.raises(InputError, match="undo the later change first"):
        first.undo()
    assert_same(middle, llama)
    assert changes(llama) == (first, second)
    second.undo()
    first.undo()
    assert_same(before, llama)
    assert changes(llama) == ()


def test_changes_to_different_places_are_undone_in_any_order(llama: nn.Module) -> None:
    before = snapshot(llama)
    first, second = Scale(select="mlp").apply(llama), Scale(select="attention").apply(llama)
    first.undo()
    assert changes(llama) == (second,)
    second.undo()
    assert_same(before, llama)
    with pytest.raises(InputError, match="undone already"):
        second.undo()


def test_an_exception_half_way_rolls_back(llama: nn.Module) -> None:
    before = snapshot(llama)
    with pytest.raises(RuntimeError, match="half-way"):
        Scale(fail_at="layers.1.self_attn").apply(llama)
    assert_same(before, llama)
    with pytest.raises(RuntimeError, match="half-way"):
        chain(Scale(), Scale(), Scale(select="mlp", fail_at="layers.1")).apply(llama)
    assert_same(before, llama)
    tied = build("llama", tied=True)
    before = snapshot(tied)
    with pytest.raises(RuntimeError, match="half-way"):
        chain(Scale(select="embedding"), Scale(fail_at="layers.1")).apply(tied)
    assert_same(before, tied)
    assert tied.config.tie_word_embeddings
    assert changes(llama) == changes(tied) == ()


def test_an_exception_inside_with_undoes_too(llama: nn.Module) -> None:
    before = snapshot(llama)
    with pytest.raises(ZeroDivisionError), Scale().apply(llama):
        raise ZeroDivisionError
    assert_same(before, llama)
    with Scale().apply(llama) as change:
        change.undo()  # early, by hand: leaving has nothing left to do
    assert_same(before, llama)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(llama: nn.Module, bad: float) -> None:
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[3, 5] = bad
    before = {name: identity for name, (identity, _) in snapshot(llama).items()}
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj holds 1 NaN or infinite weights of 1536"):
        Scale().apply(llama)
    assert {name: identity for name, (identity, _) in snapshot(llama).items()} == before


def test_a_result_beyond_the_dtype_is_refused() -> None:
    model = build("llama", dtype=torch.float16)
    before = snapshot(model)
    with pytest.raises(InputError, match="NaN or infinite"):
        Scale(factor=1e7).apply(model)
    assert_same(before, model)


def test_a_site_without_a_weight_is_refused(llama: nn.Module) -> None:
    before = snapshot(llama)
    with pytest.raises(InputError, match=r"model\.norm \(LlamaRMSNorm\) has no weight matrix"):
        Scale(select="mlp,model.norm").apply(llama)
    assert_same(before, llama)


def test_undo_refuses_a_model_that_was_cast_since(llama: nn.Module) -> None:
    change = Scale().apply(llama)
    llama.bfloat16()
    with pytest.raises(InputError, match=r"float32 on cpu before the change and is torch\.bfloat16"):
        change.undo()
    llama.float()
    change.undo()


def test_suspend_and_resume_give_the_same_bytes(llama: nn.Module) -> None:
    before = snapshot(llama)
    change = AdditiveNoise(strength=0.1).apply(llama)
    after = snapshot(llama)
    change.suspend()
    assert_same(before, llama)
    change.resume()
    assert_same(after, llama)


def test_replacing_a_module_and_then_editing_inside_it() -> None:
    net = ConvNet()
    before, old = snapshot(net), net.classifier
    edits = Edits(net)
    edits.set_module("classifier", nn.Sequential(nn.Linear(64, 5, bias=False), nn.Linear(5, 10, bias=False)))
    edits.set_weight(select(net, "classifier.1")[0], torch.ones(10, 5))
    assert torch.equal(net.classifier[1].weight, torch.ones(10, 5))
    edits.undo()
    assert net.classifier is old
    assert_same(before, net)


def test_a_predicate_as_selector_can_be_applied_and_undone(llama: nn.Module) -> None:
    before = snapshot(llama)
    with Scale(select=lambda name, module: name.endswith("down_proj")).apply(llama) as change:
        assert len(change.report.rows) == 3
        assert change.report.settings["select"] == "<lambda>"
    assert_same(before, llama)


def test_a_deep_copy_has_its_own_history(llama: nn.Module) -> None:
    before = snapshot(llama)
    change = Scale().apply(llama)
    twin = copy.deepcopy(llama)
    (copied,) = changes(twin)
    assert copied is not change
    assert copied.method == change.method
    after = snapshot(llama)
    copied.undo()
    assert_same(after, llama)  # the original does not notice
    for name, (_, tensor) in snapshot(twin).items():
        assert torch.equal(tensor, before[name][1])
    change.undo()
    assert_same(before, llama)


def test_a_model_with_changes_is_freed_when_nobody_holds_it() -> None:
    model = build("llama")
    Scale().apply(model)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
