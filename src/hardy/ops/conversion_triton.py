"""The converters of a chip on CUDA, in Triton: one launch for the inputs of a layer, one for the outputs of its tiles.

A program of the second takes some vectors and outputs and goes through the tiles, so that a tile's sums, their noise
and their codes are in registers only.
"""

# Triton compiles the functions below; its stubs describe them as the Python that they are not. What a kernel is
# compiled for is in capitals, as is the habit with Triton.
# ruff: noqa: N803
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl

# At 1.5 * 2^23 floats are integers: adding it rounds, half to even.
SHIFT = tl.constexpr(12582912.0)
# Sums and products must not be fused, or codes at the edge between two would differ from torch's.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}
INPUTS, VECTORS, OUTPUTS = 1024, 8, 128
"""To a program."""


def input_codes(
    x: torch.Tensor, levels: int, full: torch.Tensor | float, beyond: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`hardy.ops.conversion.input_codes`, which counts in place."""
    x = x.contiguous()
    vectors, width = x.shape
    codes, each = torch.empty_like(x), isinstance(full, torch.Tensor)
    limit = full.contiguous() if isinstance(full, torch.Tensor) else float(full)
    grid = (vectors, triton.cdiv(width, INPUTS))
    _input_codes[grid](
        x, codes, levels / limit, limit, beyond, float(levels), width, EACH=each, INPUTS=INPUTS, **OPTIONS
    )
    return codes, beyond


def converted_sum(
    y: torch.Tensor,
    variance: torch.Tensor | None,
    normal: torch.Tensor | None,
    step: torch.Tensor,
    levels: int,
    beyond: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`hardy.ops.conversion.converted_sum`, which counts in place."""
    tiles, vectors, outputs = y.shape
    noisy = variance is not None and normal is not None
    y, total = y.contiguous(), y.new_empty(vectors, outputs)
    spread = variance.expand_as(y).contiguous() if noisy else y
    drawn = normal.contiguous() if noisy else y
    step = step.contiguous()
    of_tile, of_vector = (step.stride(axis) if step.shape[axis] > 1 else 0 for axis in (0, 1))
    grid = (triton.cdiv(vectors, VECTORS), triton.cdiv(outputs, OUTPUTS))
    _converted_sum[grid](
        y, spread, drawn, step, total, beyond, float(max(levels, 1)), tiles, vectors, outputs, of_tile, of_vector,
        NOISY=noisy, SIGN=levels == 0, ALIKE=len(step) == 1, VECTORS=VECTORS, OUTPUTS=OUTPUTS, **OPTIONS,
    )  # fmt: skip
    return total, beyond


@triton.jit
def _codes(values, levels):
    """Rounded half to even, and clipped to one above `levels`, which is beyond; NaN stays."""
    held = tl.minimum(tl.maximum(values, -levels - 1.0), levels + 1.0)
    return tl.where(values == values, (held + SHIFT) - SHIFT, values)


@triton.jit
def _clipped(codes, levels):
    held = tl.minimum(tl.maximum(codes, -levels), levels)
    return tl.where(codes == codes, held, codes)


@triton.jit
def _input_codes(x, codes, scale, limit, beyond, levels, width, EACH: tl.constexpr, INPUTS: tl.constexpr):
    vector = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    inside = place < width
    if EACH:
        scale, limit = tl.load(scale + vector), tl.load(limit + vector)
    values = tl.load(x + vector * width + place, mask=inside, other=0.0)
    found = _codes(values * scale, levels)
    tl.store(codes + vector * width + place, _clipped(found, levels), mask=inside)
    above = inside & (tl.abs(values) > limit)
    tl.atomic_add(beyond, tl.sum(above.to(tl.int32), 0).to(tl.int64))


@triton.jit
def _converted_sum(
    y, spread, drawn, step, total, beyond, most, tiles, vectors, outputs, of_tile, of_vector,
    NOISY: tl.constexpr, SIGN: tl.constexpr, ALIKE: tl.constexpr, VECTORS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    vector = tl.program_id(0).to(tl.int64) * VECTORS + tl.arange(0, VECTORS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = (vector < vectors)[:, None] & (output < outputs)[None, :]
    place = vector[:, None] * outputs + output[None, :]
    of_step = vector[:, None] * of_vector + output[None, :]
    found = tl.zeros([VECTORS, OUTPUTS], tl.float32)
    above = tl.zeros([VECTORS, OUTPUTS], tl.int32)
    at = place
    for tile in range(tiles):
        values = tl.load(y + at, mask=inside, other=0.0)
        if NOISY:
            noise = tl.sqrt_rn(tl.load(spread + at, mask=inside, other=0.0)) * tl.load(
                drawn + at, mask=inside, other=0.0
            )
            values = values + noise
        unit = tl.load(step + of_step + tile * of_tile, mask=inside, other=1.0)
        values = values * tl.div_rn(1.0, unit)
        codes = tl.where(values >= 0, 1.0, -1.0) if SIGN else _codes(values, most)
        above += (inside & (tl.abs(codes) > most)).to(tl.int32)
        codes = _clipped(codes, most)
        found += codes if ALIKE else codes * unit
        at += vectors * outputs  # of the next tile
    if ALIKE:
        found = found * tl.load(step + of_step, mask=inside, other=1.0)
    tl.store(total + place, found, mask=inside)
    tl.atomic_add(beyond, tl.sum(tl.sum(above, 1), 0).to(tl.int64))
