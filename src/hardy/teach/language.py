"""A teacher for the `Trainer` of transformers: the sequences it is fine-tuned on are those that still teach (AtteNT).

Source: AtteNT (arXiv 2602.20461): the sequences of the highest error, drawn softly, more and more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback

from hardy import checks
from hardy.errors import InputError
from hardy.teach.examples import DatasetExamples, Read, read_batch
from hardy.teach.sampler import TeacherSampler
from hardy.teach.teacher import Teacher

KEPT_AS = "hardy.teach"
"""Where a checkpoint of the trainer has the teacher's state, beside those of other callbacks."""


class TeacherCallback(TrainerCallback):
    """Gives a `Trainer` what `teacher` chooses: `TeacherCallback(teacher).attach(trainer)`, then `trainer.train()`.

    All epochs of the teacher are one epoch of the trainer, as long as they are together: its steps, learning rates and
    progress are those of the examples that will be seen. Examples are chosen when the trainer fetches the first batch
    of the teacher's next epoch, which is while it still trains on the batch before (on those before, with workers). A
    checkpoint of the trainer holds the choice, and `trainer.train(resume_from_checkpoint=True)` goes on with the same
    examples, exactly so without workers.

    Args:
        teacher: its `updates` are the epochs.
        loss: that examples are scored by; by default cross entropy of the tokens whose label is not -100.
        batch_size: of scoring; by default the trainer's for evaluation.
        read: see `hardy.teach.read_batch`.
    """

    def __init__(
        self, teacher: Teacher, *, loss: Any = None, batch_size: int | None = None, read: Read = read_batch
    ) -> None:
        self.teacher, self.loss, self.read = teacher, nn.CrossEntropyLoss() if loss is None else loss, read
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, at_least=1)
        self.sampler: Course | None = None

    def attach(self, trainer: Trainer) -> Trainer:
        """Make `trainer` train on what the teacher chooses; the trainer again.

        Raises:
            InputError: the trainer has no dataset with ids, is one of several processes, or has a limit of steps.
        """
        dataset: Any = trainer.train_dataset
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"a teacher needs examples with ids: {type(dataset).__name__} has no length or no items")
        if trainer.args.world_size > 1:
            raise InputError(f"a teacher works in one process, got {trainer.args.world_size}")
        if trainer.args.max_steps > 0:
            raise InputError(f"the teacher's updates say how long training is; max_steps is {trainer.args.max_steps}")
        trainer.args.num_train_epochs = 1
        loaders: list[DataLoader[Any]] = []

        def choose() -> None:
            if not loaders:
                made = trainer.get_train_dataloader()  # for its collator and its columns
                size = self.batch_size or trainer.args.eval_batch_size
                loaders.append(DataLoader(made.dataset, batch_size=size, collate_fn=made.collate_fn))
            model: Any = trainer.model
            self.teacher.choose(DatasetExamples(model, self.loss, loaders[0], read=self.read))

        self.sampler = course = Course(dataset, self.teacher, choose)
        setattr(trainer, "_get_train_sampler", lambda *_, **__: course)  # noqa: B010 - what a subclass would override
        trainer.add_callback(self)
        return trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 0 or self.sampler is None:
            return
        if KEPT_AS not in state.stateful_callbacks:
            raise InputError(f"the checkpoint of step {state.global_step} holds no teacher")
        self.sampler.load_state_dict(state.stateful_callbacks[KEPT_AS])

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if control.should_save and self.sampler is not None:
            seen = state.global_step * args.train_batch_size * args.gradient_accumulation_steps
            state.stateful_callbacks[KEPT_AS] = self.sampler.state_dict(seen)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.on_step_end(args, state, control)


class Course(Sampler[int]):
    """All epochs of a teacher, one after the other; it chooses when the first id of an epoch is asked for.

    Args:
        dataset: what is sampled; only its length is asked for.
        teacher: fresh, or as `load_state_dict` leaves it.
        choose: has the teacher choose for its next epoch.
    """

    def __init__(self, dataset: Any, teacher: Teacher, choose: Callable[[], None]) -> None:
        self.dataset, self.teacher, self.choose = dataset, teacher, choose
        self.counts = teacher.plan(len(dataset))
        self.first = 0
        self.begun: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[int]:
        if self.teacher.time != (self.first + 1 if self.begun else 0):
            raise InputError(f"the teacher has taught {self.teacher.time} epochs before; make a new one")
        for time, count in enumerate(self.counts):
            if time < self.first:
                yield from [0] * count  # a trainer that resumes skips them unseen
                continue
            if time >= self.teacher.time:
                self.choose()
            # Two epochs: a loader is ahead of training by a batch, and may have begun the next.
            self.begun = {time: self.teacher.state_dict()} | {
                t: state for t, state in self.begun.items() if t == time - 1
            }
            order = TeacherSampler(self.dataset, self.teacher)
            order.passes = time
            yield from order

    def state_dict(self, seen: int) -> dict[str, Any]:
        """Where the epoch began that the example after `seen` ones is of: lists and numbers."""
        time, left = 0, seen
        while time < len(self.counts) - 1 and left >= self.counts[time]:
            left -= self.counts[time]
            time += 1
        time = time if time in self.begun else max(self.begun)
        plain = {
            name: value.tolist() if isinstance(value, torch.Tensor) else value
            for name, value in self.begun[time].items()
        }
        return {"epoch": time, "teacher": plain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            InputError: it is of another teacher, or damaged.
        """
        if not isinstance(state.get("teacher"), Mapping):
            raise InputError("the state of the teacher is damaged: it has no teacher")
        held = dict(state["teacher"])
        held |= {name: torch.tensor(held[name]) for name in ("ids", "kernel") if held.get(name) is not None}
        self.teacher.load_state_dict(held)
        self.first = checks.integer("epoch", state.get("epoch"), at_least=0)
        self.begun = {self.first: self.teacher.state_dict()}
