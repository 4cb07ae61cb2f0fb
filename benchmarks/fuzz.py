"""Mutated files against every reader: each is read, or refused in one line that names it, in little time and memory.

A file that is right is changed in bytes or, where it is JSON, in values; checksums are made to fit again, so that what
lies behind them is reached. A case is a fault if the reader raises anything but `InputError`, does not name the file,
says what a terminal cannot be shown, takes 10 s, or makes the process larger by 1 GB. The unchanged files are the
control: all of them must be read.

    python -m benchmarks run fuzz
"""

import collections
import dataclasses
import hashlib
import json
import logging
import random
import re
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile

import hardy
from benchmarks.harness import FOLDER, Result, Value, rows
from hardy.core import Ranking
from hardy.errors import InputError, shortened
from hardy.fields.container import load_fields
from hardy.fields.media import load_media
from hardy.files import read_json, write_json
from hardy.hardware import Chip
from hardy.interp import Directions
from hardy.interp.control_vectors import write_control_vector
from hardy.interp.task import Example, read_examples, write_examples
from hardy.interp.vectors import read_pairs
from hardy.opening import read_method
from hardy.report import Report, Row
from hardy.runs.checkpoint import Checkpoint
from hardy.runs.study import Study
from hardy.splat import load_ply, load_scene, save_ply
from hardy.studies.tasks import read_tasks
from hardy.teach.graphs import read as read_graphs
from hardy.zoo import load as load_model
from hardy.zoo.loading import WEIGHTS
from hardy.zoo.text import read_text

MEMORY = Path("/dev/shm")  # where it is there: files on a disk are slower to open than to read
DATA = FOLDER.parent / "tests" / "data"
SECONDS, GIGABYTE = 10, 1 << 30
CASES, OF_SLOW, OF_MODELS = 47_460, 16_000, 1_000
"""Of a format in the long run, of one that is slow to read, of one that is a model: a million in all."""
PIECES = 20  # parts in which a format is attacked, each with draws of its own: a stopped run goes on with the next

WORDS = (
    "1e308", "-1e308", "1e-320", "1" + "0" * 400, "9" * 5000, "NaN", "-1", "0", "null", "true", "[]", "{}", '""',
    "1e999", "4294967296", "9223372036854775808", "-0.0", "1000000000", '"../../secret.png"', '"/etc/hostname"',
    '"C:\\\\secret.png"', '"\\u0000"', '"\\u001b[31mred\\u001b[0m\\u202e"', '"a\\nb"', '"' + "x" * 70_000 + '"',
    "[" * 600 + "]" * 600, '{"a":' * 600 + "1" + "}" * 600, '"\\ud800"', '{"non-finite": "inf"}',
)  # fmt: skip


