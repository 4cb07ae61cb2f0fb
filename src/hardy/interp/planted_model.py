"""Small decoders with some parts held silent, trained within a minute or two, for `hardy.interp.planted`.

The parts that a model is not to use are set to 0 and stay so, which is how it is known where a behaviour must be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.runs.progress import track

NOTHING = -100
"""Label of a position that is not trained on, as in transformers."""

Draw = Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]
"""A batch from a generator: token ids (n, length), and what each position is to say next, (n, length)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A small Llama, and which of its parts are never to do anything.

    Args:
        vocabulary, width, blocks, heads: sizes; the MLP is four times as wide.
        without_attention, without_mlp: blocks whose part writes nothing.
        only_head: block -> the one head of it that writes anything.
        parallel: models that lie side by side in it and never read each other: each has its share of the coordinates,
            heads and neurons, and of the tokens; token 0 belongs to none.
        nearly_identity: blocks whose parts write a hundredth of what they would at random, and do not learn.
    """

    vocabulary: int = 64
    width: int = 64
    blocks: int = 2
    heads: int = 4
    without_attention: tuple[int, ...] = ()
    without_mlp: tuple[int, ...] = ()
    only_head: Mapping[int, int] = dataclasses.field(default_factory=dict)
    parallel: int = 1
    nearly_identity: tuple[int, ...] = ()

    def build(self, seed: int = 0) -> Any:
        """The model with random weights, its parts that write nothing already silent."""
        config = hf.LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=4 * self.width,
            num_hidden_layers=self.blocks, num_attention_heads=self.heads, num_key_value_heads=self.heads,
            max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=0, eos_token_id=None,
            pad_token_id=None,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = hf.LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for weight, scale, _ in self._held(model):
                weight.mul_(scale)
        return model

    def _held(self, model: Any) -> list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]]:
        """Weights that are held, what their first values are multiplied by, and 1 where they learn, 0 where not."""
        found = self._apart(model) if self.parallel > 1 else []
        for place, layer in enumerate(model.model.layers):
            attention, mlp = layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight
            for weight, silent in ((attention, self.without_attention), (mlp, self.without_mlp)):
                if place in silent:
                    found.append((weight, torch.zeros(()), torch.zeros(())))
                elif place in self.nearly_identity:
                    found.append((weight, torch.tensor(0.01), torch.zeros(())))
            if place in self.only_head:
                size = self.width // self.heads
                own = torch.zeros_like(attention)
                own[:, self.only_head[place] * size : (self.only_head[place] + 1) * size] = 1
                found.append((attention, own, own))
        return found

    def _apart(self, model: Any) -> list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]]:
        """The same for models side by side: only what has both ends in one of them is other than 0."""
        width, neuron = (torch.arange(n) * self.parallel // n for n in (self.width, 4 * self.width))
        token = torch.arange(self.vocabulary - 1) * self.parallel // (self.vocabulary - 1)
        token = torch.cat([torch.tensor([-1]), token])
        ends = [(model.model.embed_tokens, token, width), (model.lm_head, token, width)]
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            ends += [(getattr(attention, f"{name}_proj"), width, width) for name in "qkvo"]
            ends += [(mlp.gate_proj, neuron, width), (mlp.up_proj, neuron, width), (mlp.down_proj, width, neuron)]
        masks = [(module.weight, (out.unsqueeze(1) == into).float()) for module, out, into in ends]
        return [(weight, mask, mask) for weight, mask in masks]


def trained(plan: Plan, draw: Draw, *, steps: int = 500, learning_rate: float = 3e-3, seed: int = 0) -> Any:
    """A model of this plan that has learned what `draw` writes; one thread gives the same weights every time.

    Args:
        plan: of the model.
        draw: see `Draw`.
        steps, learning_rate: of AdamW; the rate rises over the first twentieth and falls to 0 over the last half.
        seed: of the first weights and of all that is drawn.
    """
    checks.integer("steps", steps, at_least=1)
    model = plan.build(seed)
    held = [(weight, weight.detach().clone(), learns) for weight, _, learns in plan._held(model)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    random = generator(seed, "planted")
    for step in track(range(steps), "training"):
        rate = min(1.0, (step + 1) / max(1, steps // 20), 2 * (steps - step) / steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        ids, labels = draw(random)
        with torch.enable_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NOTHING)
            optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for weight, first, learns in held:
                weight.copy_(torch.where(learns > 0, weight, first))
    optimizer.zero_grad()
    return model
