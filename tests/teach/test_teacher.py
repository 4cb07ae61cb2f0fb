"""What is chosen is what the scores say, whatever the loader does, and again after a resume."""

import dataclasses
import io
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hardy import InputError
from hardy.core.rng import generator
from hardy.teach import Teacher, TeacherSampler, losses, schedules, scores, selectors
from hardy.teach.examples import DatasetExamples


class Numbered(TensorDataset):
    """Pairs of which the input says the id in its first column."""

    def __init__(self, count: int = 97, outputs: int = 1) -> None:
        random = torch.Generator().manual_seed(1)
        inputs = torch.randn(count, 4, generator=random)
        inputs[:, 0] = torch.arange(count)
        super().__init__(inputs, torch.randn(count, outputs, generator=random))


class Model(nn.Module):
    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(2)
        self.inner = nn.Linear(3, 5)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(5, outputs)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.tanh(self.inner(inputs[:, 1:]))))


def ids_of(loader: DataLoader[Any]) -> list[int]:
    return [int(value) for inputs, *_ in loader for value in inputs[:, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_chosen_are_the_argsort_under_shuffling_and_workers(workers: int) -> None:
    data, model = Numbered(), Model()
    teacher = Teacher(10, selector="hard", ratio=schedules.Constant(ratio=0.2))
    sampler = TeacherSampler(data, teacher)
    loader = DataLoader(data, batch_size=8, sampler=sampler, num_workers=workers)
    assert sorted(ids_of(loader)) == list(range(97))  # nothing is chosen yet
    assert teacher.update(model, F.mse_loss, loader)
    with torch.no_grad():
        residual = (model.eval()(data.tensors[0]) - data.tensors[1]).abs().flatten()
    expected = residual.argsort(descending=True)[:19].tolist()
    first, second = ids_of(loader), ids_of(loader)
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first != second
    assert len(sampler) == 19


def test_the_true_top_teaches_more_and_places_in_a_shuffled_loader_do_not() -> None:
    """The published code's defect: scores in the order of a shuffled loader, read as if in that of the dataset."""
    data, model = Numbered(2000), Model()
    measured = DatasetExamples(model, F.mse_loss, data)
    values = measured.losses()
    teacher = Teacher(10, selector="hard", score="loss", ratio=schedules.Constant(ratio=0.05))
    teacher.update(model, F.mse_loss, data)
    assert teacher.ids is not None
    true = values[teacher.ids].mean() / values.mean()
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    wrong = values[values[order].argsort(descending=True)[:100]].mean() / values.mean()
    assert true > 3
    assert wrong == pytest.approx(1, abs=0.35)
    assert teacher.selections[0].contrast == pytest.approx(float(true))


def test_scores_are_the_closed_forms() -> None:
    data = Numbered(40, 3)
    model = Model(3).eval()
    with torch.no_grad():
        output = model(data.tensors[0])
    target = data.tensors[1]
    got = DatasetExamples(model, nn.MSELoss(), data, batch_size=7).gradient_norms()
    assert torch.allclose(got, 2 * (output - target).norm(dim=1) / 3, atol=1e-6)
    binary = (target > 0).float()
    binary[3, 1] = binary[4, :2] = float("nan")
    there = ~binary.isnan()
    residual = torch.where(there, output.sigmoid() - binary, 0).norm(dim=1) / there.sum(1)
    got = DatasetExamples(model, nn.BCEWithLogitsLoss(), TensorDataset(data.tensors[0], binary)).gradient_norms()
    assert torch.allclose(got, residual, atol=1e-6)
    classes = target.argmax(1)
    got = DatasetExamples(model, F.cross_entropy, TensorDataset(data.tensors[0], classes), batch_size=11)
    assert torch.allclose(got.gradient_norms(), (output.softmax(1) - F.one_hot(classes, 3)).norm(dim=1), atol=1e-6)
    assert torch.allclose(got.losses(), F.cross_entropy(output, classes, reduction="none"), atol=1e-6)


def test_the_kernel_score_is_that_of_the_kernel() -> None:
    data, model = Numbered(9, 2), Model(2).eval()
    outputs = model(data.tensors[0])
    rows = []
    for value in outputs.flatten():
        parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    jacobian = torch.stack(rows)
    slope = 2 * (outputs - data.tensors[1]).detach().flatten() / 2
    expected = (jacobian @ (jacobian.T @ slope)).reshape(9, 2).norm(dim=1)
    got = DatasetExamples(model, nn.MSELoss(), data, batch_size=4).kernel_norms()
    assert torch.allclose(got, expected, rtol=1e-4)


def test_scoring_leaves_modes_weights_and_the_global_generator() -> None:
    data, model = Numbered(), Model()
    model.last.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = DatasetExamples(model, F.mse_loss, data).gradient_norms()
    assert torch.equal(first, DatasetExamples(model, F.mse_loss, data).gradient_norms())  # without dropout
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert model.drop.training
    assert not model.last.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_ragged_last_batch_changes_no_score() -> None:
    data, model = Numbered(97), Model()
    whole = DatasetExamples(model, F.mse_loss, data, batch_size=97).gradient_norms()
    assert torch.allclose(whole, DatasetExamples(model, F.mse_loss, data, batch_size=10).gradient_norms(), atol=1e-6)


def test_kept_batches_are_put_together_once_and_scored_by_the_model_as_it_is_now() -> None:
    asked = []

    class Counted(Numbered):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    data, model = Counted(23), Model()
    kept = DatasetExamples(model, F.mse_loss, data, batch_size=5, keep=True)
    kept.losses()
    model.last.bias.data += 1
    assert torch.equal(kept.losses(), DatasetExamples(model, F.mse_loss, data, batch_size=5).losses())
    assert asked.count(22) == 2  # by each of them once


@pytest.mark.parametrize("name", list(selectors.SELECTORS))
def test_selectors_give_different_ids_and_as_many_as_asked(name: str) -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for count in (1, 70, 999, 1000):
        chosen = selectors.SELECTORS[name]()(values, count, generator(0))
        assert len(chosen.unique()) == len(chosen) == (1000 if name == "full" else count)
        assert torch.equal(chosen, selectors.SELECTORS[name]()(values, count, generator(0)))


def test_better_selectors_choose_higher_scores() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) ** 3
    mean = {name: values[kind()(values, 200, generator(1))].mean().item() for name, kind in selectors.SELECTORS.items()}
    assert mean["hard"] > mean["proportional"] > mean["soft"] > mean["batch"] > mean["full"]
    assert mean["hard"] > mean["mix"] > mean["random"]


def test_soft_draws_in_proportion_to_the_scores() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 5.0])
    drawn = Counter(int(selectors.Soft()(values, 1, generator(0, i))) for i in range(4000))
    assert drawn[0] == 0
    for place, share in ((1, 1 / 8), (2, 2 / 8), (3, 5 / 8)):
        assert drawn[place] / 4000 == pytest.approx(share, abs=0.03)
    zeros = Counter(int(selectors.Soft()(torch.zeros(4), 1, generator(1, i))) for i in range(400))
    assert min(zeros.values()) > 60
    cold = selectors.Soft(temperature=1e-3)(values, 2, generator(0))
    assert cold.tolist() == [3, 2]


