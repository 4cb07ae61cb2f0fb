"""What a module does in its model, read off its name and class: the vocabulary that selections and plots share."""

from typing import Any

from torch import nn

ROLES = (
    "attention.q", "attention.k", "attention.v", "attention.qkv", "attention.o",
    "mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down",
    "experts.gate", "experts.up", "experts.gate_up", "experts.down", "router",
    "ssm.in", "ssm.x", "ssm.dt", "ssm.conv", "ssm.out",
    "embedding", "head", "norm",
)  # fmt: skip
"""Every role, in the order in which data flows through a layer."""

# Last component of the qualified name -> part, by the block it stands in. The names are those of the
# architectures in transformers: Llama-like, GPT-2, GPT-NeoX, OPT, Phi, Mixtral-like, Mamba.
_ATTENTION = {
    "q_proj": "q", "query": "q", "wq": "q", "to_q": "q", "q": "q",
    "k_proj": "k", "key": "k", "wk": "k", "to_k": "k", "k": "k",
    "v_proj": "v", "value": "v", "wv": "v", "to_v": "v", "v": "v",
    "qkv_proj": "qkv", "qkv": "qkv", "query_key_value": "qkv", "c_attn": "qkv", "Wqkv": "qkv",
    "o_proj": "o", "out_proj": "o", "dense": "o", "c_proj": "o", "wo": "o", "to_out": "o", "o": "o",
}  # fmt: skip
_MLP = {
    "gate_proj": "gate", "w1": "gate", "wi_0": "gate",
    "up_proj": "up", "w3": "up", "wi_1": "up", "c_fc": "up", "fc1": "up", "dense_h_to_4h": "up", "wi": "up",
    "gate_up_proj": "gate_up",
    "down_proj": "down", "w2": "down", "c_proj": "down", "fc2": "down", "dense_4h_to_h": "down", "wo": "down",
}  # fmt: skip
_SSM = {"in_proj": "in", "x_proj": "x", "dt_proj": "dt", "conv1d": "conv", "out_proj": "out"}

_ATTENTION_BLOCKS = {"attn", "self_attn", "attention", "self_attention", "cross_attn", "encoder_attn"}
_MLP_BLOCKS = {"mlp", "ffn", "feed_forward", "fc", "block_sparse_moe", "moe", "shared_expert", "shared_experts"}
_SSM_BLOCKS = {"mixer", "mamba", "ssm"}
_ROUTERS = {"router", "gate"}


def role_of(model: nn.Module, name: str, module: nn.Module) -> str | None:
    """The role of the module called `name`, or None if it has no weight or its name says nothing."""
    if "norm" in type(module).__name__.lower():
        return "norm"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if module is _output_embeddings(model):
        return "head"
    if not any(True for _ in module.parameters(recurse=False)):
        return None
    *path, leaf = name.removesuffix(".base_layer").split(".")  # what PEFT calls the layer under an adapter
    # What stands in for a projection on a chip: the array of a hybrid one, the copies of a redundant one.
    if leaf.isdigit() and path[-1:] == ["copies"]:
        *path, leaf = path[:-1]
    if leaf == "array" and path:
        *path, leaf = path
    blocks = set(path)
    if leaf in _ROUTERS and blocks & _MLP_BLOCKS and "experts" not in blocks:
        return "router"
    if "experts" in blocks and leaf in _MLP:
        return f"experts.{_MLP[leaf]}"
    if blocks & _SSM_BLOCKS and leaf in _SSM:
        return f"ssm.{_SSM[leaf]}"
    if blocks & _ATTENTION_BLOCKS and leaf in _ATTENTION:
        return f"attention.{_ATTENTION[leaf]}"
    if (blocks & _MLP_BLOCKS or leaf in {"fc1", "fc2"}) and leaf in _MLP:
        return f"mlp.{_MLP[leaf]}"
    return None


def weight_tensors(module: nn.Module) -> dict[str, str | None]:
    """The matrices a module holds itself: parameter name -> role where the name tells it.

    That is `weight`, unless the module is a stack of experts, whose parameters are (experts, out, in) tensors.
    """
    tensors: dict[str, str | None] = {}
    for name, parameter in module.named_parameters(recurse=False):
        if name == "weight" and parameter.ndim >= 2:
            tensors[name] = None
        elif parameter.ndim == 3 and name in _MLP:
            tensors[name] = f"experts.{_MLP[name]}"
    return tensors


def weight_parts(model: nn.Module, role: str | None, module: nn.Module) -> dict[str, tuple[tuple[int, int], str]]:
    """The projections inside a fused one: part -> (output rows, role). Empty where the layout is not plain.

    Query, key and value rows follow each other in Phi's `qkv_proj` and GPT-2's `c_attn`; gate and up rows do in
    `gate_up_proj`. GPT-NeoX interleaves them head by head, so its `query_key_value` stays whole.
    """
    leaf_sizes: list[tuple[str, int]]
    matrix: Any = getattr(module, "weight", None)
    if role == "mlp.gate_up":
        out = matrix.shape[0]
        leaf_sizes = [("gate", out // 2), ("up", out - out // 2)]
    elif role == "attention.qkv" and type(module).__name__ == "Conv1D":
        out = matrix.shape[1]
        if out % 3:
            return {}
        leaf_sizes = [(part, out // 3) for part in "qkv"]
    elif role == "attention.qkv" and type(model).__name__.startswith("Phi3"):
        whole: Any = model.config
        config = whole.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        leaf_sizes = [
            ("q", config.num_attention_heads * head),
            ("k", config.num_key_value_heads * head),
            ("v", config.num_key_value_heads * head),
        ]
    else:
        return {}
    block = role.split(".")[0]
    parts, begin = {}, 0
    for part, size in leaf_sizes:
        parts[part] = ((begin, begin + size), f"{block}.{part}")
        begin += size
    return parts


def _output_embeddings(model: Any) -> nn.Module | None:
    return model.get_output_embeddings() if callable(getattr(model, "get_output_embeddings", None)) else None
