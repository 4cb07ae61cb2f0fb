"""Few bits."""

from hardy.quant.round_to_nearest import RoundToNearest
from hardy.quant.trit_planes import TritPlanes

__all__ = ["RoundToNearest", "TritPlanes"]
