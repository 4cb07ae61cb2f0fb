"""Files are the old one or the new one."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hardy.core import InputError
from hardy.files import (
    check_writable,
    follow_umask,
    read_json,
    sweep,
    temporary_beside,
    write_atomic,
    write_files,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "result.txt"
    write_text(path, "old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.txt"]
    write_text(path, "new ü")
    assert path.read_bytes() == "new ü".encode()


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, folder, message in (
        ("", False, "is no name of a file"),
        (tmp_path, False, "is a folder; a file is wanted"),
        (tmp_path / "file", True, "is a file; a folder is wanted"),
        (tmp_path / "file" / "below", False, r"below cannot be written: .*file is no folder"),
        (tmp_path / "file" / "below", True, r"below cannot be written: .*file is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_writable(path, folder=folder)
    for path in ("new", tmp_path / "file", tmp_path / "deep" / "down"):
        check_writable(path)
    check_writable(tmp_path / "deep" / "down", folder=True)
    check_writable("", folder=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_files_of_a_library_are_the_old_ones_or_the_new_ones(tmp_path: Path) -> None:
    def writes(text: str, fails: bool = False):
        def write(folder: Path) -> None:
            (folder / "weights").write_text(text)
            (folder / "weights").chmod(0o600)
            if fails:
                raise KeyboardInterrupt
            (folder / "config").write_text(text)

        return write

    folder = tmp_path / "deep" / "model"
    write_files(folder, writes("old"))
    (folder / "notes").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        write_files(folder, writes("new", fails=True))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "weights": "old", "config": "old", "notes": "mine"
    }  # fmt: skip
    write_files(folder, writes("new"))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "weights": "new", "config": "new", "notes": "mine"
    }  # fmt: skip
    assert (folder / "weights").stat().st_mode == (folder / "notes").stat().st_mode


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_and_folders_are_as_readable_as_any_new_one(tmp_path: Path, umask: int) -> None:
    def hides(path: Path) -> None:
        path.touch()
        path.chmod(0o600)  # as safetensors does

    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", hides)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
        (tmp_path / "folder" / "inner").mkdir(mode=0o700, parents=True)
        hides(tmp_path / "folder" / "inner" / "weights")
        follow_umask(tmp_path / "folder")
        for path in (tmp_path / "folder", *(tmp_path / "folder").rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask
        assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["inner", "weights"]
    finally:
        os.umask(before)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    mine = temporary_beside(tmp_path / "model")
    mine.touch()
    code = """
import sys, hardy.files
for path in sys.argv[1:]:
    folder = hardy.files.temporary_beside(path)
    folder.mkdir()
    (folder / "x").touch()
"""
    names = [str(tmp_path / name) for name in ("model", "model.json", "other")]
    subprocess.run([sys.executable, "-c", code, *names], check=True)
    foreign = [tmp_path / ".model.0123abcd-1-0123abcd.tmp", tmp_path / ".model.other.tmp"]
    for path in foreign:
        path.touch()
    (removed,) = sweep(tmp_path / "model")
    assert removed.name.startswith(".model.")
    assert mine.exists()
    assert all(path.exists() for path in foreign)
    assert len(list(tmp_path.iterdir())) == 5
    os.utime(foreign[0], (0, 0))
    os.utime(mine, (0, 0))  # longer than a job takes
    assert len(sweep(tmp_path / "*")) == 4
    assert list(tmp_path.iterdir()) == foreign[1:]
    assert sweep(tmp_path / "nowhere" / "model") == []


def test_the_next_process_that_writes_there_sweeps(tmp_path: Path) -> None:
    killed = "import os, sys, hardy.files as f; f.write_atomic(sys.argv[1], lambda temporary: os._exit(0))"
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", killed, str(tmp_path / name)], check=True)
    assert len(list(tmp_path.iterdir())) == 1, "b's process has removed what a's left"
    write_text(tmp_path / "c", "")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_json_there_and_back(tmp_path: Path) -> None:
    value = {"ä": [1, 0.1, None, True, "x", "inf"], "nested": {"third": 1 / 3}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "a.json", {"x": (math.inf, -math.inf, "inf"), "y": math.nan})
    stored = read_json(tmp_path / "a.json")
    assert stored["x"] == [math.inf, -math.inf, "inf"]
    assert math.isnan(stored["y"])
    assert "Infinity" not in (tmp_path / "a.json").read_text()
    with pytest.raises(InputError, match="the key 'non-finite' marks infinity"):
        write_json(tmp_path / "a.json", {"x": {"non-finite": "inf"}})
    (tmp_path / "a.json").write_text('{"non-finite": "1e400"}')
    with pytest.raises(InputError, match=r"a\.json is damaged: 'non-finite' marks inf, -inf or nan"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 99999])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