class HangError(BaseException):
    """A reader took too long. No `Exception`, so that no guard takes it for the file's fault."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file: how a right one is made, which of its files are changed, who reads it, and in how many cases."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    fit: Callable[[bytes], bytes] = lambda data: data
    after: Callable[[Path], object] = lambda folder: None
    cases: int = CASES


# ---- right files


def _copied(name: str) -> Callable[[Path], object]:
    source = DATA / name
    return lambda folder: shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)


def _chip_csv(folder: Path) -> None:
    rising = [(level, level + 0.1, 0.3) for level in range(0, 40, 5)]
    (folder / "chip.csv").write_text("level,mean,std\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rising))


def _photos(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((6, 8, 3), 100, np.uint8)).save(folder / name)


def _transforms(folder: Path) -> None:
    _photos(folder, ("a.png", "b.png"))
    pose = [[1.0, 0, 0, 0.5], [0, 1.0, 0, 0], [0, 0, 1.0, 2], [0, 0, 0, 1]]
    frames = [{"file_path": name, "transform_matrix": pose} for name in ("a.png", "b.png")]
    facts = {"camera_model": "OPENCV", "fl_x": 9.0, "w": 8, "h": 6, "k1": 0.01, "ply_file_path": "cloud.ply"}
    (folder / "transforms.json").write_text(json.dumps({**facts, "frames": frames}))
    _ascii_ply(folder, "cloud.ply", ("x", "y", "z"))


def _colmap(folder: Path) -> None:
    _photos(folder / "images", ("a.png", "b.png"))
    (folder / "cameras.txt").write_text("# cameras\n1 PINHOLE 8 6 9.0 9.0 4 3\n2 OPENCV 8 6 9 9 4 3 0.1 0 0 0\n")
    (folder / "images.txt").write_text("1 1 0 0 0 0 0 2 1 a.png\n1 2 3\n2 1 0 0 0 0.5 0 2 2 b.png\n\n")
    (folder / "points3D.txt").write_text("1 0 0 1 255 0 0 0.1\n2 0.5 0 1 0 255 0 0.1\n")


def _colmap_binary(folder: Path) -> None:
    _photos(folder / "images", ("a.png",))
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 8, 6, 9, 9, 4, 3))
    (folder / "images.bin").write_bytes(struct.pack("<Qi7di6sQ", 1, 1, 1, 0, 0, 0, 0, 0, 2, 1, b"a.png\0", 0))
    (folder / "points3D.bin").write_bytes(struct.pack("<QQ3d3BdQ", 1, 1, 0, 0, 1, 9, 9, 9, 0.1, 0))


def _ascii_ply(folder: Path, name: str = "gaussians.ply", columns: tuple[str, ...] = ()) -> None:
    columns = columns or (
        "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
        "rot_0", "rot_1", "rot_2", "rot_3",
    )  # fmt: skip
    head = "".join(f"property float {column}\n" for column in columns)
    body = "".join(" ".join(["0.5"] * len(columns)) + "\n" for _ in range(3))
    (folder / name).write_text(f"ply\nformat ascii 1.0\nelement vertex 3\n{head}end_header\n{body}")


def _ply(folder: Path) -> None:
    _ascii_ply(folder, "start.ply")
    save_ply(load_ply(folder / "start.ply"), folder / "gaussians.ply")


def _checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "run.safetensors", kind="run", identity={"seed": 0, "rate": 0.5})


def _study(folder: Path) -> Study:
    return Study(name="fuzz", run=_figure, settings={"size": 3, "rate": 0.5}, out=folder / "study")


def _figure(subject: Any, arguments: Any, seed: int) -> dict[str, float]:
    return {"loss": 1.0}


def _report(folder: Path) -> None:
    Report(title="fuzz", rows=[Row(metric="loss", condition="a", value=1.5, spread=0.1, n=2, seeds=(0, 1))],
           settings={"x": [1, 2.5, "y"]}).save(folder)  # fmt: skip


def _programmed(path: Path) -> None:
    """A chip that was read must also program: what it makes of a small matrix is finite."""
    made = Chip.named(str(path)).without_periphery().program(torch.eye(4) - 0.3, seed=0, site="layer")
    if not made.isfinite().all():
        raise AssertionError("conductances are not finite")


def _pyg_folder(folder: Path) -> None:
    from torch_geometric.data import Data, InMemoryDataset

    (folder / "set" / "processed").mkdir(parents=True)
    graph = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([1]))
    whole, slices = InMemoryDataset.collate([graph, graph])
    torch.save((whole, slices), folder / "set" / "processed" / "data.pt")


def _model(folder: Path) -> None:
    _copied("plain-0.1")(folder)
    (folder / "plain-0.1" / "hardy.json").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WEIGHTS / "tiny-llama" / name, folder / "plain-0.1")


def _refitted(folder: Path) -> None:
    """Digests of an artefact as its files now are."""
    record = json.loads((folder / "hardy.json").read_text())
    for name, entry in record["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "hardy.json").write_text(json.dumps(record))


def _crc(data: bytes) -> bytes:
    return data[:5] + struct.pack("<I", zlib.crc32(data[9:])) + data[9:] if len(data) > 9 else data


FORMATS: dict[str, Format] = {
    "chip.json": Format(lambda f: Chip.preset("hermes").save(f / "chip.json"), lambda f: _programmed(f / "chip.json"),
                        ("chip.json",)),
    "chip.csv": Format(_chip_csv, lambda f: _programmed(f / "chip.csv"), ("chip.csv",)),
    "transforms.json": Format(_transforms, load_scene, ("transforms.json", "cloud.ply")),
    "COLMAP text": Format(_colmap, load_scene, ("cameras.txt", "images.txt", "points3D.txt")),
    "COLMAP binary": Format(_colmap_binary, load_scene, ("cameras.bin", "images.bin", "points3D.bin")),
    "PLY": Format(_ply, lambda f: load_ply(f / "gaussians.ply"), ("gaussians.ply",)),
    "ASCII PLY": Format(_ascii_ply, lambda f: load_ply(f / "gaussians.ply"), ("gaussians.ply",)),
    "report.json": Format(_report, lambda f: Report.load(f / "report.json"), ("report.json",)),
    "ranking.json": Format(
        lambda f: Ranking(scores={"a": 1.0, "b": 2.0}, meaning="loss", unit="nats", by="rtn").save(f / "ranking.json"),
        lambda f: Ranking.load(f / "ranking.json"), ("ranking.json",)),
    "method.json": Format(
        lambda f: write_json(f / "method.json", hardy.quant.RoundToNearest(bits=3).to_dict()),
        lambda f: read_method(f / "method.json"), ("method.json",)),
    "tasks": Format(
        lambda f: (f / "tasks.jsonl").write_text('{"answer": "4", "direct": "2 + 2 ="}\n' * 3),
        lambda f: read_tasks(f / "tasks.jsonl", 3), ("tasks.jsonl",)),
    "checkpoint": Format(
        lambda f: _checkpoint(f).save({"step": 3, "tensors": {"a": torch.ones(3)}, "pairs": {1: (2, 0.5)}}),
        lambda f: _checkpoint(f).load(), ("run.safetensors",)),
    "study": Format(lambda f: _study(f).open(), lambda f: _study(f).open(), ("study/study.json",)),
    "field": Format(_copied("field-0.1.safetensors"), lambda f: hardy.load(f / "field-0.1.safetensors"),
                    ("field-0.1.safetensors",)),
    ".hardy": Format(_copied("field-0.1.hardy"), lambda f: load_fields(f / "field-0.1.hardy"), ("field-0.1.hardy",),
                     _crc, cases=OF_SLOW),
    "picture": Format(lambda f: _photos(f, ("a.png",)), lambda f: load_media(f / "a.png"), ("a.png",),
                      cases=OF_SLOW),
    "sound": Format(lambda f: wavfile.write(f / "a.wav", 8000, np.arange(-50, 50, dtype=np.int16)),
                    lambda f: load_media(f / "a.wav"), ("a.wav",)),
    "task": Format(
        lambda f: write_examples(f / "task.jsonl", [Example("2 + 2 =", right=(" 4",), wrong=(" 5",))] * 2),
        lambda f: read_examples(f / "task.jsonl"), ("task.jsonl",)),
    "pairs": Format(
        lambda f: (f / "pairs.jsonl").write_text('{"positive": "good", "negative": "bad"}\n' * 2),
        lambda f: read_pairs(f / "pairs.jsonl"), ("pairs.jsonl",)),
    "directions": Format(
        lambda f: Directions({0: torch.ones(4), 1: torch.ones(4)}).save(f / "d.safetensors"),
        lambda f: Directions.load(f / "d.safetensors"), ("d.safetensors",)),
    "control vector": Format(
        lambda f: write_control_vector(f / "d.gguf", {1: torch.ones(4), 2: torch.ones(4)}, "llama"),
        lambda f: Directions.load(f / "d.gguf"), ("d.gguf",), cases=OF_SLOW),
    "text": Format(
        lambda f: (f / "a.txt").write_text("naïve text\n" * 3), lambda f: read_text(f / "a.txt"), ("a.txt",)),
    "graphs": Format(
        lambda f: (f / "a.txt").write_text("2\n3 0\n0 1 1\n0 2 0 2\n1 1 1\n2 1\n0 1 1\n2 1 0\n"),
        lambda f: read_graphs(f / "a.txt"), ("a.txt",), cases=OF_SLOW),
    "molecules": Format(
        lambda f: (f / "a.csv").write_text("smiles,value\nCCO,0.5\nc1ccccc1,-1\nCC(=O)O,\n"),
        lambda f: read_graphs(f / "a.csv"), ("a.csv",), cases=OF_SLOW),
    "PyG folder": Format(
        _pyg_folder, lambda f: read_graphs(f / "set"), ("set/processed/data.pt",), cases=OF_SLOW),
    "artefact": Format(
        _copied("plain-0.1"), lambda f: hardy.load(f / "plain-0.1"),
        ("plain-0.1/hardy.json", "plain-0.1/config.json", "plain-0.1/model.safetensors"),
        after=lambda f: _refitted(f / "plain-0.1"), cases=OF_MODELS),
    "packed": Format(
        _copied("packed-0.1"), lambda f: hardy.load(f / "packed-0.1"),
        ("packed-0.1/hardy.json", "packed-0.1/config.json", "packed-0.1/model.safetensors"),
        after=lambda f: _refitted(f / "packed-0.1"), cases=OF_MODELS),
    "model": Format(
        _model,
        lambda f: load_model(f / "plain-0.1"),
        ("plain-0.1/config.json", "plain-0.1/model.safetensors"), cases=OF_MODELS),
}  # fmt: skip


# ---- mutations


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` changed in one to three places."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start = data[:9]
        if data.lstrip()[:1] == b"{" and chance.random() < 0.7:
            data = _in_values(data, chance)
        elif len(data) > 8 and start[8:9] == b"{" and chance.random() < 0.6:  # safetensors
            size = struct.unpack("<Q", data[:8])[0]
            head = _in_values(data[8 : 8 + size], chance)
            data = struct.pack("<Q", len(head)) + head + data[8 + size :]
        else:
            data = chance.choice((_in_bytes, _in_bytes, _in_words))(data, chance)
    return data


def _in_bytes(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    length = min(len(data) - place, chance.choice((1, 1, 2, 4, 8, 64)))
    what = chance.choice(("flip", "cut", "remove", "double", "insert", "extreme"))
    if what == "cut":
        return data[:place]
    if what == "remove":
        return data[:place] + data[place + length :]
    if what == "double":
        return data[: place + length] + data[place:]
    if what == "insert":
        return data[:place] + chance.randbytes(length) + data[place:]
    if what == "extreme":
        return data[:place] + chance.choice((b"\xff", b"\0", b"\x7f\xf0")) * length + data[place + length :]
    changed = bytearray(data)
    if length:
        changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _in_words(data: bytes, chance: random.Random) -> bytes:
    """A number or a word of a text becomes another."""
    places = [match.span() for match in re.finditer(rb"[\w.+-]+", data[:20_000])]
    if not places:
        return data
    start, end = chance.choice(places)
    return data[:start] + chance.choice(WORDS).strip('"').encode() + data[end:]


def _in_values(data: bytes, chance: random.Random) -> bytes:
    """One value of a JSON text is replaced, removed or doubled, also of JSON that is stored as text within it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _in_bytes(data, chance)
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, item in items:
            places.append((node, key))
            if isinstance(item, dict | list):
                waiting.append(item)
    if not places:
        return chance.choice(WORDS).encode()
    node, key = chance.choice(places)
    word, mark = chance.choice(WORDS), "@@evil@@"
    inner = node[key]
    what = chance.random()
    if isinstance(inner, str) and inner[:1] in "{[" and inner and what < 0.8:
        node[key] = _in_values(inner.encode(), chance).decode("utf-8", "replace")
    elif what < 0.1:
        del node[key]
    elif what < 0.15 and isinstance(node, dict):
        node[chance.choice(("extra", "format", "", "non-finite"))] = node.pop(key)
    else:
        node[key] = mark
    return json.dumps(value).replace(f'"{mark}"', word).encode()


