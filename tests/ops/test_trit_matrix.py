"""The packed form for products: what goes in comes out, and every byte is where the oracle says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.trit_product import packed_line
from trit_matrices import random_trits

from hardy.errors import InputError
from hardy.ops import trit_matrix
from hardy.ops.trit_matrix import TritMatrix, dequantize, pack, unpack

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
    trits, scales = random_trits(planes, 18, 100, group_size)
    matrix = pack(trits, scales, 100)
    _, groups, lines, _ = matrix.codes.shape
    pairs = {1: 0, 2: lines, 3: lines * 2 // 3}[planes]
    for row in range(32):
        for group in range(groups):
            for line in range(lines):
                found = matrix.codes[row // 16, group, line].view(16, 4)[row % 16].tolist()
                assert found == packed_line(trits[:, :, group].numpy(), row, line, pairs)
    for plane in range(planes):
        found = matrix.scales[:, :, plane].transpose(1, 2).flatten(0, 1)
        assert torch.equal(found[:18], scales[plane, ..., 0])
        assert not found[18:].any()


def test_the_padding_of_the_last_group_is_ignored() -> None:
    trits, scales = random_trits(2, 20, 50, 32)
    spoiled = trits.clone()
    spoiled[:, :, 1, 18:] = -1
    assert torch.equal(pack(spoiled, scales, 50).codes, pack(trits, scales, 50).codes)


def test_packing_in_parts_is_packing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trits, scales = random_trits(3, 100, 64, 16)
    whole = pack(trits, scales, 64)
    monkeypatch.setattr(trit_matrix, "AT_A_TIME", 32 * 64 * 3)
    parts = pack(trits, scales, 64)
    assert parts.parts() == [(0, 32), (32, 64), (64, 96), (96, 100)]
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(dequantize(parts), dequantize(whole))
    part = unpack(parts.rows_at(32, 64))
    assert torch.equal(part[0], trits[:, 32:64])
    assert torch.equal(part[1], scales[:, 32:64])


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
        (lambda: TritMatrix(**vars(matrix) | {"rows": 17}), r"codes must be contiguous torch.uint8 of shape \(2, 3"),
        (lambda: TritMatrix(**vars(matrix) | {"codes": matrix.codes.int()}), "got torch.int32"),
        (lambda: TritMatrix(**vars(matrix) | {"scales": matrix.scales.float()}), "scales must be contiguous"),
        (lambda: TritMatrix(**vars(matrix) | {"codes": matrix.codes.to("meta")}), "codes are on meta and scales on"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
