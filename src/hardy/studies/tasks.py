"""Problems with one right number each, and a prompt for each way of being asked: the zoo's own, or a user's file."""

import dataclasses
import decimal
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hardy.errors import InputError, near_misses
from hardy.zoo import arithmetic
from hardy.zoo.text import read_text

WAYS = ("direct", "steps", "examples_direct", "examples_steps")
"""An answer at once, after written steps, and both after solved examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A problem: its `prompts` by way of asking (some or all of `WAYS`), and the number that is right."""

    prompts: Mapping[str, str]
    answer: decimal.Decimal


def is_right(number: str | None, task: Task) -> bool:
    """Whether the written number is the answer: "4" and "4.0" are the same."""
    return number is not None and decimal.Decimal(number) == task.answer


def embedded(count: int) -> list[Task]:
    """At most `count` held-out chains of tiny-reasoner, as many of each number of operations, mixed.

    Raises:
        InputError: `count` is below the number of lengths.
    """
    each = count // len(arithmetic.OPERATIONS)
    if each < 1:
        raise InputError(f"problems must be at least {len(arithmetic.OPERATIONS)}, one of each length, got {count}")
    problems = arithmetic.held_out_problems(each)
    mixed = [problem for start in range(each) for problem in problems[start::each]]
    tasks = []
    for index, problem in enumerate(mixed):
        examples = arithmetic.examples_for(index)
        prompts = {
            "direct": arithmetic.prompt(problem, "direct"),
            "steps": arithmetic.prompt(problem, "steps"),
            "examples_direct": arithmetic.prompt(problem, "direct", examples),
            "examples_steps": arithmetic.prompt(problem, "steps", examples),
        }
        tasks.append(Task(prompts=prompts, answer=decimal.Decimal(arithmetic.results(problem)[-1])))
    return tasks


def read_tasks(path: str, count: int) -> list[Task]:
    """The first `count` problems of a file of JSON lines.

    Each line is an object with the right number, "answer" (a number, or its text), and complete prompts as texts under
    some of "direct", "steps", "examples_direct" and "examples_steps", the same ones in every line.

    Raises:
        InputError: the file or one of its lines, which is named, is not that.
    """
    tasks: list[Task] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            tasks.append(_task(line, f"line {number} of {path}"))
            if tasks[-1].prompts.keys() != tasks[0].prompts.keys():
                raise InputError(
                    f"line {number} of {path} has the prompts {', '.join(tasks[-1].prompts)}; the first line has "
                    f"{', '.join(tasks[0].prompts)}"
                )
    if count < 1:
        raise InputError(f"problems must be at least 1, got {count}")
    return tasks[:count]


def ways_of(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The ways in which the tasks can be asked, in the order of `WAYS`."""
    return tuple(way for way in WAYS if way in tasks[0].prompts)


def _task(line: str, where: str) -> Task:
    try:
        record: Any = json.loads(line, parse_float=str, parse_int=str)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} must be a JSON object, got {line.strip()[:60]}")
    known = ("answer", *WAYS)
    for key, value in record.items():
        if key not in known:
            raise InputError(f"{where} has an unknown key {key!r}{near_misses(key, known)}; known: {', '.join(known)}")
        if not isinstance(value, str) or not value:
            raise InputError(f"{where}: {key} must be a text that is not empty, got {json.dumps(value)[:60]}")
    prompts = {way: record[way] for way in WAYS if way in record}
    if "answer" not in record or not prompts:
        raise InputError(f"{where} needs an answer and a prompt under at least one of {', '.join(WAYS)}")
    try:
        answer = decimal.Decimal(record["answer"])
    except decimal.InvalidOperation:
        raise InputError(f"{where}: answer must be a number, got {record['answer']!r}") from None
    if not answer.is_finite():
        raise InputError(f"{where}: answer must be finite, got {record['answer']!r}")
    return Task(prompts=prompts, answer=answer)
