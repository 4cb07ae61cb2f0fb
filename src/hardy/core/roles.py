"""What a module does in its model, read off its name and class: the vocabulary that selections and plots share."""

from typing import Any

import torch
from torch import nn

ROLES = (
    "attention.q", "attention.k", "attention.v", "attention.qkv", "attention.o",
    "cross_attention.q", "cross_attention.k", "cross_attention.v", "cross_attention.qkv", "cross_attention.o",
    "mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down",
    "experts.gate", "experts.up", "experts.gate_up", "experts.down", "router",
    "ssm.in", "ssm.x", "ssm.dt", "ssm.conv", "ssm.out",
    "embedding", "head", "norm",
)  # fmt: skip
"""Every role, in the order in which data flows through a layer."""

# Last component of the qualified name -> part, by the block it stands in. The names are those of the
# architectures in transformers: Llama-like, GPT-2, GPT-NeoX, OPT, Phi, Mixtral-like, Mamba, T5, BERT, ViT, Whisper.
_ATTENTION = {
    "q_proj": "q", "query": "q", "wq": "q", "to_q": "q", "q": "q", "q_lin": "q", "q_attn": "q",
    "k_proj": "k", "key": "k", "wk": "k", "to_k": "k", "k": "k", "k_lin": "k",
    "v_proj": "v", "value": "v", "wv": "v", "to_v": "v", "v": "v", "v_lin": "v",
    "qkv_proj": "qkv", "qkv": "qkv", "query_key_value": "qkv", "c_attn": "qkv", "Wqkv": "qkv",
    "o_proj": "o", "out_proj": "o", "dense": "o", "c_proj": "o", "wo": "o", "to_out": "o", "o": "o",
    "out_lin": "o",
}  # fmt: skip
_MLP = {
    "gate_proj": "gate", "w1": "gate", "wi_0": "gate",
    "up_proj": "up", "w3": "up", "wi_1": "up", "c_fc": "up", "fc1": "up", "dense_h_to_4h": "up", "wi": "up",
    "lin1": "up",
    "gate_up_proj": "gate_up",
    "down_proj": "down", "w2": "down", "c_proj": "down", "fc2": "down", "dense_4h_to_h": "down", "wo": "down",
    "lin2": "down",
}  # fmt: skip
_SSM = {"in_proj": "in", "x_proj": "x", "dt_proj": "dt", "conv1d": "conv", "out_proj": "out"}

ATTENTION_BLOCKS = {"attn", "self_attn", "attention", "self_attention", "SelfAttention"}
CROSS_ATTENTION_BLOCKS = {"cross_attn", "encoder_attn", "crossattention", "cross_attention", "EncDecAttention"}
MLP_BLOCKS = {
    "mlp", "ffn", "feed_forward", "fc", "block_sparse_moe", "moe", "shared_expert", "shared_experts", "DenseReluDense",
}  # fmt: skip
SSM_BLOCKS = {"mixer", "mamba", "ssm"}
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
    if "copies" in module._modules:  # which have its role; it holds their bias alone
        return None
    return role_named(name)


def role_named(name: str) -> str | None:
    """The role that a qualified name stands for, whatever kind of module bears it, or None if it says nothing."""
    *path, leaf = name.removesuffix(".base_layer").split(".")  # what PEFT calls the layer under an adapter
    # What stands in for a projection on a chip: the array of a hybrid one, the copies of a redundant one.
    if leaf.isdigit() and path[-1:] == ["copies"]:
        *path, leaf = path[:-1]
    if leaf == "array" and path:
        *path, leaf = path
    blocks = set(path)
    if leaf in _ROUTERS and blocks & MLP_BLOCKS and "experts" not in blocks:
        return "router"
    if "experts" in blocks and leaf in _MLP:
        return f"experts.{_MLP[leaf]}"
    if blocks & SSM_BLOCKS and leaf in _SSM:
        return f"ssm.{_SSM[leaf]}"
    if blocks & CROSS_ATTENTION_BLOCKS and leaf in _ATTENTION:
        return f"cross_attention.{_ATTENTION[leaf]}"
    if blocks & ATTENTION_BLOCKS and leaf in _ATTENTION:
        return f"attention.{_ATTENTION[leaf]}"
    if (blocks & MLP_BLOCKS or leaf in {"fc1", "fc2"}) and leaf in _MLP:
        return f"mlp.{_MLP[leaf]}"
    if leaf == "dense" and len(path) > 1 and path[-2].isdigit():  # BERT's and its like's, in the layer itself
        return {"intermediate": "mlp.up", "output": "mlp.down"}.get(path[-1])
    return None


