"""Fast Walsh-Hadamard transform of the last dimension, for widths that are no power of two as well.

Source: Sylvester's doubling H_2n = [[H, H], [H, -H]] and Paley's first construction (orders q + 1 for primes q that are
3 modulo 4: 4, 8, 12, 20, 24, 32, 44, 48, 60, 68 ...). A width is factored into the largest order that divides it,
2^k times 1 or a Paley order, and blocks of that order: 48 = 4 * 12, 96 = 8 * 12, 100 = 5 blocks of 20.
"""

import functools

import torch

from hardy.errors import InputError

_EXACT = 2**53  # the integers that float64 holds


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


@functools.cache
def factors(width: int) -> tuple[int, int, int]:
    """`width` as (blocks, doublings, base): blocks of order 2^doublings * base, the largest that divides it.

    The base is 1 or a Paley order. An odd width has blocks of order 1, on which the transform is the identity.

    Raises:
        InputError: `width` is not a positive integer.
    """
    if type(width) is not int or width < 1:
        raise InputError(f"a width must be a positive integer, got {width!r}")
    bases = [1] + [p for p in range(12, width + 1, 4) if width % p == 0 and p & (p - 1) and _is_prime(p - 1)]
    found = []
    for base in bases:
        rest = width // base
        doublings = (rest & -rest).bit_length() - 1
        found.append((base << doublings, -base, doublings))
    order, negative_base, doublings = max(found)  # of equal orders the smaller base: butterflies are cheaper
    return width // order, doublings, -negative_base


def order(width: int) -> int:
    """The order of the blocks in which a last dimension of `width` is transformed; it divides `width`."""
    return width // factors(width)[0]


@functools.cache
def paley(size: int) -> torch.Tensor:
    """The Hadamard matrix (size, size) of Paley's first construction, int64, entries 1 and -1.

    Raises:
        InputError: size - 1 is not a prime that is 3 modulo 4.
    """
    q = size - 1
    if q % 4 != 3 or not _is_prime(q):
        raise InputError(f"Paley's construction needs a size of a prime 3 modulo 4 plus 1, got {size!r}")
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0] + [1 if i in squares else -1 for i in range(1, q)])
    index = torch.arange(q)
    skew = torch.zeros(size, size, dtype=torch.int64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(index[:, None] - index[None]) % q]
    return skew + torch.eye(size, dtype=torch.int64)


def hadamard_transform(x: torch.Tensor) -> torch.Tensor:
    """H x of each block of the last dimension, not normalised: |H x| = sqrt(order) |x|, and H'H = order I.

    So `(hadamard_transform(W) / order) @ hadamard_transform(x)` is `W @ x` for W (out, in) and x (in,).

    Args:
        x: (..., width), floating-point, or integers, whose transform is exact.

    Returns:
        (..., width) in the dtype of `x`; n (k + base) additions instead of n^2.

    Raises:
        InputError: integers whose sums do not surely stay below 2^53 or the largest of their dtype.
    """
    blocks, doublings, base = factors(x.shape[-1])
    whole = not (x.is_floating_point() or x.is_complex())
    if whole and x.numel():
        limit = min(_EXACT, torch.iinfo(x.dtype).max)
        largest = int(x.abs().amax()) * (base << doublings)
        if largest > limit:
            raise InputError(f"a transform of {x.dtype} up to {x.abs().amax().item()} may exceed {limit}")
    y = x.reshape(*x.shape[:-1], blocks, 2**doublings, base)
    if base > 1:
        matrix = paley(base).to(y.device, torch.float64 if whole else y.dtype)
        y = (y.to(matrix.dtype) @ matrix.T).to(x.dtype)
    for level in range(doublings):
        pairs = y.unflatten(-2, (-1, 2, 2**level))
        a, b = pairs[..., 0, :, :], pairs[..., 1, :, :]
        y = torch.stack([a + b, a - b], -3).flatten(-4, -2)
    return y.reshape(x.shape)
