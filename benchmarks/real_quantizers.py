"""Real language models in few bits: perplexity on two kinds of text, agreement and file size, beside what others offer.

Every arm quantizes the linear layers of the blocks. Embedding and head (one table where they are tied) have 8 bits in
all arms but those that say otherwise; whatever else there is stays at 16 bits, and all of it is in the megabytes.
Judged on WikiText-2's test text and on Python's language reference, which no arm is calibrated on. "own + prose" is
4,096 tokens that the model wrote itself and 4,096 of WikiText-2's validation text; "own + held-out" is what
`hardy quantize` takes by default, 16,384 tokens of which half are standard-library modules. The types of llama.cpp
(ggml) are given the mean squares of the unmodified model's inputs on "own + prose" as importances, one type for all
layers; where rows are no multiple of 256 their blocks run on into the next row, where llama.cpp itself takes a larger
type, so their files would be larger than they are here.

Agreement is the share of tokens on which the likeliest next one is the unmodified model's. CPU-seconds are of the
quantizer, its runs of the calibration text included, on one thread. The models were 4-bit files: "unmodified" is the
dequantized model, at 16 bits.

    HARDY_REAL_MODELS=... python -m benchmarks run real_quantizers
"""

import ctypes
import dataclasses
import importlib.util
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hardy
from benchmarks import ggml_library
from benchmarks.harness import NotMeasuredError, Result, real_models, rows, text_of
from benchmarks.quantizers import HQQ
from hardy.core.method import ALL_SELECTED, Method, WeightMethod
from hardy.core.selection import Site
from hardy.evaluate import encode
from hardy.hooks.statistics import Statistic, observe
from hardy.quant import GPTQ, CalibratedTritPlanes, ClippedRoundToNearest, RoundToNearest, TritPlanes
from hardy.quant.fitting import fitting
from hardy.quant.packed_embedding import tables
from hardy.quant.quantizer import Quantizer
from hardy.studies.quantizing import embedding_method
from hardy.zoo.calibration import calibration_batches
from hardy.zoo.subject import spread_windows

PEERS = ("hqq", "xllamacpp", "gguf")
WINDOW, TOKENS = 512, 8192
SELECT = "linear,!head,!router"
OWN_AND_PROSE, DEFAULT = "own + prose", "own + held-out"
IMPORTANCES: dict[str, torch.Tensor] = {}
"""Mean square of each input, by site, of the model that is measured."""


