"""Integers to few bytes and back: a range coder, with probabilities that both sides make of the same integers.

Source: range coding (Martin 1979), by the library constriction. Weights of trained layers are spread like a Gauss or
Laplace curve around zero, or evenly: the encoder takes what costs least and writes its width down, 16ths of a code.
The curve comes from decimal arithmetic, so that no machine's floating point can make a decoder lose its way.
"""

from __future__ import annotations

import decimal
import functools
import importlib
import math
import zlib
from typing import Any

import numpy as np

from hardy.errors import InputError, install

EVEN, LAPLACE, GAUSS = range(3)
_FRACTION = 16  # of a code, the widths' unit
_DIGIT = 4096  # more values than this are written as several digits
_ONE = 2**18  # the curves' height
_LARGEST_VARINT = 10
_MOST_CODES = 2**26
_DIGITS = decimal.Context(prec=20)


@functools.cache
def _stream() -> Any:
    """The streams of constriction, an extension module that is opaque to type checkers."""
    try:
        return importlib.import_module("constriction").stream
    except ImportError:
        raise InputError(f"entropy coding needs constriction: {install('codec')}") from None


@functools.cache
def _curve(shape: int, width: int, reach: int) -> np.ndarray:
    """Relative frequencies of 0 to `reach`, integers of at least 1."""
    if shape == EVEN:
        return np.ones(reach + 1)
    power = 1 if shape == LAPLACE else 2
    frequencies = []
    for size in range(reach + 1):
        exponent = -((decimal.Decimal(_FRACTION * size) / width) ** power)
        frequencies.append(1 + int(_ONE * _DIGITS.exp(exponent)))
    return np.array(frequencies, dtype=np.float64)


def _frequencies(shape: int, width: int, low: int, high: int) -> np.ndarray:
    top = min(max(low, 0), high)  # the curve is highest at zero, or at the code next to it
    curve = _curve(shape, width, max(high - top, top - low))
    return curve[np.abs(np.arange(low, high + 1) - top)]


def _model(shape: int, width: int, low: int, high: int) -> Any:
    return _categorical(_frequencies(shape, width, low, high))


def _categorical(frequencies: np.ndarray) -> Any:
    return _stream().model.Categorical(frequencies.astype(np.float64), perfect=False)


