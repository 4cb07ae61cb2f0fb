"""Real language models in few bits: perplexity on two kinds of text, agreement and file size, beside what others offer.

Every arm quantizes the linear layers of the blocks; embeddings, head and norms stay at 16 bits and are counted, once
where they are tied. Judged on WikiText-2's test text and on Python's language reference, which no arm is calibrated on.
"own + prose" is 8,192 tokens that the model wrote itself and 8,192 of WikiText-2's validation text, "own + held-out"
the default of `hardy quantize`: standard-library modules in the place of WikiText. All arms that use data have the same
"own + prose", unless they say otherwise. The types of llama.cpp (ggml) are given its mean squares as importances; where
rows are no multiple of 256 their blocks run on into the next row, where llama.cpp itself would take a larger type.

The models were 4-bit files: "unmodified" is the dequantized model.

    HARDY_REAL_MODELS=... python -m benchmarks run real_quantizers
"""

import ctypes
import dataclasses
import importlib.util
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import hardy
from benchmarks import ggml_library
from benchmarks.harness import NotMeasuredError, Result, real_models, rows, text_of
from benchmarks.quantizers import HQQ
from hardy.core.method import ALL_SELECTED, Method
from hardy.core.selection import Site
from hardy.evaluate import encode
from hardy.quant import GPTQ, CalibratedTritPlanes, ClippedRoundToNearest, RoundToNearest, TritPlanes
from hardy.quant.calibrated import CalibratedQuantizer
from hardy.quant.fitting import fitting
from hardy.zoo.calibration import calibration_batches
from hardy.zoo.subject import spread_windows

