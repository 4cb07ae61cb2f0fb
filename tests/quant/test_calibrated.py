"""Quantizers that look at data: like their oracles, layer after layer, and with what must be refused."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from models import build
from reference import feedback as reference
from reference import rounding
from torch import nn

from hardy.core import InputError, Site
from hardy.core.roles import is_linear
from hardy.evaluate import batches
from hardy.hooks.block_inputs import chained
from hardy.hooks.statistics import SecondMoment, observe
from hardy.ops import kernels
from hardy.quant import (
    GPTQ,
    AsymmetricTrits,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    RoundToNearest,
    TritPlanes,
    asymmetric_trits,
    calibrated_trit_planes,
    gptq,
)
from hardy.quant.calibrated import CalibratedQuantizer
from hardy.zoo import held_out_text, load

SITE = Site("w", "w", "weight", None, None, None)
METHODS = [
    GPTQ(bits=3, group_size=16),
    GPTQ(bits=4, group_size=None, symmetric=True, order="given", range="full"),
    CalibratedTritPlanes(planes=2, group_size=7, iterations=2),
    AsymmetricTrits(group_size=16),
]
each = pytest.mark.parametrize("method", METHODS, ids=str)
ORDERS = ["given", "activation"]


def problem(rows: int, inputs: int, tokens: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, inputs)) @ rng.standard_normal((inputs, inputs)) * rng.uniform(0.2, 3, inputs)
    return torch.from_numpy(rng.standard_normal((rows, inputs))), torch.from_numpy(x.T @ x)


def output_error(new: torch.Tensor, weight: torch.Tensor, gram: torch.Tensor) -> float:
    error = new.double() - weight.double()
    return (((error @ gram) * error).sum() / ((weight.double() @ gram) * weight).sum()).sqrt().item()


def data(count: int = 3) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, 64, (2, 9), generator=draw) for _ in range(count)]


def grid_of(weights: np.ndarray, bits: int, symmetric: bool) -> Callable[[float], float]:
    """The rounding of a group to the grid of its smallest and largest weight."""
    if symmetric:
        top = 2 ** (bits - 1) - 1
        scale, zero, lowest = rounding.stored_scale(np.abs(weights).max() / top), top + 1, 1
    else:
        low, high = min(0, weights.min()), max(0, weights.max())
        scale = rounding.stored_scale((high - low) / (2**bits - 1))
        zero, lowest = round(-low / scale), 0
    return lambda w: (min(max(round(w / scale) + zero, lowest), 2**bits - 1) - zero) * scale


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [5, 8, None])
def test_gptq_like_the_oracle(order: str, symmetric: bool, size: int | None) -> None:
    weight, gram = problem(4, 21)
    found = gptq.fit(weight, gram, 3, size, symmetric, 0.01, order, "full").dequantize()
    for row, ours in zip(weight.numpy(), found.numpy(), strict=True):
        expected = reference.gptq_row(
            row, gram.numpy(), size or 21, 0.01, order, lambda group: grid_of(group, 3, symmetric)
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(("size", "iterations"), [(21, 1), (8, 1), (8, 3), (21, 4)])
def test_trit_planes_like_the_oracle(order: str, planes: int, size: int, iterations: int) -> None:
    weight, gram = problem(4, 21, seed=planes)
    found = calibrated_trit_planes.fit(weight, gram, planes, size, 0.01, order, iterations).dequantize()
    for row, ours in zip(weight.numpy(), found.numpy(), strict=True):
        expected = reference.trits_row(row, gram.numpy(), planes, size, 0.01, order, iterations)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)


def test_asymmetric_trits_are_their_formulas() -> None:
    """One group: fitted without, then aligned with the Hessian; nothing is left to make up for its errors."""
    weight, gram = problem(4, 21)
    found = asymmetric_trits.fit(weight, gram, None, 0.0)
    hessian = gram.numpy()
    for row, trits, scale, offset in zip(
        weight.numpy(), found.trits[:, 0].numpy(), found.scale[:, 0, 0], found.offset[:, 0, 0], strict=True
    ):
        m, t = 21, trits.astype(float)
        plain = (m * (row @ t) - row.sum() * t.sum()) / (m * (t @ t) - t.sum() ** 2)
        middle = ((t @ t) * row.sum() - t.sum() * (row @ t)) / (m * (t @ t) - t.sum() ** 2)
        np.testing.assert_array_equal(t, np.clip(np.rint((row - middle) / plain), -1, 1), "trits at rest on their grid")
        design = np.stack([t, np.ones(m)])
        best = np.linalg.solve(design @ hessian @ design.T, design @ hessian @ row)
        np.testing.assert_allclose([scale, offset], best, rtol=2.0**-10, atol=1e-4)


def test_asymmetric_trits_of_equal_weights_have_an_offset_only() -> None:
    weight = torch.full((2, 8), 0.75)
    found = asymmetric_trits.fit(weight, torch.eye(8), 8)
    assert torch.equal(found.dequantize(), weight)
    assert not found.scale.any()


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_outputs_are_nearer_than_of_any_method_without_data(planes: int, order: str) -> None:
    weight, gram = problem(32, 256, tokens=2000)
    plain = output_error(TritPlanes(planes=planes, group_size=64).edit_weight(weight.float(), SITE)[0], weight, gram)
    error = plain
    for iterations in (1, 5):
        found = calibrated_trit_planes.fit(weight.float(), gram, planes, 64, 0.01, order, iterations)
        now = output_error(found.dequantize(), weight, gram)
        assert now < error
        error = now
    assert error < 0.85 * plain
    asymmetric = output_error(asymmetric_trits.fit(weight.float(), gram, 64).dequantize(), weight, gram)
    assert planes > 1 or error < asymmetric < plain
    bits = planes + 1
    clipped = ClippedRoundToNearest(bits=bits, group_size=64).edit_weight(weight.float(), SITE)[0]
    assert output_error(gptq.fit(weight.float(), gram, bits, 64).dequantize(), weight, gram) < 0.85 * output_error(
        clipped, weight, gram
    )


def test_with_independent_inputs_it_is_rounding() -> None:
    weight = problem(8, 32)[0].float()
    rounded = RoundToNearest(bits=3, group_size=16).edit_weight(weight, SITE)[0]
    assert torch.equal(GPTQ(bits=3, group_size=16, range="full").edit_weight(weight, SITE)[0], rounded)
    clipped = ClippedRoundToNearest(bits=3, group_size=16).edit_weight(weight, SITE)[0]
    assert torch.equal(GPTQ(bits=3, group_size=16).edit_weight(weight, SITE)[0], clipped)
    planes = TritPlanes(group_size=16).edit_weight(weight, SITE)[0]
    ours = CalibratedTritPlanes(group_size=16).edit_weight(weight, SITE)[0]
    assert (ours - weight).norm() <= (planes - weight).norm() * (1 + 1e-6)


@each
def test_an_input_that_was_always_zero_is_rounded_and_changes_nothing_else(method: CalibratedQuantizer) -> None:
    weight, gram = problem(4, 32)
    weight = weight.float()
    gram[5] = gram[:, 5] = 0
    before = method.quantize_for(weight, gram)[0].dequantize()
    assert torch.isfinite(before).all()
    if isinstance(method, GPTQ):
        weight[0, 5] = weight[0, 4] / 2  # inside the range of its group
        after = method.quantize_for(weight, gram)[0].dequantize()
        others = [i for i in range(32) if i != 5]
        if method.range == "full":
            assert torch.equal(before[:, others], after[:, others])
        assert (after[0, 5] - weight[0, 5]).abs() < (weight[0].max() - weight[0].min()) / 7


@each
@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 21)])
def test_bits_are_known_before_the_fit(method: CalibratedQuantizer, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert method.stored_bits(shape) == method.quantize(weight, SITE)[0].bits


@each
def test_a_stack_is_fitted_matrix_by_matrix(method: CalibratedQuantizer) -> None:
    pairs = [problem(3, 24, seed=seed) for seed in range(2)]
    weight, gram = torch.stack([w.float() for w, _ in pairs]), torch.stack([g for _, g in pairs])
    together = method.quantize_for(weight, gram)[0]
    assert together.dequantize().shape == weight.shape
    alone = [method.quantize_for(w, g)[0] for w, g in zip(weight, gram, strict=True)]
    assert torch.equal(together.dequantize(), torch.stack([each.dequantize() for each in alone]))
    assert together.bits == sum(each.bits for each in alone)


@each
def test_the_change_keeps_what_is_stored(method: CalibratedQuantizer, llama: nn.Module) -> None:
    change = method.apply(llama, data())
    assert len(change.stored) == 14
    for name, stored in change.stored.items():
        weight = llama.get_submodule(name).weight
        assert torch.equal(stored.dequantize(), weight)
        assert stored.bits == change.report.value("bits_per_weight", name) * weight.numel()
        assert change.report.value("tokens_per_input", name) == 3 * 18 / weight.shape[1]
    assert change.report.value("tokens_per_input", "all selected weights") == 54 / 48


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "gpt_neox", "mixtral", "mamba"])
def test_each_layer_is_fitted_to_the_quantized_layers_before_it(architecture: str) -> None:
    method, model = GPTQ(bits=2, group_size=16), build(architecture)
    where = "linear,!experts,!head,!router" + (",!*.dt_proj" if architecture == "mamba" else "")
    second = copy.deepcopy(model)
    GPTQ(bits=2, group_size=16, select=where, layers=0).apply(second, data())
    sites = GPTQ(bits=2, group_size=16, select=where, layers=1).apply(copy.deepcopy(second), data()).stored
    seen = observe(second, data(), where, [SecondMoment])
    whole = GPTQ(bits=2, group_size=16, select=where).apply(model, data())
    for name, stored in sites.items():
        assert torch.equal(stored.dequantize(), whole.stored[name].dequantize())
    name = next(iter(sites))
    if ":" not in name and architecture != "gpt2":
        expected = method.quantize_for(second.get_submodule(name).weight.detach(), seen[name][0].value)[0]
        assert torch.equal(expected.dequantize(), whole.stored[name].dequantize())


def inputs_seen(model: nn.Module, name: str) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in data():
            model(batch)
    handle.remove()
    return torch.cat(seen).double()


def test_a_correction_goes_towards_what_the_unmodified_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights whose outputs on the inputs that there are now are nearest to the unmodified model's, by hand."""
    targets: list[torch.Tensor] = []
    quantize_for = GPTQ.quantize_for

    def noted(self: GPTQ, weight: torch.Tensor, gram: torch.Tensor) -> object:
        targets.append(weight)
        return quantize_for(self, weight, gram)

    monkeypatch.setattr(GPTQ, "quantize_for", noted)
    model = build("llama")
    intact, current = copy.deepcopy(model), copy.deepcopy(model)
    method = GPTQ(bits=2, group_size=16, select="linear,!head", damping=1e-3, correction=0.5)
    change = method.apply(model, data())
    assert change.report.value("corrected", "all selected weights") == 1
    assert len(targets) == len(change.stored) == 14
    for (name, stored), target in zip(change.stored.items(), targets, strict=True):
        weight = intact.get_submodule(name).weight.detach().double()
        wanted, given = inputs_seen(intact, name), inputs_seen(current, name)
        gram = given.T @ given
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        nearest = weight + weight @ (wanted - given).T @ given @ torch.linalg.inv(gram + ridge)
        moved = (weight + nearest) / 2 - weight
        assert ((target - weight) - moved).norm() <= 0.05 * moved.norm() + 0.003 * weight.norm()  # inputs in bfloat16
        with torch.no_grad():
            current.get_submodule(name).weight.copy_(stored.dequantize())
    assert moved.norm() > 0.05 * weight.norm()


