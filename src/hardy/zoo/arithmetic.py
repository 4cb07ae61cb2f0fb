"""Chained arithmetic modulo 10, answered at once or with written steps: generated lines with exact answers.

A line is a mark, a problem worked from left to right without precedence, a colon, and the answer:

    D7+8*3-9:6                      ((7 + 8) * 3 - 9) modulo 10, answered at once
    T7+8*3-9:7+8=5*3=5-9=6;6        the same with each step written before the answer

The end of the line ends the answer. Lines before the last are its solved examples.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.evaluate.answers import greedy_answers, last_number
from hardy.zoo.recipe import Recipe

END = "\n"
SYMBOLS = END + "0123456789+-*DT:=;"
MARKS = {"direct": "D", "steps": "T"}
"""The two ways to answer, and the mark that asks for each."""
OPERATIONS = (2, 3, 4, 5)
EXAMPLE_OPERATIONS = (2, 3)
"""Of the examples before a measured problem: three of them and the longest problem fit the context."""
LONGEST_ANSWER = 3 + 4 * max(OPERATIONS) + 1
"""Tokens of the longest right answer, its end included."""
_HELD_OUT = 8
"""One problem in so many, by its hash, is never trained on."""


def is_held_out(problem: str) -> bool:
    """Whether the problem is kept from training: it is a question of its text alone."""
    return derive(0, "held out", problem) % _HELD_OUT == 0


def problem_of(draw: random.Random, operations: int, *, held_out: bool) -> str:
    """A problem such as "7+8*3-9" with this many operations, on the asked side of the split."""
    while True:
        text = str(draw.randrange(10)) + "".join(f"{draw.choice('+-*')}{draw.randrange(10)}" for _ in range(operations))
        if is_held_out(text) == held_out:
            return text


def results(problem: str) -> list[int]:
    """What each operation of the problem gives, modulo 10, from left to right.

    Raises:
        InputError: it is not digits with +, - or * between them.
    """
    numbers, signs = problem[::2], problem[1::2]
    if len(problem) % 2 == 0 or not set(numbers) <= set("0123456789") or not set(signs) <= set("+-*"):
        raise InputError(f"a problem is digits with +, - or * between them, got {problem!r}")
    found, value = [], int(numbers[0])
    for sign, digit in zip(signs, numbers[1:], strict=True):
        other = int(digit)
        value = (value + other if sign == "+" else value - other if sign == "-" else value * other) % 10
        found.append(value)
    return found


def answer(problem: str, way: str) -> str:
    """The right answer to the problem in the way "direct" or "steps", without the end of the line."""
    values = results(problem)
    if way == "direct":
        return str(values[-1])
    steps = "".join(f"{problem[2 * i + 1 : 2 * i + 3]}={value}" for i, value in enumerate(values))
    return f"{problem[0]}{steps};{values[-1]}"


def prompt(problem: str, way: str, examples: Sequence[str] = ()) -> str:
    """What the model is given: solved examples in the same way, then the problem up to its colon."""
    solved = "".join(f"{MARKS[way]}{example}:{answer(example, way)}{END}" for example in examples)
    return f"{END}{solved}{MARKS[way]}{problem}:"


def held_out_problems(each: int, *, seed: int = 0) -> list[str]:
    """`each` different problems with every number of operations, none of which was ever trained on."""
    found = []
    for operations in OPERATIONS:
        draw, chosen = random.Random(derive(seed, "evaluation", operations)), dict[str, None]()
        while len(chosen) < each:
            chosen[problem_of(draw, operations, held_out=True)] = None
        found += chosen
    return found


def examples_for(index: int, *, count: int = 3, seed: int = 0) -> list[str]:
    """The solved examples before the problem number `index`: problems of the training side."""
    draw = random.Random(derive(seed, "examples", index))
    return [problem_of(draw, draw.choice(EXAMPLE_OPERATIONS), held_out=False) for _ in range(count)]


def make_tokenizer(context: int) -> PreTrainedTokenizerFast:
    """A token for each symbol; the end of a line begins and ends a sequence, and pads it on the left."""
    tokenizer = Tokenizer(models.WordLevel({symbol: number for number, symbol in enumerate(SYMBOLS)}, END))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


class ArithmeticLines:
    """Endless generated lines: `hardy.zoo.recipe.Data` for a model that reasons.

    A window holds runs of one to four lines in the same way, so a problem has solved examples before it or none; only
    answers count for the loss, as problems are drawn at random.
    """

    def __init__(self, recipe: Recipe, out: Path) -> None:
        del out
        self._recipe = recipe
        self.tokenizer = make_tokenizer(recipe.context)
        self._ids = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        self._validation = [self._windows(random.Random(derive(recipe.seed, "validation")), 64, held_out=True)]

    def batch(self, step: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and the tokens to predict, both (batch, context); -100 where a token is part of a problem."""
        del steps
        draw = random.Random(derive(self._recipe.seed, "training", step))
        return self._windows(draw, self._recipe.batch, held_out=False)

    def validation_loss(self, model: PreTrainedModel) -> float:
        """Nats per token of the answers to held-out problems, others than those of `held_out_problems`' seed 0."""
        inputs, targets = self._validation[0]
        with torch.inference_mode():
            logits = model(input_ids=inputs.to(model.device)).logits.float().cpu()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()

    def facts(self) -> dict[str, Any]:
        """What was trained on, for the card."""
        return {
            "source": f"generated chains of {OPERATIONS[0]} to {OPERATIONS[-1]} operations on digits, modulo 10, "
            f"without the one problem in {_HELD_OUT} that is held out by its hash; answered at once and with steps",
        }

    def held_out(self, model: PreTrainedModel) -> dict[str, Any]:
        """Share of right answers to problems never trained on, by way of answering and number of operations."""
        return accuracies(model, self.tokenizer, held_out_problems(250))

    def _windows(self, draw: random.Random, rows: int, *, held_out: bool) -> tuple[torch.Tensor, torch.Tensor]:
        length = self._recipe.context + 1
        tokens, counted = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length, dtype=torch.bool)
        for row in range(rows):
            text, asked = END, [False]
            while len(text) < length:
                way = draw.choice(("direct", "direct", "steps"))  # lines of steps are longer, and easier
                for _ in range(draw.randint(1, 4)):
                    problem = problem_of(draw, draw.choice(OPERATIONS), held_out=held_out)
                    given, wanted = f"{MARKS[way]}{problem}:", answer(problem, way) + END
                    text += given + wanted
                    asked += [False] * len(given) + [True] * len(wanted)
            tokens[row] = torch.tensor([self._ids[symbol] for symbol in text[:length]])
            counted[row] = torch.tensor(asked[:length])
        return tokens[:, :-1], torch.where(counted, tokens, -100)[:, 1:]


