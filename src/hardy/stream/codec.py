"""How keys and values are stored in few bits: with a scale and a minimum (KIVI), or rotated onto fixed levels.

Sources: KIVI (arXiv 2402.02750) for `Affine`; TurboQuant (arXiv 2504.19874) for `LloydMax`. Where we differ: an offset
is the minimum itself, not a zero-point cut to the codes, which ruins channels that do not straddle zero; a rotation is
random signs and a Hadamard transform; TurboQuant's one-bit correction of inner products is left out.

Axes: batch, heads, tokens, dim. Packed codes are bytes of `hardy.ops.packing.pack_fields`, each token's on its own, so
that a token can be dropped and no other is touched.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from typing import Literal

import torch

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.ops.hadamard import hadamard_transform, order
from hardy.ops.packed_attention import affine_values, page_rows
from hardy.ops.packing import pack_fields, unpack_fields

Bits = Literal[2, 4, 8, 16]
BITS: tuple[Bits, ...] = (16, 8, 4, 2)


@dataclasses.dataclass(frozen=True)
class Codes:
    """Some tokens of one side, keys or values, as a codec left them.

    Attributes:
        codes: (batch, heads, tokens, bytes) uint8, or (..., dim) 16-bit floats where nothing is packed.
        token: (batch, heads, tokens, n) float16, what each token needs to be read; or None.
        page: (batch, heads, pages, 2, dim) float16, what each page needs; or None.
    """

    codes: torch.Tensor
    token: torch.Tensor | None = None
    page: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for tensor in (self.codes, self.token, self.page) if tensor is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec(abc.ABC):
    """Keys and values to few bits and back.

    Args:
        key_bits, value_bits: 16 stores that side as it is.
    """

    key_bits: Bits
    value_bits: Bits

    def __post_init__(self) -> None:
        for name in ("key_bits", "value_bits"):
            object.__setattr__(self, name, checks.one_of(name, getattr(self, name), BITS))

    @property
    def packs(self) -> bool:
        """Whether anything is packed at all."""
        return min(self.key_bits, self.value_bits) < 16

    @abc.abstractmethod
    def encode_keys(self, keys: torch.Tensor) -> Codes:
        """One page of keys (batch, heads, tokens, dim), its `page` of one page."""

    @abc.abstractmethod
    def encode_values(self, values: torch.Tensor) -> Codes:
        """Values (batch, heads, tokens, dim)."""

    @abc.abstractmethod
    def decode(self, codes: Codes, pages: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
        """(batch, heads, tokens, dim): what `codes` stand for; `pages` (batch, heads, tokens) says each token's."""

    @abc.abstractmethod
    def bytes_per_token(self, dim: int, tokens_per_page: float) -> float:
        """Bytes that one token of one head takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine(Codec):
    """minimum + scale * code: keys per channel and page, values per token, both in float16 (KIVI)."""

    def encode_keys(self, keys: torch.Tensor) -> Codes:
        if self.key_bits == 16:
            return Codes(keys)
        codes, scales = affine_codes(keys, self.key_bits, -2)
        return Codes(pack_fields(codes, self.key_bits), page=scales.transpose(-1, -2)[:, :, None].contiguous())

    def encode_values(self, values: torch.Tensor) -> Codes:
        if self.value_bits == 16:
            return Codes(values)
        codes, scales = affine_codes(values, self.value_bits, -1)
        return Codes(pack_fields(codes, self.value_bits), token=scales)

    def decode(self, codes: Codes, pages: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
        if codes.page is not None:
            return affine_values(codes.codes, dim, page_rows(codes.page, pages).float()).to(dtype)
        if codes.token is not None:
            return affine_values(codes.codes, dim, codes.token[..., None].float()).to(dtype)
        return codes.codes.to(dtype)

    def bytes_per_token(self, dim: int, tokens_per_page: float) -> float:
        keys = 2 * dim if self.key_bits == 16 else dim * self.key_bits / 8 + 4 * dim / tokens_per_page
        return keys + (2 * dim if self.value_bits == 16 else dim * self.value_bits / 8 + 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LloydMax(Codec):
    """A random rotation, and the levels that are best for Gaussian numbers; one float16 per token, its length.

    Args:
        seed: of the signs of the rotation.
    """

    seed: int = 0

    def encode_keys(self, keys: torch.Tensor) -> Codes:
        return self._encode(keys, self.key_bits)

    def encode_values(self, values: torch.Tensor) -> Codes:
        return self._encode(values, self.value_bits)

    def _encode(self, x: torch.Tensor, bits: Bits) -> Codes:
        if bits == 16:
            return Codes(x)
        rotated = rotate(x.float(), self.seed)
        length = _half("lengths", rotated.norm(dim=-1, keepdim=True))
        unit = rotated * math.sqrt(x.shape[-1]) / length.float().clamp_min(torch.finfo(torch.float32).tiny)
        levels = gaussian_levels(bits).to(x.device)
        codes = torch.bucketize(unit.contiguous(), (levels[1:] + levels[:-1]) / 2)
        return Codes(pack_fields(codes, bits), token=length)

    def decode(self, codes: Codes, pages: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
        if codes.token is None:
            return codes.codes.to(dtype)
        bits = codes.codes.shape[-1] * 8 // dim
        levels = gaussian_levels(bits).to(codes.codes.device)
        unit = levels[unpack_fields(codes.codes, bits).long()]  # pyright: ignore[reportArgumentType]
        return rotate(unit * (codes.token.float() / math.sqrt(dim)), self.seed, back=True).to(dtype)

    def bytes_per_token(self, dim: int, tokens_per_page: float) -> float:
        return sum(2 * dim if bits == 16 else dim * bits / 8 + 2 for bits in (self.key_bits, self.value_bits))


CODECS: dict[str, type[Codec]] = {"affine": Affine, "lloyd-max": LloydMax}


def affine_codes(x: torch.Tensor, bits: int, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 of the shape of `x`, and (scale, minimum) float16 stacked last: one pair for all along `axis`.

    Codes are made with the scale and minimum as they are stored. A range of zero has scale 0 and codes 0.

    Raises:
        InputError: a minimum or a range is beyond float16.
    """
    low, high = x.float().aminmax(dim=axis, keepdim=True)
    minimum = _half("minima", low)
    scale = _half("scales", (high - minimum.float()) / (2**bits - 1))
    step = scale.float()
    codes = ((x.float() - minimum.float()) / torch.where(step > 0, step, 1)).round().clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), torch.stack([scale, minimum], -1).squeeze(axis - 1 if axis < 0 else axis)


