"""The parameters of a model that are on a chip: a matrix on its tiles, and a weight that follows its parameter.

The parameter stays the digital weight, the one that is loaded, trained and saved: it is what is programmed. What the
arrays hold of it is a function of the parameter, the chip instance and the time, and is found anew whenever one of
them has changed, so that nothing that was loaded or trained is ever missing from the chip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hardy.core.rng import generator
from hardy.core.selection import Site
from hardy.errors import InputError
from hardy.hardware.chip import Chip
from hardy.hardware.crossbar import ArrayState, program_matrix
from hardy.hardware.product import Clips, Periphery, analog_product, calibrated
from hardy.ops.straight_through import straight_through


@dataclasses.dataclass(kw_only=True)
class Array:
    """A matrix on the tiles of a chip, and where in its parameter it is.

    Attributes:
        site: where it is.
        name: of the site, or of one expert of it: decides which cells it meets.
        place: rows of the parameter, or the index of a matrix in a stack: an expert, or a group of channels.
        chip: what kind of chip.
        periphery: the converters, with the ranges of this matrix as far as they are known.
        state: what the chip instance holds.
        seed, seconds: which instance, and how long after programming.
        random: of the read noise; every use moves it on.
        clips: how many conversions went beyond the ranges.
    """

    site: Site
    name: str
    place: slice | int
    chip: Chip
    periphery: Periphery
    state: ArrayState
    seed: int
    seconds: float
    random: torch.Generator
    clips: Clips = dataclasses.field(default_factory=Clips)

    @staticmethod
    def program(
        site: Site, chip: Chip, clean: torch.Tensor, seed: int, seconds: float, *, part: int | str | None = None,
        place: slice | int | None = None,
    ) -> Array:  # fmt: skip
        """`clean` (out, in) float32 on the chip instance `seed`, `seconds` after programming.

        Where it is not the whole site: `part` is its name, and `place` where it is in the parameter.
        """
        name = site.name if part is None else f"{site.name}.{part}"
        if place is None:
            place = slice(None) if site.rows is None else slice(*site.rows)
        return Array(
            site=site,
            name=name,
            place=place,
            chip=chip,
            periphery=Periphery.of(chip),
            state=program_matrix(clean, chip, seed=seed, site=name, seconds=seconds),
            seed=seed,
            seconds=seconds,
            random=generator(seed, "read", name, device=clean.device),
        )

    @property
    def reads_exactly(self) -> bool:
        """Whether a product with the stored weights is all that happens at a use."""
        return not self.periphery.converts and self.state.read_variance is None

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`x @ weight.T` on the chip; x (..., in), weight (out, in) as stored, in any dtype.

        A calibrated range that no calibration has set is found on the first inputs that are not all zero.
        """
        if self.random.device != x.device:  # the model was moved
            self.random = generator(self.seed, "read", self.name, device=x.device)
        flat, weight, state = x.reshape(-1, x.shape[-1]).float(), weight.float(), self.state
        variance = None if state.read_variance is None else state.read_variance.float()
        if not self.periphery.known:
            self.calibrate(flat)
        y = analog_product(
            flat, weight, state.scale, variance, self.periphery, self.random, self.clips,
            converters=state.converters, slices=state.slices,
        )  # fmt: skip
        return y.reshape(*x.shape[:-1], len(weight)).to(x.dtype)

    @torch.no_grad()
    def calibrate(self, x: torch.Tensor, input_range: float | None = None) -> None:
        """Set the converters' calibrated ranges from inputs (vectors, in) and, if not from these, their largest."""
        state = self.state
        ranges = calibrated(x, state.weight.float(), state.scale, self.chip, input_range, state.slices)
        self.periphery = Periphery.of(self.chip, input_range=ranges[0], output_range=ranges[1])


