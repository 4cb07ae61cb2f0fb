"""The cache in the models of transformers: exactness, bounds, masks, batches, and who is shown what."""

import gc
from typing import Any

import pytest
import torch
from models import build
from transformers import DynamicCache

from hardy.core import Ranking
from hardy.errors import InputError
from hardy.stream import CompressedCache, KVPolicy, Protect, observe, scorers
from hardy.stream.attention import NAME, StoredTensor, register

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "mixtral", "gpt2", "gpt_neox", "phi3")
register()


def tokens(count: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 64, (rows, count), generator=torch.Generator().manual_seed(seed))


def model_of(architecture: str, attention: str = "sdpa", **options: Any) -> Any:
    model: Any = build(architecture, **options)
    model.set_attn_implementation(attention)
    return model


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, cache: Any, sizes: tuple[int, ...], **options: Any) -> torch.Tensor:
    """Of all tokens, in chunks of these sizes."""
    return torch.cat([model(part, past_key_values=cache, **options).logits for part in ids.split(list(sizes), 1)], 1)


SIZES = (20, 9, 1, 1, 1, 8)


@pytest.mark.parametrize("attention", ["sdpa", "eager", NAME])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sixteen_bits_and_no_budget_change_nothing(architecture: str, attention: str) -> None:
    model, ids = model_of(architecture, attention), tokens(40)
    dense = logits(model, ids, DynamicCache(config=model.config), SIZES)
    found = logits(model, ids, CompressedCache(model.config), SIZES)
    assert float((found - dense).std() / dense.std()) < 0.02
    assert torch.equal(found.argmax(-1), dense.argmax(-1))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_in_bfloat16_it_is_equal_to_the_last_bit(architecture: str) -> None:
    model, ids = model_of(architecture, dtype=torch.bfloat16), tokens(40)
    dense = logits(model, ids, DynamicCache(config=model.config), SIZES)
    assert torch.equal(logits(model, ids, CompressedCache(model.config), SIZES), dense)


@pytest.mark.parametrize("attention", ["sdpa", NAME])
def test_eight_bits_are_close_and_two_are_not(attention: str) -> None:
    model, ids = model_of("llama", attention), tokens(300)
    sizes = (200, 60, *[1] * 40)
    dense = logits(model, ids, DynamicCache(config=model.config), sizes)
    errors = []
    for bits in (16, 8, 4, 2):
        found = logits(model, ids, CompressedCache(model.config, KVPolicy(bits=bits)), sizes)
        errors.append(float((found - dense).std() / dense.std()))
    assert errors == sorted(errors)
    assert errors[1] < 1e-3 < errors[3]  # weights are random, and attention nearly even


@pytest.mark.parametrize("name", scorers.SCORERS)
@pytest.mark.parametrize("bits", [16, 4])
def test_it_never_holds_more_than_its_budget(name: str, bits: int) -> None:
    model, ids = model_of("llama"), tokens(260)
    cache = CompressedCache.for_model(model, KVPolicy(budget=100, bits=bits, scorer=name))
    kept = []
    for part in ids.split([150, 40, *[1] * 70], 1):
        with torch.no_grad():
            model(part, past_key_values=cache)
        kept.append(cache.stats["kept"])
    assert max(kept) <= 100
    assert min(kept) >= 90
    assert cache.get_seq_length() == 260
    for layer in cache.layers:
        positions = layer.store.positions.flatten().tolist()
        assert set(range(244, 260)) <= set(positions), "recent tokens are protected"
        assert name == "sliding" or set(range(4)) <= set(positions), "so are the first"


def test_a_budget_of_everything_evicts_nothing() -> None:
    model, ids = model_of("llama"), tokens(120)
    with observe(model, cache := CompressedCache(model.config, KVPolicy(budget=120, scorer="pooled-query"))):
        found = logits(model, ids, cache, (100, 20))
    dense = logits(model, ids, DynamicCache(config=model.config), (100, 20))
    assert cache.stats["evicted"] == 0
    assert float((found - dense).std() / dense.std()) < 0.02