# ---- the attack


def attack(name: str, cases: int, seed: int | str, folder: Path, seconds: float = float("inf")) -> dict[str, Any]:
    """Read `cases` mutated files of a format, or as many as `seconds` allow; counts, and an example of each fault."""
    form, chance = FORMATS[name], random.Random(f"{name} {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    form.make(folder)
    form.read(folder)  # the control: a right file is read
    right = {file: (folder / file).read_bytes() for file in form.files}
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    counts: collections.Counter[str] = collections.Counter()
    faults: list[dict[str, str]] = []
    slowest, begun, largest = 0.0, time.monotonic(), _size()
    old = signal.signal(signal.SIGALRM, _hang)
    try:
        for case in range(cases):
            if time.monotonic() - begun > seconds:
                break
            file = chance.choice(form.files)
            data = form.fit(mutated(right[file], chance))
            (folder / file).write_bytes(data)
            with _ignored():
                form.after(folder)
            clock = time.monotonic()
            signal.alarm(SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    form.read(folder)
                outcome, told = "read", ""
            except InputError as error:
                outcome, told = _judged(error, folder)
            except HangError:
                outcome, told = "hang", f"{SECONDS} s"
            except BaseException as error:
                outcome, told = "traceback", "".join(traceback.format_exception(error)[-3:])[-1500:]
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.monotonic() - clock)
            if (size := _size()) > largest + GIGABYTE:
                outcome, told, largest = "memory", f"{(size - largest) / 1e9:.1f} GB", size
            counts[outcome] += 1
            if outcome not in ("read", "refused") and len(faults) < 20:
                faults.append({"outcome": outcome, "case": str(case), "file": file, "told": told})
            for path, content in kept.items() if form.cases == OF_MODELS else ((folder / file, right[file]),):
                path.write_bytes(content)
    finally:
        signal.signal(signal.SIGALRM, old)
    return {"format": name, "cases": sum(counts.values()), **counts, "slowest": slowest, "faults": faults}


def _judged(error: InputError, folder: Path) -> tuple[str, str]:
    told = str(error)
    shown = shortened(told)
    if str(folder) not in told:
        return "unnamed", shown
    if "Traceback" in told or len(shown) > 1100 or shown.count("\n"):
        return "unreadable", shown
    return "refused", told


def _size() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _hang(*_: object) -> None:
    raise HangError


class _ignored:  # noqa: N801 - a context as `contextlib.suppress`, for every kind
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, Exception)


