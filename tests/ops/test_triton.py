"""The Triton kernels without a GPU: what they give in Triton's interpreter, and that all of it compiles for one.

Each in a process of its own: the interpreter must be chosen before Triton is imported. It cuts floats down to bfloat16
instead of rounding them; that type's bits are compared on a GPU, by benchmarks/gpu.py.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

_BITS = """
import dataclasses
import sys
import torch
sys.path[:0] = [{tests!r}, {tests!r} + "/ops"]
from trit_matrices import activations, matrix_of
from hardy.ops.trit_product import trit_product_reference
from hardy.ops.trit_product_triton import trit_product_triton
from hardy.ops.trit_vector_triton import FEW_TOKENS

for planes in (1, 2, 3):
    for rows, width, group_size in ((20, 33, 16), (70, 130, 42), (100, 12, 4), (64, 300, 128), (40, 600, 600)):
        matrix = matrix_of(planes, rows, width, group_size)
        for tokens, dtype in ((0, torch.float32), (2, torch.float32), (1, torch.float16), (18, torch.float32)):
            x = activations(tokens, width)
            if tokens > 1:
                x[0, 0], x[1, :group_size] = float("nan"), 2.0**-101
            x = x.to(dtype)
            expected = trit_product_reference(x.float(), matrix).to(dtype)
            found = trit_product_triton(x, matrix)
            assert found.shape == expected.shape and found.dtype == dtype
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.nan_to_num(), expected.nan_to_num()), (planes, rows, width, group_size, tokens)
assert 2 <= FEW_TOKENS < 18

from test_packed_attention import generated, packed
from hardy.ops.packed_attention import Segment, _reference
from hardy.ops.packed_attention_triton import attend

for bits, dim, page_heads in (((4, 4), 16, 1), ((2, 8), 80, 3), ((8, 2), 80, 1), ((16, 4), 24, 1), ((4, 16), 64, 3)):
    query = generated(2, 9, dim, seed=9).unflatten(1, (3, 3))
    tail = Segment(keys=generated(2, 3, 40, dim).half(), values=generated(2, 3, 40, dim, seed=8).half(), tokens=33)
    segments = [dataclasses.replace(packed(bits, 130, dim, page_heads=page_heads), first=7), tail]
    found, wanted = attend(query, segments, dim**-0.5), _reference(query, segments, dim**-0.5)
    torch.testing.assert_close(found, wanted, atol=3e-5, rtol=3e-5)

from hardy.ops import conversion, conversion_triton

def count():
    return torch.tensor(5)

for vectors, width, full in ((3, 1500, 0.7), (2, 9, None)):
    x = activations(vectors, width).mul(2)
    x[0, :5] = torch.tensor([float("nan"), float("inf"), 1e30, 0.0, -float("inf")])
    full = x[:, :1].nan_to_num(1.0).abs() + 0.1 if full is None else full
    for levels in (1, 7, 32767):
        wanted, found = (of.input_codes(x, levels, full, count()) for of in (conversion, conversion_triton))
        assert torch.equal(found[0].nan_to_num(), wanted[0].nan_to_num()) and found[1] == wanted[1], (levels, width)
        assert torch.equal(found[0].isnan(), wanted[0].isnan())

for tiles, vectors, outputs, tall, each in ((1, 3, 5, 1, 1), (3, 11, 150, 3, 11), (4, 9, 129, 1, 9), (2, 8, 128, 2, 1)):
    y, normal = (generated(tiles, vectors, outputs, seed=seed) for seed in (1, 2))
    y[0, 0, :3] = torch.tensor([float("nan"), float("inf"), 0.0])
    variance, step = generated(tiles, vectors, outputs, seed=3).square(), generated(tall, each, outputs).abs() + 0.01
    for levels in (0, 1, 7, 127):
        for noise in ((variance, normal), (None, None)):
            given = [y.clone(), *[None if part is None else part.clone() for part in noise], step, levels]
            found = conversion_triton.converted_sum(*given, count())
            wanted = conversion.converted_sum(*given, count())
            torch.testing.assert_close(found[0], wanted[0], equal_nan=True, atol=1e-4, rtol=1e-6)
            assert found[1] == wanted[1] > 5 or levels == 0
