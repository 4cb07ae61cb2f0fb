"""small-llama: a Llama of 14.8 M parameters, for checks on a second, larger model; its weights are not shipped."""

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hardy.zoo.recipe import Recipe


def build(vocab_size: int) -> PreTrainedModel:
    """Three times tiny-llama: twelve layers, so that a ranking of layers says more; widths in multiples of 128."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=384,
            intermediate_size=640,
            num_hidden_layers=12,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


recipe = Recipe(
    name="small-llama",
    summary="Llama, 12 layers, three times tiny-llama, for benchmarks on a second model",
    build=build,
    steps=1000,
)
