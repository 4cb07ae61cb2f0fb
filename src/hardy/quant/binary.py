"""Rules that make a weight of two levels, with the gradient that each trains it by.

XNOR-Net (arXiv 1603.05279), DoReFa-Net (1606.06160), IR-Net (1909.10788), ReActNet (2003.03488) and BWMA (2508.21524).
We differ: XNOR-Net's input scale K is left out, in training as in what is packed and exported, since it costs a
convolution of its own; ReActNet's RPReLU is a choice of its own (`hardy.quant.rectifiers`); of BWMA, of which the
abstract alone is certain, the reading is ours. `EightBit` is no binary rule: it is what a first or last layer may have.

A rule is a function of a weight matrix. `levels` is its closed form, what is stored; calling the rule gives the same
values with the rule's gradient.
"""

import abc
import dataclasses
from typing import ClassVar, Literal

import torch

from hardy import checks
from hardy.ops.straight_through import straight_through

Per = Literal["channel", "layer"]


@dataclasses.dataclass(frozen=True)
class Levels:
    """A weight of few levels for each output channel: `scale * codes + offset`.

    Attributes:
        codes: (out, in), float: -1 or 1 of a binary rule, whole numbers from -127 to 127 of `EightBit`.
        scale: (out, 1), of two levels half their distance.
        offset: (out, 1), their middle; zeros for a rule whose levels are symmetric.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def dense(self) -> torch.Tensor:
        """The weight, (out, in)."""
        return self.scale * self.codes + self.offset


class WeightRule(abc.ABC):
    """A rule: `levels(weight, per)`, and a call for the same values with a gradient.

    Attributes:
        bits: of a code.
        partner: name of its paper's activation rule.
        usual: whether its paper has a scale for each output "channel" or for the whole "layer".
        needs_batch_norm: whether it changes the scale of a channel, which a batch norm after the layer has to undo.
    """

    bits: ClassVar[int] = 1
    partner: ClassVar[str] = "lsq"
    usual: ClassVar[Per] = "channel"
    needs_batch_norm: ClassVar[bool] = False

    @abc.abstractmethod
    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        """The closed form of `weight` (out, in), float32, without a gradient."""

    @abc.abstractmethod
    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        """`levels(weight, per).dense()`, with the gradient of the rule.

        Args:
            weight: (out, in), float32.
            per: see `Levels`; "layer" has one scale and offset for all channels.
            progress: of the training, 0 to 1, for the rules whose gradient sharpens.
        """


class XNOR(WeightRule):
    """sign(w) times the mean magnitude; the gradient goes through both, and through the sign where |w| <= 1."""

    partner = "dorefa"

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = weight.detach()
        return _symmetric(signs_of(weight), _mean(weight.abs(), per))

    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        signs = straight_through(weight, signs_of(weight.detach()), (weight.detach().abs() <= 1).to(weight.dtype))
        return _mean(weight.abs(), per) * signs


class LSQA(XNOR):
    """XNOR-Net's weight with the learned step size (arXiv 1902.08153) for activations."""

    partner = "lsq"


class DoReFa(WeightRule):
    """sign(w) times the mean magnitude of the layer; the gradient is the identity."""

    partner = "dorefa"
    usual = "layer"

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = weight.detach()
        return _symmetric(signs_of(weight), _mean(weight.abs(), per))

    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        return straight_through(weight, self.levels(weight, per).dense())


class IRNet(WeightRule):
    """The sign of the standardised channel times a power of two; the gradient is that of a tanh that sharpens.

    Its levels know nothing of the scale of the float weight. A channel whose weights are all the same becomes zero.
    """

    partner = "staircase"
    needs_batch_norm = True

    def _standardised(self, weight: torch.Tensor) -> torch.Tensor:
        centred = weight - weight.mean(1, keepdim=True)
        spread = centred.std(1, keepdim=True, correction=0)
        return centred / torch.where(spread > 0, spread, 1)

    def _scale(self, standardised: torch.Tensor, per: Per) -> torch.Tensor:
        mean = _mean(standardised.detach().abs(), per)
        return torch.where(mean > 0, torch.exp2(mean.log2().round()), 0)

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = self._standardised(weight.detach())
        return _symmetric(signs_of(weight), self._scale(weight, per))

    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        weight = self._standardised(weight)
        sharpness = 10 ** (-1 + 2 * progress)  # the paper's t, from 0.1 to 10, and its k
        bell = 1 - torch.tanh(sharpness * weight.detach()).square()
        signs = straight_through(weight, signs_of(weight.detach()), max(1 / sharpness, 1.0) * sharpness * bell)
        scale = self._scale(weight, per)
        return scale * signs