class MeanSquare(Statistic):
    """Sum of squares of each input, (dim,), which is as good."""

    def update(self, features: torch.Tensor) -> None:
        found = features.square().sum(0)
        self.value = self.value + found if hasattr(self, "value") else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ggml(WeightMethod):
    """A type of llama.cpp, quantized by its own library."""

    type: str

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType[self.type]
        block, size = GGML_QUANT_SIZES[kind]
        width = math.lcm(weight.shape[-1], block)
        if weight.numel() % width:
            width = block  # one row after the other
        squares = IMPORTANCES[site.name]
        importance = (squares / squares.mean()).float().repeat(-(-width // weight.shape[-1]))[:width].contiguous()
        library = ggml_library.load()
        library.ggml_quantize_init(int(kind))
        source = weight.float().contiguous()
        stored = torch.empty(weight.numel() // block * size, dtype=torch.uint8)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, stored, importance)]
        count = weight.numel() // width
        library.ggml_quantize_chunk(int(kind), pointers[0], pointers[1], 0, count, width, pointers[2])
        value = torch.from_numpy(dequantize(stored.numpy(), kind)).view(weight.shape)
        return value, {"bits": 8 * stored.numel()}


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method, what it is calibrated on, and the bits of embedding and head, for each of which there is a line."""

    method: Method
    data: str = ""
    tables: tuple[int, ...] = (8,)


def arms() -> dict[str, Arm]:
    found = {"two trit-planes, calibrated": Arm(CalibratedTritPlanes(), OWN_AND_PROSE, (8, 4, 16))}
    if importlib.util.find_spec("xllamacpp"):
        found |= {f"llama.cpp {kind}": Arm(Ggml(type=kind)) for kind in ("Q3_K", "Q2_K", "Q4_K")}
    found["GPTQ 3 bits"] = Arm(GPTQ(bits=3), OWN_AND_PROSE)
    found["round to nearest 4 bits"] = Arm(RoundToNearest(bits=4))
    if importlib.util.find_spec("hqq"):
        found |= {f"hqq {bits} bits": Arm(HQQ(bits=bits, group_size=64)) for bits in (3, 4)}
    found["two trit-planes, plain"] = Arm(TritPlanes())
    found["two trit-planes, calibrated as by default"] = Arm(CalibratedTritPlanes(), DEFAULT)
    found["GPTQ 4 bits"] = Arm(GPTQ(bits=4), OWN_AND_PROSE)
    found["three trit-planes, calibrated"] = Arm(CalibratedTritPlanes(planes=3), OWN_AND_PROSE)
    found["clipped rounding 3 bits"] = Arm(ClippedRoundToNearest(bits=3))
    if importlib.util.find_spec("xllamacpp"):
        found["llama.cpp IQ2_XXS"] = Arm(Ggml(type="IQ2_XXS"))
    found["one trit-plane, calibrated"] = Arm(CalibratedTritPlanes(planes=1), OWN_AND_PROSE)
    return found


def run(models: str = "", tokens: int = 2048, only: str = "", work: Path | None = None) -> Result:
    """
    Args:
        models: folders, as HARDY_REAL_MODELS.
        tokens: of each text.
        only: names of models, with commas between them.
        work: where finished arms are kept.
    """
    assert work is not None
    work.mkdir(parents=True, exist_ok=True)
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


def _measured(name: str, folder: Path, tokens: int, work: Path) -> list[Any]:
    model, tokenizer = hardy.zoo.load(folder)
    start = None if tokenizer.bos_token_id is None else torch.tensor([tokenizer.bos_token_id])
    judged = {
        kind: torch.stack(spread_windows(encode(tokenizer, text), WINDOW, tokens, start))
        for kind, text in _texts().items()
    }
    top: dict[str, torch.Tensor] = {}

    def measure() -> dict[str, float]:
        facts: dict[str, float] = {}
        for kind, ids in judged.items():
            nats, best = _read(model, ids)
            facts[f"perplexity_{kind}"] = math.exp(nats)
            facts[f"agreement_{kind}"] = (best == top.setdefault(kind, best)).float().mean().item()
        return facts

    intact = measure()
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{name}: unmodified {intact}", flush=True)
    details = {"model": name, "tokens_judged": tokens, "parameters": weights}
    found = [*rows("unmodified", details, seeds=(0,), megabytes=2 * weights / 1e6, bits_of_all=16.0, **intact)]
    batches: dict[str, list[torch.Tensor]] = {}
    for arm, spec in arms().items():
        kept = work / f"{name}-{arm}-{tokens}.json".replace(" ", "-")
        if not kept.is_file():
            data = OWN_AND_PROSE if isinstance(spec.method, Ggml) else spec.data
            if data and data not in batches:
                batches[data] = _calibration(name, model, tokenizer, data, work)
            if isinstance(spec.method, Ggml) and not IMPORTANCES:
                seen = observe(model, batches[data], SELECT, [MeanSquare])
                IMPORTANCES.update({site: squares.value for site, (squares,) in seen.items()})
            kept.write_text(json.dumps(_arm(model, spec, batches.get(spec.data), measure)))
        for line in json.loads(kept.read_text()):
            told = {"model": name, "calibration": spec.data or "none", "embedding_bits": line.pop("embedding_bits")}
            print(f"{arm:44}" + "  ".join(f"{key} {value:.4g}" for key, value in line.items()), flush=True)
            found += rows(arm, told, seeds=(0,), **line)
    IMPORTANCES.clear()
    return found


def _arm(model: Any, spec: Arm, data: Any, measure: Any) -> list[dict[str, float]]:
    """What is measured under each number of bits for embedding and head."""
    method = spec.method
    if isinstance(method, Quantizer):
        method = dataclasses.replace(method, select=fitting(model, SELECT, method)[0])
    names = [name for name, module in model.named_modules() if name in set(tables(model))]
    whole = sum(parameter.numel() for parameter in model.parameters())
    begun, found = time.process_time(), []
    with method.apply(model, data) as change:
        seconds = time.process_time() - begun
        row = next(iter(change.report.select("bits_per_weight", ALL_SELECTED)))
        weights = int(row.details["weights"] or 0)
        for bits in spec.tables:
            facts = {"embedding_bits": bits, "bits_per_weight": row.value}
            facts["cpu_seconds_per_million"] = seconds / weights * 1e6
            grid = embedding_method(bits)
            size = row.value * weights + 16 * (whole - weights)
            if grid is None:
                facts |= measure()
            else:
                with dataclasses.replace(grid, select=tuple(f"re:{name}" for name in names)).apply(model) as other:
                    table = next(iter(other.report.select("bits_per_weight", ALL_SELECTED)))
                    size -= (16 - table.value) * int(table.details["weights"] or 0)
                    facts |= measure()
            found.append(facts | {"megabytes": size / 8e6, "bits_of_all": size / whole})
    return found


def _calibration(name: str, model: Any, tokenizer: Any, data: str, work: Path) -> list[torch.Tensor]:
    kept = work / f"{name}-{data}.pt".replace(" ", "")
    if not kept.is_file():
        file = work / "prose.txt"
        file.write_text(text_of("prose", "calibration"), encoding="utf-8")
        sources = ("own", str(file)) if data == OWN_AND_PROSE else ("own", "held-out")
        tokens = TOKENS if data == OWN_AND_PROSE else 2 * TOKENS
        torch.save(calibration_batches(model, tokenizer, sources, window=WINDOW, tokens=tokens), kept)
    return torch.load(kept)


@torch.inference_mode()
def _read(model: Any, windows: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Mean nats per token of (count, window), and the likeliest next token at each place."""
    nats, best = [], []
    for ids in windows.split(1):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nats.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"))
        best.append(logits.argmax(-1))
    return torch.cat(nats).double().mean().item(), torch.cat(best)
