"""An RWKV 5.2 in numpy, one token after the other with its state carried along; and its file format, written."""

import struct
from pathlib import Path

import numpy as np

NAMES = ("r", "k", "v", "g")


def weights(width: int, hidden: int, heads: int, layers: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ones, in float32, by the names that files have."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + normal(width), f"{name}.bias": normal(width)}

    found = {"emb.weight": 4 * normal(256, width), "head.weight": 4 * normal(256, width), **norm("ln_out")}
    found |= norm("blocks.0.ln0")
    for i in range(layers):
        block = f"blocks.{i}"
        found |= {**norm(f"{block}.ln1"), **norm(f"{block}.ln2"), **norm(f"{block}.att.ln_x")}
        for name in ("receptance", "key", "value", "gate", "output"):
            found[f"{block}.att.{name}.weight"] = normal(width, width)
        mixes = [f"{block}.att.time_mix_{name}" for name in NAMES] + [f"{block}.ffn.time_mix_{n}" for n in "kr"]
        found |= {name: random.random(width).astype(np.float32) for name in mixes}
        shape = (heads, width // heads, 1)
        found[f"{block}.att.time_decay"] = random.uniform(0.5, 0.99, shape).astype(np.float32)
        found[f"{block}.att.time_faaaa"] = normal(*shape)
        found[f"{block}.ffn.receptance.weight"] = normal(width, width)
        found[f"{block}.ffn.key.weight"] = normal(hidden, width)
        found[f"{block}.ffn.value.weight"] = normal(width, hidden)
    return found


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A header of 24 bytes; of each tensor dimensions, length of name, type, sizes (fastest first), name, values."""
    with open(path, "wb") as file:
        file.write(bytes(24))
        for name, tensor in tensors.items():
            file.write(struct.pack("<3I", tensor.ndim, len(name), 0))
            file.write(struct.pack(f"<{tensor.ndim}I", *tensor.shape[::-1]))
            file.write(name.encode() + tensor.astype("<f4").tobytes())


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def forward(w: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Logits (tokens, 256) in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    heads, size, _ = w["blocks.0.att.time_decay"].shape
    state = np.zeros((layers, heads, size, size))
    before = np.zeros((layers, 2, heads * size))
    logits = []

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])

    for token in ids:
        x = norm("blocks.0.ln0", w["emb.weight"][token])
        for i in range(layers):
            block = f"blocks.{i}"
            h, last = norm(f"{block}.ln1", x), before[i, 0].copy()
            before[i, 0] = h
            mixed = {n: h * w[f"{block}.att.time_mix_{n}"] + last * (1 - w[f"{block}.att.time_mix_{n}"]) for n in NAMES}
            matrices = ("receptance", "key", "value", "gate")
            r, k, v, g = (w[f"{block}.att.{m}.weight"] @ mixed[n] for m, n in zip(matrices, NAMES, strict=True))
            out = np.zeros(heads * size)
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                outer = np.outer(k[part], v[part])
                bonus, decay = w[f"{block}.att.time_faaaa"][head], w[f"{block}.att.time_decay"][head]
                out[part] = r[part] @ (bonus * outer + state[i, head])
                state[i, head] = decay * state[i, head] + outer
                weight, bias = (w[f"{block}.att.ln_x.{name}"][part] for name in ("weight", "bias"))
                out[part] = layer_norm(out[part], weight, bias)
            x = x + w[f"{block}.att.output.weight"] @ (out * g * sigmoid(g))
            h, last = norm(f"{block}.ln2", x), before[i, 1].copy()
            before[i, 1] = h
            k_mix, r_mix = w[f"{block}.ffn.time_mix_k"], w[f"{block}.ffn.time_mix_r"]
            k = np.maximum(w[f"{block}.ffn.key.weight"] @ (h * k_mix + last * (1 - k_mix)), 0) ** 2
            r = sigmoid(w[f"{block}.ffn.receptance.weight"] @ (h * r_mix + last * (1 - r_mix)))
            x = x + r * (w[f"{block}.ffn.value.weight"] @ k)
        logits.append(w["head.weight"] @ norm("ln_out", x))
    return np.array(logits)
