"""GGUF files for the tests, as llama.cpp has them."""

import json
from pathlib import Path
from typing import Any

import gguf

from hardy.zoo import load


def write_gguf(folder: Path, target: Path) -> None:
    """A Llama in llama.cpp's names and layout: queries and keys interleaved, all weights in float32."""
    model, tokenizer = load(folder)
    config: Any = model.config
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<") and word.endswith(">") else 1 for word in words])
    merges = [" ".join(pair) for pair in transformers_merges(tokenizer)]
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"} | {"self_attn.o_proj": "attn_output"}
    names |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    for name, tensor in model.state_dict().items():
        short = name.removeprefix("model.").replace("layers.", "blk.").replace("lm_head", "output")
        short = short.replace("norm.weight", "output_norm.weight") if short == "norm.weight" else short
        for old, new in names.items():
            short = short.replace(old, new)
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(short.split("attn_")[-1][0])
        if heads and "attn_norm" not in short and ("attn_q" in short or "attn_k" in short):
            rows, columns = tensor.shape
            tensor = tensor.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        writer.add_tensor(short, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def transformers_merges(tokenizer: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
