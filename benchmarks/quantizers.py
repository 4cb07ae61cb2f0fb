"""Perplexity at true bits per weight: rounding, GPTQ, hqq, auto-round, PT2-LLM's rule, trit-planes.

Two trained models. tiny-llama (4.7 M parameters, groups of 128) is judged on its held-out evaluation modules and
calibrated on text it was trained on. stories260K (0.26 M parameters, groups of 32 and 64; where the data is there) is
judged on 40 stories that it wrote itself, sampled at temperature 1, and calibrated on others: the unmodified model is
then the best possible one. Calibration is drawn anew for every seed; mean and standard deviation over seeds. Methods
without data have no spread: nothing is drawn. auto-round, with its 200 steps of training for each layer, gets the first
seed's calibration and no other, and only tiny-llama, all of whose rows its groups divide.

    pip install -r benchmarks/requirements.txt && python -m benchmarks run quantizers
"""

import contextlib
import copy
import dataclasses
import importlib
import io
import math
import sys
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

import hardy
from benchmarks.harness import FOLDER, SHARED, Result, mean_of, rows
from hardy.core.method import ALL_SELECTED, Method, WeightLedger, WeightMethod
from hardy.core.selection import LINEAR, Site, select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.evaluate import batches, token_losses
from hardy.quant import (
    GPTQ,
    AbsmeanTrits,
    AsymmetricTrits,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    RoundToNearest,
    TritPlanes,
)
from hardy.report import Row
from hardy.zoo.text import training_documents

