"""The structure of a model is read once, and again where it has changed."""

import gc
import weakref
from typing import Any

import models
import torch

from hardy.hooks import points
from hardy.hooks.blocks import blocks_of


def test_blocks_are_read_again_where_a_module_or_how_it_attends_has_changed() -> None:
    model: Any = models.build("llama")
    assert blocks_of(model) is blocks_of(model)
    assert "blocks.0.attn.pattern" not in points(model)
    model.set_attn_implementation("eager")
    assert "blocks.0.attn.pattern" in points(model)
    model.set_attn_implementation("sdpa")
    layer = model.model.layers[1]
    layer.mlp = torch.nn.Identity()
    assert "blocks.1.mlp.post" not in points(model)
    other: Any = models.build("llama")
    model.model.layers[1] = other.model.layers[1]
    assert "blocks.1.mlp.post" in points(model)
    kept = weakref.ref(layer)
    del layer
    gc.collect()
    assert kept() is None  # what was replaced is not held
