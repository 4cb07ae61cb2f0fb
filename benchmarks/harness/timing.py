"""Times and memory that can be compared: everybody in turns, so that a busy moment of the machine hits all alike."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")


def timed(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """A function that does the same and gives the seconds it took."""

    def run() -> float:
        begun = clock()
        act()
        return clock() - begun

    return run


def in_turns(
    contenders: Mapping[str, Callable[[], Found]], *, rounds: int, warm_up: int = 1, seconds: float = 0.0
) -> dict[str, list[Found]]:
    """What each contender gives in every round (A B A B ...), after `warm_up` rounds that do not count.

    Rounds go on until there are `rounds` of them and `seconds` have passed.
    """
    for _ in range(warm_up):
        for act in contenders.values():
            act()
    found: dict[str, list[Found]] = {name: [] for name in contenders}
    begun, done = time.monotonic(), 0
    while done < rounds or time.monotonic() - begun < seconds:
        for name, act in contenders.items():
            found[name].append(act())
        done += 1
    return found


def in_own_process(
    function: Callable[..., Found], *arguments: Any, threads: int = 1, environment: Mapping[str, str] | None = None
) -> Found:
    """What a function of a module gives in a fresh process, whose memory and threads are its own.

    `environment` is its own too, such as `SPINNING`, which is how the threads of a peer's programs wait.
    """
    changed = {"OMP_NUM_THREADS": str(threads), **(environment or {})}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""How OpenMP's threads wait where nobody says anything."""
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
FOR_A_MOMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""As hardy has it: they spin some 50 us, then sleep."""


def peak_memory(field: str = "VmHWM") -> float:
    """MB of this process, at most (VmHWM) or now (VmRSS); Linux only: what getrusage says is the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
