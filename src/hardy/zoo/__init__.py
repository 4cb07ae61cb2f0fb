"""Really trained models with nothing to download, and the offline text they were trained on."""

from hardy.zoo.digits import tiny_cnn
from hardy.zoo.loading import card, generate, load, names
from hardy.zoo.subject import Subject
from hardy.zoo.text import held_out_text

__all__ = ["Subject", "card", "generate", "held_out_text", "load", "names", "tiny_cnn"]
