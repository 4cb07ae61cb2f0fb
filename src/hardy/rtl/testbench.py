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
