"""Rules that round activations to a few levels, with the gradient that each trains through.

LSQ (arXiv 1902.08153), PACT (1805.06085), DoReFa-Net (1606.06160), ReActNet's RSign (2003.03488) and the staircase of
BWMA (2508.21524), which sharpens as IR-Net's sign does (1909.10788).
We differ: one grid serves all of them, so that they are compared in their gradients and in what they learn. Inputs
that are never negative have the values 0, step, .. (2^bits - 1) step; others the same shifted, so that zero stays a
value, and of one bit -step / 2 and step / 2. That makes rules of several bits of those that were published for one.
"""

import math
from typing import Any, ClassVar

import torch
from torch import nn

from hardy import checks
from hardy.errors import InputError


class ActivationRule(nn.Module):
    """Activations on a grid: `step * (code - zero_point)` for codes 0 .. 2^bits - 1.

    The step is known after `calibrate`, or else from the first input.

    Args:
        bits: 1 to 8.
        channels: of the input, for the rules that learn something for each.

    Attributes:
        step: of the grid, float32; NaN as long as nothing was seen.
        zero_point: the code of zero, 1/2 for signed inputs of one bit; likewise.
        progress: of the training, 0 to 1, for the rules that sharpen.
    """

    learns_step: ClassVar[bool] = True

    step: torch.Tensor
    zero_point: torch.Tensor
    shift: torch.Tensor | None
    """(channels,), taken away from the input before it is rounded, for the rules that have one."""

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__()
        self.bits = checks.integer("activation_bits", bits, at_least=1, at_most=8)
        self.channels, self.progress = channels, 1.0
        step = torch.tensor(math.nan)
        if self.learns_step:
            self.step = nn.Parameter(step)
        else:
            self.register_buffer("step", step)
        self.register_buffer("zero_point", torch.tensor(math.nan))
        self.register_parameter("shift", None)
        self._known = False

    @property
    def levels(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def calibrate(self, mean_magnitude: float, largest: float, signed: bool) -> None:
        """Set the grid for inputs of this mean and largest magnitude: a step of 2 E|x| / sqrt(levels).

        Raises:
            InputError: the inputs are all zero.
        """
        if mean_magnitude == 0:
            raise InputError("saw no input other than zero, so its activations have no step")
        step, zero_point = self._grid(mean_magnitude, largest, signed)
        with torch.inference_mode(False), torch.no_grad():
            self.step.fill_(step)
            self.zero_point.fill_(zero_point)
        self._known = True

    def _grid(self, mean_magnitude: float, largest: float, signed: bool) -> tuple[float, float]:
        """Step and zero point."""
        return 2 * mean_magnitude / math.sqrt(self.levels), _middle(self.bits) if signed else 0.0

    def slope(self, u: torch.Tensor) -> torch.Tensor:
        """The derivative that is taken for that of the rounded code by u, the code before rounding: one on the grid."""
        return ((u >= 0) & (u <= self.levels)).to(u.dtype)

    def step_slope(self, u: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """The derivative of the rounded input by the step, LSQ's with its factor."""
        within = (u >= 0) & (u <= self.levels)
        slope = torch.where(within, code - u, code - self.zero_point.float())
        return slope / math.sqrt(u.numel() * self.levels)

    def forward(self, x: torch.Tensor, channel: int = -1) -> torch.Tensor:
        """`x` on the grid, in its dtype.

        Args:
            x: of any shape.
            channel: the dimension of the channels.
        """
        self._require(x)
        return self._rounded(self._shifted(x.float(), channel)).to(x.dtype)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        rounded: torch.Tensor = _OnGrid.apply(x, self.step, self)  # pyright: ignore[reportAssignmentType]
        return rounded

    def codes(self, x: torch.Tensor, channel: int = -1) -> torch.Tensor:
        """The codes of `x`, uint8."""
        self._require(x)
        u = self._shifted(x.detach().float(), channel) / self.step.detach().float() + self.zero_point.float()
        return u.round().clamp(0, self.levels).to(torch.uint8)

    def _shifted(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        if self.shift is None:
            return x
        shape = [1] * x.ndim
        shape[channel] = -1
        return x - self.shift.float().view(shape)

    def _require(self, x: torch.Tensor) -> None:
        if self._known:
            return
        if math.isnan(float(self.step.detach())) or math.isnan(float(self.zero_point)):
            seen = checks.finite("the first input of a layer with binary weights", x.detach().float())
            self.calibrate(seen.abs().mean().item(), seen.abs().amax().item(), bool((seen < 0).any()))
        self._known = True

    def _load_from_state_dict(self, *arguments: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super()._load_from_state_dict(*arguments)
        self._known = False

    def extra_repr(self) -> str:
        return f"bits={self.bits}, step={float(self.step.detach()):.4g}, zero_point={float(self.zero_point):g}"


class LSQ(ActivationRule):
    """Learns its step; straight through on the grid."""


class EightBit(LSQ):
    """LSQ of 8 bits, for the inputs of layers with 8-bit weights; the grid begins as wide as the inputs that it saw."""

    def __init__(self, channels: int) -> None:
        super().__init__(8, channels)

    def _grid(self, mean_magnitude: float, largest: float, signed: bool) -> tuple[float, float]:
        return (largest / 127, 128.0) if signed else (largest / 255, 0.0)


class PACT(ActivationRule):
    """Learns where it clips: the step has the gradient of the clipped inputs alone, of the size that lets levels x step
    move as PACT's own parameter does. The penalty on it is the loop's."""

    def step_slope(self, u: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        clipped = (u < 0) | (u > self.levels)
        return torch.where(clipped, code - self.zero_point.float(), 0) / self.levels**2


class DoReFa(ActivationRule):
    """Learns nothing: the grid is that of [0, 1], of [-1, 1) for signed inputs, and of one bit -1 and 1."""

    learns_step = False

    def _grid(self, mean_magnitude: float, largest: float, signed: bool) -> tuple[float, float]:
        if not signed:
            return 1 / self.levels, 0.0
        return 2.0 ** (1 - self.bits) * (2 if self.bits == 1 else 1), _middle(self.bits)


class Staircase(ActivationRule):
    """Learns its step; back goes the derivative of a sum of sigmoids, one at each threshold, which sharpen.

    Their sharpness T goes from 1 to 10, in steps, as training goes on.
    """

    def slope(self, u: torch.Tensor) -> torch.Tensor:
        sharpness = 10**self.progress

        def bells(points: torch.Tensor) -> torch.Tensor:
            on = torch.sigmoid(sharpness * (points[:, None] - torch.arange(self.levels) - 0.5))
            return sharpness * (on * (1 - on)).sum(1)

        return _looked_up(u, bells, self.levels, margin=8 / sharpness)


class RSign(ActivationRule):
    """Learns a shift for each channel and keeps its step; back goes a triangle around each threshold (Bi-Real Net)."""

    learns_step = False

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__(bits, channels)
        self.shift = nn.Parameter(torch.zeros(channels))

    def slope(self, u: torch.Tensor) -> torch.Tensor:
        away = (u - u.floor() - 0.5).abs()  # from the nearest threshold, in steps
        return (2 - 4 * away) * super().slope(u)


RULES: dict[str, type[ActivationRule]] = {
    "lsq": LSQ,
    "pact": PACT,
    "dorefa": DoReFa,
    "staircase": Staircase,
    "rsign": RSign,
}


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: torch.Tensor, rule: ActivationRule) -> torch.Tensor:
        zero_point = rule.zero_point.float()
        u = x / step.float() + zero_point
        code = u.round().clamp_(0, rule.levels)
        ctx.rule = rule
        ctx.save_for_backward(u, code)
        return (code - zero_point).mul_(step.float())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        u, code = ctx.saved_tensors
        rule: ActivationRule = ctx.rule
        for_x = gradient * rule.slope(u) if ctx.needs_input_grad[0] else None
        for_step = (gradient * rule.step_slope(u, code)).sum() if ctx.needs_input_grad[1] else None
        return for_x, for_step, None


def _looked_up(u: torch.Tensor, function: Any, levels: int, margin: float) -> torch.Tensor:
    """`function` of every entry of `u`, from a table of 64 points to a step; zero beyond `margin` of the grid."""
    low, per_step = -math.ceil(margin), 64
    count = (levels - 2 * low) * per_step
    table = function((torch.arange(count) + 0.5) / per_step + low).to(u.device)
    table[[0, -1]] = 0
    place = ((u - low) * per_step).clamp_(0, count - 1).nan_to_num_(0)
    return table.index_select(0, place.flatten().to(torch.int32)).view_as(u)


def _middle(bits: int) -> float:
    """The zero point of a signed grid."""
    return 0.5 if bits == 1 else float(2 ** (bits - 1))
