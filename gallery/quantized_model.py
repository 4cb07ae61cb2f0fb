"""A real model on few bits

SmolLM2-135M rounded to 8, 4 and 3 bits, and as two trit-planes, judged on held-out Python. Where no real
model is at hand (HARDY_REAL_MODELS) it is tiny-llama.
"""

# %% A model: a folder of HARDY_REAL_MODELS, or the zoo's
import os
from pathlib import Path

import torch
from picture import axes, save

import hardy
from hardy.quant import RoundToNearest, TritPlanes

folder = Path(os.environ.get("HARDY_REAL_MODELS", "nowhere")) / "smollm2-135m"
subject = hardy.Subject.of(str(folder) if folder.is_dir() else "tiny-llama", tokens=512, window=256)
batches = subject.batches("evaluation")


def loss() -> float:
    with torch.no_grad():
        return float(hardy.evaluate.mean_loss(subject.model, batches))


# %% Perplexity against true bits
methods = [RoundToNearest(bits=bits) for bits in (8, 4, 3)] + [TritPlanes(planes=planes) for planes in (2,)]
found = {"unmodified": (16.0, loss())}
for method in methods:
    with method.apply(subject.model) as change:
        bits = change.report.value("bits_per_weight", "all selected weights")
        name = f"{type(method).__name__}, {getattr(method, 'bits', None) or f'{method.planes} planes'}"
        found[name] = (bits, loss())
        print(f"{name}: {bits:.2f} bits, loss {found[name][1]:.3f}")

# %%
figure, ax = axes()
for name, (bits, nats) in found.items():
    ax.plot(bits, nats, "o", color="#d55e00" if "Trit" in name else "#0072b2", ms=8)
    ax.annotate(name, (bits, nats), textcoords="offset points", xytext=(7, 4), fontsize=8)
ax.set(xlabel="true bits per weight (scales counted)", ylabel="loss [nats/token]", title=subject.name, xlim=(2, 20))
save("quantized_model", figure)
