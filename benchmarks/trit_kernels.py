"""Products with packed trit-planes against low-bit kernels of onnxruntime, ggml and torch.

Every time includes the rounding of the activations and the call from Python. Peers take turns in short blocks of calls,
so that all see the same state of the machine. "repeated" is the time of a call right after another with the same
weight, which may still be in the cache; "from memory" is that of a call in a row of calls with copies of the weight
that take 128 MB together, as the layers of a model do. ggml is the build in xllamacpp's wheel (AVX2); onnxruntime and
torch are their wheels.

The error is that of the output against float64 with the peer's own rounded weight: what its rounding of activations
costs. The read bandwidth is measured by read_bandwidth.c, compiled here, in turns with everything else. Writes
results/trit_kernels.json.

    pip install -r benchmarks/requirements.txt && python benchmarks/trit_kernels.py
"""

import ctypes
import functools
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from survival import processor
from trit_kernels_peers import Peer, copies, with_ggml, with_onnxruntime, with_torch

import hardy
from hardy.files import write_json
from hardy.ops import kernels
from hardy.ops.trit_matrix import pack, unpack
from hardy.ops.trit_product import trit_product

RESULT = Path(__file__).parent / "results" / "trit_kernels.json"
SHAPES = [(4096, 4096), (11008, 4096)]
BATCHES = [4, 16, 64, 512]
GROUP = 128
MEMORY = 2**27  # bytes, four times the cache of the machine that this was written on
CHECKED_ROWS = 256  # of which the error is measured


def ours(trits: np.ndarray, scales: np.ndarray, x: np.ndarray, memory: int) -> Peer:
    planes, _, groups, group_size = trits.shape
    weight = torch.from_numpy(trits), torch.from_numpy(scales), groups * group_size
    matrices = [pack(*weight)]
    size = matrices[0].codes.nbytes + matrices[0].scales.nbytes
    matrices += [pack(*weight) for _ in range(copies(size, memory) - 1)]
    activations = torch.from_numpy(x)
    kept, kept_scales = unpack(matrices[0].rows_at(0, CHECKED_ROWS))
    dense = (kept * kept_scales.float()).sum(0).flatten(1).numpy()
    name = f"hardy, {planes} plane{'s' if planes > 1 else ''}"
    runs = [functools.partial(trit_product, activations, matrix) for matrix in matrices]
    return Peer(name, list(runs), lambda: runs[0]().numpy(), dense, size)


