"""Decoding one token at a time without what a framework costs: a static cache, fused products, nothing allocated.

For the models that most people run, Llama and its kin, with any mixture of packed and dense layers. A step is a list
of calls into compiled kernels, made once: queries, keys and values are one product, gate and up another; a dense head
is read at 8 bits. Everything is computed in float32, keys and values are kept in float16.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy import checks
from hardy.errors import InputError
from hardy.evaluate.language import context_length
from hardy.ops import decode_step, kernels
from hardy.ops.decode_step import BLOCK, normalized, rotated
from hardy.quant.decoder_products import Product, Step, head_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
CHUNK = 512
"""Tokens of a prompt that are read at a time."""

_SILU, _GELU = ("silu", "swish"), ("gelu_pytorch_tanh",)
_ROTATIONS = ("default", "linear", "llama3", "yarn")


def obstacle(model: nn.Module) -> str | None:
    """Why `Decoder` cannot decode `model`; None if it can."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in FAMILIES:
        return f"a {kind} is not of the families {', '.join(FAMILIES)}"
    if (activation := _activation(config)) not in (*_SILU, *_GELU):
        return f"its activation is {activation}"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "final_logit_softcapping", None):
        return "its logits are capped"
    if getattr(config, "use_bidirectional_attention", False):
        return "it attends to both sides"
    if other := sorted(_rotations(config) - {*_ROTATIONS}):
        return f"its rotary embedding is {other[0]}"
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    if attention.head_dim % BLOCK:
        return f"its heads are of {attention.head_dim} numbers, no multiple of {BLOCK}"
    if next(model.parameters()).device.type != "cpu":
        return "it is not on the CPU"
    return None


