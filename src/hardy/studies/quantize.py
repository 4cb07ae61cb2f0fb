"""Quantize a language model, say what it took and what it cost, and store it packed."""

import contextlib
import copy
import dataclasses
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from hardy import checks
from hardy.artefacts.artefact import check_destination, save
from hardy.artefacts.packing import PackedLayer
from hardy.core.locators import locator_named
from hardy.core.method import ALL_SELECTED
from hardy.core.selection import Selector
from hardy.core.selection import select as select_sites
from hardy.errors import InputError
from hardy.quant import (
    GPTQ,
    CalibratedTritPlanes,
    ClippedRoundToNearest,
    LayerBits,
    TritPlanes,
    TunedScales,
    unpack,
)
from hardy.quant.block_by_block import chain_of
from hardy.quant.calibrated import CalibratedQuantizer
from hardy.quant.fitting import fitting, weights_of
from hardy.quant.model_card import model_card
from hardy.quant.quantizer import Quantizer
from hardy.quant.unpacking import PACKED
from hardy.report import Report, Row
from hardy.studies.locating import locate
from hardy.studies.measure import perplexity_of
from hardy.studies.quantizing import BEFORE, STORED, UNTUNED, by_block, cast, embedding_method, in_memory
from hardy.zoo.calibration import HELD_OUT, OWN, calibration_batches, sources_of
from hardy.zoo.loading import dtype_of, find, outline, text_part
from hardy.zoo.subject import HELD_OUT as HELD_OUT_MODULES
from hardy.zoo.subject import Source, Subject
from hardy.zoo.text import read_text

_log = logging.getLogger(__name__)

SELECT = "linear,!head,!router"
"""What is quantized unless somebody says otherwise; of a model that sees as well, in its language model."""

CALIBRATION = f"{OWN},{HELD_OUT}"
"""What is calibrated on unless another text is named: half of it the model's own samples, for no kind of text alone."""

DAMPING = 0.1
"""Chosen on texts that no table is judged on; `benchmarks.damping` has what it gives on those."""

ROTATION = 128
"""As many inputs as share a scale by default."""

LOUD = 1.25
"""From so many times the perplexity on, it is said loudly."""

WHOLE = "whole file"
"""The condition of the bits that the file takes for each weight of the model, everything in it counted."""

