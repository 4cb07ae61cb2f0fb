"""What `hardy rtl` refuses, and what it says then."""

import dataclasses
import gzip
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
from hardy.fields.integer_model import LinearCodes, UnitCodes
from hardy.rtl import accelerator, compare, tools

needs_yosys = pytest.mark.skipif(not tools.has_yosys(), reason="yosys is not here")


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


def fake(folder: Path, name: str, script: str) -> None:
    """A program of this name in `folder`."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_tools_that_are_too_old_are_named_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tools._check_age.cache_clear()
    fake(tmp_path, "yosys", "echo 'Yosys 0.23 (git sha1 7ce5011c24b)'")
    with pytest.raises(InputError, match=r"yosys 0.23 is too old, at least 0.40 is needed; pip install"):
        tools.yosys(["stat"])
    monkeypatch.setattr(tools, "verilog_simulator", lambda: "verilator")
    fake(tmp_path, "verilator", "echo 'Verilator 4.038 2020-07-11 rev v4.036'")
    with pytest.raises(InputError, match=r"verilator 4.038 is too old, at least 5.6 is needed"):
        tools.run_testbench(tmp_path, ["a.v"], "a")
    tools._check_age.cache_clear()
    fake(tmp_path, "yosys", "echo 'Yosys 0.52 (git sha1 x)'")
    assert "Yosys 0.52" in tools.yosys(["stat"])
    tools._check_age.cache_clear()


def test_a_tool_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake(tmp_path, "sta", "echo 'Warning: no'; echo 'Error: net.v line 1, syntax error' >&2; exit 1")
    with pytest.raises(InputError, match=r"^OpenSTA failed: Error: net.v line 1, syntax error$"):
        tools.run("OpenSTA", tools.needed("sta"))
    fake(tmp_path, "sta", "exit 3")
    with pytest.raises(InputError, match=r"^OpenSTA failed: exit status 3$"):
        tools.run("OpenSTA", tools.needed("sta"))


@pytest.mark.parametrize("text", ["", "a..b", "32..8", "8..", "x"])
def test_widths_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--widths takes"):
        widths_of(text)


@pytest.mark.parametrize("damage", ["cut", "turned", "empty"])
def test_a_damaged_picture_is_refused_without_a_traceback(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "photo.hardy"
    save_fields([small_field(0)], path, Contents(kind="image", grids=((3, 5),)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes({"cut": path.read_bytes()[:-7], "turned": bytes(data), "empty": b""}[damage])
    done = CliRunner().invoke(app, ["rtl", "export", str(path), str(tmp_path / "out")])
    assert isinstance(done.exception, InputError)
    assert "photo.hardy" in str(done.exception)


def test_fields_that_are_no_pictures_are_refused_by_name(tmp_path: Path) -> None:
    model = small_field(0)
    path = tmp_path / "field.hardy"
    save_fields([model], path, Contents(kind="image", grids=((3, 5),), sample_bits=16))
    with pytest.raises(InputError, match="samples of 16 bits; the accelerator gives 8"):
        accelerator(path)
    first = LinearCodes(
        codes=np.ones((4, 10), dtype=np.int64), factors=model.layers[0].factors, shifts=model.layers[0].shifts,
        bias=model.layers[0].bias, bits=8,
    )  # fmt: skip
    waves = dataclasses.replace(model, layers=(first, model.layers[1]), units=(UnitCodes(kind="relu"),), frequencies=2)
    with pytest.raises(InputError, match="field of relu encodes its coordinates as waves of 2 frequencies, so that"):
        accelerator(waves, grid=(4, 4), order="raster")
    with pytest.raises(InputError, match="order must be"):
        accelerator(model, grid=(4, 4), order="spiral")
    with pytest.raises(InputError, match="there is no field"):
        accelerator([], grid=(4, 4))
    with pytest.raises(InputError, match="has no size of its own: give a grid"):
        accelerator(model)


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