def test_evicted_tokens_are_as_if_they_were_masked() -> None:
    """One layer, so that nothing of a dropped token lives on in others: what is kept is attended to, and no more."""
    model = model_of("llama")
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    ids = tokens(60)
    policy = KVPolicy(budget=30, protect=Protect(first=3, recent=8), scorer="random", interval=1)
    for attention in ("sdpa", "eager", NAME):
        model.set_attn_implementation(attention)
        cache = CompressedCache(model.config, policy)
        logits(model, ids[:, :50], cache, (50,))
        kept = cache.layers[0].store.positions[0, 0].long()
        found = logits(model, ids[:, 50:], cache, (10,))
        visible = torch.zeros(10, 60, dtype=torch.bool)
        visible[:, kept] = True
        visible[:, 50:] = torch.ones(10, 10, dtype=torch.bool).tril()
        mask = torch.cat([torch.ones(50, 60, dtype=torch.bool).tril(), visible])[None, None]
        model.set_attn_implementation("sdpa")
        with torch.no_grad():
            wanted = model(ids, attention_mask=mask).logits[:, 50:]
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-3)


def test_update_gives_dense_keys_and_values_under_any_attention() -> None:
    keys, values = torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    for attention in ("sdpa", NAME):
        model = model_of("llama", attention)
        cache = CompressedCache(model.config)
        cache.update(keys, values, 0)
        found = cache.update(keys[:, :, :1], values[:, :, :1], 0)
        assert [side.shape for side in found] == [(1, 2, 8, 8)] * 2
        torch.testing.assert_close(found[0] * 1, torch.cat([keys, keys[:, :, :1]], 2), atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(found[1].sum(), torch.cat([values, values[:, :, :1]], 2).sum(), atol=1e-2, rtol=0)


def test_keys_of_an_earlier_step_are_refused() -> None:
    cache = CompressedCache(model_of("llama", NAME).config)
    state = torch.randn(1, 2, 7, 8)
    cache.update(state, state, 0)
    late, _ = cache.update(state, state, 0)
    assert isinstance(late, StoredTensor)
    cache.update(state, state, 0)
    with pytest.raises(InputError, match="moved on"):
        _ = late + 1


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_is_as_with_the_dense_cache(chunk: int | None, beams: int) -> None:
    model, ids = model_of("llama"), tokens(40, rows=2)
    options: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12, "num_beams": beams, "do_sample": False}
    if chunk and beams == 1:
        options["prefill_chunk_size"] = chunk
    dense = model.generate(ids, past_key_values=DynamicCache(config=model.config), **options)
    assert torch.equal(model.generate(ids, past_key_values=CompressedCache(model.config), **options), dense)
    cache = CompressedCache.for_model(model, KVPolicy(budget=45, bits=8))
    assert model.generate(ids, past_key_values=cache, **options).shape == dense.shape
    assert cache.stats["evicted"] > 0


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("policy", [KVPolicy(), KVPolicy(budget=50), KVPolicy(budget=50, scorer="key-norm")])
def test_left_padding_is_never_attended_to(architecture: str, policy: KVPolicy) -> None:
    """A padded row gives what it gives alone, before and after an eviction."""
    model = model_of(architecture)
    ids = tokens(44, rows=2)
    mask = torch.ones_like(ids)
    mask[1, :12] = 0
    ids[1, :12] = 0
    options: dict[str, Any] = {"max_new_tokens": 14, "min_new_tokens": 14, "do_sample": False}
    model.generation_config.pad_token_id = 0
    cache = CompressedCache.for_model(model, policy)
    both = model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
    if policy.limit is None:
        wanted = model.generate(ids[1:, 12:], past_key_values=DynamicCache(config=model.config), **options)
        assert torch.equal(both[1, 44:], wanted[0, 32:])
    else:
        assert cache.stats["evicted"] > 0
    other = ids.clone()
    other[1, :12] = 5  # padding of any kind
    again = CompressedCache.for_model(model, policy)
    found = model.generate(other, attention_mask=mask, past_key_values=again, **options)
    assert torch.equal(found[:, 44:], both[:, 44:])
    for layer in cache.layers:
        if not layer.is_sliding and policy.limit is not None:
            assert (layer.store.positions[1] >= 0).sum() >= 50 - 12 - 1


