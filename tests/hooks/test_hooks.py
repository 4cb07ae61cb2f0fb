"""Activations by name: each against a forward written out by hand, watched, patched, with gradients, in any company."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from models import DECODERS, ConvNet, assert_same, build, build_encoder, same_bytes, snapshot
from reference.activations import forward
from torch import nn

from hardy import hooks
from hardy.analog import Deploy
from hardy.core import InputError, select
from hardy.hardware import Chip
from hardy.hooks import observe, patch, record, watch
from hardy.hooks.point import SHAPES, canonical, points, resolve
from hardy.hooks.statistics import AbsMax
from hardy.quant import Pack, TritPlanes

ATTENTIVE = [name for name in DECODERS if name != "mamba"]
MODELS: dict[str, nn.Module] = {}


def eager(architecture: str) -> nn.Module:
    """A model whose norms and biases are random too, and whose attention is computed step by step."""
    if architecture not in MODELS:
        model, draw = build(architecture), torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
        if architecture != "mamba":
            model.set_attn_implementation("eager")
        MODELS[architecture] = model
    return MODELS[architecture]


def hooked(model: nn.Module) -> list[str]:
    """What is on the model: names of modules with hooks or a forward of their own."""
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    ]


@pytest.mark.parametrize("architecture", ATTENTIVE)
def test_every_activation_against_a_forward_written_by_hand(architecture: str, ids: torch.Tensor) -> None:
    model = eager(architecture)
    with torch.no_grad(), record(model, "*") as seen:
        model(ids)
    expected = forward(model, ids)
    assert set(seen) == set(expected)
    for name, value in seen.items():
        hand = expected[name]
        if name.endswith("scores"):  # transformers masks with the lowest number where we write -inf
            value, hand = (torch.where(expected[name].isinf(), 0.0, x) for x in (value, hand))
        torch.testing.assert_close(value, hand, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert not hooked(model)


@pytest.mark.parametrize("architecture", list(DECODERS))
def test_like_the_outputs_of_transformers(architecture: str, ids: torch.Tensor) -> None:
    model = eager(architecture)
    mamba = architecture == "mamba"  # its hidden states are those after each block, and it has no attention
    fresh = copy.deepcopy(model)  # its own hooks stay on the model that was asked for hidden states
    with torch.no_grad():
        theirs = fresh(ids, output_hidden_states=True, **({} if mamba else {"output_attentions": True}))
        with record(model, "*") as seen:
            logits = model(ids).logits
    assert same_bytes(logits, theirs.logits)
    assert same_bytes(seen["logits"], theirs.logits)
    for layer in range(2):
        name = f"blocks.{layer}.resid_{'post' if mamba else 'pre'}"
        assert same_bytes(seen[name], theirs.hidden_states[layer])
        if mamba:
            added = seen[f"blocks.{layer}.resid_pre"] + seen[f"blocks.{layer}.mixer_out"]
            assert same_bytes(added, seen[f"blocks.{layer}.resid_post"])
        else:
            torch.testing.assert_close(seen[f"blocks.{layer}.attn.pattern"], theirs.attentions[layer])


@pytest.mark.parametrize("architecture", list(DECODERS))
@pytest.mark.parametrize("same", [lambda x: None, lambda x: x, lambda x: x.clone()], ids=["none", "itself", "copy"])
def test_a_patch_that_changes_nothing_changes_no_bit(architecture: str, same: Callable, ids: torch.Tensor) -> None:
    model = eager(architecture)
    names = [name for name in points(model) if not name.endswith("router_logits")]
    with torch.no_grad():
        expected = model(ids).logits
        with patch(model, dict.fromkeys(names, same)):
            logits = model(ids).logits
    assert torch.equal(logits, expected)
    assert not hooked(model)


CHANGED = [
    "embed", "blocks.0.resid_pre", "blocks.1.resid_mid", "blocks.0.resid_post", "blocks.1.attn_out", "blocks.0.mlp_out",
    "blocks.0.attn.q", "blocks.1.attn.k", "blocks.0.attn.v", "blocks.1.attn.z", "blocks.0.attn.result",
    "blocks.1.attn.scores", "blocks.0.attn.pattern", "blocks.1.mlp.pre", "blocks.0.mlp.pre_linear", "blocks.1.mlp.post",
    "blocks.0.mlp.expert_weights", "blocks.0.mlp.experts_out", "blocks.0.mixer_out",
]  # fmt: skip


@pytest.mark.parametrize("architecture", list(DECODERS))
def test_a_patch_is_what_the_model_goes_on_with(architecture: str, ids: torch.Tensor) -> None:
    """The derivative of the logits by an activation, against the difference that a patch of it makes."""
    model, draw = copy.deepcopy(eager(architecture)).double(), torch.Generator().manual_seed(1)
    model.config._experts_implementation = "eager"  # the only one for float64
    names = [name for name in CHANGED if name in points(model)]
    assert len(names) >= (2 if architecture == "mamba" else 11)
    for name in names:
        with record(model, name) as seen:
            logits = model(ids).logits
        direction = torch.randn(seen[name].shape, generator=draw, dtype=torch.float64) * 1e-4
        if name.endswith("scores"):
            direction = direction.tril()
        along = torch.randn(logits.shape, generator=draw, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((logits * along).sum(), seen[name])
        results = []
        with torch.no_grad():
            for sign in (1, -1):
                with patch(model, {name: lambda x, step=sign * direction: x + step}):
                    results.append((model(ids).logits.double() * along).sum())
        # float64 throughout, but for the softmax, the router and the norms, which transformers computes in float32
        expected = 2 * (gradient * direction).sum()
        torch.testing.assert_close(results[0] - results[1], expected, rtol=0.1, atol=5e-6, msg=f"{name}: {results}")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "opt", "mixtral"])
def test_the_stream_of_another_text_gives_its_logits(architecture: str, ids: torch.Tensor) -> None:
    """Whatever ran before: the whole residual stream, put in the middle of a block, decides what comes after."""
    model = eager(architecture)
    other = ids.flip(1)
    with torch.no_grad():
        for name in ("blocks.1.resid_pre", "blocks.1.resid_mid", "blocks.1.resid_post"):
            with record(model, name) as seen:
                expected = model(other).logits
            with patch(model, {name: lambda x, new=seen[name]: new}):
                torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_head_without_its_result_is_a_head_without_its_z(ids: torch.Tensor) -> None:
    def without(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, :2], torch.zeros_like(x[:, :, 2:3]), x[:, :, 3:]], 2)

    for architecture in ATTENTIVE:
        model, logits = eager(architecture), []
        for name in ("blocks.0.attn.z", "blocks.0.attn.result"):
            with torch.no_grad(), patch(model, {name: without}):
                logits.append(model(ids).logits)
        torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits[0], model(ids).logits, atol=1e-4)


def test_routing_can_be_changed(ids: torch.Tensor) -> None:
    model = eager("mixtral")
    with torch.no_grad(), record(model, "blocks.1.mlp.expert_*") as seen:
        expected = model(ids).logits
    last = seen["blocks.1.mlp.expert_indices"].flip(-1), seen["blocks.1.mlp.expert_weights"].flip(-1)
    swapped = {
        "blocks.1.mlp.expert_indices": lambda x: last[0],
        "blocks.1.mlp.expert_weights": lambda x: last[1],
    }
    with torch.no_grad(), patch(model, swapped):
        torch.testing.assert_close(model(ids).logits, expected)
    with torch.no_grad(), patch(model, {"blocks.1.mlp.expert_indices": lambda x: (x + 1) % 4}):
        assert not torch.allclose(model(ids).logits, expected, atol=1e-4)
    with pytest.raises(InputError, match="router_logits cannot be patched: .*patch expert_weights and expert_indices"):
        patch(model, {"blocks.1.mlp.router_logits": lambda x: x})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "gpt_neox"])
def test_all_gradients_at_once_are_those_one_at_a_time(architecture: str, ids: torch.Tensor) -> None:
    """Watching does not change a gradient: neither of the weights nor of another activation."""
    model = eager(architecture)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = model(ids).logits.square().mean()
    plain = torch.autograd.grad(loss, weights)
    with record(model, "*") as seen:
        loss = model(ids).logits.square().mean()
    names = [name for name, value in seen.items() if value.requires_grad]
    assert len(names) == len(seen)
    together = torch.autograd.grad(loss, [seen[name] for name in names], retain_graph=True)
    for before, after in zip(plain, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-7)
    for name, gradient in zip(names, together, strict=True):
        with record(model, name) as alone:
            loss = model(ids).logits.square().mean()
        (expected,) = torch.autograd.grad(loss, alone[name])
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: name + text)


def test_a_frozen_model_has_gradients_from_a_patch_on(ids: torch.Tensor) -> None:
    model = copy.deepcopy(eager("llama")).requires_grad_(False)
    start = {"embed": lambda x: x.detach().requires_grad_()}
    with patch(model, start), record(model, ["embed", "blocks.1.attn.z"]) as seen:
        loss = model(ids).logits.square().mean()
    for gradient in torch.autograd.grad(loss, list(seen.values())):
        assert gradient.abs().max() > 0


def test_names_of_transformer_lens_are_understood(ids: torch.Tensor) -> None:
    model = eager("llama")
    theirs = {
        "hook_embed": "embed", "blocks.1.hook_resid_pre": "blocks.1.resid_pre",
        "blocks.1.hook_resid_mid": "blocks.1.resid_mid", "blocks.1.hook_resid_post": "blocks.1.resid_post",
        "blocks.1.hook_attn_out": "blocks.1.attn_out", "blocks.1.hook_mlp_out": "blocks.1.mlp_out",
        "blocks.1.attn.hook_q": "blocks.1.attn.q", "blocks.1.attn.hook_k": "blocks.1.attn.k",
        "blocks.1.attn.hook_v": "blocks.1.attn.v", "blocks.1.attn.hook_z": "blocks.1.attn.z",
        "blocks.1.attn.hook_result": "blocks.1.attn.result", "blocks.1.attn.hook_pattern": "blocks.1.attn.pattern",
        "blocks.1.attn.hook_attn_scores": "blocks.1.attn.scores", "blocks.1.mlp.hook_pre": "blocks.1.mlp.pre",
        "blocks.1.mlp.hook_pre_linear": "blocks.1.mlp.pre_linear", "blocks.1.mlp.hook_post": "blocks.1.mlp.post",
    }  # fmt: skip
    for theirs_name, ours in theirs.items():
        assert canonical(theirs_name) == canonical(ours) == ours
        (point,), (same,) = resolve(model, [theirs_name]), resolve(model, [ours])
        assert dataclasses.replace(point, name=ours) == same
        assert point.name == theirs_name, "errors speak the user's language"


def test_every_name_has_its_shape(ids: torch.Tensor) -> None:
    sizes = {"batch": 2, "position": 9, "query": 9, "key": 9, "head": 4, "kv_head": 2, "d_head": 8, "d_model": 32}
    sizes |= {"d_mlp": 48, "vocabulary": 64, "expert": 4, "top_k": 2}
    unseen = set(SHAPES)
    for architecture in ("llama", "mixtral", "mamba", "qwen2", "gemma3", "olmo2", "phi3"):
        model = eager(architecture)
        with torch.no_grad(), record(model, "*") as seen:
            model(ids)
        for name, value in seen.items():
            key = name.replace("blocks.0", "blocks.N").replace("blocks.1", "blocks.N")
            axes = SHAPES[key].split(")")[0].strip("(").split(", ")
            assert value.shape == tuple(sizes[axis] for axis in axes), (architecture, name)
            unseen -= {key}
    assert not unseen


def test_modules_of_any_model_have_inputs_and_outputs() -> None:
    net, x = ConvNet(), torch.randn(2, 3, 8, 8)
    given: list[torch.Tensor] = []
    with watch(net, {("classifier", "input"): given.append, (net.features[0], "output"): given.append}):
        logits = net(x)
    assert torch.equal(given[0], net.features[0](x))
    assert torch.equal(net.classifier(given[1]), logits)
    with patch(net, {("classifier", "output"): torch.zeros_like}):
        assert not net(x).any()
    with patch(net, {("", "input"): torch.zeros_like}):
        assert torch.equal(net(x), net(torch.zeros_like(x)))


def test_keywords_tuples_and_several_tensors() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
            return x * scale, None, x + scale

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, none, second = self.pair(x, scale=x + 1)
            assert none is None
            return first - second

    net, x = Net(), torch.randn(3)
    with record(net, [("pair", "input", 1), ("pair", "output", 1), ("pair", "output")]) as seen:
        net(x)
    assert torch.equal(seen["pair", "input", 1], x + 1)
    assert torch.equal(seen["pair", "output", 1], x + (x + 1))
    with patch(net, {("pair", "input", 1): torch.zeros_like, ("pair", "output", 1): lambda y: 3 * y}):
        torch.testing.assert_close(net(x), -3 * x)
    message = "the output of pair, tensor 2 is not there: there are 2 tensors"
    with pytest.raises(InputError, match=message), record(net, [("pair", "output", 2)]):
        net(x)
    assert not hooked(net)


def test_each_sees_what_those_before_it_left(ids: torch.Tensor) -> None:
    model = eager("llama")
    for name in ("blocks.0.resid_mid", "blocks.0.attn.scores", "blocks.0.attn.pattern", "blocks.0.attn.z", "embed"):
        order: list[torch.Tensor] = []
        with (
            torch.no_grad(),
            watch(model, {name: order.append}),
            patch(model, {name: lambda x: x * 2}),
            watch(model, {name: order.append}),
            patch(model, {name: lambda x: x + 1}),
            watch(model, {name: order.append}),
        ):
            model(ids)
        assert torch.equal(order[1], order[0] * 2), name
        assert torch.equal(order[2], order[0] * 2 + 1), name
        assert not hooked(model)


def test_what_leaves_a_block_is_seen_with_the_changes_inside_of_it(ids: torch.Tensor) -> None:
    """Whoever was there first: a changed stream is in the block's output before anyone looks at that."""
    model, seen = eager("llama"), {}
    after = "blocks.0.resid_post"
    with (
        torch.no_grad(),
        watch(model, {after: lambda x: seen.__setitem__("first", x)}),
        patch(model, {"blocks.0.resid_mid": lambda x: x + 1}),
        record(model, [after, "blocks.1.resid_pre"]) as later,
    ):
        model(ids)
    assert torch.equal(seen["first"], later[after])
    assert torch.equal(later[after], later["blocks.1.resid_pre"])