SHARD = "500MB"
"""Of a model that is too large to be held while it is written."""


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
    select: Selector = SELECT,
    tokens: int | None = None,
    window: int | None = None,
    calibration_tokens: int = 8192,
    correction: float = 0.3,
    damping: float = DAMPING,
    rotation: int = ROTATION,
    tune: int = 0,
    embedding_bits: int = 8,
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
        select: which layers; by default all linear ones but the head, of a model that sees pictures as well those of
            its language model. Those that cannot be quantized, as with rows shorter than a group, stay as they are, and
            the report's notes say so.
        tokens, window, device: as in `hardy.zoo.Subject.of`.
        calibration_tokens: of calibration text, at most. Time grows with them; twice as many lose a little less.
        correction: share of what the layers before a layer do wrong that it makes up for, 0 to 1
            (`hardy.quant.calibrated.CalibratedQuantizer`); with a budget, none.
        damping: how little to trust the calibration text, 0 to 1: more keeps other kinds of text better
            (`hardy.quant.calibrated.CalibratedQuantizer`, whose own is 0.01, as is usual).
        rotation: inputs that a Hadamard matrix turns together, so that none sticks out, a power of two; 0 for none,
            which is what the papers' methods do, and the export to GGUF needs.
        tune: steps of `TunedScales`, after trit-planes: their scales and the norms are trained on the calibration text.
            Each takes about as long as reading 4,000 tokens, and needs memory for gradients; a hundred are worth it.
        embedding_bits: 8, 4, or 16 to leave them as they are: of the embedding, and of the head, which are most of a
            small model's file. One table where they are tied.
        dtype: to compute in, float32 by default; what is not quantized is stored in the dtype that the source has.

    A named model is quantized block by block, everything else left in its file, which takes little memory: unless there
    is a budget or tuning, another device, or its blocks hand over more than hidden states. A run that was stopped goes
    on where it was; until it is done its blocks are in a hidden folder beside `out`.

    Returns:
        Perplexity before and as packed; true bits; relative error and groups that did not converge, layer by
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
    trust: dict[str, Any] = {"damping": damping} | ({"correction": correction} if budget is None else {})
    steps = tuple(
        dataclasses.replace(step, rotation=rotation, **(trust if isinstance(step, CalibratedQuantizer) else {}))
        for step in steps
    )
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
    embedding = embedding_method(checks.one_of("embedding_bits", embedding_bits, (4, 8, 16)))
    named = isinstance(model, str | Path)
    plan = outline(model) if named else Subject.of(model).model  # what fits is known before any weight is read
    inside, outside = text_part(plan) if select == SELECT else "", ""
    if inside:
        whole = weights_of(plan, select)
        select = (SELECT, f"!re:(?!{re.escape(inside)}[.]).*")
        left = 1 - weights_of(plan, select) / whole
        outside = f"{left:.1%} of the weights of linear layers are not in {inside} and stay as they are"
    select, odd, share = fitting(plan, select, steps[0])
    if text is not None:
        read_text(text)
    run = {"text": text, "tokens": tokens, "window": window, "device": device, "dtype": "auto" if named else None}
    subject = Subject.of(model, **run)
    loaded, tokenizer, window = subject.model, subject.tokenizer, subject.window
    work: Any = subject.dtype if dtype == "auto" else dtype_of(dtype or "float32")
    _log.info("computed in %s; about %s", str(work).removeprefix("torch."), _estimate(
        weights_of(plan, select), sum(p.numel() for p in loaded.parameters()), steps,
        calibration_tokens if sources else 0, 2 * subject.tokens,
    ))  # fmt: skip
    notes = list(subject.notes)
    if outside:
        notes.append(f"{outside}; --select 'linear,!head' takes them too")
        _log.info(notes[-1])
    if odd:
        name, reason = next(iter(odd.items()))
        loudly = "THE MODEL HARDLY SHRINKS: " if share > 0.5 else ""
        told = f"{len(odd)} layers ({share:.1%} of the selected weights) stay as they are, as {name}: {reason}"
        notes.append(loudly + told)
        _log.warning(notes[-1])
    judged = subject.windows["evaluation"]
    before = _weights_on_disk(find(subject.name)) if named else subject.size
    count = sum(parameter.numel() for parameter in loaded.parameters())
    settings = {
        "method": f"layer bits within {budget:g}, ranked by {by}" if budget is not None else str(steps[0]),
        "levels": ", ".join(map(str, steps)),
        "embedding": "as it is" if embedding is None else str(embedding),
        "calibration": calibration,
        "tuning": str(tuning) if tune else "none",
        "text": subject.text or HELD_OUT_MODULES,
        "tokens": sum(len(ids) for ids in judged),
        "window": window,
        "dtype": str(work).removeprefix("torch."),
    }

    def calibrate() -> list[torch.Tensor]:
        if not sources:
            return []
        return calibration_batches(loaded, tokenizer, sources, window=window, tokens=calibration_tokens)

    method: Any = dataclasses.replace(steps[0], select=select)
    blocks: list[str] = []
    if named and budget is None and not tune and loaded.device.type == "cpu" and not _packed(loaded):
        blocks = chain_of(loaded, select_sites(loaded, select), judged[0][None])
    if blocks:
        kept = Path(out).with_name(f".{Path(out).name}.unfinished")
        identity = {
            **settings, "select": str(select), "calibration tokens": calibration_tokens, "model_sha256": subject.digest,
        }  # fmt: skip
        found = by_block(
            loaded, method, blocks, embedding=embedding, calibrate=calibrate, judged=judged, work=work, kept=kept,
            identity=identity,
        )  # fmt: skip
    else:
        kept = None
        if not named:
            loaded = copy.deepcopy(loaded)
        dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
        cast(loaded, {}, work)
        unpack(loaded)
        data = calibrate()
        if budget is not None:
            with _doing(f"ranking layers by {by}"):
                file = next((source for source in sources if source not in (OWN, HELD_OUT)), None)
                ranking = locate(dataclasses.replace(subject, model=loaded), by=by, text=file, select=select, **options)
            low, *between, high = steps
            method = LayerBits(
                budget=budget, low=low, between=tuple(between), high=high, ranking=ranking, select=select
            )
        with _doing(f"quantizing with {type(method).__name__}"):
            found = in_memory(
                loaded, method, embedding=embedding, data=data, judged=judged, tuning=tuning if tune else None,
                dtypes=dtypes, work=work,
            )  # fmt: skip
    settings["calibration tokens"] = found.calibration_tokens
    if found.dense:
        notes.append(f"{found.dense:.1%} of the quantized weights have no packed layer and stay dense")
        _log.warning(notes[-1])
    grown = perplexity_of(found.losses[STORED] - found.losses[BEFORE])
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
        for condition, loss in found.losses.items()
    ]

    def write_report(folder: Path) -> None:
        sizes = {BEFORE: before, STORED: _weights_on_disk(folder)}
        if sizes[STORED] > before:
            notes.append(f"THE FILE IS LARGER THAN ITS SOURCE: {sizes[STORED] / 1e6:.1f} MB, {before / 1e6:.1f} before")
            _log.warning(notes[-1])
        size = [Row(metric="size", condition=name, value=size / 1e6, unit="MB") for name, size in sizes.items()]
        whole = Row(metric="bits_per_weight", condition=WHOLE, value=8 * sizes[STORED] / count)
        title = f"{subject.name}, quantized"
        rows_of_all = (*rows, *size, whole, *found.rows)
        said = (
            f"{sizes[STORED] / 1e6:.1f} MB instead of {before / 1e6:.1f}, {whole.value:.2f} bits for each weight; "
            f"perplexity {perplexity_of(found.losses[STORED]):.4g}, {grown:.2f} times the unmodified model's."
        )
        report = Report(title=title, summary=(said,), rows=rows_of_all, settings=settings, notes=tuple(notes))
        report.save(folder)
        for file in sorted(Path(subject.name).glob("*processor_config.json")):  # of what makes numbers of pictures
            shutil.copy(file, folder)
        card = model_card(report, folder, name=Path(out).name, base=subject.name, sees=bool(text_part(loaded)))
        (folder / "README.md").write_text(card, encoding="utf-8")

    stored = save(loaded, out, tokenizer=tokenizer, extra=write_report, shard_size=SHARD if blocks else None)
    if kept is not None:
        shutil.rmtree(kept)
    return Report.load(stored)


