"""Decoding through `transformers.generate`: tokens per second and peak memory of packed trit-planes against float.

A Llama of random weights, whose layers hold random trits with random scales: what it says means nothing, how fast it
says it does not depend on it. All variants are the same model, dense ones with the very weights that the planes stand
for; head and embedding are dense in all of them, in the variant's dtype. Each variant decodes in a process of its own,
in turns, so that its peak memory is its own and a busy moment of the machine hits all alike.

    python benchmarks/decode.py
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from survival import processor
from transformers import LlamaConfig, LlamaForCausalLM

import hardy
from hardy.core.rng import generator
from hardy.files import write_json
from hardy.quant import TritLinear, unpack
from hardy.quant.transformers_hooks import quantizer_of

RESULT = Path(__file__).parent / "results" / "decode.json"
GROUP = 128
PROMPT, NEW = 16, 48
VARIANTS = ("float32", "bfloat16", "1 plane", "2 planes", "3 planes")
THREADS = (1, 2)
ROUNDS = 2


def random_model(planes: int, layers: int, hidden: int, intermediate: int) -> LlamaForCausalLM:
    """A Llama in bfloat16 with packed layers of random trits."""
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=512,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    for name, linear in list(model.named_modules()):
        if not isinstance(linear, torch.nn.Linear) or name == "lm_head":
            continue
        random = generator(0, name)
        groups = linear.in_features // GROUP
        trits = torch.randint(-1, 2, (planes, linear.out_features, groups, GROUP), generator=random, dtype=torch.int8)
        scales = torch.rand(planes, linear.out_features, groups, 1, generator=random).add(0.5).mul(0.02).half().float()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, TritLinear.from_trits(trits, scales, linear.in_features))
    model.hf_quantizer = quantizer_of(model)
    model.config.quantization_config = model.hf_quantizer.quantization_config
    return model


def decode(folder: str, dtype: str, threads: int) -> dict[str, float]:
    """In a process of its own: load, generate once to warm up and once in earnest."""
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    prompt = torch.randint(0, 1000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompt)

    def generate(tokens: int) -> float:
        begun = time.perf_counter()
        model.generate(
            prompt, attention_mask=mask, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        return time.perf_counter() - begun

    with torch.inference_mode():
        generate(2)
        first, whole = generate(1), generate(NEW + 1)
    return {
        "tokens_per_second": NEW / (whole - first),
        "peak_mb": peak_memory(),
    }


def peak_memory() -> float:
    """MB of this process at most (Linux: what getrusage says is inherited from the parent)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--intermediate", type=int, default=4096)
    parser.add_argument("--decode", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        folder, dtype, threads = options.decode
        print(json.dumps(decode(folder, dtype, int(threads))))
        return
    shape = {"layers": options.layers, "hidden": options.hidden, "intermediate": options.intermediate}
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        weights = sizes(place, shape)
        for _ in range(ROUNDS):
            for threads in THREADS:
                for variant in VARIANTS:
                    dtype = variant if variant in ("float32", "bfloat16") else "bfloat16"
                    folder = Path(place) / ("dense" if dtype == variant else variant)
                    command = [sys.executable, __file__, "--decode", str(folder), dtype, str(threads)]
                    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                    found.setdefault((variant, threads), []).append(json.loads(done.stdout.splitlines()[-1]))
                    print(f"{variant:10} {threads} threads: {found[variant, threads][-1]}", flush=True)
    rows = []
    for (variant, threads), runs in found.items():
        speeds = [run["tokens_per_second"] for run in runs]
        rows.append(
            {
                "variant": variant,
                "threads": threads,
                "tokens_per_second": {"best": max(speeds), "median": statistics.median(speeds), "all": speeds},
                "peak_mb": statistics.median(run["peak_mb"] for run in runs),
                "weights_mb": weights[variant],
            }
        )
    for row in rows:
        for name in ("float32", "bfloat16"):
            other = next(r for r in rows if (r["variant"], r["threads"]) == (name, row["threads"]))
            row[f"times_{name}"] = row["tokens_per_second"]["median"] / other["tokens_per_second"]["median"]
    print(f"\n{'':12}threads  tokens/s (best)   x float32  x bfloat16  peak MB  weights MB")
    for row in rows:
        speed = row["tokens_per_second"]
        print(
            f"{row['variant']:12}{row['threads']:7}{speed['median']:9.1f} ({speed['best']:5.1f})"
            f"{row['times_float32']:12.2f}{row['times_bfloat16']:12.2f}{row['peak_mb']:9.0f}{row['weights_mb']:12.0f}"
        )
    result = {
        "command": "python benchmarks/decode.py",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "model": shape | {"weights_in_layers": weights["in layers"], "group_size": GROUP},
        "prompt": PROMPT,
        "new_tokens": NEW,
        "rounds": ROUNDS,
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"written to {RESULT}")


def sizes(place: str, shape: dict[str, int]) -> dict[str, float]:
    """Write the model with one, two and three planes and, of two, the dense one; MB of the weights each needs."""
    weights: dict[str, float] = {}
    for planes in (1, 3, 2):
        name = f"{planes} plane{'s' if planes > 1 else ''}"
        model = random_model(planes, **shape)
        model.save_pretrained(Path(place) / name)
        layers = [layer for layer in model.modules() if isinstance(layer, TritLinear)]
        size = sum(layer.in_features * layer.out_features for layer in layers)
        rest = sum(parameter.numel() for parameter in model.parameters())
        weights["in layers"] = size
        packed = sum(layer.bits_per_weight_in_memory * layer.in_features * layer.out_features for layer in layers)
        weights[name] = (packed / 8 + 2 * rest) / 1e6
        weights["float32"], weights["bfloat16"] = 4 * (size + rest) / 1e6, 2 * (size + rest) / 1e6
    unpack(model).save_pretrained(Path(place) / "dense")
    return weights


if __name__ == "__main__":
    main()
