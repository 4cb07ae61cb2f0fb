"""A behaviour to explain: prompts that show it, the same prompts with the decisive part changed, and the answers.

A task file has one JSON object a line:

    {"clean": "When Mary and John went out, John gave a drink to", "corrupt": "When Mary and John went out, Mary gave a
     drink to", "right": " Mary", "wrong": " John"}

`right` and `wrong` may be lists. Without "corrupt" a task can be read but not patched.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.files import write_text
from hardy.reading import reading


@dataclasses.dataclass(frozen=True)
class Example:
    """One line of a task file."""

    clean: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    corrupt: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        answers = {"right": self.right, "wrong": self.wrong}
        plain = {name: value[0] if len(value) == 1 else list(value) for name, value in answers.items()}
        record = {"clean": self.clean, "corrupt": self.corrupt, **plain}
        return {name: value for name, value in record.items() if value not in (None, [])}


def read_lines(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file with their line numbers; empty lines are skipped.

    Raises:
        InputError: there is no such file, or a line is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file at {path}")
    found = []
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        with reading(f"{path}, line {number}"):
            record = json.loads(line)
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: a JSON object is needed, got {line[:60]!r}")
        found.append((number, record))
    if not found:
        raise InputError(f"{path} is empty")
    return found


def read_examples(path: str | Path) -> list[Example]:
    """The examples of a task file.

    Raises:
        InputError: a line lacks a field, has one too many, or one of the wrong type.
    """
    examples = []
    for number, record in read_lines(path):
        where = f"{path}, line {number}"
        unknown = record.keys() - {"clean", "corrupt", "right", "wrong"}
        missing = {"clean", "right"} - record.keys()
        if unknown or missing:
            raise InputError(f"{where}: needs clean and right, takes corrupt and wrong; {_problem(missing, unknown)}")
        answers = {}
        for name in ("right", "wrong"):
            value = record.get(name, [])
            answers[name] = (value,) if isinstance(value, str) else checks.texts(f"{where}: {name}", value)
        if not answers["right"]:
            raise InputError(f"{where}: right is empty")
        corrupt = record.get("corrupt")
        if corrupt is not None:
            corrupt = checks.text(f"{where}: corrupt", corrupt)
        examples.append(Example(checks.text(f"{where}: clean", record["clean"]), corrupt=corrupt, **answers))
    return examples


def write_examples(path: str | Path, examples: Sequence[Example]) -> Path:
    """Write a task file, atomically."""
    write_text(path, "".join(json.dumps(example.to_json(), ensure_ascii=False) + "\n" for example in examples))
    return Path(path)


def _problem(missing: set[str], unknown: set[str]) -> str:
    parts = [f"{' and '.join(sorted(missing))} is missing"] * bool(missing)
    return ", ".join([*parts, *[f"{' and '.join(sorted(unknown))} is unknown"] * bool(unknown)])


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A behaviour in tokens, measured at the last position of each prompt.

    Attributes:
        clean: (n, length) token ids, padded on the left.
        right: (n, r) token ids of the right answers, -1 where an example has fewer.
        wrong: (n, w), likewise; w = 0 measures right answers against all others.
        corrupt: (n, length) or None: the same prompts with the decisive part changed.
        mask: (n, length), 0 where there is padding; None if there is none.
        name: for reports.
        notes: what a reader of figures should know, such as answers that were cut.
    """

    clean: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor
    corrupt: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    name: str = "task"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.clean)
        if self.clean.ndim != 2 or not n or self.clean.shape[1] < 1:
            raise InputError(f"clean must be (n, length) token ids, got {tuple(self.clean.shape)}")
        if self.corrupt is not None and self.corrupt.shape != self.clean.shape:
            raise InputError(f"corrupt must be {tuple(self.clean.shape)} as clean is, got {tuple(self.corrupt.shape)}")
        for name, answers in (("right", self.right), ("wrong", self.wrong)):
            if answers.ndim != 2 or len(answers) != n:
                raise InputError(f"{name} must be ({n}, answers) token ids, got {tuple(answers.shape)}")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def length(self) -> int:
        """Positions of a prompt, padding included."""
        return self.clean.shape[1]

    @classmethod
    def of(
        cls, examples: Sequence[Example] | str | Path, tokenizer: Any, *, first_token: bool = False, name: str = ""
    ) -> Task:
        """The task in a file or a list of examples, for one tokenizer.

        Args:
            examples: a task file, or what it holds.
            tokenizer: of the model.
            first_token: judge an answer of several tokens by its first, which is noted; else it is refused.
            name: for reports; the file's own by default.

        Raises:
            InputError: a pair is of unequal length, or an answer is of several tokens, with its line and tokens.
        """
        if not isinstance(examples, Sequence) or isinstance(examples, str):
            name = name or Path(examples).stem
            examples = read_examples(examples)
        if not examples:
            raise InputError("a task needs at least one example")
        clean = [_tokens(tokenizer, each.clean) for each in examples]
        has_corrupt = [each.corrupt is not None for each in examples]
        if any(has_corrupt) and not all(has_corrupt):
            raise InputError(f"example {has_corrupt.index(False) + 1} has no corrupt prompt, others have")
        corrupt = [_tokens(tokenizer, each.corrupt) for each in examples if each.corrupt is not None]
        for number, (a, b) in enumerate(zip(clean, corrupt, strict=False), start=1):
            if len(a) != len(b):
                raise InputError(
                    f"example {number}: clean has {len(a)} tokens and corrupt {len(b)}, but activations are patched "
                    f"position by position: {tokenizer.convert_ids_to_tokens(a)} / {tokenizer.convert_ids_to_tokens(b)}"
                )
        cut: list[str] = []
        right = [_answers(tokenizer, each.right, number, first_token, cut) for number, each in enumerate(examples, 1)]
        wrong = [_answers(tokenizer, each.wrong, number, first_token, cut) for number, each in enumerate(examples, 1)]
        for number, (a, b) in enumerate(zip(right, wrong, strict=True), start=1):
            if set(a) & set(b):
                raise InputError(
                    f"example {number}: {tokenizer.convert_ids_to_tokens(sorted(set(a) & set(b)))} is right and wrong"
                )
        filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        padded, mask = _left(clean, filler)
        notes = (
            (f"{len(cut)} answers of several tokens are judged by their first: {', '.join(cut[:5])}",) if cut else ()
        )
        return cls(
            padded, _table(right), _table(wrong), _left(corrupt, filler)[0] if corrupt else None,
            None if mask.all() else mask, name or "task", notes,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Task:
        """The same on a device."""
        moved: Any = {name: None if value is None else value.to(device) for name, value in self._tensors().items()}
        return dataclasses.replace(self, **moved)

    def take(self, places: Sequence[int] | slice) -> Task:
        """The examples at `places`."""
        rows: Any = {name: value if value is None else value[places] for name, value in self._tensors().items()}
        return dataclasses.replace(self, **rows)

    def batches(self, size: int) -> Iterator[Task]:
        """Parts of at most `size` examples, in order."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def shuffled(self, seed: int) -> Task:
        """The control: the answers are those of other examples, so that there is no behaviour to find."""
        order = torch.randperm(len(self), generator=generator(seed, "shuffled-answers"))
        if len(self) > 1:  # a cycle: nobody keeps its own
            target = torch.empty_like(order)
            target[order] = order.roll(1)
            order = target
        return dataclasses.replace(
            self, right=self.right[order], wrong=self.wrong[order], name=f"{self.name}, shuffled"
        )

    def _tensors(self) -> Mapping[str, torch.Tensor | None]:
        names = ("clean", "right", "wrong", "corrupt", "mask")
        return {name: getattr(self, name) for name in names}

    def inputs(self, side: str = "clean") -> dict[str, Any]:
        """Keyword arguments for the model; "clean" or "corrupt".

        Raises:
            InputError: the task has no corrupt prompts.
        """
        ids = self.clean if side == "clean" else self.corrupt
        if ids is None:
            raise InputError(f"{self.name} has no corrupt prompts; this needs pairs of clean and corrupt ones")
        found: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if self.mask is not None:
            found["attention_mask"] = self.mask
            found["position_ids"] = (self.mask.long().cumsum(-1) - 1).clamp_min(0)
        return found

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The log-odds of right against wrong answers, (n,): for one of each, their logit difference.

        Args:
            logits: (n, positions, vocabulary), or (n, vocabulary) at the last position.
        """
        last = (logits[:, -1] if logits.ndim == 3 else logits).float()
        right = _pooled(last, self.right)
        if self.wrong.shape[1]:
            return right - _pooled(last, self.wrong)
        own = torch.where(self.right < 0, self.right[:, :1], self.right)
        others = last.scatter(1, own, float("-inf"))
        return right - others.logsumexp(-1)


def _pooled(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    chosen = logits.gather(1, answers.clamp_min(0))
    return chosen.masked_fill(answers < 0, float("-inf")).logsumexp(-1)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text).input_ids
    if not ids:
        raise InputError(f"{text!r} has no tokens")
    return ids


def _answers(tokenizer: Any, texts: Sequence[str], number: int, first_token: bool, cut: list[str]) -> list[int]:
    found = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if not ids:
            raise InputError(f"example {number}: the answer {text!r} has no tokens")
        if len(ids) > 1:
            if not first_token:
                raise InputError(
                    f"example {number}: the answer {text!r} is {len(ids)} tokens, "
                    f"{tokenizer.convert_ids_to_tokens(ids)}; most answers begin with a space, and --first-token "
                    "(first_token=True) judges by the first"
                )
            cut.append(repr(text))
        found.append(ids[0])
    return found


def _left(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[filler] * (length - len(row)) + list(row) for row in rows])
    return ids, torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])


def _table(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows]).reshape(len(rows), width)


@torch.no_grad()
def scores(model: nn.Module, task: Task, side: str = "clean", batch: int = 32) -> torch.Tensor:
    """The log-odds of every example, (n,), as the model is now."""
    return torch.cat([part.score(last_logits(model, part.inputs(side))) for part in task.batches(batch)])


def last_logits(model: nn.Module, inputs: Mapping[str, Any], count: int | None = None) -> torch.Tensor:
    """Logits at the last position, (n, vocabulary), or at the `count` last, (n, count, vocabulary), without those of
    the others where the model can leave them out."""
    keep = {"logits_to_keep": count or 1} if "logits_to_keep" in _parameters(model) else {}
    logits = model(**inputs, **keep).logits
    return logits[:, -1] if count is None else logits[:, -count:]


def _parameters(model: nn.Module) -> Mapping[str, Any]:
    return inspect.signature(model.forward).parameters
