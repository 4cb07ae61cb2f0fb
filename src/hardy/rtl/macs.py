"""Multiply-accumulate units: of integers as a lane has them, and of binary32 numbers to compare with.

Source of the latter: IEEE 754-2019, nearest even; subnormal numbers are zero, and operands are finite.
"""

from __future__ import annotations

from amaranth import Elaboratable, Shape, signed, unsigned

from hardy.rtl.hdl import Cat, Const, Module, Mux, Signal, Value


class Mac(Elaboratable):
    """`sum <= (clear ? 0 : sum) + a * b` every cycle.

    Args:
        a_bits, b_bits, sum_bits: signed integers.
    """

    _MustUse__silence = True

    def __init__(self, a_bits: int, b_bits: int, sum_bits: int) -> None:
        shapes: tuple[Shape, ...] = signed(a_bits), signed(b_bits), signed(sum_bits)
        self.a, self.b, self.sum = (
            Signal(shape, name=name) for shape, name in zip(shapes, ("a", "b", "sum"), strict=True)
        )
        self.clear = Signal(name="clear")

    @property
    def ports(self) -> list[Signal]:
        """All but clock and reset."""
        return [self.a, self.b, self.clear, self.sum]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.sum.eq(Mux(self.clear, 0, self.sum) + self.a * self.b)
        return m


class FloatMac(Elaboratable):
    """The same of binary32 numbers, the product rounded before it is added."""

    _MustUse__silence = True

    def __init__(self) -> None:
        self.a, self.b, self.sum = (Signal(unsigned(32), name=name) for name in ("a", "b", "sum"))
        self.clear = Signal(name="clear")

    @property
    def ports(self) -> list[Signal]:
        """All but clock and reset."""
        return [self.a, self.b, self.clear, self.sum]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = Signal(32)
        m.d.comb += product.eq(_product(m, self.a, self.b))
        m.d.sync += self.sum.eq(_sum(m, Mux(self.clear, 0, self.sum), product))
        return m


def _wire(m: Module, value: Value, shape: Shape | None = None) -> Value:
    wire = Signal(value.shape() if shape is None else shape)
    m.d.comb += wire.eq(value)
    return wire


def _fields(m: Module, value: Value) -> tuple[Value, Value, Value]:
    """Sign, exponent, and mantissa of 24 bits, which is zero where the number is."""
    bits = _wire(m, value, unsigned(32))
    exponent = bits[23:31]
    return bits[31], exponent, Mux(exponent == 0, 0, Cat(bits[:23], Const(1, 1)))


def _rounded(m: Module, sign: Value, exponent: Value, mantissa: Value, guard: Value, sticky: Value) -> Value:
    """The number of a mantissa of 24 bits whose first is 1; what is too small is zero, too large infinity."""
    up = _wire(m, mantissa + (guard & (sticky | mantissa[0])), unsigned(25))
    final = _wire(m, exponent + up[24])
    body = Mux(up[24], up[1:24], up[:23])
    return Mux(final <= 0, Cat(Const(0, 31), sign), Mux(final >= 255, Cat(Const(255 << 23, 31), sign),
               Cat(body, final[:8], sign)))  # fmt: skip


def _product(m: Module, a: Value, b: Value) -> Value:
    (sign_a, exponent_a, mantissa_a), (sign_b, exponent_b, mantissa_b) = _fields(m, a), _fields(m, b)
    whole = _wire(m, mantissa_a * mantissa_b, unsigned(48))
    top = whole[47]
    normal = _wire(m, Mux(top, whole, whole << 1), unsigned(48))
    exponent = exponent_a + exponent_b + top - 127
    sign = sign_a ^ sign_b
    made = _rounded(m, sign, exponent, normal[24:], normal[23], normal[:23].any())
    return Mux(whole == 0, Cat(Const(0, 31), sign), made)


def _sum(m: Module, a: Value, b: Value) -> Value:
    a, b = _wire(m, a, unsigned(32)), _wire(m, b, unsigned(32))
    swapped = _wire(m, a[:31] < b[:31])
    (sign, exponent, mantissa), (other, less, small) = (_fields(m, Mux(swapped, *pair)) for pair in ((b, a), (a, b)))
    apart = _wire(m, exponent - less, unsigned(8))
    wide = _wire(m, Cat(Const(0, 26), small), unsigned(50))  # 26 bits behind, of which all but two only count as any
    far = _wire(m, Mux(apart > 26, 0, wide >> apart[:5]), unsigned(50))
    lost = Mux(apart > 26, small != 0, far[:24].any())
    near = _wire(m, Cat(lost, far[24:]), unsigned(27))
    top = Cat(Const(0, 3), mantissa)
    total = _wire(m, Mux(sign ^ other, top - near, top + near), unsigned(28))
    zeros = Signal(5)
    for place in range(28):
        with m.If(total[place]):
            m.d.comb += zeros.eq(27 - place)
    normal = _wire(m, total << zeros, unsigned(28))
    made = _rounded(m, sign, exponent + 1 - zeros, normal[4:], normal[3], normal[:3].any())
    return Mux(total == 0, 0, made)
