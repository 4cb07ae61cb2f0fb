"""Tiny random-weight models of every architecture that hardy names the parts of: vocabulary 64, width 32."""

import torch
import transformers as hf
from torch import nn

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
_TOKENS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _opt() -> hf.OPTConfig:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2}
    return hf.OPTConfig(**sizes, **_TOKENS, num_attention_heads=4, max_position_embeddings=64)


CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "gpt2": lambda: hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **_TOKENS),
    "phi3": lambda: hf.Phi3Config(**SIZES),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_NEOX),
    "opt": _opt,
    "mixtral": lambda: hf.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "olmoe": lambda: hf.OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "mamba": lambda: hf.MambaConfig(hidden_size=32, state_size=4, time_step_rank=16, num_hidden_layers=2, **_TOKENS),
}

DECODERS = CONFIGS | {
    "qwen2": lambda: hf.Qwen2Config(**SIZES),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, head_dim=8),
    "gemma3": lambda: hf.Gemma3TextConfig(**SIZES, head_dim=8, layer_types=["sliding_attention", "full_attention"]),
    "olmo2": lambda: hf.Olmo2Config(**SIZES),
    "gpt_neox_sequential": lambda: hf.GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
}
"""Those above and others of whose activations hardy knows the names."""

_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_WHISPER = {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16, "decoder_start_token_id": 1}
_SEQUENCE = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
ENCODERS = {
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5, **_TOKENS)),
    "bert": lambda: hf.BertForMaskedLM(
        hf.BertConfig(**{key: value for key, value in _NEOX.items() if key != "bos_token_id"})
    ),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
    ),
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=4
        )
    ),
    "whisper": lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**_SEQUENCE, **_WHISPER, **_TOKENS)),
}
"""Whole models with an encoder, of random weights."""


def build(
    architecture: str, *, tied: bool | None = None, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """A causal language model with random weights, in evaluation mode; `tied` overrides the configuration's default."""
    config = DECODERS[architecture]()
    if tied is not None:
        config.tie_word_embeddings = tied
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config)
        if dtype != torch.float32:  # which older torch draws otherwise
            drawn, model = model, hf.AutoModelForCausalLM.from_config(config, dtype=dtype)
            model.load_state_dict(drawn.state_dict())
    return model.eval()


def build_encoder(architecture: str) -> nn.Module:
    """One of `ENCODERS`, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ENCODERS[architecture]().eval()


class ConvNet(nn.Module):
    """Two convolutions and a linear head, for (batch, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU())
        self.classifier = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


def snapshot(model: nn.Module) -> dict[str, tuple[int, torch.Tensor]]:
    """Identity and a copy of every parameter and buffer, at every place it is reachable from."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: (id(tensor), tensor.detach().clone()) for name, tensor in named}


def assert_same(before: dict[str, tuple[int, torch.Tensor]], model: nn.Module) -> None:
    """Every place holds the very tensor it held, with the same bytes."""
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name, (identity, tensor) in before.items():
        assert after[name][0] == identity, f"{name} is another tensor"
        assert same_bytes(tensor, after[name][1]), f"{name} differs"


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, the sign of zero included."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    first, second = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(first, second)
