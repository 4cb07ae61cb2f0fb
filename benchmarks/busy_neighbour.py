"""A training of Gaussians beside a program that wants every core: threads that spin while they wait, or sleep.

The traced room at 160 x 120 pixels, 80 steps from its points, on as many threads as there are cores and on one; alone,
and beside one process for each core that computes without end. Threads wait as they do where nobody says anything
(they spin), at once asleep, and as hardy has it (they spin for a moment). Wall seconds, and CPU-seconds of the training
alone. Measured after twenty steps, in a process of its own for each cell, whose neighbours begin before it.

    python -m benchmarks run busy_neighbour
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.harness import Result, Value, mean_of, rows
from benchmarks.harness.timing import FOR_A_MOMENT, SLEEPING, SPINNING, in_own_process
from hardy.splat import train
from hardy.splat.room import room
from hardy.splat.strategies import vanilla
from hardy.splat.training import Options

WARM_UP = 20


def trained(steps: int) -> tuple[float, float]:
    """Wall seconds and CPU-seconds of this process for so many steps."""
    scene = room(width=160, height=120, views=16, points=5000)
    train(scene, vanilla(WARM_UP), options=Options(steps=WARM_UP, sh_degree=1, evaluate_every=0))
    wall, cpu = time.perf_counter(), time.process_time()
    train(scene, vanilla(steps), options=Options(steps=steps, sh_degree=1, evaluate_every=0))
    return time.perf_counter() - wall, time.process_time() - cpu


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Within it so many other processes compute without end."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(*, steps: int = 80, rounds: int = 3) -> Result:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    arms = {
        "threads that spin for a moment": (cores, FOR_A_MOMENT),
        "threads that sleep": (cores, SLEEPING),
        "threads that spin": (cores, SPINNING),
        "one thread": (1, FOR_A_MOMENT),
    }
    lines = []
    for count in (0, cores):
        beside = "alone" if not count else f"beside {count} processes"
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, (threads, environment) in arms.items():
                with neighbours(count):
                    found[name].append(in_own_process(trained, steps, threads=threads, environment=environment))
                print(beside, name, found[name][-1], flush=True)
        for name, of in found.items():
            wall, cpu = ([each[i] for each in of] for i in (0, 1))
            details = {"neighbours": count, "threads": arms[name][0]}
            lines += rows(
                f"{name}, {beside}", details, seconds=mean_of(wall, "s"), cpu_seconds=mean_of(cpu, "s"),
                slowest=Value(max(wall), "s"),
            )  # fmt: skip
    return Result(rows=lines, settings={"steps": steps, "rounds": rounds, "cores": cores})
