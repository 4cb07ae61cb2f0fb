"""Real language models in few bits: perplexity on two kinds of text, agreement and file size, beside what others offer.

Every arm quantizes the linear layers of the blocks. Embedding and head (one table where they are tied) have 8 bits in
all arms but those that say otherwise; whatever else there is stays at 16 bits, and all of it is in the megabytes.
Judged on WikiText-2's test text and on Python's language reference. "own + held-out" is what `hardy quantize` is
calibrated on by default: 8,192 tokens, half of them written by the model itself and half of standard-library modules.
Neither text that is judged is of a kind that it has. "own + prose" has 4,096 tokens of WikiText-2's validation text
instead of the modules. The types of llama.cpp (ggml) are given the mean squares of the unmodified model's inputs on
"own + held-out" as importances, one type for all layers; where rows are no multiple of 256 their blocks run on into the
next row, where llama.cpp itself takes a larger type, so their files would be larger than they are here. "Rotated" and
"corrected" arms are as `hardy quantize` has them; the others are their papers' own.

Agreement is the share of tokens on which the likeliest next one is the unmodified model's. With `asked` there are the
questions of `benchmarks.questions`: the share that is answered right, and as the unmodified model does. CPU-seconds are
of the quantizer, its runs of the calibration text and its tuning included, on one thread, of the model of 1.5B on two.
The models were 4-bit files: "unmodified" is the dequantized model, at 16 bits.

    HARDY_REAL_MODELS=... python -m benchmarks run real_quantizers
"""

import ctypes
import dataclasses
import gc
import importlib.util
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import hardy
from benchmarks import ggml_library
from benchmarks.harness import NotMeasuredError, Result, real_models, rows, text_of
from benchmarks.quantizers import HQQ, AutoRound
from benchmarks.questions import chosen, questions
from hardy.core.method import ALL_SELECTED, Method, WeightMethod
from hardy.core.selection import Site, select
from hardy.evaluate import encode
from hardy.hooks.statistics import Statistic, observe
from hardy.quant import (
    GPTQ,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    RoundToNearest,
    TritPlanes,
    TunedScales,
    unpack,
)
from hardy.quant.block_by_block import BlockByBlock, Done, chain_of
from hardy.quant.fitting import fitting
from hardy.quant.packed_embedding import tables
from hardy.quant.quantizer import Quantizer
from hardy.runs.checkpoint import Checkpoint
from hardy.studies.quantizing import embedding_method
from hardy.zoo.calibration import calibration_batches
from hardy.zoo.subject import spread_windows

PEERS = ("hqq", "xllamacpp", "gguf", "auto-round")
WINDOW, TOKENS = 512, 8192
SELECT = "linear,!head,!router"
OWN_AND_PROSE, OWN_AND_HELD_OUT = "own + prose", "own + held-out"
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
    """A method, what it is calibrated on, and the bits of embedding and head, for each of which there is a line.

    `tune` is steps of training the scales and norms after it, on the same text.
    """

    method: Method
    data: str = ""
    tables: tuple[int, ...] = (8,)
    tune: int = 0


TRUST: dict[str, Any] = {"correction": 0.3, "damping": 0.1}
"""As `hardy quantize` has them."""
ROTATED: dict[str, Any] = {**TRUST, "rotation": 128}