def test_a_layer_that_is_given_zeros_has_nothing_to_correct() -> None:
    model = build("llama")
    values = model.get_submodule("model.layers.0.self_attn.v_proj")
    with torch.no_grad():
        values.weight.zero_()
    before = model.get_submodule("model.layers.0.self_attn.o_proj").weight.detach().clone()
    change = GPTQ(bits=4, group_size=16, select="linear,!head", correction=0.5).apply(model, data())
    after = change.stored["model.layers.0.self_attn.o_proj"].dequantize()
    assert (after - before).norm() < 0.2 * before.norm()


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe"])
def test_experts_are_calibrated_with_their_tokens(architecture: str) -> None:
    model = build(architecture, dtype=torch.bfloat16)
    method = CalibratedTritPlanes(group_size=16, select="experts", iterations=1)
    change = method.apply(model, data(8))
    plain = TritPlanes(group_size=16, select="experts").apply(build(architecture, dtype=torch.bfloat16))
    assert change.report.value("bits_per_weight", "all selected weights") == plain.report.value(
        "bits_per_weight", "all selected weights"
    )
    assert 0 < change.report.value("output_error", "all selected weights") < 0.2


def test_any_module_and_batches_of_tensors() -> None:
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    change = GPTQ(bits=4, group_size=8).apply(model, iter([torch.randn(20, 16, generator=draw) for _ in range(2)]))
    assert list(change.stored) == ["0", "2"]
    assert change.report.value("tokens_per_input", "2") == 40 / 32
    change.undo()
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight
    assert list(GPTQ(bits=4, group_size=8).apply(tied, [torch.randn(20, 8, generator=draw)]).stored) == ["0"]


