"""The cache of a model, under either of the names that transformers has for it."""

import torch
from models import build
from torch import nn

from hardy.hooks.caches import cache_argument, cache_of


class Named(nn.Module):
    def forward(self, input_ids: torch.Tensor, cache: object = None) -> torch.Tensor:
        return input_ids


def test_a_model_is_given_its_cache_by_the_name_that_it_has() -> None:
    assert cache_argument(Named(), 1) == {"cache": 1}
    model, seen = build("llama"), []
    model.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(cache_of(kwargs)), with_kwargs=True)
    cache = model(torch.tensor([[1, 2, 3]])).past_key_values
    model(torch.tensor([[4]]), **cache_argument(model, cache))
    assert seen == [None, cache]
    assert cache.get_seq_length() == 4
    assert cache_of({"past_key_values": None, "cache": 2}) == cache_of({"past_key_values": 2}) == 2
    assert cache_of({"use_cache": True}) is None
