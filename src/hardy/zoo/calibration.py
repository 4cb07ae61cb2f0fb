"""Text to calibrate on: what a model writes itself, held-out standard-library modules, and files, in equal parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from hardy import checks
from hardy.errors import InputError
from hardy.evaluate.language import batches
from hardy.runs.progress import progress
from hardy.zoo.text import held_out_text, read_text

OWN, HELD_OUT, NONE = "own", "held-out", "none"
"""Sources of calibration text that are no file."""
_AT_ONCE, _LONGEST = 32, 256


def sources_of(calibration: str) -> tuple[str, ...]:
    """The sources that "own,held-out" or "own,my-text.txt" names; none for "none". Files are looked at, not kept.

    Raises:
        InputError: a file cannot be read, a source is named twice, or "none" beside others.
    """
    named = tuple(part.strip() for part in checks.text("calibration", calibration).split(",") if part.strip())
    if named == (NONE,):
        return ()
    if not named or NONE in named or len(set(named)) < len(named):
        raise InputError(
            f"calibration is {OWN}, {HELD_OUT} or a UTF-8 file, or several with commas between them, or {NONE}; "
            f"got {calibration!r}"
        )
    for source in named:
        if source not in (OWN, HELD_OUT):
            read_text(Path(source))
    return named


def calibration_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    window: int = 512,
    tokens: int = 8192,
    seed: int = 0,
) -> list[torch.Tensor]:
    """Batches (at most 8, window) of token ids, from each of `sources` as many windows, on the model's device.

    Args:
        model: in evaluation mode; writes the share of "own".
        tokenizer: the model's.
        sources: of `sources_of`.
        window: tokens per window.
        tokens: in all, at most; at least a window from each source.
        seed: of what the model writes.

    Raises:
        InputError: tokens is less than a window per source, a file is shorter than one, or as `own_samples`.
    """
    share = tokens // len(sources)
    if share < window:
        raise InputError(
            f"calibration_tokens must be at least {len(sources) * window}, a window of {window} from each of "
            f"{', '.join(sources)}; got {tokens}"
        )
    rows = {}
    for source in (source for source in sources if source != OWN):  # what may be refused first
        text = held_out_text("calibration") if source == HELD_OUT else read_text(source)
        rows[source] = torch.cat(batches(tokenizer, text, window=window, tokens=share)).to(model.device)
    if OWN in sources:
        rows[OWN] = own_samples(model, tokenizer, share // window, window=window, seed=seed)
    return list(torch.cat([rows[source] for source in sources]).split(8))


def own_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, *, window: int = 512, seed: int = 0
) -> torch.Tensor:
    """What `model` writes from its start token on at temperature 1: (count, window) int64.

    A text that ends is followed by another, and none is longer than 256 tokens: more at once take less time. The global
    random generators are left as they were.

    Raises:
        InputError: the model has no token to begin with, or it cannot generate.
    """
    ids = (tokenizer.bos_token_id, model.config.get_text_config().bos_token_id, tokenizer.eos_token_id)
    start = next((token for token in ids if isinstance(token, int)), None)
    if start is None or not hasattr(model, "generate"):
        raise InputError(
            f"{type(model).__name__} cannot write samples of its own: it has no start token or does not generate; "
            "give a file as calibration"
        )
    pieces = -(-window // _LONGEST)
    length = -(-window // pieces)
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=length - 1, min_new_tokens=length - 1,
        pad_token_id=start, bos_token_id=start,
    )  # fmt: skip
    written: list[torch.Tensor] = []
    title = f"writing {count * window:,} tokens to calibrate on"
    total = count * pieces
    with progress(title, total * length) as bar, torch.random.fork_rng(), torch.inference_mode():

        def shown(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            bar.update(len(written) * length + ids.numel())
            return scores

        torch.manual_seed(seed)
        while len(written) < total:
            begin = torch.full((min(_AT_ONCE, total - len(written)), 1), start, device=model.device)
            found = model.generate(  # pyright: ignore[reportCallIssue]
                begin, attention_mask=torch.ones_like(begin), generation_config=settings,
                logits_processor=LogitsProcessorList([shown]),  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
            written += list(found)
        bar.update(total * length)
    return torch.stack(written).view(count, pieces * length)[:, :window].clone()
