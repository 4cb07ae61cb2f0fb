"""A Llama of llama2.c's kind: its file format, and its forward pass in numpy as the format defines it."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Stories:
    """Sizes and float32 weights; matrices are (out, in), stacked over layers."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    weights: dict[str, np.ndarray]
    epsilon: float = 1e-5


def read_checkpoint(path: Path) -> Stories:
    """Seven int32 sizes, then the blocks of float32 one after the other."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("7i", raw[:28])
    kv, half = dim // heads * kv_heads, dim // heads // 2
    shapes = {
        "embedding": (vocabulary, dim), "norm_attention": (layers, dim), "q": (layers, dim, dim),
        "k": (layers, kv, dim), "v": (layers, kv, dim), "o": (layers, dim, dim), "norm_mlp": (layers, dim),
        "gate": (layers, hidden, dim), "down": (layers, dim, hidden), "up": (layers, hidden, dim), "norm": (dim,),
        "cos": (context, half), "sin": (context, half),
    }  # fmt: skip
    flat, at, weights = np.frombuffer(raw, "<f4", offset=28), 0, {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        weights[name] = flat[at : at + size].reshape(shape).copy()
        at += size
    assert at == flat.size, "sizes and file length disagree"
    return Stories(dim, hidden, layers, heads, kv_heads, vocabulary, context, weights)


def read_vocabulary(path: Path) -> list[bytes]:
    """The bytes of every token; `<0x0A>` stands for the byte 10."""
    raw, at, vocabulary = path.read_bytes(), 4, []
    while at < len(raw):
        _, length = struct.unpack("<fi", raw[at : at + 8])
        token = raw[at + 8 : at + 8 + length]
        is_byte = length == 6 and token.startswith(b"<0x") and token.endswith(b">")
        vocabulary.append(bytes([int(token[3:5], 16)]) if is_byte else token)
        at += 8 + length
    return vocabulary


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotate_adjacent_pairs(x: np.ndarray, heads: int) -> np.ndarray:
    """(tokens, heads * size): the pair (2i, 2i + 1) of each head turns by position * 10000^(-2i / size)."""
    tokens, size = len(x), x.shape[1] // heads
    angle = np.arange(tokens)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    turned = (x.reshape(tokens, heads, size // 2, 2) @ np.array([1, 1j])) * np.exp(1j * angle)[:, None]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(tokens, heads * size)


def forward(model: Stories, ids: list[int]) -> np.ndarray:
    """Logits (tokens, vocabulary) in float64."""
    w = {name: value.astype(np.float64) for name, value in model.weights.items()}
    size, share = w["q"].shape[1] // model.heads, model.heads // model.kv_heads
    x = w["embedding"][ids]
    for layer in range(model.layers):
        h = rms_norm(x, w["norm_attention"][layer], model.epsilon)
        q = rotate_adjacent_pairs(h @ w["q"][layer].T, model.heads)
        k = rotate_adjacent_pairs(h @ w["k"][layer].T, model.kv_heads)
        v = h @ w["v"][layer].T
        mixed = np.zeros_like(q)
        for head in range(model.heads):
            mine = slice(head * size, (head + 1) * size)
            shared = slice(head // share * size, (head // share + 1) * size)
            for t in range(len(ids)):
                scores = k[: t + 1, shared] @ q[t, mine] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                mixed[t, mine] = weights / weights.sum() @ v[: t + 1, shared]
        x = x + mixed @ w["o"][layer].T
        h = rms_norm(x, w["norm_mlp"][layer], model.epsilon)
        gate = h @ w["gate"][layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"][layer].T)) @ w["down"][layer].T
    return rms_norm(x, w["norm"], model.epsilon) @ w["embedding"].T
