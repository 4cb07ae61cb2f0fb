"""Files are the old one or the new one."""

import json
import math
import stat
from pathlib import Path

import pytest

from hardy.core import InputError
from hardy.files import read_json, write_atomic, write_json, write_text


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


def test_a_result_is_as_readable_as_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_json_there_and_back(tmp_path: Path) -> None:
    value = {"ä": [1, 0.1, None, True, "x"], "nested": {"third": 1 / 3}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": math.nan})
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 99999])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