def test_hooks_may_be_taken_off_in_any_order(ids: torch.Tensor) -> None:
    model, calls = eager("llama"), []
    for name in ("blocks.0.attn.pattern", "blocks.0.resid_mid", "blocks.0.attn.result"):
        first = watch(model, {name: lambda x: calls.append(1)})
        second = patch(model, {name: lambda x: calls.append(2)})
        first.remove()
        model(ids)
        assert calls == [2]
        second.remove()
        second.remove()
        model(ids)
        assert calls == [2]
        calls.clear()
        assert not hooked(model)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["blocks.0.attn.pattern", "blocks.0.resid_mid", "blocks.1.attn.result", "logits"])
def test_everything_is_taken_off_after_an_exception(name: str, error: type[BaseException], ids: torch.Tensor) -> None:
    model = eager("llama")
    before, expected = snapshot(model), model(ids).logits

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise error("stop here")

    for hook in (watch, patch):
        with pytest.raises(error, match="stop here"), hook(model, {name: fail}):
            model(ids)
        assert not hooked(model)
        assert not torch.overrides._get_current_function_mode_stack()
    assert_same(before, model)
    assert torch.equal(model(ids).logits, expected)
    with pytest.raises(InputError, match="no activation 'blocks.7.resid_pre'"):
        watch(model, {"embed": print, "blocks.7.resid_pre": print})
    assert not hooked(model)


