"""Trits in bytes: nothing is lost, and damage is noticed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from hardy.errors import InputError
from hardy.ops.packing import pack_trits, unpack_trits


@given(
    trits=st_numpy.arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(0, 23)), elements=st.integers(-1, 1)),
    per_byte=st.sampled_from([5, 4]),
)
def test_packing_loses_nothing(trits: np.ndarray, per_byte: int) -> None:
    packed = pack_trits(torch.from_numpy(trits), per_byte)
    assert packed.dtype == torch.uint8
    assert packed.shape == (len(trits), -(-trits.shape[1] // per_byte))
    np.testing.assert_array_equal(unpack_trits(packed, trits.shape[1], per_byte).numpy(), trits)
    for row, stored in zip(trits, packed.tolist(), strict=True):
        padded = [*row.tolist(), *[0] * (-len(row) % per_byte)]
        places = [3**i if per_byte == 5 else 4**i for i in range(per_byte)]
        for begin, byte in zip(range(0, len(padded), per_byte), stored, strict=True):
            assert byte == sum((t + 1) * p for t, p in zip(padded[begin : begin + per_byte], places, strict=True))


def test_packing_refuses_what_is_no_trit() -> None:
    with pytest.raises(InputError, match="trits are -1, 0 and 1, got values from 0 to 2"):
        pack_trits(torch.tensor([0, 2]))
    with pytest.raises(InputError, match="per_byte must be 5 or 4 trits, got 3"):
        pack_trits(torch.tensor([0, 1]), 3)
    with pytest.raises(InputError, match="6 trits take 2 bytes at 5 per byte, got 3"):
        unpack_trits(torch.zeros(3, dtype=torch.uint8), 6)
    assert unpack_trits(torch.tensor([242], dtype=torch.uint8), 5).tolist() == [1] * 5
    for byte, per_byte in ((243, 5), (3, 4), (0b11000000, 4)):
        with pytest.raises(InputError, match="damaged trits"):
            unpack_trits(torch.tensor([byte], dtype=torch.uint8), per_byte, per_byte)