PEERS = ("hqq", "xllamacpp", "gguf")
WINDOW = 512
SELECT = "linear,!head,!router"


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """A weight as ggml stored it, and gave it back."""

    value: torch.Tensor
    bits: int

    def dequantize(self) -> torch.Tensor:
        return self.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ggml(CalibratedQuantizer):
    """A type of llama.cpp, quantized by its own library with the mean square of each input as importance."""

    type: str

    def quantize_for(self, weight: torch.Tensor, gram: torch.Tensor) -> tuple[Blocks, Mapping[str, float]]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType[self.type]
        block, size = GGML_QUANT_SIZES[kind]
        width = math.lcm(weight.shape[-1], block)
        if weight.numel() % width:
            width = block  # one row after the other
        importance = (gram.diagonal() / gram.diagonal().mean()).float().repeat(-(-width // weight.shape[-1]))[:width]
        library = ggml_library.load()
        library.ggml_quantize_init(int(kind))
        source, importance = weight.float().contiguous(), importance.contiguous()
        stored = torch.empty(weight.numel() // block * size, dtype=torch.uint8)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, stored, importance)]
        count = weight.numel() // width
        library.ggml_quantize_chunk(int(kind), pointers[0], pointers[1], 0, count, width, pointers[2])
        value = torch.from_numpy(dequantize(stored.numpy(), kind)).view(weight.shape)
        return Blocks(value, 8 * stored.numel()), {"bits": 8 * stored.numel()}

    def check_row(self, site: Site, weight: torch.Tensor) -> None: ...

    def stored_bits(self, shape: Sequence[int]) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[self.type]]
        return 8 * math.prod(shape) // block * size


def arms() -> dict[str, tuple[Method, str]]:
    """Name -> method, and what it is calibrated on."""
    found: dict[str, tuple[Method, str]] = {}

    def add(name: str, method: Method, data: str = "") -> None:
        found[name] = method, data

    add("two trit-planes, calibrated", CalibratedTritPlanes(), "own + prose")
    add("two trit-planes, calibrated on the default", CalibratedTritPlanes(), "own + held-out")
    add("two trit-planes, plain", TritPlanes())
    add("GPTQ 3 bits", GPTQ(bits=3), "own + prose")
    add("round to nearest 4 bits", RoundToNearest(bits=4))
    add("three trit-planes, calibrated", CalibratedTritPlanes(planes=3), "own + prose")
    if importlib.util.find_spec("xllamacpp"):
        for kind in ("Q3_K", "Q2_K", "Q4_K", "IQ2_XXS"):
            add(f"llama.cpp {kind}", Ggml(type=kind), "own + prose")
    if importlib.util.find_spec("hqq"):
        add("hqq 3 bits", HQQ(bits=3, group_size=64))
        add("hqq 4 bits", HQQ(bits=4, group_size=64))
    add("GPTQ 4 bits", GPTQ(bits=4), "own + prose")
    add("clipped rounding 3 bits", ClippedRoundToNearest(bits=3))
    add("one trit-plane, calibrated", CalibratedTritPlanes(planes=1), "own + prose")
    return found


def run(models: str = "", tokens: int = 4096, only: str = "", work: Path | None = None) -> Result:
    """
    Args:
        models: folders, as HARDY_REAL_MODELS.
        tokens: of each text.
        only: names of models, with commas between them.
        work: where finished arms are kept.
    """
    found, notes = [], []
    for name, folder in real_models(models).items():
        if only and name not in only.split(","):
            continue
        found += _measured(name, folder, tokens, work)
    if not found:
        raise NotMeasuredError(f"none of {only} is among the models")
    for peer in PEERS:
        if importlib.util.find_spec(peer) is None:
            notes.append(f"{peer}: not measured, it is not installed")
    return Result(rows=found, seeds=[0], notes=notes)


def _texts() -> dict[str, str]:
    from pydoc_data.topics import topics

    return {"prose": text_of("prose"), "reference": "\n".join(topics[key] for key in sorted(topics))}


def _measured(name: str, folder: Path, tokens: int, work: Path | None) -> list[Any]:
    model, tokenizer = hardy.zoo.load(folder)
    start = None if tokenizer.bos_token_id is None else torch.tensor([tokenizer.bos_token_id])
    judged = {
        kind: torch.stack(spread_windows(encode(tokenizer, text), WINDOW, tokens, start))
        for kind, text in _texts().items()
    }
    outside = _bytes_outside(model)
    top: dict[str, torch.Tensor] = {}

    def measure() -> dict[str, float]:
        facts: dict[str, float] = {}
        for kind, ids in judged.items():
            nats, best = _read(model, ids)
            facts[f"perplexity, {kind}"] = math.exp(nats)
            facts[f"agreement, {kind}"] = (best == top.setdefault(kind, best)).float().mean().item()
        return facts

    intact = measure()
    linear = sum(p.numel() for p in model.parameters()) * 2 - outside
    print(f"\n{name}: unmodified {intact}", flush=True)
    found = [
        *rows("unmodified", {"model": name, "tokens_judged": tokens}, seeds=(0,), megabytes=(linear + outside) / 1e6,
              **intact)
    ]  # fmt: skip
    batches: dict[str, list[torch.Tensor]] = {}
    for arm, (method, data) in arms().items():
        kept = None if work is None else work / f"{name}-{arm}-{tokens}.json".replace(" ", "-")
        if kept is not None and kept.is_file():
            facts = json.loads(kept.read_text())
        else:
            if data and data not in batches:
                batches[data] = _calibration(model, tokenizer, data, work)
            if isinstance(method, CalibratedQuantizer | TritPlanes | RoundToNearest | ClippedRoundToNearest):
                method = dataclasses.replace(method, select=fitting(model, SELECT, method)[0])
            begun = time.perf_counter()
            with method.apply(model, batches.get(data)) as change:
                seconds = time.perf_counter() - begun
                row = next(iter(change.report.select("bits_per_weight", ALL_SELECTED)))
                size = row.value * int(row.details["weights"] or 0) / 8 + outside
                facts = measure() | {"bits_per_weight": row.value, "megabytes": size / 1e6, "seconds": seconds}
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(facts))
        print(f"{arm:44}" + "  ".join(f"{key} {value:.4g}" for key, value in facts.items()), flush=True)
        details = {"model": name, "calibration": data or "none", "seconds": round(facts.pop("seconds"), 1)}
        found += rows(arm, details, seeds=(0,), **facts)
    return found


def _calibration(model: Any, tokenizer: Any, data: str, work: Path | None) -> list[torch.Tensor]:
    file = None
    if data == "own + prose":
        assert work is not None
        work.mkdir(parents=True, exist_ok=True)
        file = work / "prose.txt"
        file.write_text(text_of("prose", "calibration"), encoding="utf-8")
    return calibration_batches(model, tokenizer, ("own", str(file or "held-out")), window=WINDOW)


def _bytes_outside(model: Any) -> int:
    """What is not quantized, at 16 bits; a tied head is counted once."""
    from hardy.core import select

    inside = {id(model.get_submodule(site.module).weight) for site in select(model, SELECT)}
    return sum(2 * parameter.numel() for parameter in model.parameters() if id(parameter) not in inside)


@torch.inference_mode()
def _read(model: Any, windows: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Mean nats per token of (count, window), and the likeliest next token at each place."""
    nats, best = [], []
    for ids in windows.split(2):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nats.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"))
        best.append(logits.argmax(-1))
    return torch.cat(nats).double().mean().item(), torch.cat(best)