def test_the_trained_model_loses_less_than_without_data() -> None:
    model, tokenizer = load("tiny-llama")
    ids = batches(tokenizer, held_out_text("calibration"), window=256, tokens=4096)
    for method, plain in (
        (CalibratedTritPlanes(select="mlp.down"), TritPlanes(select="mlp.down")),
        (GPTQ(bits=3, select="mlp.down"), ClippedRoundToNearest(bits=3, select="mlp.down")),
    ):
        seen = observe(model, ids, "mlp.down", [SecondMoment])
        with plain.apply(model) as change:
            error = energy = 0.0
            for name, (moment,) in seen.items():
                stored = change.stored[name].dequantize()
                change.suspend()
                weight = model.get_submodule(name).weight.detach()
                change.resume()
                error += (
                    output_error(stored, weight, moment.value) ** 2
                    * ((weight.double() @ moment.value) * weight).sum().item()
                )
                energy += ((weight.double() @ moment.value) * weight).sum().item()
        with method.apply(model, ids) as change:
            assert change.report.value("output_error", "all selected weights") < 0.8 * (error / energy) ** 0.5


def test_without_data_it_says_what_to_give(llama: nn.Module) -> None:
    for nothing in (None, [], iter(())):
        with pytest.raises(InputError, match=r"GPTQ needs calibration batches: .*hardy.evaluate.batches\(tokenizer"):
            GPTQ(bits=3, group_size=16).apply(llama, nothing)


