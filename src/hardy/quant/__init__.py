"""Few bits."""

from hardy.quant.round_to_nearest import RoundToNearest

__all__ = ["RoundToNearest"]
