"""What hardy costs on a GPU, each row beside the peer that a user would take, in one run.

- bits: the product on the GPU has the bits of the CPU's.
- product: one to a few tokens, and a prompt of 512, times a packed matrix, against bfloat16 (cuBLAS) and torch's own
  four-bit product (tinygemm, groups of 128). Calls are captured in a CUDA graph, so that launches cost nobody anything.
  "repeated": the same weight again and again, in the cache where it fits; "from memory": copies of the weight take
  turns, up to 512 MB of them, as the layers of a model do.
- decode: milliseconds per token of Llamas with random weights, static cache, batch of one,
  `torch.compile(mode="reduce-overhead", fullgraph=True)`: bfloat16 and packed under the same settings.
- attention: one query per head to a packed cache, against the same numbers in bfloat16 and torch's own attention.
- solver: seconds per million weights for `TritPlanes`, `GPTQ` and `CalibratedTritPlanes`.
- splats, chips, noise, fields: rasterizing and a step of training beside gsplat's; a layer on a chip beside
  `nn.Linear`; a draw of noise beside `torch.randn_like`; a step of a field with the quadratic unit beside the sine.

    python -m benchmarks run gpu [--parts product,decode --out FOLDER]
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers

from benchmarks import gpu_rooms
from benchmarks.harness import NotMeasuredError, Result, Value, rows
from hardy.ops.packed_attention import Segment, packed_attention
from hardy.ops.trit_matrix import TritMatrix, unpack
from hardy.ops.trit_product import trit_product, trit_product_reference
from hardy.quant import TritLinear, calibrated_trit_planes, gptq, trit_planes
from hardy.report import Row

PEERS = ("triton", "transformers", "gsplat")
SHAPES = [(2048, 2048), (4096, 4096), (14336, 4096), (4096, 14336)]
GROUP = 128
MEMORY = 2**29


def random_matrix(planes: int, out: int, width: int, seed: int = 0) -> TritMatrix:
    """Random trits and scales, packed on the GPU; no trit's field holds the code that there is not."""
    random = torch.Generator("cuda").manual_seed(seed)
    codes, scales = TritMatrix.sizes(out, width, GROUP, planes)
    fields = torch.randint(0, 3, (4, codes), generator=random, device="cuda", dtype=torch.uint8)
    packed = fields[0] | fields[1] << 2 | fields[2] << 4 | fields[3] << 6
    halves = torch.rand(scales, generator=random, device="cuda").add(0.5).mul(0.02).half()
    return TritMatrix(codes=packed, scales=halves, rows=out, width=width, group_size=GROUP, planes=planes)


def graphed(calls: Iterable[Callable[[], object]], repetitions: int = 30) -> float:
    """Microseconds of a call, the median over replays of one graph of them all."""
    calls = list(calls)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return 1e6 * timed(graph.replay, repetitions) / len(calls)


def timed(call: Callable[[], object], repetitions: int) -> float:
    """Seconds of a call, by the GPU's clock: the median."""
    call()
    found = []
    for _ in range(repetitions):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(found)


