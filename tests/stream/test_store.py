"""The packed store: what it holds, that a token is quantized once, and the faults of others that it must not have."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.errors import InputError
from hardy.ops.packed_attention import packed_attention
from hardy.stream import LayerStore
from hardy.stream.codec import CODECS, Affine, Codec, Codes, LloydMax, affine_codes, gaussian_levels, rotate
from hardy.stream.store import PAGE, SPARSE

DIM = 32


def generated(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(
    codec: Codec, tokens: int = 300, *, batch: int = 1, per_head: bool = False, protect: int = 4
) -> tuple[LayerStore, torch.Tensor, torch.Tensor]:
    """A store that has sealed all it can, and the keys and values that went in."""
    keys, values = generated(batch, 2, tokens, DIM), generated(batch, 2, tokens, DIM, seed=1)
    store = LayerStore(codec, per_head=per_head)
    store.append(keys, values)
    store.seal(store.positions < protect)
    return store, keys, values


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def decoded(codec: Codec, codes: Codes) -> torch.Tensor:
    """One page of dimension 64, dense."""
    return codec.decode(codes, torch.zeros(1, 1, codes.codes.shape[2], dtype=torch.long), 64, torch.float32)


def in_order(store: LayerStore, tensor: torch.Tensor) -> torch.Tensor:
    """What went in, in the order in which the store has it."""
    index = store.positions.long().expand(*tensor.shape[:2], -1)[..., None].expand(-1, -1, -1, tensor.shape[-1])
    return tensor.gather(2, index)


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4), (2, 2), (8, 4), (16, 2), (2, 16)])
@pytest.mark.parametrize("codec", CODECS.values())
def test_what_goes_in_comes_out(bits: tuple[int, int], codec: type[Codec]) -> None:
    limits = {16: 5e-4, 8: 0.01, 4: 0.13, 2: 0.5}
    store, keys, values = filled(codec(key_bits=bits[0], value_bits=bits[1]))  # pyright: ignore[reportArgumentType]
    found = store.view(torch.float32)
    assert (store.length, store.seen, store.packed) == (300, 300, 256 if min(bits) < 16 else 0)
    for side, dense, wanted in zip(bits, found, (keys, values), strict=True):
        assert error(dense, in_order(store, wanted)) < limits[side]
    assert sorted(store.positions.flatten().tolist()) == list(range(300))


def test_bytes_are_those_of_the_formula_and_of_the_allocator() -> None:
    """4.5 bits per element: codes, a float16 scale and minimum per channel and page, and per token; 3.56 times less."""
    dim, tokens = 64, 4096
    store = LayerStore(Affine(key_bits=4, value_bits=4))
    store.append(generated(1, 3, tokens, dim), generated(1, 3, tokens, dim, seed=1))
    dense = 2 * 3 * tokens * dim * 2
    bookkeeping = tokens * 4
    assert store.nbytes == dense + bookkeeping
    store.seal(torch.zeros(1, 1, tokens, dtype=torch.bool))
    assert store.nbytes == dense * 4.5 / 16 + bookkeeping + tokens * 2  # and the page of each token
    assert dense / (store.nbytes - bookkeeping - tokens * 2) == pytest.approx(3.56, abs=0.005)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in store.state_dict()["held"].values()}
    assert store.nbytes == sum(held.values())


@pytest.mark.parametrize(("offset", "limit", "defect"), [(4, 0.025, 0.1), (8, 0.013, 0.4)])
def test_channels_off_zero_are_kept(offset: float, limit: float, defect: float) -> None:
    """A zero-point cut to the codes, as in XStreamVGGT's code, loses them; a minimum does not."""
    keys = generated(1, 1, PAGE, 256) + offset
    codec = Affine(key_bits=4, value_bits=4)
    dense = codec.decode(codec.encode_keys(keys), torch.zeros(1, 1, PAGE, dtype=torch.long), 256, torch.float32)
    assert error(dense, keys) < limit
    low, high = keys.aminmax(dim=2, keepdim=True)
    scale = (high - low) / 15
    zero = (-low / scale).round().clamp(0, 15)
    cut = (((keys / scale).round() + zero).clamp(0, 15) - zero) * scale
    assert error(cut, keys) > defect


