"""Prompts that any tokenizer can take: known behaviours as task and pair files, drawn from a seed.

Names, years and words are kept only where the tokenizer has one token for each, so that clean and corrupt prompts have
the same length; how many were left is said by an error where they are too few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError, near_misses
from hardy.interp.task import Example, Task
from hardy.interp.vectors import Pair

NAMES = [
    "Mary",
    "John",
    "Tom",
    "James",
    "Dan",
    "Sarah",
    "Paul",
    "Anna",
    "Mark",
    "Alice",
    "Peter",
    "David",
    "Robert",
    "Michael",
    "Emma",
    "Kate",
    "Jack",
    "Adam",
    "Simon",
    "Laura",
    "Susan",
    "Linda",
    "Karen",
    "Brian",
    "Kevin",
    "Steven",
    "Eric",
    "Jason",
    "Henry",
    "Frank",
]
PLACES = ["store", "park", "school", "office", "garden", "station", "restaurant", "hospital"]
THINGS = ["drink", "book", "ball", "ring", "bag", "letter", "kiss"]
NOUNS = ["war", "siege", "strike", "voyage", "trial", "project", "campaign", "mission"]
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "England": "London", "Japan": "Tokyo",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Austria": "Vienna", "Portugal": "Lisbon",
    "Ireland": "Dublin", "Poland": "Warsaw", "China": "Beijing", "Cuba": "Havana", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Hungary": "Budapest", "Turkey": "Ankara", "Iran": "Tehran",
    "Iraq": "Baghdad", "Peru": "Lima", "Chile": "Santiago", "Kenya": "Nairobi", "Finland": "Helsinki",
    "Belgium": "Brussels", "Thailand": "Bangkok", "Syria": "Damascus", "Canada": "Ottawa",
}  # fmt: skip
GOOD = [
    "wonderful",
    "excellent",
    "great",
    "brilliant",
    "delightful",
    "superb",
    "lovely",
    "fantastic",
    "perfect",
    "beautiful",
]
BAD = ["terrible", "awful", "bad", "horrible", "dreadful", "poor", "boring", "disappointing", "ugly", "pathetic"]
FILMS = ["film", "movie", "book", "show", "play", "song", "story", "album", "novel", "game"]
# Judge a direction made of the words above: none of them is among these.
OTHER_GOOD = ["good", "amazing", "nice", "fun", "impressive", "outstanding", "incredible", "awesome", "remarkable"]
OTHER_BAD = ["dull", "stupid", "annoying", "ridiculous", "worse", "weak", "sad", "worthless", "disgusting", "useless"]
OPINIONS = (
    "I thought the {thing} was {word}", "The {thing} we saw was {word}", "Everyone said that the {thing} is {word}",
    "My friends found the {thing} {word}", "This {thing} is really {word}", "What a {word} {thing}",
)  # fmt: skip


def indirect_object(tokenizer: Any, n: int = 32, seed: int = 0) -> list[Example]:
    """Indirect-object identification (Wang et al. 2022): two names, one repeated; the other gets the thing.

    Half of the prompts name the receiver first (ABBA), half second (BABA). The corrupt prompt repeats the other name,
    so that right and wrong change places.
    """
    names = single(tokenizer, NAMES, "names", 4)
    draw = _Draw(seed, "indirect-object")
    found = []
    for number in range(n):
        receiver, giver = (names[i] for i in draw.permutation(len(names))[:2])
        place, thing = draw.choice(PLACES), draw.choice(THINGS)
        first, second = (receiver, giver) if number % 2 else (giver, receiver)
        start = f"When {first} and {second} went to the {place},"
        found.append(Example(
            clean=f"{start} {giver} gave a {thing} to", corrupt=f"{start} {receiver} gave a {thing} to",
            right=(f" {receiver}",), wrong=(f" {giver}",),
        ))  # fmt: skip
    return found


def greater_than(tokenizer: Any, n: int = 32, seed: int = 0) -> list[Example]:
    """Greater-than (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17" goes on with 33 or more.

    The corrupt prompt starts in 01. For tokenizers with a token for two digits, and for those that write digits one by
    one, where the tens decide.
    """
    draw = _Draw(seed, "greater-than")
    pairs = [f"{i:02d}" for i in range(100)]
    two = all(len(tokenizer(f"17{p}", add_special_tokens=False).input_ids) == 2 for p in pairs[2:6]) and all(
        len(tokenizer(p, add_special_tokens=False).input_ids) == 1 for p in pairs[2:6]
    )
    found = []
    for _ in range(n):
        noun, century = draw.choice(NOUNS), draw.integer(11, 18)
        start = draw.integer(2, 97) if two else 10 * draw.integer(2, 7) + draw.integer(0, 9)
        text = "The {noun} lasted from the year {century}{start} to the year {century}"
        options = pairs if two else [str(digit) for digit in range(10)]
        value = start if two else start // 10
        found.append(Example(
            clean=text.format(noun=noun, century=century, start=f"{start:02d}"),
            corrupt=text.format(noun=noun, century=century, start="01"),
            right=tuple(options[value + 1 :]), wrong=tuple(options[:value] if not two else options[: value + 1]),
        ))  # fmt: skip
    return found


def induction(
    vocabulary: Sequence[int] | int, n: int = 32, length: int = 20, seed: int = 0, begin: int | None = None
) -> Task:
    """Repeated random tokens: the second half repeats the first, so each next token is known from before.

    The corrupt prompt has another token in the place of the earlier occurrence of the last token, so that nothing says
    what follows. The wrong answer is another token of the first half.

    Args:
        vocabulary: token ids to draw from, or how many.
        n: prompts.
        length: of a half.
        seed: of the draw.
        begin: token that each prompt starts with, or None.
    """
    tokens = torch.arange(vocabulary) if isinstance(vocabulary, int) else torch.tensor(list(vocabulary))
    checks.integer("length", length, at_least=4)
    if len(tokens) < 2 * length:
        raise InputError(f"halves of {length} different tokens need a vocabulary of {2 * length}, got {len(tokens)}")
    random = generator(seed, "induction")
    clean, corrupt, right, wrong = [], [], [], []
    for _ in range(n):
        drawn = tokens[torch.randperm(len(tokens), generator=random)[: length + 1]].tolist()
        half, other = drawn[:length], drawn[length]
        at = int(torch.randint(1, length - 2, (1,), generator=random))
        head = [] if begin is None else [begin]
        clean.append([*head, *half, *half[: at + 1]])
        corrupt.append([*head, *half[:at], other, *half[at + 1 :], *half[: at + 1]])
        right.append([half[at + 1]])
        wrong.append([half[(at + 3) % length]])
    longest = max(map(len, clean))
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in clean]
    pad = int(tokens[0])
    padded = [torch.tensor([[pad] * (longest - len(row)) + row for row in rows]) for rows in (clean, corrupt)]
    real = torch.tensor(mask)
    return Task(
        padded[0], torch.tensor(right), torch.tensor(wrong), padded[1], None if real.all() else real, name="induction"
    )


def truth(tokenizer: Any, n: int = 60, seed: int = 0) -> list[Pair]:
    """True and false statements about capitals, for a truth direction."""
    draw = _Draw(seed, "truth")
    countries = list(CAPITALS)
    pairs = []
    for i in draw.permutation(max(n, len(countries))):
        country = countries[i % len(countries)]
        other = draw.choice([c for c in countries if c != country])
        form = ("The capital of {} is {}.", "{1} is the capital of {0}.", "The city of {1} is the capital of {0}.")[
            i % 3
        ]
        pairs.append(Pair(form.format(country, CAPITALS[country]), form.format(country, CAPITALS[other])))
    return pairs[:n]


def sentiment(tokenizer: Any, n: int = 60, seed: int = 0) -> list[Pair]:
    """Opinions that differ in one word, good or bad, for a sentiment direction."""
    draw = _Draw(seed, "sentiment")
    return [
        Pair(form.format(thing=thing, word=draw.choice(GOOD)), form.format(thing=thing, word=draw.choice(BAD)))
        for form, thing in ((draw.choice(OPINIONS), draw.choice(FILMS)) for _ in range(n))
    ]


def sentiment_openings(tokenizer: Any, *, choosing: bool = False) -> list[Example]:
    """Neutral openings that go on with a good or a bad word, none of them of `sentiment`: what judges its direction.

    Args:
        tokenizer: of the model; words that are several tokens are left out.
        choosing: other openings, to choose a layer or a scale by.

    Raises:
        InputError: fewer than four words of a side are one token.
    """
    forms = (
        ("I went to see the {} yesterday. I thought that it was", ("film", "play", "show", "band")),
        ("My friend told me about the {}. She said that it was", ("book", "hotel", "game", "song")),
    )
    if choosing:
        forms = (("We talked about the {} for hours. To all of us it seemed", ("dinner", "concert", "trip", "party")),)
    good, bad = (
        tuple(f" {word}" for word in single(tokenizer, words, "words", 4)) for words in (OTHER_GOOD, OTHER_BAD)
    )
    return [Example(form.format(thing), good, bad) for form, things in forms for thing in things]


TASKS: dict[str, Callable[..., list[Example]]] = {"indirect-object": indirect_object, "greater-than": greater_than}
PAIRS: dict[str, Callable[..., list[Pair]]] = {"truth": truth, "sentiment": sentiment}


def written(name: str, tokenizer: Any, n: int, seed: int) -> list[dict[str, Any]]:
    """The lines of a task or pair file of a known behaviour.

    Raises:
        InputError: there is none of this name, or the tokenizer has no single tokens for it.
    """
    checks.integer("n", n, at_least=1)
    if name == "induction":
        words = single(tokenizer, [*THINGS, *PLACES, *NOUNS, *FILMS, *GOOD, *NAMES], "words", 0)
        if len(words) < _WORDS:  # a tokenizer of code, or of another language
            words = single(tokenizer, own_words(tokenizer), "words of its own", _WORDS)
        return [example.to_json() for example in spoken_induction(words, n, seed)]
    if name in TASKS:
        return [example.to_json() for example in TASKS[name](tokenizer, n, seed)]
    if name in PAIRS:
        return [vars(pair) for pair in PAIRS[name](tokenizer, n, seed)]
    known = ["induction", *TASKS, *PAIRS]
    raise InputError(f"there are prompts for {', '.join(known)}, not for {name!r}{near_misses(name, known)}")


_WORDS = 16
"""That lists of eight, and one that is exchanged, are drawn from."""


def own_words(tokenizer: Any, most: int = 200) -> list[str]:
    """Words of the vocabulary that a space goes before, without it; the most frequent first in what BPE learned."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words = [str(token)[1:] for token in tokens if str(token)[:1] in ("\u0120", "\u2581")]  # of BPE, of SentencePiece
    return [word for word in words if len(word) > 2 and word.isalpha()][:most]


def spoken_induction(words: Sequence[str], n: int, seed: int) -> list[Example]:
    """Induction with words: a list of them, and the list again up to some word."""
    draw = _Draw(seed, "spoken-induction")
    length = min(8, len(words) // 2)
    found = []
    for _ in range(n):
        chosen = [words[i] for i in draw.permutation(len(words))[: length + 1]]
        half, other = chosen[:length], chosen[length]
        at = draw.integer(1, length - 3)
        broken = [*half[:at], other, *half[at + 1 :]]
        again = half[: at + 1]
        found.append(Example(
            clean=" " + " ".join([*half, *again]), corrupt=" " + " ".join([*broken, *again]),
            right=(f" {half[at + 1]}",), wrong=(f" {half[(at + 3) % length]}",),
        ))  # fmt: skip
    return found


def single(tokenizer: Any, words: Sequence[str], what: str, least: int) -> list[str]:
    """Those of `words` that are one token after a space.

    Raises:
        InputError: fewer than `least` are.
    """
    kept = [
        word for word in dict.fromkeys(words) if len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1
    ]
    if len(kept) < least:
        raise InputError(
            f"this tokenizer has one token for only {len(kept)} of {len(words)} {what}; {least} are needed"
        )
    return kept


class _Draw:
    """Draws from a seed by name."""

    def __init__(self, seed: int, name: str) -> None:
        self.random = generator(seed, "prompts", name)

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(torch.randint(low, high + 1, (1,), generator=self.random))

    def choice(self, values: Sequence[str]) -> str:
        return values[self.integer(0, len(values) - 1)]

    def permutation(self, n: int) -> list[int]:
        return torch.randperm(n, generator=self.random).tolist()
