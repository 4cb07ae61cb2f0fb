"""Convolutions with one-bit weights and few-bit activations against onnxruntime's int8 and float convolutions.

The 3 x 3 shapes of ResNet-20 and of 256 channels, one thread, one image at a time or eight, the call from Python
included. "float to float" is all that a layer does: rounding, product and scales on our side, QuantizeLinear,
QLinearConv and DequantizeLinear on theirs; "codes" is onnxruntime's QLinearConv alone, bytes to bytes. Contenders take
turns in blocks of calls. A time is the smallest of all blocks, which a busy machine disturbs least; its ratio to
onnxruntime's is the figure.

    python -m benchmarks run binary_kernel
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.harness import NotMeasuredError, Result, Value, rows
from hardy.core.rng import generator
from hardy.ops import kernels
from hardy.ops.binary_conv import BinaryMatrix, Grid, Window, binary_conv, reference
from hardy.ops.packing import pack_codes

PEERS = ("onnxruntime", "onnx", "numpy")
SHAPES = ((16, 32), (32, 16), (64, 8), (256, 14))
"""Channels in and out, height and width: the stages of ResNet-20, and one of ResNet-18."""
BITS = (1, 2, 3, 4, 6, 8)
INT8, CODES, FLOAT = "onnxruntime int8, float to float", "onnxruntime int8, codes", "onnxruntime float32"


def peer(shape: tuple[int, ...], x: np.ndarray, kind: str) -> Callable[[], Any]:
    """A convolution of onnxruntime, with the weights and the input that it takes."""
    try:
        import onnx
        import onnxruntime
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise NotMeasuredError(f"{error}; pip install -r benchmarks/requirements.txt") from None
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.05
    scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
    codes = np.clip(np.round(weight / scale[:, None, None, None]), -127, 127).astype(np.int8)
    values = {
        "weight": weight if kind == FLOAT else codes, "scale": scale, "zeros": np.zeros(shape[0], np.int8),
        "x_scale": np.float32(0.02), "x_zero": np.uint8(0), "y_scale": np.float32(0.05), "y_zero": np.uint8(128),
    }  # fmt: skip
    conv = ["codes", "x_scale", "x_zero", "weight", "scale", "zeros", "y_scale", "y_zero"]
    nodes = {
        FLOAT: [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1] * 4)],
        CODES: [helper.make_node("QLinearConv", ["x", *conv[1:]], ["y"], pads=[1] * 4)],
        INT8: [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["codes"]),
            helper.make_node("QLinearConv", conv, ["y_codes"], pads=[1] * 4),
            helper.make_node("DequantizeLinear", ["y_codes", "y_scale", "y_zero"], ["y"]),
        ],
    }[kind]
    kind_of = onnx.TensorProto.UINT8 if kind == CODES else onnx.TensorProto.FLOAT
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "conv", [helper.make_tensor_value_info("x", kind_of, x.shape)],
        [helper.make_tensor_value_info("y", kind_of, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in used],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = np.clip(x / 0.02, 0, 255).astype(np.uint8) if kind == CODES else x
    return functools.partial(session.run, None, {"x": given})


def ours(shape: tuple[int, ...], x: torch.Tensor, bits: int) -> Callable[[], torch.Tensor]:
    random = generator(0, "signs", bits)
    signs = torch.randint(2, shape, generator=random, dtype=torch.uint8)
    scale, offset = torch.rand(shape[0], generator=random), torch.rand(shape[0], generator=random)
    grid = Grid(bits=bits, step=4 / 2**bits, zero_point=0.0)
    window = Window(kernel=(3, 3), padding=(1, 1))
    matrix = BinaryMatrix(pack_codes(signs.flatten(), 1), shape, scale, offset, None, grid, window)
    assert torch.equal(binary_conv(x, matrix), reference(x, matrix)), "the kernel is not its reference"
    return functools.partial(binary_conv, x, matrix)


def smallest(contenders: dict[str, Callable[[], Any]], blocks: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds of a call in each block of calls, contenders in turns."""
    calls = {}
    for name, act in contenders.items():
        act()
        begun = time.perf_counter()
        act()
        calls[name] = max(1, round(seconds / max(1e-6, time.perf_counter() - begun)))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(blocks):
        for name, act in contenders.items():
            begun = time.perf_counter()
            for _ in range(calls[name]):
                act()
            found[name].append(1e6 * (time.perf_counter() - begun) / calls[name])
    return found


def run(*, blocks: int = 100, milliseconds: float = 1.0) -> Result:
    if kernels.path() is None:
        raise NotMeasuredError("the kernels were not built")
    found = []
    for channels, size in SHAPES:
        for batch in (1, 8) if channels < 256 else (1,):
            shape = (channels, channels, 3, 3)
            x = np.abs(np.random.default_rng(1).standard_normal((batch, channels, size, size))).astype(np.float32)
            contenders: dict[str, Callable[[], Any]] = {kind: peer(shape, x, kind) for kind in (INT8, CODES, FLOAT)}
            contenders |= {f"hardy, {bits} bits": ours(shape, torch.from_numpy(x), bits) for bits in BITS}
            times = smallest(contenders, blocks, milliseconds / 1e3)
            best = {name: min(values) for name, values in times.items()}
            details = {"channels": channels, "size": size, "batch": batch}
            for name, value in best.items():
                half = Value(statistics.median(times[name]), "us", n=blocks)
                found += rows(
                    name, details, time=Value(value, "us", n=blocks), median=half, against_int8=best[INT8] / value,
                    against_float=best[FLOAT] / value,
                )  # fmt: skip
            print(details, {name: round(value, 1) for name, value in best.items()}, flush=True)
    return Result(
        rows=found,
        settings={"path": kernels.path(), "threads": torch.get_num_threads()},
        notes=("A ratio above 1 says that hardy is faster. Weights take 1 bit here and 8 there.",),
    )