def test_a_token_is_quantized_once_however_often_others_go() -> None:
    """Quantizing everything again after each eviction, as XStreamVGGT's code does, drifts from 0.09 to 0.30."""
    codec = Affine(key_bits=4, value_bits=4)
    keys = generated(1, 1, 64 * 40, 64)
    store = LayerStore(codec)
    store.append(keys, keys)
    store.seal(torch.zeros(1, 1, store.length, dtype=torch.bool))
    again, first = keys, error(store.view(torch.float32)[0], keys)
    left = keys
    for step in range(20):
        keep = torch.arange(store.length)[torch.arange(store.length) % 37 != step]
        store.evict(keep[None, None])
        again, left = again[:, :, keep], left[:, :, keep]
        pages = -(-again.shape[2] // PAGE)
        parts = [codec.encode_keys(again[:, :, i * PAGE : (i + 1) * PAGE]) for i in range(pages)]
        again = torch.cat([decoded(codec, part) for part in parts], 2)
    assert first == pytest.approx(0.09, abs=0.01)
    assert store.requantized == 0
    assert error(store.view(torch.float32)[0], left) == pytest.approx(first, abs=0.002)
    assert error(again, left) > 2 * first


def test_codes_stay_as_they_were_until_their_page_is_sparse() -> None:
    store, _, _ = filled(Affine(key_bits=4, value_bits=4), 64 * 8, protect=0)
    chance = torch.Generator().manual_seed(0)
    original = store.state_dict()["held"]["keys_codes"]
    while store.length > 40:
        keep = torch.randperm(store.length, generator=chance)[: int(store.length * 0.9)].sort().values
        store.evict(keep[None, None])
        now, places = store.state_dict()["held"]["keys_codes"], store.positions[0, 0].long()
        same = (now == original[:, :, places]).all(-1).all(1).flatten()
        counts = torch.bincount(places // PAGE, minlength=8)
        full = counts[places // PAGE] >= SPARSE
        assert same[full].all(), "a token on a page above a quarter was quantized again"
    assert store.requantized > 0


@given(st.integers(0, 5), st.sampled_from([(1, False), (2, False), (2, True)]), st.sampled_from([4, 2]))
def test_whatever_is_evicted_the_rest_is_what_it_was(seed: int, rows: tuple[int, bool], bits: int) -> None:
    batch, per_head = rows
    codec = Affine(key_bits=bits, value_bits=bits)  # pyright: ignore[reportArgumentType]
    store, keys, values = filled(codec, 64 * 6 + 20, batch=batch, per_head=per_head)
    chance = torch.Generator().manual_seed(seed)
    before = error(store.view(torch.float32)[0], in_order(store, keys))
    for share in (0.7, 0.5, 0.3, 0.3):
        lead = store.positions.shape[:2]
        draws = [torch.rand(*lead, n, generator=chance) for n in (store.packed, store.plain)]
        sealed, plain = (d.argsort(-1)[..., : max(1, int(share * d.shape[-1]))].sort(-1).values for d in draws)
        store.evict(torch.cat([sealed, plain + store.packed], -1))
        found = store.view(torch.float32)
        assert error(found[0], in_order(store, keys)) < 1.6 * before + 0.01
        assert error(found[1], in_order(store, values)) < 1.6 * before + 0.01
        assert int(store.state_dict()["held"]["pages"].max()) + 1 == store.page_count
        dense = [torch.cat([s.dense(DIM)[side] for s in store.segments() or []], 2) for side in (0, 1)]
        assert torch.equal(dense[0], found[0])
        assert torch.equal(dense[1], found[1])


def test_rows_that_keep_other_counts_of_packed_tokens_are_refused() -> None:
    store, _, _ = filled(Affine(key_bits=4, value_bits=4), 200, batch=2)
    keep = torch.stack([torch.arange(100)[None], torch.arange(100, 200)[None]])
    with pytest.raises(InputError, match="as many packed tokens"):
        store.evict(keep)


def test_rows_are_selected_repeated_and_reordered() -> None:
    store, keys, _ = filled(Affine(key_bits=8, value_bits=8), 200, batch=3)
    store.select_rows(torch.tensor([2, 2, 0]))
    wanted = keys[[2, 2, 0]]
    assert error(store.view(torch.float32)[0], in_order(store, wanted)) < 0.01


def test_the_state_comes_back() -> None:
    store, _, _ = filled(Affine(key_bits=4, value_bits=2), 250)
    other = LayerStore(Affine(key_bits=4, value_bits=2))
    other.load_state_dict(store.state_dict())
    for one, two in zip(store.view(torch.float32, 100), other.view(torch.float32, 100), strict=True):
        assert torch.equal(one, two)
    other.append(generated(1, 2, 3, DIM), generated(1, 2, 3, DIM))
    assert (other.seen, store.seen) == (253, 250)


def test_attention_reads_what_the_view_shows() -> None:
    store, _, _ = filled(Affine(key_bits=4, value_bits=4))
    query = generated(1, 6, DIM, seed=5)
    segments = store.segments(first=70)
    assert segments is not None
    keys, values = (side.repeat_interleave(3, 1) for side in store.view(torch.float32, 70))
    wanted = torch.nn.functional.scaled_dot_product_attention(query[:, :, None], keys, values, scale=0.2)
    torch.testing.assert_close(packed_attention(query, segments, 0.2), wanted[:, :, 0], atol=1e-5, rtol=1e-4)


def test_values_that_are_not_finite_are_refused() -> None:
    store = LayerStore(Affine(key_bits=4, value_bits=4))
    bad = generated(1, 2, 3, DIM)
    bad[0, 1, 2, 3] = float("nan")
    with pytest.raises(InputError, match="keys must be finite"):
        store.append(bad, generated(1, 2, 3, DIM))
    with pytest.raises(InputError, match="values must be finite in float16, got up to 1e\\+06"):
        LayerStore(Affine(key_bits=4, value_bits=4)).append(generated(1, 2, 3, DIM), torch.full((1, 2, 3, DIM), 1e6))
    fine = LayerStore(Affine(key_bits=16, value_bits=16))
    fine.append(torch.full((1, 2, 3, DIM), 1e6).bfloat16(), torch.ones(1, 2, 3, DIM).bfloat16())


def test_other_shapes_are_refused() -> None:
    store, _, _ = filled(Affine(key_bits=4, value_bits=4))
    with pytest.raises(InputError, match="alike"):
        store.append(generated(1, 2, 3, DIM), generated(1, 2, 4, DIM))
    with pytest.raises(InputError, match=r"holds \(batch, heads, dim\) \(1, 2, 32\)"):
        store.append(generated(1, 3, 3, DIM), generated(1, 3, 3, DIM))
    with pytest.raises(InputError, match="key_bits must be 16, 8, 4 or 2"):
        Affine(key_bits=3, value_bits=4)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("bits", "wanted"), [(2, 0.1175), (4, 0.00954)])
def test_levels_are_the_best_for_gaussian_numbers(bits: int, wanted: float) -> None:
    """Max (1960), table I: 4 levels have a mean squared error of 0.1175, 16 of 0.009497 or so."""
    x, levels = generated(200_000), gaussian_levels(bits)
    nearest = levels[torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)]
    assert float((nearest - x).square().mean()) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("dim", [16, 48, 80])
def test_a_rotation_comes_back_and_keeps_lengths(dim: int) -> None:
    x = generated(5, dim)
    turned = rotate(x, 3)
    torch.testing.assert_close(rotate(turned, 3, back=True), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_a_rotation_spreads_a_channel_that_stands_out() -> None:
    keys = generated(1, 1, 64, 64)
    keys[..., 3] *= 50
    per_token = affine_codes(keys, 4, -1)
    plain = per_token[0].float() * per_token[1][..., :1] + per_token[1][..., 1:]
    rotated = LloydMax(key_bits=4, value_bits=4)
    rest = [c for c in range(64) if c != 3]
    found = decoded(rotated, rotated.encode_keys(keys))
    assert error(found[..., rest], keys[..., rest]) < error(plain[..., rest], keys[..., rest])
