"""The parameters of the head for tracks in the public weights: named and counted, so that nothing is left out unseen.

The head itself is not here: pose, depth and points do without it.
"""

from __future__ import annotations

import torch
from torch import nn

from hardy.zoo.vggt.config import VGGTConfig
from hardy.zoo.vggt.dense import DenseHead
from hardy.zoo.vggt.layers import Mlp

PREFIX = "track_head."
_LATENT, _HIDDEN, _BLOCKS, _VIRTUAL, _LEVELS, _RADIUS = 128, 384, 6, 64, 7, 4


def track_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that belong to tracks."""
    with torch.device("meta"):
        features = DenseHead(VGGTConfig(features=_LATENT), 2)
        features.scratch.output_conv1 = nn.Conv2d(_LATENT, _LATENT, 3, padding=1)
        del features.scratch.output_conv2
        head = nn.ModuleDict({"feature_extractor": features, "tracker": _tracker()})
    return {PREFIX + name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}


def _tracker() -> nn.Module:
    inputs = 3 * _LATENT + 4
    former = nn.ModuleDict({
        "input_norm": nn.LayerNorm(inputs), "input_transform": nn.Linear(inputs, _HIDDEN),
        "output_norm": nn.LayerNorm(_HIDDEN), "flow_head": nn.Linear(_HIDDEN, _LATENT + 2),
        "time_blocks": _blocks(), "space_virtual_blocks": _blocks(),
        "space_point2virtual_blocks": _blocks(crossing=True), "space_virtual2point_blocks": _blocks(crossing=True),
    })  # fmt: skip
    former.register_parameter("virual_tracks", nn.Parameter(torch.empty(1, _VIRTUAL, 1, _HIDDEN)))
    tracker = nn.ModuleDict({
        "corr_mlp": Mlp(_LEVELS * (2 * _RADIUS + 1) ** 2, _HIDDEN, _LATENT), "updateformer": former,
        "fmap_norm": nn.LayerNorm(_LATENT), "ffeat_norm": nn.GroupNorm(1, _LATENT),
        "ffeat_updater": nn.Sequential(nn.Linear(_LATENT, _LATENT)),
        "vis_predictor": nn.Sequential(nn.Linear(_LATENT, 1)), "conf_predictor": nn.Sequential(nn.Linear(_LATENT, 1)),
    })  # fmt: skip
    tracker.register_parameter("query_ref_token", nn.Parameter(torch.empty(1, 2, inputs)))
    return tracker


def _blocks(*, crossing: bool = False) -> nn.ModuleList:
    norms = ("norm1", "norm_context", "norm2") if crossing else ("norm1", "norm2")
    attention = "cross_attn" if crossing else "attn"
    return nn.ModuleList(
        nn.ModuleDict({
            **{name: nn.LayerNorm(_HIDDEN) for name in norms},
            attention: nn.MultiheadAttention(_HIDDEN, 8), "mlp": Mlp(_HIDDEN, 4 * _HIDDEN, _HIDDEN),
        })
        for _ in range(_BLOCKS)
    )  # fmt: skip
