"""Reasoning on a noisy chip: accuracy and length of answers by way of asking, and by where copies of layers are spent.

Source: a study of language models on memristors (arXiv 2603.13725): thinking or not, examples or not, redundancy in
shallow, middle or deep layers. Where we differ: every condition is measured on the same chip instances and problems, so
differences are paired; each third of the layers gets equally many copies, real ones. Control: the model without noise,
and the chip without copies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import PreTrainedModel

from hardy import checks
from hardy.analog import Deploy, Redundancy
from hardy.core.method import ALL_SELECTED, Method, chain, from_dict
from hardy.core.selection import LINEAR
from hardy.deprecation import renamed
from hardy.errors import InputError, near_misses
from hardy.evaluate.answers import greedy_answers, last_number
from hardy.evaluate.language import context_length
from hardy.hardware.chip import Chip
from hardy.hardware.cost import model_cost
from hardy.hardware.noise import AdditiveNoise, ProportionalNoise
from hardy.report import Report, Row
from hardy.runs.conditions import Condition
from hardy.runs.study import Study
from hardy.runs.workers import Backend
from hardy.studies.chip_study import CHIP_MEMORY
from hardy.studies.measure import dense
from hardy.studies.reasoning_report import COMPARED, METRICS, ONCE, THIRDS, figures, row_of, sentences
from hardy.studies.tasks import Task, embedded, is_right, read_tasks, ways_of
from hardy.zoo import arithmetic
from hardy.zoo.subject import Source, Subject

Noise = Literal["proportional", "additive"]
_CALIBRATION = 8
_EMBEDDED = "held-out chains of tiny-reasoner"


@renamed(seeds="n_seeds", longest="max_new_tokens")
def reasoning(
    model: Source = "tiny-reasoner",
    *,
    tasks: str | None = None,
    noise: Noise = "proportional",
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4),
    chip: str | Chip | None = None,
    n_seeds: int = 10,
    copies: int = 3,
    problems: int = 200,
    max_new_tokens: int | None = None,
    select: str = LINEAR,
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    backend: Backend = "local",
    workers: int | None = None,
) -> Report:
    """Share of right answers and their length, greedy, against noise.

    Args:
        model: a subject, or what `hardy.zoo.Subject.of` takes: a name, folder, file or hub id, or (model, tokenizer).
        tasks: a file for `hardy.studies.tasks.read_tasks`; None for the embedded ones, which are tiny-reasoner's.
        noise: "proportional" to each weight, or "additive" relative to the largest weight of each output channel.
        levels: strengths of the noise, standard deviations of a weight as in `hardy.hardware.noise`. No noise is
            always measured.
        chip: measure on this chip instead, a `Chip` or what `Chip.named` takes; noise and levels are then not used. If
            its converters need calibration, the first 8 problems serve for that and are not measured.
        n_seeds: chip instances.
        copies: of each layer in the third of the layers that gets them; 1 leaves the redundancy out.
        problems: at most so many.
        max_new_tokens: tokens of an answer at most; an answer that did not end by then counts as wrong and unfinished.
            By default 8 more than tiny-reasoner's longest right answer, or 512 for a file.
        select: the layers on the chip, as in `hardy.core.selection.select`.
        out, device, dtype, backend, workers: as in `hardy.studies.simulate`.

    Returns:
        Rows "accuracy", "tokens" (per answer) and "unfinished" (share of answers without an end or a number) for each
        way of asking and condition, and the "arrays" of each place for the copies.

    Raises:
        InputError: any of these cannot be used.
    """
    chips = _chips(noise, levels, chip)
    n_seeds = checks.integer("n_seeds", n_seeds, at_least=1)
    found = embedded(problems) if tasks is None else read_tasks(tasks, problems)
    subject = dense(model, device=device, dtype=dtype)
    places = _places(subject.model, copies)
    if tasks is None and set(subject.tokenizer.get_vocab()) != set(arithmetic.SYMBOLS):
        raise InputError(f"the embedded problems are written for tiny-reasoner; give {subject.name} a file of tasks")
    questions = Questions(
        subject=subject, tasks=found,
        calibration=_CALIBRATION if any(kind.needs_data for kind in chips.values()) else 0,
        max_new_tokens=max_new_tokens or (arithmetic.LONGEST_ANSWER + 8 if tasks is None else 512),
    )  # fmt: skip
    questions.check()
    settings = {
        "model": subject.name, "model_sha256": subject.digest, "dtype": str(subject.dtype).removeprefix("torch."),
        "device": subject.device.type, "tasks": tasks or _EMBEDDED, "tasks_sha256": _hash(found),
        "problems": problems, "max_new_tokens": questions.max_new_tokens, "calibration": questions.calibration,
        "noise": "chip" if chip is not None else noise, "select": select, "copies": copies,
        "chips": {name: kind.to_dict() for name, kind in chips.items()}, "torch": torch.__version__,
    }  # fmt: skip
    ways = ways_of(found)
    arrays = _arrays(subject.model, places, select, next(iter(chips.values()), None))
    grid = {(ONCE, ""): Condition.of("no noise", {"method": None, "ways": list(ways)})}
    for level, kind in chips.items():
        for place, redundancy in places.items():
            if asked := [way for way in ways if redundancy is None or way in COMPARED]:
                grid[place, level] = Condition.of(
                    f"{place}, {level}",
                    lambda seed, redundancy=redundancy, kind=kind, asked=asked: {
                        "method": _method(redundancy, kind, seed, select), "ways": asked,
                    },
                    range(n_seeds),
                )  # fmt: skip
    study = Study(
        name="reasoning", run=measure_answers, settings=settings, subject=questions,
        out=None if out is None else Path(out), memory=int(CHIP_MEMORY * subject.size),
        workers=None if subject.device.type == "cpu" else 1,
    )  # fmt: skip
    results = study.results(grid.values(), backend=backend, workers=workers, title=f"{subject.name} reasoning")
    if len(results.failed) == len(results):
        raise InputError(f"{subject.name} could not be measured: {results[0].error}")
    rows = [
        row
        for metric in METRICS
        for (place, level), each in grid.items()
        for way in ways
        if (row := row_of(metric, way, place, level, each, results)) is not None
    ]
    report = Report(
        title=f"{subject.name}: reasoning under noise",
        summary=tuple(sentences(ways, chips, places, grid, results)),
        rows=(*rows, *results.failures(), *arrays),
        figures=figures(rows, ways, chips, chip is None),
        settings=settings,
        notes=(*subject.notes, *results.notes()),
    )
    if out is not None:
        report.save(out)
    return report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """A subject and the problems it is asked; the first `calibration` of them only calibrate the chip."""

    subject: Subject
    tasks: Sequence[Task]
    calibration: int
    max_new_tokens: int

    def check(self) -> None:
        """Refuse before anything long begins what is too few or would not fit.

        Raises:
            InputError: it is.
        """
        if len(self.tasks) <= self.calibration:
            raise InputError(
                f"{len(self.tasks)} problems are too few: {_CALIBRATION} are needed to calibrate the chip alone"
            )
        count = lambda text: len(self.subject.tokenizer(text)["input_ids"])  # noqa: E731
        context = context_length(self.subject.model)
        for way in ways_of(self.tasks):
            length = max(count(task.prompts[way]) for task in self.tasks)
            if context is not None and length + self.max_new_tokens > context:
                raise InputError(
                    f"a prompt for {way} has {length} tokens: with {self.max_new_tokens} of answer it exceeds the "
                    f"context of {context}; give shorter prompts, or a smaller max_new_tokens"
                )


def measure_answers(questions: Questions, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Accuracy, tokens per answer and share of unfinished answers, as "way.metric", under the method of `arguments`.

    Args:
        questions: what is asked of whom.
        arguments: "method" (a `Method.to_dict`, with its seed) or None, and the "ways" of asking.
        seed: only names the repetition.
    """
    subject, first = questions.subject, questions.calibration
    model, tokenizer = subject.model, subject.tokenizer
    data = [tokenizer(questions.tasks[i].prompts[way], return_tensors="pt")["input_ids"].to(subject.device)
            for i in range(first) for way in arguments["ways"]]  # fmt: skip
    measured = questions.tasks[first:]
    change = None if arguments["method"] is None else from_dict(arguments["method"]).apply(model, data or None)
    values = {}
    try:
        for way in arguments["ways"]:
            prompts = [task.prompts[way] for task in measured]
            answers = greedy_answers(model, tokenizer, prompts, max_new_tokens=questions.max_new_tokens)
            numbers = [last_number(answer.text) if answer.ended else None for answer in answers]
            right = [is_right(number, task) for number, task in zip(numbers, measured, strict=True)]
            values[f"{way}.accuracy"] = statistics.fmean(right)
            values[f"{way}.tokens"] = statistics.fmean(answer.tokens for answer in answers)
            values[f"{way}.unfinished"] = statistics.fmean(number is None for number in numbers)
    finally:
        if change is not None:
            change.undo()
    return values