def guesses_from_the_last_operation(count: int = 5000) -> dict[str, int]:
    """The commonest answer to problems that end in an operation such as "*5", on `count` training problems.

    What can be had without working anything out: the control of every accuracy here.
    """
    draw, seen = random.Random(derive(0, "guesses")), dict[str, list[int]]()
    for _ in range(count):
        problem = problem_of(draw, draw.choice(OPERATIONS), held_out=False)
        seen.setdefault(problem[-2:], [0] * 10)[results(problem)[-1]] += 1
    return {last: counts.index(max(counts)) for last, counts in seen.items()}


def accuracies(model: PreTrainedModel, tokenizer: Any, problems: Sequence[str]) -> dict[str, Any]:
    """Share of right answers, greedy, by way of answering, with and without three examples, and by operations."""
    guesses = guesses_from_the_last_operation()
    guessed = [guesses[problem[-2:]] == results(problem)[-1] for problem in problems]
    found: dict[str, Any] = {"problems": len(problems), "guess_from_the_last_operation": sum(guessed) / len(problems)}
    for name, way, count in (
        ("direct", "direct", 0),
        ("steps", "steps", 0),
        ("examples_direct", "direct", 3),
        ("examples_steps", "steps", 3),
    ):
        prompts = [prompt(problem, way, examples_for(i, count=count)) for i, problem in enumerate(problems)]
        given = greedy_answers(model, tokenizer, prompts, max_new_tokens=LONGEST_ANSWER + 8)
        right: dict[int, list[bool]] = {}
        for problem, one in zip(problems, given, strict=True):
            correct = one.ended and last_number(one.text) == str(results(problem)[-1])
            right.setdefault(len(problem) // 2, []).append(correct)
        found[name] = {str(operations): sum(values) / len(values) for operations, values in right.items()}
        found[name]["all"] = sum(map(sum, right.values())) / len(problems)
    return found