def _arms() -> dict[str, Arm]:
    found = {"two trit-planes, calibrated": Arm(CalibratedTritPlanes(**ROTATED), OWN_AND_HELD_OUT, (8, 4, 16))}
    if importlib.util.find_spec("xllamacpp"):
        found |= {f"llama.cpp {kind}": Arm(Ggml(type=kind)) for kind in ("Q3_K", "Q2_K", "Q4_K")}
    found["two trit-planes, plain"] = Arm(TritPlanes())
    found["two trit-planes, plain, rotated"] = Arm(TritPlanes(rotation=128))
    found["two trit-planes, calibrated, not rotated"] = Arm(CalibratedTritPlanes(**TRUST), OWN_AND_HELD_OUT)
    found["GPTQ 3 bits"] = Arm(GPTQ(bits=3), OWN_AND_HELD_OUT)
    found["GPTQ 3 bits, corrected and rotated"] = Arm(GPTQ(bits=3, **ROTATED), OWN_AND_HELD_OUT)
    found["round to nearest 4 bits"] = Arm(RoundToNearest(bits=4))
    if importlib.util.find_spec("hqq"):
        found |= {f"hqq {bits} bits": Arm(HQQ(bits=bits, group_size=64)) for bits in (3, 4)}
    found["two trit-planes, calibrated and tuned"] = Arm(CalibratedTritPlanes(**ROTATED), OWN_AND_HELD_OUT, tune=64)
    found["two trit-planes, calibrated on prose"] = Arm(CalibratedTritPlanes(**ROTATED), OWN_AND_PROSE)
    found["two trit-planes, calibrated, no correction"] = Arm(
        CalibratedTritPlanes(damping=0.1, rotation=128), OWN_AND_HELD_OUT
    )
    found["GPTQ 4 bits"] = Arm(GPTQ(bits=4), OWN_AND_HELD_OUT)
    found["three trit-planes, calibrated"] = Arm(CalibratedTritPlanes(planes=3, **ROTATED), OWN_AND_HELD_OUT)
    found["clipped rounding 3 bits"] = Arm(ClippedRoundToNearest(bits=3))
    if importlib.util.find_spec("xllamacpp"):
        found["llama.cpp IQ2_XXS"] = Arm(Ggml(type="IQ2_XXS"))
    if importlib.util.find_spec("auto_round"):
        found["auto-round (light) 3 bits"] = Arm(AutoRound(bits=3, group_size=128, light=True), OWN_AND_HELD_OUT)
    found["one trit-plane, calibrated"] = Arm(CalibratedTritPlanes(planes=1, **ROTATED), OWN_AND_HELD_OUT)
    return found


ARMS = _arms()
CORE = (
    "two trit-planes, calibrated", "two trit-planes, calibrated, not rotated", "two trit-planes, plain",
    "two trit-planes, plain, rotated", "GPTQ 3 bits", "GPTQ 3 bits, corrected and rotated", "round to nearest 4 bits",
    "hqq 3 bits", "llama.cpp Q2_K", "llama.cpp Q3_K", "llama.cpp Q4_K",
)  # fmt: skip


def run(
    *,
    models: str = "",
    tokens: int = 2048,
    only: str = "",
    whole: str = "",
    without: str = "",
    arms: str = "",
    asked: int = 0,
    threads: int = 1,
    work: Path | None = None,
) -> Result:
    """
    Args:
        models: folders, as HARDY_REAL_MODELS.
        tokens: of each text.
        only: names of models, with commas between them.
        whole: names of models, likewise, that all arms and all bits of the embedding are measured on, which takes two
            hours a model; the others have the arms in `CORE`.
        without: names of arms to leave out, with semicolons between them.
        arms: names of those to measure and no others, likewise.
        asked: so many questions of each kind.
        threads: of torch.
        work: where finished arms are kept.
    """
    assert work is not None
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    found, notes = [], []
    for name, folder in real_models(models).items():
        if only and name not in only.split(","):
            continue
        everything = name in whole.split(",")
        wanted = arms.split("; ") if arms else ARMS if everything else CORE
        measured = {arm: spec for arm, spec in ARMS.items() if arm in wanted and arm not in without.split("; ")}
        if not everything:
            measured = {arm: dataclasses.replace(spec, tables=spec.tables[:1]) for arm, spec in measured.items()}
            notes.append(f"{name}: {len(measured)} of {len(ARMS)} arms were measured; --whole {name} takes all")
        found += _measured(Bench(name, folder, work, tokens, asked), measured)
    if not found:
        raise NotMeasuredError(f"none of {only} is among the models")
    for peer in PEERS:
        if importlib.util.find_spec(peer.replace("-", "_")) is None:
            notes.append(f"{peer}: not measured, it is not installed")
    return Result(rows=found, seeds=[0], notes=notes)


