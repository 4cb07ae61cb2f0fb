"""Teaching graph networks: full, taught in four ways, and random by the same schedule; real labels and noiseless ones.

MUTAG, PTC, PROTEINS, ENZYMES, ESOL, FreeSolv, lipophilicity and Cora (beside the checkout), each with its own labels
and with those of a random GIN on the same graphs, which hold no noise; and generated graphs. Of PROTEINS, ESOL and
lipophilicity 650 graphs are taken, drawn once. GIN of three layers, AdamW, minibatches; the share of the examples grows
from 5 % to all, and they are chosen anew every epoch at first and after a tenth of the epochs in the end. The same
split, start and order for every arm of a seed.

Controls: full training, and random choice of as many examples at the same times; both are also compared at equal
samples and at equal CPU seconds. The ceiling: an oracle that sees the labels of the test part and takes, at each time
of the same schedule, the best of four choices in hindsight. It has two seeds, and its own time, that of many
trainings, means nothing.

    python -m benchmarks run teach_table
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader as GraphLoader

from benchmarks.harness import SHARED, Result
from hardy.core.rng import generator
from hardy.core.teaching import Examples
from hardy.report import Row
from hardy.runs.conditions import Condition
from hardy.runs.study import Study
from hardy.teach import Teacher, graphs, losses, scores, selectors
from hardy.teach.examples import DatasetExamples, example_losses
from hardy.teach.experiment import Plan, lesson, run_arm
from hardy.teach.graphs import GraphSet
from hardy.teach.networks import network
from hardy.teach.page import FULL, RANDOM, made_report
from hardy.teach.training import Training, examples_of

PEERS = ("torch-geometric", "rdkit")
FOLDER = SHARED / "graphs"

# Name: epochs, batch size.
SETS = {
    "generated graph-regression": (40, 32),
    "MUTAG": (60, 16),
    "PTC": (40, 16),
    "freesolv": (30, 32),
    "ENZYMES": (20, 32),
    "esol": (20, 32),
    "PROTEINS": (10, 32),
    "cora": (8, 512),
    "lipophilicity": (12, 32),
}
TARGETS = {
    "esol": "measured log solubility in mols per litre",
    "freesolv": "expt",
    "lipophilicity": "exp",
}
MOST = 650
"""Graphs of a set."""
TAUGHT = ("soft", "hard", "mix")
CAPPED, ORACLE = "soft, loss cap", "oracle"
ORACLE_SEEDS = 2
RANDOM_GIN = 1000
"""Seed of the network that makes noiseless labels."""


def cora() -> GraphSet:
    """One graph of papers that cite each other, both ways; what is learned is the subject of each."""
    stored = np.load(FOLDER / "cora.npz", allow_pickle=False)
    from scipy.sparse import csr_matrix

    def matrix(name: str) -> Any:
        parts = [stored[f"{name}_{part}"] for part in ("data", "indices", "indptr")]
        return csr_matrix(tuple(parts), shape=tuple(stored[f"{name}_shape"]))

    links = matrix("adj")
    both = (links + links.T).tocoo()
    edges = torch.tensor(np.stack([both.row, both.col]), dtype=torch.long)
    x = torch.tensor(matrix("attr").toarray(), dtype=torch.float32)
    labels, known = graphs.consecutive(stored["labels"].tolist())
    graph = Data(x=x, edge_index=edges, y=torch.tensor(labels))
    return GraphSet("cora", "node-classification", [graph], len(known))


def read(name: str) -> GraphSet | None:
    """The set, or None where its file is not there."""
    if name.startswith("generated"):
        return graphs.generated("graph-regression", 400, nodes=(8, 16), features=10)
    ending = ".npz" if name == "cora" else ".csv" if name in TARGETS else ".txt"
    if not (FOLDER / f"{name}{ending}").is_file():
        return None
    if name == "cora":
        return cora()
    data = graphs.read(FOLDER / f"{name}{ending}", target=TARGETS.get(name))
    if len(data) <= MOST:
        return data
    drawn = torch.randperm(len(data), generator=generator(0, "drawn", name))[:MOST].sort().values.tolist()
    names = tuple(data.names[place] for place in drawn) if data.names else ()
    note = f"{MOST} of {len(data)} graphs, drawn once"
    return dataclasses.replace(
        data, graphs=[data.graphs[place] for place in drawn], names=names, notes=(*data.notes, note)
    )


@torch.no_grad()
def noiseless(data: GraphSet) -> GraphSet:
    """The same graphs with the output of a random GIN as labels, in standard deviations."""
    level = data.task.partition("-")[0]
    made = dataclasses.replace(data, name=f"{data.name}, noiseless", task=f"{level}-regression", outputs=1)
    net = network("gin", made, width=64, seed=RANDOM_GIN).eval()
    outputs = [net(Batch.from_data_list([graph])) for graph in data.graphs]
    whole = torch.cat(outputs)
    found = []
    for graph, output in zip(data.graphs, outputs, strict=True):
        found.append(changed := graph.clone())
        changed.y = (output - whole.mean()) / whole.std()
    return dataclasses.replace(made, graphs=found)


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle:
    """1 for the examples of the best of four choices in hindsight, random, soft, hard and half hard: the one after an
    epoch of which the loss of the test part is the lowest, on a copy of the network."""

    teacher: Teacher
    plan: Plan
    data: GraphSet
    ids: tuple[int, ...]

    def __call__(self, examples: Examples) -> torch.Tensor:
        assert isinstance(examples, DatasetExamples)
        teacher, found = self.teacher, torch.zeros(len(examples))
        count = max(1, round(teacher.ratio(teacher.time, teacher.updates) * len(examples)))
        norms = examples.gradient_norms()
        kinds = (selectors.Random(), selectors.Soft(), selectors.Hard(), selectors.Mix())
        tried = [kind(norms, count, generator(teacher.seed, "oracle", teacher.time, k)) for k, kind in enumerate(kinds)]
        found[min(tried, key=lambda chosen: self.loss_after(examples, chosen))] = 1.0
        return found

    def loss_after(self, examples: DatasetExamples, chosen: torch.Tensor) -> float:
        """The loss of the test part after an epoch on the chosen examples."""
        training, model = self.plan.training, copy.deepcopy(examples.model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate)
        part: Any = Subset(examples.dataset, chosen.tolist())
        for batch in GraphLoader(part, batch_size=training.batch_size, generator=torch.Generator()):
            optimizer.zero_grad()
            example_losses(examples.loss, examples.read(model, batch))[0].mean().backward()
            optimizer.step()
        dataset, ask = examples_of(self.data, self.ids)
        return losses(model, examples.loss, dataset, read=ask).mean().item()


def arm(data: GraphSet, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One training of one arm."""
    plan, name = Plan.of_record(arguments["plan"]), arguments["selector"]
    if name not in (CAPPED, ORACLE):
        return run_arm(data, arguments, seed)

    def teacher(scaled: GraphSet, test_ids: Any) -> Teacher:
        found = plan.teacher("hard" if name == ORACLE else "soft", seed)
        found.score = Oracle(found, plan, scaled, tuple(test_ids)) if name == ORACLE else scores.LossCap()
        return found

    return lesson(data, plan, seed, teacher)


