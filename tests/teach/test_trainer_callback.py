"""Token sequences through a teacher, in a loop of one's own and in the `Trainer` of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hardy import InputError
from hardy.teach import Teacher, TeacherCallback, schedules
from hardy.teach.examples import DatasetExamples
from hardy.teach.language import Course


class Sequences(list[dict[str, torch.Tensor]]):
    """Of seven tokens."""

    def __init__(self, count: int = 23) -> None:
        random = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, 64, (count, 7), generator=random)
        super().__init__({"input_ids": row, "labels": row.clone()} for row in tokens)


def test_token_sequences_are_scored_by_their_own_tokens(llama: nn.Module) -> None:
    data = Sequences(9)
    data[4]["labels"][:4] = -100
    got = DatasetExamples(llama, nn.CrossEntropyLoss(), data, batch_size=4).losses()
    with torch.no_grad():
        expected = [llama(each["input_ids"][None], labels=each["labels"][None]).loss.item() for each in data]
    assert got.tolist() == pytest.approx(expected, rel=1e-4)
    teacher = Teacher(3, selector="hard", score="loss", ratio=schedules.Constant(ratio=0.34))
    teacher.update(llama, nn.CrossEntropyLoss(), data)
    assert teacher.ids is not None
    assert teacher.ids.tolist() == torch.tensor(expected).argsort(descending=True)[:3].tolist()


def trainer_of(model: nn.Module, folder: Path, seen: list[list[int]], teacher: Teacher, **fields: Any) -> Any:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    data = Sequences()
    place = {tuple(each["input_ids"].tolist()): index for index, each in enumerate(data)}

    class Watched(Trainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            seen.append([place[tuple(row)] for row in inputs["input_ids"].tolist()])
            return super().training_step(model, inputs, *rest)

    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, learning_rate=1e-2, save_strategy="steps", save_steps=3,
        report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True, **fields,
    )  # fmt: skip
    return TeacherCallback(teacher, batch_size=8).attach(Watched(model, arguments, train_dataset=data))


def teacher_of(**fields: Any) -> Teacher:
    settings: dict[str, Any] = {"ratio": schedules.Linear(start=0.2), "interval": schedules.Every(updates=2)}
    return Teacher(6, score="loss", **settings | fields)


def test_a_trainer_sees_what_the_teacher_chose_and_goes_on_the_same(llama: nn.Module, tmp_path: Path) -> None:
    start = {name: value.clone() for name, value in llama.state_dict().items()}
    seen: list[list[int]] = []
    whole = trainer_of(llama, tmp_path, seen, teacher := teacher_of())
    counts = teacher.plan(23)
    whole.train()
    assert counts == [5, 5, 11, 11, 17, 17]
    assert whole.state.global_step == whole.state.max_steps == len(seen) == -(-sum(counts) // 4)
    flat = [place for batch in seen for place in batch]
    for first, second in ((0, 5), (10, 21), (32, 49)):  # both epochs of a choice have the same examples
        size = second - first
        assert sorted(flat[first:second]) == sorted(flat[second : second + size])
        assert len(set(flat[first:second])) == size
    assert [selection.time for selection in teacher.selections] == [0, 2, 4]
    end = {name: value.clone() for name, value in llama.state_dict().items()}
    for step in (3, 9):
        llama.load_state_dict(start)
        again: list[list[int]] = []
        later = trainer_of(llama, tmp_path, again, teacher_of())
        later.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert again == seen[step:]
        assert all(torch.equal(value, end[name]) for name, value in llama.state_dict().items())
    stored = json.loads((tmp_path / "checkpoint-9" / "trainer_state.json").read_text())
    course = Course(Sequences(), teacher_of(selector="hard"), lambda: None)
    with pytest.raises(InputError, match="the state is of Teacher"):
        course.load_state_dict(stored["stateful_callbacks"]["hardy.teach"])


def test_a_trainer_that_no_teacher_can_lead_is_told(llama: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_steps is 5"):
        trainer_of(llama, tmp_path, [], teacher_of(), max_steps=5)
    taught = teacher_of()
    trainer = trainer_of(llama, tmp_path, [], taught, num_train_epochs=7)
    assert trainer.args.num_train_epochs == 1
    taught.choose(type("Blind", (), {"__len__": lambda self: 23, "losses": lambda self: torch.ones(23)})())
    with pytest.raises(InputError, match="has taught 1 epochs before"):
        trainer.train()
