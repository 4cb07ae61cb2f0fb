"""Tokens per second of real language models at batch 1: packed layers beside transformers and llama.cpp.

Every arm reads the same token ids, of 32 and of 1,024 tokens, and writes 32 more, greedily, on one and on two threads;
arms take turns, each in a process of its own, and a row gives the best of the rounds and their median. Threads of
OpenMP, which the peers have, spin while they wait in one round and for a moment only, as hardy has them do, in the
next: which is faster depends on what else the machine does. "hardy" arms are what `hardy generate` runs: all linear
layers of the blocks packed and rotated, the head read at 8 bits. They are quantized by `hardy quantize` without data,
but for two planes of a model below 200 M parameters, which are calibrated on 4,096 tokens: how fast a layer is does not
depend on it, and quality has a benchmark of its own. llama.cpp's files are made with its own quantizer from the GGUF
file that the model came as, with its rules for which tensor gets which type; rows that are no multiple of 256 take its
fallback types, so that "Q4_K_M" of SmolLM2 is mostly Q5_0.

Perplexity is that of WikiText-2's test text (1,024 tokens in windows of 512) with one and the same code; llama.cpp's
is that of the dequantized file. The models were 4-bit files: "unmodified" is the dequantized model, and where a model
came as Q4_K_M, as Qwen2.5-Coder did, that arm is the very file.

    HARDY_REAL_MODELS=... python -m benchmarks run real_decode
"""

import collections
import ctypes
import functools
import importlib.util
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import hardy
from benchmarks import ggml_library
from benchmarks.harness import (
    FOR_A_MOMENT,
    SPINNING,
    Result,
    Value,
    in_own_process,
    peak_memory,
    real_models,
    rows,
    text_of,
)
from hardy.evaluate import encode
from hardy.studies.quantize import quantize
from hardy.zoo.subject import spread_windows

PEERS = ("transformers", "xllamacpp", "gguf")
PROMPTS, NEW, THREADS = (32, 1024), 32, (1, 2)
SLOW = 4.0  # seconds after which an arm need not write all of its tokens
WINDOW, JUDGED = 512, 1024
PACKED: dict[str, dict[str, Any]] = {
    "hardy, two planes": {"planes": (2,)},
    "hardy, one plane": {"planes": (1,)},
    "hardy, 4-bit grid": {"bits": (4,)},
}
SMALL = 0.4e9  # bytes of weights at 16 bits below which two planes are calibrated
DENSE = ("transformers, float32", "transformers, bfloat16")
RIVAL = "llama.cpp Q4_K_M"
FILES = (RIVAL, "llama.cpp Q4_0", "llama.cpp Q2_K")


def run(models: str = "", rounds: int = 2, work: Path | None = None) -> Result:
    """
    Args:
        models: folders, as HARDY_REAL_MODELS; beside each folder its .gguf file, for llama.cpp.
        rounds: of all arms.
        work: where packed models, files and finished arms are kept.
    """
    assert work is not None
    found, notes = [], []
    for name, folder in real_models(models).items():
        if name.startswith("gemma"):
            continue  # not among the models that this is about
        arms = _arms(name, folder, work / name, notes)
        timings: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        for number in range(rounds):
            for arm, act in arms.items():
                file = work / name / f"{arm} {number}.json"
                timings[arm].append(_kept(file, functools.partial(act, WAITING[number % 2])))
        for arm, of in timings.items():
            found += _rows(name, arm, of, timings.get(RIVAL), _quality(name, folder, arm, work / name))
        place = str(work / name / PACKED_FOLDER)
        profile = _kept(work / name / "profile.json", lambda place=place: in_own_process(_profile, place))
        share = {f"share_of_{part}": value for part, value in profile.items() if part != "milliseconds"}
        found += rows("hardy, two planes: a step", {"model": name, "threads": 1, "prompt": 32}, **share,
                      milliseconds=Value(profile["milliseconds"], "ms"))  # fmt: skip
    return Result(
        rows=found, seeds=(0,), notes=notes, settings={"prompts": list(PROMPTS), "new": NEW, "judged": JUDGED}
    )


PACKED_FOLDER = "hardy, two planes"
WAITING = (SPINNING, FOR_A_MOMENT)
Arm = Callable[[Mapping[str, str]], dict[str, Any]]
"""Its speeds and memory, given how threads wait."""


