"""What studies, locators and commands are about: one language model with the text it is measured on, loaded once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hardy.artefacts.artefact import state_hash
from hardy.artefacts.packing import PackedLayer
from hardy.devices import device_of
from hardy.errors import InputError
from hardy.evaluate.language import context_length, encode
from hardy.zoo.loading import dtype_of, load, names, stored_dtype
from hardy.zoo.text import PARTS, texts_of

TOKENS, WINDOW = 3072, 512
_log = logging.getLogger(__name__)
HELD_OUT = "held-out standard-library modules"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A language model, its tokenizer, and how much of which text it is measured on. `Subject.of` makes one.

    Attributes:
        name: what reports call it: the zoo name, folder, file or hub id, or the class of a model in memory.
        model: in evaluation mode.
        tokenizer: the model's.
        text: a UTF-8 file, or None for the held-out modules of the standard library. A file's first half is for
            calibration and its second for evaluation.
        tokens: measured on at most so many tokens of each part, in windows spread evenly over it.
        window: tokens per window.
        notes: what was done to the model that a reader of the figures should know.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    text: str | None = None
    tokens: int = TOKENS
    window: int = WINDOW
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limit = context_length(self.model)
        if not 2 <= self.window <= (limit or self.window):
            raise InputError(f"window must be in 2..{limit} (the context of {self.name}), got {self.window}")
        if self.tokens < self.window:
            raise InputError(f"tokens must be at least one window of {self.window}, got {self.tokens}")

    @classmethod
    def of(
        cls,
        source: Source,
        *,
        text: str | Path | None = None,
        tokens: int | None = None,
        window: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Subject:
        """The subject that `source` names or is.

        Args:
            source: a zoo name, a Hugging Face folder, a GGUF file, an artefact of hardy or a hub id, which are loaded;
                or a model and its tokenizer in memory, which are used as they are; or a subject, which is given again,
                with the text, tokens and window named here.
            text: a UTF-8 file; by default held-out standard-library modules.
            tokens: of text per measurement, 3072 by default.
            window: tokens the model sees at once; by default its context, at most 512.
            device: of a model that is loaded, by default a GPU if there is one (`hardy.devices.device_of`).
            dtype: of a model that is loaded, float32 by default; "auto" for the stored one. Computing in bfloat16
                rounds a loss by about 0.002 nats per token, as much as some layers are worth under noise.

        Raises:
            InputError: the model, the device or the dtype cannot be used, or window or tokens is out of range; or a
                device or dtype other than its own is asked for a model in memory.
        """
        path = None if text is None else str(text)
        if isinstance(source, Subject):
            source._stays(device, dtype)
            given = {"text": path, "tokens": tokens, "window": window}
            return dataclasses.replace(source, **{name: value for name, value in given.items() if value is not None})  # pyright: ignore[reportArgumentType]
        if isinstance(source, tuple):
            model, tokenizer = _pair(source)
            name = type(model).__name__
        else:
            name = str(source)
            model, tokenizer = load(name, dtype=dtype or torch.float32, device=device or "auto")
        window = window or min(context_length(model) or WINDOW, WINDOW)
        subject = cls(
            name=name, model=model, tokenizer=tokenizer, text=path, tokens=TOKENS if tokens is None else tokens,
            window=window,
        )  # fmt: skip
        if isinstance(source, tuple):
            subject._stays(device, dtype)
        threads = torch.get_num_threads()
        _log.info("%s, %d thread%s", subject, threads, "s" * (threads > 1))
        stored = None if isinstance(source, tuple) or name in names() else stored_dtype(name)
        if dtype is None and stored not in (None, subject.dtype):
            kind = str(stored).removeprefix("torch.")
            _log.info("it is stored in %s; dtype auto keeps that, in less memory and to fewer digits", kind)
        return subject

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights, where it has several of the first floating-point one."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def digest(self) -> str:
        """sha256 of all weights, as they are now."""
        return state_hash(self.model)

    @property
    def size(self) -> int:
        """Bytes of all parameters and buffers, those that are shared counted once."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in tensors}.values())

    @property
    def activations(self) -> int:
        """Bytes that reading one window takes, about: the logits, at most in full precision, and as much beside."""
        vocabulary = self.model.config.get_text_config().vocab_size
        return 2 * 4 * self.window * vocabulary

    @property
    def windows(self) -> dict[str, list[torch.Tensor]]:
        """The windows of each part of the text, "evaluation" and "calibration", each (window,) token ids.

        Raises:
            InputError: the text cannot be read, is shorter than one window, or has tokens that the model does not.
        """
        return self._read[1]

    def batches(self, part: str) -> list[torch.Tensor]:
        """The windows of a part of the text as batches (1, window) on the model's device."""
        return [ids[None].to(self.device) for ids in self.windows[part]]

    def settings(self) -> dict[str, Any]:
        """Everything that identifies measurements of this subject, as plain data.

        Raises:
            InputError: as `windows`.
        """
        return {
            "model": self.name,
            "model_sha256": self.digest,
            "text": self.text or HELD_OUT,
            "text_sha256": self._read[0],
            "tokens": self.tokens,
            "window": self.window,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "torch": torch.__version__,
        }

    def __str__(self) -> str:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        layers = [layer for layer in self.model.modules() if isinstance(layer, PackedLayer) and not layer.tied_to]
        packed = sum(layer.weights for layer in layers)
        few = f", {packed / 1e6:,.1f} M of them in few bits" if packed else ""
        kind = f"{str(self.dtype).removeprefix('torch.')} ({self.size / 1e6:,.0f} MB)"
        return f"{self.name}: {(count + packed) / 1e6:,.1f} M parameters{few}, {kind}, {self.device}"

    @functools.cached_property
    def _read(self) -> tuple[str, dict[str, list[torch.Tensor]]]:
        """sha256 of the text, and its windows."""
        parts = texts_of(self.text)
        ids = {part: encode(self.tokenizer, text) for part, text in parts.items()}
        known = getattr(self.model.get_input_embeddings(), "num_embeddings", None)
        largest = max(int(tokens.max()) for tokens in ids.values())
        if known is not None and largest >= known:
            raise InputError(
                f"{self.name}: its tokenizer gives token {largest:,} of the text, and its embedding has {known:,} "
                "rows: they are not of one model"
            )
        count = sum(map(len, ids.values()))
        if count < self.window:
            raise InputError(
                f"text {self.text} has {count} tokens, less than one window of {self.window}; give more, or a smaller "
                "window"
            )
        start = self.tokenizer.bos_token_id
        begin = None if start is None else torch.tensor([start])
        windows = {part: spread_windows(ids[part], self.window, self.tokens, begin) for part in PARTS}
        return hashlib.sha256("\0".join(parts.values()).encode()).hexdigest(), windows

    def _stays(self, device: torch.device | str | None, dtype: torch.dtype | str | None) -> None:
        """Refuse a device or dtype other than the model's own: what is in memory is its owner's."""
        if dtype not in (None, "auto") and dtype_of(dtype) != self.dtype:  # pyright: ignore[reportArgumentType]
            raise InputError(f"{self.name} is in memory in {self.dtype}; cast it yourself, or load it in {dtype}")
        if device is not None and device_of(device).type != self.device.type:
            raise InputError(f"{self.name} is in memory on {self.device}; move it yourself, or load it on {device}")


