"""A reader and a forward pass for a small RWKV 5.2 of bytes in rwkv.cpp's file format, in plain torch.

Source: the architecture is that of "Eagle and Finch" (arXiv 2404.05892) before its last changes, as rwkv.cpp reads it.
Every projection is an nn.Linear, so that what hardy does to linear layers can be done to it.
"""

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a float32 file by name, slowest dimension first."""
    raw, at, found = path.read_bytes(), 24, {}
    while at < len(raw):
        dimensions, length, kind = struct.unpack("<3I", raw[at : at + 12])
        assert kind == 0, f"{path} is not float32"
        at += 12
        shape = struct.unpack(f"<{dimensions}I", raw[at : at + 4 * dimensions])[::-1]
        at += 4 * dimensions
        key, count = raw[at : at + length].decode(), int(np.prod(shape))
        at += length
        found[key] = torch.from_numpy(np.frombuffer(raw, "<f4", count, at).reshape(shape).copy())
        at += 4 * count
    return found


def linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The features of the token before, (batch, tokens, width); zeros before the first."""
    return functional.pad(x, (0, 0, 1, -1))


class TimeMixing(nn.Module):
    def __init__(self, w: dict[str, torch.Tensor], prefix: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.receptance, self.key, self.value, self.gate, self.output = (
            linear(w[f"{prefix}.{name}.weight"]) for name in ("receptance", "key", "value", "gate", "output")
        )
        self.mixes = {name: w[f"{prefix}.time_mix_{name}"] for name in "rkvg"}
        self.decay, self.bonus = w[f"{prefix}.time_decay"], w[f"{prefix}.time_faaaa"]
        self.norm = w[f"{prefix}.ln_x.weight"], w[f"{prefix}.ln_x.bias"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before, (batch, tokens, width) = shifted(x), x.shape
        mixed = {name: x * mix + before * (1 - mix) for name, mix in self.mixes.items()}
        r = self.receptance(mixed["r"]).view(batch, tokens, self.heads, 1, -1)
        k = self.key(mixed["k"]).view(batch, tokens, self.heads, -1, 1)
        v = self.value(mixed["v"]).view(batch, tokens, self.heads, 1, -1)
        outer, state, outputs = k * v, torch.zeros(()), []
        for t in range(tokens):
            outputs.append(r[:, t] @ (self.bonus * outer[:, t] + state))
            state = self.decay * state + outer[:, t]
        y = torch.stack(outputs, 1).reshape(batch * tokens, width)
        y = functional.group_norm(y, self.heads, *self.norm, eps=1e-5).view(batch, tokens, width)
        return self.output(y * functional.silu(self.gate(mixed["g"])))


class ChannelMixing(nn.Module):
    def __init__(self, w: dict[str, torch.Tensor], prefix: str) -> None:
        super().__init__()
        self.receptance, self.key, self.value = (
            linear(w[f"{prefix}.{name}.weight"]) for name in ("receptance", "key", "value")
        )
        self.mix_k, self.mix_r = w[f"{prefix}.time_mix_k"], w[f"{prefix}.time_mix_r"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = shifted(x)
        k = functional.relu(self.key(x * self.mix_k + before * (1 - self.mix_k))).square()
        return torch.sigmoid(self.receptance(x * self.mix_r + before * (1 - self.mix_r))) * self.value(k)


class Block(nn.Module):
    def __init__(self, w: dict[str, torch.Tensor], prefix: str, heads: int) -> None:
        super().__init__()
        self.norms = [(w[f"{prefix}.{name}.weight"], w[f"{prefix}.{name}.bias"]) for name in ("ln1", "ln2")]
        self.time, self.channel = TimeMixing(w, f"{prefix}.att", heads), ChannelMixing(w, f"{prefix}.ffn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.time(functional.layer_norm(x, x.shape[-1:], *self.norms[0]))
        return x + self.channel(functional.layer_norm(x, x.shape[-1:], *self.norms[1]))


class Rwkv(nn.Module):
    """`model(input_ids).logits`, (batch, tokens, 256), every text from an empty state."""

    def __init__(self, w: dict[str, torch.Tensor]) -> None:
        super().__init__()
        count = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
        heads = w["blocks.0.att.time_decay"].shape[0]
        self.w = w
        self.layers = nn.ModuleList(Block(w, f"blocks.{i}", heads) for i in range(count))
        self.head = linear(w["head.weight"])
        self.eval()

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        x = self.w["emb.weight"][input_ids]
        x = functional.layer_norm(x, x.shape[-1:], self.w["blocks.0.ln0.weight"], self.w["blocks.0.ln0.bias"])
        for layer in self.layers:
            x = layer(x)
        x = functional.layer_norm(x, x.shape[-1:], self.w["ln_out.weight"], self.w["ln_out.bias"])
        return SimpleNamespace(logits=self.head(x))


def windows(text: str, width: int, count: int) -> torch.Tensor:
    """The first bytes of the text, (count, width)."""
    return torch.tensor(list(text.encode()[: width * count])).view(-1, width)