def test_the_rest_of_the_model_is_not_run(ids: torch.Tensor) -> None:
    model, ran = eager("llama"), []
    with watch(model, {"blocks.1.resid_pre": ran.append}, strict=False) as rest:
        with watch(model, {"blocks.0.resid_mid": lambda x: None, "blocks.0.attn.q": lambda x: None}, stop=True) as two:
            assert hooks.run(model, ids) is None
            assert hooks.run(model, {"input_ids": ids}) is None
            assert two.calls == {"blocks.0.resid_mid": 2, "blocks.0.attn.q": 2}
        assert rest.calls == {"blocks.1.resid_pre": 0}
        with record(model, "blocks.0.attn.z", stop=True) as seen:
            model(ids)
            raise AssertionError("a model that is called directly ends the block")
    assert seen["blocks.0.attn.z"].shape == (2, 9, 4, 8)
    assert not ran
    layer, times = nn.Linear(4, 4), []
    twice = nn.Sequential(layer, layer, nn.Linear(4, 4))
    with watch(twice, {("0", "input"): times.append, ("2", "input"): print}, stop={("0", "input"): 2}, strict=False):
        for _ in range(3):
            hooks.run(twice, torch.randn(2, 4))
    assert len(times) == 6

    with pytest.raises(InputError, match="is to count watched points, from 1: not embed to 1"):
        watch(model, {"blocks.0.resid_pre": print}, stop={"embed": 1})
    assert not hooked(model)


