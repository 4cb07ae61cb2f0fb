"""`hardy rtl`: what it writes, what it refuses, and testbenches that fail on one wrong bit."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("amaranth", reason="the extra rtl is not installed")

from hardy.cli.main import app
from hardy.cli.rtl import widths_of
from hardy.errors import InputError
from hardy.report import Report
from hardy.rtl import Format, accelerator, compare, design, tools
from hardy.rtl.testbench import hexadecimal, unit_files

needs_yosys = pytest.mark.skipif(not tools.has_yosys(), reason="yosys is not here")
needs_simulator = pytest.mark.skipif(
    not tools.has_yosys() or tools.verilog_simulator() is None, reason="no simulator of Verilog is here"
)


def test_numbers_in_hexadecimal_are_twos_complement() -> None:
    assert hexadecimal([-1, 5, -8], 4) == "f\n5\n8\n"
    assert hexadecimal([-1], 10) == "3ff\n"


def test_a_unit_and_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "verilog_simulator", lambda: None)  # whose compiler takes long; it has its own test
    done = CliRunner().invoke(app, ["rtl", "unit", "relu", str(tmp_path), "--bits", "8", "--fraction", "4"])
    assert done.exit_code == 0, done.output
    report = Report.load(tmp_path)
    assert report.value("latency", "relu") == 1
    assert report.value("error", "relu") == 0
    assert len((tmp_path / "golden.hex").read_text().split()) == 256
    assert (tmp_path / "relu_tb.v").is_file()
    assert (tmp_path / "relu.v").is_file() == tools.has_yosys()
    if not tools.has_yosys():
        assert any("yosys is missing" in note for note in report.notes)


@needs_simulator
def test_a_single_wrong_bit_fails_the_testbench(tmp_path: Path) -> None:
    unit = design("relu", Format(6, 3))
    pipeline = unit.pipeline()
    files = unit_files(unit, "relu", np.arange(-32, 32), pipeline.latency)
    files["relu.v"] = tools.verilog(tools.rtlil(pipeline, "relu", pipeline.ports))
    words = files["golden.hex"].split()
    words[40] = f"{int(words[40], 16) ^ 1:02x}"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert "PASS 64" in tools.run_testbench(tmp_path, ["relu.v", "relu_tb.v"], "relu_tb")
    (tmp_path / "golden.hex").write_text("\n".join(words) + "\n")
    with pytest.raises(InputError, match="the testbench failed"):
        tools.run_testbench(tmp_path, ["relu.v", "relu_tb.v"], "relu_tb")


@needs_yosys
def test_what_yosys_says_reaches_the_user() -> None:
    with pytest.raises(InputError, match="yosys failed.*No such command: nonsense"):
        tools.yosys(["nonsense"])


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "has_yosys", lambda: False)
    report = compare([6], tmp_path, units=["relu", "quad-folded"])
    assert report.value("latency", "quad-folded, 6 bits") == 3
    cells = sorted((tmp_path / "cells").iterdir())
    times = [cell.stat().st_mtime_ns for cell in cells]
    assert len(cells) == 2
    compare([6], tmp_path, units=["relu", "quad-folded"])
    assert [cell.stat().st_mtime_ns for cell in cells] == times


@pytest.mark.parametrize(
    ("text", "widths"), [("8..32", (8, 12, 16, 20, 24, 28, 32)), ("16,32", (16, 32)), ("12", (12,))]
)
def test_widths(text: str, widths: tuple[int, ...]) -> None:
    assert widths_of(text) == widths


@pytest.mark.parametrize("text", ["", "a..b", "32..8", "8..", "x"])
def test_widths_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--widths takes"):
        widths_of(text)


def test_damaged_files_and_libraries_are_said(tmp_path: Path) -> None:
    (tmp_path / "photo.hardy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no file of hardy's fields"):
        accelerator(tmp_path / "photo.hardy")
    (tmp_path / "cells.lib").write_text("nothing")
    with pytest.raises(InputError, match="is no Liberty cell library"):
        tools.cell_library(str(tmp_path / "cells.lib"))
    with pytest.raises(InputError, match="cannot read the cell library"):
        tools.cell_library(str(tmp_path / "absent.lib"))


def test_a_packed_library_is_unpacked_where_only_this_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(b"library (cells) { }" + b" " * 1000)
    (tmp_path / "cells.lib.gz").write_bytes(packed)
    place = Path(tools.cell_library(str(tmp_path / "cells.lib.gz")))
    assert place.read_bytes() == gzip.decompress(packed)
    assert place.parent.stat().st_mode & 0o077 == 0
    assert tools.cell_library(str(tmp_path / "cells.lib.gz")) == str(place)
    for number, data in enumerate((packed[:-9], packed[:5], b"nothing")):
        (tmp_path / f"cut{number}.lib.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"cell library .*cut\d.lib.gz"):
            tools.cell_library(str(tmp_path / f"cut{number}.lib.gz"))
    monkeypatch.setattr(tools, "_LARGEST_LIBRARY", 100)
    (tmp_path / "large.lib.gz").write_bytes(packed)
    with pytest.raises(InputError, match="unpacks to more than"):
        tools.cell_library(str(tmp_path / "large.lib.gz"))
