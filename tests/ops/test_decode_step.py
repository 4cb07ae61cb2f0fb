"""What a decoding step does between products: the compiled paths against torch, and torch against plain formulas."""

import math

import pytest
import torch
from trit_matrices import activations

from hardy.ops import kernels
from hardy.ops.decode_step import BLOCK, add_rms_norm, attend, gate, rotated, seen, store

PATHS = kernels.paths()
EVERY = [None, *PATHS]


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("size", [1, 16, 37, 576])
def test_the_norm_adds_first_and_weighs_last(path: str | None, size: int) -> None:
    residual, delta, weight = activations(3, size)
    expected = residual + delta
    output = torch.zeros(size)
    add_rms_norm(path, residual, delta, weight, 1e-5, output)
    torch.testing.assert_close(residual, expected)
    root = math.sqrt(expected.double().square().mean().item() + 1e-5)
    torch.testing.assert_close(output, (expected / root * weight).float(), rtol=1e-5, atol=1e-6)
    add_rms_norm(path, residual, None, weight, 1e-5, residual)
    torch.testing.assert_close(residual, output)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("silu", [True, False])
def test_gates_are_torchs_up_to_the_last_digits_and_never_overflow(path: str, silu: bool) -> None:
    both = torch.cat([torch.linspace(-200, 200, 1001), torch.linspace(-1, 1, 1001), torch.ones(2002)])
    expected, output = torch.zeros(2002), torch.zeros(2002)
    gate(None, silu, both, expected)
    gate(path, silu, both, output)
    torch.testing.assert_close(output, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(4, 4, 16), (9, 3, 64), (14, 2, 32), (4, 1, 80)])
@pytest.mark.parametrize("normed", [False, True])
def test_every_path_attends_as_torch_does(path: str, heads: int, key_heads: int, size: int, normed: bool) -> None:
    capacity, rows = 48, heads + 2 * key_heads
    turns = torch.rand(size // 2, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(capacity)[:, None] * turns.repeat(2)
    cosines, sines = angles.cos(), angles.sin()
    norms = [activations(1, size, seed)[0] if normed else None for seed in (1, 2)]
    caches = [
        (torch.zeros(key_heads, capacity // BLOCK, size, BLOCK).half(), torch.zeros(key_heads, capacity, size).half())
        for _ in range(2)
    ]
    for at in range(40):
        projected = activations(rows, size, at).flatten()
        found = []
        for kind, cache in zip((None, path), caches, strict=True):
            output = torch.zeros(heads * size)
            position = torch.tensor([at])
            attend(kind, projected.clone(), cosines, sines, *norms, 1e-6, *cache, position, 20, size**-0.5, output, 2)
            found.append(output)
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)  # a rotated key may round the other way
    for ours, theirs in zip(caches[1], caches[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-6)


def test_torch_attends_as_the_formula_says() -> None:
    """One head, one number at a time."""
    size, window = 16, 5
    cosines, sines = torch.ones(32, size), torch.zeros(32, size)
    cache = torch.zeros(1, 2, size, BLOCK).half(), torch.zeros(1, 32, size).half()
    keys, values = [], []
    for at in range(9):
        query, key, value = activations(3, size, at)
        keys.append(key.half().tolist())
        values.append(value.half().tolist())
        output = torch.zeros(size)
        given = torch.cat([query, key, value])
        attend(None, given, cosines, sines, None, None, 0.0, *cache, torch.tensor([at]), window, 0.25, output, 1)
        places = range(max(0, at + 1 - window), at + 1)
        scores = [0.25 * sum(q * k for q, k in zip(query.tolist(), keys[place], strict=True)) for place in places]
        weights = [math.exp(score - max(scores)) for score in scores]
        for i in range(size):
            expected = sum(w * values[place][i] for w, place in zip(weights, places, strict=True)) / sum(weights)
            assert output[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_what_float16_cannot_hold_is_rounded_as_torch_does(path: str) -> None:
    values = torch.tensor(
        [
            0.0,
            -0.0,
            1.0,
            65504.0,
            65519.9,
            65520.0,
            1e30,
            -1e30,
            6e-8,
            2.9e-8,
            3e-8,
            6.1e-5,
            1 / 3,
            2049.0,
            2051.0,
            -5.5,
        ]
    )
    cache = torch.zeros(1, 1, 16, BLOCK).half(), torch.zeros(1, 16, 16).half()
    projected = torch.cat([torch.zeros(32), values])
    ones, zeros = torch.ones(16, 16), torch.zeros(16, 16)
    position, output = torch.zeros(1, dtype=torch.int64), torch.zeros(16)
    attend(path, projected, ones, zeros, None, None, 0.0, *cache, position, 16, 1.0, output, 1)
    assert torch.equal(cache[1][0, 0], values.half())


@pytest.mark.parametrize("path", PATHS)
def test_shapes_and_positions_that_do_not_fit_are_refused(path: str) -> None:
    cache = torch.zeros(1, 2, 16, BLOCK).half(), torch.zeros(1, 32, 16).half()
    table, output = torch.ones(32, 16), torch.zeros(16)

    def act(at: int, projected: int = 48, size: int = 16) -> None:
        attend(
            path, torch.zeros(projected), table, table, None, None, 0.0, *cache, torch.tensor([at]), 32, 1.0,
            output[:size], 1,
        )  # fmt: skip

    act(31)
    for wrong in ({"at": 32}, {"at": -1}, {"at": 0, "projected": 47}, {"at": 0, "size": 8}):
        with pytest.raises(ValueError, match="must"):
            act(**wrong)


def test_what_is_stored_is_seen_again_and_halves_turn_against_each_other() -> None:
    cache = torch.zeros(2, 3, 16, BLOCK).half(), torch.zeros(2, 48, 16).half()
    keys, values = (
        activations(30, 32).half().float().view(30, 2, 16),
        activations(30, 32, 1).half().float().view(30, 2, 16),
    )
    store(*cache, 0, keys[:7], values[:7])
    store(*cache, 7, keys[7:], values[7:])
    for begin, end in ((0, 30), (5, 30), (17, 19)):
        found_keys, found_values = seen(*cache, begin, end)
        assert torch.equal(found_keys, keys[begin:end].transpose(0, 1))
        assert torch.equal(found_values, values[begin:end].transpose(0, 1))
    assert rotated(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.ones(2)).tolist() == [-2.0, 1.0]
