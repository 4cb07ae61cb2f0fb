"""Layers that compute on a chip: drop-in for nn.Linear, nn.Conv2d and GPT-2's Conv1D, with the same state-dict keys.

`weight` is what the arrays hold, as read back: it is what other tools see, what is saved, and where the gradient
arrives. The weights that were programmed are kept beside it, outside the state dict.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

from hardy.core.rng import generator
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.crossbar import ArrayState, program_matrix
from hardy.hardware.product import Periphery, analog_product, largest_tile_output


@dataclasses.dataclass(kw_only=True)
class Array:
    """A matrix on the tiles of a chip, and where in its module it is.

    Attributes:
        site: where it is; its name decides which cells it meets.
        chip: what kind of chip.
        clean: the weights that are programmed, (out, in) float32.
        periphery: the converters, with the ranges of this layer.
        held: what the chip instance holds of `clean`.
        seed, seconds: which instance, and how long after programming.
        random: of the read noise; every use moves it on.
    """

    site: Site
    chip: Chip
    clean: torch.Tensor
    periphery: Periphery
    held: ArrayState
    seed: int
    seconds: float
    random: torch.Generator

    @staticmethod
    def program(
        site: Site, chip: Chip, clean: torch.Tensor, seed: int, seconds: float, periphery: Periphery
    ) -> "Array":
        """`clean` on the chip instance `seed`, `seconds` after programming."""
        held = program_matrix(clean, chip, seed=seed, site=site.name, seconds=seconds)
        random = generator(seed, "read", site.name, device=clean.device)
        return Array(
            site=site, chip=chip, clean=clean, periphery=periphery, held=held, seed=seed, seconds=seconds, random=random
        )

    @property
    def reads_exactly(self) -> bool:
        """Whether a product with the held weights is all that happens at a use."""
        converts = self.periphery.dac_levels or self.periphery.adc_levels or self.periphery.output_noise
        return not converts and self.held.read_variance is None

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`x @ weight.T` on the chip; x (..., in), weight (out, in) as held, in any dtype."""
        if self.random.device != x.device:  # the model was moved
            self.random = generator(self.seed, "read", self.site.name, device=x.device)
        held = self.held
        flat = x.reshape(-1, x.shape[-1]).float()
        y = analog_product(flat, weight.float(), held.scale, held.read_variance, self.periphery, self.random)
        return y.reshape(*x.shape[:-1], len(weight)).to(x.dtype)

    def moved(self, move: Any) -> None:
        """Apply what `nn.Module._apply` applies to its tensors, keeping their float32."""

        def to(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(move(tensor).device)

        self.clean = self.clean.to(move(self.clean).device)
        values = {field.name: to(getattr(self.held, field.name)) for field in dataclasses.fields(ArrayState)}
        self.held = ArrayState(**values)  # pyright: ignore[reportArgumentType]


class AnalogLayer(nn.Module):
    """What the layers have in common: their arrays, and how those are programmed and aged."""

    weight: torch.Tensor
    arrays: list[Array]

    def attach(self, original: nn.Module, arrays: list[Array]) -> None:
        """Take the place of `original`: its attributes, its bias, and a weight of one's own."""
        for name, value in vars(original).items():
            # A forward that was put on the original, by NoiseAware or accelerate, is of a layer that is not on a chip.
            if name not in {"_parameters", "_modules", "_buffers", "forward"}:
                setattr(self, name, value)
        for name, parameter in original._parameters.items():
            self.register_parameter(name, parameter)
        old: Any = original.weight
        # Contiguous, so that `matrix` is a view of it, which a channels-last image weight would not give.
        own = old.detach().clone(memory_format=torch.contiguous_format)
        self.weight = nn.Parameter(own, requires_grad=old.requires_grad)
        self.arrays = arrays
        self.write()

    def matrix(self) -> torch.Tensor:
        """`weight` as (out, in)."""
        return self.weight.flatten(1)

    @torch.no_grad()
    def write(self) -> None:
        """Give `weight` what the arrays hold, in the model's dtype; rows that are on no array stay."""
        for array in self.arrays:
            rows = slice(None) if array.site.rows is None else slice(*array.site.rows)
            self.matrix().detach()[rows].copy_(array.held.weight)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out) without bias."""
        matrix = self.matrix()
        if all(array.reads_exactly for array in self.arrays):
            return x @ matrix.mT
        parts, done = [], 0
        for array in self.arrays:
            begin, end = array.site.rows or (0, len(matrix))
            if begin > done:
                parts.append(x @ matrix[done:begin].mT)
            parts.append(array.product(x, matrix[begin:end]))
            done = end
        if done < len(matrix):
            parts.append(x @ matrix[done:].mT)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def reprogrammed(self, *, seed: int | None = None, seconds: float | None = None) -> list[Array]:
        """The arrays of another chip instance, or at another time; what is None stays. `take` makes them its own."""
        return [
            Array.program(
                array.site,
                array.chip,
                array.clean,
                array.seed if seed is None else seed,
                array.seconds if seconds is None else seconds,
                array.periphery,
            )
            for array in self.arrays
        ]

    def take(self, arrays: list[Array]) -> None:
        """Compute on `arrays` from now on."""
        self.arrays = arrays
        self.write()

    @torch.no_grad()
    def calibrate(self, x: torch.Tensor, input_range: float) -> None:
        """Set the converters' calibrated ranges from inputs (vectors, in) and their largest magnitude."""
        for array in self.arrays:
            rows = slice(None) if array.site.rows is None else slice(*array.site.rows)
            periphery = Periphery.of(array.chip, input_range=input_range)
            weight = self.matrix()[rows].float()
            largest = largest_tile_output(x.float(), weight, array.held.scale, periphery)
            array.periphery = Periphery.of(array.chip, input_range=input_range, output_range=largest or None)

    def _apply(self, fn: Any, recurse: bool = True) -> "AnalogLayer":
        super()._apply(fn, recurse)
        for array in self.arrays:
            array.moved(fn)
        return self


