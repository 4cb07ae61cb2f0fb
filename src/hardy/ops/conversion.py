"""What the converters of a chip make of numbers: codes of inputs, and sums of the codes of the outputs of tiles.

On CUDA each is one launch in Triton, where torch needs a dozen; all numbers are read once.
"""

import torch

from hardy.ops import kernels


def input_codes(
    x: torch.Tensor, levels: int, full: torch.Tensor | float, beyond: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`clip(round(x * levels / full), -levels, levels)` as floats, and `beyond` with how many inputs are above `full`.

    Args:
        x: (vectors, in) float32.
        levels: the largest code.
        full: what has it: one number, or one of each vector, (vectors, 1).
        beyond: a count, int64 without dimensions, on the device of `x`; it may be added to in place.
    """
    if x.device.type == "cuda" and (triton := kernels.triton("conversion_triton")) is not None:
        return triton.input_codes(x, levels, full, beyond)
    codes = (x * (levels / full)).round_().clamp_(-levels, levels)
    return codes, beyond + (x.abs() > full).sum()


def in_steps(
    y: torch.Tensor, variance: torch.Tensor | None, normal: torch.Tensor | None, step: torch.Tensor
) -> torch.Tensor:
    """`y` plus noise in units of `step`, as what an output converter is given; arguments as in `converted_sum`."""
    if variance is not None and normal is not None:
        y.add_(variance.sqrt_().mul_(normal))
    return y.mul_(1 / step)


def converted_sum(
    y: torch.Tensor,
    variance: torch.Tensor | None,
    normal: torch.Tensor | None,
    step: torch.Tensor,
    levels: int,
    beyond: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over tiles of what their output converters make of `y` plus noise, and `beyond` with what was clipped.

    Args:
        y: (tiles, vectors, out) float32; may be written to.
        variance: of the noise, which `normal`, both of the shape of `y`, is multiplied with the root of; None without.
            May be written to.
        normal: Gaussian numbers.
        step: what a code counts, (1 or tiles, 1 or vectors, out).
        levels: the largest code; 0 for converters that give a sign.
        beyond: a count, as in `input_codes`.

    Returns:
        (vectors, out) float32, in the units of `y`.
    """
    if y.device.type == "cuda" and (triton := kernels.triton("conversion_triton")) is not None:
        return triton.converted_sum(y, variance, normal, step, levels, beyond)
    y = in_steps(y, variance, normal, step)
    codes = torch.where(y >= 0, 1.0, -1.0) if levels == 0 else y.round_()
    most = levels or 1
    beyond = beyond + (codes.abs() > most).sum()
    codes.clamp_(-most, most)
    return (codes.sum(0).mul_(step[0]) if len(step) == 1 else codes.mul_(step).sum(0)), beyond
