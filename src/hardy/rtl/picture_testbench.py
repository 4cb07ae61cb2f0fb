"""The testbench of an accelerator: every pixel, every code on its way and every cycle, against the integer model.

Codes are compared by a number for each pixel and tap, h -> h * 6364136223846793005 + code modulo 2^64 over the codes in
their order: each step is one to one in h and in the code, so that a single wrong code never leaves h as it should be.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hardy.fields.integer_model import encoded, grid_numerators
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.program import Program
from hardy.rtl.testbench import hexadecimal

FACTOR = 6364136223846793005
_AT_ONCE = 4096

_TOP = """`timescale 1ns/1ps
// {pictures} of {height} x {width} pixels, with pauses on both sides: colours against golden.hex, the codes before and
// after activations and between layers against codes.hex, and the cycles of each pixel. What was drawn is in drawn.hex.
// {sparse}
module {name}_tb;
  localparam PICTURES = {count}, PIXELS = {pixels}, WORDS = {words};
  reg clk = 0, rst = 1, s_valid = 0, m_ready = 0;
  reg [31:0] s_data = 0;
  wire s_ready, m_valid, m_last;
  wire [{high}:0] m_data;
  reg [{high}:0] golden [0:PICTURES*PIXELS-1];
  reg [191:0] codes [0:PICTURES*PIXELS-1];
  reg [63:0] seen_x, seen_y, seen_few;
  integer n, picture, word, stride = 1, wrong = 0, drawn = 0, waited = 0, file;
{album_signals}
  {name} dut (.clk(clk), .rst(rst), .s_axis_tdata(s_data), .s_axis_tvalid(s_valid), .s_axis_tready(s_ready),
    .m_axis_tdata(m_data), .m_axis_tvalid(m_valid), .m_axis_tready(m_ready), .m_axis_tlast(m_last){album_ports});

  always #5 clk = ~clk;

  always @(posedge clk)
    if (s_valid && s_ready) begin
      seen_x <= 0;
      seen_y <= 0;
      seen_few <= 0;
    end else begin
      if (dut.tap_x_valid) seen_x <= seen_x * 64'd{factor} + {x};
      if (dut.tap_y_valid) seen_y <= seen_y * 64'd{factor} + {y};
      if (dut.tap_few_valid) seen_few <= seen_few * 64'd{factor} + {few};
    end

  initial begin
    if (!$value$plusargs("stride=%d", stride)) stride = 1;
    $readmemh("golden.hex", golden);
    $readmemh("codes.hex", codes);
    file = $fopen("drawn.hex", "w");
    repeat (3) @(negedge clk);
    rst = 0;
    for (picture = 0; picture < PICTURES && waited < {limit}; picture = picture + 1) begin
{loading}
      n = 0;
      while (n < PIXELS && waited < {limit}) begin
        if (drawn % 5 == 4) @(negedge clk);
        s_data = ((n / {width}) << 16) | (n % {width});
        s_valid = 1;
        #1;
        while (!s_ready) @(negedge clk);
        @(negedge clk);
        s_valid = 0;
        waited = 1;
        while (!m_valid && waited < {limit}) begin waited = waited + 1; @(negedge clk); end
        if (drawn % 3 == 2) @(negedge clk);
        if (m_data !== golden[picture * PIXELS + n] || m_last !== (n == PIXELS - 1)
            || {{seen_x, seen_y, seen_few}} !== codes[picture * PIXELS + n] || waited + 1 !== {cycles}) begin
          wrong = wrong + 1;
          if (wrong < 10)
            $display("picture %0d, pixel %0d: got %h, expected %h; codes %h, expected %h; cycles %0d", picture, n,
              m_data, golden[picture * PIXELS + n], {{seen_x, seen_y, seen_few}}, codes[picture * PIXELS + n],
              waited + 1);
        end
        $fdisplay(file, "%0d %h", picture * PIXELS + n, m_data);
        m_ready = 1;
        @(negedge clk);
        m_ready = 0;
        drawn = drawn + 1;
        {advance}
      end
    end
    $fclose(file);
    if (wrong == 0 && waited < {limit}) $display("PASS %0d vectors", drawn);
    else begin
      $display("FAIL %0d wrong of %0d", wrong, drawn);
      $fatal(1);
    end
    $finish;
  end
endmodule
"""

_SPARSE = {
    "any": "+stride=N draws every N-th pixel only, and the last.",
    "raster": "+stride=N draws the first N-th part of every line only, and all of the last.",
}
_ADVANCE = {
    "any": "n = (n + stride < PIXELS || n == PIXELS - 1) ? n + stride : PIXELS - 1;",
    "raster": "n = (n % {width} + 1) * stride < {width} || n >= PIXELS - {width} ? n + 1 : n - n % {width} + {width};",
}

_ALBUM_SIGNALS = """
  reg [{high}:0] p_data = 0, contents [0:PICTURES*WORDS-1];
  reg p_valid = 0;
  wire p_ready;
  initial $readmemh("contents.hex", contents);
"""
_ALBUM_PORTS = ",\n    .p_axis_tdata(p_data), .p_axis_tvalid(p_valid), .p_axis_tready(p_ready)"
_LOADING = """      for (word = 0; word < WORDS; word = word + 1) begin
        p_data = contents[picture * WORDS + word];
        p_valid = 1;
        #1;
        while (!p_ready) @(negedge clk);
        @(negedge clk);
      end
      p_valid = 0;"""

_COCOTB = '''"""The same colours under cocotb with any simulator: TOPLEVEL={name}; PIXELS=N draws the first N."""

import os

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

WIDTH, PIXELS, PICTURES, WORDS = {width}, {pixels}, {count}, {words}


def words(path):
    with open(path, encoding="ascii") as file:
        return [int(line, 16) for line in file]


async def handshake(dut, name, data):
    getattr(dut, f"{{name}}_tdata").value, getattr(dut, f"{{name}}_tvalid").value = data, 1
    await Timer(1, "ns")
    while not int(getattr(dut, f"{{name}}_tready").value):
        await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    getattr(dut, f"{{name}}_tvalid").value = 0


@cocotb.test()
async def every_pixel(dut):
    golden = words("golden.hex")
    contents = words("contents.hex") if WORDS else []
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.rst.value, dut.s_axis_tvalid.value, dut.m_axis_tready.value = 1, 0, 0
    if WORDS:
        dut.p_axis_tvalid.value = 0
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    for picture in range(PICTURES):
        for word in contents[picture * WORDS : (picture + 1) * WORDS]:
            await handshake(dut, "p_axis", word)
        for n in range(min(PIXELS, int(os.environ.get("PIXELS", PIXELS)))):
            await handshake(dut, "s_axis", n // WIDTH << 16 | n % WIDTH)
            while not int(dut.m_axis_tvalid.value):
                await FallingEdge(dut.clk)
            assert int(dut.m_axis_tdata.value) == golden[picture * PIXELS + n], f"picture {{picture}}, pixel {{n}}"
            assert int(dut.m_axis_tlast.value) == (n == PIXELS - 1)
            dut.m_axis_tready.value = 1
            await FallingEdge(dut.clk)
            dut.m_axis_tready.value = 0
'''


def taps(program: Program, picture: int, numerators: np.ndarray) -> dict[str, np.ndarray]:
    """The codes (points, codes) int64 at each tap of an accelerator, in its order, by the integer model."""
    made: dict[str, list[np.ndarray]] = {"x": [], "y": [], "few": []}
    if program.encoded:
        made["few"].append(encoded(numerators, program.grid, program.frequencies, program.fraction_bits))
    for number, values in enumerate(program.models[picture].trace(numerators, program.grid)):
        order = program.rows(number)
        made["x"].append(values.x[:, order])
        if values.y is not None and values.few is not None:
            serial = program.steps[number].rotated and program.transform == "serial"
            made["y"].append(values.y[:, order])
            made["few"].append(values.few if serial else values.few[:, order])
    return {name: np.concatenate(codes, 1) for name, codes in made.items()}


def accelerator_files(core: Accelerator, name: str) -> dict[str, str]:
    """Testbench, cocotb test and vectors by file name: golden.hex (the last channel highest), codes.hex, contents.hex.

    The words of an album's pictures follow each other in contents.hex, and so do their pixels in the other two.
    """
    plan = core.program
    (height, width), count, channels = plan.grid, len(plan.models), core.channels
    pixels, words = height * width, len(core.load) if plan.is_album else 0
    cycles = sum(core.cycles.values())
    numbers = {
        "name": name, "height": height, "width": width, "count": count, "pixels": pixels, "words": words,
    }  # fmt: skip
    bench = _TOP.format(
        **numbers,
        **{tap: _extended(f"tap_{tap}", len(code)) for tap, (_, code) in core.taps.items()},
        pictures="A picture" if count == 1 else f"{count} pictures",
        high=8 * channels - 1,
        factor=FACTOR,
        cycles=cycles,
        limit=10 * cycles + 1000,
        album_signals=_ALBUM_SIGNALS.format(high=core.load_bits - 1) if words else "",
        album_ports=_ALBUM_PORTS if words else "",
        loading=_LOADING if words else "",
        sparse=_SPARSE[plan.order],
        advance=_ADVANCE[plan.order].format(**numbers),
    )
    weights = 1 << (8 * np.arange(channels, dtype=np.int64))
    golden = [model.pixels(plan.grid).reshape(pixels, channels).astype(np.int64) @ weights for model in plan.models]
    files = {
        f"{name}_tb.v": bench,
        f"test_{name}.py": _COCOTB.format(**numbers),
        "golden.hex": hexadecimal(np.concatenate(golden).tolist(), 8 * channels),
        "codes.hex": "".join(line for picture in range(count) for line in _numbers(plan, picture)),
    }
    if words:
        contents = [w for picture in range(count) for part, _ in core.contents.of(picture).values() for w in part]
        files["contents.hex"] = hexadecimal(contents, core.load_bits)
    return files


def _numbers(plan: Program, picture: int) -> Iterator[str]:
    """Lines of codes.hex."""
    numerators, factor = grid_numerators(plan.grid), np.uint64(FACTOR)
    for begin in range(0, len(numerators), _AT_ONCE):
        sums = []
        for codes in taps(plan, picture, numerators[begin : begin + _AT_ONCE]).values():
            total = np.zeros(len(codes), dtype=np.uint64)
            for column in codes.astype(np.uint64).T:
                total = total * factor + column
            sums.append(total.tolist())
        yield from (f"{x:016x}{y:016x}{few:016x}\n" for x, y, few in zip(*sums, strict=True))


def _extended(signal: str, bits: int) -> str:
    """Verilog of a signed signal in 64 bits."""
    return f"{{{{{64 - bits}{{dut.{signal}[{bits - 1}]}}}}, dut.{signal}}}"