def peers_of(shape: tuple[int, int], x: np.ndarray, threads: int, memory: int) -> list[Peer]:
    """Everybody, with weights that each can hold exactly, or nearly so."""
    rows, width = shape
    rng = np.random.default_rng(1)
    trits = rng.integers(-1, 2, (3, rows, width // GROUP, GROUP), dtype=np.int8)
    scales = rng.uniform(0.5, 1, (3, rows, width // GROUP, 1)).astype(np.float16).astype(np.float32)
    scales *= np.float32([1, 1 / 2, 1 / 4])[:, None, None, None]
    weight = (trits[:2] * scales[:2]).sum(0).reshape(rows, width)
    one, other = ((trits[i] * scales[i, :, ::2].repeat(2, 1)).reshape(rows, width) for i in (0, 1))  # a scale for 256
    found = [ours(trits[:planes], scales[:planes], x, memory) for planes in (1, 2, 3)]
    found += [with_onnxruntime(weight, x, threads, bits, memory) for bits in (2, 4)]
    if threads == 1:  # with more its threads wait in busy loops, which nothing else on the machine survives
        found += [
            with_ggml(weights, x, kind, memory)
            for weights, kind in (([one], "TQ2_0"), ([one, other], "TQ2_0"), ([weight], "Q4_0"))
        ]
    found += [with_torch(weight, x, dtype, memory) for dtype in (torch.float32, torch.bfloat16)]
    for peer in found:
        peer.weight = peer.weight[:CHECKED_ROWS].astype(np.float64)
    return found


def error_of(peer: Peer, x: np.ndarray) -> float:
    exact = x.astype(np.float64) @ peer.weight.T
    return float(np.linalg.norm(peer.output()[:, :CHECKED_ROWS] - exact) / np.linalg.norm(exact))


class Reader:
    """Reads 256 MB, and keeps the bandwidths in GB/s."""

    def __init__(self, folder: str) -> None:
        library = Path(folder) / "read_bandwidth.so"
        compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
        source = str(RESULT.parents[1] / "read_bandwidth.c")
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", str(library)], check=True)
        self._read: Callable[..., int] = ctypes.CDLL(str(library)).read_all
        self._read.argtypes = [ctypes.c_void_p, ctypes.c_size_t]  # pyright: ignore[reportFunctionMemberAccess]
        self._words = np.ones(2**25, np.uint64)
        self.found: list[float] = []

    def read(self) -> None:
        begun = time.perf_counter()
        self._read(self._words.ctypes.data, self._words.size)
        self.found.append(self._words.nbytes / (time.perf_counter() - begun) / 1e9)


def timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure(
    shape: tuple[int, int], batch: int, threads: int, reader: Reader, seconds: float
) -> list[dict[str, object]]:
    torch.set_num_threads(threads)
    x = np.random.default_rng(0).standard_normal((batch, shape[1])).astype(np.float32)
    in_rows = batch == 1 and threads == 1
    peers = peers_of(shape, x, threads, MEMORY if in_rows else 0)
    repeated: list[list[float]] = [[] for _ in peers]
    from_memory: list[list[float]] = [[] for _ in peers]
    for peer in peers:
        for run in peer.runs:
            run()
    begun, rounds = time.monotonic(), 0
    while time.monotonic() - begun < seconds or rounds < 3:
        rounds += 1
        reader.read()
        for index, peer in enumerate(peers):
            if threads > 1:
                time.sleep(0.02)  # until the threads of the one before have stopped waiting in busy loops
            calls = 12 if batch == 1 else 2
            repeated[index] += [timed(peer.runs[0]) for _ in range(calls)][1:]
            if in_rows:
                from_memory[index] += [timed(run) for run in peer.runs[1:]]
    rows = []
    for peer, again, cold in zip(peers, repeated, from_memory, strict=True):
        row: dict[str, object] = {
            "peer": peer.name,
            "shape": list(shape),
            "batch": batch,
            "threads": threads,
            "bytes": peer.bytes,
            "error": error_of(peer, x),
            "calls": len(again),
            "repeated_us": {"best": 1e6 * min(again), "median": 1e6 * statistics.median(again)},
        }
        if cold:
            row["from_memory_us"] = {"best": 1e6 * min(cold), "median": 1e6 * statistics.median(cold)}
            row["from_memory_gb_per_s"] = {
                "best": peer.bytes / min(cold) / 1e9,
                "median": peer.bytes / statistics.median(cold) / 1e9,
            }
        rows.append(row)
    return rows


def goals(rows: list[dict], bandwidth: float) -> list[dict[str, object]]:
    """What was hoped for, what was measured: ratios of best times with the weight in the cache, and from memory of
    medians, since the best calls found parts in a cache; `bandwidth` is the median too.
    """

    def of(name: str, shape: tuple[int, int]) -> dict[str, dict[str, float]]:
        found = (r for r in rows if (r["peer"], tuple(r["shape"]), r["batch"], r["threads"]) == (name, shape, 1, 1))
        return next(found)

    def faster(name: str, other: str, key: str, which: str) -> float:
        return of(other, small)[key][which] / of(name, small)[key][which]

    small, large = SHAPES
    one, two, ort = "hardy, 1 plane", "hardy, 2 planes", "onnxruntime MatMulNBits"
    share = of(two, large)["from_memory_gb_per_s"]["median"] / bandwidth
    listed = [
        ("two planes, times onnxruntime 4 bit", faster(two, f"{ort} 4 bit", "repeated_us", "best"), 1.0),
        ("the same from memory", faster(two, f"{ort} 4 bit", "from_memory_us", "median"), 1.0),
        ("two planes, times two TQ2_0", faster(two, "2 x ggml TQ2_0", "repeated_us", "best"), 1.7),
        ("one plane, times onnxruntime 2 bit", faster(one, f"{ort} 2 bit", "repeated_us", "best"), 1.0),
        ("the same from memory", faster(one, f"{ort} 2 bit", "from_memory_us", "median"), 1.0),
        ("two planes of 11008 x 4096, share of the read bandwidth", share, 0.85),
    ]
    return [
        {"goal": goal, "at_least": least, "measured": round(value, 3), "reached": value >= least}
        for goal, value, least in listed
    ]


def show(rows: list[dict], bandwidth: float) -> None:
    for row in rows:
        again, cold = row["repeated_us"], row.get("from_memory_us")
        shape = f"{row['shape'][0]} x {row['shape'][1]}"
        line = f"{row['peer']:30}{shape:>14}{row['batch']:5}{row['threads']:3}"
        line += f"{again['best']:11.0f} /{again['median']:9.0f}"
        if cold:
            speed = row["from_memory_gb_per_s"]["median"]
            line += f"{cold['best']:9.0f} /{cold['median']:8.0f} us {speed:6.1f} GB/s {speed / bandwidth:5.0%}"
        print(f"{line}   error {row['error']:.2e}")


def main() -> None:
    begun, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(folder)
        for threads in (1, 2):
            for shape in SHAPES:
                rows += measure(shape, 1, threads, reader, seconds=8)
        for batch in BATCHES:
            rows += measure(SHAPES[0], batch, 1, reader, seconds=4)
    bandwidth = statistics.median(reader.found)
    result = {
        "command": "python benchmarks/trit_kernels.py",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime", "xllamacpp", "numpy")},
        "path": kernels.path(),
        "seconds": round(time.monotonic() - begun, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
        "read_gb_per_s": {"best": round(max(reader.found), 1), "median": round(bandwidth, 1)},
        "goals": goals(rows, bandwidth),
        "rows": rows,
    }
    show(rows, bandwidth)
    for goal in result["goals"]:
        print(f"{goal['goal']}: {goal['measured']} (at least {goal['at_least']})")
    write_json(RESULT, result)
    print(f"read bandwidth {bandwidth:.1f} GB/s; {result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
