"""Quant's locators under the names that `hardy locate` has for them."""

from hardy.core.locators import locator
from hardy.quant.block_removal import perplexity_drop
from hardy.quant.importance import layer_importance
from hardy.quant.spectral import effective_rank, energy_gain

locator(
    "effective-rank",
    units=("block", "projection"),
    summary="how far training concentrated the outputs in few directions",
)(effective_rank)
locator(
    "energy-gain",
    units=("block", "projection"),
    summary="how much more of the outputs' energy lies in the top tenth of directions than for random weights",
)(energy_gain)
locator("perplexity-drop", units=("block",), summary="increase of the loss without the block")(perplexity_drop)
locator("lieq-v1", units=("block",), summary="mean of the other three")(layer_importance)
