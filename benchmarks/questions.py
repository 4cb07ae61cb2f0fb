"""Questions whose answer is the likeliest of a few choices, made here, of three kinds.

  continuation  a sentence of WikiText-2's test text: which of four sentences is next? Wrong ones are from elsewhere.
                The choice counts with the highest likelihood for each byte.
  agreement     "The keys to the cabinet" - " are" or " is"? A noun of the other number stands between, so that the
                nearest word does not tell.
  knowledge     capitals, opposites and kinds: one of four, the wrong ones right answers to other questions of the sort.

Chance is 1/4, 1/2 and 1/4.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness import text_of
from hardy.evaluate import encode


@dataclass(frozen=True)
class Question:
    """`choices` go on from `prompt`; the first is right."""

    kind: str
    prompt: str
    choices: tuple[str, ...]


CAPITALS = """\
France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Greece Athens, Austria Vienna, Poland Warsaw,
Hungary Budapest, Russia Moscow, Turkey Ankara, Egypt Cairo, Kenya Nairobi, Japan Tokyo, China Beijing, Thailand
Bangkok, Vietnam Hanoi, Indonesia Jakarta, Australia Canberra, Canada Ottawa, Cuba Havana, Peru Lima, Chile Santiago,
Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Belgium Brussels, Iran Tehran,
Iraq Baghdad, Syria Damascus, Ukraine Kyiv, Cyprus Nicosia, Iceland Reykjavik, Colombia Bogota, Afghanistan Kabul,
Lebanon Beirut, Bulgaria Sofia, Romania Bucharest"""
OPPOSITES = """\
hot cold, big small, fast slow, high low, light dark, old young, rich poor, strong weak, wet dry, full empty, hard
soft, early late, open closed, clean dirty, happy sad, good bad, near far, thick thin, wide narrow, deep shallow,
sweet sour, loud quiet, up down, left right, inside outside, above below, before after, first last, true false, day
night, black white, war peace, love hate, begin end, push pull, buy sell, win lose, remember forget, rise fall, safe
dangerous"""
KINDS = """\
sparrow bird, salmon fish, oak tree, rose flower, hammer tool, violin instrument, apple fruit, carrot vegetable, dog
mammal, ant insect, cobra snake, gold metal, oxygen gas, diamond gem, soccer sport, chess game, English language,
Buddhism religion, Mars planet, Tuesday day, April month, red color, triangle shape, milk drink, bread food, coat
garment, sofa piece of furniture, bus vehicle, dollar currency, physics science, pneumonia disease, doctor profession,
Pacific ocean, Sahara desert, Everest mountain, Amazon river, Europe continent, Texas state, novel book, waltz dance"""
NOUNS = """key keys, picture pictures, report reports, friend friends, teacher teachers, car cars, letter letters,
student students, house houses, child children, dog dogs, story stories, idea ideas, tree trees, book books, man men"""
PLACES = """to the cabinet, cabinets; of the senator, senators; about the company, companies; near the window, windows;
from the village, villages; behind the door, doors; with the red stone, stones; beside the river, rivers"""
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


def questions(count: int) -> list[Question]:
    """At most `count` of each kind, the same at every call."""
    chance, found = random.Random(0), []
    for made in (_continuations(), _agreement(), _knowledge(chance)):
        chance.shuffle(made)
        found += made[:count]
    return found


def _continuations() -> list[Question]:
    chance = random.Random(1)
    split = [re.split(r"(?<= \.) (?=[A-Z])", line.strip()) for line in text_of("prose").splitlines()]
    usable = [
        (_joined(sentences[at]), _joined(sentences[at + 1]))
        for sentences in split
        for at in range(0, len(sentences) - 1, 2)
        if all(8 <= len(each.split()) <= 30 and "<unk>" not in each for each in sentences[at : at + 2])
    ]
    return [
        Question(
            "continuation",
            begin,
            (f" {end}", *(f" {other}" for _, other in chance.sample([pair for pair in usable if pair[0] != begin], 3))),
        )
        for begin, end in usable
    ]


def _joined(sentence: str) -> str:
    """As one writes it, where WikiText has spaces between words and marks."""
    sentence = re.sub(r" @([-,.])@ ", r"\1", sentence)
    return re.sub(r" ([,.;:!?)%]|'s\b)", r"\1", sentence).replace("( ", "(")


def _agreement() -> list[Question]:
    found = []
    for pair in NOUNS.split(","):
        nouns = pair.split()
        for place in PLACES.split(";"):
            near, plural = place.strip().split(", ")
            others = (near, f"{near.rpartition(' ')[0]} {plural}")
            for number in (0, 1):
                for verbs in VERBS:
                    right, wrong = verbs[number], verbs[1 - number]
                    prompt = f"The {nouns[number]} {others[1 - number]}"
                    found.append(Question("agreement", prompt, (f" {right}", f" {wrong}")))
    return found


def _knowledge(chance: random.Random) -> list[Question]:
    found = []
    for listed, prompt in (
        (CAPITALS, "The capital of {} is"), (OPPOSITES, "The opposite of {} is"),
        (KINDS, "{} is the name of a kind of"),
    ):  # fmt: skip
        pairs = [entry.split(maxsplit=1) for entry in listed.replace("\n", " ").split(",")]
        for subject, answer in pairs:
            wrong = chance.sample([other for _, other in pairs if other != answer], 3)
            asked = prompt.format(subject if listed is not KINDS else subject.capitalize())
            found.append(Question("knowledge", asked, (f" {answer}", *(f" {other}" for other in wrong))))
    return found


@torch.inference_mode()
def chosen(model: Any, tokenizer: Any, asked: Sequence[Question]) -> list[int]:
    """The choice that the model takes for the likeliest, of each question."""
    found = []
    for question in asked:
        prompt, scores, rows = encode(tokenizer, question.prompt), [], []
        for choice in question.choices:
            rows.append(torch.tensor([*prompt, *tokenizer(choice, add_special_tokens=False).input_ids]))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # what comes after an answer changes none of it
        seen = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1].float().log_softmax(-1)
        for row, choice, nats in zip(rows, question.choices, seen, strict=True):
            answer = row[len(prompt) :]
            score = nats[: len(answer)].gather(-1, answer[:, None]).sum().item()
            scores.append(score / len(choice.encode()) if question.kind == "continuation" else score)
        found.append(max(range(len(scores)), key=scores.__getitem__))
    return found
