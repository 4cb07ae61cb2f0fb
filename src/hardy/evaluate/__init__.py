"""Metrics, and nothing but metrics."""

from hardy.evaluate.language import batches, bits_per_byte, context_length, encode, perplexity, token_losses

__all__ = ["batches", "bits_per_byte", "context_length", "encode", "perplexity", "token_losses"]
