"""tiny-moe: an OLMoE of 2.2 M parameters, 16 experts of which 4 see each token, that writes Python."""

from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedModel

from hardy.zoo.corpus import LibraryText
from hardy.zoo.recipe import Recipe


def build(vocab_size: int) -> PreTrainedModel:
    """Four layers of sixteen small experts: what is studied on it is who gets the tokens."""
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_experts=16,
            num_experts_per_tok=4,
            max_position_embeddings=256,
            router_aux_loss_coef=0.01,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


recipe = Recipe(
    name="tiny-moe",
    summary="OLMoE, 4 layers of 16 experts, 4 for each token, trained on Python source and its language reference",
    data=LibraryText,
    build=build,
    context=256,
    batch=8,
    steps=1900,
    other_lr=4e-3,
    warmup=0.05,
    decay=0.7,
    focus=0.4,
)