class Writer:
    """Numbers, one after the other, and arrays beside them in one stream of the range coder."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.coder = _stream().queue.RangeEncoder()

    def number(self, value: int) -> None:
        """A number from 0 up, seven bits to a byte."""
        while value >= 128:
            self.head.append(value & 127 | 128)
            value >>= 7
        self.head.append(value)

    def signed(self, value: int) -> None:
        """A number of either sign."""
        self.number(-2 * value - 1 if value < 0 else 2 * value)

    def text(self, data: bytes) -> None:
        """Bytes, compressed by zlib."""
        packed = zlib.compress(data, 9) if data else b""
        self.number(len(packed))
        self.head += packed

    def array(self, values: np.ndarray) -> None:
        """Integers of any shape, which the reader has to know."""
        flat = values.ravel().astype(np.int64)
        zeros = _trailing_zeros(flat)
        flat = flat >> zeros
        low, high = int(flat.min()), int(flat.max())
        self.number(zeros)
        self.signed(low)
        self.number(high - low)
        if low == high:
            return
        if high - low >= _DIGIT:
            rest, span = flat - low, high - low
            while span:
                self._put(rest % _DIGIT, EVEN, 1, 0, min(span, _DIGIT - 1))
                rest, span = rest // _DIGIT, span // _DIGIT
            return
        sizes = np.abs(flat - min(max(low, 0), high)).astype(np.float64)
        widths = {
            EVEN: 1,
            LAPLACE: max(1, round(_FRACTION * sizes.mean())),
            GAUSS: max(1, round(_FRACTION * math.sqrt(2 * np.square(sizes).mean()))),
        }
        shape = min(widths, key=lambda shape: _cost(flat, shape, widths[shape], low, high))
        self.number(shape)
        if shape != EVEN:
            self.number(widths[shape])
        self._put(flat - low, shape, widths[shape], low, high)

    def symbols(self, values: np.ndarray, frequencies: np.ndarray) -> None:
        """Symbols from 0 up of which the reader knows how frequent each is, integers of at least 1."""
        self.coder.encode(values.astype(np.int32), _categorical(frequencies))

    def _put(self, places: np.ndarray, shape: int, width: int, low: int, high: int) -> None:
        self.coder.encode(places.astype(np.int32), _model(shape, width, low, high))

    def finished(self) -> bytes:
        """All of it."""
        words = self.coder.get_compressed().astype("<u4").tobytes()
        size = Writer()
        size.number(len(self.head))
        return bytes(size.head + self.head) + words.rstrip(b"\0")


class Reader:
    """What a `Writer` wrote, in the same order.

    Raises:
        InputError: in every method, where the bytes cannot be what a `Writer` wrote.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.end = data, 0, len(data)
        self.budget = _MOST_CODES
        self.end = self.number() + self.place
        if self.end > len(data):
            raise InputError("it is truncated")
        words = data[self.end :]
        words += b"\0" * (-len(words) % 4)
        self.coder = _stream().queue.RangeDecoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))

    def number(self, most: int = 2**62) -> int:
        """A number from 0 to `most`."""
        value = 0
        for position in range(_LARGEST_VARINT):
            if self.place >= self.end:
                raise InputError("its numbers end too early")
            byte = self.data[self.place]
            self.place += 1
            value |= (byte & 127) << 7 * position
            if byte < 128:
                if value > most:
                    raise InputError(f"it has the number {value} where at most {most} makes sense")
                return value
        raise InputError("it has a number without an end")

    def signed(self, most: int = 2**61) -> int:
        """A number from -`most` to `most`."""
        value = self.number(2 * most)
        return -(value + 1) // 2 if value % 2 else value // 2

    def text(self, most: int) -> bytes:
        """At most so many bytes, zlib undone."""
        size = self.number()
        end = self.place + size
        if end > self.end:
            raise InputError("its bytes end too early")
        packed, self.place = self.data[self.place : end], end
        if not packed:
            return b""
        unzip = zlib.decompressobj()
        try:
            data = unzip.decompress(packed, most)
        except zlib.error as error:
            raise InputError(f"its bytes are no stream of zlib: {error}") from None
        if not unzip.eof:
            raise InputError(f"it has more than {most} bytes where that is the most")
        return data

    def array(self, shape: tuple[int, ...], most: int) -> np.ndarray:
        """Integers of this shape, int64, none larger than `most` in size."""
        count = math.prod(shape)
        self.budget -= count
        if self.budget < 0:
            raise InputError("it has more codes than any file of hardy's")
        zeros, low, span = self.number(61), self.signed(most), self.number(2 * most)
        if span == 0:
            flat = np.full(count, low, dtype=np.int64)
        elif span >= _DIGIT:
            flat, weight = np.full(count, low, dtype=np.int64), 1
            while span:
                flat += weight * self._take(count, EVEN, 1, 0, min(span, _DIGIT - 1))
                weight, span = weight * _DIGIT, span // _DIGIT
        else:
            kind = self.number(GAUSS)
            width = 1 if kind == EVEN else max(1, self.number(_FRACTION * 2 * _DIGIT))
            flat = low + self._take(count, kind, width, low, low + span)
        if np.abs(flat).max(initial=0) > most >> zeros:
            raise InputError(f"it has codes beyond {most}")
        return (flat << zeros).reshape(shape)

    def symbols(self, count: int, frequencies: np.ndarray) -> np.ndarray:
        """What `Writer.symbols` wrote, (count,) int32."""
        return self.coder.decode(_categorical(frequencies), count)

    def _take(self, count: int, shape: int, width: int, low: int, high: int) -> np.ndarray:
        return self.coder.decode(_model(shape, width, low, high), count).astype(np.int64)

    def finish(self) -> None:
        """Nothing may be left."""
        if self.place != self.end:
            raise InputError(f"it has {self.end - self.place} numbers too many")


def _trailing_zeros(values: np.ndarray) -> int:
    together = int(np.bitwise_or.reduce(values)) if values.size else 0
    return (together & -together).bit_length() - 1 if together else 0


def _cost(values: np.ndarray, shape: int, width: int, low: int, high: int) -> float:
    """Bits of `values`, the width's own included."""
    frequencies = _frequencies(shape, width, low, high)
    share = frequencies[values - low] / frequencies.sum()
    return float(-np.log2(share).sum()) + (0 if shape == EVEN else 16)
