"""Quantize a language model, say what it took and what it cost, and store it packed."""

import contextlib
import copy
import dataclasses
import logging
import time
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
from hardy.quant import (
    GPTQ,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    LayerBits,
    Pack,
    TritPlanes,
    TunedScales,
    unpack,
)
from hardy.quant.fitting import fitting, weights_of
from hardy.quant.model_card import model_card
from hardy.quant.pack import PACKED
from hardy.quant.quantizer import Quantizer
from hardy.report import Report, Row
from hardy.studies.locating import locate
from hardy.studies.measure import loss_on, perplexity_of
from hardy.zoo.calibration import HELD_OUT, OWN, calibration_batches, sources_of
from hardy.zoo.loading import dtype_of, find, outline
from hardy.zoo.subject import HELD_OUT as HELD_OUT_MODULES
from hardy.zoo.subject import Source, Subject
from hardy.zoo.text import read_text

_log = logging.getLogger(__name__)

CALIBRATION = f"{OWN},{HELD_OUT}"
"""What is calibrated on unless another text is named: half of it the model's own samples, for no kind of text alone."""

LOUD = 1.25
"""From so many times the perplexity on, it is said loudly."""

BEFORE, UNTUNED, DENSE, STORED = "unmodified", "before tuning", "quantized", "packed"


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
    calibration: str = CALIBRATION,
    text: str | None = None,
    group_size: int | None = 128,
    select: Selector = "linear,!head,!router",
    tokens: int | None = None,
    window: int | None = None,
    calibration_tokens: int = 16384,
    tune: int = 0,
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
        calibration: what the quantizers look at how the model treats: "own" for what it writes itself, "held-out" for
            held-out standard-library modules, a UTF-8 file, or several of them in equal parts with commas between
            them; "none" for the methods that need no data (plain trit-planes, the paper's).
        text: a UTF-8 file, on whose second half perplexity is measured (its first ranks layers, unless a file is
            calibrated on); by default held-out standard-library modules.
        group_size: weights that share scales; None for one group per output channel.
        select: which layers. Those that cannot be quantized, as with rows shorter than a group, stay as they are, and
            the report's notes say so.
        tokens, window, device: as in `hardy.zoo.Subject.of`.
        calibration_tokens: of calibration text, at most; more were measured to help little.
        tune: steps of `TunedScales`, after trit-planes: their scales and the norms are trained on the calibration text.
            Each takes about as long as reading 4,000 tokens, and needs memory for gradients; a hundred are worth it.
        dtype: to compute in, float32 by default; what is not quantized is stored in the dtype that the source has.

    Returns:
        Perplexity before, after, and packed; true bits; relative error and groups that did not converge, layer by
        layer. Notes say what stays dense, and where perplexity or the file's size are not what one hopes for. The
        folder has it as report.html, .md and .json, and README.md is a model card.

    Raises:
        InputError: any of these cannot be used; nothing is written then.
    """
    check_destination(out)
    sources = sources_of(calibration)
    if budget is not None and not bits and not planes:
        bits = (2, 4)
    steps = levels(bits, planes, group_size, bool(sources))
    if (budget is None) != (len(steps) == 1):
        raise InputError(
            f"one kind of layer takes no budget, several need one: got {len(steps)} kinds and a budget of {budget}"
        )
    tuning = TunedScales(steps=tune)
    if tune and not (planes and sources):
        raise InputError("tune trains the scales of trit-planes on calibration text: give planes, and not none of it")
    options: dict[str, Any] = {}
    if budget is not None and "group_size" in locator_named(by).options:
        options = {"group_size": group_size}
    work: Any = dtype_of(dtype or "float32")
    named = isinstance(model, str | Path)
    plan = outline(model) if named else Subject.of(model).model  # what fits is known before any weight is read
    select, odd, share = fitting(plan, select, steps[0])
    if text is not None:
        read_text(text)
    run = {"text": text, "tokens": tokens, "window": window, "device": device, "dtype": "auto" if named else None}
    subject = Subject.of(model, **run)
    loaded, tokenizer, window = subject.model, subject.tokenizer, subject.window
    if not named:
        loaded = copy.deepcopy(loaded)
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    cast(loaded, {}, work)
    unpack(loaded)
    _log.info("computed in %s; about %s", str(work).removeprefix("torch."), _estimate(
        weights_of(plan, select), sum(p.numel() for p in loaded.parameters()), steps,
        calibration_tokens if sources else 0, 3 * subject.tokens,
    ))  # fmt: skip
    notes = list(subject.notes)
    if odd:
        name, reason = next(iter(odd.items()))
        notes.append(f"{len(odd)} layers ({share:.1%} of the selected weights) stay as they are, as {name}: {reason}")
        _log.warning(notes[-1])
    subject = dataclasses.replace(subject, model=loaded)
    judged = subject.windows["evaluation"]
    data = None
    if sources:
        data = calibration_batches(loaded, tokenizer, sources, window=window, tokens=calibration_tokens)
    if budget is None:
        method = steps[0].__class__(**{**vars(steps[0]), "select": select})
    else:
        with _doing(f"ranking layers by {by}"):
            file = next((source for source in sources if source not in (OWN, HELD_OUT)), None)
            ranking = locate(subject, by=by, text=file, select=select, **options)
        low, *between, high = steps
        method = LayerBits(budget=budget, low=low, between=tuple(between), high=high, ranking=ranking, select=select)
    with _doing("measuring the unmodified model"):
        losses = {BEFORE: loss_on(loaded, judged)}
    with _doing(f"quantizing with {type(method).__name__}"):
        change = method.apply(loaded, data)
    tuned = ()
    if tune:
        losses[UNTUNED] = loss_on(loaded, judged)
        tuned = tuning.apply(loaded, data).report.rows
    with _doing("measuring"):
        losses[DENSE] = loss_on(loaded, judged)
        packing = Pack().apply(loaded)
        cast(loaded, dtypes, work)  # a quantized weight without a packed layer is rounded: measure what is stored
        cast(loaded, {}, work)
        losses[STORED] = loss_on(loaded, judged)
    cast(loaded, dtypes, work)
    (totals,) = packing.report.select(condition=PACKED)
    if dense := int(totals.details["weights left dense"] or 0):
        share = dense / (dense + int(totals.details["weights"] or 0))
        notes.append(f"{share:.1%} of the quantized weights have no packed layer and stay dense")
        _log.warning(notes[-1])
    grown = perplexity_of(losses[STORED] - losses[BEFORE])
    if grown > LOUD:
        notes.append(f"PERPLEXITY IS {grown:.2f} TIMES THAT OF THE UNMODIFIED MODEL{_advice(steps, bool(sources))}")
        _log.warning(notes[-1])
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
        "calibration": calibration,
        "tuning": str(tuning) if tune else "none",
        "calibration tokens": 0 if data is None else sum(batch.numel() for batch in data),
        "text": subject.text or HELD_OUT_MODULES,
        "tokens": sum(len(ids) for ids in judged),
        "window": window,
        "dtype": str(work).removeprefix("torch."),
    }

    def write_report(folder: Path) -> None:
        before = _weights_on_disk(find(subject.name)) if named else subject.size
        sizes = {BEFORE: before, STORED: _weights_on_disk(folder)}
        if sizes[STORED] > before:
            notes.append(f"THE FILE IS LARGER THAN ITS SOURCE: {sizes[STORED] / 1e6:.1f} MB, {before / 1e6:.1f} before")
            _log.warning(notes[-1])
        size = [Row(metric="size", condition=name, value=size / 1e6, unit="MB") for name, size in sizes.items()]
        packed = packing.report.select("bits_per_weight", PACKED)
        rows_of_all = (*rows, *size, *packed, *change.report.rows, *tuned)
        title = f"{subject.name}, quantized"
        report = Report(title=title, rows=rows_of_all, settings=settings, notes=tuple(notes))
        report.save(folder)
        card = model_card(report, folder, name=Path(out).name, base=subject.name)
        (folder / "README.md").write_text(card, encoding="utf-8")

    return Report.load(save(loaded, out, tokenizer=tokenizer, extra=write_report))


def _advice(steps: tuple[Quantizer, ...], calibrated: bool) -> str:
    """What to try where too much was lost."""
    if not calibrated:
        return f"; without --calibration none it is calibrated on {CALIBRATION}, which loses far less"
    more = "more bits" if hasattr(steps[-1], "bits") else "more planes"
    return f"; try {more}, smaller groups, or a calibration text like the one it is for"


# CPU-seconds of one core for a million weights, measured on 576 x 1536; share of a product's speed that a forward has.
_SECONDS = {"GPTQ": 0.6, "CalibratedTritPlanes": 0.9, "TritPlanes": 0.4, "ClippedRoundToNearest": 0.1}
_FORWARD = 0.5


def _estimate(
    weights: int, parameters: int, steps: tuple[Quantizer, ...], calibration_tokens: int, judged_tokens: int
) -> str:
    """ "4 minutes", from the speed of one product of matrices: no more than a first idea."""
    square = torch.ones(1024, 1024)
    torch.mm(square, square)
    begun = time.perf_counter()
    torch.mm(square, square)
    speed = _FORWARD * 2 * 1024**3 / (time.perf_counter() - begun)
    forwards = judged_tokens + 5 * calibration_tokens  # each block twice and its Gram matrices; what the model writes
    seconds = 2 * parameters * forwards / speed
    seconds += max(_SECONDS.get(type(step).__name__, 0.5) for step in steps) * weights / 1e6 / torch.get_num_threads()
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype], other: torch.dtype = torch.float32) -> None:
    """Give each parameter its dtype in `dtypes`, by name, and `other` to the others; buffers stay as they are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtypes.get(name, other))


SUMMARY = (BEFORE, UNTUNED, DENSE, STORED, PACKED, ALL_SELECTED)
"""The conditions that sum up; all others of the report are single layers."""


def _weights_on_disk(folder: Path) -> int:
    files = [folder] if folder.is_file() else folder.glob("*.safetensors")
    return sum(path.stat().st_size for path in files)


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Show what is going on, in a terminal."""
    with Console(stderr=True).status(f"{what} ..."):
        yield
