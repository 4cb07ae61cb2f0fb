"""tiny-llama: a Llama of 4.7 M parameters with grouped-query attention that writes Python."""

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hardy.zoo.corpus import LibraryText
from hardy.zoo.recipe import Recipe


def build(vocab_size: int) -> PreTrainedModel:
    """Eight layers, so that layers can be ranked; widths in multiples of 128, so that weight groups fit."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=256,
            intermediate_size=384,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


recipe = Recipe(
    name="tiny-llama",
    summary="Llama, 8 layers, grouped-query attention, trained on Python source and its language reference",
    data=LibraryText,
    build=build,
)
