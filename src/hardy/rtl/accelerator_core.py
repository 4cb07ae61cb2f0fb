"""The accelerator: pixel indices in, colours out, with lanes of multipliers between two buffers that change places.

Source: the INR accelerators of QuadINR (2508.14374) and DHQ (2508.13478), output-stationary. A pixel passes through one
state after another. In that of a layer the lanes sum up a row each; what they have summed is scaled, activated and
requantized on its way to the other buffer, while they are at the next rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from amaranth import Elaboratable, Shape, signed, unsigned

from hardy.fields.integer_model import UnitCodes, parts
from hardy.rtl import layer_stages
from hardy.rtl.contents import Contents
from hardy.rtl.exact_units import stages_of
from hardy.rtl.hdl import Cat, Memory, Module, Mux, Signal, Value
from hardy.rtl.memories import Buffer, Tape, taken
from hardy.rtl.pipeline import Pipeline
from hardy.rtl.program import COORDINATE_BITS, Latencies, Program, unit_key
from hardy.rtl.transform import ParallelTransform


class Accelerator(Elaboratable):
    """A field, or an album of fields that share layers, as hardware.

    Ports: `s_axis_tdata` holds x in its low 16 bits and y in the next, `m_axis_tdata` a byte per channel from the
    lowest up (R, G, B); `m_axis_tlast` marks the last pixel of the picture. A pixel at a time, in the program's order;
    `hardy.rtl.program.Program`. An album
    has `p_axis` too, which takes the words of a picture, all of them, before its pixels; it holds the first at reset.

    Attributes:
        taps: by "x", "y" and "few", a valid bit and the codes before units, after them, and that lanes multiply, in
            the order in which they are computed; see `hardy.fields.integer_model.LayerValues`.
    """

    _MustUse__silence = True  # one that is made only to be asked its cycles is no mistake

    def __init__(self, program: Program) -> None:
        self.program, self.contents = program, Contents(program)
        self.channels = program.widths[-1]
        self.s_data, self.s_valid, self.s_ready = _stream("s_axis", 2 * COORDINATE_BITS)
        self.m_data, self.m_valid, self.m_ready = _stream("m_axis", 8 * self.channels)
        self.m_last = Signal(name="m_axis_tlast")
        self.load = [word for words, _ in self.contents.of(0).values() for word in words]
        self.load_bits = max(bits for _, bits in self.contents.of(0).values())
        self.p_data, self.p_valid, self.p_ready = _stream("p_axis", self.load_bits)
        self.first = layer_stages.first_layer(self.contents)
        self.scale = layer_stages.scale(self.contents)
        self.requantize = layer_stages.requantize(self.contents)
        self.colour = layer_stages.colour(self.contents)
        self.units = {unit_key(unit): self._unit(unit) for unit in program.units}
        self.transforms: dict[tuple[int, int], ParallelTransform] = {}
        if program.transform == "parallel":
            for unit, step, width in zip(program.units, program.steps, program.widths[:-1], strict=True):
                if step.rotated:
                    key = width, parts(unit)
                    self.transforms[key] = ParallelTransform(*key, signed(program.turned_bits))
        widths = {"x": program.x_bits, "y": program.y_bits, "few": program.few_bits}
        self.taps = {
            name: (Signal(name=f"tap_{name}_valid"), Signal(signed(bits), name=f"tap_{name}"))
            for name, bits in widths.items()
        }

    def _unit(self, unit: UnitCodes) -> Pipeline:
        plan = self.program
        inputs: dict[str, Shape] = dict.fromkeys(("x", "i")[: parts(unit)], signed(plan.x_bits))
        outputs: dict[str, Shape] = dict.fromkeys(("y", "im")[: parts(unit)], signed(plan.y_bits))
        return Pipeline(stages_of(unit, plan.fraction_bits), inputs, outputs)

    @property
    def ports(self) -> list[Signal]:
        """All signals that cross the border, but for clock and reset."""
        album = [self.p_data, self.p_valid, self.p_ready] if self.program.is_album else []
        return [
            self.s_data, self.s_valid, self.s_ready, self.m_data, self.m_valid, self.m_ready, self.m_last, *album,
        ]  # fmt: skip

    @property
    def latencies(self) -> Latencies:
        """Cycles through the pipelines."""
        units = tuple(self.units[unit_key(unit)].latency + parts(unit) - 1 for unit in self.program.units)
        return Latencies(self.first.latency, self.scale.latency, units, self.requantize.latency, self.colour.latency)

    @property
    def cycles(self) -> dict[str, int]:
        """Of a pixel."""
        return self.program.cycles(self.latencies)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        _Core(self, m).build()
        return m


@dataclasses.dataclass
class _Job:
    """What a state of the lanes reads, and where its rows go."""

    source: Buffer
    words: Tape
    rows: int
    width: int
    signs: bool


class _Core:
    """The inside of one accelerator while it is put together."""

    def __init__(self, outer: Accelerator, m: Module) -> None:
        self.outer, self.m, self.plan = outer, m, outer.program
        plan, contents = outer.program, outer.contents
        m.submodules.first, m.submodules.scale = outer.first, outer.scale
        m.submodules.requantize, m.submodules.colour = outer.requantize, outer.colour
        for unit in outer.units.values():
            m.submodules += unit
        for transform in outer.transforms.values():
            m.submodules += transform
        album, hidden = plan.is_album, plan.widths[:-1]
        own = contents.of(0)
        self.trunk = Tape(m, contents.trunk, contents.weight_shape.width, "trunk")
        self.own, self.first_rows, self.rows = (
            Tape(m, *own[name], f"{name}_tape", writable=album) for name in ("own", "first", "rows")
        )
        self.signs = {key: Tape(m, words, 2 * plan.lanes, f"signs_{key[0]}") for key, words in contents.signs.items()}
        deep = max(*hidden, plan.encoded)
        self.few = [Buffer(m, signed(plan.few_bits), deep, min(hidden), f"few_{n}") for n in range(2)]
        self.active = Buffer(m, signed(plan.y_bits), max(hidden), min(hidden), "active")
        self.i, self.i_next = (Signal(range(max(deep, plan.lanes) + 1)) for _ in range(2))
        self.stored, self.group, self.left = (
            Signal(range(top + 1), name=name)
            for top, name in ((max(deep, *plan.widths), "stored"), (max(plan.widths), "group"), (plan.lanes, "left"))
        )
        self.column, self.line = (Signal(COORDINATE_BITS, name=name) for name in ("column", "line"))
        self.sums, self.held = (
            [Signal(signed(max(plan.sum_bits, plan.turned_bits)), name=f"{name}_{n}", reset_less=True)
             for n in range(plan.lanes)]
            for name in ("sum", "held")
        )  # fmt: skip
        self.colours = [Signal(8, name=f"colour_{n}", reset_less=True) for n in range(outer.channels)]
        self.step = Signal(range(max(len(plan.steps), 2)))
        self.second, self.pending = Signal(), Signal()
        self.real, self.imaginary = Signal(signed(plan.x_bits)), Signal(signed(plan.y_bits))

    def build(self) -> None:
        """Everything: what is wired in all states, and the states."""
        m, outer, plan = self.m, self.outer, self.plan
        self._wires()
        if plan.is_album:
            self._loading()
        names = ["first", "layer_0"] if plan.encoded else ["first"]
        for number in range(1, len(plan.widths)):
            names += [f"turn_{number}"] if plan.steps[number - 1].rotated else []
            names.append(f"layer_{number}")
        after = dict(zip(names, [*names[1:], "out"], strict=True))
        with m.FSM():
            with m.State("idle"):
                m.d.comb += [*self._rewind(), outer.p_ready.eq(1), outer.s_ready.eq(~outer.p_valid)]
                with m.If(outer.s_valid & outer.s_ready):
                    m.d.sync += [self.column.eq(outer.s_data[:16]), self.line.eq(outer.s_data[16:])]
                    m.d.sync += self.step.eq(0)
                    m.next = "first"
            with m.State("first"):
                feeding = self.i < (plan.encoded or plan.widths[0])
                m.d.comb += [
                    outer.first.in_valid.eq(feeding),
                    self.first_rows.advance.eq(feeding),
                    self.i_next.eq(self.i + feeding),
                ]
                if plan.encoded:
                    few_valid, few = outer.taps["few"]
                    self.few[-1].write(m, self.stored, few, few_valid)
                    self._count(few_valid, plan.encoded, after["first"])
                else:
                    self._flow(0, outer.first, after["first"])
            for number in plan.on_lanes:
                if number and plan.steps[number - 1].rotated:
                    self._transform(number, after[f"turn_{number}"])
                words = self.trunk if plan.shared[number] else self.own
                width = plan.widths[number - 1] if number else plan.encoded
                job = _Job(self.few[(number - 1) % 2], words, plan.widths[number], width, False)
                with m.State(f"layer_{number}"):
                    feeding = self._multiply(job)
                    m.d.comb += [outer.scale.in_valid.eq(feeding), self.rows.advance.eq(feeding)]
                    self._flow(number, outer.scale, after[f"layer_{number}"])
            with m.State("out"):
                m.d.comb += outer.m_valid.eq(1)
                with m.If(outer.m_ready):
                    m.next = "idle"

    def _wires(self) -> None:
        m, outer, plan, contents = self.m, self.outer, self.plan, self.outer.contents
        scaled, shown = outer.scale.inputs, outer.first.inputs
        m.d.sync += self.i.eq(self.i_next)
        m.d.comb += [self.i_next.eq(self.i), shown["line"].eq(self.line), shown["column"].eq(self.column)]
        shapes = contents.first_shapes
        for name, value in zip(shapes, taken(self.first_rows.data, list(shapes.values())), strict=True):
            m.d.comb += shown[name].eq(value)
        if plan.order == "raster":
            self._counts()
        m.d.comb += scaled["total"].eq(self.held[0])
        for name, value in zip(("factor", "shift", "bias"), taken(self.rows.data, contents.row_shapes), strict=True):
            m.d.comb += scaled[name].eq(value)
        words, bits = contents.of(0)["steps"]
        steps = Memory(shape=unsigned(bits), depth=len(words), init=words)
        port = steps.read_port(domain="comb")
        self.steps = steps.write_port() if plan.is_album else None
        m.submodules.steps = steps
        m.d.comb += port.addr.eq(self.step)
        for name, value in zip(("m", "shift", "low", "high"), taken(port.data, contents.step_shapes), strict=True):
            m.d.comb += outer.requantize.inputs[name].eq(value)
        _, x = outer.taps["x"]
        few_valid, few = outer.taps["few"]
        sources = [outer.requantize, *([outer.first] if plan.encoded else [])]  # never two at once
        m.d.comb += few_valid.eq(Cat(source.out_valid for source in sources).any())
        for source in sources:
            with m.If(source.out_valid):
                m.d.comb += few.eq(source.outputs["few"])
        for unit in outer.units.values():
            paired = "i" in unit.inputs
            m.d.comb += [unit.inputs["x"].eq(self.real if paired else x)]
            if paired:
                m.d.comb += unit.inputs["i"].eq(x)
        m.d.comb += outer.colour.inputs["x"].eq(x)
        for buffer in (*self.few, self.active):
            m.d.comb += buffer.next.eq(self.i_next)
        m.d.comb += [
            outer.m_data.eq(Cat(*self.colours)),
            outer.m_last.eq((self.column == plan.grid[1] - 1) & (self.line == plan.grid[0] - 1)),
        ]

    def _counts(self) -> None:
        """The sums of a first layer that counts up, kept for each row from pixel to pixel."""
        m, first = self.m, self.outer.first
        inputs, outputs = (
            [ports[name] for name in self.outer.contents.counts] for ports in (first.inputs, first.outputs)
        )
        state = Buffer(m, unsigned(sum(map(len, inputs))), self.plan.widths[0], self.plan.widths[0], "counts")
        state.write(m, first.outputs["row"], Cat(*outputs), first.out_valid)
        m.d.comb += [Cat(*inputs).eq(state.data), state.next.eq(self.i_next), first.inputs["row"].eq(self.i)]

    def _flow(self, number: int, source: Pipeline, after: str) -> None:
        """From the scaled rows of a layer to its activations, in whatever form the next one takes them."""
        m, outer, plan = self.m, self.outer, self.plan
        x_valid, x = outer.taps["x"]
        y_valid, y = outer.taps["y"]
        width = plan.widths[number]
        m.d.comb += [x_valid.eq(source.out_valid), x.eq(source.outputs["x"])]
        if number == len(plan.units):
            m.d.comb += outer.colour.in_valid.eq(x_valid)
            with m.If(outer.colour.out_valid):
                # The first of all channels ends up lowest.
                m.d.sync += Cat(*self.colours).eq(Cat(*self.colours[1:], outer.colour.outputs["colour"]))
            self._count(outer.colour.out_valid, width, after)
            return
        unit = outer.units[unit_key(plan.units[number])]
        where = self._place(number)
        if parts(plan.units[number]) == 2:
            with m.If(x_valid):
                m.d.sync += [self.second.eq(~self.second), self.real.eq(x)]
            m.d.sync += [self.pending.eq(unit.out_valid), self.imaginary.eq(unit.outputs["im"])]
            m.d.comb += [
                unit.in_valid.eq(x_valid & self.second),
                y_valid.eq(unit.out_valid | self.pending),
                y.eq(Mux(self.pending, self.imaginary, unit.outputs["y"])),
            ]
        else:
            m.d.comb += [unit.in_valid.eq(x_valid), y_valid.eq(unit.out_valid), y.eq(unit.outputs["y"])]
        if not plan.steps[number].rotated:
            few_valid, few = outer.taps["few"]
            m.d.comb += [outer.requantize.in_valid.eq(y_valid), outer.requantize.inputs["y"].eq(y)]
            self.few[number % 2].write(m, where, few, few_valid)
            self._count(few_valid, width, after, next_step=True)
            return
        if plan.transform == "parallel":
            network = outer.transforms[width, parts(plan.units[number])]
            m.d.comb += [network.push.eq(y_valid), network.value.eq(y)]
        else:
            self.active.write(m, where, y, y_valid)
        self._count(y_valid, width, after)

    def _place(self, number: int) -> Value:
        """Where an activation is stored: real and imaginary parts come by turns, and are stored apart."""
        if parts(self.plan.units[number]) == 1:
            return self.stored
        return (self.stored >> 1) + Mux(self.stored[0], self.plan.widths[number] // 2, 0)

    def _count(self, valid: Value, width: int, after: str, *, next_step: bool = False) -> None:
        """Count what is stored; with the last of `width` the state ends."""
        m = self.m
        with m.If(valid):
            m.d.sync += self.stored.eq(self.stored + 1)
            with m.If(self.stored == width - 1):
                m.d.sync += [self.stored.eq(0), self.group.eq(0)]
                if next_step:
                    m.d.sync += self.step.eq(self.step + 1)
                m.d.comb += self.i_next.eq(0)
                m.next = after

    def _multiply(self, job: _Job) -> Value:
        """Sum up rows in the lanes, group by group; whether a row leaves them in this cycle."""
        m, plan = self.m, self.plan
        lanes, last = plan.lanes, max(job.width, plan.lanes) - 1
        groups = -(-job.rows // lanes)
        working = Signal(name="working")
        m.d.comb += [
            working.eq((self.group != groups) & (self.i < job.width)),
            job.words.advance.eq(working),
        ]
        bits = 2 if job.signs else plan.weight_bits
        totals = []
        for n, held in enumerate(self.sums):
            weight = job.words.data.word_select(n, bits)
            value = job.source.data
            term = Mux(weight[0], Mux(weight[1], -value, value), 0) if job.signs else weight.as_signed() * value
            totals.append(Mux(self.i == 0, 0, held) + term)
        feeding = Signal(name="feeding")
        m.d.comb += feeding.eq(self.left != 0)
        with m.If(feeding):
            m.d.sync += self.left.eq(self.left - 1)
            m.d.sync += [one.eq(other) for one, other in zip(self.held, self.held[1:], strict=False)]
        with m.If(working):
            m.d.sync += [one.eq(total) for one, total in zip(self.sums, totals, strict=True)]
            with m.If(self.i == job.width - 1):
                m.d.sync += [one.eq(total) for one, total in zip(self.held, totals, strict=True)]
                m.d.sync += self.left.eq(Mux(self.group == groups - 1, job.rows - (groups - 1) * lanes, lanes))
        with m.If(self.group != groups):
            m.d.comb += self.i_next.eq(self.i + 1)
            with m.If(self.i == last):
                m.d.comb += self.i_next.eq(0)
                m.d.sync += self.group.eq(self.group + 1)
        return feeding

    def _transform(self, number: int, after: str) -> None:
        """The state that transforms the activations before layer `number`."""
        m, outer, plan = self.m, self.outer, self.plan
        unit, width = plan.units[number - 1], plan.widths[number - 1]
        few_valid, few = outer.taps["few"]
        target, stored = self.few[(number - 1) % 2], outer.requantize
        with m.State(f"turn_{number}"):
            if plan.transform == "parallel":
                network = outer.transforms[width, parts(unit)]
                ready = self.i == network.steps
                m.d.comb += [
                    network.go.eq(~ready),
                    network.paley.eq((self.i == 0) if network.base > 1 else 0),
                    network.pop.eq(ready & (self.group != width)),
                    stored.in_valid.eq(network.pop),
                    stored.inputs["y"].eq(network.first),
                    self.i_next.eq(self.i + ~ready),
                ]
                with m.If(network.pop):
                    m.d.sync += self.group.eq(self.group + 1)
            else:
                words = self.signs[width, parts(unit)]
                feeding = self._multiply(_Job(self.active, words, width, width, True))
                m.d.comb += [stored.in_valid.eq(feeding), stored.inputs["y"].eq(self.held[0])]
                with m.If(few_valid & (self.stored == width - 1)):
                    m.d.comb += words.rewind.eq(1)
            # Lanes give the rows of H in order, the network the values as they came.
            where = self._place(number - 1) if plan.transform == "parallel" else self.stored
            target.write(m, where, few, few_valid)
            self._count(few_valid, width, after, next_step=True)

    def _rewind(self) -> list[Value]:
        tapes = (self.trunk, self.own, self.first_rows, self.rows, *self.signs.values())
        return [tape.rewind.eq(1) for tape in tapes]

    def _loading(self) -> None:
        """Words of a picture, one after the other into the memories that are its own."""
        m, outer = self.m, self.outer
        ports = {
            "own": self.own.writes, "first": self.first_rows.writes, "rows": self.rows.writes, "steps": self.steps,
        }  # fmt: skip
        place = Signal(range(len(outer.load)), name="load_place")
        taken = outer.p_valid & outer.p_ready
        with m.If(taken):
            m.d.sync += place.eq(Mux(place == len(outer.load) - 1, 0, place + 1))
        begin = 0
        for name, (words, bits) in outer.contents.of(0).items():
            port: Any = ports[name]
            end = begin + len(words)
            m.d.comb += [
                port.addr.eq(place - begin),
                port.data.eq(outer.p_data[:bits]),
                port.en.eq(taken & (place >= begin) & (place < end)),
            ]
            begin = end


def _stream(name: str, bits: int) -> tuple[Signal, Signal, Signal]:
    """Data, valid and ready."""
    return Signal(bits, name=f"{name}_tdata"), Signal(name=f"{name}_tvalid"), Signal(name=f"{name}_tready")