class StoredWeight:
    """What arrays hold of a parameter.

    Args:
        arrays: its parts; what is in none of them is digital.
        transposed: whether the parameter is stored as (..., in, out).
        groups: of a transposed convolution, whose parameter is (in, out / groups, *kernel); None for all else.
    """

    def __init__(self, arrays: list[Array], transposed: bool = False, groups: int | None = None) -> None:
        self.arrays, self.transposed, self.groups = arrays, transposed, groups
        self._values: torch.Tensor | None = None
        self._programmed: tuple[Any, ...] = ()
        self._of: torch.Tensor | None = None  # the parameter

    @property
    def reads_exactly(self) -> bool:
        """Whether products with the stored weights are all that happens at a use."""
        return all(array.reads_exactly for array in self.arrays)

    @property
    def known(self) -> bool:
        """Whether the ranges of all converters are."""
        return all(array.periphery.known for array in self.arrays)

    def matrices(self, values: torch.Tensor) -> torch.Tensor:
        """A parameter as (out, in), (out, in * kernel), (experts, out, in) or (groups, out * kernel, in)."""
        if self.groups is not None:
            return values.reshape(self.groups, len(values) // self.groups, -1).mT
        if self.transposed:
            return values.mT
        return values.flatten(1) if isinstance(self.arrays[0].place, slice) else values

    def take(self, parameter: torch.Tensor) -> StoredWeight:
        """Hold `parameter`, which the arrays were programmed with just now."""
        self._write(parameter, [array.state for array in self.arrays])
        return self

    def reprogrammed(self, parameter: torch.Tensor, seed: int | None, seconds: float | None) -> list[ArrayState]:
        """What the arrays of another chip instance, or at another time, hold of `parameter`; None: as they are."""
        whole = self.matrices(parameter.detach())
        states = []
        for array in self.arrays:
            clean = whole[array.place].float()
            if not torch.isfinite(clean.sum()) and (bad := int((~torch.isfinite(clean)).sum())):
                raise InputError(f"{array.name} holds {bad} NaN or infinite weights of {clean.numel()}")
            seed_, seconds_ = (array.seed if seed is None else seed), (array.seconds if seconds is None else seconds)
            states.append(program_matrix(clean, array.chip, seed=seed_, site=array.name, seconds=seconds_))
        return states

    def become(
        self, parameter: torch.Tensor, states: list[ArrayState], seed: int | None, seconds: float | None
    ) -> None:
        """Take what `reprogrammed` gave. Another chip instance begins its own series of reads."""
        for array in self.arrays:
            array.seconds = array.seconds if seconds is None else seconds
            if seed is not None:
                array.seed, array.random = seed, generator(seed, "read", array.name, device=parameter.device)
        self._write(parameter, states)

    def values(self, parameter: torch.Tensor) -> torch.Tensor:
        """What is stored, in shape and dtype of `parameter`, to which its gradient goes straight.

        Raises:
            InputError: the model is being exported, to ONNX or otherwise, and has converters or read noise here.
        """
        if _is_exporting():
            return self._exported()
        if self._programmed != _stamp(parameter):
            self.become(parameter, self.reprogrammed(parameter, None, None), None, None)
        stored = self._values
        assert stored is not None
        if torch.is_grad_enabled() and parameter.requires_grad:
            return straight_through(parameter, stored)
        return stored

    def _exported(self) -> torch.Tensor:
        """What is stored, as a constant of the exported graph, which is given a stand-in of the parameter."""
        if not self.reads_exactly:
            raise InputError(
                f"{self.arrays[0].name} is on a chip whose converters and read noise act at every use, which no "
                "exported graph does: export with Deploy(chip=chip.without_periphery()), whose weights are what the "
                "cells hold, or undo the change and export the digital model"
            )
        if self._of is None or self._programmed != _stamp(self._of):
            raise InputError(
                f"the weight of {self.arrays[0].name} was changed since it was programmed: run the model, or call "
                "program, before exporting it"
            )
        assert self._values is not None
        return self._values

    def product(self, x: torch.Tensor, parameter: torch.Tensor, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """(..., in) to (..., out), for a parameter that is one matrix, or for some rows of it that are whole arrays."""
        matrix = self.matrices(self.values(parameter))
        done, last = rows or (0, len(matrix))
        if self.reads_exactly:
            return x @ matrix[done:last].mT
        parts = []
        for array in self.arrays:
            begin, end, _ = array.place.indices(len(matrix))  # pyright: ignore[reportAttributeAccessIssue]
            if begin < done or end > last:
                continue
            if begin > done:
                parts.append(x @ matrix[done:begin].mT)
            parts.append(array.product(x, matrix[begin:end]))
            done = end
        if done < last:
            parts.append(x @ matrix[done:last].mT)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def expert_product(self, x: torch.Tensor, parameter: torch.Tensor, expert: int) -> torch.Tensor:
        """The same with one expert of a stack."""
        array = next((array for array in self.arrays if array.place == expert), None)
        weight = self.matrices(self.values(parameter))[expert]
        return x @ weight.mT if array is None or array.reads_exactly else array.product(x, weight)

    def moved(self, move: Any, parameter: torch.Tensor) -> None:
        """Apply what `nn.Module._apply` applied to the parameter to all else, but keep scales in float32."""

        def to(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(move(tensor).device)

        stored, before = self._values, self._programmed
        assert stored is not None
        for array in self.arrays:
            array.state = _moved(array.state, to)
            array.clips.outputs, array.clips.inputs = to(array.clips.outputs), to(array.clips.inputs)
        exact = torch.promote_types(stored.dtype, parameter.dtype) == parameter.dtype
        self._values = stored.to(parameter)
        self._view()
        # A narrower dtype rounds the weights, and others are then to be programmed.
        self._programmed, self._of = (_stamp(parameter) if exact and before else ()), parameter

    def _write(self, parameter: torch.Tensor, states: list[ArrayState]) -> None:
        # Contiguous, so that the matrix is a view of it, which a channels-last image weight would not give.
        stored = parameter.detach().clone(memory_format=torch.contiguous_format)
        matrices = self.matrices(stored)
        for array, state in zip(self.arrays, states, strict=True):
            matrices[array.place].copy_(state.weight)
            if state.read_variance is not None and parameter.element_size() < 4:  # as coarse as the weight it is of
                state = dataclasses.replace(state, read_variance=state.read_variance.bfloat16())
            array.state = state
        self._values, self._programmed, self._of = stored, _stamp(parameter), parameter
        self._view()

    def _view(self) -> None:
        """Let every array see its part of the one copy that is kept, as rounded to the model's dtype."""
        assert self._values is not None
        matrices = self.matrices(self._values)
        for array in self.arrays:
            array.state = dataclasses.replace(array.state, weight=matrices[array.place])


def _is_exporting() -> bool:
    """Whether a model is run for its graph: by torch.export, torch.onnx.export or torch.jit.trace."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return exporting() or torch.onnx.is_in_onnx_export() or tracing


def _moved(state: ArrayState, to: Callable[[torch.Tensor], torch.Tensor]) -> ArrayState:
    """All of it but the weight of the whole, which is a view of what is moved with the parameter."""

    def each(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else to(values)

    return dataclasses.replace(
        state,
        scale=to(state.scale),
        read_variance=each(state.read_variance),
        converters=each(state.converters),
        slices=tuple(dataclasses.replace(_moved(part, to), weight=to(part.weight)) for part in state.slices),
    )


def _stamp(parameter: torch.Tensor) -> tuple[Any, ...]:
    """Changes with the values of `parameter`: by an optimizer, by loading, by whoever writes to it."""
    version = 0 if parameter.is_inference() else parameter._version
    return (version, parameter.data_ptr(), parameter.dtype, parameter.device)


class Passes:
    """How many forward passes of the modules above the layers on a chip are under way, and which layer had no part.

    In them the weight of such a layer is what the arrays hold; outside of them, for whoever loads, trains, edits or
    saves it, it is the parameter.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.unused: dict[str, nn.Module] = {}

    def begin(self, module: nn.Module, arguments: Any) -> None:
        """Before a forward pass of `module`."""
        self.depth += 1

    def end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """After it, even if it failed.

        Raises:
            InputError: a child of `module` that is on the chip has not been used yet.
        """
        self.depth -= 1
        if output is None or not self.unused:
            return
        children = {id(child) for child in module.children()}
        for name, layer in self.unused.items():
            if id(layer) in children:
                raise InputError(
                    f"{name} is on the chip, but {type(module).__name__} ran without calling it or reading its weight: "
                    f'what it computed in its place was not on the chip; leave it out, with "!{name}" in select'
                )


class PassHooks:
    """The hooks of `Passes` on one module, as an attribute that an edit can set and take back."""

    def __init__(self, module: nn.Module, passes: Passes) -> None:
        self.module, self.passes = module, passes
        self._handles: list[Any] = []

    @property
    def on(self) -> bool:
        """Whether they are on the module."""
        return bool(self._handles)

    @on.setter
    def on(self, on: bool) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if on:
            self._handles = [
                self.module.register_forward_pre_hook(self.passes.begin),
                self.module.register_forward_hook(self.passes.end, always_call=True),
            ]
