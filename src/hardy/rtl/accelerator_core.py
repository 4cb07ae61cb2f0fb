"""The accelerator: pixel indices in, colours out, with lanes of multipliers over ping-pong buffers.

Source: the INR accelerators of QuadINR (2508.14374) and DHQ (2508.13478), output-stationary. A pixel passes through one
state after another; a layer is a round of products for every `lanes` rows, then `lanes` cycles that scale them.
"""

from __future__ import annotations

from amaranth import Elaboratable, Shape, signed, unsigned

from hardy.fields.integer_model import UnitCodes, _parts
from hardy.rtl.exact_units import clamped, stages_of
from hardy.rtl.hdl import Array, Memory, Module, Mux, Signal, Value
from hardy.rtl.pipeline import Pipeline, lookup
from hardy.rtl.program import COORDINATE_BITS, Matrix, Program


class Accelerator(Elaboratable):
    """One field as hardware.

    Ports: `s_axis_tdata` holds x in its low 16 bits and y in the next, `m_axis_tdata` a byte per channel from the
    lowest up (R, G, B); `m_axis_tlast` marks the last pixel of the picture. A pixel at a time, in any order.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        channels = program.model.out_features
        self.s_data, self.s_valid, self.s_ready = (
            Signal(shape, name=f"s_axis_t{name}")
            for name, shape in (("data", 2 * COORDINATE_BITS), ("valid", 1), ("ready", 1))
        )
        self.m_data, self.m_valid, self.m_ready, self.m_last = (
            Signal(shape, name=f"m_axis_t{name}")
            for name, shape in (("data", 8 * channels), ("valid", 1), ("ready", 1), ("last", 1))
        )
        fraction = program.model.fraction_bits
        self.units: dict[tuple, Pipeline] = {}
        for unit in program.model.units:
            if _key(unit) not in self.units:
                imaginary = {"i": signed(program.x_bits)} if _parts(unit) == 2 else {}
                shapes: dict[str, Shape] = {"x": signed(program.x_bits), **imaginary}
                outputs: dict[str, Shape] = {name: signed(program.operand_bits) for name in ("y", "im")[: _parts(unit)]}
                self.units[_key(unit)] = Pipeline(stages_of(unit, fraction), shapes, outputs)

    @property
    def ports(self) -> list[Signal]:
        """All signals that cross the border, but for clock and reset."""
        return [
            self.s_data, self.s_valid, self.s_ready, self.m_data, self.m_valid, self.m_ready, self.m_last,
        ]  # fmt: skip

    @property
    def latencies(self) -> list[int]:
        """Of the unit of each hidden layer."""
        return [self.units[_key(unit)].latency for unit in self.program.model.units]

    def elaborate(self, platform: object) -> Module:
        m, plan = Module(), self.program
        model, lanes = plan.model, plan.lanes
        deepest = max(layer.codes.shape[0] for layer in model.layers)
        place = range(2 * deepest + 1)
        x_buffer = _Buffer(m, signed(plan.x_bits), deepest, 2)
        active = _Buffer(m, signed(plan.operand_bits), deepest, 1, writes=2)
        few = _Buffer(m, signed(plan.operand_bits), deepest, 1)
        for pipeline in self.units.values():
            m.submodules += pipeline
        i, o, lane, group = Signal(place), Signal(place), Signal(range(lanes)), Signal(range(deepest + 1))
        column, line = Signal(COORDINATE_BITS), Signal(COORDINATE_BITS)
        sums = Array(Signal(signed(plan.sum_bits), name=f"sum_{n}", reset_less=True) for n in range(lanes))
        weights, bases = self._weights()
        address = Signal(range(max(len(weights), 2)))
        word = lookup(m, weights, unsigned(lanes * plan.weight_bits), address)
        operand = Signal(signed(plan.operand_bits))
        rows, row_bases = self._rows()
        row = Signal(range(max(len(rows[0]), 2)))
        factor, shift, bias = (
            lookup(m, table, shape, row)
            for table, shape in zip(rows, (unsigned(24), unsigned(6), signed(32)), strict=True)
        )
        total = sums[lane]
        scaled = Signal(signed(plan.x_bits))
        m.d.comb += scaled.eq(_nearest_shift(total * factor, shift) + bias)
        colours = [Signal(8, name=f"colour_{n}") for n in range(model.out_features)]
        m.d.comb += [
            self.m_data.eq(sum((colour << (8 * n) for n, colour in enumerate(colours[1:], 1)), colours[0])),
            self.m_last.eq((column == plan.grid[1] - 1) & (line == plan.grid[0] - 1)),
        ]
        steps: list[tuple[str, int, Matrix | None]] = [("first", 0, None)]
        for number in range(1, len(model.layers)):
            steps.append(("unit", number, None))
            if not model.requantizations[number - 1].rotated:
                steps.append(("few", number, None))
            steps += [("turn" if x.turns else "layer", number, x) for x in plan.matrices if x.layer == number]
        names = [f"{kind}_{number}" for kind, number, _ in steps] + ["out"]
        matrices = iter(zip(bases, row_bases, strict=True))
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.s_ready.eq(1)
                with m.If(self.s_valid):
                    m.d.sync += [column.eq(self.s_data[:16]), line.eq(self.s_data[16:]), i.eq(0)]
                    m.next = names[0]
            for (kind, number, matrix), name, after in zip(steps, names, names[1:], strict=False):
                if matrix is not None:
                    base, row_base = next(matrices)
                    source = active if matrix.turns else few
                    width = matrix.codes.shape[1]
                    with m.State(name):
                        m.d.comb += [
                            source.reads[0].addr.eq(i),
                            operand.eq(source.reads[0].data),
                            address.eq(base + group * width + i),
                        ]
                        for n in range(lanes):
                            weight = word.word_select(n, plan.weight_bits).as_signed()
                            m.d.sync += sums[n].eq(Mux(i == 0, 0, sums[n]) + weight * operand)
                        m.d.sync += i.eq(i + 1)
                        with m.If(i == width - 1):
                            m.d.sync += [i.eq(0), lane.eq(0)]
                            m.next = f"{name}_scale"
                    with m.State(f"{name}_scale"):
                        where = group * lanes + lane
                        inside = where < len(matrix.codes)
                        m.d.comb += row.eq(row_base + where)
                        if matrix.turns:
                            few.write(m, where, self._requantized(total, number), inside)
                        elif number < len(model.layers) - 1:
                            x_buffer.write(m, where, scaled, inside)
                        else:
                            for n, colour in enumerate(colours):
                                with m.If(where == n):
                                    m.d.sync += colour.eq(self._colour(scaled))
                        m.d.sync += lane.eq(lane + 1)
                        with m.If(lane == lanes - 1):
                            m.d.sync += [lane.eq(0), group.eq(group + 1)]
                            m.next = name
                            with m.If(group == matrix.groups(lanes) - 1):
                                m.d.sync += [group.eq(0), o.eq(0)]
                                m.next = after
                    continue
                width = model.layers[number - (kind != "first")].codes.shape[0]
                with m.State(name):
                    m.d.sync += i.eq(i + 1)
                    last = i == width - 1
                    if kind == "first":
                        x_buffer.write(m, i, self._first(m, i, line, column), 1)
                    elif kind == "few":
                        m.d.comb += active.reads[0].addr.eq(i)
                        few.write(m, i, self._requantized(active.reads[0].data, number), 1)
                    else:
                        unit = model.units[number - 1]
                        pipeline, half = self.units[_key(unit)], width // _parts(unit)
                        m.d.comb += [
                            x_buffer.reads[0].addr.eq(i),
                            x_buffer.reads[1].addr.eq(i + half),
                            pipeline.in_valid.eq(i < half),
                            pipeline.inputs["x"].eq(x_buffer.reads[0].data),
                        ]
                        active.write(m, o, pipeline.outputs["y"], pipeline.out_valid)
                        if "i" in pipeline.inputs:
                            m.d.comb += pipeline.inputs["i"].eq(x_buffer.reads[1].data)
                            active.write(m, o + half, pipeline.outputs["im"], pipeline.out_valid, 1)
                        with m.If(i >= half):
                            m.d.sync += i.eq(half)
                        with m.If(pipeline.out_valid):
                            m.d.sync += o.eq(o + 1)
                        last = pipeline.out_valid & (o == half - 1)
                    with m.If(last):
                        m.d.sync += [i.eq(0), o.eq(0)]
                        m.next = after
            with m.State("out"):
                m.d.comb += self.m_valid.eq(1)
                with m.If(self.m_ready):
                    m.next = "idle"
        return m

    def _weights(self) -> tuple[list[int], list[int]]:
        """Words of `lanes` weights in two's complement, all matrices one after the other, and where each begins."""
        plan, words, bases = self.program, [], []
        mask = (1 << plan.weight_bits) - 1
        for matrix in plan.matrices:
            bases.append(len(words))
            codes = matrix.codes.tolist()
            for group in range(matrix.groups(plan.lanes)):
                rows = codes[group * plan.lanes : (group + 1) * plan.lanes]
                for column in range(matrix.codes.shape[1]):
                    words.append(sum((row[column] & mask) << (n * plan.weight_bits) for n, row in enumerate(rows)))
        return words, bases

    def _rows(self) -> tuple[tuple[list[int], list[int], list[int]], list[int]]:
        """Factor, shift and bias of every row that is scaled, and where each matrix begins; those of H have none."""
        factors, shifts, biases, bases = [], [], [], []
        for matrix in self.program.matrices:
            bases.append(len(factors) if not matrix.turns else 0)
            if matrix.turns:
                continue
            layer = self.program.model.layers[matrix.layer]
            padding = [0] * (matrix.groups(self.program.lanes) * self.program.lanes - len(matrix.codes))
            factors += layer.factors.tolist() + padding
            shifts += layer.shifts.tolist() + padding
            biases += layer.bias.tolist() + padding
        return (factors, shifts, biases), bases

    def _first(self, m: Module, index: Signal, line: Signal, column: Signal) -> Value:
        """The first layer's row `index`, by a product and an exact division by the grid's size for each axis."""
        layer = self.program.model.layers[0]
        shift = lookup(m, layer.shifts.tolist(), unsigned(6), index)
        total: Value = lookup(m, layer.bias.tolist(), signed(32), index)
        for axis, (position, size) in enumerate(zip((line, column), self.program.grid, strict=True)):
            codes = (layer.codes[:, axis] * layer.factors).tolist()
            widest = max(abs(code) for code in codes).bit_length() + 1
            product = (2 * position.as_unsigned() + 1 - size) * lookup(m, codes, signed(widest), index)
            # nearest(p, n 2^s) = floor(floor((2 p + n 2^s) / 2^(s+1)) / n)
            total = total + divided(((product << 1) + (size << shift)) >> (shift + 1), size)
        return total

    def _requantized(self, value: Value, number: int) -> Value:
        step = self.program.model.requantizations[number - 1]
        largest = 1 << (step.bits - 1)
        near = ((value * step.m << 1) + (1 << step.shift)) >> (step.shift + 1)
        return clamped(near - step.zero, -largest, largest - 1) + step.zero

    def _colour(self, value: Value) -> Value:
        fraction = self.program.model.fraction_bits
        one = 1 << fraction
        shown = (clamped(value, -one, one) + one)[: fraction + 2]
        return (2 * 255 * shown + 2 * one) >> (fraction + 2)