PEERS = ("hqq", "auto-round")
STORIES = SHARED / "lm"
SEEDS = (0, 1, 2)
KINDS = {
    "round to nearest": "RoundToNearest",
    "clipped rounding": "ClippedRoundToNearest",
    "GPTQ": "GPTQ",
    "hqq": "HQQ",
    "auto-round": "AutoRound",
    "absmean trits": "AbsmeanTrits",
    "PT2-LLM": "AsymmetricTrits",
    "trit-planes": "TritPlanes",
    "calibrated trit-planes": "CalibratedTritPlanes",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HQQ(WeightMethod):
    """The peer: half-quadratic quantization (hqq on PyPI), with its float16 scale and zero point per group."""

    bits: int
    group_size: int = 64

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        from hqq.core.quantize import Quantizer

        with contextlib.redirect_stdout(io.StringIO()):
            packed, meta = Quantizer.quantize(
                weight.clone(), nbits=self.bits, group_size=self.group_size, axis=1, device="cpu",
                compute_dtype=torch.float32,
            )  # fmt: skip
            meta = meta | {name: meta[name].half().float() for name in ("scale", "zero")}
            new = Quantizer.dequantize(packed, meta)
        return new.view(weight.shape), {"bits": self.bits * weight.numel() + 32 * meta["scale"].numel()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoRound(Method):
    """The peer: rounding trained by signed gradients (auto-round on PyPI), all settings its own but for the bits,
    groups and calibration; a float16 scale and a zero point of `bits` bits per group. `light` is its recipe of that
    name: a quarter of the steps, at a rate of 0.005.
    """

    bits: int
    group_size: int
    light: bool = False

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        import auto_round

        assert data is not None
        calibration = list(data)
        recipe: dict[str, Any] = {"iters": 50, "lr": 5e-3} if self.light else {}
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            tuner = auto_round.AutoRound(
                copy.deepcopy(model), tokenizer=types.SimpleNamespace(), bits=self.bits, group_size=self.group_size,
                sym=False, dataset=calibration, seqlen=calibration[0].shape[1], nsamples=sum(map(len, calibration)),
                device_map="cpu", enable_torch_compile=False, **recipe,
            )  # fmt: skip
            tuned = dict(tuner.quantize()[0].named_modules())
        ledger = WeightLedger(model, edits)
        for site in select(model, LINEAR):
            weight, module = ledger.read(site), tuned[site.module]
            bits = self.bits * weight.numel() + (16 + self.bits) * module.scale.numel()
            ledger.write(site, weight, module.weight.detach().float(), {"bits": bits})
        return ledger.rows()


def methods(group: int, small: int, peers: set[str]) -> list[Method]:
    """All of them: in groups of `group`, and those with codes also in groups of `small`, nearer to the planes' bits."""
    found: list[Method] = []
    for bits in (2, 3, 4):
        for size in (group, small):
            found += [RoundToNearest(bits=bits, group_size=size), ClippedRoundToNearest(bits=bits, group_size=size)]
            found += [GPTQ(bits=bits, group_size=size)]
        if "hqq" in peers:
            found += [HQQ(bits=bits, group_size=64)]
        if "auto-round" in peers and bits < 4:
            found += [AutoRound(bits=bits, group_size=group)]
    found += [AbsmeanTrits(group_size=group), AsymmetricTrits(group_size=group)]
    for planes in (1, 2, 3):
        found += [TritPlanes(planes=planes, group_size=group), CalibratedTritPlanes(planes=planes, group_size=group)]
    return [*found, ClippedRoundToNearest(bits=5, group_size=group), GPTQ(bits=5, group_size=group)]


@dataclasses.dataclass
class Subject:
    """A model, the windows it is judged on, and calibration batches for each seed."""

    model: PreTrainedModel
    judged: list[torch.Tensor]
    calibration: list[list[torch.Tensor]]
    group: int
    small: int

    def loss(self) -> float:
        return torch.cat([token_losses(self.model, ids, window=len(ids)) for ids in self.judged]).double().mean().item()


def tiny_llama() -> Subject:
    model, tokenizer = hardy.zoo.load("tiny-llama")
    judged = [ids[0] for ids in batches(tokenizer, hardy.zoo.held_out_text(), tokens=10240, batch_size=1)]
    training = "\n\n".join(training_documents()[0])
    third = len(training) // 3
    data = [batches(tokenizer, training[seed * third : (seed + 1) * third], tokens=16384) for seed in SEEDS]
    return Subject(model, judged, data, 128, 43)


def stories() -> Subject:
    sys.path[:0] = [str(FOLDER.parent / "tests"), str(FOLDER.parent / "tests" / "evaluate")]
    from reference.stories import read_checkpoint
    from test_stories260k import to_transformers

    model = to_transformers(read_checkpoint(STORIES / "stories260K.bin"))

    def written(seed: int, count: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            start = torch.ones(count, 1, dtype=torch.long)
            return model.generate(
                start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, min_new_tokens=255,
                max_new_tokens=255, pad_token_id=1,
            )  # fmt: skip

    with torch.inference_mode():
        judged = list(written(100, 40))
        data = [list(written(seed, 32).split(8)) for seed in SEEDS]
    return Subject(model, judged, data, 64, 32)


def measured(name: str, subject: Subject, peers: set[str]) -> list[Row]:
    found = []
    for method in methods(subject.group, subject.small, peers):
        seeds = SEEDS if hasattr(method, "damping") else SEEDS[:1]
        losses, bits = [], 0.0
        for seed in seeds:
            with method.apply(subject.model, subject.calibration[seed]) as change:
                bits = change.report.value("bits_per_weight", ALL_SELECTED)
                losses.append(subject.loss())
        kind = next(kind for kind, name in KINDS.items() if name == type(method).__name__)
        loss, fields = mean_of(losses, "nats/token"), vars(method)
        details = {"model": name, "kind": kind, "group_size": fields["group_size"], "bits_per_weight": bits}
        found.append(rows(str(method), details, seeds=seeds, loss=loss, perplexity=math.exp(loss.value)))
        spread = "" if loss.spread is None else f" ± {loss.spread:.4f}"
        print(f"{kind:24}{bits:6.3f}  {math.exp(loss.value):9.2f}  {loss.value:.4f}{spread}  {method}", flush=True)
    found.sort(key=lambda lines: lines[0].details["bits_per_weight"])
    return [row for lines in found for row in lines]


def run() -> Result:
    found, notes = [], []
    peers: set[str] = set()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for peer, module in (("hqq", "hqq.core.quantize"), ("auto-round", "auto_round")):
            try:
                importlib.import_module(module)
                peers.add(peer)
            except ImportError as error:
                notes.append(f"{peer}: not measured ({error})")
    for name, make in {"tiny-llama": tiny_llama, "stories260K": stories}.items():
        try:
            subject = make()
        except (InputError, FileNotFoundError) as error:
            notes.append(f"{name}: not measured ({error})")
            continue
        size, intact = sum(parameter.numel() for parameter in subject.model.parameters()), subject.loss()
        print(f"\n{name}: {size / 1e6:.2f} M parameters; unmodified perplexity {math.exp(intact):.3f}")
        details = {"model": name, "tokens_judged": sum(len(ids) - 1 for ids in subject.judged)}
        loss = mean_of([intact], "nats/token")
        found += rows("unmodified", details, loss=loss, perplexity=math.exp(intact), parameters=size)
        found += measured(name, subject, peers if name == "tiny-llama" else peers - {"auto-round"})
    print("\n".join(notes))
    return Result(rows=found, seeds=SEEDS, notes=notes)