def measured(data: GraphSet, plan: Plan, seeds: int, out: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Every arm of one set: rows whose conditions begin with its name, and what to say of it."""
    plain = dataclasses.asdict(plan)
    settings = {"data": data.name, "plan": plain}
    study = Study(name="teach table", run=arm, settings=settings, subject=data, out=out, workers=1)
    capped = () if data.task.endswith("regression") else (CAPPED,)  # made for labels that are wrong
    names = (FULL, *TAUGHT, *capped, ORACLE, RANDOM)
    grid = [
        Condition.of(
            name,
            {"selector": name, "plan": plain},
            range(min(seeds, ORACLE_SEEDS) if name == ORACLE else seeds),
            baseline=None if name == FULL else FULL if name == RANDOM else RANDOM,
        )
        for name in names
    ]
    # Seed by seed, so that a machine that slows down slows all arms down.
    cells = [cell for one in grid for cell in one.cells]
    results = study.results(sorted(cells, key=lambda cell: cell.seed))
    report = made_report(data, plan.model, grid, results, settings)
    rows = [
        dataclasses.replace(
            row,
            condition=f"{data.name}: {row.condition}",
            baseline=None if row.baseline is None else f"{data.name}: {row.baseline}",
            details={**row.details, "set": data.name, "arm": row.condition, "task": data.task},
        )
        for row in report.rows
    ]
    return rows, tuple(f"{data.name}: {sentence}" for sentence in report.summary)


def problems(names: list[str], notes: list[str]) -> Iterator[GraphSet]:
    """Each set with its own labels, then with noiseless ones; a note where its file is not there."""
    for name in names:
        if (data := read(name)) is None:
            notes.append(f"{name} was not measured: its file is not there")
            continue
        yield data
        if not name.startswith("generated"):
            yield noiseless(data)


def run(*, seeds: int = 5, sets: str = "", work: Path) -> Result:
    rows: list[Row] = []
    notes: list[str] = []
    names = sets.split(",") if sets else list(SETS)
    for data in problems(names, notes):
        epochs, batch = SETS[data.name.partition(",")[0]]
        plan = Plan(width=64, training=Training(epochs=epochs, batch_size=batch, learning_rate=1e-3))
        found, told = measured(data, plan, seeds, work / data.name)
        rows += found
        notes += told
        print(*told, sep="\n", flush=True)
    return Result(
        rows=rows,
        settings={"epochs and batch sizes": {name: list(SETS[name]) for name in names}},
        seeds=range(seeds),
        notes=notes,
    )
