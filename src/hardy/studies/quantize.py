"""Quantize a language model, say what it took and what it cost, and store it packed."""

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from hardy.core.artefact import check_destination, save
from hardy.core.locators import locator_named
from hardy.core.method import ALL_SELECTED
from hardy.core.selection import Selector
from hardy.errors import InputError
from hardy.evaluate.language import batches
from hardy.quant import (
    GPTQ,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    LayerBits,
    Pack,
    TritPlanes,
    unpack,
)
from hardy.quant.pack import PACKED
from hardy.quant.quantizer import Quantizer
from hardy.report import Report, Row
from hardy.studies.locating import locate
from hardy.studies.measure import loss_on, perplexity_of
from hardy.zoo.loading import dtype_of, find
from hardy.zoo.subject import HELD_OUT as HELD_OUT_MODULES
from hardy.zoo.subject import Source, Subject
from hardy.zoo.text import read_text, texts_of

_log = logging.getLogger(__name__)

HELD_OUT = "held-out"
"""In place of a calibration file: the held-out calibration modules of the standard library."""

BEFORE, DENSE, STORED = "unmodified", "quantized", "packed"


def levels(
    bits: tuple[int, ...], planes: tuple[int, ...], group_size: int | None, calibrated: bool
) -> tuple[Quantizer, ...]:
    """A quantizer for each of `bits`, or for each number of `planes`, from the fewest to the most.

    With calibration data GPTQ and calibrated trit-planes, without clipped rounding and trit-planes.

    Raises:
        InputError: bits and planes are both given or both missing, or out of range.
    """
    if bool(bits) == bool(planes):
        raise InputError(f"give either bits or planes, got bits {bits or 'none'} and planes {planes or 'none'}")
    if calibrated:
        rounding, trits = GPTQ, CalibratedTritPlanes
    else:
        rounding, trits = ClippedRoundToNearest, TritPlanes
    if bits:
        return tuple(rounding(bits=count, group_size=group_size) for count in sorted(bits))
    return tuple(trits(planes=count, group_size=group_size) for count in sorted(planes))


