"""The residual stream of every known architecture: what the points say is added is what the blocks add."""

import pytest
import torch
import transformers
from models import SIZES, build
from packaging.version import Version
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hardy import hooks
from hardy.core import InputError
from hardy.hooks.blocks import KNOWN

OLD = Version(transformers.__version__) < Version("5.21")

# Whatever an architecture calls its sizes; those that it does not know are only kept on its configuration.
_MORE = {
    "head_dim": 8, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "d_model": 32, "ffn_dim": 48, "rotary_dim": 8,
    "word_embed_proj_dim": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
}  # fmt: skip
_LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
_MIXED = {**SIZES, "num_key_value_heads": 4, **_LATENT, "n_group": 1, "topk_group": 1, "n_routed_experts": 4}
_OPTIONS = (
    {**SIZES, **_MORE, "num_hidden_layers": 4},
    {**_MIXED, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
    {**_MIXED, **_MORE},
    {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
    },
    {**SIZES, "num_key_value_heads": 4},
)


def tiny(kind: str, ids: torch.Tensor) -> nn.Module | None:
    """A small model of this type that runs, or None if none of the options fits it."""
    for sizes in _OPTIONS:
        try:
            config = CONFIG_MAPPING[kind](**sizes)
            with torch.device("meta"):
                size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
            if size > 3e6:
                continue
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
                for parameter in model.parameters():
                    parameter.data += 0.05 * torch.randn(parameter.shape)
            model(ids, use_cache=False)
            return model
        except Exception:  # whatever transformers raises for sizes that do not go together
            continue
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_blocks_add_what_their_points_say(kind: str, ids: torch.Tensor) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    with torch.no_grad():
        model = tiny(kind, ids)
        if model is None:
            pytest.skip(f"no tiny {kind} can be built of these sizes")
        try:
            with hooks.record(model, "*", strict=False) as seen:
                model(ids, use_cache=False)
        except InputError as error:
            if ("router" not in str(error) and "expert" not in str(error)) or not OLD:
                raise
            pytest.skip(f"what routers give has changed since this transformers: {error}")
    met = 0
    for name in [name for name in seen if name.endswith("resid_pre")]:
        block = name.removesuffix("resid_pre")
        found = {part: seen.get(block + part) for part in ("attn_out", "resid_mid", "mlp_out", "resid_post")}
        if found["attn_out"] is None:
            continue
        met += 1
        if found["resid_mid"] is not None:
            torch.testing.assert_close(seen[name] + found["attn_out"], found["resid_mid"], rtol=1e-4, atol=1e-5)
        total = seen[name] + found["attn_out"] + found["mlp_out"]
        torch.testing.assert_close(total, found["resid_post"], rtol=1e-4, atol=1e-5)
        if (weights := seen.get(f"{block}mlp.expert_weights")) is not None:
            logits, chosen = seen[f"{block}mlp.router_logits"], seen[f"{block}mlp.expert_indices"]
            assert weights.shape == chosen.shape == (2, 9, chosen.shape[-1])
            assert not chosen.is_floating_point()
            assert chosen.max() < logits.shape[-1]
    assert met


@pytest.mark.parametrize("name", ["router_logits", "expert_weights", "expert_indices"])
def test_a_router_that_gives_its_tensors_in_another_order_is_refused(name: str, ids: torch.Tensor) -> None:
    model = build("mixtral")
    router = next(module for module in model.modules() if "Router" in type(module).__name__)
    order = (2, 1, 0) if name == "router_logits" else (0, 2, 1)
    router.register_forward_hook(lambda module, args, output: tuple(output[place] for place in order))
    refused = pytest.raises(InputError, match=f"{name} is not there: .* in another order")
    with refused, torch.no_grad(), hooks.record(model, f"blocks.0.mlp.{name}"):
        model(ids)


@pytest.mark.parametrize("kind", ["bloom", "openai-gpt", "rwkv"])
def test_what_is_not_known_is_not_guessed(kind: str, ids: torch.Tensor) -> None:
    """BLOOM's attention gives a sum with the stream in it, under the names of others that do not."""
    model = tiny(kind, ids)
    assert model is not None
    for name in ("resid_mid", "attn_out", "mlp_out"):
        with pytest.raises(
            InputError, match="where the residual stream runs inside a .* is not known|has no activation"
        ):
            hooks.watch(model, {f"blocks.0.{name}": print})
    with torch.no_grad(), hooks.record(model, "*") as seen:
        model(ids)
    assert torch.equal(seen["blocks.0.resid_post"], seen["blocks.1.resid_pre"])


def test_a_scaled_residual_is_not_taken_for_a_plain_one() -> None:
    model = transformers.AutoModelForCausalLM.from_config(transformers.GraniteConfig(**SIZES, residual_multiplier=0.5))
    with pytest.raises(InputError, match="inside a GraniteDecoderLayer is not known"):
        hooks.watch(model, {"blocks.0.attn_out": print})
    assert "blocks.0.attn_out" in hooks.points(build("llama"))
