"""Tables of activations in integers, the same on every machine: exponentials come from decimal arithmetic.

The mathematics library of a machine may differ from another's in the last bit, and a value next to a half would then
be rounded to another integer. `decimal` rounds correctly wherever it runs.
"""

import decimal
import functools

import numpy as np

from hardy.errors import InputError
from hardy.ops.fixed_point import sine_quarter_table

TABLE_REACH = 2**15
"""A table's argument saturates at codes of this size: 16 bits with the sign."""
GAUSS_REACH = 4
"""Where the Gaussian's argument saturates: exp(-16) is no code."""
WAVELET_UNIT = 2**20
"""(scale / omega)^2 of a wavelet is a multiple of 1 over this."""

_DIGITS = decimal.Context(prec=30)
_QUARTER = decimal.Decimal("1.57079632679489661923132169163975")


def _rounded(one: int, exponent: decimal.Decimal) -> int:
    """`one * exp(exponent)` to the nearest integer; none of these is a half, being irrational."""
    return int((one * _DIGITS.exp(exponent)).to_integral_value(decimal.ROUND_HALF_UP))


@functools.cache
def sine_table(fraction_bits: int) -> np.ndarray:
    """The sine next to its top at distances 0 to 2^F, times 2^F: (2^F + 1,) int64."""
    return sine_quarter_table(fraction_bits).numpy()


@functools.cache
def gauss_table(fraction_bits: int) -> np.ndarray:
    """`2^(F+1) exp(-(4 i / 2^15)^2)` for i from -2^15 up: (2^16,) int64."""
    one = 2 << fraction_bits
    half = []
    for i in range(TABLE_REACH + 1):
        half.append(_rounded(one, -decimal.Decimal((GAUSS_REACH * i) ** 2) / TABLE_REACH**2))
        if not half[-1]:  # and so are all that follow
            break
    values = np.zeros(TABLE_REACH + 1, dtype=np.int64)
    values[: len(half)] = half
    return np.concatenate([values[:0:-1], values[:-1]])


@functools.cache
def relu_table(fraction_bits: int) -> np.ndarray:
    """`2^(F+1) max(i, 0) / (2^15 - 1)`, rounded, for i from -2^15 up: (2^16,) int64."""
    i = np.arange(-TABLE_REACH, TABLE_REACH, dtype=np.int64).clip(0)
    last = TABLE_REACH - 1
    return ((i << (fraction_bits + 2)) + last) // (2 * last)


@functools.cache
def wavelet_tables(narrow: int, fraction_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """`2^F exp(-k x^2)` and `2^F exp(-x - k x^2)` at x = i pi / 2^(F+1) for i from -n to n, k = narrow / 2^20.

    n is the first i at which neither has a code above zero any more.

    Raises:
        InputError: tables would have more than 2^18 entries: the wavelet is too wide.
    """
    one, k, step = 1 << fraction_bits, decimal.Decimal(narrow) / WAVELET_UNIT, _QUARTER / 2**fraction_bits
    with decimal.localcontext(_DIGITS):
        # -x - k x^2 at x < 0 is |x| - k x^2, which is below -(F + 1) ln 2 beyond this |x|.
        depth = decimal.Decimal(fraction_bits + 1) * decimal.Decimal("0.6931471805599453094")
        reach = (1 + (1 + 4 * k * depth).sqrt()) / (2 * k)
        last = int(reach / step) + 1
        if last > 2**17:
            raise InputError(f"a wavelet with scale / omega = {float(k.sqrt()):.3g} is too wide for integers")
        arguments = [i * step for i in range(last + 1)]
        bump = [_rounded(one, -k * x * x) for x in arguments]
        right = [_rounded(one, -x - k * x * x) for x in arguments]
        left = [_rounded(one, x - k * x * x) for x in arguments]
    bumps = np.array(bump[:0:-1] + bump, dtype=np.int64)
    return bumps, np.array(left[:0:-1] + right, dtype=np.int64)
