"""The forward of decoders written out by hand from their weights alone, every activation kept: the oracle of hooks.

One sequence at a time, one head at a time. Nothing of transformers' modules is called.
"""

import math

import torch
from torch.nn import functional as F

Weights = dict[str, torch.Tensor]


def forward(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Activations by name, as `hardy.hooks.point.SHAPES` has them, of token ids (batch, position)."""
    rows = [_sequence(model, row) for row in ids]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _sequence(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    weights, config = {k: v.detach() for k, v in model.state_dict().items()}, model.config
    kind = config.model_type
    layout = LAYOUTS[kind]
    seen: dict[str, torch.Tensor] = {}
    seen["embed"] = weights[layout["embed"]][ids]
    x = seen["embed"]
    if kind == "gemma3_text":
        x = seen["embed"] = x * math.sqrt(config.hidden_size)
    if kind == "gpt2":
        x = x + weights["transformer.wpe.weight"][: len(ids)]
    if kind == "opt":
        x = x + weights["model.decoder.embed_positions.weight"][2 : len(ids) + 2]
    for index in range(config.num_hidden_layers):
        prefix = f"{layout['layers']}.{index}."
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        acts = _block(kind, config, own, x, index)
        seen |= {f"blocks.{index}.{name}": value for name, value in acts.items()}
        x = acts["resid_post"]
    x = _norm(kind, config, {"n." + k: v for k, v in _named(weights, layout["norm"]).items()}, "n", x)
    head = weights.get("lm_head.weight", weights.get("embed_out.weight"))
    seen["logits"] = x @ head.T
    return seen


LAYOUTS = {
    "llama": {"embed": "model.embed_tokens.weight", "layers": "model.layers", "norm": "model.norm"},
    "gpt2": {"embed": "transformer.wte.weight", "layers": "transformer.h", "norm": "transformer.ln_f"},
    "gpt_neox": {"embed": "gpt_neox.embed_in.weight", "layers": "gpt_neox.layers", "norm": "gpt_neox.final_layer_norm"},
    "opt": {
        "embed": "model.decoder.embed_tokens.weight",
        "layers": "model.decoder.layers",
        "norm": "model.decoder.final_layer_norm",
    },
}
for _like_llama in ("qwen2", "qwen3", "gemma3_text", "olmo2", "phi3", "mixtral", "olmoe"):
    LAYOUTS[_like_llama] = LAYOUTS["llama"]

# Norm before the attention, after it, before the MLP, after it.
NORMS = {
    "gemma3_text": (
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    ),
    "olmo2": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "gpt2": ("ln_1", None, "ln_2", None),
    "opt": ("self_attn_layer_norm", None, "final_layer_norm", None),
}  # fmt: skip


def _block(kind: str, config: object, own: Weights, x: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
    before, after, middle, last = NORMS.get(kind, ("input_layernorm", None, "post_attention_layernorm", None))
    seen = {"resid_pre": x}
    attn = _attention(kind, config, own, _norm(kind, config, own, before, x), index)
    seen |= {f"attn.{name}": value for name, value in attn.items() if name != "out"}
    seen["attn_out"] = _norm(kind, config, own, after, attn["out"])
    side_by_side = kind == "gpt_neox" and config.use_parallel_residual
    mid = x if side_by_side else x + seen["attn_out"]
    if not side_by_side:
        seen["resid_mid"] = mid
    mlp = _mlp(kind, config, own, _norm(kind, config, own, middle, mid))
    seen |= {f"mlp.{name}": value for name, value in mlp.items() if name != "out"}
    seen["mlp_out"] = _norm(kind, config, own, last, mlp["out"])
    seen["resid_post"] = mid + seen["mlp_out"] + (seen["attn_out"] if side_by_side else 0)
    return seen


def _named(own: Weights, name: str) -> Weights:
    return {part: own[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in own}


def _norm(kind: str, config: object, own: Weights, name: str | None, x: torch.Tensor) -> torch.Tensor:
    if name is None:
        return x
    parts = _named(own, name)
    if kind in {"gpt2", "gpt_neox", "opt"}:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * parts["weight"] + parts["bias"]
    weight = parts["weight"] + 1 if kind == "gemma3_text" else parts["weight"]
    return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight


def _linear(own: Weights, name: str, x: torch.Tensor, transposed: bool = False) -> torch.Tensor:
    parts = _named(own, name)
    return x @ (parts["weight"] if transposed else parts["weight"].T) + parts.get("bias", 0)


def _rotated(x: torch.Tensor, width: int, base: float) -> torch.Tensor:
    """x (position, d_head) with its first `width` features rotated in pairs (i, i + width / 2)."""
    out = x.clone()
    for position in range(len(x)):
        for i in range(width // 2):
            angle = position * base ** (-2 * i / width)
            a, b = x[position, i], x[position, i + width // 2]
            out[position, i] = a * math.cos(angle) - b * math.sin(angle)
            out[position, i + width // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def _attention(kind: str, config: object, own: Weights, x: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    name = {"gpt2": "attn.", "gpt_neox": "attention."}.get(kind, "self_attn.")
    out = {"gpt2": "c_proj", "gpt_neox": "dense", "opt": "out_proj"}.get(kind, "o_proj")
    if kind == "gpt2":
        q, k, v = _linear(own, name + "c_attn", x, transposed=True).chunk(3, -1)
    elif kind == "phi3":
        fused = _linear(own, name + "qkv_proj", x)
        q, k, v = fused.split([heads * size, kv_heads * size, kv_heads * size], -1)
    elif kind == "gpt_neox":  # head 0: q, k, v; head 1: q, k, v; ...
        pieces = _linear(own, name + "query_key_value", x).split(size, -1)
        q, k, v = (torch.cat(pieces[i::3], -1) for i in range(3))
    else:
        q, k, v = (_linear(own, f"{name}{part}_proj", x) for part in "qkv")
    seen = {"q": _split(q, heads), "k": _split(k, kv_heads), "v": _split(v, kv_heads)}
    if kind in {"olmo2", "olmoe"}:  # over all heads at once
        q, k = (_norm(kind, config, own, f"{name}{part}_norm", y) for part, y in (("q", q), ("k", k)))
    q, k = _split(q, heads), _split(k, kv_heads)
    if kind in {"qwen3", "gemma3_text"}:
        q, k = (_norm(kind, config, own, f"{name}{part}_norm", y) for part, y in (("q", q), ("k", k)))
    scale = config.query_pre_attn_scalar**-0.5 if kind == "gemma3_text" else size**-0.5
    scores, patterns, zs, results = [], [], [], []
    weight = own[f"{name}{out}.weight"]
    weight = weight.T if kind == "gpt2" else weight
    for head in range(heads):
        group = head // (heads // kv_heads)
        one, other = q[:, head], k[:, group]
        if kind not in {"gpt2", "opt"}:
            base, width = _rope(kind, config, index, size)
            one, other = _rotated(one, width, base), _rotated(other, width, base)
        score = (one @ other.T) * scale
        later = torch.ones_like(score).triu(1).bool()
        score = score.masked_fill(later, -math.inf)
        scores.append(score)
        patterns.append(torch.exp(score - score.max(-1, keepdim=True).values))
        patterns[-1] = patterns[-1] / patterns[-1].sum(-1, keepdim=True)
        zs.append(patterns[-1] @ v[:, group * size : (group + 1) * size])
        results.append(zs[-1] @ weight[:, head * size : (head + 1) * size].T)
    seen |= {"scores": torch.stack(scores), "pattern": torch.stack(patterns)}
    seen |= {"z": torch.stack(zs, 1), "result": torch.stack(results, 1)}
    seen["out"] = seen["result"].sum(1) + own.get(f"{name}{out}.bias", 0)
    return seen


def _rope(kind: str, config: object, index: int, size: int) -> tuple[float, int]:
    """Base and number of rotated features."""
    parameters = config.rope_parameters
    if kind == "gemma3_text":
        return parameters[config.layer_types[index]]["rope_theta"], size
    return parameters["rope_theta"], int(size * parameters.get("partial_rotary_factor", 1.0))


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return torch.stack(x.chunk(heads, -1), 1)


def _mlp(kind: str, config: object, own: Weights, x: torch.Tensor) -> dict[str, torch.Tensor]:
    if kind in {"mixtral", "olmoe"}:
        return _experts(kind, config, own, x)
    if kind in {"gpt2", "gpt_neox", "opt"}:
        names = {"gpt2": ("mlp.c_fc", "mlp.c_proj"), "opt": ("fc1", "fc2")}
        up, down = names.get(kind, ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"))
        pre = _linear(own, up, x, kind == "gpt2")
        post = {"gpt2": lambda y: F.gelu(y, approximate="tanh"), "opt": F.relu}.get(kind, F.gelu)(pre)
        return {"pre": pre, "post": post, "out": _linear(own, down, post, kind == "gpt2")}
    if kind == "phi3":
        pre, linear = _linear(own, "mlp.gate_up_proj", x).chunk(2, -1)
    else:
        pre, linear = _linear(own, "mlp.gate_proj", x), _linear(own, "mlp.up_proj", x)
    act = F.gelu(pre, approximate="tanh") if kind == "gemma3_text" else F.silu(pre)
    return {"pre": pre, "pre_linear": linear, "post": act * linear, "out": _linear(own, "mlp.down_proj", act * linear)}


def _experts(kind: str, config: object, own: Weights, x: torch.Tensor) -> dict[str, torch.Tensor]:
    logits = x @ own["mlp.gate.weight"].T
    weights, chosen = logits.softmax(-1).topk(config.num_experts_per_tok, -1)
    if kind == "mixtral":
        weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for weight, expert in zip(weights[token], chosen[token].tolist(), strict=True):
            gate, up = (own["mlp.experts.gate_up_proj"][expert] @ x[token]).chunk(2)
            out[token] += weight * (own["mlp.experts.down_proj"][expert] @ (F.silu(gate) * up))
    return {
        "router_logits": logits,
        "expert_weights": weights,
        "expert_indices": chosen,
        "experts_out": out,
        "out": out,
    }