def test_batches_are_whole_and_proportions_equal() -> None:
    values = torch.arange(100.0)
    chosen = selectors.Batch(size=10)(values, 30, generator(3))
    batches = torch.randperm(100, generator=generator(3)).split(10)
    best = sorted(batches, key=lambda batch: -values[batch].mean())[:3]
    assert sorted(chosen.tolist()) == sorted(torch.cat(best).tolist())
    chosen = set(selectors.Proportional(size=10)(values, 30, generator(3)).tolist())
    for batch in batches:
        top = batch[values[batch].argsort(descending=True)[:3]]
        assert chosen & set(batch.tolist()) == set(top.tolist())


def test_the_published_schedule() -> None:
    ratio = schedules.Staircase(start=0.05, stages=50)
    assert [ratio(time, 250) for time in (0, 4, 5, 245)] == pytest.approx([0.05, 0.05, 0.069, 0.05 + 49 * 0.019])
    assert sum(ratio(time, 250) for time in range(250)) / 250 == pytest.approx(0.5155)
    teacher, examples = Teacher(100, selector="random", interval=schedules.CatchingUp(dense=0.05)), Measures(8)
    for _ in range(100):
        teacher.choose(examples)
    due, times = 0, []
    for time in range(100):  # the rule, spelt out
        if time < 5:
            times.append(time)
        elif time >= due:
            times.append(time)
            due += 5 + 45 * time // 100
    assert [selection.time for selection in teacher.selections] == times
    growing = Teacher(100, selector="random", interval=schedules.Growing(dense=0.05))
    for _ in range(100):
        growing.choose(examples)
    assert [selection.time for selection in growing.selections] == [0, 1, 2, 3, 4, 5, 12, 22, 36, 57, 87]


def test_a_short_training_chooses_often_enough_to_come_to_all_examples() -> None:
    assert Teacher(500).interval == Teacher(5000).interval == schedules.Growing()
    for epochs in (10, 40, 200):
        plan = Teacher(epochs).plan(1000)
        assert sum(plan) / (1000 * epochs) == pytest.approx(0.48, abs=0.05)
        assert plan[-1] > 880
    assert len(set(Teacher(40).plan(1000))) > 12
    assert Teacher(40, interval=schedules.Growing()).plan(1000)[-1] < 700  # GraNT's own, made for hundreds of epochs


def test_other_schedules_stay_within_bounds() -> None:
    for name, kind in schedules.RATIOS.items():
        shares = [kind()(time, 40) for time in range(60)]
        assert all(0 < share <= 1 for share in shares), name
        assert shares[:40] == sorted(shares[:40], reverse=name == "reverse-cosine")


@dataclasses.dataclass
class Measures:
    """Examples that are nothing but given scores."""

    count: int
    values: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.count

    def losses(self) -> torch.Tensor:
        return torch.arange(self.count, dtype=torch.float32) if self.values is None else self.values

    gradient_norms = kernel_norms = losses