print("same bits")
"""

_COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hardy.ops import conversion_triton, packed_attention_triton, trit_tiles_triton, trit_vector_triton

def compiled(kernel, pointers, constants):
    signature, constexprs = {{}}, {{}}
    for index, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in constants else pointers.get(name, "i32")
        if name in constants:
            constexprs[(index,)] = constants[name]
    options = {{"enable_fp_fusion": False}}
    return triton.compile(ASTSource(kernel, signature, constexprs), target=GPUTarget("cuda", 90, 32), options=options)

for planes, pairs, singles in ((1, 0, 8), (2, 16, 0), (3, 16, 8)):
    sizes = {{"PLANES": planes, "PAIRS": pairs, "SINGLES": singles, "PTX": True}}
    pointers = {{"x": "*bf16", "codes": "*i32", "scales": "*fp16", "terms": "*fp32", "output": "*bf16"}}
    tile = {{"GROUPS": 32, "WORDS": 32, "TILES": 2, "AHEAD": 4}}
    few = compiled(trit_vector_triton._multiply_few, pointers, sizes | tile)
    assert "dp4a" in few.asm["ptx"]
    pointers = {{"activations": "*i8", "facts": "*i32", "codes": "*u8", "scales": "*fp16", "output": "*bf16"}}
    tile = {{"PADDED": 128, "TOKENS": 64, "ROWS": 64, "SMALL": True}}
    many = compiled(trit_tiles_triton._multiply_many, pointers, sizes | tile)
    assert "wgmma" in many.asm["ptx"]
compiled(trit_tiles_triton._round, {{"x": "*bf16", "codes": "*i32", "facts": "*i32"}}, {{"GROUPS": 32, "WORDS": 32}})
halves, sizes = "*fp16", {{"DIM": 128, "WIDTH": 128, "HEADS": 4, "GROUP": 16, "TOKENS": 32}}
pointers = dict.fromkeys(("query", "largest", "totals", "mixed"), "*fp32") | {{"scale": "fp32"}}
for key_bits, value_bits in ((4, 4), (16, 2)):
    sides = {{"keys": "*u8" if key_bits < 16 else halves, "values": "*u8", "pages": "*i16"}}
    sides |= {{"key_scales": halves, "value_scales": halves}}
    bits = {{"KEY_BITS": key_bits, "VALUE_BITS": value_bits}}
    compiled(packed_attention_triton._attend, pointers | sides, sizes | bits)
pointers = dict.fromkeys(("y", "spread", "drawn", "step", "total", "x", "codes"), "*fp32") | {{"beyond": "*i64"}}
numbers = {{"most": "fp32", "levels": "fp32"}}
sizes = {{"NOISY": True, "SIGN": False, "ALIKE": True, "VECTORS": 8, "OUTPUTS": 128}}
compiled(conversion_triton._converted_sum, pointers | numbers, sizes)
for each, kind in ((True, "*fp32"), (False, "fp32")):
    of_input = pointers | numbers | {{"scale": kind, "limit": kind}}
    compiled(conversion_triton._input_codes, of_input, {{"EACH": each, "INPUTS": 1024}})
print("compiled")
"""


@pytest.mark.parametrize(
    ("script", "environment", "said"),
    [(_BITS, {"TRITON_INTERPRET": "1"}, "same bits\n"), (_COMPILED, {"TRITON_INTERPRET": "0"}, "compiled\n")],
    ids=["gives the bits of the reference", "compiles for a GPU"],
)
def test_triton(script: str, environment: dict[str, str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script.format(tests=str(Path(__file__).parents[1]))],
        env=os.environ | environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == said
