"""The peers of trit_kernels.py: linear layers of onnxruntime, ggml and torch, each as a function to be timed."""

import ctypes
import dataclasses
import functools
from collections.abc import Callable

import gguf
import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks import ggml_library


@dataclasses.dataclass
class Peer:
    """One way to compute `x @ weight.T` on one thread count.

    Each of `runs` computes it for the activations that were given, with a copy of the weight of its own; `output()` is
    what the first one found; `weight` is the dense weight that it stands for, its first rows at least; `bytes` is what
    it reads of the weight.
    """

    name: str
    runs: list[Callable[[], object]]
    output: Callable[[], np.ndarray]
    weight: np.ndarray
    bytes: int


def with_onnxruntime(weight: np.ndarray, x: np.ndarray, threads: int, bits: int, memory: int) -> Peer:
    """MatMulNBits with blocks of 128 and int8 activations (accuracy level 4); `weight` is rounded to nearest."""
    rows, width = weight.shape
    middle = 2 ** (bits - 1)
    blocks = weight.reshape(rows, -1, 128)
    scales = (np.abs(blocks).max(-1) / (middle - 1)).astype(np.float32)
    codes = (np.round(blocks / scales[..., None]) + middle).astype(np.uint8)
    per_byte = 8 // bits
    packed = np.zeros((rows, width // 128, 128 // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= codes[..., place::per_byte] << np.uint8(bits * place)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft",
        K=width, N=rows, bits=bits, block_size=128, accuracy_level=4,
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [node],
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["tokens", width])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["tokens", rows])],
        [onnx.numpy_helper.from_array(packed, "codes"), onnx.numpy_helper.from_array(scales, "scales")],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    found = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((len(x), rows), np.float32))
    runs = []
    for _ in range(copies(packed.nbytes + scales.nbytes, memory)):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", found)
        runs.append(functools.partial(session.run_with_iobinding, binding))
    dense = ((codes.astype(np.float32) - middle) * scales[..., None]).reshape(rows, width)
    return Peer(
        f"onnxruntime MatMulNBits {bits} bit",
        runs,
        found.numpy,
        dense,
        packed.nbytes + scales.nbytes,
    )


def with_torch(weight: np.ndarray, x: np.ndarray, dtype: torch.dtype, memory: int) -> Peer:
    dense, activations = torch.from_numpy(weight).to(dtype), torch.from_numpy(x).to(dtype)
    bytes_read = dense.numel() * dense.element_size()
    output = torch.empty(len(x), len(weight), dtype=dtype)
    name = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[dtype]
    return Peer(
        f"torch {name}",
        [
            functools.partial(torch.mm, activations, dense.clone().T, out=output)
            for _ in range(copies(bytes_read, memory))
        ],
        lambda: output.float().numpy(),
        dense.float().numpy(),
        bytes_read,
    )


class _Parameters(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class _Plan(ctypes.Structure):
    _fields_ = [
        ("work_size", ctypes.c_size_t),
        ("work", ctypes.c_void_p),
        ("threads", ctypes.c_int),
        ("rest", ctypes.c_byte * 108),  # no pool and no callback; more room than any version takes
    ]


TYPES = {"Q4_0": (2, 32, 18), "TQ2_0": (35, 256, 66)}  # number, weights and bytes of a block


def ggml() -> ctypes.CDLL:
    library = ggml_library.load()
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    for name, result, *arguments in (
        ("ggml_init", pointer, _Parameters),
        ("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, integer, integer),
        ("ggml_mul_mat", pointer, pointer, pointer, pointer),
        ("ggml_add", pointer, pointer, pointer, pointer),
        ("ggml_new_graph", pointer, pointer),
        ("ggml_build_forward_expand", None, pointer, pointer),
        ("ggml_get_data", pointer, pointer),
        ("ggml_graph_plan", _Plan, pointer, ctypes.c_int, pointer),
        ("ggml_graph_compute", ctypes.c_int, pointer, ctypes.POINTER(_Plan)),
        ("ggml_cpu_init", None),
        ("ggml_free", None, pointer),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.ggml_cpu_init()
    return library


def copies(size: int, memory: int) -> int:
    """One of `size` bytes, and as many more as fill `memory` bytes."""
    return 1 + -(-memory // size)


def with_ggml(weights: list[np.ndarray], x: np.ndarray, kind: str, memory: int) -> Peer:
    """As many graphs of ggml as `memory` takes; see `_ggml_graph`."""
    _, block, block_bytes = TYPES[kind]
    size = len(weights) * weights[0].size // block * block_bytes
    graphs = [_ggml_graph(weights, x, kind) for _ in range(copies(size, memory))]
    times = "" if len(weights) == 1 else f"{len(weights)} x "
    return Peer(f"{times}ggml {kind}", [run for run, _, _ in graphs], graphs[0][1], graphs[0][2], size)


def _ggml_graph(
    weights: list[np.ndarray], x: np.ndarray, kind: str
) -> tuple[Callable[[], object], Callable[[], np.ndarray], np.ndarray]:
    """A graph on one thread, the products of the activations with each of `weights`, added; its result and weight."""
    library = ggml()
    number, block, block_bytes = TYPES[kind]
    rows, width = weights[0].shape
    packed_bytes = rows * width // block * block_bytes
    room = len(weights) * (packed_bytes + 2 * 4 * rows * len(x)) + x.nbytes + 2**22
    context = library.ggml_init(_Parameters(room, None, False))
    activations = library.ggml_new_tensor_2d(context, 0, width, len(x))
    ctypes.memmove(library.ggml_get_data(activations), x.ctypes.data, x.nbytes)
    dense, result = np.zeros((rows, width), np.float32), None
    for weight in weights:
        tensor = library.ggml_new_tensor_2d(context, number, width, rows)
        data = library.ggml_get_data(tensor)
        source = np.ascontiguousarray(weight, np.float32)
        written = library.ggml_quantize_chunk(number, source.ctypes.data, data, 0, rows, width, None)
        assert written == packed_bytes
        packed = np.ctypeslib.as_array(ctypes.cast(data, ctypes.POINTER(ctypes.c_uint8)), (rows, packed_bytes // rows))
        dense += gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind])
        product = library.ggml_mul_mat(context, tensor, activations)
        result = product if result is None else library.ggml_add(context, result, product)
    graph = library.ggml_new_graph(context)
    library.ggml_build_forward_expand(graph, result)
    plan = library.ggml_graph_plan(graph, 1, None)
    work = np.zeros(plan.work_size + 64, np.uint8)
    plan.work = work.ctypes.data
    found = np.ctypeslib.as_array(
        ctypes.cast(library.ggml_get_data(result), ctypes.POINTER(ctypes.c_float)), (len(x), rows)
    )

    def run(held: object = work) -> None:
        assert library.ggml_graph_compute(graph, ctypes.byref(plan)) == 0

    return run, found.copy, dense