def _kept(file: Path, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in the file, else what `act` gives, which then is."""
    if not file.is_file():
        value = act()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
        print(f"{file.parent.name:20} {file.stem:28} {value}", flush=True)
    return json.loads(file.read_text())


def _arms(name: str, folder: Path, work: Path, notes: list[str]) -> dict[str, Arm]:
    work.mkdir(parents=True, exist_ok=True)
    arms: dict[str, Arm] = {
        arm: functools.partial(_timed, _transformers, str(folder), arm.split()[-1]) for arm in DENSE
    }
    for arm, options in PACKED.items():
        if not (work / arm).is_dir():
            torch.set_num_threads(2)
            quantize(folder, work / arm, tokens=1024, calibration_tokens=4096, **options, **_calibration(arm, folder))
        arms[arm] = functools.partial(_timed, _hardy, str(work / arm))
    source = folder.with_suffix(folder.suffix + ".gguf")
    if importlib.util.find_spec("xllamacpp") is None or not source.is_file():
        notes.append(f"{name}, llama.cpp: not measured, xllamacpp or {source.name} is not there")
        return arms
    for arm in FILES:
        file = work / f"{arm}.gguf"
        if not file.is_file():
            requantize(source, file, arm.split()[-1])
        arms[arm] = functools.partial(_timed, _llama, str(file))
    return arms


def _timed(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    *given, waiting = arguments
    return in_own_process(measure, *given, threads=2, environment=waiting)


def _calibration(arm: str, folder: Path) -> dict[str, str]:
    small = sum(file.stat().st_size for file in folder.glob("*.safetensors")) < SMALL
    return {} if small and arm == PACKED_FOLDER else {"calibration": "none"}


def _prompt(count: int) -> list[int]:
    return [random.Random(count).randrange(1000, 20000) for _ in range(count)]


def _speeds(read: Callable[[list[int]], Any], step: Callable[[], Any]) -> dict[str, Any]:
    """Tokens per second of one arm in one process: of `read`, which takes a prompt, and of `step` after it."""
    found: dict[str, Any] = {"peak_mb": 0.0}
    for threads in THREADS:
        torch.set_num_threads(threads)
        read(_prompt(8))
        step()
        for count in PROMPTS:
            begun = time.perf_counter()
            read(_prompt(count))
            reading, written, begun = time.perf_counter() - begun, 0, time.perf_counter()
            while written < NEW and time.perf_counter() - begun < SLOW:
                step()
                written += 1
            writing = time.perf_counter() - begun
            found[f"{threads} {count}"] = {"read": count / reading, "write": written / writing}
    return found | {"peak_mb": peak_memory()}


@torch.inference_mode()
def _transformers(folder: str, dtype: str) -> dict[str, Any]:
    model: Any = hardy.zoo.load(folder, dtype=dtype)[0]
    last: dict[str, Any] = {}

    def forward(ids: torch.Tensor, cache: Any) -> None:
        found = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        last.update(cache=found.past_key_values, token=found.logits[:, -1].argmax(-1, keepdim=True))

    return _speeds(lambda ids: forward(torch.tensor([ids]), None), lambda: forward(last["token"], last["cache"]))


def _hardy(folder: str) -> dict[str, Any]:
    from hardy.quant.decoder import Decoder

    model, _ = hardy.zoo.load(folder, dtype="auto")
    decoder = Decoder(model)
    last: dict[str, Any] = {}

    def read(ids: list[int]) -> None:
        decoder.rewind()
        last["token"] = int(decoder.read(ids).argmax())

    return _speeds(read, lambda: last.update(token=int(decoder.step(last["token"]).argmax())))


@torch.inference_mode()
def _profile(folder: str) -> dict[str, float]:
    """The share of a step that each kind of call takes; "python" is what is left of it."""
    from hardy.quant.decoder import Decoder

    model, _ = hardy.zoo.load(folder, dtype="auto")
    decoder, spent, whole = Decoder(model), collections.Counter[str](), []
    decoder.read(_prompt(32))
    decoder.step(5)
    steps = decoder._steps
    names = [getattr(getattr(step, "func", step), "__name__", "other") for step in steps]
    parts = {"trit_product": "products", "grid_product": "head", "attend": "attention"}
    for _ in range(20):
        begun = time.perf_counter()
        decoder.step(5)
        whole.append(time.perf_counter() - begun)
    for name, step in zip(names, steps, strict=True):
        best = min(_seconds(step) for _ in range(20))
        spent[parts.get(name, "norms_and_gates")] += best
    total = min(whole)
    shares = {part: seconds / total for part, seconds in spent.items()}
    return shares | {"python": 1 - sum(shares.values()), "milliseconds": 1e3 * total}


def _seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _llama(file: str) -> dict[str, Any]:
    import xllamacpp

    found: dict[str, Any] = {}
    for threads in THREADS:
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel = file, 2048, 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        server = xllamacpp.Server(settings)
        for count in (8, *PROMPTS):
            asked = {"prompt": _prompt(count), "n_predict": NEW, "ignore_eos": True, "temperature": 0}
            answer = server.handle_completions(asked | {"cache_prompt": False})
            answer = answer if isinstance(answer, dict) else json.loads(answer)
            timings = answer.get("timings") or answer["choices"][0]["timings"]
            speeds = {"read": timings["prompt_per_second"], "write": timings["predicted_per_second"]}
            found[f"{threads} {count}"] = speeds
        del server
    return found | {"peak_mb": peak_memory()}


def _rows(
    model: str, arm: str, of: list[dict[str, Any]], rival: list[dict[str, Any]] | None, quality: dict[str, Any]
) -> list[Any]:
    of_model = {"model": model, "calibration": quality["calibration"]}
    peak = Value(min(each["peak_mb"] for each in of), "MB", n=len(of))
    size = Value(quality["megabytes"], "MB")
    found = rows(arm, of_model, seeds=(0,), perplexity=quality["perplexity"], megabytes=size, peak_mb=peak)
    for threads in THREADS:
        for count in PROMPTS:
            speeds = [each[f"{threads} {count}"] for each in of]
            values = {
                name: Value(reduce(each[kind] for each in speeds), "tokens/s", n=len(of))
                for kind, name in (("write", "tokens_per_second"), ("read", "prompt_tokens_per_second"))
                for name, reduce in ((name, max), (f"{name}_median", statistics.median))
            }
            cell = f"{threads} {count}"
            times = {
                name: max(each[cell][kind] for each in of) / max(each[cell][kind] for each in rival)
                for kind, name in (("write", "times_rival"), ("read", "prompt_times_rival"))
                if rival
            }
            found += rows(arm, {"model": model, "threads": threads, "prompt": count}, seeds=(0,), **values, **times)
    return found


def _quality(name: str, folder: Path, arm: str, work: Path) -> dict[str, Any]:
    """Perplexity, the size of the weights on disk, and what was calibrated on."""
    source = work / f"{arm}.gguf" if arm in FILES else work / arm if arm in PACKED else folder
    files = [source] if source.is_file() else list(source.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 1e6 * (2 if arm == "transformers, float32" else 1)
    shared = "transformers" if arm in DENSE else arm
    found = _kept(work / f"{shared} perplexity.json", lambda: in_own_process(_perplexity, str(source), threads=2))
    calibration = _calibration(arm, folder).get("calibration", "the default") if arm in PACKED else "none"
    return {**found, "megabytes": size, "calibration": calibration}


@torch.inference_mode()
def _perplexity(source: str) -> dict[str, float]:
    torch.set_num_threads(2)
    model, tokenizer = hardy.zoo.load(source)
    start = None if tokenizer.bos_token_id is None else torch.tensor([tokenizer.bos_token_id])
    losses = []
    for ids in spread_windows(encode(tokenizer, text_of("prose")), WINDOW, JUDGED, start):
        logits = model(ids[None]).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[1:]).item())
    return {"perplexity": math.exp(statistics.mean(losses))}


def type_of(kind: str, tensor: str, layer: int, layers: int, shared_by: int, tied: bool) -> str:
    """The type that llama.cpp gives a tensor of a file of this kind, before it looks at its width.

    Args:
        kind: Q4_K_M, Q4_0 or Q2_K.
        tensor: its name in the file.
        layer: which of the model's layers it belongs to, in the order in which the file has them.
        layers: of the model.
        shared_by: query heads that share a key head.
        tied: whether the embedding is the head.
    """
    if tensor == "output.weight" or (tied and tensor == "token_embd.weight"):
        return "Q6_K"
    base = {"Q4_K_M": "Q4_K"}.get(kind, kind)
    if tensor.startswith("blk."):
        part = tensor.split(".")[2]
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        if kind == "Q4_K_M" and part in ("attn_v", "ffn_down") and more:
            return "Q6_K"
        if kind == "Q2_K" and part in ("attn_v", "ffn_down", "attn_output"):
            return "Q4_K" if part == "attn_v" and shared_by >= 4 else "Q3_K"
    return base


FALLBACK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q6_K": "Q8_0"}
"""The types that rows take whose length is no multiple of 256."""


def requantize(source: Path, file: Path, kind: str) -> None:
    """Write the model of a GGUF file as one of another kind, with ggml's own quantizer; as it is if it is of that."""
    import gguf
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(str(source))
    field: Callable[[str], Any] = lambda name: reader.fields[name].contents()  # noqa: E731
    if (field("general.file_type"), kind) == (int(gguf.LlamaFileType.MOSTLY_Q4_K_M), "Q4_K_M"):
        file.symlink_to(source.resolve())
        return
    architecture = field("general.architecture")
    layers, heads = (field(f"{architecture}.{name}") for name in ("block_count", "attention.head_count"))
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    shared_by = heads // field(f"{architecture}.attention.head_count_kv")
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), architecture)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), entry.types[0], inner)
    writer.add_file_type(int(gguf.LlamaFileType[f"MOSTLY_{kind}"]))
    library, seen = ggml_library.load(), collections.Counter[str]()
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if values.ndim < 2:
            writer.add_tensor(tensor.name, values.numpy())
            continue
        part = tensor.name.split(".")[-2]
        name = type_of(kind, tensor.name, seen[part], layers, shared_by, tied)
        seen[part] += 1
        name = FALLBACK.get(name, name) if values.shape[-1] % 256 else name
        type_, (block, size) = gguf.GGMLQuantizationType[name], gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        library.ggml_quantize_init(int(type_))
        stored = torch.empty(len(values), values.shape[-1] // block * size, dtype=torch.uint8)
        given, kept = ctypes.c_void_p(values.data_ptr()), ctypes.c_void_p(stored.data_ptr())
        library.ggml_quantize_chunk(int(type_), given, kept, 0, len(values), values.shape[-1], None)
        writer.add_tensor(tensor.name, stored.numpy(), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)