def _chips(noise: str, levels: Sequence[float], chip: str | Chip | None) -> dict[str, Chip]:
    if chip is not None:
        return {"on the chip": Chip.named(chip) if isinstance(chip, str) else chip}
    if noise not in get_args(Noise):
        known = get_args(Noise)
        raise InputError(f"noise must be {' or '.join(known)}, got {noise!r}{near_misses(str(noise), known)}")
    if not levels or any(not 0 <= level < math.inf for level in levels):
        raise InputError(f"levels must be finite numbers of at least 0, got {list(levels)}")
    kind = ProportionalNoise if noise == "proportional" else AdditiveNoise
    return {f"{noise} {level:g}": Chip.with_noise(kind(strength=level)) for level in sorted(set(levels)) if level}


def _places(model: PreTrainedModel, copies: int) -> dict[str, Redundancy | None]:
    """Where copies go: nowhere, or into a third of the layers, rounded down, at one of three places."""
    places: dict[str, Redundancy | None] = {ONCE: None}
    if copies == 1:
        return places
    count = model.config.get_text_config().num_hidden_layers
    third = count // 3
    if not third:
        raise InputError(f"a model of {count} layers has no shallow, middle and deep third; leave them out: copies=1")
    for name, begin in zip(THIRDS, (0, (count - third) // 2, count - third), strict=True):
        places[name] = Redundancy(copies=copies, layers=f"{begin}:{begin + third}")
    return places


def _method(redundancy: Redundancy | None, chip: Chip, seed: int, select: str) -> dict[str, Any]:
    deploy: Method = Deploy(chip=chip, seed=seed, select=select)
    return (deploy if redundancy is None else chain(redundancy, deploy)).to_dict()


def _arrays(
    model: PreTrainedModel, places: Mapping[str, Redundancy | None], select: str, chip: Chip | None
) -> list[Row]:
    """How many each place takes; what `chip` cannot take is refused here, before anything is measured."""
    counted = Chip.preset("reram-wan")  # arrays of 256 x 256 cells
    rows = []
    for place, redundancy in places.items():
        with contextlib.nullcontext() if redundancy is None else redundancy.apply(model):
            try:
                Deploy(chip=chip or counted, select=select).check_model(model)
            except InputError as error:
                by_role = "" if redundancy is None else "; layers that are copied are selected by role, or copies=1"
                raise InputError(f"{error}{by_role}") from None
            value = model_cost(model, counted, select=select).value("arrays", ALL_SELECTED)
        rows.append(Row(metric="arrays", condition=place, value=value, unit="of 256 x 256"))
    return rows


def _hash(tasks: Sequence[Task]) -> str:
    text = json.dumps([[dict(task.prompts), str(task.answer)] for task in tasks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
