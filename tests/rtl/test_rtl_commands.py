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
from hardy.fields.container import Contents, save_fields
from hardy.fields.integer_model import IntegerModel, LinearCodes, Requantization, UnitCodes
from hardy.report import Report
from hardy.rtl import Format, accelerator, compare, design, synthesis, tools
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


def small_field(seed: int) -> IntegerModel:
    """Of four units, turned by a Hadamard transform before its last layer."""
    rng = np.random.default_rng(seed)

    def layer(rows: int, columns: int, shift: int) -> LinearCodes:
        shifts, factors = np.full(rows, shift), rng.integers(1 << 22, 1 << 23, rows)
        codes = rng.integers(-128, 128, (rows, columns))
        return LinearCodes(codes=codes, factors=factors, shifts=shifts, bias=rng.integers(-50, 50, rows), bits=8)

    step = Requantization(m=7000000, shift=23, zero=3, bits=8, rotated=True)
    return IntegerModel(
        layers=(layer(4, 2, 22), layer(3, 4, 27)), units=(UnitCodes(kind="quad"),), requantizations=(step,),
        frequencies=0, fraction_bits=6,
    )  # fmt: skip


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
def test_gates_are_proven_and_others_refuted() -> None:
    source = {}
    for name in ("quad-folded", "quad-generic", "sine-table"):
        pipeline = design(name, Format(6, 3)).pipeline()
        source[name] = tools.rtlil(pipeline, "wave", pipeline.ports)
    assert synthesis.equivalent(source["quad-folded"], "wave", 3)
    assert synthesis.equivalent(source["quad-folded"], "wave", 3, gates_of=source["quad-generic"])
    with pytest.raises(InputError, match="the gates of wave differ"):
        synthesis.equivalent(source["quad-folded"], "wave", 3, gates_of=source["sine-table"])


def test_tools_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "program", lambda name: None)
    with pytest.raises(InputError, match="nextpnr-ice40 is missing; pip install"):
        compare([8], devices=("up5k",))
    with pytest.raises(InputError, match="device must be .*'up6k'; did you mean up5k"):
        compare([8], devices=("up6k",))


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
