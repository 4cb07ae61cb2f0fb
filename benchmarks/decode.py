"""Decoding through `transformers.generate`: tokens per second and peak memory of packed trit-planes against float.

A Llama of random weights, whose layers hold random trits with random scales: what it says means nothing, how fast it
says it does not depend on it. All variants are the same model, dense ones with the very weights that the planes stand
for; head and embedding are dense in all of them, in the variant's dtype. Each variant decodes in a process of its own,
in turns, so that its peak memory is its own and a busy moment of the machine hits all alike.

    python -m benchmarks run decode
"""

import functools
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Result, Value, in_own_process, in_turns, peak_memory, rows
from hardy.core.rng import generator
from hardy.quant import TritLinear, unpack
from hardy.quant.transformers_hooks import quantizer_of

PEERS = ("transformers",)
GROUP = 128
PROMPT, NEW = 16, 48
VARIANTS = ("float32", "bfloat16", "1 plane", "2 planes", "3 planes")
THREAD_COUNTS = (1, 2)
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
    found = {"tokens_per_second": NEW / (whole - first), "peak_mb": peak_memory()}
    print(f"{Path(folder).name:10} {dtype:8} {threads} threads: {found}", flush=True)
    return found


def run(*, layers: int = 4, hidden: int = 1536, intermediate: int = 4096) -> Result:
    shape, found = {"layers": layers, "hidden": hidden, "intermediate": intermediate}, []
    with tempfile.TemporaryDirectory() as place:
        weights = sizes(place, shape)
        contenders = {}
        for threads in THREAD_COUNTS:
            for variant in VARIANTS:
                dtype = variant if variant in ("float32", "bfloat16") else "bfloat16"
                folder = str(Path(place) / ("dense" if dtype == variant else variant))
                contenders[variant, threads] = functools.partial(
                    in_own_process, decode, folder, dtype, threads, threads=threads
                )
        runs = in_turns(contenders, rounds=ROUNDS, warm_up=0)
    speeds = {key: [each["tokens_per_second"] for each in of] for key, of in runs.items()}
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    for (variant, threads), of in runs.items():
        found += rows(
            variant,
            {"threads": threads},
            tokens_per_second=Value(medians[variant, threads], "tokens/s", n=ROUNDS),
            tokens_per_second_best=Value(max(speeds[variant, threads]), "tokens/s", n=ROUNDS),
            times_float32=medians[variant, threads] / medians["float32", threads],
            times_bfloat16=medians[variant, threads] / medians["bfloat16", threads],
            peak_mb=Value(statistics.median(each["peak_mb"] for each in of), "MB", n=ROUNDS),
            weights_mb=Value(weights[variant], "MB"),
        )
    return Result(
        rows=found,
        settings={
            "model": shape | {"weights_in_layers": weights["in layers"], "group_size": GROUP},
            "prompt": PROMPT,
            "new_tokens": NEW,
            "rounds": ROUNDS,
        },
        seeds=(0,),
    )


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
