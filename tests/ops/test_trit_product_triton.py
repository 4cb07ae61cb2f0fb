"""The Triton version in Triton's interpreter, which must be chosen before Triton is imported: in its own process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import sys
import torch
sys.path.insert(0, {tests!r})
from trit_matrices import activations, matrix_of
from hardy.ops.trit_product import trit_product_reference
from hardy.ops.trit_product_triton import trit_product_triton

for planes in (1, 2, 3):
    for rows, width, group_size in ((20, 33, 16), (70, 130, 42), (100, 12, 4), (64, 300, 128), (130, 600, 600)):
        matrix = matrix_of(planes, rows, width, group_size)
        for tokens in (0, 3, 18):
            x = activations(tokens, width)
            if tokens > 2:
                x[0, 0], x[1, :group_size] = float("nan"), 2.0**-101
            expected = trit_product_reference(x, matrix)
            found = trit_product_triton(x, matrix)
            assert found.shape == expected.shape
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.nan_to_num(), expected.nan_to_num()), (planes, rows, width, group_size, tokens)
print("same bits")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_gives_the_bits_of_the_reference() -> None:
    script = _SCRIPT.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same bits\n"