def quantize(
    model: Source,
    out: str | Path,
    *,
    bits: tuple[int, ...] = (),
    planes: tuple[int, ...] = (),
    budget: float | None = None,
    by: str = "perplexity-drop",
    calibration: str | None = None,
    text: str | None = None,
    group_size: int | None = 128,
    select: Selector = "linear,!head,!router",
    tokens: int | None = None,
    window: int | None = None,
    calibration_tokens: int = 32768,
    device: str | None = None,
    dtype: str | None = None,
) -> Report:
    """Quantize the layers of `model` and store the result, packed, in the folder `out`.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes: a name, folder, file or hub id, or (model, tokenizer).
            A model in memory stays as it is.
        out: a new folder, or an artefact of hardy, which is replaced once all is done.
        bits: a grid of so many bits; with a budget, two or more to choose from, layer by layer.
        planes: likewise, numbers of trit-planes. With a budget and neither, 2 and 4 bits.
        budget: the most bits per weight, scales counted.
        by: how layers are ranked for the budget, as in `hardy.locate`; "effective-rank" is LieQ's,
            and measured worse (docs/locate.md).
        calibration: a UTF-8 file, or "held-out" for held-out standard-library modules; the quantizers then look at
            how the model treats it. Without, none needs data.
        text: a UTF-8 file, on whose second half perplexity is measured (its first ranks layers, unless there is a
            calibration file); by default held-out standard-library modules.
        group_size: weights that share scales; None for one group per output channel.
        select: which layers.
        tokens, window, device: as in `hardy.zoo.Subject.of`.
        calibration_tokens: the most that is used of the calibration text.
        dtype: to compute in, float32 by default; what is not quantized is stored in the dtype that the source has.

    Returns:
        Perplexity before, after, and packed; true bits; relative error and groups that did not converge, layer by
        layer. The folder has it as report.html, .md and .json.

    Raises:
        InputError: any of these cannot be used; nothing is written then.
    """
    check_destination(out)
    if budget is not None and not bits and not planes:
        bits = (2, 4)
    steps = levels(bits, planes, group_size, calibration is not None)
    if (budget is None) != (len(steps) == 1):
        raise InputError(
            f"one kind of layer takes no budget, several need one: got {len(steps)} kinds and a budget of {budget}"
        )
    work: Any = dtype_of(dtype or "float32")
    named = isinstance(model, str | Path)
    run = {"text": text, "tokens": tokens, "window": window, "device": device, "dtype": "auto" if named else None}
    subject = Subject.of(model, **run)
    loaded, tokenizer, window = subject.model, subject.tokenizer, subject.window
    if not named:
        loaded = copy.deepcopy(loaded)
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    cast(loaded, {}, work)
    _log.info("computed in %s", str(work).removeprefix("torch."))
    unpack(loaded)
    subject = dataclasses.replace(subject, model=loaded)
    evaluation = texts_of(subject.text)["evaluation"]
    judged = [ids[0] for ids in batches(tokenizer, evaluation, window=window, tokens=subject.tokens, batch_size=1)]
    data = None
    if calibration is not None:
        words = texts_of(None)["calibration"] if calibration == HELD_OUT else read_text(calibration)
        found = batches(tokenizer, words, window=window, tokens=calibration_tokens)
        data = [batch.to(subject.device) for batch in found]
    if budget is None:
        method = steps[0].__class__(**{**vars(steps[0]), "select": select})
    else:
        with _doing(f"ranking layers by {by}"):
            source = calibration if calibration not in (None, HELD_OUT) else None
            options: dict[str, Any] = {"group_size": group_size} if "group_size" in locator_named(by).options else {}
            ranking = locate(subject, by=by, text=source, select=select, **options)
        low, *between, high = steps
        method = LayerBits(budget=budget, low=low, between=tuple(between), high=high, ranking=ranking, select=select)
    with _doing("measuring the unmodified model"):
        losses = {BEFORE: loss_on(loaded, judged)}
    with _doing(f"quantizing with {type(method).__name__}"):
        change = method.apply(loaded, data)
    with _doing("measuring"):
        losses[DENSE] = loss_on(loaded, judged)
        packing = Pack().apply(loaded)
        cast(loaded, dtypes, work)  # a quantized weight without a packed layer is rounded: measure what is stored
        cast(loaded, {}, work)
        losses[STORED] = loss_on(loaded, judged)
    cast(loaded, dtypes, work)
    rows = [
        Row(
            metric="perplexity",
            condition=condition,
            value=perplexity_of(loss),
            unit="",
            baseline=None if condition == BEFORE else BEFORE,
            details={"nats_per_token": loss},
        )
        for condition, loss in losses.items()
    ]
    settings = {
        "method": str(method) if budget is None else f"layer bits within {budget:g}, ranked by {by}",
        "levels": ", ".join(map(str, steps)),
        "calibration": calibration or "none",
        "text": subject.text or HELD_OUT_MODULES,
        "tokens": sum(len(ids) for ids in judged),
        "window": window,
        "dtype": str(work).removeprefix("torch."),
    }

    def write_report(folder: Path) -> None:
        before = _weights_on_disk(find(subject.name)) if named else subject.size
        sizes = {BEFORE: before, STORED: _weights_on_disk(folder)}
        size = [Row(metric="size", condition=name, value=size / 1e6, unit="MB") for name, size in sizes.items()]
        packed = packing.report.select("bits_per_weight", PACKED)
        rows_of_all = (*rows, *size, *packed, *change.report.rows)
        Report(title=f"{subject.name}, quantized", rows=rows_of_all, settings=settings).save(folder)

    return Report.load(save(loaded, out, tokenizer=tokenizer, extra=write_report))


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype], other: torch.dtype = torch.float32) -> None:
    """Give each parameter its dtype in `dtypes`, by name, and `other` to the others; buffers stay as they are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtypes.get(name, other))


SUMMARY = (BEFORE, DENSE, STORED, PACKED, ALL_SELECTED)
"""The conditions that sum up; all others of the report are single layers."""


def _weights_on_disk(folder: Path) -> int:
    files = [folder] if folder.is_file() else folder.glob("*.safetensors")
    return sum(path.stat().st_size for path in files)


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Show what is going on, in a terminal."""
    with Console(stderr=True).status(f"{what} ..."):
        yield
