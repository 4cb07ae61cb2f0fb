"""Trit-planes on synthetic weights: the paper's algorithm, ours, and controls.

The "expected" errors are not the paper's, which reports language models: they were measured with another
implementation of the same algorithms on the same distributions.

Relative Frobenius error of 256 x 4096 weights, Gaussian and Student-t with 5 degrees of freedom, groups of 128 unless
said; mean and standard deviation over seeds. Controls: round-to-nearest, to the full and to a clipped range, at the
same and at neighbouring true bits per weight (groups of 42 take 3-bit codes to the bits of two planes), and ggml's
types, quantized by ggml itself (of xllamacpp's wheel; left out with a note where that is not installed) with a flat
importance matrix: without one it searches less for the K types, and q2_K has an error of 0.297.

    pip install -r benchmarks/requirements.txt && python -m benchmarks run trit_planes
"""

import ctypes
import dataclasses
import importlib.util
import time
from collections.abc import Mapping

import numpy as np
import torch

from benchmarks import ggml_library
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.core.method import WeightMethod
from hardy.core.selection import Site
from hardy.quant import AbsmeanTrits, ClippedRoundToNearest, RoundToNearest, TritPlanes

PEERS = ("numpy", "xllamacpp")
SEEDS = (0, 1)
SITE = Site("weight", "weight", "weight", None, None, None)
SIGN = ("sign",)


# ggml's number for a type, and its bytes for 256 weights.
GGML_TYPES = {"q2_K": (10, 84), "q3_K": (11, 110), "q4_K": (12, 144), "iq2_xxs": (16, 66), "tq2_0": (35, 66)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGML(WeightMethod):
    """The peer: the weight as it comes out of one of ggml's types."""

    type: str

    def edit_weight(self, weight: torch.Tensor, site: Site) -> tuple[torch.Tensor, Mapping[str, float]]:
        library, (number, block_bytes) = ggml_library.load(), GGML_TYPES[self.type]
        dequantize = getattr(library, f"dequantize_row_{self.type}")
        dequantize.restype, dequantize.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        source = np.ascontiguousarray(weight.numpy(), np.float32)
        flat = np.ones(source.shape[1], np.float32)
        packed = np.zeros(source.size // 256 * block_bytes, np.uint8)
        library.ggml_quantize_chunk(number, source.ctypes.data, packed.ctypes.data, 0, *source.shape, flat.ctypes.data)
        found = np.empty_like(source)
        dequantize(packed.ctypes.data, found.ctypes.data, found.size)
        return torch.from_numpy(found), {"bits": 8 * packed.nbytes}


# Whose it is, the method, and the errors expected on Gaussian and on Student-t weights, where there are any.
ROWS: list[tuple[str, WeightMethod, str, str]] = [
    ("control", AbsmeanTrits(), "0.511", "0.601"),
    ("paper", TritPlanes(planes=1, starts=SIGN), "0.433", "0.515"),
    ("paper", TritPlanes(planes=2, starts=SIGN, iterations=1), "0.488", ""),
    ("paper", TritPlanes(planes=2, starts=SIGN, iterations=5), "0.203", ""),
    ("paper", TritPlanes(planes=2, starts=SIGN, iterations=10), "0.174", ""),
    ("paper", TritPlanes(planes=2, starts=SIGN, iterations=30), "0.168", ""),
    ("paper", TritPlanes(planes=2, starts=SIGN), "0.168", "0.231"),
    ("paper", TritPlanes(planes=2, starts=SIGN, group_size=64), "0.165", ""),
    ("paper", TritPlanes(planes=2, starts=SIGN, group_size=256), "0.170", ""),
    ("paper", TritPlanes(planes=3, starts=SIGN), "0.070", "0.080"),
    ("paper", TritPlanes(planes=3, starts=("magnitude",)), "0.067", "0.086"),
    ("ours", TritPlanes(planes=1), "", ""),
    ("ours", TritPlanes(planes=2), "", ""),
    ("ours", TritPlanes(planes=3), "", ""),
    ("control", RoundToNearest(bits=2), "0.503", "0.597"),
    ("control", ClippedRoundToNearest(bits=2), "0.369", "0.431"),
    ("control", RoundToNearest(bits=3), "0.216", "0.284"),
    ("control", ClippedRoundToNearest(bits=3), "0.187", "0.243"),
    ("control", RoundToNearest(bits=3, group_size=42), "", ""),
    ("control", ClippedRoundToNearest(bits=3, group_size=42), "", ""),
    ("control", RoundToNearest(bits=4), "0.101", "0.133"),
    ("control", ClippedRoundToNearest(bits=4), "0.095", "0.127"),
    ("control", RoundToNearest(bits=5), "", ""),
    ("ggml", GGML(type="q2_K"), "0.269", ""),
    ("ggml", GGML(type="q3_K"), "0.145", ""),
    ("ggml", GGML(type="q4_K"), "0.071", ""),
    ("ggml", GGML(type="iq2_xxs"), "0.344", ""),
    ("ggml", GGML(type="tq2_0"), "0.808", ""),
]


def weights(seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    normal, heavy = rng.standard_normal((256, 4096)), rng.standard_t(5, (256, 4096))
    return {"gaussian": torch.from_numpy(normal).float(), "student-t5": torch.from_numpy(heavy).float()}


def run() -> Result:
    data = [weights(seed) for seed in SEEDS]
    found, notes = [], []
    print(f"{'':8}{'method':62}{'bits':>6}  {'Gaussian':>14}  {'Student-t5':>14}  seconds   (expected / measured)")
    has_ggml = importlib.util.find_spec("xllamacpp") is not None
    if not has_ggml:
        notes.append("xllamacpp is not installed: no rows for ggml")
    for kind, method, gaussian, student in ROWS:
        if kind == "ggml" and not has_ggml:
            continue
        shown = []
        for distribution, expected in (("gaussian", gaussian), ("student-t5", student)):
            errors, unconverged, bits = [], 0.0, 0.0
            begun = time.perf_counter()
            for weight in (of_seed[distribution] for of_seed in data):
                new, facts = method.edit_weight(weight, SITE)
                errors.append(((new - weight).norm() / weight.norm()).item())
                unconverged += facts.get("unconverged", 0) / weight.numel() / len(data)
                bits = facts["bits"] / weight.numel()
            seconds = (time.perf_counter() - begun) / len(data)  # for 2^20 weights
            found += rows(
                str(method),
                {"kind": kind, "distribution": distribution, "bits_per_weight": bits, "expected": expected or None},
                seeds=SEEDS,
                error=mean_of(errors),
                unconverged=Value(unconverged, "share", n=len(data)),
                seconds=Value(round(seconds, 3), "s", n=len(data)),
            )
            shown.append(f"{expected:>5} / {found[-3].value:.4f}")
        print(f"{kind:8}{method!s:62}{bits:6.3f}  {shown[0]:>14}  {shown[1]:>14}  {found[-1].value:7.2f}", flush=True)
    print("\n".join(notes))
    return Result(rows=found, seeds=SEEDS, notes=notes)
