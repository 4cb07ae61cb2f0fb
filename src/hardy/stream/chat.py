"""A conversation that never grows: one cache within its budget, new tokens only, for as long as it lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.evaluate.language import context_length
from hardy.hooks.caches import cache_argument
from hardy.report import Report, Row
from hardy.report.figures import Lines, Series
from hardy.runs.checkpoint import Checkpoint
from hardy.stream.cache import CompressedCache
from hardy.stream.policy import KVPolicy
from hardy.zoo.subject import Subject

CHUNK = 256
"""Tokens of a message that are read at once."""


class Chat:
    """A language model, its cache, and what has been said.

    Args:
        subject: the model and its tokenizer; with a chat template, or else text is continued as it is.
        policy: what the cache keeps.
        max_new_tokens: of an answer.
        temperature: 0 takes the most likely token.
        seed: of the choice of tokens.
        out: folder of the session, which goes on from there, and of its report.

    Raises:
        InputError: an option is out of range, or `out` holds another session.
    """

    def __init__(
        self,
        subject: Subject,
        policy: KVPolicy,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        out: str | Path | None = None,
    ) -> None:
        self.subject, self.policy = subject, policy
        self.max_new_tokens = checks.integer("max_new_tokens", max_new_tokens, at_least=1)
        self.temperature = checks.number("temperature", temperature, at_least=0)
        self.seed = seed
        self.cache = CompressedCache.for_model(subject.model, policy)
        self.turns: list[dict[str, Any]] = []
        self.out = None if out is None else Path(out)
        self._checkpoint: Checkpoint | None = None
        if self.out is not None:
            identity = {"model": subject.name, "sha256": subject.digest, "policy": str(policy)}
            self._checkpoint = Checkpoint(self.out / "session.safetensors", kind="chat", identity=identity)
            self._checkpoint.resume(self._take_back)

    def _take_back(self, state: Mapping[str, Any]) -> None:
        self.turns = [{**turn} for turn in state["turns"]]
        self.cache.load_state_dict(state["cache"])

    @property
    def context(self) -> int | None:
        """Tokens that the model was made for; positions beyond are new to it."""
        return context_length(self.subject.model)

    def say(self, message: str) -> Iterator[str]:
        """The answer to `message`, piece by piece. The session is stored when it is complete.

        Raises:
            InputError: the message is empty.
        """
        if not message.strip():
            raise InputError("a message must not be empty")
        self.cache.begin_turn()
        ids = self._encoded(message)
        with torch.inference_mode():
            answer: list[int] = []
            shown = ""
            for token in self._tokens(ids):
                answer.append(token)
                text = str(self.subject.tokenizer.decode(answer, skip_special_tokens=True))
                if not text.endswith("\ufffd") and len(text) > len(shown):
                    yield text[len(shown) :]
                    shown = text
        stats = self.cache.stats
        self.turns.append({"message": message, "answer": shown, **{n: stats[n] for n in ("seen", "kept", "bytes")}})
        if self._checkpoint is not None:
            self._checkpoint.save({"turns": self.turns, "cache": self.cache.state_dict()})
            self.report().save(self._checkpoint.path.parent)

    def report(self) -> Report:
        """Tokens and bytes after each turn."""
        rows, turns = [], range(1, len(self.turns) + 1)
        for number, turn in zip(turns, self.turns, strict=True):
            for metric, key, unit in (
                ("tokens seen", "seen", ""),
                ("tokens kept", "kept", ""),
                ("cache", "bytes", "B"),
            ):
                rows.append(Row(metric=metric, condition=f"turn {number}", value=turn[key], unit=unit))
        figures: tuple[Lines, ...] = ()
        if self.turns:
            y = tuple(turn["bytes"] / 1e6 for turn in self.turns)
            line = Series(label=str(self.policy), x=tuple(float(t["seen"]) for t in self.turns), y=y)
            caption = "A bounded cache is flat from where its budget is reached."
            figures = (
                Lines(
                    title="Cache of the session", caption=caption, x_label="tokens seen", y_label="MB", series=(line,)
                ),
            )
        last = self.turns[-1] if self.turns else {"seen": 0, "bytes": 0}
        said = f"{len(self.turns)} turns, {last['seen']} tokens seen, a cache of {last['bytes'] / 1e6:.4g} MB."
        return Report(
            title=f"Chat with {self.subject.name}",
            summary=(said,),
            rows=tuple(rows),
            figures=figures,
            settings={"policy": str(self.policy), "model": self.subject.name, "seed": self.seed},
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if self.context is None or self.cache.get_seq_length() <= self.context:
            return ()
        return (
            f"{self.cache.get_seq_length()} tokens were seen and the model was made for {self.context}: positions "
            "beyond are new to it, and answers may suffer however large the cache",
        )

    def _tokens(self, ids: torch.Tensor) -> Iterator[int]:
        model, chance = self.subject.model, generator(self.seed, "chat", len(self.turns))
        end = _ends(self.subject)
        logits: Any = None
        for part in ids.split(CHUNK, 1):
            logits = model(part.to(model.device), **cache_argument(model, self.cache), logits_to_keep=1).logits
        for _ in range(self.max_new_tokens):
            last = logits[0, -1].float().cpu()
            if self.temperature:
                token = int(torch.multinomial((last / self.temperature).softmax(-1), 1, generator=chance))
            else:
                token = int(last.argmax())
            logits = model(torch.tensor([[token]], device=model.device), **cache_argument(model, self.cache)).logits
            if token in end:
                return
            yield token

    def _encoded(self, message: str) -> torch.Tensor:
        tokenizer: Any = self.subject.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            start = [] if self.turns or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            ids = tokenizer(message, add_special_tokens=False)["input_ids"]
            return torch.tensor([[*start, *ids]], dtype=torch.long)
        said = {"role": "user", "content": message}
        whole = tokenizer.apply_chat_template([said], tokenize=False, add_generation_prompt=True)
        if self.turns:  # what the template puts before a later message: the rest of a conversation is in the cache
            before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            head = tokenizer.apply_chat_template(before, tokenize=False)
            whole = tokenizer.apply_chat_template([*before, said], tokenize=False, add_generation_prompt=True)
            if not whole.startswith(head):
                raise InputError("the chat template rewrites earlier turns; it cannot be streamed")
            whole = whole[len(head) :]
        return torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]], dtype=torch.long)


def _ends(subject: Subject) -> set[int]:
    given: Any = getattr(subject.model.generation_config, "eos_token_id", None)
    tokenizer: Any = subject.tokenizer
    found = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])}
    return {token for token in found if token is not None}
