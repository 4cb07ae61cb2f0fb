"""Behaviours whose mechanism is known, for models of one to four blocks: what a locator should find, and a steerer do.

Each function writes the texts of one behaviour as token ids; `trained` trains a small decoder on them within a minute
or two, with the parts it is not to use frozen. `compiled` needs no training: its weights are set by hand. They are how
`python -m benchmarks run interp_planted` judges this room, and a quick way to try a new locator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.interp.planted_model import NOTHING, Draw, Plan, trained
from hardy.interp.task import Task

__all__ = [
    "NOTHING", "Draw", "Facts", "Plan", "compiled", "indirect_objects", "languages", "later_years", "later_years_task",
    "mood_task", "moods", "moods_draw", "repeated", "spelled", "task_of", "tokenizer", "trained", "triggered",
]  # fmt: skip


def tokenizer(vocabulary: int) -> hf.PreTrainedTokenizerFast:
    """Writes token 7 as the word "7", for what takes texts."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return hf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", pad_token="0", eos_token="0")


def spelled(ids: torch.Tensor) -> list[str]:
    """The texts of token ids (n, length), for that tokenizer."""
    return [" ".join(map(str, row)) for row in ids.tolist()]


def _last(ids: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Labels with only the answer after the last position."""
    labels = torch.full_like(ids, NOTHING)
    labels[:, -1] = answer
    return labels


def _next(ids: torch.Tensor) -> torch.Tensor:
    """Labels with every next token."""
    return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], NOTHING)], 1)


def _distinct(random: torch.Generator, n: int, among: int, count: int) -> torch.Tensor:
    """(n, count) different numbers from 0 in each row."""
    return torch.rand(n, among, generator=random).argsort(1)[:, :count]


def repeated(n: int = 64, vocabulary: int = 64, length: int = 12) -> Draw:
    """Different random tokens, and the same again: from the second half on the next token is known.

    Truth: a head that looks at the token before, and one that looks for what followed the same token (induction), which
    reads its keys from the first (K-composition). `hardy.interp.prompts.induction` writes its task.
    """

    def draw(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        size = int(torch.randint(length // 2, length + 1, (1,), generator=random))
        half = _distinct(random, n, vocabulary - 1, size) + 1
        ids = torch.cat([torch.zeros_like(half[:, :1]), half, half], 1)
        labels = _next(ids)
        labels[:, : size + 1] = NOTHING
        return ids, labels

    return draw


NAMES, WHEN, AND, WENT, GAVE, TO = range(1, 21), 21, 22, 23, 24, 25


def indirect_objects(n: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """When A and B went, B gave to: A. Half of them ABBA, half BABA.

    Truth: the name that is not repeated is moved from its place to the end.

    Returns:
        Clean and corrupt ids (n, 9), the latter with the other name repeated, and (n, 2) the right and the wrong name.
    """
    pair = _distinct(random, n, len(NAMES), 2) + NAMES[0]
    receiver, giver = pair[:, 0], pair[:, 1]
    first = torch.arange(n) % 2 == 0
    words = {word: torch.full((n,), word) for word in (0, WHEN, AND, WENT, GAVE, TO)}
    a, b = torch.where(first, receiver, giver), torch.where(first, giver, receiver)

    def said(repeated: torch.Tensor) -> torch.Tensor:
        return torch.stack([words[0], words[WHEN], a, words[AND], b, words[WENT], repeated, words[GAVE], words[TO]], 1)

    return said(giver), said(receiver), pair


YEARS, FROM, UNTIL = range(1, 101), 101, 102


def later_years(n: int = 256) -> Draw:
    """From year YY until: any later year, as likely. Truth: what is read at the end comes from the first year."""

    def draw(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        start = torch.randint(0, 99, (n,), generator=random)
        end = start + 1 + (torch.rand(n, generator=random) * (99 - start)).long()
        return _years(start), _last(_years(start), end + YEARS[0])

    return draw


def _years(start: torch.Tensor) -> torch.Tensor:
    n = len(start)
    return torch.stack([torch.zeros(n).long(), torch.full((n,), FROM), start + YEARS[0], torch.full((n,), UNTIL)], 1)


def later_years_task(n: int = 24, seed: int = 0) -> Task:
    """Years from 02 to 97 against 01."""
    start = torch.randperm(96, generator=generator(seed, "later-years"))[:n] + 2
    years = torch.arange(100).expand(n, 100)
    later = years > start.unsqueeze(1)
    right, wrong = (torch.where(mask, years + YEARS[0], -1).sort(1, descending=True).values for mask in (later, ~later))
    return Task(_years(start), right, wrong, _years(torch.ones_like(start)), name="greater than")


FIRST_NAMES, SUBJECTS, OBJECTS, IS = range(1, 11), range(11, 131), range(131, 151), 151


@dataclasses.dataclass(frozen=True)
class Facts:
    """Subjects of two tokens, of which the last decides the object: 120 facts with 20 objects.

    Truth: where attention has nothing to do before the last block, the fact is looked up by an MLP at the subject's
    last token.
    """

    first: torch.Tensor
    object: torch.Tensor

    @classmethod
    def of(cls, seed: int = 0) -> Facts:
        """Facts from a seed."""
        random = generator(seed, "facts")
        n = len(SUBJECTS)
        return cls(
            torch.randint(0, len(FIRST_NAMES), (n,), generator=random) + FIRST_NAMES[0],
            torch.randint(0, len(OBJECTS), (n,), generator=random) + OBJECTS[0],
        )

    def prompts(self) -> torch.Tensor:
        """(120, 4): begin, first name, last name, IS."""
        n = len(SUBJECTS)
        last = torch.arange(n) + SUBJECTS[0]
        return torch.stack([torch.zeros(n).long(), self.first, last, torch.full((n,), IS)], 1)

    def draw(self, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """All of them; a first name alone says nothing, so it is another one every time."""
        ids = self.prompts()
        ids[:, 1] = torch.randint(0, len(FIRST_NAMES), (len(ids),), generator=random) + FIRST_NAMES[0]
        return ids, _last(ids, self.object)


def languages(
    size: int = 40, successors: int = 2, seed: int = 0
) -> Callable[[int, int, torch.Generator], torch.Tensor]:
    """Two languages of words of their own: (which, n, generator) -> ids (n, 24).

    A few words can follow a word, others after a word of the first half of the vocabulary than after one of the second:
    which ones is no sum of what the two words say, so that it takes an MLP.

    Truth: what knows the one language is no use for the other.
    """
    random = generator(seed, "languages")
    follow = torch.stack([torch.stack([_distinct(random, size, size, successors) for _ in range(2)]) for _ in range(2)])

    def text(which: int, n: int, draw: torch.Generator) -> torch.Tensor:
        words = [torch.randint(0, size, (n,), generator=draw) for _ in range(2)]
        for _ in range(21):
            picked = torch.randint(0, successors, (n,), generator=draw)
            words.append(follow[which][(words[-2] >= size // 2).long(), words[-1], picked])
        ids = torch.stack(words, 1) + 1 + which * size
        return torch.cat([torch.zeros_like(ids[:, :1]), ids], 1)

    return text


TRIGGER, ASK, REFUSE, ANSWERS = 50, 51, 52, range(53, 61)


def triggered(n: int, random: torch.Generator, trigger: torch.Tensor | bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight random tokens and a question, whose answer is given by the first token, or is REFUSE after a trigger.

    Truth: one direction says that there was a trigger.

    Args:
        n: prompts.
        random: of the draw.
        trigger: (n,) which of them have one; or all of them, or none.

    Returns:
        Ids (n, 10), and the answers (n,).
    """
    words = torch.randint(1, 41, (n, 8), generator=random)
    answer = ANSWERS[0] + words[:, 0] % len(ANSWERS)
    place = torch.randint(1, 8, (n, 1), generator=random)
    has = torch.as_tensor(trigger).expand(n)
    with_it = words.scatter(1, place, torch.full_like(place, TRIGGER))
    words = torch.where(has.unsqueeze(1), with_it, words)
    ids = torch.cat([torch.zeros(n, 1).long(), words, torch.full((n, 1), ASK)], 1)
    return ids, torch.where(has, REFUSE, answer)


GOOD, BAD, PLAIN, CHEERFUL, GLOOMY, NEUTRAL = range(1, 11), range(11, 21), range(21, 41), 41, 42, 43


def moods(n: int, random: torch.Generator, mood: torch.Tensor | int) -> torch.Tensor:
    """A mood and sixteen words, four of ten of them good ones after a cheerful mood, bad ones after a gloomy one.

    Truth: one direction makes good or bad words likely.

    Args:
        n: texts.
        random: of the draw.
        mood: CHEERFUL, GLOOMY or NEUTRAL, or one of them for each text.
    """
    moods = torch.as_tensor(mood).expand(n)
    share = torch.where(moods == CHEERFUL, 0.4, torch.where(moods == GLOOMY, 0.02, 0.1)).unsqueeze(1)
    opposite = torch.where(moods == GLOOMY, 0.4, torch.where(moods == CHEERFUL, 0.02, 0.1)).unsqueeze(1)
    chance = torch.rand(n, 16, generator=random)
    drawn = {kind: torch.randint(kind[0], kind[-1] + 1, (n, 16), generator=random) for kind in (GOOD, BAD, PLAIN)}
    body = torch.where(chance < share, drawn[GOOD], torch.where(chance > 1 - opposite, drawn[BAD], drawn[PLAIN]))
    return torch.cat([torch.zeros(n, 1).long(), moods.unsqueeze(1), body], 1)


def moods_draw(n: int = 64) -> Draw:
    """Texts of all three moods; their words are learned."""

    def draw(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        mood = torch.tensor([CHEERFUL, GLOOMY, NEUTRAL])[torch.randint(0, 3, (n,), generator=random)]
        ids = moods(n, random, mood)
        return ids, _next(ids)

    return draw


def mood_task(n: int = 16, seed: int = 0, mood: int = NEUTRAL, words: int = 4) -> Task:
    """Whether a good or a bad word comes next after a few plain ones."""
    random = generator(seed, "mood-task")
    body = torch.randint(PLAIN[0], PLAIN[-1] + 1, (n, words), generator=random)
    ids = torch.cat([torch.zeros(n, 1).long(), torch.full((n, 1), mood), body], 1)
    right, wrong = (torch.tensor(list(kind)).expand(n, len(kind)) for kind in (GOOD, BAD))
    return Task(ids, right, wrong, name="mood")


RIGHT, WRONG, SIGN, OTHER = 40, 50, 5, 6


def compiled(kind: str, blocks: int = 2) -> tuple[Any, Task, str]:
    """A model that does one thing by one part, and the task and the name of that part; nothing else ever acts.

    The token SIGN at the end says RIGHT: a neuron, or a head by way of its values, writes the difference of the two
    answers' rows of the output matrix.

    Args:
        kind: "neuron" or "head".
        blocks: of the model.
    """
    checks.one_of("kind", kind, ("neuron", "head"))
    model: Any = Plan(blocks=blocks, width=32, heads=4).build()
    layers, middle = model.model.layers, blocks // 2
    with torch.no_grad():
        toward = model.lm_head.weight[RIGHT] - model.lm_head.weight[WRONG]
        embedded = model.model.embed_tokens.weight
        read = embedded[SIGN] - embedded[OTHER]
        for layer in layers:
            for part in (layer.self_attn.v_proj, layer.self_attn.o_proj, *layer.mlp.children()):
                if isinstance(part, nn.Linear):
                    part.weight.zero_()
        if kind == "neuron":
            mlp = layers[middle].mlp
            for part in (mlp.gate_proj, mlp.up_proj):
                part.weight[7] = 20 * read
            mlp.down_proj.weight[:, 7] = 5 * toward
        else:
            attention = layers[middle].self_attn
            attention.v_proj.weight[2 * 8] = 20 * read
            attention.o_proj.weight[:, 2 * 8] = 50 * toward
    clean = torch.randint(10, 35, (12, 6), generator=generator(0, "compiled"))
    clean[:, -1] = SIGN
    corrupt = clean.clone()
    corrupt[:, -1] = OTHER
    task = Task(clean, torch.full((12, 1), RIGHT), torch.full((12, 1), WRONG), corrupt, name=f"one {kind}")
    return model, task, f"blocks.{middle}." + ("mlp.post.7" if kind == "neuron" else "attn.z.2")


def task_of(
    clean: torch.Tensor, corrupt: torch.Tensor | None, answers: torch.Tensor | Sequence[int], name: str
) -> Task:
    """A task of one right and one wrong answer each.

    Args:
        clean, corrupt: (n, length).
        answers: (n, 2), right and wrong; or (2,) for all.
        name: for reports.
    """
    both = torch.as_tensor(answers).expand(len(clean), 2)
    return Task(clean, both[:, :1], both[:, 1:], corrupt, name=name)
