"""Split a projection in two by a rotation of its inputs: the rotation stays digital, the rest goes on the array.

Source: hybrid projection decomposition (HPD, arXiv 2508.11935), which does so by the singular vectors, with the last
output projection of a Mamba. Where we differ: each column of the array has a digital factor of its own, so that all
columns use the whole range of the cells. Without it the columns of small singular values vanish beside the first one,
and noise relative to the range of a tensor or an output makes the layer worse, not better. By default all output
projections are split, because each gains by itself what the last one does, and by a Hadamard matrix, which costs
additions and a gain for each input; which rotation leaves less error differs from layer to layer, and `noise=` measures
it. `layers="last", columns="plain", basis="singular"` is the paper's.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import nn

from hardy import checks
from hardy.analog.modules import AnalogLayer
from hardy.analog.reading import RotatedOnChip
from hardy.core import selection
from hardy.core.layers import Layers
from hardy.core.method import ALL_SELECTED, Method
from hardy.core.rng import generator
from hardy.core.selection import Selector
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.hooks.statistics import Statistic, observe
from hardy.ops.rotation import rotate
from hardy.report import Row

Columns = Literal["scaled", "plain"]
Basis = Literal["hadamard", "singular", "random"]
MEASURED = "measured"
_KEEPS = "keeps singular values; with it basis must be singular or random"


def decompose(
    weight: torch.Tensor,
    rank: int | None = None,
    columns: Columns = "scaled",
    basis: Basis = "singular",
    random: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`weight = array @ diag(gain) @ rotation`, where the rows of `rotation` are orthonormal.

    Of singular vectors: with noise in proportion to each element of the array, of standard deviation sigma, the error
    of the output y is exactly `E |dy|^2 = sigma^2 |y|^2` whatever the input: where the inputs of a layer lie in
    directions of low gain, the plain layer's error is many times as large. A Hadamard matrix and a random rotation
    leave no weight that stands out, which is what noise relative to a range depends on.

    Args:
        weight: (out, in), finite.
        rank: singular values to keep, not with "hadamard"; all of them by default.
        columns: "scaled" gives every column of the array the largest magnitude of `weight`, and its digital `gain`
            the rest; "plain" leaves what it is on the array, and every gain is 1.
        basis: "singular" rotates the inputs to the singular vectors, "random" to a random rotation of these, and
            "hadamard" by Hadamard matrices of the powers of two that make up their width, after random signs.
        random: draws the rotation and the signs; by default always the same.

    Returns:
        array (out, rank), gain (rank,), rotation (rank, in), float32; rank is `in` with "hadamard".

    Raises:
        InputError: `rank` is not in 1..min(out, in), or is given with "hadamard"; `columns` or `basis` is unknown.
    """
    array, gain, turn = split(
        weight, rank, columns, basis, generator(0, "hybrid-projection") if random is None else random
    )
    return array, gain, rotated_back(torch.eye(len(gain)), turn)


