"""tiny-mamba: a Mamba of 0.9 M parameters that writes Python: no attention, one state space after the other."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import silu, softplus
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel
from transformers.models.mamba import modeling_mamba

from hardy.ops.selective_scan import selective_scan
from hardy.zoo.corpus import LibraryText
from hardy.zoo.recipe import Recipe

_log = logging.getLogger(__name__)


def build(vocab_size: int) -> PreTrainedModel:
    """Four layers, so that they can be ranked; eight states to a channel, because training time grows with them."""
    return MambaForCausalLM(
        MambaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            state_size=8,
            num_hidden_layers=4,
            time_step_rank=16,
            residual_in_fp32=False,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


@contextlib.contextmanager
def quick_scan() -> Iterator[None]:
    """Within it, every Mamba of transformers computes its recurrence with `hardy.ops.selective_scan`.

    The loop of transformers lets autograd keep five tensors for each token; a training step takes several times as
    long with it. An older transformers has its loop within the layer: there it stays.
    """
    original = getattr(modeling_mamba, "mamba_selective_scan", None)
    if original is None:
        _log.info("this transformers computes Mamba's recurrence in a way of its own; with a newer one it is quicker")
        yield
        return
    modeling_mamba.mamba_selective_scan = _scan
    try:
        yield
    finally:
        modeling_mamba.mamba_selective_scan = original


def _scan(
    x: torch.Tensor, step: torch.Tensor, rate: torch.Tensor, into: torch.Tensor, out_of: torch.Tensor, **options: Any
) -> torch.Tensor:
    """What transformers computes under that name in training; tensors are (batch, dim or states, tokens)."""
    assert options["delta_softplus"], "the step sizes come before softplus"
    assert not options["return_last_state"], "training keeps no cache"
    step = softplus(step.float() + options["delta_bias"][..., None])
    y = selective_scan(x.mT, step.mT, rate, into.mT, out_of.mT).mT
    return (y + x * options["D"][None, :, None]) * silu(options["z"])


recipe = Recipe(
    name="tiny-mamba",
    summary="Mamba, 4 layers, trained on Python source and its language reference",
    data=LibraryText,
    build=build,
    training=quick_scan,
    context=256,
    batch=8,
    steps=1400,
    other_lr=6e-3,
    warmup=0.05,
    decay=0.7,
    focus=0.4,
)
