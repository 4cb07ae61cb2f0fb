"""Facts planted in a long text, to be asked for when they have long gone by: what a cache has forgotten."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.hooks.caches import cache_argument

PLACES = (
    "Lisbon", "Oslo", "Vienna", "Athens", "Cairo", "Lima", "Dublin", "Madrid", "Warsaw", "Prague", "Rome", "Paris",
    "London", "Berlin", "Tokyo", "Delhi",
)  # fmt: skip
FACT = "\n\nThe secret number of {place} is {number}.\n\n"
QUESTION = "\n\nThe secret number of {place} is"


@dataclasses.dataclass(frozen=True)
class Stream:
    """Token ids of a text with facts in it, and what to ask at its end.

    Attributes:
        ids: (tokens,).
        questions: for each fact the ids of the question and of the answer, and where in the text the fact ends, 0 to 1.
    """

    ids: torch.Tensor
    questions: tuple[tuple[torch.Tensor, torch.Tensor, float], ...]


def planted(tokenizer: Any, text: torch.Tensor, facts: int, seed: int) -> Stream:
    """Put `facts` sentences into `text`, evenly over it, each with a place and a number of four digits by lot.

    Args:
        tokenizer: the model's.
        text: (tokens,) ids.
        facts: at most as many as there are places, 16.
        seed: of places and numbers.

    Raises:
        InputError: there are more facts than places, or the text is too short for them.
    """
    if facts > len(PLACES):
        raise InputError(f"there are names for {len(PLACES)} facts, got {facts}")
    chance = random.Random(derive(seed, "planted-facts"))
    places = chance.sample(PLACES, facts)
    encoded = [
        (place, number, encode(tokenizer, FACT.format(place=place, number=number)))
        for place, number in ((place, chance.randint(1000, 9999)) for place in places)
    ]
    room = len(text) // (facts + 1)
    if facts and room < 1:
        raise InputError(f"a text of {len(text)} tokens is too short for {facts} facts")
    parts, questions, length = [], [], 0
    for index, (place, number, fact) in enumerate(encoded):
        parts += [text[index * room : (index + 1) * room], fact]
        length += room + len(fact)
        answer = encode(tokenizer, QUESTION.format(place=place) + f" {number}")
        question = encode(tokenizer, QUESTION.format(place=place))
        questions.append((question, answer[len(question) :], length))
    parts.append(text[facts * room :])
    ids = torch.cat(parts)
    return Stream(ids, tuple((q, a, end / len(ids)) for q, a, end in questions))


def encode(tokenizer: Any, text: str) -> torch.Tensor:
    """Token ids of `text` without any that mark its beginning or end, (tokens,)."""
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


@torch.inference_mode()
def asked(model: Any, cache: Any, question: torch.Tensor, answer: torch.Tensor) -> tuple[bool, float]:
    """Whether the most likely tokens after `question` are `answer`, and the answer's loss in nats per token.

    `cache` goes on with both; give it a copy.
    """
    ids = torch.cat([question, answer[:-1]])[None].to(model.device)
    logits = model(ids, **cache_argument(model, cache), logits_to_keep=len(answer)).logits[0].float()
    target = answer.to(logits.device)
    return bool((logits.argmax(-1) == target).all()), float(cross_entropy(logits, target))
