"""One cell of a study on a language model: apply a method, measure the loss on windows of text, take it back."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hardy.analog.layers import clipping, stored_weights
from hardy.core.artefact import state_hash
from hardy.core.method import ALL_SELECTED, from_dict
from hardy.errors import InputError
from hardy.evaluate.language import context_length, encode, token_losses
from hardy.quant import unpack
from hardy.zoo import held_out_text, load

INTACT = "unmodified"
"""Name of the condition in which nothing is done to the model."""

PARTS = ("evaluation", "calibration")
"""Figures are reported on the first; whatever is chosen by looking is chosen on the second."""


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file.

    Raises:
        InputError: it is missing, a folder, unreadable, empty, or not UTF-8 text.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"text file {path} does not exist") from None
    except OSError as error:
        raise InputError(f"text file {path} cannot be read: {error.strerror}") from None
    if not raw.strip():
        raise InputError(f"text file {path} is empty")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"text file {path} is not UTF-8: byte {raw[error.start]:#04x} at {error.start}") from None
    if "\0" in text:
        raise InputError(f"text file {path} is binary: it holds a NUL byte at {raw.index(0)}")
    return text


def settings_for(model: str, text: str | None, tokens: int, window: int | None) -> dict[str, Any]:
    """Everything that identifies a measurement, as plain data; reads model and text once to check them.

    Args:
        model: what `hardy.zoo.load` takes.
        text: a UTF-8 file, or None for the held-out modules of the standard library. A file's first half is for
            calibration and its second for evaluation.
        tokens: measured on at most so many tokens of each part, in windows spread evenly over it.
        window: tokens per window; by default the model's context, at most 512.

    Raises:
        InputError: model or text cannot be used, or the text is shorter than one window.
    """
    loaded, tokenizer = load_dense(model)
    limit = context_length(loaded)
    window = window or min(limit or 512, 512)
    if not 2 <= window <= (limit or window):
        raise InputError(f"window must be in 2..{limit} (the context of {model}), got {window}")
    if tokens < window:
        raise InputError(f"tokens must be at least one window of {window}, got {tokens}")
    parts = texts_of(text)
    count = len(encode(tokenizer, "".join(parts)))
    if count < window:
        raise InputError(
            f"text {text} has {count} tokens, less than one window of {window}; give more, or a smaller window"
        )
    return {
        "model": model,
        "model_sha256": state_hash(loaded),
        "text": text or "held-out standard-library modules",
        "text_sha256": hashlib.sha256("\0".join(parts).encode()).hexdigest(),
        "tokens": tokens,
        "window": window,
        "torch": torch.__version__,
    }


def measure(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Mean cross-entropy per token ("loss", nats) under the method that `arguments` describes.

    Args:
        settings: of `settings_for`.
        arguments: "part" of the text, and "method" (a `Method.to_dict`) or None for the unmodified model. A method
            that takes data is given the windows of the calibration text.
        seed: takes the place of the method's `seed`, if it has one.

    Returns:
        "loss", and what the method reports on all selected weights ("bits_per_weight", "relative_error").
    """
    model, windows = loaded(settings)
    if arguments["method"] is None:
        return {"loss": loss_on(model, windows[arguments["part"]])}
    record = arguments["method"]
    if "seed" in record["fields"]:
        record = {**record, "fields": {**record["fields"], "seed": seed}}
    calibration = [ids[None] for ids in windows["calibration"]]
    with from_dict(record).apply(model, calibration) as change:
        facts = {row.metric: row.value for row in change.report.select(condition=ALL_SELECTED)}
        loss = loss_on(model, windows[arguments["part"]])
        return {"loss": loss, **facts, **_clipped(model)}


def _clipped(model: PreTrainedModel) -> dict[str, float]:
    """Shares of conversions beyond the range, over all layers and for each, if the model is on a chip."""
    if not any(True for _ in stored_weights(model)):
        return {}
    rows = clipping(model).rows
    return {row.metric if row.condition == ALL_SELECTED else f"{row.metric} {row.condition}": row.value for row in rows}


def loaded(settings: Mapping[str, Any]) -> tuple[PreTrainedModel, dict[str, list[torch.Tensor]]]:
    """The model, with dense weights, and the windows of both parts of the text; once per process."""
    return _loaded(json.dumps(dict(settings)))


def windows_of(settings: Mapping[str, Any], part: str) -> list[torch.Tensor]:
    """The windows of a `part` of the text that `settings` of `settings_for` describe, each (window,) token ids."""
    return loaded(settings)[1][part]


def load_dense(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `hardy.zoo.load`; a model of packed layers gets dense weights of the same values, to be worked on."""
    model, tokenizer = load(name)
    unpack(model)
    return model, tokenizer


def perplexity_of(loss: float) -> float:
    """exp of a loss in nats; infinite beyond the range of float64."""
    return math.exp(loss) if loss < 700 else math.inf


def loss_on(model: PreTrainedModel, windows: list[torch.Tensor]) -> float:
    """Mean cross-entropy in nats per token, over all tokens of all windows but the first of each."""
    losses = torch.cat([token_losses(model, ids, window=len(ids)) for ids in windows])
    return losses.double().mean().item()


@functools.lru_cache(maxsize=1)
def _loaded(settings_json: str) -> tuple[PreTrainedModel, dict[str, list[torch.Tensor]]]:
    """The model and the windows of both parts, once per process."""
    settings = json.loads(settings_json)
    text = None if settings["text"] == "held-out standard-library modules" else settings["text"]
    parts = texts_of(text)
    if hashlib.sha256("\0".join(parts).encode()).hexdigest() != settings["text_sha256"]:
        raise InputError(f"text {settings['text']} has changed since the study began")
    model, tokenizer = load_dense(settings["model"])
    begin = None if tokenizer.bos_token_id is None else encode(tokenizer, parts[0])[:1]
    windows = {
        part: _spread_windows(encode(tokenizer, words), settings["window"], settings["tokens"], begin)
        for part, words in zip(PARTS, parts, strict=True)
    }
    return model, windows


def texts_of(path: str | None) -> tuple[str, str]:
    """Evaluation and calibration text."""
    if path is None:
        evaluation, calibration = (held_out_text(part) for part in PARTS)
        return evaluation, calibration
    text = read_text(path)
    middle = len(text) // 2
    return text[middle:], text[:middle]


def _spread_windows(ids: torch.Tensor, window: int, tokens: int, begin: torch.Tensor | None) -> list[torch.Tensor]:
    """At most `tokens` of `ids` in windows spread evenly over it; each starts with the token `begin`, if any."""
    head = ids[:0] if begin is None else begin
    ids = ids[len(head) :]
    body = window - len(head)
    count = max(1, min(tokens, len(ids)) // window)
    starts = [round(i * max(0, len(ids) - body) / max(1, count - 1)) for i in range(count)]
    return [torch.cat([head, ids[start : start + body]]) for start in starts]
