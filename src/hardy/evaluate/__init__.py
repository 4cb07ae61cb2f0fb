"""Metrics, and nothing but metrics."""

from hardy.evaluate.language import bits_per_byte, context_length, encode, perplexity, token_losses

__all__ = ["bits_per_byte", "context_length", "encode", "perplexity", "token_losses"]