Source: TypeAlias = str | Path | tuple[nn.Module, PreTrainedTokenizerBase] | Subject
"""What makes a `Subject`: a name, folder, file or hub id, a model and its tokenizer, or a subject."""


def _pair(source: tuple[Any, ...]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if len(source) != 2 or not isinstance(source[0], nn.Module) or not callable(source[1]):
        kinds = ", ".join(type(item).__name__ for item in source)
        raise InputError(f"a model in memory is given as (model, tokenizer), got ({kinds})")
    model: Any = source[0]
    if not hasattr(model, "config"):
        raise InputError(f"{type(model).__name__} has no config; a subject is a Hugging Face causal language model")
    if model.training:
        raise InputError(f"{type(model).__name__} is in training mode; measure it after model.eval()")
    tokenizer: Any = source[1]
    return model, tokenizer


def spread_windows(ids: torch.Tensor, window: int, tokens: int, begin: torch.Tensor | None) -> list[torch.Tensor]:
    """At most `tokens` of `ids` in windows spread evenly over it; each starts with the token `begin`, if any."""
    head = ids[:0] if begin is None else begin
    ids = ids[len(head) :]
    body = window - len(head)
    count = max(1, min(tokens, len(ids)) // window)
    starts = [round(i * max(0, len(ids) - body) / max(1, count - 1)) for i in range(count)]
    return [torch.cat([head, ids[start : start + body]]) for start in starts]