class ReActNet(WeightRule):
    """sign(w) times the mean magnitude, which gets no gradient; the identity where |w| <= 1 for the sign."""

    partner = "rsign"
    needs_batch_norm = True

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = weight.detach()
        return _symmetric(signs_of(weight), _mean(weight.abs(), per))

    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        within = (weight.detach().abs() <= 1).to(weight.dtype)
        return straight_through(weight, self.levels(weight, per).dense(), within)


class BWMA(WeightRule):
    """The sign of w - mean, times the mean magnitude of that, plus the mean.

    That scale is the best one for these signs and this middle. The gradient is the identity within 1.5 standard
    deviations of the mean.
    """

    partner = "staircase"

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = weight.detach()
        mean = _mean(weight, per)
        return Levels(signs_of(weight - mean), _mean((weight - mean).abs(), per), mean)

    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        clean = weight.detach()
        off = clean - _mean(clean, per)
        within = off.abs() <= 1.5 * _mean(off.square(), per).sqrt()
        return straight_through(weight, self.levels(weight, per).dense(), within.to(weight.dtype))


class Lloyd(BWMA):
    """The best two levels there are: each the mean of its side, divided in the middle between them (Lloyd 1982)."""

    iterations: ClassVar[int] = 20

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = weight.detach()
        middle, scale = _mean(weight, per), torch.zeros_like(weight[:, :1])
        signs = signs_of(weight - middle)
        for _ in range(self.iterations):
            low, high = _mean_where(weight, signs < 0, per), _mean_where(weight, signs > 0, per)
            middle, scale = (low + high) / 2, (high - low) / 2
            moved = signs_of(weight - middle)
            if torch.equal(moved, signs):
                break
            signs = moved
        return Levels(signs, scale, middle)


class EightBit(WeightRule):
    """Rounded to whole multiples of 1/127 of the largest magnitude of the channel; the gradient is the identity."""

    bits = 8

    def levels(self, weight: torch.Tensor, per: Per) -> Levels:
        weight = weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        return _symmetric((weight / torch.where(scale > 0, scale, 1)).round(), scale)

    def __call__(self, weight: torch.Tensor, per: Per, progress: float = 1.0) -> torch.Tensor:
        return straight_through(weight, self.levels(weight, per).dense())


RULES: dict[str, type[WeightRule]] = {
    "bwma": BWMA,
    "bwma-lloyd": Lloyd,
    "xnor": XNOR,
    "lsq-a": LSQA,
    "dorefa": DoReFa,
    "irnet": IRNet,
    "reactnet": ReActNet,
}


def rule(name: str) -> WeightRule:
    """The rule called `name`.

    Raises:
        InputError: there is none.
    """
    return RULES[checks.one_of("method", name, RULES)]()


def signs_of(values: torch.Tensor) -> torch.Tensor:
    """-1 or 1, as floats; 1 for zero."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


def _mean(values: torch.Tensor, per: Per) -> torch.Tensor:
    """The mean of each row of (out, in), or of all, (out, 1)."""
    mean = values.mean(1, keepdim=True)
    return mean if per == "channel" else mean.mean(0, keepdim=True).expand_as(mean)


def _mean_where(values: torch.Tensor, chosen: torch.Tensor, per: Per) -> torch.Tensor:
    """The same over the chosen values; where none is, over all."""
    total, count = _mean(values * chosen, per), _mean(chosen.to(values.dtype), per)
    return torch.where(count > 0, total / count.clamp(min=torch.finfo(values.dtype).tiny), _mean(values, per))


def _symmetric(codes: torch.Tensor, scale: torch.Tensor) -> Levels:
    return Levels(codes, scale, torch.zeros_like(scale))