def test_every_step_of_a_generation_is_patched(ids: torch.Tensor) -> None:
    """With a cache the later steps see one position each, and what the earlier ones left in it."""
    model, direction = eager("llama"), torch.randn(32, generator=torch.Generator().manual_seed(0)) * 3
    positions: list[int] = []
    steer = {"blocks.0.resid_mid": lambda x: x + direction}
    with patch(model, steer), watch(model, {"blocks.1.attn.z": lambda z: positions.append(z.shape[1])}):
        cached = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=63)
        again = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=63, use_cache=False)
    assert positions == [9, 1, 1, 1, 9, 10, 11, 12]
    assert torch.equal(cached, again)
    assert not torch.equal(cached, model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=63))


def test_a_point_that_never_ran_is_named(ids: torch.Tensor) -> None:
    model = eager("llama")
    idle = pytest.raises(InputError, match="embed was not run by the LlamaForCausalLM, nor were 1 more")
    with idle, watch(model, {"embed": print, "blocks.0.resid_pre": print}):
        pass
    rotation = {"position_embeddings": (torch.ones(1, 3, 8), torch.zeros(1, 3, 8))}
    idle = pytest.raises(InputError, match="blocks.1.attn.pattern was not run")
    with idle, record(model, ["blocks.1.attn.pattern", "blocks.0.attn.z"]):
        model.model.layers[0](torch.randn(1, 3, 32), **rotation)
    with watch(model, {"embed": print}, strict=False) as never:
        pass
    assert never.calls == {"embed": 0}
    with watch(model, {}), patch(model, {}):
        assert not hooked(model), "nothing is hooked for nothing"