def _advice(steps: tuple[Quantizer, ...], calibrated: bool) -> str:
    """What to try where too much was lost."""
    if not calibrated:
        return f"; without --calibration none it is calibrated on {CALIBRATION}, which loses far less"
    more = "more bits" if hasattr(steps[-1], "bits") else "more planes"
    return f"; try {more}, smaller groups, or a calibration text like the one it is for"


# CPU-seconds of one core for a million weights, as the command takes them of published models; a forward's share of the
# speed of one product; how many times the blocks are run on the calibration text, products of inputs included.
_SECONDS = {"GPTQ": 1.0, "CalibratedTritPlanes": 1.3, "TritPlanes": 0.1, "ClippedRoundToNearest": 0.1}
_FORWARD, _PASSES = 0.5, 4


def _estimate(
    weights: int, parameters: int, steps: tuple[Quantizer, ...], calibration_tokens: int, judged_tokens: int
) -> str:
    """ "4 minutes", from the best speed of a product of matrices: no more than a first idea."""
    square, times = torch.ones(1024, 1024), []
    for _ in range(4):
        begun = time.perf_counter()
        torch.mm(square, square)
        times.append(time.perf_counter() - begun)
    speed = _FORWARD * 2 * 1024**3 / min(times)
    whole = parameters * (judged_tokens + calibration_tokens)  # what is judged, and what the model writes
    seconds = 2 * (whole + _PASSES * weights * calibration_tokens) / speed
    seconds += max(_SECONDS.get(type(step).__name__, 0.5) for step in steps) * weights / 1e6 / torch.get_num_threads()
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"


SUMMARY = (BEFORE, UNTUNED, STORED, WHOLE, PACKED, ALL_SELECTED)
"""The conditions that sum up; all others of the report are single layers."""


def _packed(model: nn.Module) -> bool:
    return any(isinstance(layer, PackedLayer) for layer in model.modules())


def _weights_on_disk(folder: Path) -> int:
    files = [folder] if folder.is_file() else folder.glob("*.safetensors")
    return sum(path.stat().st_size for path in files)


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Show what is going on, in a terminal."""
    with Console(stderr=True).status(f"{what} ..."):
        yield
