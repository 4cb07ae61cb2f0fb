"""Metrics, and nothing but metrics."""

from hardy.evaluate.geometry import aligned, depth_errors, depth_scale, trajectory_error
from hardy.evaluate.image import ssim
from hardy.evaluate.language import batches, bits_per_byte, context_length, encode, perplexity, token_losses
from hardy.evaluate.loss import mean_loss
from hardy.evaluate.signal import psnr, psnr_of_error

__all__ = [
    "aligned",
    "batches",
    "bits_per_byte",
    "context_length",
    "depth_errors",
    "depth_scale",
    "encode",
    "mean_loss",
    "perplexity",
    "psnr",
    "psnr_of_error",
    "ssim",
    "token_losses",
    "trajectory_error",
]
