"""Self-checking testbenches in Verilog, with their vectors in hexadecimal: they fail on one wrong bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hardy.rtl.unit_design import Unit

_UNIT = """`timescale 1ns/1ps
// Feeds {count} codes to {name}, one a cycle with a gap after every seventh, and compares every output with golden.hex.
module {name}_tb;
  reg clk = 0, rst = 1, in_valid = 0;
  reg [{high}:0] x = 0;
  wire out_valid;
{wires}
  reg [{high}:0] stimuli [0:{last}];
  reg [{golden_high}:0] golden [0:{last}];
  integer sent = 0, seen = 0, wrong = 0, cycle = 0;

  {name} dut (.clk(clk), .rst(rst), .in_valid(in_valid), .x(x), .out_valid(out_valid), {ports});

  always #5 clk = ~clk;

  initial begin
    $readmemh("stimuli.hex", stimuli);
    $readmemh("golden.hex", golden);
    repeat (3) @(negedge clk);
    rst = 0;
    while (seen < {count} && cycle < {limit}) begin
      if (out_valid) begin
        if ({all} !== golden[seen]) begin
          wrong = wrong + 1;
          if (wrong < 10) $display("x %h: got %h, expected %h", stimuli[seen], {all}, golden[seen]);
        end
        seen = seen + 1;
      end
      in_valid = sent < {count} && cycle % 8 != 7;
      if (in_valid) begin
        x = stimuli[sent];
        sent = sent + 1;
      end
      cycle = cycle + 1;
      @(negedge clk);
    end
    if (wrong == 0 && seen == {count}) $display("PASS %0d vectors", seen);
    else begin
      $display("FAIL %0d wrong of %0d, %0d expected", wrong, seen, {count});
      $fatal(1);
    end
    $finish;
  end
endmodule
"""

_COCOTB = '''"""The same test under cocotb: `TOPLEVEL={name} MODULE=test_{name}`, with any simulator it knows."""

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


def words(path):
    with open(path, encoding="ascii") as file:
        return [int(line, 16) for line in file]


@cocotb.test()
async def every_code(dut):
    stimuli, golden, found = words("stimuli.hex"), words("golden.hex"), []
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.rst.value, dut.in_valid.value = 1, 0
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    for x in [*stimuli, *[None] * ({latency} + 1)]:
        if int(dut.out_valid.value):
            found.append({joined})
        dut.in_valid.value = int(x is not None)
        if x is not None:
            dut.x.value = x
        await FallingEdge(dut.clk)
    assert found == golden
'''


def hexadecimal(values: Iterable[int], bits: int) -> str:
    """A line for each value, in two's complement of so many bits."""
    digits, mask = (bits + 3) // 4, (1 << bits) - 1
    return "".join(f"{int(value) & mask:0{digits}x}\n" for value in values)


def unit_files(unit: Unit, name: str, codes: np.ndarray, latency: int) -> dict[str, str]:
    """Testbench, cocotb test and vectors of a unit by file name; the first output is the highest in golden.hex."""
    bits, count = unit.format.bits, len(codes)
    expected: Mapping[str, np.ndarray] = unit.reference(codes)
    mask = (1 << bits) - 1
    words = [
        sum((int(expected[port][i]) & mask) << (bits * place) for place, port in enumerate(reversed(unit.outputs)))
        for i in range(count)
    ]
    text = _UNIT.format(
        name=name,
        count=count,
        last=count - 1,
        high=bits - 1,
        golden_high=bits * len(unit.outputs) - 1,
        limit=2 * count + 2 * latency + 100,
        wires="\n".join(f"  wire [{bits - 1}:0] {port};" for port in unit.outputs),
        ports=", ".join(f".{port}({port})" for port in unit.outputs),
        all="{" + ", ".join(unit.outputs) + "}",
    )
    joined = " | ".join(
        f"(int(dut.{port}.value) & {mask:#x}) << {bits * place}" for place, port in enumerate(reversed(unit.outputs))
    )
    return {
        f"{name}_tb.v": text,
        f"test_{name}.py": _COCOTB.format(name=name, latency=latency, joined=joined),
        "stimuli.hex": hexadecimal(codes, bits),
        "golden.hex": hexadecimal(words, bits * len(unit.outputs)),
    }


_ACCELERATOR = """`timescale 1ns/1ps
// Asks for every pixel of a {height} x {width} picture, with pauses on both sides, and compares it with golden.hex.
module {name}_tb;
  reg clk = 0, rst = 1, s_valid = 0, m_ready = 0;
  reg [31:0] s_data = 0;
  wire s_ready, m_valid, m_last;
  wire [{high}:0] m_data;
  reg [{high}:0] golden [0:{last}];
  integer n = 0, wrong = 0, wait_cycles = 0;

  {name} dut (.clk(clk), .rst(rst), .s_axis_tdata(s_data), .s_axis_tvalid(s_valid), .s_axis_tready(s_ready),
    .m_axis_tdata(m_data), .m_axis_tvalid(m_valid), .m_axis_tready(m_ready), .m_axis_tlast(m_last));

  always #5 clk = ~clk;

  initial begin
    $readmemh("golden.hex", golden);
    repeat (3) @(negedge clk);
    rst = 0;
    while (n < {count} && wait_cycles < 1000000) begin
      if (n % 5 == 4) @(negedge clk);
      s_data = ((n / {width}) << 16) | (n % {width});
      s_valid = 1;
      while (!s_ready && wait_cycles < 1000000) begin wait_cycles = wait_cycles + 1; @(negedge clk); end
      @(negedge clk);
      s_valid = 0;
      wait_cycles = 0;
      while (!m_valid && wait_cycles < 1000000) begin wait_cycles = wait_cycles + 1; @(negedge clk); end
      if (n % 3 == 2) @(negedge clk);
      if (m_data !== golden[n] || m_last !== (n == {last})) begin
        wrong = wrong + 1;
        if (wrong < 10) $display("pixel %0d: got %h, expected %h", n, m_data, golden[n]);
      end
      m_ready = 1;
      @(negedge clk);
      m_ready = 0;
      n = n + 1;
    end
    if (wrong == 0 && n == {count}) $display("PASS %0d vectors", n);
    else begin
      $display("FAIL %0d wrong of %0d, {count} expected", wrong, n);
      $fatal(1);
    end
    $finish;
  end
endmodule
"""


def accelerator_files(name: str, grid: tuple[int, int], pixels: np.ndarray) -> dict[str, str]:
    """Testbench and golden.hex (the last channel highest) of a picture (height, width, channels) uint8."""
    channels, count = pixels.shape[-1], grid[0] * grid[1]
    weights = 1 << (8 * np.arange(channels, dtype=np.int64))
    return {
        f"{name}_tb.v": _ACCELERATOR.format(
            name=name, height=grid[0], width=grid[1], count=count, last=count - 1, high=8 * channels - 1
        ),
        "golden.hex": hexadecimal((pixels.reshape(count, channels).astype(np.int64) @ weights).tolist(), 8 * channels),
    }
