"""What a teacher costs: the seconds of a choice against the number of graphs, and as a share of an epoch of training.

Generated graphs of 4 to 8 nodes (ten thousand of them, each ten times in the largest set), GIN of three layers of 32,
batches of 256. The same network, graphs and clock for the choice and for the epoch; CPU seconds, the best of three. A
choice measures batches that it keeps; beside it, one that puts them together anew each time, as an epoch does.

    python -m benchmarks run teach_cost
"""

import time
from collections.abc import Callable

import torch
from torch_geometric.loader import DataLoader

from benchmarks.harness import Result, Value, rows
from hardy.teach import DatasetExamples, Teacher, graphs, schedules
from hardy.teach.graphs import GraphSet
from hardy.teach.networks import network
from hardy.teach.training import loss_of

PEERS = ("torch-geometric",)
COUNTS = (1_000, 10_000, 100_000)
ROUNDS = 3


def cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def run() -> Result:
    made = graphs.generated("graph-regression", COUNTS[1], nodes=(4, 8), features=8)
    found = []
    for count in COUNTS:
        copies = -(-count // COUNTS[1])
        data = GraphSet(made.name, made.task, (made.graphs * copies)[:count], made.outputs)
        net, loss = network("gin", data, width=32), loss_of(data)
        loader = DataLoader(data.graphs, batch_size=256, generator=torch.Generator())
        optimizer = torch.optim.AdamW(net.parameters())

        def epoch(net=net, loss=loss, loader=loader, optimizer=optimizer) -> None:
            for batch in loader:
                optimizer.zero_grad()
                loss(net(batch), batch.y).backward()
                optimizer.step()

        kept = DatasetExamples(net, loss, loader, keep=True)
        kept.losses()  # puts the batches together

        def choice(selector: str, net=net, loss=loss, loader=loader, kept=kept) -> None:
            name, _, how = selector.partition(", ")
            teacher = Teacher(10, selector=name, ratio=schedules.Constant(ratio=0.5))
            teacher.choose(DatasetExamples(net, loss, loader) if how else kept)

        rounds = ROUNDS if count < COUNTS[-1] else 1
        whole = min(cpu_seconds(epoch) for _ in range(rounds))
        for selector in ("soft", "soft, batches anew", "hard", "batch", "proportional", "mix", "random"):
            took = min(cpu_seconds(lambda selector=selector: choice(selector)) for _ in range(rounds))
            found += rows(
                selector,
                {"graphs": count},
                seconds=Value(took, "s", n=rounds),
                microseconds_a_graph=Value(1e6 * took / count, "us", n=rounds),
                share_of_an_epoch=Value(took / whole, "share", n=rounds),
            )
            print(f"{count} graphs, {selector}: {took:.2f} s, {took / whole:.2f} of an epoch", flush=True)
    return Result(rows=found)