class Decoder:
    """A language model with a cache of keys and values, which reads prompts and decodes token by token.

    Args:
        model: on the CPU, of one of `FAMILIES`. Its packed layers are rearranged in memory, to the same values.
        capacity: tokens that the cache has room for, prompt and continuation together.
        head_bits: 8 or 4, to which a dense head is rounded in groups of 64 (of a copy; the model keeps its own), or
            None to read it as it is.

    Attributes:
        position: tokens in the cache.
        head: how the head is read, in words.

    Raises:
        InputError: the model cannot be decoded so (`obstacle` says why), or its context is shorter than the capacity.
    """

    def __init__(self, model: PreTrainedModel, *, capacity: int = 2048, head_bits: int | None = 8) -> None:
        if (reason := obstacle(model)) is not None:
            raise InputError(f"this model cannot be decoded step by step: {reason}")
        checks.integer("capacity", capacity, at_least=1)
        if head_bits not in (None, 4, 8):
            raise InputError(f"head_bits must be 8, 4 or None, got {head_bits!r}")
        longest = context_length(model)
        if longest is not None and capacity > longest:
            raise InputError(f"capacity must be at most {longest}, the context of the model, got {capacity}")
        body: Any = model.get_submodule("model")
        self._embedding, self._norm = body.embed_tokens, _Norm(body.norm)
        self.capacity = -(-capacity // BLOCK) * BLOCK
        self._layers = [_Layer(layer, self._rotation(body, layer), self.capacity) for layer in body.layers]
        self._head_layer = head_of(model, head_bits)
        self.head = self._head_layer.words
        self.vocabulary = self._head_layer.rows
        self._position = torch.zeros(1, dtype=torch.int64)
        self._hidden = torch.zeros(self._norm.weight.numel())
        self._logits = torch.zeros(self.vocabulary)
        self._threads = 0
        self._steps: list[Step] = []

    @property
    def position(self) -> int:
        return int(self._position)

    def rewind(self, position: int = 0) -> int:
        """Forget all tokens from `position` on: how many are kept."""
        checks.integer("position", position, at_least=0, at_most=self.position)
        self._position.fill_(position)
        return position

    @torch.inference_mode()
    def read(self, ids: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Read tokens behind those that are in the cache: the logits (vocabulary,) float32 after the last.

        Raises:
            InputError: there are none, or more than the cache has room for.
        """
        tokens = torch.as_tensor(ids, dtype=torch.int64).flatten()
        if not 0 < len(tokens) <= self.capacity - self.position:
            raise InputError(
                f"{len(tokens)} tokens do not fit behind {self.position} in a cache for {self.capacity}; there must be "
                "at least one"
            )
        if len(tokens) == 1:
            return self.step(int(tokens))
        last = tokens[:0]
        for chunk in tokens.split(CHUNK):
            hidden = self._embed(chunk)
            for layer in self._layers:
                hidden = layer.read(hidden, self.position)
            self._position += len(chunk)
            last = hidden[-1]
        self._hidden.copy_(last)
        return self._head_layer.product(self._norm(self._hidden))

    @torch.inference_mode()
    def step(self, token: int) -> torch.Tensor:
        """Read one token: the logits (vocabulary,) float32 after it, which the next step overwrites.

        Raises:
            InputError: the cache is full.
        """
        if self.position >= self.capacity:
            raise InputError(f"the cache is full with {self.capacity} tokens; make one with a larger capacity")
        if self._threads != torch.get_num_threads():
            self._threads = torch.get_num_threads()
            self._steps = self._made()
        self._hidden.copy_(self._embed(torch.tensor([token]))[0])
        for step in self._steps:
            step()
        self._position += 1
        return self._logits

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self._embedding(ids).float()

    def _rotation(self, body: Any, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        kind = getattr(layer.self_attn, "layer_type", None)
        places, like = torch.arange(self.capacity)[None], torch.zeros(1)
        several = isinstance(next(iter(body.config.rope_parameters.values()), None), dict)
        cosines, sines = body.rotary_emb(like, places, kind) if several else body.rotary_emb(like, places)
        return cosines[0].contiguous(), sines[0].contiguous()

    def _made(self) -> list[Step]:
        """The calls of one step."""
        path, hidden = kernels.path(), self._hidden
        normed, delta = torch.zeros_like(hidden), torch.zeros_like(hidden)
        steps: list[Step] = []
        pending = None
        for layer in self._layers:
            steps += layer.steps(path, hidden, pending, normed, delta, self._position)
            pending = delta
        steps.append(self._norm.step(path, hidden, pending, normed))
        return [*steps, *self._head_layer.steps(normed, self._logits)]


class _Norm:
    """An RMS norm: its weight as float32, with the one that Gemma's add."""

    def __init__(self, module: Any) -> None:
        added = 1.0 if type(module).__name__.startswith("Gemma") else 0.0
        self.weight = module.weight.detach().float() + added
        self.epsilon = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return normalized(x, self.weight, self.epsilon)

    def step(self, path: str | None, residual: torch.Tensor, delta: torch.Tensor | None, output: torch.Tensor) -> Step:
        return functools.partial(decode_step.add_rms_norm, path, residual, delta, self.weight, self.epsilon, output)


class _Layer:
    """One block: attention and the gated layers behind it."""

    def __init__(self, layer: Any, rotation: tuple[torch.Tensor, torch.Tensor], capacity: int) -> None:
        attention, mlp, config = layer.self_attn, layer.mlp, layer.self_attn.config
        self.size = attention.head_dim
        self.heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads
        self.scaling = float(attention.scaling)
        self.window = _window(attention) or capacity
        self.cosines, self.sines = rotation
        self.query_norm, self.key_norm = (
            _Norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )
        self.silu = _activation(config) in _SILU
        self.projections = Product([attention.q_proj, attention.k_proj, attention.v_proj])
        self.output = Product([attention.o_proj])
        self.gates = Product([mlp.gate_proj, mlp.up_proj])
        self.down = Product([mlp.down_proj])
        self.before = _Norm(layer.input_layernorm)
        if hasattr(layer, "pre_feedforward_layernorm"):  # Gemma's blocks: each half has a norm in front and behind
            self.between = _Norm(layer.pre_feedforward_layernorm)
            self.after_attention = _Norm(layer.post_attention_layernorm)
            self.after_gates = _Norm(layer.post_feedforward_layernorm)
        else:
            self.between = _Norm(layer.post_attention_layernorm)
            self.after_attention = self.after_gates = None
        self.keys = torch.zeros(self.key_heads, capacity // BLOCK, self.size, BLOCK, dtype=torch.float16)
        self.values = torch.zeros(self.key_heads, capacity, self.size, dtype=torch.float16)

    def steps(
        self,
        path: str | None,
        hidden: torch.Tensor,
        pending: torch.Tensor | None,
        normed: torch.Tensor,
        delta: torch.Tensor,
        position: torch.Tensor,
    ) -> list[Step]:
        """The calls that add `pending`, what the block before has left to add, to `hidden`, and leave `delta` so."""
        projected, attended = torch.zeros(self.projections.rows), torch.zeros(self.heads * self.size)
        gates, gated = torch.zeros(self.gates.rows), torch.zeros(self.gates.rows // 2)
        norms = [None if norm is None else norm.weight for norm in (self.query_norm, self.key_norm)]
        epsilon = 0.0 if self.query_norm is None else self.query_norm.epsilon
        steps = [
            self.before.step(path, hidden, pending, normed),
            *self.projections.steps(normed, projected),
            functools.partial(
                decode_step.attend, path, projected, self.cosines, self.sines, *norms, epsilon, self.keys, self.values,
                position, self.window, self.scaling, attended, torch.get_num_threads(),
            ),
            *self.output.steps(attended, delta),
        ]  # fmt: skip
        if self.after_attention is not None:
            steps.append(self.after_attention.step(path, delta, None, delta))
        steps += [
            self.between.step(path, hidden, delta, normed),
            *self.gates.steps(normed, gates),
            functools.partial(decode_step.gate, path, self.silu, gates, gated),
            *self.down.steps(gated, delta),
        ]
        if self.after_gates is not None:
            steps.append(self.after_gates.step(path, delta, None, delta))
        return steps

    def read(self, hidden: torch.Tensor, at: int) -> torch.Tensor:
        """A prompt's hidden states (tokens, hidden) behind `at` others, one block on."""
        tokens, end = len(hidden), at + len(hidden)
        projected = self.projections.product(self.before(hidden)).view(tokens, -1, self.size)
        queries, keys, values = projected.split([self.heads, self.key_heads, self.key_heads], 1)
        cosines, sines = self.cosines[at:end, None], self.sines[at:end, None]
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries, keys = rotated(queries, cosines, sines), rotated(keys, cosines, sines)
        decode_step.store(self.keys, self.values, at, keys, values)
        first = max(0, at + 1 - self.window)
        seen_keys, seen_values = decode_step.seen(self.keys, self.values, first, end)
        places = torch.arange(at, end)[:, None] - torch.arange(first, end)
        mask = None if first == at == 0 and end <= self.window else (places >= 0) & (places < self.window)
        attended = nn.functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], seen_keys[None], seen_values[None], attn_mask=mask, is_causal=mask is None,
            scale=self.scaling, enable_gqa=True,
        )  # fmt: skip
        delta = self.output.product(attended[0].transpose(0, 1).reshape(tokens, -1))
        hidden = hidden + (delta if self.after_attention is None else self.after_attention(delta))
        gate, up = self.gates.product(self.between(hidden)).chunk(2, -1)
        gate = nn.functional.silu(gate) if self.silu else nn.functional.gelu(gate, approximate="tanh")
        delta = self.down.product(gate * up)
        return hidden + (delta if self.after_gates is None else self.after_gates(delta))


def _activation(config: Any) -> str:
    return getattr(config, "hidden_activation", None) or config.hidden_act


def _window(attention: Any) -> int | None:
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    return getattr(attention.config, "sliding_window", None) if attention.config.model_type == "mistral" else None


def _rotations(config: Any) -> set[str]:
    parameters = config.rope_parameters or {}
    kinds = [each for each in parameters.values() if isinstance(each, dict)] or [parameters]
    return {kind.get("rope_type", "default") for kind in kinds}