def expert_of(name: str) -> int | None:
    """The number of the expert that the module called `name` belongs to, where each is a module of its own."""
    path = name.split(".")
    if "experts" not in path:
        return None
    following = path[path.index("experts") + 1 :]
    digits = following[0].removeprefix("expert_") if following else ""  # T5-like mixtures write `expert_3`
    return int(digits) if digits.isdigit() else None


def stacks_of(model: nn.Module) -> dict[str, str]:
    """The stacks of numbered layers: qualified name ("model.layers") -> what tells it from the others, or "".

    A stack is what comes before the first number in a name. Where some hold attention, MLPs or state-space layers
    the others are no stacks of layers: they are called by their whole names, so that none is taken for another.
    """
    prefixes: dict[str, bool] = {}
    for name, _ in model.named_modules():
        place = _first_number(name.split("."))
        if place is not None:
            prefix = ".".join(name.split(".")[:place])
            prefixes[prefix] = prefixes.get(prefix, False) or role_named(name) is not None
    layered = [prefix for prefix, plays in prefixes.items() if plays] or list(prefixes)
    paths = [prefix.split(".") for prefix in layered]
    first = last = 0
    if len(paths) > 1:
        while len({tuple(path[: first + 1]) for path in paths}) == 1:
            first += 1
        while len({tuple(path[-last - 1 :]) for path in paths}) == 1:
            last += 1
        # A stack whose name is all common ("blocks" beside "blocks.more") keeps it.
        labels = [".".join(path[first : len(path) - last]) or ".".join(path) for path in paths]
    else:
        labels = [""] * len(paths)
    return {prefix: prefix for prefix in prefixes} | dict(zip(layered, labels, strict=True))


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and the number of the layer that the module called `name` is, or is in; None outside of all."""
    path = name.split(".")
    place = _first_number(path)
    return None if place is None else (".".join(path[:place]), int(path[place]))


def _first_number(path: list[str]) -> int | None:
    return next((place for place, part in enumerate(path) if part.isdigit()), None)


def is_linear(module: nn.Module) -> bool:
    """Whether it computes `x @ W.T + b` from a `weight` of its own: an nn.Linear, or GPT-2's Conv1D."""
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether it stores (..., in, out): GPT-2's Conv1D, and the expert stacks of some mixtures (GPT-OSS)."""
    return _is_conv1d(module) or getattr(module, "is_transposed", False) is True


def as_matrix(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A weight as `module` stores it, as (..., out, in), convolutions as (out, in * kernel): a view where it can be."""
    if is_transposed(module):
        return weight.mT
    return weight.flatten(1) if isinstance(module, nn.modules.conv._ConvNd) else weight


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


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
    elif role == "attention.qkv" and _is_conv1d(module):
        out = matrix.shape[1]
        if out % 3:
            return {}
        leaf_sizes = [(part, out // 3) for part in "qkv"]
    elif role == "attention.qkv" and (config := text_config(model)) is not None and config.model_type == "phi3":
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


def text_config(model: Any) -> Any:
    """The configuration of a Hugging Face model's language part, or None."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def _output_embeddings(model: Any) -> nn.Module | None:
    return model.get_output_embeddings() if callable(getattr(model, "get_output_embeddings", None)) else None