def test_a_batch_on_its_own_is_refused_when_it_would_evict() -> None:
    model = model_of("llama")
    cache = CompressedCache(model.config, KVPolicy(budget=50))
    with pytest.raises(InputError, match="batch of 2 rows may be padded"):
        logits(model, tokens(60, rows=2), cache, (60,))


@pytest.mark.parametrize("name", ["pooled-query", "snapkv", "accumulated-attention", "residual-shift"])
def test_scorers_that_see_nothing_refuse(name: str) -> None:
    model = model_of("llama")
    cache = CompressedCache(model.config, KVPolicy(budget=50, scorer=name))
    with pytest.raises(InputError, match="hardy.stream.observe"):
        logits(model, tokens(60), cache, (60,))
    with observe(model, cache):
        logits(model, tokens(60), cache, (60,))
    assert cache.stats["evicted"] > 0
    with pytest.raises(InputError, match="needs"):
        logits(model, tokens(5), cache, (5,))


def test_observing_leaves_the_model_as_it_was() -> None:
    model, ids = model_of("llama"), tokens(30)
    before = logits(model, ids, None, (30,))
    cache = CompressedCache.for_model(model, KVPolicy(budget=60, scorer="snapkv"))
    logits(model, ids, cache, (30,))
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(logits(model, ids, None, (30,)), before)
    with pytest.raises(IndexError):
        model(torch.full((1, 1), 10**6), past_key_values=cache)
    assert model.config._attn_implementation == "sdpa"
    del cache
    gc.collect()
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_two_sessions_on_one_model_do_not_touch_each_other() -> None:
    model, policy = model_of("llama"), KVPolicy(budget=60, bits=4, scorer="snapkv")
    streams = tokens(150, seed=1), tokens(150, seed=2)
    alone = [logits(model, ids, CompressedCache.for_model(model, policy), (50,) * 3) for ids in streams]
    caches = [CompressedCache.for_model(model, policy) for _ in streams]
    steps: list[list[torch.Tensor]] = [[], []]
    for part in range(3):
        for which, ids in enumerate(streams):
            chunk = ids[:, 50 * part : 50 * part + 50]
            steps[which].append(logits(model, chunk, caches[which], (50,)))
    for wanted, found in zip(alone, steps, strict=True):
        assert torch.equal(torch.cat(found, 1), wanted)


def test_a_copy_goes_its_own_way_and_the_state_comes_back() -> None:
    model = model_of("llama", NAME)
    policy = KVPolicy(budget=80, bits=4, scorer="snapkv")
    cache = CompressedCache(model.config, policy)
    logits(model, tokens(150), cache, (100, 50))
    twin, size = cache.copy(), cache.nbytes
    first = logits(model, tokens(20, seed=5), twin, (20,))
    assert (cache.get_seq_length(), twin.get_seq_length(), cache.nbytes) == (150, 170, size)
    assert torch.equal(logits(model, tokens(20, seed=5), cache, (20,)), first)


def test_sliding_windows_stay_and_are_bounded() -> None:
    model, ids = model_of("gemma3"), tokens(400)
    model.config.sliding_window = 24
    for layer in model.model.layers:
        if hasattr(layer.self_attn, "sliding_window") and layer.self_attn.sliding_window:
            layer.self_attn.sliding_window = 24
    sizes = (180, 60, *[1] * 160)
    dense = logits(model, ids, DynamicCache(config=model.config), sizes)
    for attention in ("sdpa", "eager", NAME):
        model.set_attn_implementation(attention)
        cache = CompressedCache(model.config)
        found = logits(model, ids, cache, sizes)
        assert float((found - dense).std() / dense.std()) < 0.02
        assert [layer.is_sliding for layer in cache.layers] == [True, False]
        assert cache.layers[0].store.length < 24 + 64
        assert cache.layers[1].store.length == 400


def test_bytes_are_a_ceiling_of_the_whole_cache() -> None:
    model, ids = model_of("llama"), tokens(1400)
    for bits in (16, 4):
        for name in ("sink-recent", "snapkv", "key-norm"):
            policy = KVPolicy(budget="60kB", bits=bits, scorer=name)
            cache = CompressedCache.for_model(model, policy)
            sizes = []
            for part in ids.split([300, 500, *[1] * 80, 520], 1):
                with torch.no_grad():
                    model(part, past_key_values=cache)
                sizes.append(cache.nbytes)
            assert max(sizes) <= 60_000, (bits, name)
            assert max(sizes) > 40_000, (bits, name)


