"""Text from a language model, token by token: `Decoder` where it can, the model's own forward where it cannot."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.evaluate.language import context_length
from hardy.hooks import caches
from hardy.quant.decoder import Decoder, obstacle

CONTEXT = 2048
_TOP = 1024  # of the likeliest tokens, among which top-p is nearly always decided


@dataclasses.dataclass
class Timing:
    """Tokens read and written, and the seconds both took."""

    read: int = 0
    written: int = 0
    reading: float = 0.0
    writing: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.read} tokens read in {self.reading:.2f} s ({self.read / max(self.reading, 1e-9):.0f} tokens/s), "
            f"{self.written} written in {self.writing:.2f} s ({self.written / max(self.writing, 1e-9):.1f} tokens/s)"
        )


class Writer:
    """A language model that continues tokens, and keeps what it has read.

    Args:
        model, tokenizer: as `hardy.zoo.load` gives them.
        context: tokens that prompts and continuations may take together; by default the model's context, at most 2048.
        head_bits: as of `Decoder`.

    Attributes:
        how: how it decodes, in words.
        timing: of the last continuation.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None = None,
        head_bits: int | None = 8,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        longest = context_length(model)
        self.context = min(longest or CONTEXT, CONTEXT) if context is None else context
        reason = obstacle(model)
        if reason is None:
            decoder = Decoder(model, capacity=self.context, head_bits=head_bits)
            self._reader: Decoder | _Plain = decoder
            self.how = f"step by step, head {decoder.head}"
        else:
            self._reader = _Plain(model)
            self.how = f"through transformers, several times slower, as {reason}"
        self.timing = Timing()
        self._seen: list[int] = []
        stops = getattr(model.generation_config, "eos_token_id", None)
        stops = [stops] if isinstance(stops, int) else list(stops or [])
        last: Any = tokenizer.eos_token_id
        self.stops = {*stops} if last is None else {*stops, last}

    def write(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        ignore_stops: bool = False,
    ) -> Iterator[int]:
        """The tokens that follow `ids`, one by one, up to a token that ends a text, which is not given.

        What `ids` has in common with what was read before is not read again.

        Args:
            ids: the prompt.
            max_new_tokens: at most so many.
            temperature: 0 takes the likeliest token each time, else tokens are sampled at this temperature.
            top_p: sample among the likeliest tokens that together have this probability.
            seed: of the sampling. The global random generators are left as they are.
            ignore_stops: go on behind tokens that end a text, as for measurements.

        Raises:
            InputError: an option is out of range, there is no prompt, or prompt and continuation exceed the context.
        """
        check_sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        if not ids:
            raise InputError("the prompt is empty")
        if len(ids) + max_new_tokens > self.context:
            raise InputError(
                f"{len(ids)} tokens of prompt and {max_new_tokens} new ones exceed the context of {self.context}; "
                "give a larger context, a shorter prompt, or fewer new tokens"
            )
        return self._written(list(ids), max_new_tokens, temperature, top_p, seed, ignore_stops)

    def text(self, ids: Sequence[int], **options: Any) -> Iterator[str]:
        """As `write`, in pieces of text: whole characters, as soon as they are known."""
        written: list[int] = []
        begin = shown = 0
        for token in self.write(ids, **options):
            written.append(token)
            before = self._decoded(written[begin:shown])
            now = self._decoded(written[begin:])
            if len(now) > len(before) and not now.endswith("\ufffd"):
                yield now[len(before) :]
                begin, shown = shown, len(written)
        if rest := self._decoded(written[begin:])[len(self._decoded(written[begin:shown])) :]:
            yield rest

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _written(
        self, ids: list[int], count: int, temperature: float, top_p: float, seed: int, ignore_stops: bool
    ) -> Iterator[int]:
        random, timing = generator(seed, "sampling"), Timing()
        self.timing = timing
        common = 0
        while common < min(len(ids) - 1, len(self._seen)) and ids[common] == self._seen[common]:
            common += 1
        kept = self._reader.rewind(common)
        self._seen = ids[:kept]
        begun = time.perf_counter()
        logits = self._reader.read(ids[kept:])
        self._seen = ids
        timing.read, timing.reading = len(ids) - kept, time.perf_counter() - begun
        begun = time.perf_counter()
        for number in range(count):
            token = pick(logits, temperature, top_p, random)
            if token in self.stops and not ignore_stops:
                return
            timing.written, timing.writing = number + 1, time.perf_counter() - begun
            yield token
            if number + 1 < count:
                logits = self._reader.step(token)
                self._seen.append(token)
                timing.writing = time.perf_counter() - begun


def check_sampling(*, max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Raise `InputError` where an option of `Writer.write` is out of range."""
    checks.integer("max_new_tokens", max_new_tokens, at_least=1)
    checks.number("temperature", temperature, at_least=0)
    checks.number("top_p", top_p, above=0, at_most=1)


def pick(logits: torch.Tensor, temperature: float, top_p: float, random: torch.Generator) -> int:
    """A token for `logits` (vocabulary,): the likeliest at temperature 0, else one sampled at it.

    Args:
        top_p: among the likeliest that together have this probability, the one that reaches it included.

    Raises:
        InputError: the logits are not all finite.
    """
    if not logits.max().isfinite():
        raise InputError("the model gave logits that are not finite")
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits.float() / temperature
    if top_p == 1:
        return int(torch.multinomial(scaled.softmax(-1), 1, generator=random))
    total = scaled.logsumexp(-1)
    for count in (min(_TOP, len(scaled)), len(scaled)):
        values, places = scaled.topk(count)
        chances = (values - total).exp()
        before = chances.cumsum(-1) - chances
        kept = before < top_p
        if not kept.all() or count == len(scaled):
            break
    chosen = torch.multinomial(torch.where(kept, chances, 0), 1, generator=random)
    return int(places[chosen])


class _Plain:
    """A model of any architecture behind the same calls as `Decoder`: its own forward, with its own cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._cache: dict[str, Any] = {}

    def rewind(self, position: int) -> int:
        """How many tokens are kept: none, since not every kind of cache can forget some of them."""
        self._cache = {}
        return 0

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> torch.Tensor:
        tokens = torch.tensor([list(ids)], device=self._model.device)
        found = self._model(tokens, use_cache=True, logits_to_keep=1, **self._cache)
        names = (*caches.NAMES, "cache_params")
        self._cache = {name: found[name] for name in names if found.get(name) is not None}
        return found.logits[0, -1].float().cpu()

    def step(self, token: int) -> torch.Tensor:
        return self.read([token])