def test_a_group_longer_than_the_row_is_refused_before_anything_is_run(llama: nn.Module) -> None:
    with pytest.raises(InputError, match="group_size 128 is larger than the 32 inputs of .*q_proj"):
        GPTQ(bits=3).apply(llama, [torch.full((1, 3), 10**6)])


@each
def test_a_scale_beyond_float16_is_refused(method: CalibratedQuantizer) -> None:
    with pytest.raises(InputError, match="float16"):
        method.quantize(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 1e7, SITE)


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(("rows", "inputs", "size"), [(33, 70, 32), (5, 40, 40), (64, 130, 128)])
def test_compiled_rounding_is_that_of_torch(
    planes: int, rows: int, inputs: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels.extension() is None:
        pytest.skip("the compiled kernels are not built")
    weight, gram = problem(rows, inputs, seed=planes)
    weight = weight.float()
    fits = [
        lambda: calibrated_trit_planes.fit(weight, gram, planes, size, iterations=3),
        lambda: gptq.fit(weight, gram, planes + 1, size),
        lambda: gptq.fit(weight, gram, planes + 1, size, symmetric=True),
    ]
    monkeypatch.delenv("HARDY_KERNELS", raising=False)
    compiled = [fit().dequantize() for fit in fits]
    monkeypatch.setenv("HARDY_KERNELS", "torch")
    for fast, fit in zip(compiled, fits, strict=True):
        slow = fit().dequantize()
        assert (fast != slow).float().mean() < 0.02, "sums in another order decide near ties differently"
        assert output_error(fast, weight, gram) == pytest.approx(output_error(slow, weight, gram), rel=0.02)


class Shortcut(nn.Module):
    """Blocks of which the last reads what the first left for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.layers[0](x)
        return self.layers[2](self.layers[1](first) + first)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "mamba"])
def test_blocks_run_twice_each_however_deep_the_model_is(architecture: str) -> None:
    model, runs = build(architecture), {"first": 0, "last": 0}
    blocks = {"llama": "model.layers", "gpt2": "transformer.h", "mixtral": "model.layers", "mamba": "backbone.layers"}
    stack = model.get_submodule(blocks[architecture])
    for name, block in (("first", stack[0]), ("last", stack[len(stack) - 1])):
        linear = next(part for part in block.modules() if is_linear(part))
        linear.register_forward_pre_hook(lambda *_, name=name: runs.update({name: runs[name] + 1}))
    where = "linear,!experts,!head,!router,!*.dt_proj" if architecture == "mamba" else "linear,!experts,!head,!router"
    GPTQ(bits=4, group_size=16, select=where).apply(model, data(5))
    # Once to count calls, once or twice to see that the blocks are a chain; then for inputs, and for the next block's.
    assert runs == {"first": 2 + 5 + 5, "last": 3 + 5}


def test_blocks_that_hand_over_more_than_hidden_states_run_from_the_start() -> None:
    draw = torch.Generator().manual_seed(0)
    model, batch = Shortcut(), torch.randn(20, 16, generator=draw)
    assert not chained(model, batch, [f"layers.{i}" for i in range(3)])
    intact = model.layers[2].weight.detach().clone()
    change = GPTQ(bits=2, group_size=8).apply(model, [batch])
    with torch.no_grad():
        first = model.layers[0](batch)
        inputs = model.layers[1](first) + first
    expected = GPTQ(bits=2, group_size=8).quantize_for(intact, (inputs.T @ inputs).double())[0]
    assert torch.equal(change.stored["layers.2"].dequantize(), expected.dequantize())
