"""Attention to packed keys and values: the compiled paths against the torch reference, and that against a loop."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.packed_attention import Segment, packed_attention
from hardy.ops.packing import pack_fields, unpack_fields


def generated(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(shape: tuple[int, ...], bits: int, seed: int) -> torch.Tensor:
    drawn = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return pack_fields(drawn, bits)  # pyright: ignore[reportArgumentType]


def packed(bits: tuple[int, int], tokens: int, dim: int, *, page: int = 64, page_heads: int = 1) -> Segment:
    """Random codes of 2 rows and 3 heads, with pages of which each row keeps other tokens."""
    shape = (2, 3, tokens, dim)
    keys: dict[str, torch.Tensor] = {"keys": generated(*shape, seed=1).half()}
    if bits[0] < 16:
        steps = torch.rand(2, page_heads, tokens, generator=torch.Generator().manual_seed(2)) < 1 / page
        pages = steps.cumsum(-1).to(torch.int16)
        scales = generated(2, 3, int(pages.max()) + 1, 2, dim, seed=3).mul(0.1).half()
        keys = {"keys": codes(shape, bits[0], 4), "key_scales": scales, "pages": pages}
    values: dict[str, torch.Tensor] = {"values": generated(*shape, seed=5).bfloat16()}
    if bits[1] < 16:
        values = {"values": codes(shape, bits[1], 6), "value_scales": generated(2, 3, tokens, 2, seed=7).half()}
    return Segment(tokens=tokens, **keys, **values)


@given(st.sampled_from([2, 4, 8]), st.integers(1, 6), st.integers(0, 9))
def test_fields_come_back(bits: int, count: int, seed: int) -> None:
    drawn = torch.randint(0, 2**bits, (3, 4 * count), generator=torch.Generator().manual_seed(seed))
    fields = pack_fields(drawn, bits)  # pyright: ignore[reportArgumentType]
    assert fields.shape == (3, 4 * count * bits // 8)
    assert torch.equal(unpack_fields(fields, bits).long(), drawn)  # pyright: ignore[reportArgumentType]


def test_fields_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 3"):
        pack_fields(torch.tensor([0, 4, 0, 0]), 2)
    with pytest.raises(InputError, match="multiple of 4"):
        pack_fields(torch.tensor([0, 1, 0]), 2)
    with pytest.raises(InputError, match="2, 4 or 8"):
        pack_fields(torch.tensor([0]), 3)  # pyright: ignore[reportArgumentType]


def by_loops(query: torch.Tensor, segment: Segment, scale: float) -> torch.Tensor:
    """Code by code, from the formula in the docstrings."""
    batch, heads, tokens, dim = segment.keys.shape[0], segment.keys.shape[1], segment.tokens, query.shape[-1]
    group = query.shape[1] // heads
    out = torch.zeros_like(query)
    key_codes = unpack_fields(segment.keys, segment.keys.shape[-1] * 8 // dim).double()  # pyright: ignore[reportArgumentType]
    value_codes = unpack_fields(segment.values, segment.values.shape[-1] * 8 // dim).double()  # pyright: ignore[reportArgumentType]
    assert segment.key_scales is not None
    assert segment.value_scales is not None
    assert segment.pages is not None
    for b in range(batch):
        for h in range(heads):
            page_head = h if segment.pages.shape[1] > 1 else 0
            keys, values = [], []
            for t in range(tokens):
                key_scale, key_least = segment.key_scales[b, h, int(segment.pages[b, page_head, t])].double()
                keys.append(key_least + key_scale * key_codes[b, h, t])
                value_scale, value_least = segment.value_scales[b, h, t].double()
                values.append(value_least + value_scale * value_codes[b, h, t])
            for g in range(group):
                scores = [scale * float(query[b, h * group + g].double() @ key) for key in keys]
                weights = [math.exp(score - max(scores)) for score in scores]
                mixed = sum(w * value for w, value in zip(weights, values, strict=True))
                out[b, h * group + g] = (mixed / sum(weights)).float()
    return out


@pytest.mark.parametrize("page_heads", [1, 3])
def test_the_reference_is_the_formula(page_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "torch")
    segment = packed((4, 2), 37, 16, page=8, page_heads=page_heads)
    query = generated(2, 6, 16, seed=9)
    torch.testing.assert_close(packed_attention(query, [segment], 0.2), by_loops(query, segment, 0.2))


@pytest.mark.parametrize("path", kernels.paths())
@pytest.mark.parametrize("bits", [(4, 4), (2, 8), (8, 2), (16, 4), (4, 16), (16, 16)])
@pytest.mark.parametrize("dim", [16, 64, 80])
def test_compiled_paths_agree_with_the_reference(
    path: str, bits: tuple[int, int], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = generated(2, 9, dim, seed=9)
    tail = Segment(keys=generated(2, 3, 40, dim).half(), values=generated(2, 3, 40, dim, seed=8).half(), tokens=33)
    segments = [packed(bits, 1100, dim), tail]
    monkeypatch.setenv(kernels.VARIABLE, "torch")
    wanted = packed_attention(query, segments, dim**-0.5)
    monkeypatch.setenv(kernels.VARIABLE, path)
    found = packed_attention(query, segments, dim**-0.5)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(packed_attention(query, segments, dim**-0.5), found)
    finally:
        torch.set_num_threads(threads)


def test_tokens_before_the_first_are_passed_over() -> None:
    whole = packed((4, 4), 100, 32)
    rest = dataclasses.replace(
        whole,
        tokens=30,
        **{name: getattr(whole, name)[:, :, 70:].contiguous() for name in ("keys", "values", "value_scales", "pages")},
    )
    query = generated(2, 3, 32)
    late = packed_attention(query, [dataclasses.replace(whole, first=70)], 0.1)
    torch.testing.assert_close(late, packed_attention(query, [rest], 0.1))


def test_large_scores_do_not_overflow() -> None:
    segment = Segment(
        keys=torch.tensor([[[[30000.0] * 16, [-30000.0] * 16]]]).half(), values=torch.ones(1, 1, 2, 16).half(), tokens=2
    )
    found = packed_attention(torch.full((1, 1, 16), 100.0), [segment], 1.0)
    assert torch.equal(found, torch.ones(1, 1, 16))


def test_without_keys_or_with_other_shapes_it_refuses() -> None:
    with pytest.raises(InputError, match="at least one key"):
        packed_attention(generated(2, 3, 16), [dataclasses.replace(packed((4, 4), 5, 16), tokens=0)], 1.0)
    with pytest.raises(InputError, match="multiple of 3 heads"):
        packed_attention(generated(2, 4, 16), [packed((4, 4), 5, 16)], 1.0)
