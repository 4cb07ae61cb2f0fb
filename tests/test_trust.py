"""What hardy promises of files: readers that fail in one way, writers that stay where they belong, leftovers swept."""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import hardy
from benchmarks.fuzz import attack
from benchmarks.fuzz_formats import FORMATS, OF_MODELS, OF_SLOW, Format
from hardy.artefacts import artefact
from hardy.cli.main import app
from hardy.errors import InputError, shortened
from hardy.files import named, write_atomic
from hardy.hardware import Chip, TableDevice
from hardy.reading import below, check_room, memory_budget, reading
from hardy.splat import load_scene, save_ply
from hardy.splat.photos import photo_size

CASES = 200


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_are_read_or_refused_in_a_line_that_names_them(name: str, tmp_path: Path) -> None:
    cases = {OF_MODELS: CASES // 10, OF_SLOW: CASES // 2}.get(FORMATS[name].cases, CASES)
    found = attack(name, cases, 1, tmp_path / "files", seconds=20)
    assert found["faults"] == []
    assert found["refused"] > 0, "a harness whose every file is read attacks nothing"


def test_a_reader_that_ends_the_process_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.fuzz import apart

    monkeypatch.setitem(FORMATS, "end", Format(FORMATS["text"].make, lambda f: os._exit(11), ("a.txt",)))
    apart(tmp_path / "found.json", "end", 5, "0", tmp_path / "files")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["crash"] == 1
    assert "ended with 11" in found["faults"][0]["told"]


def test_the_harness_sees_a_reader_without_a_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Format(FORMATS["chip.json"].make, lambda f: json.loads((f / "chip.json").read_text()), ("chip.json",))
    monkeypatch.setitem(FORMATS, "bare", bare)
    assert attack("bare", 30, 0, tmp_path / "files")["traceback"] > 0


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "C:\\x.png", "\\x.png", "..\\x", "", "\0"])
def test_names_that_lead_out_of_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scene.json names the file"):
        below(tmp_path, name, "scene.json")
    assert below(tmp_path, "a/./b..png", "scene.json") == tmp_path / "a" / "b..png"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene of three photos whose last one is named by an absolute path, beside a secret picture."""
    folder = tmp_path / "scene"
    for place in (folder / "one" / "a.png", folder / "two" / "a.png", folder / "b.png", tmp_path / "secret" / "a.png"):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 16, 3), 90, np.uint8)).save(place)
    return folder


def write_scene(folder: Path, names: list[str]) -> None:
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
    frames = [{"file_path": name, "transform_matrix": pose} for name in names]
    record = {"fl_x": 14.0, "w": 16, "h": 12, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(record))


def gaussians(path: Path) -> None:
    made = {"means": torch.zeros(4, 3), "scales": torch.full((4, 3), -2.0), "quats": torch.ones(4, 4)}
    made |= {"opacities": torch.zeros(4), "sh0": torch.zeros(4, 1, 3), "shN": torch.zeros(4, 0, 3)}
    save_ply(made, path)


def test_a_scene_cannot_make_render_write_or_read_elsewhere(scene: Path, tmp_path: Path) -> None:
    secret = str(tmp_path / "secret" / "a.png")
    gaussians(tmp_path / "g.ply")
    for names in ([secret, "one/a.png"], ["../secret/a.png", "one/a.png"]):
        write_scene(scene, names)
        with pytest.raises(InputError, match=r"transforms.json names the file .* which lies outside"):
            load_scene(scene)
    write_scene(scene, [secret, "one/a.png"])
    assert len(load_scene(scene, outside=True).views) == 1
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    line = ["splat", "render", str(tmp_path / "g.ply"), str(tmp_path / "out"), "--scene", str(scene), "--outside"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_guard_names_the_file_and_leaves_memory_and_interrupts_alone() -> None:
    for error in (
        KeyError("x"),
        TypeError("y"),
        OverflowError(),
        RecursionError(),
        AttributeError("z"),
        OSError(5, "io"),
    ):
        with pytest.raises(InputError, match="a.json"), reading("a.json"):
            raise error
    for kind in (MemoryError, KeyboardInterrupt):
        with pytest.raises(kind), reading("a.json"):
            raise kind


def test_error_lines_are_short_and_printable() -> None:
    line = shortened("\x1b[31mred\nnext \u202etxt " + "x" * 70_000)
    assert "\x1b" not in line
    assert "\n" not in line
    assert "\u202e" not in line
    assert len(line) < 300


def command(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "hardy", *words]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


def test_a_hostile_name_is_one_clean_line_also_without_utf8(tmp_path: Path) -> None:
    evil = tmp_path / "chip\x1b[31m\u202e\n.json"
    evil.write_text("{")
    found = command("simulate", "tiny-llama", "--chip", str(evil), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert found.returncode == 2
    errors = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "is damaged" in errors[0]
    assert "\x1b" not in found.stderr


def test_what_nobody_foresaw_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    from hardy.cli import main

    monkeypatch.setattr(main, "app", lambda: 1 / 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.glob("hardy-*.txt")
    assert line == f"error: ZeroDivisionError: division by zero (traceback: {file})"
    assert "ZeroDivisionError" in file.read_text()


def test_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    from hardy.fields.container import Contents
    from hardy.fields.media import save_media

    def full(path: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def full_for_tokenizers(path: Path) -> None:
        raise Exception("No space left on device (os error 28)")  # of their Rust, and no OSError

    for write in (full, full_for_tokenizers):
        with pytest.raises(OSError, match="No space left") as raised:
            write_atomic(tmp_path / "w.safetensors", write)
        assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full") as raised:
            save_media(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.png", Contents(kind="image", grids=((4, 4),)))
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_size_is_asked_for_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardy.fields.container import load_fields, save_fields
    from hardy.fields.media import load_media

    models, contents = load_fields(Path(__file__).parent / "data" / "field-0.1.hardy")
    bomb = tmp_path / "bomb.hardy"
    import dataclasses

    save_fields(models, bomb, dataclasses.replace(contents, kind="image", grids=((32768, 32768),)))
    with pytest.raises(InputError, match=r"bomb.hardy: .* declare 1073741824 points"):
        load_fields(bomb)
    assert load_fields(bomb, most_points=2**30)[1].grids == ((32768, 32768),)
    monkeypatch.setenv("HARDY_MEMORY_GB", "0.01")
    assert memory_budget() == 10_000_000
    with pytest.raises(InputError, match="may be taken"):
        hardy.fields.IntegerField(models[0]).render((4000, 4000))
    Image.new("L", (3000, 3000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"large.png: a picture of 3000 x 3000 takes about 0.4 GB"):
        load_media(tmp_path / "large.png")
    monkeypatch.setenv("HARDY_MEMORY_GB", "1")
    check_room("something", 900_000_000)
    monkeypatch.setenv("HARDY_MEMORY_GB", "much")
    with pytest.raises(InputError, match="must be a number of GB"):
        check_room("something", 1)


def test_a_configuration_that_declares_more_than_is_stored_is_refused(micro_llama: Path, tmp_path: Path) -> None:
    import shutil

    from hardy.zoo import load
    from hardy.zoo.loading import outline

    for key, value in (("num_hidden_layers", 10**9), ("vocab_size", 10**9), ("intermediate_size", 10**9)):
        folder = tmp_path / key
        shutil.copytree(micro_llama, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        for read in (load, outline):
            with pytest.raises(InputError, match="declares"):
                read(folder)


def test_layers_that_no_memory_holds_are_refused() -> None:
    with pytest.raises(InputError, match="a layer of .* x 99999999999 takes"):
        hardy.fields.Field(2, 3, hidden_features=99999999999)
    with pytest.raises(InputError, match="a layer of .* x 99999999999 takes"):
        hardy.fields.SharedField(2, 2, 3, hidden_features=99999999999)


def test_a_folder_without_a_name_is_saved_to_or_refused(
    llama: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    hardy.save(llama, "")
    monkeypatch.chdir(tmp_path / "model")
    hardy.save(llama, ".")
    hardy.load(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match="the root of all folders"):
        named("/")


def test_an_artefact_that_claims_a_users_folder_does_not_get_it(llama: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    hardy.save(llama, folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    record = json.loads((folder / "hardy.json").read_text())
    (folder / "hardy.json").write_text(json.dumps({**record, "extra": ["mine", "../secret"]}))
    (tmp_path / "secret").write_text("secret")
    hardy.save(llama, folder)
    assert (folder / "mine" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "secret").read_text() == "secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "secret"]


def test_values_beyond_any_cell_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("level,mean,std\n0,0,1\n1e308,1e308,1\n")
    with pytest.raises(InputError, match=r"cells.csv, line 3"):
        TableDevice.from_csv(table)
    record = Chip.preset("ideal").to_dict()
    for value in (10**400, 1e308):
        (tmp_path / "chip.json").write_text(json.dumps({**record, "wire_resistance": value}))
        with pytest.raises(InputError, match=r"chip.json: wire_resistance"):
            Chip.named(str(tmp_path / "chip.json"))


def test_photos_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(InputError, match="a.png"):
        photo_size(tmp_path / "a.png")


@pytest.mark.parametrize("moment", ["old is aside", "new is there"])
def test_a_save_killed_between_two_renames_is_finished_by_the_next(
    moment: str, llama: nn.Module, tmp_path: Path
) -> None:
    folder, aside = tmp_path / "model", tmp_path / ".model.old"
    hardy.save(llama, folder)
    (folder / "notes.txt").write_text("mine")
    os.replace(folder, aside)
    if moment == "new is there":
        hardy.save(llama, tmp_path / "new")
        os.replace(tmp_path / "new", folder)
    artefact.check_destination(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    hardy.load(folder)


def test_a_picture_of_few_bytes_that_declares_millions_of_pixels_is_refused_by_every_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardy.fields import signals
    from hardy.splat.photos import read_mask
    from hardy.stream.frames import Frames

    size = struct.pack("<HH", 8000, 8000)
    for folder in ("still", "moving"):
        (tmp_path / folder).mkdir()
    gif = b"GIF89a" + size + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + b"," + b"\0" * 4 + size + b"\0\x02\x02\x44\x01\0;"
    moving, still = tmp_path / "moving" / "a.gif", tmp_path / "still" / "a.png"
    moving.write_bytes(gif)
    still.write_bytes(gif)
    readers = [
        lambda: signals.image(still), lambda: signals.video(moving), lambda: read_mask(still),
        lambda: next(Frames(moving).read()), lambda: next(Frames(still.parent).read()),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(InputError, match=r"a\.(gif|png): \d+ bytes declare a picture of 8000 x 8000"):
            read()
    monkeypatch.setenv("HARDY_MEMORY_GB", "1")
    for read in readers:
        with pytest.raises(InputError, match="takes about 2.6 GB"):
            read()


def test_a_checkpoint_whose_state_does_not_fit_is_refused_by_its_name(tmp_path: Path) -> None:
    from hardy.runs.checkpoint import Checkpoint

    checkpoint = Checkpoint(tmp_path / "c.safetensors", kind="test", identity={})
    assert not checkpoint.resume(lambda state: None)
    checkpoint.save({"weights": torch.ones(2)})
    model = nn.Linear(2, 3)
    with pytest.raises(InputError, match=r"c.safetensors is damaged"):
        checkpoint.resume(lambda state: model.load_state_dict(state["weights"]))
    with pytest.raises(InputError, match=r"c.safetensors is damaged: it lacks 'model'"):
        checkpoint.resume(lambda state: model.load_state_dict(state["model"]))
    assert checkpoint.resume(lambda state: state["weights"])


def test_ctrl_c_ends_a_command_with_a_word_whatever_it_was_doing(tmp_path: Path) -> None:
    """While modules are imported, too, where libraries take the exception for a module that is missing."""
    script = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background were told to ignore it
from hardy.cli import main

def interrupted():
    os.kill(os.getpid(), signal.SIGINT)

if sys.argv.pop() == "import":
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "hardy.zoo":
                try:
                    interrupted()
                except BaseException:
                    pass  # as libraries do
    sys.meta_path.insert(0, Finder())
else:
    main._version = lambda wanted: interrupted()
    main.app.registered_callback.callback = lambda version=False: interrupted()
main.main()
"""
    for moment in ("import", "command"):
        line = [sys.executable, "-c", script, "zoo", "list", moment]
        found = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert found.returncode == 130, found
        assert found.stderr.strip() == "Interrupted."


def test_workers_do_not_take_interrupts() -> None:
    import signal

    from hardy.runs.workers import run_jobs

    found = list(run_jobs(handler_of, None, [1, 2], killed=lambda job, reason: None, backend="local", workers=2))
    assert found == [signal.SIG_IGN] * 2


def handler_of(shared: object, job: int) -> object:
    import signal

    return signal.getsignal(signal.SIGINT)


def test_that_nothing_can_be_ranked_is_said_before_measuring(micro_llama: Path, tmp_path: Path) -> None:
    from hardy.studies import locate
    from hardy.zoo import Subject

    subject = Subject.of(str(micro_llama), tokens=64, window=32)
    with pytest.raises(InputError, match="nothing can be ranked by rtn"):
        locate(subject, by="rtn", group_size=100)