def split(
    weight: torch.Tensor, rank: int | None, columns: Columns, basis: Basis, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `decompose`, but instead of the rotation its `turn`: its matrix, or of a Hadamard matrix the signs (in,)."""
    largest = min(weight.shape)
    if rank is not None and (type(rank) is not int or not 1 <= rank <= largest):
        raise InputError(f"rank must be in 1..{largest}, the smaller side of the weight, or None, got {rank!r}")
    checks.one_of("columns", columns, get_args(Columns))
    checks.one_of("basis", basis, get_args(Basis))
    if rank is not None and basis == "hadamard":
        raise InputError(f"rank={rank} {_KEEPS}")
    rank, exact = largest if rank is None else rank, weight.double()
    if basis == "hadamard":
        turn = 2.0 * torch.randint(2, weight.shape[1:], generator=random).double() - 1
    else:
        turn = torch.linalg.svd(exact, full_matrices=False).Vh[:rank]
        if basis == "random":
            turn = torch.linalg.qr(torch.randn(rank, rank, generator=random, dtype=turn.dtype)).Q @ turn
    array = rotated(exact, turn)
    gain = array.new_ones(array.shape[1])
    range_of_weight = exact.abs().max()
    if columns == "scaled" and range_of_weight > 0:
        peaks = array.abs().amax(0)
        gain = torch.where(peaks > 0, peaks / range_of_weight, gain)
    return (array / gain).float(), gain.float(), turn.float()


def rotated(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """The rotation of each vector (..., in): (..., rank), or (..., in) by a Hadamard matrix."""
    return rotate(x * turn, largest_block(len(turn))) if turn.dim() == 1 else x @ turn.mT


def rotated_back(matrix: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """`matrix @ rotation`, (..., in)."""
    return rotate(matrix, largest_block(len(turn))) * turn if turn.dim() == 1 else matrix @ turn


def largest_block(width: int) -> int:
    """The largest power of two in `width`."""
    return 1 << (width.bit_length() - 1)


Noise = Literal["proportional", "tensor", "output", "absolute"]


def expected_error(matrix: torch.Tensor, moment: torch.Tensor, noise: Noise) -> float:
    """Mean squared error at the output of `matrix @ x` under independent noise of strength 1 on every element.

    It is the sum of `s_ij^2 M_jj`, where s_ij is the standard deviation of an element and M the second moment of the
    inputs: `|w_ij|` for "proportional" noise, the largest magnitude of the "tensor" or of the "output" (row i), or 1.
    Of a split layer the matrix is its array and M that of the rotated inputs times the gains.

    So with scaled columns, under noise relative to the tensor, splitting pays where the crest factor of the weight,
    largest over root mean square, is above that of its left singular vectors, which is 3 to 4: where the weight has
    outliers. Under noise relative to each output those must be in every output, and it costs where outputs differ in
    size. Under proportional noise it pays where inputs lie in directions of low gain, and is level elsewhere.

    Args:
        matrix: (out, in).
        moment: E[x x^T], (in, in).
        noise: what it is relative to.

    Raises:
        InputError: an unknown noise.
    """
    checks.one_of("noise", noise, get_args(Noise))
    size, inputs = matrix.double().abs(), moment.double().diagonal()
    if noise == "proportional":
        return (size.square() @ inputs).sum().item()
    largest = {"tensor": size.amax().expand(len(size)), "output": size.amax(1), "absolute": torch.ones(len(size))}
    return (largest[noise].square().sum() * inputs.sum()).item()


class HybridLinear(nn.Module):
    """A linear layer in two steps: a digital rotation and gain, then `array`, a linear layer for a chip.

    `array` is an ordinary nn.Linear that `Deploy`, noise methods and quantizers act on. As long as it is one whose
    products are exact, the layer multiplies with the product of the two, and it is stored as that: a plain weight.
    """

    def __init__(
        self, original: nn.Linear, rank: int | None, columns: Columns, basis: Basis, random: torch.Generator
    ) -> None:
        super().__init__()
        self.train(original.training)
        weight = original.weight.detach()
        array, gain, turn = split(weight.cpu(), rank, columns, basis, random)
        self.in_features, self.out_features = original.in_features, original.out_features
        # On no device: nn.Linear would draw weights for nothing, from the global generator.
        self.array = nn.Linear(array.shape[1], array.shape[0], bias=False, device="meta")
        self.array.weight = nn.Parameter(array.to(weight), requires_grad=original.weight.requires_grad)
        self.array.bias = original.bias
        self.array.train(original.training)
        self.gain: torch.Tensor
        self.turn: torch.Tensor
        self.register_buffer("gain", gain.to(weight.device), persistent=False)
        self.register_buffer("turn", turn.to(weight.device), persistent=False)
        self._register_state_dict_hook(_stored_as_plain)

    @property
    def rotation(self) -> torch.Tensor:
        """The rows of the rotation, (rank, in) or (in, in), float32."""
        return rotated_back(torch.eye(len(self.gain), device=self.gain.device), self.turn)

    @property
    def weight(self) -> Any:
        """The whole matrix, (out, in), as the array holds its part; where a model reads it, what computes on arrays."""
        if isinstance(self.array, AnalogLayer) and (read := self.array.read_on_chip) is not None:
            return RotatedOnChip(read, self.rotation.mT * self.gain)
        array: Any = self.array.stored_weight() if isinstance(self.array, AnalogLayer) else self.array.weight
        return rotated_back(array.float() * self.gain, self.turn).to(array.dtype)

    @property
    def bias(self) -> torch.Tensor | None:
        """Added digitally."""
        return self.array.bias  # pyright: ignore[reportReturnType]

    @property
    def unsaved(self) -> str:
        """Why a model with this layer cannot be stored, if so."""
        on_chip = isinstance(self.array, AnalogLayer)
        return "its array is on a chip, and it is stored as a plain weight, which is not; undo Deploy first" * on_chip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        array = self.array
        converts = isinstance(array, AnalogLayer) and not array.reads_exactly
        if isinstance(array, nn.Linear) and not converts:
            return nn.functional.linear(x, self.weight, self.bias)
        turned = rotated(x.float(), self.turn) * self.gain
        return self.array(turned.to(x.dtype))

    def _apply(self, fn: Any, recurse: bool = True) -> "HybridLinear":
        """Move the rotation along, but keep it in float32: it is digital, and no matter of the array's precision."""
        kept = {name: getattr(self, name) for name in ("gain", "turn")}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self


def _stored_as_plain(module: HybridLinear, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [key for key in state if key.startswith(f"{prefix}array.")]:
        del state[name]
    state[f"{prefix}weight"] = module.weight.detach()
    if module.bias is not None:
        state[f"{prefix}bias"] = module.bias.detach()


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridProjection(Method):
    """Replace each selected linear layer by `HybridLinear`; apply it before the model goes on a chip.

    What it costs for each token is in the report: "digital_macs", `rank * in` multiplications, and as many stored
    numbers of 16 bits, "sram_bits"; by a Hadamard matrix `in` of both, the gains, and "digital_additions", `in` times
    the logarithm of its size. The array has `out * rank` weights, with a Hadamard matrix `out * in`. (Simulated, all
    multiply alike.)

    Args:
        rank: singular values to keep; all by default, which changes nothing but rounding until there is noise.
        columns, basis: as in `decompose`; a `rank` needs "singular" or "random". "measured" is, layer by layer, the one
            of "hadamard" and "singular" that leaves less error under `noise`.
        noise: the `Deploy` or weight noise that the layers are going to meet, converters included. With it a layer is
            split only where that makes the error at its output smaller, for inputs of the calibration data if there is
            any, else for inputs alike in all directions. The report has the ratio of each; where none is split, a
            warning says so.
        select: which layers, as in `hardy.core.selection.select`; `ranking.top(k)` of a ranking is such a selection.
        layers: in which layers of the model; all by default.
    """

    rank: int | None = None
    columns: Columns = "scaled"
    basis: Basis | Literal["measured"] = "hadamard"
    noise: Method | None = None
    select: Selector = "ssm.out"
    layers: Layers | None = None

    def check(self) -> None:
        if self.rank is not None:
            checks.integer("rank (or None)", self.rank, at_least=1)
            if self.basis not in ("singular", "random"):
                raise InputError(f"rank={self.rank} {_KEEPS}")
        checks.one_of("columns", self.columns, get_args(Columns))
        checks.one_of("basis", self.basis, (*get_args(Basis), MEASURED))
        if self.basis == MEASURED and self.noise is None:
            raise InputError('basis="measured" needs noise, under which errors are measured')
        if self.noise is not None and not (isinstance(self.noise, Method) and hasattr(self.noise, "select")):
            raise InputError(f"noise must be Deploy or a noise of hardy.hardware, or None, got {self.noise!r}")

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        sites = selection.select(model, self.select, layers=self.layers)
        for site in sites:
            module = model.get_submodule(site.module)
            if type(module) is not nn.Linear:
                reason = "apply HybridProjection before it" if isinstance(module, AnalogLayer) else "it takes nn.Linear"
                raise InputError(f"{site.name} is a {type(module).__name__}; {reason}")
        seen = observe(model, data, tuple(s.name for s in sites), [_Inputs]) if data and self.noise else {}
        rows, error, energy, macs, additions, split = [], 0.0, 0.0, 0, 0, 0
        for site in sites:
            old: Any = model.get_submodule(site.module)
            weight = weight_of(model, site).float()
            new, basis, ratio = self._split(old, site.name, seen[site.name][0].value if site.name in seen else None)
            if ratio is not None:
                rows.append(Row(metric="error_ratio", condition=site.name, value=ratio))
                if ratio >= 1:
                    energy += weight.double().square().sum().item()
                    continue
            difference = (new.weight.detach().double() - weight.double()).square().sum().item()
            error, energy = error + difference, energy + weight.double().square().sum().item()
            multiplied, added = self._cost(new)
            macs, additions, split = macs + multiplied, additions + added, split + 1
            edits.set_module(site.name, new)
            rows.append(Row(metric="digital_macs", condition=site.name, value=multiplied, details={"basis": basis}))
        if not split:
            least = min(row.value for row in rows)
            warnings.warn(
                f"HybridProjection leaves all {len(sites)} layers as they are: under {self.noise} the split makes "
                f"their error {least:.3g} times as large, or more",
                stacklevel=4,
            )
        total = [
            Row(metric="relative_error", condition=ALL_SELECTED, value=(error / energy) ** 0.5 if energy else 0.0),
            Row(metric="split_layers", condition=ALL_SELECTED, value=split, details={"of": len(sites)}),
            Row(metric="digital_macs", condition=ALL_SELECTED, value=macs),
            Row(metric="digital_additions", condition=ALL_SELECTED, value=additions),
            Row(metric="sram_bits", condition=ALL_SELECTED, value=16 * macs, unit="bit"),
        ]
        return total + rows

    def _cost(self, layer: HybridLinear) -> tuple[int, int]:
        """Multiplications and additions beside them, for one vector."""
        width = layer.in_features
        if layer.turn.dim() == 2:
            return layer.turn.numel(), 0
        gains = width if self.columns == "scaled" else 0
        blocks = [1 << place for place in range(width.bit_length()) if width >> place & 1]
        return gains, sum(size * (size.bit_length() - 1) for size in blocks)

    def _split(self, old: nn.Linear, name: str, seen: torch.Tensor | None) -> tuple[HybridLinear, str, float | None]:
        """The split layer, its basis, and with `noise` how many times as large the error of its output is."""
        bases: tuple[Any, ...] = ("hadamard", "singular") if self.basis == MEASURED else (self.basis,)
        split = [
            HybridLinear(old, self.rank, self.columns, basis, generator(0, "hybrid-projection", name))
            for basis in bases
        ]
        if self.noise is None:
            return split[0], bases[0], None
        if seen is None:
            seen = torch.randn(_KEPT, old.in_features, generator=generator(0, "hybrid-projection", "inputs"))
        inputs = seen.to(old.weight)
        plain = _output_error(old, "0", self.noise, inputs)
        errors = [_output_error(layer, "0.array", self.noise, inputs) for layer in split]
        least = min(range(len(split)), key=errors.__getitem__)
        return split[least], bases[least], errors[least] / plain if plain else 1.0


_KEPT, _DRAWS = 256, 3


class _Inputs(Statistic):
    """The first vectors that came in, (at most 256, dim)."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []

    def update(self, features: torch.Tensor) -> None:
        room = _KEPT - sum(map(len, self._parts))
        if room > 0:
            self._parts.append(features[:room].clone())

    @property
    def value(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.cat(self._parts)


@torch.no_grad()
def _output_error(layer: nn.Module, select: str, noise: Any, inputs: torch.Tensor) -> float:
    """Norm of the error at the output for `inputs` (n, in), over some draws of the noise."""
    holder, clean, total = nn.Sequential(layer), layer(inputs), 0.0
    for seed in range(_DRAWS):
        method = dataclasses.replace(noise, seed=seed, select=select, layers=None)
        with method.apply(holder, [inputs]):
            total += (holder(inputs) - clean).float().square().sum().item()
    return total**0.5