class _Buffer:
    """A memory with combinational reads; writes name what, where and when."""

    def __init__(self, m: Module, shape: Shape, depth: int, reads: int, writes: int = 1) -> None:
        memory = Memory(shape=shape, depth=depth, init=[])
        self.reads = [memory.read_port(domain="comb") for _ in range(reads)]
        self.writes = [memory.write_port() for _ in range(writes)]
        m.submodules += memory

    def write(self, m: Module, where: Value, what: Value, when: Value | int, port: int = 0) -> None:
        """Store `what` in this state."""
        m.d.comb += [self.writes[port].addr.eq(where), self.writes[port].data.eq(what), self.writes[port].en.eq(when)]


def divided(value: Value, by: int) -> Value:
    """floor(value / by) for a constant above zero, by one product: exact for every code of the value's width."""
    if by & (by - 1) == 0:
        return value >> (by.bit_length() - 1)
    k, extra = len(value), (by - 1).bit_length()
    bits = k + extra + 1
    magic = -(-(1 << (bits + extra)) // by)
    return (((value + (by << k)).as_unsigned()[:bits] * magic) >> (bits + extra)) - (1 << k)


def _nearest_shift(value: Value, shift: Value) -> Value:
    """value / 2^shift to the nearest integer, halves up, shift a signal."""
    return ((value << 1) + (1 << shift)) >> (shift + 1)


def _key(unit: UnitCodes) -> tuple:
    return unit.kind, unit.numbers, None if unit.table is None else unit.table.tobytes()
