"""Perplexity and bits per byte of any Hugging Face causal language model, with and without a sliding window."""

import math

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hardy.errors import InputError
from hardy.evaluate.loss import next_token_losses


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The token ids of `text`, (tokens,) int64: after the beginning-of-sequence token if the tokenizer has one.

    Raises:
        InputError: `text` is empty.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False, return_attention_mask=False)["input_ids"]
    if not ids:
        raise InputError("the text is empty")
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return torch.tensor([*start, *ids], dtype=torch.long)


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens the model was made for, or None if its configuration sets no limit."""
    config = model.config.get_text_config()
    return next((n for key in ("max_position_embeddings", "n_positions") if (n := getattr(config, key, None))), None)


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Cut positions 0..length into windows `(begin, end, first)`: the tokens `first..end` are predicted in it.

    Every token but the very first one is predicted exactly once; with `stride < window` each has at least
    `window - stride` tokens of context (as far as the text goes back).
    """
    if window < 2:
        raise InputError(f"window must be at least 2 tokens, got {window}")
    if not 1 <= stride < window:
        raise InputError(f"stride must be in 1..{window - 1} (window - 1 means no overlap), got {stride}")
    cuts, first = [], 1
    while first < length:
        end = min(length, window if first == 1 else first + stride)
        cuts.append((max(0, end - window), end, first))
        first = end
    return cuts


def batches(
    tokenizer: PreTrainedTokenizerBase, text: str, *, window: int = 512, tokens: int = 32768, batch_size: int = 8
) -> list[torch.Tensor]:
    """Calibration batches (at most batch_size, window) int64: windows of token ids, spread evenly over `text`.

    Each window begins with the beginning-of-sequence token, if the tokenizer has one.

    Args:
        tokenizer: the model's.
        text: at least one window long.
        window: tokens per window, at most the model's context.
        tokens: at most so many in all; windows do not overlap as long as the text has more.
        batch_size: windows in a batch.

    Raises:
        InputError: window, tokens or batch_size is out of range, or the text is shorter than a window.
    """
    ids = encode(tokenizer, text)
    begins = [] if tokenizer.bos_token_id is None else ids[:1].tolist()
    body = window - len(begins)
    if body < 1:
        raise InputError(f"window must be at least 2 tokens, got {window}")
    if tokens < window:
        raise InputError(f"tokens must be at least one window of {window}, got {tokens}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    ids = ids[len(begins) :]
    if len(ids) < body:
        raise InputError(f"the text has {len(ids)} tokens, less than one window of {window}; give more")
    count = min(tokens // window, len(ids) // body)
    starts = [round(i * (len(ids) - body) / max(1, count - 1)) for i in range(count)]
    rows = torch.stack([torch.tensor([*begins, *ids[start : start + body].tolist()]) for start in starts])
    return list(rows.split(batch_size))


LOGITS = 2**26
"""At most so many of several windows at once."""


@torch.inference_mode()
def token_losses(
    model: PreTrainedModel, ids: torch.Tensor, *, window: int, stride: int | None = None, batch_tokens: int = 4096
) -> torch.Tensor:
    """Cross-entropy in nats of every token of `ids` but the first, (tokens - 1,) float32.

    Args:
        model: a causal language model; `model(input_ids=...).logits` is (batch, tokens, vocabulary).
        ids: token ids, (tokens,).
        window: tokens the model sees at once.
        stride: tokens predicted per window; the rest of the window is context. Default: `window - 1`, every
            window on its own (its last token is the next one's first).
        batch_tokens: windows of equal length are run together up to this many tokens, fewer of a large vocabulary:
            one window's logits, or 2^26 numbers of several.

    Raises:
        InputError: fewer than two tokens, or a window or stride out of range.
    """
    if len(ids) < 2:
        raise InputError(f"perplexity needs at least 2 tokens, got {len(ids)}")
    cuts = windows(len(ids), window, window - 1 if stride is None else stride)
    device = next(model.parameters()).device
    losses = torch.empty(len(ids) - 1)
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 1)
    at_once = max(1, min(batch_tokens, LOGITS // vocabulary) // window)
    position = 0
    while position < len(cuts):
        begin, end, _ = cuts[position]
        group = [cut for cut in cuts[position : position + at_once] if cut[1] - cut[0] == end - begin]
        inputs = torch.stack([ids[b:e] for b, e, _ in group]).to(device)
        nats = next_token_losses(model(input_ids=inputs, use_cache=False).logits, inputs).cpu()
        for row, (b, e, first) in zip(nats, group, strict=True):
            losses[first - 1 : e - 1] = row[first - 1 - b :]
        position += len(group)
    return losses


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> float:
    """exp of the mean cross-entropy per token of `text`; infinite where that is beyond float64.

    Args:
        model: any Hugging Face causal language model.
        tokenizer: the model's.
        text: what to predict. It begins after the beginning-of-sequence token, if there is one.
        window: tokens the model sees at once; by default its context length, at most 2048.
        stride: tokens predicted per window, the rest being context; by default every window stands on its own.
            A smaller stride costs more and gives a lower perplexity, so figures name it.

    Raises:
        InputError: the text is shorter than two tokens, or window or stride is out of range.
    """
    losses = token_losses(model, encode(tokenizer, text), window=_window(model, window), stride=stride)
    return losses.double().mean().exp().item()


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> float:
    """Bits the model needs per UTF-8 byte of `text`: comparable between tokenizers and with file compressors.

    Arguments as `perplexity`. Without a beginning-of-sequence token the first token is counted as a uniform choice
    from the vocabulary, so that every byte is paid for.
    """
    ids = encode(tokenizer, text)
    nats = token_losses(model, ids, window=_window(model, window), stride=stride).double().sum().item()
    if tokenizer.bos_token_id is None:
        nats += math.log(len(tokenizer))
    return nats / math.log(2) / len(text.encode())


def _window(model: PreTrainedModel, window: int | None) -> int:
    limit = context_length(model)
    if window is not None and limit is not None and window > limit:
        raise InputError(f"window must be at most the model's context of {limit} tokens, got {window}")
    return min(limit or 2048, 2048) if window is None else window