def _texts() -> dict[str, str]:
    from pydoc_data.topics import topics

    return {"prose": text_of("prose"), "reference": "\n".join(topics[key] for key in sorted(topics))}


@dataclasses.dataclass
class Bench:
    """One model, what it is judged on, and where finished parts are kept."""

    name: str
    folder: Path
    work: Path
    tokens: int
    count: int = 0

    def __post_init__(self) -> None:
        model, self.tokenizer = hardy.zoo.load(self.folder, dtype="auto")
        start = None if self.tokenizer.bos_token_id is None else torch.tensor([self.tokenizer.bos_token_id])
        self.judged = {
            kind: torch.stack(spread_windows(encode(self.tokenizer, text), WINDOW, self.tokens, start))
            for kind, text in _texts().items()
        }
        self.asked = questions(self.count) if self.count else []
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.tables = tuple(f"re:{re.escape(name)}" for name in tables(model))

    def intact(self) -> Any:
        """The unmodified model, in float32; it is not kept, as there is not room for two of a large one and an edit."""
        return hardy.zoo.load(self.folder)[0]

    def file(self, what: str) -> Path:
        return self.work / f"{self.name}-{what}".replace(" ", "-")

    def measure(self, model: Any) -> dict[str, float]:
        best = self.file("best.pt")
        seen = {kind: _read(model, ids) for kind, ids in self.judged.items()}
        answers = torch.tensor(chosen(model, self.tokenizer, self.asked))
        if not best.is_file():
            torch.save({"answers": answers} | {kind: found for kind, (_, found) in seen.items()}, best)
        intact, facts = torch.load(best), {}
        for kind in dict.fromkeys(question.kind for question in self.asked):
            of_kind = torch.tensor([question.kind == kind for question in self.asked])
            facts[f"right_{kind}"] = (answers[of_kind] == 0).float().mean().item()
        if self.asked:
            facts["same_answers"] = (answers == intact["answers"]).float().mean().item()
        for kind, (nats, found) in seen.items():
            facts[f"perplexity_{kind}"] = math.exp(nats)
            facts[f"agreement_{kind}"] = (found == intact[kind]).float().mean().item()
        return facts

    def kept(self, what: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What `make` gives, or gave in an earlier run."""
        file = self.file(f"{what}.json")
        if not file.is_file():
            file.write_text(json.dumps(make()))
        return json.loads(file.read_text())

    def calibration(self, data: str) -> list[torch.Tensor]:
        file = self.file(f"{data}.pt")
        if not file.is_file():
            prose = self.work / "prose.txt"
            prose.write_text(text_of("prose", "calibration"), encoding="utf-8")
            sources = ("own", str(prose)) if data == OWN_AND_PROSE else ("own", "held-out")
            found = calibration_batches(self.intact(), self.tokenizer, sources, window=WINDOW, tokens=TOKENS)
            torch.save(found, file)
        return torch.load(file)

    def quantized(self, arm: str, spec: Arm) -> tuple[Any, dict[str, float]]:
        """The model after a method of ours, block by block, so that it can go on; true bits and CPU-seconds."""
        model: Any = hardy.zoo.load(self.folder, dtype="auto")[0]
        method: Any = dataclasses.replace(spec.method, select=fitting(model, SELECT, spec.method)[0])
        batches = self.calibration(spec.data) if spec.data else []
        folder = self.file(arm)
        folder.mkdir(exist_ok=True)
        checkpoint = Checkpoint(folder / "state.safetensors", kind="quantization", identity={"method": str(method)})
        state = checkpoint.load() or {"done": Done().to_dict(), "seconds": 0.0}
        begun = time.process_time() - state["seconds"]
        blocks = chain_of(model, select(model, method.select), self.judged["prose"][:1, :16])

        def keep(done: Done) -> None:
            checkpoint.save({"done": done.to_dict(), "seconds": time.process_time() - begun})

        parts = BlockByBlock(model, blocks, folder, torch.float32)
        done = parts.quantize(method, batches, Done.from_dict(state["done"]), keep)
        weights = sum(entry["size"] for entry in done.entries)
        bits = sum(entry["facts"]["bits"] for entry in done.entries)
        seconds = time.process_time() - begun
        return unpack(model.float()), {"weights": weights, "bits": bits, "seconds": seconds}

    def applied(self, spec: Arm) -> tuple[Any, dict[str, float]]:
        """The model after a method that is applied in memory, and tuning if there is any."""
        begun = time.process_time()
        if isinstance(spec.method, Ggml):
            file = self.file("importances.pt")
            if not file.is_file():
                seen = observe(self.intact(), self.calibration(OWN_AND_HELD_OUT), SELECT, [MeanSquare])
                torch.save({site: squares.value for site, (squares,) in seen.items()}, file)
            IMPORTANCES.update(torch.load(file))
        model: Any = hardy.zoo.load(self.folder)[0]
        batches = self.calibration(spec.data) if spec.data else None
        method: Any = spec.method
        if isinstance(method, Quantizer):
            method = dataclasses.replace(method, select=fitting(model, SELECT, method)[0])
        (row,) = method.apply(model, batches).report.select("bits_per_weight", ALL_SELECTED)
        if spec.tune:
            TunedScales(steps=spec.tune).apply(model, batches)
        weights = int(row.details["weights"] or 0)
        return model, {"weights": weights, "bits": row.value * weights, "seconds": time.process_time() - begun}

    def lines(self, arm: str, spec: Arm) -> list[dict[str, float]]:
        """What is measured of an arm, for each number of bits of embedding and head."""
        made: list[Any] = []

        def line(bits: int) -> dict[str, float]:
            if not made:
                gc.collect()  # the model of the arm before, which refers to itself
                block_by_block = isinstance(spec.method, Quantizer) and not spec.tune
                made.extend(self.quantized(arm, spec) if block_by_block else self.applied(spec))
            model, facts = made
            size = facts["bits"] + 16 * (self.weights - facts["weights"])
            grid = embedding_method(bits)
            if grid is None:
                found = self.measure(model)
            else:
                with dataclasses.replace(grid, select=self.tables).apply(model) as change:
                    table = next(iter(change.report.select("bits_per_weight", ALL_SELECTED)))
                    size -= (16 - table.value) * int(table.details["weights"] or 0)
                    found = self.measure(model)
            return found | {
                "embedding_bits": bits,
                "bits_per_weight": facts["bits"] / facts["weights"],
                "megabytes": size / 8e6,
                "bits_of_all": size / self.weights,
                "cpu_seconds_per_million": facts["seconds"] / facts["weights"] * 1e6,
            }

        return [self.kept(f"{arm}-{bits}-{self.tokens}", lambda bits=bits: line(bits)) for bits in spec.tables]


def _measured(bench: Bench, arms: Mapping[str, Arm]) -> list[Any]:
    name, tokens = bench.name, bench.tokens
    intact = bench.kept(f"unmodified-{tokens}", lambda: bench.measure(bench.intact()))
    print(f"\n{name}: unmodified {intact}", flush=True)
    details = {"model": name, "tokens_judged": tokens, "parameters": bench.weights}
    found = [*rows("unmodified", details, seeds=(0,), megabytes=2 * bench.weights / 1e6, bits_of_all=16.0, **intact)]
    for arm, spec in arms.items():
        for line in bench.lines(arm, spec):
            told = {
                "model": name,
                "calibration": spec.data or "none",
                "embedding_bits": int(line.pop("embedding_bits")),
            }
            print(f"{arm:44}" + "  ".join(f"{key} {value:.4g}" for key, value in line.items()), flush=True)
            found += rows(arm, told, seeds=(0,), **line)
    IMPORTANCES.clear()
    return found


@torch.inference_mode()
def _read(model: Any, windows: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Mean nats per token of (count, window), and the likeliest next token at each place."""
    nats, best = [], []
    for ids in windows.split(1):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nats.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"))
        best.append(logits.argmax(-1))
    return torch.cat(nats).double().mean().item(), torch.cat(best)
