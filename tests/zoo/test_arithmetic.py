import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.errors import InputError
from hardy.zoo import arithmetic
from hardy.zoo.arithmetic import END, MARKS, OPERATIONS, answer, prompt, results
from hardy.zoo.tiny_reasoner import recipe

PROBLEMS = st.from_regex(r"[0-9]([-+*][0-9]){1,6}", fullmatch=True).filter(lambda text: text.isascii())


@given(PROBLEMS)
def test_results_are_those_of_python_with_brackets(problem: str) -> None:
    value, found = problem[0], []
    for i in range(1, len(problem), 2):
        value = f"({value}{problem[i : i + 2]})"
        found.append(eval(value) % 10)
    assert results(problem) == found
    steps = answer(problem, "steps")
    assert len(steps) + 1 == 1 + 4 * len(found) + 2 + 1
    assert re.sub(r"=\d", "", steps.split(";")[0]) == problem
    assert steps[-1] == answer(problem, "direct") == str(found[-1])


def test_what_is_no_problem_is_refused() -> None:
    for wrong in ("", "3+", "3/5", "12+3", "٣+5"):
        with pytest.raises(InputError, match="a problem is digits"):
            results(wrong)


@given(PROBLEMS, st.sampled_from(sorted(MARKS)))
def test_lines_round_trip_and_the_longest_prompt_fits(problem: str, way: str) -> None:
    tokenizer = arithmetic.make_tokenizer(128)
    line = prompt(problem, way, ["1+2-3"]) + answer(problem, way) + END
    ids = tokenizer(line)["input_ids"]
    assert len(ids) == len(line)
    assert tokenizer.decode(ids) == line


def test_held_out_problems_are_never_trained_on_and_examples_are_not_held_out() -> None:
    problems = arithmetic.held_out_problems(40)
    assert [len(problem) // 2 for problem in problems] == [n for n in OPERATIONS for _ in range(40)]
    assert len(set(problems)) == 160
    examples = [example for i in range(50) for example in arithmetic.examples_for(i)]
    assert not set(problems) & set(examples)
    data = arithmetic.ArithmeticLines(recipe, None)  # pyright: ignore[reportArgumentType]
    seen = set()
    for step in range(30):
        for row in data.batch(step, 30)[0].tolist():
            seen |= set(re.findall(r"[DT]([0-9+*-]+):", data.tokenizer.decode(row)))
    assert len(seen) > 1000
    assert not any(arithmetic.is_held_out(problem) for problem in seen)
    assert all(arithmetic.is_held_out(problem) for problem in problems)
    longest = max(len(prompt(p, "steps", arithmetic.examples_for(i))) for i, p in enumerate(problems * 5))
    assert longest + arithmetic.LONGEST_ANSWER <= recipe.context


def test_only_answers_are_targets_and_windows_depend_on_the_step_alone() -> None:
    data = arithmetic.ArithmeticLines(recipe, None)  # pyright: ignore[reportArgumentType]
    inputs, targets = data.batch(3, 10)
    assert inputs.shape == targets.shape == (recipe.batch, recipe.context)
    again = data.batch(3, 99)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    assert not torch.equal(inputs, data.batch(4, 10)[0])
    text, counted = data.tokenizer.decode(inputs[0]), targets[0]
    for i in range(recipe.context - 1):
        if counted[i] != -100:
            assert counted[i] == inputs[0, i + 1]
    asked = False
    for i, symbol in enumerate(text[:-1]):
        asked = symbol == ":" or (asked and symbol != END)
        assert (counted[i] != -100) == asked, (text, i)


def test_problems_of_both_sides_of_the_split_can_be_drawn() -> None:
    draw = random.Random(0)
    shares = [arithmetic.is_held_out(arithmetic.problem_of(draw, 3, held_out=side)) for side in (True, False)]
    assert shares == [True, False]
