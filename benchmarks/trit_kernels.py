"""Products with packed trit-planes against low-bit kernels of onnxruntime, ggml and torch.

Every time includes the rounding of the activations and the call from Python. Peers take turns in short blocks of calls,
so that all see the same state of the machine. "repeated" is the time of a call right after another with the same
weight, which may still be in the cache; "from memory" is that of a call in a row of calls with copies of the weight
that take 128 MB together, as the layers of a model do. ggml is the build in xllamacpp's wheel (AVX2); onnxruntime and
torch are their wheels.

The error is that of the output against float64 with the peer's own rounded weight: what its rounding of activations
costs. The read bandwidth is measured by read_bandwidth.c, compiled here, in turns with everything else.

    pip install -r benchmarks/requirements.txt && python -m benchmarks run trit_kernels
"""

import ctypes
import functools
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import FOLDER, Result, Value, in_turns, rows, timed
from benchmarks.trit_kernels_peers import Peer, copies, with_ggml, with_onnxruntime, with_torch
from hardy.ops import kernels
from hardy.ops.trit_matrix import pack, unpack
from hardy.ops.trit_product import trit_product
from hardy.report import Row

PEERS = ("onnxruntime", "xllamacpp", "numpy")
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
        source = str(FOLDER / "read_bandwidth.c")
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", str(library)], check=True)
        self._read: Callable[..., int] = ctypes.CDLL(str(library)).read_all
        self._read.argtypes = [ctypes.c_void_p, ctypes.c_size_t]  # pyright: ignore[reportFunctionMemberAccess]
        self._words = np.ones(2**25, np.uint64)
        self.found: list[float] = []

    def read(self) -> None:
        begun = time.perf_counter()
        self._read(self._words.ctypes.data, self._words.size)
        self.found.append(self._words.nbytes / (time.perf_counter() - begun) / 1e9)


def measure(shape: tuple[int, int], batch: int, threads: int, reader: Reader, seconds: float) -> list[Row]:
    torch.set_num_threads(threads)
    x = np.random.default_rng(0).standard_normal((batch, shape[1])).astype(np.float32)
    in_rows = batch == 1 and threads == 1
    peers = peers_of(shape, x, threads, MEMORY if in_rows else 0)
    calls = 12 if batch == 1 else 2

    def block(peer: Peer) -> tuple[list[float], list[float]]:
        """Seconds of calls right after another, and of calls in a row of calls with copies of the weight."""
        if threads > 1:
            time.sleep(0.02)  # until the threads of the one before have stopped waiting in busy loops
        again = [timed(peer.runs[0])() for _ in range(calls)][1:]
        return again, [timed(run)() for run in peer.runs[1:]] if in_rows else []

    for peer in peers:
        for run in peer.runs:
            run()
    blocks = {peer.name: functools.partial(block, peer) for peer in peers}
    reading = {"": lambda: (reader.read(), ([], []))[1]}
    times = in_turns(reading | blocks, rounds=3, warm_up=0, seconds=seconds)
    found = []
    for peer in peers:
        again, cold = (list(itertools.chain(*part)) for part in zip(*times[peer.name], strict=True))
        metrics = {f"repeated_us_{name}": Value(1e6 * value, "us", n=len(again)) for name, value in ends(again)}
        for name, value in ends(cold):
            metrics[f"from_memory_us_{name}"] = Value(1e6 * value, "us", n=len(cold))
            metrics[f"from_memory_gb_per_s_{name}"] = Value(peer.bytes / value / 1e9, "GB/s", n=len(cold))
        details = {"rows": shape[0], "columns": shape[1], "batch": batch, "threads": threads, "bytes": peer.bytes}
        found += rows(peer.name, details, error=error_of(peer, x), **metrics)
        shown = "  ".join(f"{name} {value.value:.0f}" for name, value in metrics.items())
        print(f"{peer.name:30}{shape[0]:6} x {shape[1]}{batch:5}{threads:3}  {shown}", flush=True)
    return found


def ends(times: list[float]) -> list[tuple[str, float]]:
    return [("best", min(times)), ("median", statistics.median(times))] if times else []


def goals(found: list[Row], bandwidth: float) -> list[Row]:
    """What was hoped for, what was measured: ratios of best times with the weight in the cache, and from memory of
    medians, since the best calls found parts in a cache; `bandwidth` is the median too.
    """

    def of(name: str, metric: str, shape: tuple[int, int]) -> float:
        wanted = {"rows": shape[0], "columns": shape[1], "batch": 1, "threads": 1}
        return next(
            row.value
            for row in found
            if (row.condition, row.metric) == (name, metric) and wanted.items() <= row.details.items()
        )

    def faster(name: str, other: str, metric: str) -> float:
        return of(other, metric, small) / of(name, metric, small)

    small, large = SHAPES
    one, two, ort = "hardy, 1 plane", "hardy, 2 planes", "onnxruntime MatMulNBits"
    share = of(two, "from_memory_gb_per_s_median", large) / bandwidth
    listed = [
        ("two planes, times onnxruntime 4 bit", faster(two, f"{ort} 4 bit", "repeated_us_best"), 1.0),
        ("two planes, times onnxruntime 4 bit, from memory", faster(two, f"{ort} 4 bit", "from_memory_us_median"), 1.0),
        ("two planes, times two TQ2_0", faster(two, "2 x ggml TQ2_0", "repeated_us_best"), 1.7),
        ("one plane, times onnxruntime 2 bit", faster(one, f"{ort} 2 bit", "repeated_us_best"), 1.0),
        ("one plane, times onnxruntime 2 bit, from memory", faster(one, f"{ort} 2 bit", "from_memory_us_median"), 1.0),
        ("two planes of 11008 x 4096, share of the read bandwidth", share, 0.85),
    ]
    for goal, value, least in listed:
        print(f"{goal}: {value:.3f} (at least {least})")
    return [
        row
        for goal, value, least in listed
        for row in rows(goal, {"at_least": least, "reached": value >= least}, goal=round(value, 3))
    ]


def run() -> Result:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(folder)
        for threads in (1, 2):
            for shape in SHAPES:
                found += measure(shape, 1, threads, reader, seconds=8)
        for batch in BATCHES:
            found += measure(SHAPES[0], batch, 1, reader, seconds=4)
    bandwidth = statistics.median(reader.found)
    print(f"read bandwidth {bandwidth:.1f} GB/s")
    shares = [
        share
        for row in found
        if row.metric == "from_memory_gb_per_s_median"
        for share in rows(row.condition, row.details, share_of_the_read_bandwidth=row.value / round(bandwidth, 1))
    ]
    read = Value(round(bandwidth, 1), "GB/s", n=len(reader.found))
    best = Value(round(max(reader.found), 1), "GB/s", n=len(reader.found))
    reads = rows("read bandwidth", gb_per_s_median=read, gb_per_s_best=best)
    return Result(
        rows=[*found, *shares, *reads, *goals(found, bandwidth)], settings={"path": kernels.path()}, seeds=(0, 1)
    )