def rotate(x: torch.Tensor, seed: int, *, back: bool = False) -> torch.Tensor:
    """`x` (..., dim) with random signs and a normalised Hadamard transform of the last dimension; lengths stay."""
    signs = _signs(x.shape[-1], seed).to(x)
    size = math.sqrt(order(x.shape[-1]))
    if not back:
        return hadamard_transform(x * signs) / size
    return _transposed_transform(x) / size * signs


def _transposed_transform(x: torch.Tensor) -> torch.Tensor:
    matrix = hadamard_transform(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
    return x @ matrix.T  # Paley's matrices are not symmetric


@functools.cache
def _signs(dim: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 2, (dim,), generator=generator(seed, "kv-rotation", dim)) * 2.0 - 1


@functools.cache
def gaussian_levels(bits: int) -> torch.Tensor:
    """The 2^bits levels of least mean squared error for numbers of N(0, 1), ascending, float32 (Lloyd, Max)."""
    from scipy.stats import norm

    count = 2**bits
    levels = norm.ppf((torch.arange(count, dtype=torch.float64).numpy() + 0.5) / count)
    for _ in range(2000 if bits < 8 else 500):
        edges = [-math.inf, *((levels[1:] + levels[:-1]) / 2), math.inf]
        mass, density = norm.cdf(edges), norm.pdf(edges)
        levels = (density[:-1] - density[1:]) / (mass[1:] - mass[:-1])
    return torch.tensor(levels, dtype=torch.float32)


def _half(name: str, values: torch.Tensor) -> torch.Tensor:
    half = values.half()
    if not half.isfinite().all():
        raise InputError(f"{name} of keys or values must be finite in float16 (65504), got {values.abs().max():g}")
    return half
