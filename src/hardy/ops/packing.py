"""Packing into bytes: trits five or four to a byte, and codes of any number of bits without gaps."""

import functools
from typing import Literal

import torch

from hardy.errors import InputError

_BASES = {5: 3, 4: 4}
_DAMAGED = 2  # no trit


def pack_trits(trits: torch.Tensor, per_byte: Literal[5, 4] = 5) -> torch.Tensor:
    """Trits (..., n) as bytes (..., ceil(n / per_byte)) uint8, the first trit in the lowest place.

    Five per byte are digits t + 1 to base 3 (1.6 bits per trit); four per byte are codes t + 1 of two bits. The last
    byte is filled up with zeros.

    Raises:
        InputError: a value is not -1, 0 or 1, or `per_byte` is neither 5 nor 4.
    """
    base = _base(per_byte)
    if trits.numel() and (trits.min() < -1 or trits.max() > 1):
        raise InputError(f"trits are -1, 0 and 1, got values from {trits.min()} to {trits.max()}")
    filled = torch.nn.functional.pad(trits.to(torch.int8), (0, -trits.shape[-1] % per_byte)) + 1
    digits = filled.view(torch.uint8).unflatten(-1, (-1, per_byte)).unbind(-1)
    packed = torch.zeros_like(digits[0])
    for digit in reversed(digits):
        packed = base * packed + digit
    return packed


def unpack_trits(packed: torch.Tensor, length: int, per_byte: Literal[5, 4] = 5) -> torch.Tensor:
    """The trits (..., length) int8 that `pack_trits` packed.

    Raises:
        InputError: `length` trits do not take so many bytes, or a byte holds no trits.
    """
    table = _digits_of_bytes(per_byte).to(packed.device)
    if packed.shape[-1] != -(-length // per_byte):
        raise InputError(
            f"{length} trits take {-(-length // per_byte)} bytes at {per_byte} per byte, got {packed.shape[-1]}"
        )
    trits = table.index_select(0, packed.flatten().to(torch.int32)).view(*packed.shape, per_byte)
    if (trits[..., 0] == _DAMAGED).any():
        raise InputError(f"damaged trits: a byte holds no {per_byte} digits from 0 to 2")
    return trits.flatten(-2)[..., :length]


@functools.cache
def _digits_of_bytes(per_byte: int) -> torch.Tensor:
    """(256, per_byte) int8: the trits of each byte, or `_DAMAGED` where it is none that `pack_trits` makes."""
    base = _base(per_byte)
    places = base ** torch.arange(per_byte, device="cpu")
    codes = torch.arange(256, device="cpu")[:, None] // places
    digits = codes % base
    damaged = (digits > 2).any(-1, keepdim=True) | (codes[:, -1:] >= base)
    return torch.where(damaged, _DAMAGED, digits - 1).to(torch.int8)


def _base(per_byte: int) -> int:
    if per_byte not in _BASES:
        raise InputError(f"per_byte must be 5 or 4 trits, got {per_byte!r}")
    return _BASES[per_byte]


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (..., n) below 2^bits as bytes (..., ceil(n * bits / 8)) uint8, without gaps, the lowest bits first.

    Raises:
        InputError: a code is out of range.
    """
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if low < 0 or high >= 2**bits:
        raise InputError(f"codes of {bits} bits are 0 to {2**bits - 1}, got {low} to {high}")
    if bits == 8:
        return codes.to(torch.uint8, copy=True)
    if bits == 4:  # without a byte for each bit on the way
        pairs = torch.nn.functional.pad(codes.to(torch.uint8), (0, codes.shape[-1] % 2)).unflatten(-1, (-1, 2))
        return pairs[..., 0] | pairs[..., 1] << 4
    flat = (codes.to(torch.uint8)[..., None] >> torch.arange(bits, dtype=torch.uint8, device=codes.device)) & 1
    filled = torch.nn.functional.pad(flat.flatten(-2), (0, -flat.shape[-2] * bits % 8)).unflatten(-1, (-1, 8))
    places = 2 ** torch.arange(8, dtype=torch.uint8, device=codes.device)
    return (filled * places).sum(-1, dtype=torch.uint8)


def unpack_codes(packed: torch.Tensor, length: int, bits: int) -> torch.Tensor:
    """The codes (..., length) uint8 that `pack_codes` packed.

    Raises:
        InputError: `length` codes do not take so many bytes.
    """
    size = -(-length * bits // 8)
    if packed.shape[-1] != size:
        raise InputError(f"{length} codes of {bits} bits take {size} bytes, got {packed.shape[-1]}")
    if bits == 8:
        return packed.clone()
    if bits == 4:
        return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)[..., :length]
    flat = (packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    digits = flat.flatten(-2)[..., : length * bits].unflatten(-1, (length, bits))
    return (digits << torch.arange(bits, dtype=torch.uint8, device=packed.device)).sum(-1, dtype=torch.uint8)


def pack_fields(codes: torch.Tensor, bits: Literal[2, 4, 8]) -> torch.Tensor:
    """Codes (..., n) below 2^bits as bytes (..., n * bits / 8) uint8, whose neighbours in a byte lie far apart.

    Field f of byte j holds the code f * (n * bits / 8) + j, so that one mask and one shift give codes in a row.

    Raises:
        InputError: a code is out of range, `bits` is not 2, 4 or 8, or n does not fill whole bytes.
    """
    fields = _fields(codes.shape[-1], bits)
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if low < 0 or high >= 2**bits:
        raise InputError(f"codes of {bits} bits are 0 to {2**bits - 1}, got {low} to {high}")
    parts = codes.to(torch.uint8).unflatten(-1, (fields, -1)).unbind(-2)
    packed = parts[0].clone()
    for place, part in enumerate(parts[1:], start=1):
        packed |= part << (place * bits)
    return packed


def unpack_fields(packed: torch.Tensor, bits: Literal[2, 4, 8]) -> torch.Tensor:
    """The codes (..., n) uint8 that `pack_fields` packed."""
    fields = _fields(packed.shape[-1] * 8 // bits, bits)
    if fields == 1:
        return packed
    return torch.cat([(packed >> (place * bits)) & (2**bits - 1) for place in range(fields)], -1)


def _fields(length: int, bits: int) -> int:
    if bits not in (2, 4, 8):
        raise InputError(f"fields of a byte have 2, 4 or 8 bits, got {bits!r}")
    if length % (8 // bits):
        raise InputError(f"{length} codes of {bits} bits do not fill whole bytes; give a multiple of {8 // bits}")
    return 8 // bits
