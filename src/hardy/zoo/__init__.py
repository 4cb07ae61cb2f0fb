"""Really trained models with nothing to download, and the offline text they were trained on."""

from hardy.zoo.loading import card, generate, load, names
from hardy.zoo.text import held_out_text

__all__ = ["card", "generate", "held_out_text", "load", "names"]