def test_four_bits_buy_more_than_twice_the_tokens() -> None:
    """At 64 dimensions a head, as models have; the 16-bit tail weighs less the larger the budget."""
    shape = (1, 3, 9, 64)
    budgets = {
        bits: [KVPolicy(bits=bits).tokens_in(limit, *shape) for limit in (300_000, 2_000_000)] for bits in (16, 4)
    }
    ratios = [four / sixteen for four, sixteen in zip(budgets[4], budgets[16], strict=True)]
    assert ratios[0] > 2.5
    assert ratios[1] > 2.8


def test_a_ranking_of_layers_gives_the_better_ones_more() -> None:
    model, ids = model_of("llama"), tokens(300)
    ranking = Ranking(scores={"model.layers.0": 1.0, "model.layers.1": 3.0}, meaning="test", unit="", by="test")
    policy = KVPolicy(budget=100, layers=ranking)
    with pytest.raises(InputError, match="budgets of their own"):
        logits(model, ids, CompressedCache(model.config, policy), (200, 100))
    cache = CompressedCache.for_model(model, policy)
    logits(model, ids, cache, (200, 60, *[1] * 40))
    assert [layer.tokens for layer in cache.layers] == [50, 150]
    missing = Ranking(scores={"model.layers.0": 1.0}, meaning="test", unit="", by="test")
    with pytest.raises(InputError, match="no unit in layer 1"):
        CompressedCache(model.config, KVPolicy(budget=100, layers=missing))


def test_a_turn_is_protected_as_far_as_the_budget_goes() -> None:
    model = model_of("llama", NAME)
    cache = CompressedCache(model.config, KVPolicy(budget=100, protect="turn", bits=4))
    logits(model, tokens(120), cache, (120,))
    cache.begin_turn()
    logits(model, tokens(70, seed=1), cache, (50, 20))
    assert set(range(120, 190)) <= set(cache.layers[0].store.positions.flatten().tolist())
    logits(model, tokens(200, seed=2), cache, (200,))
    assert cache.stats["kept"] <= 100


def test_what_is_kept_is_a_matter_of_the_policy_alone() -> None:
    for bad, message in (
        ({"budget": "12 apples"}, "budget must be as"),
        ({"budget": 0}, "at least 1"),
        ({"bits": 3}, "bits must be 16, 8, 4 or 2"),
        ({"bits": (4, 4, 4)}, "two for keys and values"),
        ({"scorer": "pooled"}, "did you mean pooled-query.*there are: sink-recent, sliding"),
        ({"protect": "page"}, "protect must be turn or frame"),
        ({"codec": "zip"}, "codec must be affine or lloyd-max"),
        ({"interval": 65}, "from 1 to 64"),
    ):
        with pytest.raises(InputError, match=message):
            KVPolicy(**bad)
    config = model_of("llama").config
    with pytest.raises(InputError, match="at least 21"):
        CompressedCache(config, KVPolicy(budget=20))
    for policy in (KVPolicy(budget="2 frames"), KVPolicy(protect="frame")):
        with pytest.raises(InputError, match="streams of frames"):
            CompressedCache(config, policy)
    with pytest.raises(InputError, match="less than what is protected"):
        logits(model_of("llama"), tokens(5), CompressedCache(config, KVPolicy(budget="4kB")), (5,))
    with pytest.raises(InputError, match="cannot be cropped"):
        CompressedCache(config).crop(-1)


def test_models_without_such_a_cache_are_refused() -> None:
    with pytest.raises(InputError, match="without keys and values"):
        CompressedCache(build("mamba").config)
    config = build("llama").config
    config.num_hidden_layers = 3
    watched = observe(build("llama"), CompressedCache(config))
    with pytest.raises(InputError, match="3 layers, LlamaForCausalLM has 2"):
        watched.__enter__()


def test_keys_that_are_not_finite_are_refused() -> None:
    model = model_of("llama")
    model.model.layers[1].self_attn.k_proj.weight.data[3, 3] = float("nan")
    with pytest.raises(InputError, match="keys must be finite"):
        logits(model, tokens(10), CompressedCache(model.config), (10,))
