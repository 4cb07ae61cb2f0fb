"""The two ways to quantize a model: all of it in memory, and block by block with everything else left in its file."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hardy.artefacts.artefact import history, remember
from hardy.artefacts.packing import PackedLayer, packed_layers
from hardy.core.method import ALL_SELECTED, Method
from hardy.core.selection import select
from hardy.quant import ClippedRoundToNearest, Pack, RoundToNearest, TunedScales
from hardy.quant.block_by_block import BlockByBlock, Done, pack_tables
from hardy.quant.packed_embedding import tables
from hardy.quant.quantizer import Quantizer
from hardy.quant.transformers_hooks import quantizer_of
from hardy.quant.unpacking import PACKED
from hardy.reading import reading
from hardy.report import Row
from hardy.runs.checkpoint import Checkpoint
from hardy.studies.measure import loss_on

_log = logging.getLogger(__name__)

BEFORE, UNTUNED, STORED = "unmodified", "before tuning", "packed"


@dataclasses.dataclass
class Outcome:
    """What became of a model, which is packed now.

    Attributes:
        losses: mean cross-entropy in nats per token, by condition.
        rows: of the report, beside perplexities and sizes.
        calibration_tokens: how many the quantizer saw.
        dense: share of the quantized weights that have no packed layer.
    """

    losses: dict[str, float]
    rows: list[Row]
    calibration_tokens: int
    dense: float


def embedding_method(bits: int) -> RoundToNearest | None:
    """How embeddings and heads are stored in so many bits; None for 16, as they are."""
    if bits == 16:
        return None
    if bits == 8:
        return RoundToNearest(bits=8, group_size=None, symmetric=True)
    return ClippedRoundToNearest(bits=bits, group_size=32)


def in_memory(
    model: PreTrainedModel,
    method: Method,
    *,
    embedding: RoundToNearest | None,
    data: Sequence[torch.Tensor],
    judged: list[torch.Tensor],
    tuning: TunedScales | None,
    dtypes: Mapping[str, torch.dtype],
    work: torch.dtype,
) -> Outcome:
    """Quantize, tune and pack `model`, which is in memory in the dtype `work`; it has its `dtypes` afterwards."""
    losses = {BEFORE: loss_on(model, judged)}
    rows: list[Row] = []
    if embedding is not None:
        change = dataclasses.replace(embedding, select=_exactly(tables(model))).apply(model)
        rows += [row for row in change.report.rows if row.condition != ALL_SELECTED]
    rows = [*method.apply(model, data or None).report.rows, *rows]
    if tuning is not None:
        losses[UNTUNED] = loss_on(model, judged)
        rows += tuning.apply(model, data).report.rows
    packing = Pack().apply(model)
    cast(model, dtypes, work)  # a quantized weight without a packed layer is rounded: measure what is stored
    cast(model, {}, work)
    losses[STORED] = loss_on(model, judged)
    cast(model, dtypes, work)
    (totals,) = packing.report.select(condition=PACKED)
    dense, packed = (int(totals.details[name] or 0) for name in ("weights left dense", "weights"))
    tokens = sum(batch.numel() for batch in data)
    return Outcome(losses, [*packing.report.select("bits_per_weight", PACKED), *rows], tokens, dense / (dense + packed))


def by_block(
    model: PreTrainedModel,
    method: Quantizer,
    blocks: Sequence[str],
    *,
    embedding: RoundToNearest | None,
    calibrate: Callable[[], list[torch.Tensor]],
    judged: list[torch.Tensor],
    work: torch.dtype,
    kept: Path,
    identity: Mapping[str, Any],
) -> Outcome:
    """Quantize and pack `model`, whose weights may be pages of their file and stay so.

    Args:
        model: in its stored dtypes.
        blocks: of `hardy.quant.block_by_block.chain_of`.
        calibrate: gives the calibration batches; called unless an earlier run did.
        work: the dtype to compute in.
        kept: a folder for what is done; a run of the same `identity` goes on from there.
    """
    checkpoint = Checkpoint(kept / "state.safetensors", kind="quantization", identity=identity)
    state: dict[str, Any] = checkpoint.load() or {}
    with reading(checkpoint.path):
        begun = Done.from_dict(state["done"]) if state else Done()
        if state:
            state = {"data": list(state["data"]), "losses": {BEFORE: float(state["losses"][BEFORE])}}
    parts = BlockByBlock(model, blocks, kept, work)
    before = history(model)
    if state:
        _log.info("going on from %s: %d of %d blocks are done", kept, begun.at, len(blocks))
    else:
        state = {"data": calibrate()}
        state["losses"] = {BEFORE: parts.losses(judged, "measuring the unmodified model")}
        kept.mkdir(parents=True, exist_ok=True)
        checkpoint.save({**state, "done": begun.to_dict()})
    entries = [] if embedding is None else pack_tables(model, embedding)

    def keep(done: Done) -> None:
        checkpoint.save({**state, "done": done.to_dict()})

    modules = {site.name: site.module for site in select(model, method.select, layers=method.layers)}
    done = parts.quantize(method, state["data"], begun, keep)
    losses = {**state["losses"], STORED: parts.losses(judged, "measuring the packed model")}
    quantizer = quantizer_of(model)
    whole: Any = model
    whole.hf_quantizer, whole.config.quantization_config = quantizer, quantizer.quantization_config
    done_to_it: list[Method] = [*before, method, Pack()]
    if embedding is not None:
        done_to_it.insert(-2, dataclasses.replace(embedding, select=_exactly(entry["site"] for entry in entries)))
    methods = [each.to_dict() for each in done_to_it]
    remember(model, {"methods": methods, "base_sha256": identity["model_sha256"]})
    layers = packed_layers(model).values()
    size, bits = sum(layer.weights for layer in layers), sum(layer.bits for layer in layers)
    dense = sum(
        entry["size"]
        for entry in done.entries
        if not isinstance(model.get_submodule(modules[entry["site"]]), PackedLayer)
    )
    details = {"weights": size, "weights left dense": dense}
    rows = [Row(metric="bits_per_weight", condition=PACKED, value=bits / size, details=details), *done.rows()]
    if entries:
        rows += [row for row in Done(entries=entries).rows() if row.condition != ALL_SELECTED]
    return Outcome(losses, rows, sum(batch.numel() for batch in state["data"]), dense / (dense + size))


def _exactly(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns that name these modules alone."""
    return tuple(f"re:{re.escape(name)}" for name in names)


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype], other: torch.dtype = torch.float32) -> None:
    """Give each parameter its dtype in `dtypes`, by name, and `other` to the others; buffers stay as they are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtypes.get(name, other))
