"""Few bits."""

from hardy.quant.absmean import AbsmeanTrits
from hardy.quant.clipped_round_to_nearest import ClippedRoundToNearest
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.quant.trit_linear import TritLinear
from hardy.quant.trit_planes import TritPlanes

__all__ = ["AbsmeanTrits", "ClippedRoundToNearest", "RoundToNearest", "TritLinear", "TritPlanes"]
