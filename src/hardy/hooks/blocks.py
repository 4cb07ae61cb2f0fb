"""The blocks of a Hugging Face model: their projections by role, their heads, and where the residual stream runs."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from hardy.core.roles import (
    ATTENTION_BLOCKS,
    CROSS_ATTENTION_BLOCKS,
    MLP_BLOCKS,
    SSM_BLOCKS,
    layer_of,
    role_named,
    role_of,
    stacks_of,
    text_config,
)


@dataclasses.dataclass(frozen=True)
class Attention:
    """An attention module of a block; all names are relative to the block.

    Attributes:
        module: what runs it.
        parts: "q", "k", "v" or "qkv", and "o" -> the projection.
        heads, kv_heads: how many queries, and how many keys and values.
        fused: part -> (relative sizes, place among them, whether interleaved head by head), where there is "qkv" and
            its layout is known.
        eager: whether it computes its softmax itself, rather than in a fused kernel.
    """

    module: str
    parts: dict[str, str]
    heads: int
    kv_heads: int
    fused: dict[str, tuple[tuple[int, ...], int, bool]]
    eager: bool


@dataclasses.dataclass(frozen=True)
class Stream:
    """Where the residual stream is met inside a block; names relative to it, "" for none.

    Attributes:
        attention, mlp: whose outputs are added to it.
        middle: what takes it in between the two.
        reason: why one of them is missing.
    """

    attention: str = ""
    middle: str = ""
    mlp: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Block:
    """A numbered layer.

    Attributes:
        name: qualified.
        label: "blocks.3", after the name of its stack where the model has several.
        attention: "attn" and "cross_attn" -> what is there.
        mlp: "gate", "up", "gate_up", "down", "router", "experts" -> the module, relative.
        mixer: the state-space module, relative, or "".
        stream: where the residual stream runs.
        known: whether its type of model is in `KNOWN`.
    """

    name: str
    label: str
    attention: dict[str, Attention]
    mlp: dict[str, str]
    mixer: str
    stream: Stream
    known: bool


Found = TypeVar("Found")


def remembered(read: Callable[[nn.Module], Found]) -> Callable[[nn.Module], Found]:
    """A function of a model's structure that is computed again only when a module, or how it attends, has changed.

    Whoever hooks asks for it, often several times for one run of the model. What it gives is not to be written to.
    """
    kept: weakref.WeakKeyDictionary[nn.Module, tuple[list[Any], Found]] = weakref.WeakKeyDictionary()

    @functools.wraps(read)
    def find(model: nn.Module) -> Found:
        now = [
            (name, module, getattr(vars(module).get("config"), "_attn_implementation", None))
            for name, module in model.named_modules(remove_duplicate=False)
        ]
        before = kept.get(model)
        if before is not None and len(before[0]) == len(now):
            pairs = zip(before[0], now, strict=True)
            if all(a[0] == b[0] and a[1]() is b[1] and a[2] == b[2] for a, b in pairs):
                return before[1]
        found = read(model)
        kept[model] = [(name, weakref.ref(module), attends) for name, module, attends in now], found
        return found

    return find


@remembered
def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of `model` that hold attention, an MLP or a state-space layer, in order; read off names alone."""
    stacks = stacks_of(model)
    parts: dict[str, dict[str, str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        place = layer_of(name)
        if place is None:
            continue
        block = ".".join([place[0], str(place[1])] if place[0] else [str(place[1])])
        inside = name[len(block) + 1 :]
        role = role_named(name) if role_of(model, name, module) != "norm" else None
        found = parts.setdefault(block, {})
        if inside.rpartition(".")[2] == "experts":
            found.setdefault("experts", inside)
        elif role is not None and not role.startswith("experts."):
            found.setdefault(role, inside)  # the outermost of the name: an adapter, rather than the layer under it
    blocks = []
    for name, roles in parts.items():
        if roles:
            stack, index = layer_of(name) or ("", 0)
            label = ".".join(part for part in (stacks[stack], "blocks", str(index)) if part)
            blocks.append(_block(model, name, label, roles))
    return blocks


def _block(model: nn.Module, name: str, label: str, roles: dict[str, str]) -> Block:
    module = model.get_submodule(name)
    attention = {}
    for key, kind, names in (
        ("attn", "attention", ATTENTION_BLOCKS),
        ("cross_attn", "cross_attention", CROSS_ATTENTION_BLOCKS),
    ):
        parts = {role.split(".")[1]: inside for role, inside in roles.items() if role.startswith(f"{kind}.")}
        if {"q", "qkv", "o"} & parts.keys():  # RWKV has keys and values, and no attention
            attention[key] = _attention(model, module, parts, names)
    mlp = {role.split(".")[-1]: inside for role, inside in roles.items() if role.startswith(("mlp.", "router"))}
    if "experts" in roles:
        mlp["experts"] = roles["experts"]
    mixer = next((child for child, _ in module.named_children() if child in SSM_BLOCKS), "")
    config = _config(model, module, attention)
    known = getattr(config, "model_type", None) in KNOWN
    return Block(name, label, attention, mlp, mixer, _stream(module, config, attention, mlp, known), known)


def _attention(model: nn.Module, block: nn.Module, parts: dict[str, str], names: set[str]) -> Attention:
    path = next(iter(parts.values())).split(".")
    place = next((place for place, part in enumerate(path) if part in names), 0)
    name = ".".join(path[: place + 1])
    module: Any = block.get_submodule(name)
    inner: Any = block.get_submodule(next(iter(parts.values())).rpartition(".")[0])
    config = getattr(module, "config", None) or text_config(model)
    heads = _number(("num_heads", "num_attention_heads", "n_heads", "n_head"), inner, module, config)
    kv_heads = _number(("num_key_value_heads", "num_kv_heads"), inner, module, config) or heads
    kind = getattr(config, "model_type", "")
    fused: dict[str, tuple[tuple[int, ...], int, bool]] = {}
    if kind == "gpt2":
        held = "kv" if "q" in parts else "qkv"
        fused = {part: ((1,) * len(held), place, False) for place, part in enumerate(held)}
    elif kind == "phi3":
        fused = {part: ((heads, kv_heads, kv_heads), place, False) for place, part in enumerate("qkv")}
    elif kind in {"gpt_neox", "bloom"}:
        fused = {part: ((1, 1, 1), place, True) for place, part in enumerate("qkv")}
    eager = getattr(config, "_attn_implementation", None) in {None, "eager"}
    return Attention(name, parts, heads or 1, kv_heads or 1, fused, eager)


def _number(names: tuple[str, ...], *owners: Any) -> int:
    for owner in owners:
        for name in names:
            if isinstance(value := getattr(owner, name, None), int):
                return value
    return 0


def _config(model: nn.Module, block: Any, attention: dict[str, Attention]) -> Any:
    own = [block, *(block.get_submodule(a.module) for a in attention.values())]
    return next((c for c in (getattr(module, "config", None) for module in own) if c is not None), text_config(model))


# Which norms stand after the attention, before the MLP and after the MLP; the stream enters the MLP's branch at the
# second, or at the MLP itself. The first row whose norms a block has is its own.
_NORMS = (
    ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),  # Gemma 2 and 3
    ("post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),  # GLM-4
    ("post_attention_layernorm", "", "post_feedforward_layernorm"),  # OLMo 2, EXAONE 4
    ("", "post_attention_layernorm", ""),  # Llama, Qwen, Phi-3, Mixtral, OLMoE, GPT-NeoX, BLOOM
    ("", "ln_2", ""),  # GPT-2
    ("", "pre_ff_layernorm", ""),  # Jamba
    ("", "pre_feedforward_layernorm", ""),  # VaultGemma
    ("", "feedforward_layernorm", ""),  # Apertus
    ("", "ffn_norm", ""),  # LFM2
    ("", "mlp_norm", ""),  # ModernBERT
    ("", "final_layer_norm", ""),  # OPT, Whisper
)

# Other architectures bear the same names and add differently: a residual inside of the attention (BLOOM), a scale, two
# streams. So these are the model types whose blocks were run and found to be the sums that their points say they are.
KNOWN = frozenset(
    """
    apertus arcee aria_text axk2 bailing_hybrid bitnet codegen cohere cohere2 cohere2_moe cwm deepseek_v2
    deepseek_v3 deepseek_v32 diffllama ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo gemma gemma2 gemma3_text
    gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj
    granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe
    hy_v3 internlm3 iquestcoder jais2 kolibri1 laguna lfm2 llama mellum mimo_v2_flash minimax_m2
    minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder nanochat nemotron olmo olmo2 olmo3
    olmo_hybrid olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe
    qwen3_next seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma whisper xglm
    """.split()  # noqa: SIM905 - so many words are easier to read without quotes
)
"""Types of models (`config.model_type`) whose blocks are known from the inside."""


def _stream(block: Any, config: Any, attention: dict[str, Attention], mlp: dict[str, str], known: bool) -> Stream:
    unknown = (
        f"where the residual stream runs inside a {type(block).__name__} is not known; watch a module of it, as in "
        "(name, 'output')"
    )
    scaled = getattr(config, "residual_multiplier", None) not in {None, 1}
    if not known or scaled:
        return Stream(reason=unknown)
    children = {name for name, child in block.named_children() if child is not None}
    body = next((name for name in children if name in MLP_BLOCKS), mlp.get("down", "") if "fc2" in children else "")
    attends = attention["attn"].module if "attn" in attention else ""
    if not body or attends not in children:
        return Stream(reason=unknown)
    parallel = any(
        getattr(owner, flag, None) is True
        for owner in (block, config)
        for flag in ("use_parallel_residual", "parallel_attn")
    )
    norms = {name for name in children if "norm" in type(getattr(block, name)).__name__.lower()}
    for after, before, last in () if parallel else _NORMS:
        if {after, before, last} - {""} <= children:
            if before == "final_layer_norm" and not getattr(block, "do_layer_norm_before", True):
                return Stream(reason=unknown)  # OPT-350M: that norm is the block's last
            return Stream(attention=after or attends, middle=before or body, mlp=last or body)
    if parallel or len(norms) == 1:
        at_once = f"attention and MLP of a {type(block).__name__} run side by side, so nothing is between them"
        return Stream(attention=attends, mlp=body, reason=at_once)
    return Stream(reason=unknown)