def test_what_cannot_be_had_says_why(ids: torch.Tensor) -> None:
    cases = [
        ("gpt_neox", "blocks.0.resid_mid", "attention and MLP of a GPTNeoXLayer run side by side"),
        ("mixtral", "blocks.0.mlp.post", "the neurons of experts are inside of their stack"),
        ("llama", "blocks.0.attn.w", r"has no activation 'blocks.0.attn.w'; did you mean blocks.0.attn"),
        ("llama", "blocks.9.attn.z", "has no activation 'blocks.9.attn.z'"),
        ("llama", ("model.layer.0", "input"), "has no module 'model.layer.0'; did you mean model.layers.0"),
        ("llama", (nn.Linear(2, 2), "input"), "this Linear is no part of the LlamaForCausalLM"),
        ("llama", ("model", "inside"), "a point is a name, .module, 'input' or 'output'. or these and an index"),
        ("llama", 3, "a point is a name"),
    ]
    for architecture, point, message in cases:
        with pytest.raises(InputError, match=message):
            watch(eager(architecture), {point: print})
    flash = build("llama")
    assert flash.config._attn_implementation == "sdpa"
    with pytest.raises(
        InputError, match=r"pattern: it is computed by 'eager' attention only; call model.set_attn_impl"
    ):
        watch(flash, {"blocks.0.attn.pattern": print})
    assert "blocks.0.attn.scores" not in points(flash)
    with pytest.raises(InputError, match="no activation of LlamaForCausalLM matches 'blocks.*.resid'"):
        points(flash, "blocks.*.resid")
    message = r"the patch of embed must return shape \(2, 9, 32\), got shape \(9, 32\)"
    with pytest.raises(InputError, match=message), patch(flash, {"embed": lambda x: x[0]}):
        flash(ids)
    post_norm = build("opt")
    for block in post_norm.model.decoder.layers:
        block.do_layer_norm_before = False
    with pytest.raises(InputError, match="where the residual stream runs inside a OPTDecoderLayer is not known"):
        watch(post_norm, {"blocks.0.resid_mid": print})


def test_the_dtype_is_that_of_the_activation(ids: torch.Tensor) -> None:
    model, direction = build("llama", dtype=torch.bfloat16), torch.randn(32)
    with (
        torch.no_grad(),
        patch(model, {"blocks.0.resid_mid": lambda x: x + direction}),
        record(model, "logits") as seen,
    ):
        model(ids)
    assert seen["logits"].dtype == torch.bfloat16


