"""Perplexity and bits per byte of any Hugging Face causal language model, with and without a sliding window."""

import math

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    """The token ids of `text`, (tokens,) int64, without special tokens; no warning about long texts.

    Raises:
        ValueError: `text` holds no token.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False, return_attention_mask=False)["input_ids"]
    if not ids:
        raise ValueError("the text is empty")
    return torch.tensor(ids, dtype=torch.long)


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Cut positions 0..length into windows `(begin, end, first)`: the tokens `first..end` are predicted in it.

    Every token but the very first one is predicted exactly once; with `stride < window` each has at least
    `window - stride` tokens of context (as far as the text goes back).
    """
    if window < 2:
        raise ValueError(f"window must be at least 2 tokens, got {window}")
    if not 1 <= stride < window:
        raise ValueError(f"stride must be in 1..{window - 1} (window - 1 means no overlap), got {stride}")
    cuts, first = [], 1
    while first < length:
        end = min(length, window if first == 1 else first + stride)
        cuts.append((max(0, end - window), end, first))
        first = end
    return cuts


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
        batch_tokens: windows of equal length are run together up to this many tokens.

    Raises:
        ValueError: fewer than two tokens, or a window or stride out of range.
    """
    if len(ids) < 2:
        raise ValueError(f"perplexity needs at least 2 tokens, got {len(ids)}")
    cuts = windows(len(ids), window, stride or window - 1)
    device = next(model.parameters()).device
    losses = torch.empty(len(ids) - 1)
    at_once = max(1, batch_tokens // window)
    position = 0
    while position < len(cuts):
        begin, end, _ = cuts[position]
        group = [cut for cut in cuts[position : position + at_once] if cut[1] - cut[0] == end - begin]
        inputs = torch.stack([ids[b:e] for b, e, _ in group]).to(device)
        logits = model(input_ids=inputs, use_cache=False).logits[:, :-1].float()
        nats = cross_entropy(logits.transpose(1, 2), inputs[:, 1:], reduction="none").cpu()
        for row, (b, e, first) in zip(nats, group, strict=True):
            losses[first - 1 : e - 1] = row[first - 1 - b :]
        position += len(group)
    return losses


def cross_entropy_per_token(
    model: PreTrainedModel, ids: torch.Tensor, *, window: int, stride: int | None = None
) -> float:
    """Mean cross-entropy in nats per token of `ids`; arguments as `token_losses`."""
    return token_losses(model, ids, window=window, stride=stride).double().mean().item()


def perplexity(model: PreTrainedModel, ids: torch.Tensor, *, window: int, stride: int | None = None) -> float:
    """exp of the mean cross-entropy per token; arguments as `token_losses`.

    A model that is broken beyond the range of float64 has the perplexity infinity.
    """
    nats = cross_entropy_per_token(model, ids, window=window, stride=stride)
    return math.exp(nats) if nats < 700 else math.inf


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int,
    stride: int | None = None,
) -> float:
    """Bits the model needs per UTF-8 byte of `text`: comparable between tokenizers and with file compressors.

    The first token is coded too: after the beginning-of-sequence token if the tokenizer has one, else as a
    uniform choice from the vocabulary.
    """
    ids = encode(tokenizer, text)
    nats = 0.0
    if tokenizer.bos_token_id is None:
        nats += math.log(len(tokenizer))
    else:
        ids = torch.cat([torch.tensor([tokenizer.bos_token_id]), ids])
    nats += token_losses(model, ids, window=window, stride=stride).double().sum().item()
    return nats / math.log(2) / len(text.encode())