def int4_product(out: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch's own product with random weights of four bits."""
    packed = torch.randint(0, 256, (out, width // 2), dtype=torch.uint8, device="cuda")
    weight = torch.ops.aten._convert_weight_to_int4pack(packed, 8)
    scales = torch.rand(width // GROUP, out, 2, dtype=torch.bfloat16, device="cuda")
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, weight, GROUP, scales)


def bfloat16_product(out: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = torch.randn(out, width, dtype=torch.bfloat16, device="cuda")
    return lambda x: torch.nn.functional.linear(x, weight)


def packed_product(planes: int, out: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    matrix = random_matrix(planes, out, width)
    return lambda x: trit_product(x, matrix)


CONTENDERS: dict[str, tuple[Callable[[int, int], Callable[[torch.Tensor], torch.Tensor]], float]] = {
    "bfloat16": (bfloat16_product, 16),
    "int4 (tinygemm)": (int4_product, 4.25),
    "hardy, 1 plane": (functools.partial(packed_product, 1), 2.125),
    "hardy, 2 planes": (functools.partial(packed_product, 2), 4.25),
    "hardy, 3 planes": (functools.partial(packed_product, 3), 6.375),
}


def product() -> list[Row]:
    found = []
    cases = [(shape, 1) for shape in SHAPES] + list(itertools.product([(4096, 4096), (14336, 4096)], (4, 16, 64, 512)))
    for (out, width), tokens in cases:
        x = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda")
        repeated: dict[str, float] = {}
        for name, (make, bits) in CONTENDERS.items():
            copies = max(2, min(64, int(MEMORY / (out * width * bits / 8)))) if tokens == 1 else 1
            peers = [make(out, width) for _ in range(copies)]
            repeated[name] = graphed([functools.partial(peers[0], x)] * 20)
            memory = graphed(functools.partial(peer, x) for peer in peers) if tokens == 1 else None
            by_bfloat16, by_int4 = (repeated[name] / repeated.get(n, torch.nan) for n in list(CONTENDERS)[:2])
            found += product_rows(name, (out, width), tokens, repeated[name], memory, by_bfloat16, by_int4)
            print(
                f"{name:18}{out:6} x {width:5}{tokens:5} tokens{repeated[name]:9.1f} us {memory or torch.nan:9.1f} us"
                f"   {by_bfloat16:6.2f} x bfloat16 {by_int4:6.2f} x int4",
                flush=True,
            )
    return found


def product_rows(
    name: str, shape: tuple[int, int], tokens: int, repeated: float, memory: float | None, bfloat16: float, int4: float
) -> list[Row]:
    return rows(
        name,
        {"rows": shape[0], "columns": shape[1], "tokens": tokens},
        repeated_us=Value(repeated, "us"),
        from_memory_us=None if memory is None else Value(memory, "us"),
        of_bfloat16=bfloat16,
        of_int4=None if int4 != int4 else int4,
    )


def same_bits() -> list[Row]:
    """The product on the GPU against the reference in torch on the CPU."""
    compared = 0
    for planes, (out, width) in itertools.product((1, 2, 3), ((4096, 4096), (200, 1000))):
        matrix = random_matrix(planes, out, width)
        on_cpu = TritMatrix(**{**vars(matrix), "codes": matrix.codes.cpu(), "scales": matrix.scales.cpu()})
        for tokens, dtype in itertools.product((1, 3, 16, 100), (torch.float32, torch.bfloat16)):
            x = torch.randn(tokens, width, device="cuda").to(dtype)
            found = trit_product(x, matrix).cpu()
            expected = trit_product_reference(x.cpu().float(), on_cpu).to(dtype)
            assert torch.equal(found, expected), (planes, out, width, tokens, dtype)
            compared += found.numel()
    print(f"{compared} products on the GPU have the bits of the CPU's", flush=True)
    return rows("product on the GPU", outputs_with_the_bits_of_the_cpu=float(compared))


# Shapes of TinyLlama 1.1B and Llama 3 8B, of the latter a quarter of the layers; heads of 32,000 words for both.
SHAPES_OF_MODELS = {
    "1.1B shape": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_key_value_heads": 4},
    "8B shape, 8 layers": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 8, "num_key_value_heads": 8,
    },
}  # fmt: skip


def decode(planes: Iterable[int] = (0, 1, 2), tokens: int = 100) -> list[Row]:
    found: list[Row] = []
    for label, shape in SHAPES_OF_MODELS.items():
        bfloat16 = None
        for count in planes:
            torch.manual_seed(0)
            torch._dynamo.reset()
            config = transformers.LlamaConfig(
                vocab_size=32000, num_attention_heads=32, max_position_embeddings=2048, dtype="bfloat16", **shape
            )
            with torch.device("cuda"):
                model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)
            if count:
                pack_layers(model, count)
            name = f"hardy, {count} plane{'s' * (count > 1)}" if count else "bfloat16"
            times = decoding(model, tokens)
            bfloat16 = bfloat16 or times["ms_per_token"].value
            ratio = bfloat16 / times["ms_per_token"].value
            found += rows(name, {"model": label}, times_bfloat16=ratio, **times)
            shown = ", ".join(f"{key} {value.value:.3f}" for key, value in times.items())
            print(f"{label:20}{name:18}{shown}, {ratio:.2f} x bfloat16", flush=True)
            del model
    return found


def attention() -> list[Row]:
    """Microseconds of one layer's attention: 8 heads of keys and values, 32 of queries, 128 wide, batch of one."""
    heads, group, dim, found = 8, 4, 128, []
    for tokens in (4096, 32768):
        random = torch.Generator("cuda").manual_seed(0)
        dense = torch.randn(2, 1, heads, tokens, dim, generator=random, device="cuda", dtype=torch.bfloat16)
        query = torch.randn(1, heads * group, dim, generator=random, device="cuda", dtype=torch.bfloat16)
        values = {"bfloat16": Value(graphed([lambda d=dense, q=query: torch_attention(q, d)] * 4), "us")}
        for bits in (8, 4, 2):
            size = dim * bits // 8
            codes = torch.randint(
                0, 256, (2, 1, heads, tokens, size), generator=random, device="cuda", dtype=torch.uint8
            )
            pages = (torch.arange(tokens, device="cuda") // 64).to(torch.int16).view(1, 1, -1)
            segment = Segment(
                keys=codes[0], values=codes[1], tokens=tokens, pages=pages,
                key_scales=torch.rand(1, heads, tokens // 64, 2, dim, device="cuda").half(),
                value_scales=torch.rand(1, heads, tokens, 2, device="cuda").half(),
            )  # fmt: skip
            call = functools.partial(packed_attention, query, [segment], dim**-0.5)
            values[f"packed_{bits}_bits"] = Value(graphed([call] * 4), "us")
        found += rows(f"attention to {tokens} tokens", {"tokens": tokens}, **values)
    return found


def torch_attention(query: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    keys, values = cache
    return torch.nn.functional.scaled_dot_product_attention(query[:, :, None], keys, values, enable_gqa=True)


def pack_layers(model: torch.nn.Module, planes: int) -> None:
    for seed, (name, linear) in enumerate(list(model.named_modules())):
        if isinstance(linear, torch.nn.Linear) and name != "lm_head":
            parent, _, leaf = name.rpartition(".")
            matrix = random_matrix(planes, linear.out_features, linear.in_features, seed)
            setattr(model.get_submodule(parent), leaf, TritLinear.from_trits(*unpack(matrix), linear.in_features))


def decoding(model: Any, tokens: int) -> dict[str, Value]:
    """How long a token takes, what of it kernels take, and how long compiling took. A graph break is an error."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=512)
    prompt = torch.randint(0, 1000, (1, 16), device="cuda")
    step = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    with torch.inference_mode():
        token = model(prompt, past_key_values=cache).logits[:, -1:].argmax(-1)

        def run(count: int) -> float:
            nonlocal token
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(count):
                token = step(token.clone(), past_key_values=cache).logits[:, -1:].argmax(-1)
            torch.cuda.synchronize()
            return time.perf_counter() - begun

        compiled = run(8)
        seconds = min(run(tokens) for _ in range(3)) / tokens
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run(5)
    kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 5e3
    return {
        "ms_per_token": Value(1e3 * seconds, "ms", n=3),
        "kernels_ms": Value(kernels, "ms"),
        "compile_seconds": Value(compiled, "s"),
    }


def solver() -> list[Row]:
    out, width = 4096, 4096
    weight = torch.randn(out, width, device="cuda", dtype=torch.bfloat16)
    inputs = torch.randn(2 * width, width, device="cuda") * torch.rand(width, device="cuda").add(0.1)
    gram = inputs.T @ inputs
    found = []
    fits: dict[str, Callable[[torch.Tensor], object]] = {
        f"TritPlanes, {planes} plane{'s' * (planes > 1)}": functools.partial(trit_planes.fit, planes=planes)
        for planes in (1, 2, 3)
    }
    fits["GPTQ, 4 bits"] = functools.partial(gptq.fit, gram=gram, bits=4)
    fits["CalibratedTritPlanes, 2 planes"] = functools.partial(calibrated_trit_planes.fit, gram=gram, planes=2)
    for name, fit in fits.items():
        fit(weight[:256])
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        fit(weight)
        torch.cuda.synchronize()
        per_million = (time.perf_counter() - begun) / (out * width / 1e6)
        memory = torch.cuda.max_memory_allocated() / 2**30
        found += rows(
            name,
            {"weights": out * width},
            seconds_per_million=Value(per_million, "s"),
            peak_gb=Value(memory, "GiB"),
        )
        print(f"{name:32}{per_million:9.4f} s per million weights, {memory:.1f} GiB at most", flush=True)
    return found


PARTS: dict[str, Callable[[], list[Row]]] = {
    "bits": same_bits,
    "product": product,
    "decode": decode,
    "attention": attention,
    "solver": solver,
    **gpu_rooms.PARTS,
}


def run(*, parts: str = ",".join(PARTS)) -> Result:
    if not torch.cuda.is_available():
        raise NotMeasuredError("torch finds no GPU here")
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name}, {device.multi_processor_count} multiprocessors, torch {torch.__version__}", flush=True)
    found = [row for name in parts.split(",") for row in PARTS[name]()]
    return Result(
        rows=found,
        settings={"gpu": device.name, "multiprocessors": device.multi_processor_count, "group_size": GROUP},
        seeds=(0,),
        notes=[f"not measured: {name}" for name in PARTS if name not in parts.split(",")],
    )
