"""Seeds fanned out by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.core import InputError, derive, generator

NAMES = st.lists(st.text(max_size=4) | st.integers(-99, 99), max_size=3)


@given(one=st.tuples(st.integers(-99, 99), NAMES), two=st.tuples(st.integers(-99, 99), NAMES))
def test_different_streams_have_different_seeds(one: tuple[int, list], two: tuple[int, list]) -> None:
    same = one[0] == two[0] and one[1] == two[1]
    assert (derive(one[0], *one[1]) == derive(two[0], *two[1])) == same
    assert 0 <= derive(one[0], *one[1]) < 2**63


def test_look_alikes_are_kept_apart() -> None:
    seeds = [
        derive(0, "ab", "c"),
        derive(0, "a", "bc"),
        derive(0, "abc"),
        derive(0, 1),
        derive(0, "1"),
        derive(0, "i1"),
    ]
    assert len(set(seeds)) == len(seeds)


def test_the_seed_of_a_name_is_the_same_for_ever() -> None:
    assert derive(0) == 1761075518443354591
    assert derive(7, "chip", "model.layers.0") == 3032875306389915124


def test_generators_repeat_and_leave_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    draws = [torch.rand(3, generator=generator(1, name)) for name in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("seed", [True, 1.0, "1", None])
def test_a_seed_is_an_integer(seed: Any) -> None:
    with pytest.raises(InputError, match="seed must be an integer, got"):
        derive(seed)
    if not isinstance(seed, str):
        with pytest.raises(InputError, match="the name of a stream must be an integer, got"):
            derive(0, seed)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_integers_of_every_library_are_the_same_seed(kind: Callable[[int], Any]) -> None:
    assert derive(kind(7), "tile", kind(3)) == derive(7, "tile", 3)
