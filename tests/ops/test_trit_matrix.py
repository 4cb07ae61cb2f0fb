"""The packed form for products: what goes in comes out, and every byte is where the oracle says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.trit_product import packed_line
from trit_matrices import random_trits

from hardy.errors import InputError
from hardy.ops import plane_layout
from hardy.ops.packed_matrix import dequantize
from hardy.ops.plane_layout import lines_per_group
from hardy.ops.trit_matrix import TritMatrix, pack, unpack

sizes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 50))


@given(size=sizes, seed=st.integers(0, 100))
def test_packing_loses_nothing(size: tuple[int, int, int, int], seed: int) -> None:
    trits, scales = random_trits(*size, seed=seed)
    matrix = pack(trits, scales.float(), size[2])
    found = unpack(matrix)
    assert torch.equal(found[0], trits)
    assert found[0].dtype == torch.int8
    assert torch.equal(found[1], scales)
    dense = (trits * scales.float()).sum(0).flatten(1)[:, : size[2]]
    assert torch.equal(dequantize(matrix), dense)


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("group_size", [4, 42, 64])
def test_every_byte_is_where_the_layout_says(planes: int, group_size: int) -> None:
    trits, scales = random_trits(planes, 82, 100, group_size)
    matrix = pack(trits, scales, 100)
    blocks, groups, lines = 6, -(-100 // group_size), lines_per_group(group_size, planes)
    pairs = {1: 0, 2: lines, 3: lines * 2 // 3}[planes]
    stored, stored_scales = matrix.codes.tolist(), matrix.scales.tolist()
    for row in range(16 * blocks):
        block, first = row // 16, row // 64 * 4
        here = min(4, blocks - first)
        for group in range(groups):
            for line in range(lines):
                at = first * groups * lines + (group * lines + line) * here + block - first
                found = stored[64 * at + 4 * (row % 16) :][:4]
                assert found == packed_line(trits[:, :, group].numpy(), row, line, pairs)
            for plane in range(planes):
                at = (first * groups + group * here + block - first) * planes + plane
                assert stored_scales[16 * at + row % 16] == (scales[plane, row, group].item() if row < 82 else 0)


def test_the_padding_of_the_last_group_is_ignored() -> None:
    trits, scales = random_trits(2, 20, 50, 32)
    spoiled = trits.clone()
    spoiled[:, :, 1, 18:] = -1
    assert torch.equal(pack(spoiled, scales, 50).codes, pack(trits, scales, 50).codes)


def test_packing_in_parts_is_packing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trits, scales = random_trits(3, 300, 64, 16)
    whole = pack(trits, scales, 64)
    monkeypatch.setattr(plane_layout, "AT_A_TIME", 128 * 64 * 3)
    parts = pack(trits, scales, 64)
    assert parts.parts() == [(0, 128), (128, 256), (256, 300)]
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(dequantize(parts), dequantize(whole))
    for begin, end in ((0, 64), (128, 256), (192, 300)):
        part = unpack(parts.rows_at(begin, end))
        assert torch.equal(part[0], trits[:, begin:end])
        assert torch.equal(part[1], scales[:, begin:end])
    for begin, end in ((16, 64), (0, 32), (64, 64), (256, 301), (-64, 64)):
        with pytest.raises(InputError, match=f"rows come in 64s of 300, got {begin} to {end}"):
            parts.rows_at(begin, end)


@pytest.mark.parametrize(("planes", "bits"), [(1, 2.125), (2, 4.25), (3, 6.375)])
def test_bits_in_memory(planes: int, bits: float) -> None:
    assert pack(*random_trits(planes, 64, 512, 128), 512).bits_per_weight == bits


def test_refuses_what_does_not_fit() -> None:
    trits, scales = random_trits(2, 5, 12, 4)
    matrix = pack(trits, scales, 12)
    for wrong, message in (
        (lambda: pack(trits.float(), scales, 12), r"trits must be int8 \(planes, rows, groups, group_size\), got"),
        (lambda: pack(trits[0], scales, 12), r"trits must be int8 .* got torch.int8 \(5, 3, 4\)"),
        (lambda: pack(trits, scales, 13), "13 inputs make 4 groups of 4, got 3"),
        (lambda: pack(trits, scales, 8), "8 inputs make 2 groups of 4, got 3"),
        (lambda: pack(trits * 2, scales, 12), "trits are -1, 0 and 1, got values from -2 to 2"),
        (lambda: pack(trits, scales[:1], 12), r"scales must be \(2, 5, 3, 1\) for these trits, got \(1, 5, 3, 1\)"),
        (lambda: pack(trits, scales.float() + 1e-6, 12), "scales must be finite float16 numbers, got torch.float32"),
        (lambda: pack(trits, scales * torch.inf, 12), "scales must be finite float16 numbers"),
        (lambda: pack(trits.repeat(2, 1, 1, 1), scales.repeat(2, 1, 1, 1), 12), "planes must be 1, 2 or 3, got 4"),
        (lambda: pack(trits[:, :0], scales[:, :0], 12), "rows, width and group_size must be at least 1, got 0, 12"),
        (
            lambda: TritMatrix(**vars(matrix) | {"rows": 17}),
            "codes must be 384 contiguous torch.uint8, got torch.uint8",
        ),
        (lambda: TritMatrix(**vars(matrix) | {"codes": matrix.codes.int()}), "got torch.int32"),
        (
            lambda: TritMatrix(**vars(matrix) | {"scales": matrix.scales.float()}),
            "scales must be 96 contiguous torch.float16, got torch.float32",
        ),
        (lambda: TritMatrix(**vars(matrix) | {"codes": matrix.codes.to("meta")}), "codes are on meta and scales on"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