class AnalogLinear(AnalogLayer, nn.Linear):
    """An nn.Linear whose product is computed on a chip; the bias is added digitally."""

    def __init__(self, original: nn.Linear, arrays: list[Array]) -> None:
        nn.Module.__init__(self)
        self.attach(original, arrays)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if all(array.reads_exactly for array in self.arrays):
            return nn.functional.linear(input, self.weight, self.bias)
        y = self.product(input)
        return y if self.bias is None else y + self.bias


class AnalogConv1D(AnalogLayer, nn.Linear):
    """GPT-2's Conv1D on a chip: an nn.Linear that stores its weight as (in, out)."""

    is_transposed = True

    def __init__(self, original: nn.Module, arrays: list[Array]) -> None:
        nn.Module.__init__(self)
        self.attach(original, arrays)
        self.in_features, self.out_features = self.weight.shape

    def matrix(self) -> torch.Tensor:
        return self.weight.mT

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = self.product(input)
        return y if self.bias is None else y + self.bias


class AnalogConv2d(AnalogLayer, nn.Conv2d):
    """An nn.Conv2d on a chip: each patch of the image is one input vector of in_channels * kernel entries."""

    def __init__(self, original: nn.Conv2d, arrays: list[Array]) -> None:
        nn.Module.__init__(self)
        if any(not array.reads_exactly for array in arrays) and (
            original.groups != 1 or original.padding_mode != "zeros" or isinstance(original.padding, str)
        ):
            raise InputError(
                f"{arrays[0].site.name}: a convolution with converters or read noise takes groups=1 and padding by "
                f"zeros in numbers, got groups={original.groups}, padding={original.padding!r} "
                f"({original.padding_mode}); use chip.without_periphery()"
            )
        self.attach(original, arrays)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if all(array.reads_exactly for array in self.arrays):
            return self._conv_forward(input, self.weight, self.bias)
        y = self.product(self.patches(input)).transpose(1, 2)
        height, width = (
            (size + 2 * int(self.padding[i]) - self.dilation[i] * (self.kernel_size[i] - 1) - 1) // self.stride[i] + 1
            for i, size in enumerate(input.shape[-2:])
        )
        y = y.reshape(len(input), self.out_channels, height, width)
        return y if self.bias is None else y + self.bias[:, None, None]

    def patches(self, input: torch.Tensor) -> torch.Tensor:
        """(batch, positions, in_channels * kernel) of images (batch, in_channels, height, width)."""
        padding: Any = self.padding
        columns = nn.functional.unfold(input, self.kernel_size, self.dilation, padding, self.stride)  # pyright: ignore[reportArgumentType]
        return columns.transpose(1, 2)