def pieces(name: str, cases: int, seed: int, work: Path) -> dict[str, Any]:
    """`attack` in pieces, each written into `work` when it is done; what is there already is taken from there."""
    whole: collections.Counter[str] = collections.Counter()
    faults, slowest = [], 0.0
    for piece in range(PIECES):
        file = work / f"{name} {piece}.json".replace(" ", "-")
        if not file.is_file():
            with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
                write_json(file, attack(name, cases // PIECES, f"{seed} {piece}", Path(folder)))
        one = read_json(file)
        faults += one.pop("faults")
        slowest = max(slowest, one.pop("slowest"))
        whole.update({kind: count for kind, count in one.items() if kind != "format"})
    return {"format": name, **whole, "slowest": slowest, "faults": faults[:20]}


def run(*, share: float = 1.0, only: str = "", seed: int = 0, work: Path) -> Result:
    logging.disable(logging.WARNING)
    found, lines = [], []
    for name in [name for name in FORMATS if only in ("", name)]:
        one = pieces(name, round(share * FORMATS[name].cases), seed, work)
        print({key: value for key, value in one.items() if key != "faults"}, flush=True)
        for fault in one["faults"][:3]:
            print(f"    {fault}", flush=True)
        found.append(one)
        bad = {kind: one.get(kind, 0) for kind in ("traceback", "unnamed", "unreadable", "hang", "memory")}
        lines += rows(name, cases=one["cases"], read=one.get("read", 0), slowest=Value(one["slowest"], "s"), **bad)
    whole = sum(one["cases"] for one in found)
    faults = sum(one["cases"] - one.get("read", 0) - one.get("refused", 0) for one in found)
    lines += rows("all formats", cases=whole, faults=faults)
    settings = {"seconds_at_most": SECONDS, "bytes_at_most": GIGABYTE, "formats": len(found)}
    return Result(rows=lines, settings=settings, seeds=(seed,), raw=found)
