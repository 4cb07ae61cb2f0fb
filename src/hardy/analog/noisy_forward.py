"""A layer's forward with noisy weights, and the two gradients of it: straight through the noise, or through all of it.

Straight through: the output is computed without a graph, by any simulator, and the backward is that of the clean layer
(`d weight = g^T x`, `d x = g W`), so that neither the noise nor the simulator leaves anything behind in memory.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import grad

from hardy.analog.arrays import Array
from hardy.analog.layers import on_chip
from hardy.core.rng import derive, generator
from hardy.core.roles import as_matrix, is_transposed
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.crossbar import ArrayState, digits_of, program_matrix
from hardy.hardware.noise import WeightNoise
from hardy.hardware.product import Periphery

Simulator = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
Gradient = Literal["straight-through", "full"]
InputGradient = Literal["clean", "noisy"]
Resample = int | Literal["sample", "never"]


def draw(
    noise: Chip | WeightNoise | Simulator,
    weight: torch.Tensor,
    site: Site,
    seed: int,
    step: tuple[int, ...],
    seconds: float,
) -> ArrayState:
    """One draw of what the arrays hold of `weight`.

    Args:
        noise: a chip, a weight noise, or a function of (weight, random generator).
        weight: (out, in) float32; a function is given a copy.
        site: where it is.
        seed, step: which draw; the same numbers give the same one.
        seconds: since programming.

    Raises:
        InputError: a function returned something else than a weight of the same shape.
    """
    if isinstance(noise, Chip):
        return program_matrix(weight, noise, seed=derive(seed, "training", *step), site=site.name, seconds=seconds)
    random = generator(seed, "training", site.name, *step, device=weight.device)
    if isinstance(noise, WeightNoise):
        noisy = noise.draw(weight, random) if noise.strength else weight
    else:
        noisy = noise(weight.clone(), random)
        if not isinstance(noisy, torch.Tensor) or noisy.shape != weight.shape or not noisy.is_floating_point():
            got = f"{tuple(noisy.shape)} {noisy.dtype}" if isinstance(noisy, torch.Tensor) else repr(noisy)
            raise InputError(f"{_name(noise)} must return a weight of shape {tuple(weight.shape)}, got {got}")
        noisy = noisy.to(weight)
    return ArrayState(weight=noisy, scale=weight.new_ones(len(weight), 1), read_variance=None)


def _name(noise: Any) -> str:
    return f"chip={getattr(noise, '__name__', noise)!s}"


def deviation(held: ArrayState, clean: torch.Tensor, noise: Any) -> ArrayState:
    """`held` with what it is beyond `clean`, of each slice what it is beyond its digit, in the place of weights."""
    slices = tuple(
        dataclasses.replace(part, weight=part.weight - digit) for part, digit in _with_digits(held, clean, noise)
    )
    return dataclasses.replace(held, weight=held.weight - clean, slices=slices)


def deviated(off: ArrayState, clean: torch.Tensor, noise: Any, strength: float = 1.0) -> ArrayState:
    """`clean` with the deviations `off`, and the standard deviation of reads, times `strength`.

    What the digits of `clean` leave over is on the last slice, whose cells count least.
    """
    weight = clean + strength * off.weight
    parts = [
        _quieter(part, digit + strength * part.weight, strength) for part, digit in _with_digits(off, clean, noise)
    ]
    if parts:
        rest = weight - torch.stack([part.weight for part in parts]).sum(0)
        parts[-1] = dataclasses.replace(parts[-1], weight=parts[-1].weight + rest)
    return dataclasses.replace(_quieter(off, weight, strength), slices=tuple(parts))


def _with_digits(state: ArrayState, clean: torch.Tensor, noise: Any) -> list[tuple[ArrayState, torch.Tensor]]:
    """Its slices, each with its digit of `clean`."""
    if not state.slices:
        return []
    digits = [digit for digit, _ in digits_of(clean, state.scale, noise)]
    return list(zip(state.slices, digits, strict=True))


def _quieter(state: ArrayState, weight: torch.Tensor, strength: float) -> ArrayState:
    variance = None if state.read_variance is None else state.read_variance * strength**2
    return dataclasses.replace(state, weight=weight, read_variance=variance)


@dataclasses.dataclass(kw_only=True)
class NoisyForward:
    """Stands in for `module.forward`: noisy in training mode, the module's own in evaluation mode.

    A step is a forward pass in training mode; one that repeats an earlier pass for its backward (activation
    checkpointing) meets the noise of that pass.

    Where the module has a noisy forward already the noises add up: this one's is drawn first, and what it makes of the
    weight is what the one before it sees.

    Attributes:
        module: nn.Linear, nn.Conv2d or GPT-2's Conv1D. Its parameters stay its own.
        sites: its weight, or the parts of it that are noisy.
        peripheries: the converters of each site, for a chip.
        inner: the forward that it takes the place of, if that is not the one of the module's class.
        limit: largest magnitude of each weight, broadcastable to (out, in), or None.
        steps: forward passes in training mode so far.
        kept: with `resample` above 1, the noise drawn last: which draw, and its deviations from the clean weight.
    """

    module: nn.Module
    sites: list[Site]
    noise: Chip | WeightNoise | Simulator
    peripheries: list[Periphery]
    seed: int
    seconds: float
    gradient: Gradient
    input_gradient: InputGradient
    resample: Resample
    warmup_steps: int
    inner: Callable[..., torch.Tensor] | None = None
    limit: torch.Tensor | None = None
    steps: int = 0
    kept: tuple[int, list[ArrayState]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.module.training:
            return self.plain(*args, **kwargs)
        if torch._C._current_graph_task_id() == -1:  # else a backward pass runs, and repeats a forward
            self.begin()
        return self.product(args[0] if args else next(iter(kwargs.values())))

    def begin(self) -> None:
        """Start a step, of the forward within too."""
        if isinstance(self.inner, NoisyForward):
            self.inner.begin()
        self.steps += 1
        self.clip()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The noisy output of this step."""
        if self.gradient == "full":
            return self.through_the_noise(x)
        weight: Any = self.module.weight
        with torch.no_grad():
            if self.resample == "sample":
                value = torch.cat([self.noisy(x[i : i + 1], weight, i)[0] for i in range(len(x))])
                base = weight
            else:
                value, noisy = self.noisy(x, weight)
                base = weight if self.input_gradient == "clean" else noisy
        product: torch.Tensor = _StraightThrough.apply(x, weight, self.module.bias, base, value, self.module)  # pyright: ignore[reportAssignmentType]
        return product

    def plain(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the module would compute without this noise."""
        if self.inner is None:
            return self.clean(*args, **kwargs)
        if self.module.training and isinstance(self.inner, NoisyForward):
            return self.inner.product(*args, **kwargs)  # its step was begun with this one's
        return self.inner(*args, **kwargs)

    def clean(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The forward of the module's class."""
        forward: Any = type(self.module).forward
        return forward(self.module, *args, **kwargs)

    def called_with(self, forward: Callable[..., Any], x: torch.Tensor, weight: torch.Tensor, bias: Any) -> Any:
        """What `forward` gives for another weight, in the shape of the parameter, and another bias."""
        module, own = self.module, self.module._parameters
        module._parameters = {**own, "weight": weight, "bias": bias}  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return forward(x)
        finally:
            module._parameters = own

    def noisy(self, x: torch.Tensor, weight: torch.Tensor, *sample: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The output for `x`, and the noisy weight in the shape of the parameter."""
        held = self.held(weight, *sample)
        if not isinstance(self.noise, Chip) or not self.noise.has_range:
            noisy = self.assembled(weight, held)
            return self.read(x, noisy, held, *sample), noisy
        # What Deploy would put there, for this one pass.
        parts = zip(self.sites, self.peripheries, held, strict=True)
        arrays = [self.array(site, periphery, part, self.steps, *sample) for site, periphery, part in parts]
        # Under another noise the weight is what that one made of it, and no parameter.
        stored = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach(), requires_grad=False)
        layer: Any = self.called_with(
            lambda _: on_chip(self.module, self.sites[0].module, arrays), x, stored, self.module.bias
        )
        y = layer(x)
        self.peripheries = [array.periphery for array in arrays]  # with the ranges that the first inputs set
        return y, layer.stored_weight().detach()

    def array(self, site: Site, periphery: Periphery, held: ArrayState, *step: int) -> Array:
        """The arrays that hold `held`."""
        assert isinstance(self.noise, Chip)
        random = generator(self.seed, "training", "read", site.name, *step, device=held.weight.device)
        return Array(
            site=site, name=site.name, place=slice(None) if site.rows is None else slice(*site.rows), chip=self.noise,
            periphery=periphery, state=held, seed=self.seed, seconds=self.seconds, random=random,
        )  # fmt: skip

    def held(self, weight: torch.Tensor, *sample: int) -> list[ArrayState]:
        """What the arrays hold of each site at this step."""
        index = 0 if self.resample == "never" else self.steps - 1
        if isinstance(self.resample, int) and self.resample > 1:
            index //= self.resample
        clean = [self.part(weight, site) for site in self.sites]
        if self.kept is not None and self.kept[0] == index:
            off = self.kept[1]
            held = [deviated(part, matrix, self.noise) for part, matrix in zip(off, clean, strict=True)]
        else:
            held = [
                draw(self.noise, matrix, site, self.seed, (index, *sample), self.seconds)
                for matrix, site in zip(clean, self.sites, strict=True)
            ]
            # The full gradient needs its graph anew at every step.
            if self.resample not in {1, "sample"} and self.gradient == "straight-through":
                off = [deviation(part, matrix, self.noise) for part, matrix in zip(held, clean, strict=True)]
                self.kept = (index, off)
        if self.steps >= self.warmup_steps:
            return held
        strength = self.steps / self.warmup_steps
        return [
            deviated(deviation(part, matrix, self.noise), matrix, self.noise, strength)
            for part, matrix in zip(held, clean, strict=True)
        ]

    def part(self, weight: torch.Tensor, site: Site) -> torch.Tensor:
        """The weight at `site`, (out, in) float32; not to be written to."""
        matrix = as_matrix(self.module, weight)
        matrix = matrix if site.rows is None else matrix[site.rows[0] : site.rows[1]]
        return matrix.float()

    def assembled(self, weight: torch.Tensor, held: list[ArrayState]) -> torch.Tensor:
        """The weight with `held` in the places of the sites, in the shape and dtype of the parameter."""
        matrix, pieces, done = as_matrix(self.module, weight), [], 0
        for site, part in zip(self.sites, held, strict=True):
            begin, end = site.rows or (0, len(matrix))
            pieces += [matrix[done:begin], part.weight.to(matrix.dtype)]
            done = end
        whole = torch.cat([*pieces, matrix[done:]])
        return whole.mT if is_transposed(self.module) else whole.reshape(weight.shape)

    def through_the_noise(self, x: torch.Tensor) -> torch.Tensor:
        """The output with every step from the weight to it on the graph, reads included."""
        held = self.held(self.module.weight)  # pyright: ignore[reportArgumentType]
        return self.read(x, self.assembled(self.module.weight, held), held)  # pyright: ignore[reportArgumentType]

    def read(self, x: torch.Tensor, noisy: torch.Tensor, held: list[ArrayState], *sample: int) -> torch.Tensor:
        """The output of a noisy weight without converters; the noise of all reads of an output is drawn at once."""
        bias: Any = self.module.bias
        y = self.called_with(self.plain, x, noisy, bias)
        if not _reads(held):
            return y
        variances = [
            torch.zeros_like(part.weight) if part.read_variance is None else part.read_variance.expand_as(part.weight)
            for part in held
        ]
        still = torch.zeros_like(noisy)  # parts that are on no array are read exactly
        spread = [dataclasses.replace(part, weight=v) for part, v in zip(held, variances, strict=True)]
        no_bias = None if bias is None else bias * 0
        of_output = self.called_with(self.clean, x.square(), self.assembled(still, spread), no_bias)
        random = generator(self.seed, "training", "read", self.sites[0].name, self.steps, *sample, device=x.device)
        normal = torch.randn(y.shape, generator=random, device=y.device, dtype=torch.float32).to(y.dtype)
        return y + (of_output + 1e-20).sqrt() * normal  # the root of zero has no gradient

    @torch.no_grad()
    def clip(self) -> None:
        """Bring weights beyond the limit back to it, as an optimizer would: in place."""
        if self.limit is None:
            return
        weight: Any = self.module.weight
        limit = self.limit = self.limit.to(weight.device)
        matrix = as_matrix(self.module, weight.detach())
        if bool((matrix.abs() > limit).any()):  # only then, because a graph that is still in use sees a write
            matrix.copy_(matrix.clamp(-limit, limit))


def _reads(held: list[ArrayState]) -> bool:
    return any(part.read_variance is not None for part in held)


class _StraightThrough(torch.autograd.Function):
    """`value`, with the gradient of the module's clean product; `base` is the weight that the input's goes through."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        base: torch.Tensor,
        value: torch.Tensor,
        module: nn.Module,
    ) -> torch.Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if needs_weight else None, base if needs_x else None)
        ctx.module, ctx.x, ctx.weight, ctx.base = module, x.shape, weight.shape, base.dtype
        ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, base = ctx.saved_tensors
        # Under autocast the output is of another dtype than the input and the weight.
        x, base = (None if tensor is None else tensor.to(gradient.dtype) for tensor in (x, base))
        for_bias = None
        if isinstance(ctx.module, nn.Conv2d):
            conv = ctx.module
            shared: Any = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups}
            shared["padding"] = padding_of(conv)
            of_x = None if base is None else grad.conv2d_input(ctx.x, base, gradient, **shared)
            of_weight = None if x is None else grad.conv2d_weight(x, ctx.weight, gradient, **shared)
            if ctx.needs_input_grad[2]:
                for_bias = gradient.sum((0, 2, 3))
        else:
            flat = gradient.reshape(-1, gradient.shape[-1])
            of_x = None if base is None else gradient @ as_matrix(ctx.module, base)
            of_weight = None
            if x is not None:
                vectors = x.reshape(-1, x.shape[-1])
                of_weight = vectors.mT @ flat if is_transposed(ctx.module) else flat.mT @ vectors
            if ctx.needs_input_grad[2]:
                for_bias = flat.sum(0)
        of_x, of_weight, for_bias = (
            None if tensor is None else tensor.to(dtype)
            for tensor, dtype in zip((of_x, of_weight, for_bias), ctx.dtypes, strict=True)
        )
        return of_x, of_weight, for_bias, None, None, None


def padding_of(conv: nn.Conv2d) -> tuple[int, ...]:
    """The padding of a convolution in numbers, the same on both sides.

    Raises:
        InputError: it has none: it pads with other values than zeros, or unevenly.
    """
    if conv.padding_mode != "zeros":
        raise InputError(f"a convolution is trained with padding by zeros, got padding_mode={conv.padding_mode!r}")
    if not isinstance(conv.padding, str):
        return tuple(conv.padding)
    if conv.padding == "valid":
        return (0, 0)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if any(r % 2 for r in reach):
        raise InputError(f"padding='same' of a kernel {conv.kernel_size} is not the same on both sides; give numbers")
    return tuple(r // 2 for r in reach)
