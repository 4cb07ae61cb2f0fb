"""Answers that a language model writes: greedy continuations of many prompts at once, and the number they end on."""

import dataclasses
import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hardy.errors import InputError

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model wrote: its text, how many tokens it took (the end included), whether it ended by itself."""

    text: str
    tokens: int
    ended: bool


def last_number(text: str) -> str | None:
    """The last number in the text as it is written there, or None."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch: int = 256,
) -> list[Answer]:
    """The likeliest token each time, until the tokenizer's end or `max_new_tokens` tokens.

    Prompts of a batch are padded on the left and the padding is masked, so each is answered as it would be alone up to
    the rounding of products; a special token at the beginning is the tokenizer's own affair.

    Raises:
        InputError: no prompts, an empty one, `max_new_tokens` or `batch` not positive, a tokenizer without an end, or
            a prompt that leaves no room for `max_new_tokens` tokens in the model's context.
    """
    if max_new_tokens < 1 or batch < 1:
        raise InputError(f"max_new_tokens and batch must be at least 1, got {max_new_tokens} and {batch}")
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError("the tokenizer has no end-of-text token, so no answer could end")
    encoded = [tokenizer(text)["input_ids"] for text in prompts]
    if not encoded or not all(encoded):
        raise InputError("the prompts are empty" if encoded else "there are no prompts")
    context = getattr(model.config, "max_position_embeddings", None)
    most = max(map(len, encoded))
    if context is not None and most + max_new_tokens > context:
        raise InputError(
            f"a prompt of {most} tokens and {max_new_tokens} of answer exceed the model's context of {context}"
        )
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    answers: list[Answer] = []
    for begin in range(0, len(encoded), batch):
        rows = encoded[begin : begin + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        with torch.inference_mode():
            written = model.generate(  # pyright: ignore[reportCallIssue]
                ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=padding,
                eos_token_id=end,
            )[:, width:].tolist()
        for row in written:
            length = row.index(end) if end in row else len(row)
            text = "".join(tokenizer.batch_decode([row[:length]], skip_special_tokens=True))
            answers.append(Answer(text, min(length + 1, len(row)), end in row))
    return answers