def test_packed_and_analog_layers_are_as_good_as_dense_ones(ids: torch.Tensor) -> None:
    """No weight is looked at where there is none; what each head adds is asked of the layer itself."""
    packed = build("llama")
    TritPlanes(group_size=16).apply(packed)
    dense = copy.deepcopy(packed)
    Pack().apply(packed)
    assert not hasattr(packed.model.layers[0].self_attn.o_proj, "in_proj_weight")
    chip = dataclasses.replace(Chip.preset("ideal"))
    analog = build("llama")
    exact = copy.deepcopy(analog)
    Deploy(chip=chip).apply(analog)
    for other, plain, tolerance in ((packed, dense, 0.05), (analog, exact, 1e-5)):
        other.set_attn_implementation("eager")
        plain.set_attn_implementation("eager")
        with torch.no_grad(), record(other, "*") as seen:
            other(ids)
        with torch.no_grad(), record(plain, "*") as expected:
            plain(ids)
        assert seen.keys() == expected.keys()
        for name in seen:
            error = (seen[name] - expected[name]).norm() / expected[name].norm()
            assert error <= tolerance, name
        with (
            torch.no_grad(),
            patch(other, {"blocks.0.attn.z": torch.zeros_like}),
            record(other, "blocks.0.attn_out") as out,
        ):
            other(ids)
        assert out["blocks.0.attn_out"].abs().max() < 1e-6


def test_a_copy_of_a_hooked_model_runs_its_own_weights(ids: torch.Tensor) -> None:
    model, seen = eager("llama"), []
    with watch(model, {"blocks.0.attn.pattern": seen.append}, strict=False):
        other = copy.deepcopy(model)
    for parameter in other.model.layers[0].self_attn.parameters():
        parameter.data.zero_()
    assert (
        not other.model.layers[0]
        .self_attn(
            torch.randn(1, 3, 32), position_embeddings=(torch.ones(1, 3, 8), torch.zeros(1, 3, 8)), attention_mask=None
        )[0]
        .any()
    )


def test_statistics_and_watchers_share_a_forward(ids: torch.Tensor) -> None:
    model, seen = eager("llama"), []
    name = select(model, "mlp.down", layers=0)[0].module
    with watch(model, {"blocks.0.mlp.post": seen.append}), patch(model, {"blocks.0.mlp.post": lambda x: 2 * x}):
        largest = observe(model, [ids], "mlp.down", [AbsMax])[name][0].value
    torch.testing.assert_close(largest, 2 * seen[0].abs().flatten(0, 1).amax(0))


ENCODED = {
    "t5": {"input_ids": torch.arange(6)[None], "decoder_input_ids": torch.arange(4)[None]},
    "bert": {"input_ids": torch.arange(6)[None]},
    "distilbert": {"input_ids": torch.arange(6)[None]},
    "vit": {"pixel_values": torch.randn(1, 3, 8, 8)},
    "whisper": {"input_features": torch.randn(1, 8, 16), "decoder_input_ids": torch.arange(4)[None]},
}


@pytest.mark.parametrize("architecture", list(ENCODED))
def test_encoders_have_streams_and_heads(architecture: str) -> None:
    model = build_encoder(architecture)
    model.set_attn_implementation("eager")
    with torch.no_grad(), record(model, "*") as seen:
        theirs = model(**ENCODED[architecture], output_hidden_states=True, output_attentions=True)
    two = architecture in {"t5", "whisper"}
    for stack, hidden, attentions in (
        [
            ("encoder.", theirs.encoder_hidden_states, theirs.encoder_attentions),
            ("decoder.", theirs.decoder_hidden_states, theirs.decoder_attentions),
        ]
        if two
        else [("", theirs.hidden_states, theirs.attentions)]
    ):
        for layer in (0, 1):
            assert torch.equal(seen[f"{stack}blocks.{layer}.resid_pre"], hidden[layer])
            pattern = seen[f"{stack}blocks.{layer}.attn.pattern"]
            torch.testing.assert_close(pattern, attentions[layer])
            z, v = seen[f"{stack}blocks.{layer}.attn.z"], seen[f"{stack}blocks.{layer}.attn.v"]
            torch.testing.assert_close(z, torch.einsum("bhqk,bkhd->bqhd", pattern, v))
    if two:
        pattern, v = (seen[f"decoder.blocks.1.cross_attn.{part}"] for part in ("pattern", "v"))
        torch.testing.assert_close(pattern, theirs.cross_attentions[1])
        z = seen["decoder.blocks.1.cross_attn.z"]
        torch.testing.assert_close(z, torch.einsum("bhqk,bkhd->bqhd", pattern, v))
