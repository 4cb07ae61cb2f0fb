"""tiny-reasoner: a Llama of 1 M parameters that works out chains of operations, at once or in written steps."""

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hardy.zoo.arithmetic import ArithmeticLines
from hardy.zoo.recipe import Recipe


def build(vocab_size: int) -> PreTrainedModel:
    """Six layers, so that a shallow, a middle and a deep third can be told apart."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=192,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


recipe = Recipe(
    name="tiny-reasoner",
    summary="Llama, 6 layers, works out chains of operations modulo 10, at once or in written steps",
    data=ArithmeticLines,
    build=build,
    vocab_size=19,
    context=128,
    batch=16,
    steps=5000,
    warmup=0.03,
    decay=0.5,
)
