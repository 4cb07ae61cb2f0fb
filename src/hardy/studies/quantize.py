"""Quantize a language model, say what it took and what it cost, and store it packed."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from hardy.core.artefact import check_destination, save
from hardy.core.method import ALL_SELECTED
from hardy.core.selection import Selector
from hardy.errors import InputError
from hardy.evaluate.language import batches, context_length
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
from hardy.studies.fragility import locate
from hardy.studies.measure import loss_on, perplexity_of, read_text, texts_of
from hardy.zoo.loading import find, load

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
    model: str,
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
    tokens: int = 3072,
    window: int | None = None,
    calibration_tokens: int = 32768,
) -> Report:
    """Quantize the layers of `model` and store the result, packed, in the folder `out`.

    Args:
        model: a zoo name, a Hugging Face folder or a hub id.
        out: a new folder, or an artefact of hardy, which is replaced once all is done.
        bits: a grid of so many bits; with a budget, two or more to choose from, layer by layer.
        planes: likewise, numbers of trit-planes. With a budget and neither, 2 and 4 bits.
        budget: the most bits per weight, scales counted.
        by: how layers are ranked for the budget, one of `hardy.studies.fragility.LOCATORS`; "effective-rank" is LieQ's,
            and measured worse (docs/locate.md).
        calibration: a UTF-8 file, or "held-out" for held-out standard-library modules; the quantizers then look at
            how the model treats it. Without, none needs data.
        text: a UTF-8 file, on whose second half perplexity is measured (its first ranks layers, unless there is a
            calibration file); by default held-out standard-library modules.
        group_size: weights that share scales; None for one group per output channel.
        select: which layers.
        tokens, window: how much text perplexity is measured on, and how much the model sees at once.
        calibration_tokens: the most that is used of the calibration text.

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
    loaded, tokenizer = load(model, dtype="auto")
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    cast(loaded, {})
    unpack(loaded)
    limit = context_length(loaded)
    window = window or min(limit or 512, 512)
    evaluation, _ = texts_of(text)
    judged = [ids[0] for ids in batches(tokenizer, evaluation, window=window, tokens=tokens, batch_size=1)]
    data = None
    if calibration is not None:
        words = texts_of(None)[1] if calibration == HELD_OUT else read_text(calibration)
        data = batches(tokenizer, words, window=window, tokens=calibration_tokens)
    if budget is None:
        method = steps[0].__class__(**{**vars(steps[0]), "select": select})
    else:
        with _doing(f"ranking layers by {by}"):
            source = calibration if calibration not in (None, HELD_OUT) else text
            ranking = locate(
                model, by=by, text=source, select=select, group_size=group_size, tokens=tokens, window=window
            )
        low, *between, high = steps
        method = LayerBits(budget=budget, low=low, between=tuple(between), high=high, ranking=ranking, select=select)
    with _doing("measuring the unmodified model"):
        losses = {BEFORE: loss_on(loaded, judged)}
    with _doing(f"quantizing with {type(method).__name__}"):
        change = method.apply(loaded, data)
    with _doing("measuring"):
        losses[DENSE] = loss_on(loaded, judged)
        packing = Pack().apply(loaded)
        cast(loaded, dtypes)  # a quantized weight without a packed layer is rounded: measure what is stored
        cast(loaded, {})
        losses[STORED] = loss_on(loaded, judged)
    cast(loaded, dtypes)
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
        "text": text or "held-out standard-library modules",
        "tokens": sum(len(ids) for ids in judged),
        "window": window,
    }

    def write_report(folder: Path) -> None:
        sizes = {BEFORE: _weights_on_disk(find(model)), STORED: _weights_on_disk(folder)}
        size = [Row(metric="size", condition=name, value=size / 1e6, unit="MB") for name, size in sizes.items()]
        packed = packing.report.select("bits_per_weight", PACKED)
        rows_of_all = (*rows, *size, *packed, *change.report.rows)
        Report(title=f"{model}, quantized", rows=rows_of_all, settings=settings).save(folder)

    return Report.load(save(loaded, out, tokenizer=tokenizer, extra=write_report))


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give each parameter its dtype in `dtypes`, by name, and float32 to the others; buffers stay as they are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtypes.get(name, torch.float32))


SUMMARY = (BEFORE, DENSE, STORED, PACKED, ALL_SELECTED)
"""The conditions that sum up; all others of the report are single layers."""


def _weights_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Show what is going on, in a terminal."""
    with Console(stderr=True).status(f"{what} ..."):
        yield
