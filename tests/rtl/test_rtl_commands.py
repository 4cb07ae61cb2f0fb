"""`hardy rtl`: what it writes, what it refuses, and testbenches that fail on one wrong bit."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("amaranth", reason="the extra rtl is not installed")

from integer_fields import small_field

from hardy.cli.main import app
from hardy.cli.rtl import widths_of
from hardy.errors import InputError
from hardy.fields.container import Contents, save_fields
from hardy.report import Report
from hardy.rtl import Format, accelerator, compare, design, synthesis, timing, tools
from hardy.rtl.accelerator_core import Accelerator
from hardy.rtl.picture_testbench import accelerator_files
from hardy.rtl.program import Program
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
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with tools.testbench(tmp_path, ["relu.v", "relu_tb.v"], "relu_tb", None) as run:
        assert "PASS 64" in run([])
        for bit in range(6):
            broken = [*words[:40], f"{int(words[40], 16) ^ 1 << bit:02x}", *words[41:]]
            (tmp_path / "golden.hex").write_text("\n".join(broken) + "\n")
            with pytest.raises(InputError, match="the testbench failed: .*FAIL 1 wrong of 64"):
                run([])


@needs_simulator
@pytest.mark.parametrize("pictures", [1, 2])
def test_the_verilog_draws_every_pixel_and_one_wrong_bit_fails(tmp_path: Path, pictures: int) -> None:
    core = Accelerator(Program([small_field(seed) for seed in range(pictures)], (3, 5), 2))
    files = accelerator_files(core, "field") | {"field.v": tools.verilog(tools.rtlil(core, "field", core.ports))}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with tools.testbench(tmp_path, ["field.v", "field_tb.v"], "field_tb", None) as run:
        assert f"PASS {15 * pictures}" in run([])
        assert len((tmp_path / "drawn.hex").read_text().split("\n")) == 15 * pictures + 1
        for file in ("codes.hex", "golden.hex", *(["contents.hex"] if pictures > 1 else [])):
            lines = files[file].split()
            places = ((0, 0), (8, 1), (len(lines) - 1, 4 * len(lines[0]) - 7))
            for line, bit in places[:1] if file == "contents.hex" else places:  # of a weight, which no rounding hides
                broken = list(lines)
                broken[line] = f"{int(lines[line], 16) ^ 1 << bit:0{len(lines[line])}x}"
                (tmp_path / file).write_text("\n".join(broken) + "\n")
                with pytest.raises(InputError, match="the testbench failed: .*FAIL [1-9]"):
                    run([])
            (tmp_path / file).write_text(files[file])


def test_an_album_and_what_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "has_yosys", lambda: False)  # whose counts take long; they have tests of their own
    models = [small_field(0), small_field(1)]
    save_fields(models, tmp_path / "album.hardy", Contents(kind="image", grids=((3, 5), (3, 5))))
    arguments = ["rtl", "export", str(tmp_path / "album.hardy"), str(tmp_path / "out"), "--lanes", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = Report.load(tmp_path / "out")
    spent = [row.value for row in report.rows if row.metric == "cycles of a pixel" and row.condition != "all"]
    assert report.value("cycles of a pixel", "all") == sum(spent)
    assert any("codes at 15 pixels of the first and the last picture" in line for line in report.summary)
    assert any("words with" in note and "are written before each picture" in note for note in report.notes)
    words = (tmp_path / "out" / "contents.hex").read_text().split()
    core = Accelerator(Program(models, (3, 5), 3))
    assert len(words) == 2 * len(core.load)
    save_fields(models, tmp_path / "album.hardy", Contents(kind="image", grids=((3, 5), (3, 4))))
    with pytest.raises(InputError, match=r"several sizes \(3 x 4, 3 x 5\): give one grid"):
        accelerator(tmp_path / "album.hardy")
    assert accelerator(tmp_path / "album.hardy", grid=(2, 2)).value("cycles of a pixel", "all") > 0


@needs_yosys
@pytest.mark.skipif(tools.program("sta") is None, reason="OpenSTA is not here")
def test_power_is_of_its_cells_and_not_of_the_depth_of_products(data: Path) -> None:
    """What OpenSTA derives from the activity of inputs is a thousand times as much in a chain of products."""
    library, found = data / "hw" / "sky130hd_tt.lib.gz", {}
    if not library.is_file():
        pytest.skip("there is no cell library")
    for name in ("relu", "gauss"):
        pipeline = design(name, Format(12, 8)).pipeline()
        source = tools.rtlil(pipeline, name, pipeline.ports)
        cells = synthesis.standard_cells(source, name, library)["cells"]
        found[name] = timing.timed(source, name, library)["power"] / cells
    assert found["gauss"] < 3 * found["relu"]


@needs_yosys
def test_memories_become_ports_of_the_logic_between_them(data: Path) -> None:
    library = data / "hw" / "sky130hd_tt.lib.gz"
    if not library.is_file():
        pytest.skip("there is no cell library")
    core = Accelerator(Program([small_field(0)], (4, 4), 1))
    text = synthesis.netlist(tools.rtlil(core, "field", core.ports), "field", library, synthesis.LOGIC)
    assert "$mem" not in text
    assert "[-1:0]" not in text
    assert r"\trunk.RD_DATA" in text


@needs_yosys
def test_gates_are_proven_and_others_refuted() -> None:
    source = {}
    for name in ("quad-folded", "quad-generic", "sine-table"):
        pipeline = design(name, Format(6, 3)).pipeline()
        source[name] = tools.rtlil(pipeline, "wave", pipeline.ports)
    assert synthesis.equivalent(source["quad-folded"], "wave", 3)
    assert synthesis.equivalent(source["quad-folded"], "wave", 3, gates_of=source["quad-generic"])
    with pytest.raises(InputError, match="the gates of wave differ"):
        synthesis.equivalent(source["quad-folded"], "wave", 3, gates_of=source["sine-table"])


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


@needs_simulator
@pytest.mark.skipif(importlib.util.find_spec("cocotb") is None, reason="cocotb is not here")
def test_an_exported_folder_passes_its_cocotb_test_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    core = Accelerator(Program([small_field(0)], (16, 16), 2))
    files = accelerator_files(core, "field") | {"field.v": tools.verilog(tools.rtlil(core, "field", core.ports))}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    tools.run_cocotb(tmp_path, ["field.v"], "field", "test_field")
    words = files["golden.hex"].split()
    (tmp_path / "golden.hex").write_text("\n".join([*words[:-1], f"{int(words[-1], 16) ^ 1:06x}"]) + "\n")
    with pytest.raises(InputError, match="the cocotb test failed: .*1 of 1 tests failed|picture 0, pixel 255"):
        tools.run_cocotb(tmp_path, ["field.v"], "field", "test_field", tools.verilog_simulators()[-1])