def trained(stop: int | None = None) -> tuple[list[list[int]], bytes]:
    """Ids that a training of 12 epochs sees, and its weights; if told, stored and begun again in the middle."""
    data = Numbered()
    model, random = Model(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    teacher = Teacher(12, ratio=schedules.Linear(start=0.1), interval=schedules.Every(updates=3), seed=5)
    sampler, seen = TeacherSampler(data, teacher), []
    model.drop.p = 0.0
    for epoch in range(12):
        if epoch == stop:
            file = io.BytesIO()
            torch.save((teacher.state_dict(), sampler.state_dict(), model.state_dict()), file)
            file.seek(0)
            states = torch.load(file, weights_only=True)
            teacher = Teacher(12, ratio=schedules.Linear(start=0.1), interval=schedules.Every(updates=3), seed=5)
            sampler, model = TeacherSampler(data, teacher), Model()
            model.drop.p = 0.0
            for new, state in zip((teacher, sampler, model), states, strict=True):
                new.load_state_dict(state)
            optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        teacher.update(model, F.mse_loss, data)
        seen.append([])
        for inputs, target in DataLoader(data, batch_size=8, sampler=sampler, generator=random):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), target).backward()
            optimizer.step()
            seen[-1] += inputs[:, 0].int().tolist()
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return seen, weights


def test_a_resumed_run_is_the_same_byte_for_byte() -> None:
    assert trained() == trained() == trained(stop=4) == trained(stop=6)


def test_random_and_full_need_no_scores_and_follow_the_schedule() -> None:
    class Blind(Measures):
        def losses(self) -> torch.Tensor:
            raise AssertionError("not to be measured")

        gradient_norms = kernel_norms = losses

    blind, seeing = (Teacher(50, selector=name) for name in ("random", "hard"))
    for _ in range(50):
        assert len(blind.choose(Blind(40))) == len(seeing.choose(Measures(40)))
    assert [s.count for s in blind.selections] == [s.count for s in seeing.selections]


def test_noisy_labels_have_other_scores() -> None:
    examples = Measures(100)
    capped = scores.LossCap(quantile=0.9)(examples)
    assert capped[:90].tolist() == list(range(90))
    assert not capped[90:].any()
    reducible = scores.ReducibleLoss(torch.full((100,), 30.0))(examples)
    assert not reducible[:31].any()
    assert reducible[99] == 69
    teacher = Teacher(9, score=scores.LossCap(quantile=0.5))
    assert "0x" not in repr(teacher)
    data, model = Numbered(), Model()
    assert torch.allclose(
        losses(model, F.l1_loss, data),
        (model.eval()(data.tensors[0]) - data.tensors[1]).abs().flatten().detach(),
        atol=1e-6,
    )


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_bad_input_is_named() -> None:
    data, model = Numbered(), Model()
    teacher = Teacher(5)
    for bad in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="ratio"):
            schedules.Constant(ratio=bad)
    with pytest.raises(InputError, match="the ratio at 0 must be"):
        Teacher(5, ratio=lambda time, total: 2.0).choose(Measures(4))
    with pytest.raises(InputError, match="selector must be soft, hard.*did you mean soft"):
        Teacher(5, selector="sof")
    with pytest.raises(InputError, match="Stream has no length"):
        TeacherSampler(Stream(), teacher)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="Stream has no length"):
        teacher.update(model, F.mse_loss, Stream())
    with pytest.raises(InputError, match="nan of example 2"):
        Teacher(5).choose(Measures(4, torch.tensor([1.0, 2.0, math.nan, 0.0])))
    with pytest.raises(InputError, match="reduction='none'"):
        teacher.update(model, lambda output, target: (output - target).square().mean(), data)
    with pytest.raises(InputError, match="no examples"):
        teacher.choose(Measures(0))
    labels = data.tensors[1].clone()
    labels[60] = float("nan")
    with pytest.raises(InputError, match="example 60 has no label"):
        teacher.update(model, F.mse_loss, TensorDataset(data.tensors[0], labels), batch_size=16)
    gaps = TensorDataset(data.tensors[0], torch.tensor([0, 2] * 48 + [0]))
    with pytest.raises(InputError, match="class labels must be from 0 to 1, got 0 to 2"):
        Teacher(5).update(Model(2), F.cross_entropy, gaps)
    with pytest.raises(InputError, match=r"labels of the shape \(97, 2\) do not fit outputs \(97, 1\)"):
        Teacher(5).update(model, F.mse_loss, TensorDataset(data.tensors[0], torch.randn(97, 2)))
    grown = Teacher(5)
    sampler = TeacherSampler(Numbered(98), grown)
    grown.update(model, F.mse_loss, data)
    with pytest.raises(InputError, match="the teacher began with 97 examples; now there are 98"):
        grown.update(model, F.mse_loss, Numbered(98))
    with pytest.raises(InputError, match="chose among 97 examples; the sampler's dataset has 98"):
        next(iter(sampler))
    with pytest.raises(InputError, match="the state is of Teacher"):
        Teacher(6).load_state_dict(grown.state_dict())
