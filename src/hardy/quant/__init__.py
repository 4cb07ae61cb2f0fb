"""Few bits."""

from hardy.quant.absmean import AbsmeanTrits
from hardy.quant.asymmetric_trits import AsymmetricTrits
from hardy.quant.calibrated_trit_planes import CalibratedTritPlanes
from hardy.quant.clipped_round_to_nearest import ClippedRoundToNearest
from hardy.quant.gptq import GPTQ
from hardy.quant.round_to_nearest import RoundToNearest
from hardy.quant.trit_planes import TritPlanes

__all__ = [
    "GPTQ",
    "AbsmeanTrits",
    "AsymmetricTrits",
    "CalibratedTritPlanes",
    "ClippedRoundToNearest",
    "RoundToNearest",
    "TritPlanes",
]
