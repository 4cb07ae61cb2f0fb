"""Mutated files against every reader: each is read, or refused in one line that names it, in little time and memory.

A file that is right is changed in bytes or, where it is JSON, in values; checksums are made to fit again, so that what
lies behind them is reached. A case is a fault if the reader raises anything but `InputError`, does not name the file,
says what a terminal cannot be shown, takes 10 s, makes the process larger by 1 GB, or ends it. The unchanged files are
the control: all of them must be read.

    python -m benchmarks run fuzz
"""

import collections
import itertools
import json
import logging
import multiprocessing
import random
import re
import resource
import signal
import struct
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from benchmarks.fuzz_formats import FORMATS, OF_MODELS
from benchmarks.harness import Result, Value, rows
from hardy.errors import InputError, shortened
from hardy.files import read_json, write_json

MEMORY = Path("/dev/shm")  # where it is there: files on a disk are slower to open than to read
SECONDS, GIGABYTE = 10, 1 << 30
FAULTS = ("traceback", "unnamed", "unreadable", "hang", "memory", "crash")
PIECES = 20  # parts in which a format is attacked, each with draws of its own: a stopped run goes on with the next

WORDS = (
    "1e308", "-1e308", "1e-320", "1" + "0" * 400, "9" * 5000, "NaN", "-1", "0", "null", "true", "[]", "{}", '""',
    "1e999", "4294967296", "9223372036854775808", "-0.0", "1000000000", '"../../secret.png"', '"/etc/hostname"',
    '"C:\\\\secret.png"', '"\\u0000"', '"\\u001b[31mred\\u001b[0m\\u202e"', '"a\\nb"', '"' + "x" * 70_000 + '"',
    "[" * 600 + "]" * 600, '{"a":' * 600 + "1" + "}" * 600, '"\\ud800"', '{"non-finite": "inf"}',
)  # fmt: skip


class HangError(BaseException):
    """A reader took too long. No `Exception`, so that no guard takes it for the file's fault."""


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
        node[key] = _in_values(inner.encode(errors="replace"), chance).decode("utf-8", "replace")
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


def apart(file: Path, name: str, cases: int, seed: str, folder: Path) -> None:
    """`attack` in a process of its own, into `file`: a reader that ends the process is a fault like others."""

    def whole() -> None:
        write_json(file, attack(name, cases, seed, folder))

    process = multiprocessing.get_context("fork").Process(target=whole)
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.kill()
        raise
    if process.exitcode:
        told = {"outcome": "crash", "told": f"seed {seed}: the process ended with {process.exitcode}"}
        write_json(file, {"format": name, "cases": 1, "crash": 1, "slowest": 0.0, "faults": [told]})


def run(*, share: float = 1.0, only: str = "", minutes: float = 60.0, seed: int = 0, work: Path) -> Result:
    """Piece after piece of all formats, until all are done, the time is over or Ctrl-C; what `work` has is taken."""
    logging.disable(logging.WARNING)
    names, until = [name for name in FORMATS if only in ("", name)], time.monotonic() + 60 * minutes
    found: dict[str, dict[str, Any]] = {
        name: {"format": name, "cases": 0, "slowest": 0.0, "faults": []} for name in names
    }
    for piece, name in itertools.product(range(PIECES), names):
        file = work / f"{name} {piece}.json".replace(" ", "-")
        if not file.is_file():
            if time.monotonic() > until:
                break
            with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
                try:
                    apart(file, name, round(share * FORMATS[name].cases) // PIECES, f"{seed} {piece}", Path(folder))
                except KeyboardInterrupt:
                    break
        one, whole = read_json(file), found[name]
        print(piece, {key: value for key, value in one.items() if key != "faults"}, one["faults"][:2], flush=True)
        whole["faults"] = [*whole["faults"], *one["faults"]][:20]
        whole["slowest"] = max(whole["slowest"], one["slowest"])
        for kind in one.keys() - {"format", "slowest", "faults"}:
            whole[kind] = whole.get(kind, 0) + one[kind]
    lines = []
    for name, one in found.items():
        bad = {kind: one.get(kind, 0) for kind in FAULTS}
        lines += rows(name, cases=one["cases"], read=one.get("read", 0), slowest=Value(one["slowest"], "s"), **bad)
    faults = sum(one.get(kind, 0) for one in found.values() for kind in FAULTS)
    lines += rows("all formats", cases=sum(one["cases"] for one in found.values()), faults=faults)
    settings = {"seconds_at_most": SECONDS, "bytes_at_most": GIGABYTE, "formats": len(found)}
    return Result(rows=lines, settings=settings, seeds=(seed,), raw=list(found.values()))
