"""A tiny field of integers for tests of hardware."""

import numpy as np

from hardy.fields.integer_model import IntegerModel, LinearCodes, Requantization, UnitCodes


def small_field(seed: int) -> IntegerModel:
    """Of four units, turned by a Hadamard transform before its last layer."""
    rng = np.random.default_rng(seed)

    def layer(rows: int, columns: int, shift: int) -> LinearCodes:
        shifts, factors = np.full(rows, shift), rng.integers(1 << 22, 1 << 23, rows)
        codes = rng.integers(-128, 128, (rows, columns))
        return LinearCodes(codes=codes, factors=factors, shifts=shifts, bias=rng.integers(-50, 50, rows), bits=8)

    step = Requantization(m=7000000, shift=23, zero=3, bits=8, rotated=True)
    return IntegerModel(
        layers=(layer(4, 2, 22), layer(3, 4, 27)), units=(UnitCodes(kind="quad"),), requantizations=(step,),
        frequencies=0, fraction_bits=6,
    )  # fmt: skip
