"""Commands killed at random moments and run again, against ones that were left alone: same results, nothing left over.

Each command runs once undisturbed, and its artefacts are the reference. Then it is started in a fresh folder, gets
SIGKILL, SIGINT or SIGTERM (in turn, SIGINT to the whole group, as Ctrl-C) at a random moment, and the same command runs
again to its end. Compared are final reports and files, without times; counted are reruns that fail, results that
differ, and files that the reference has not, in the target and beside it.

    python -m benchmarks.harness.kills [KILLS] [MINUTES] [COMMAND]
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from benchmarks.harness import Result, Value, rows
from benchmarks.splat_resume import write_room

KILLS = 200
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
START_UP = 0.5  # seconds: before that only Python starts
_TIMES = re.compile(r'"?(seconds|hours|date|created|time)"?|\b\d+(\.\d+)? ?s\b')


def commands(place: Path) -> dict[str, list[str]]:
    """Each command's words; OUT stands for its target."""
    Image.fromarray(np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)).save(place / "photo.png")
    scene, start = write_room(place / "scene")
    small = ["--tokens", "128", "--window", "64"]
    grid = ["--bits", "4,2", "--additive", "0.05", "--proportional", "0.1", "--keep", "0.25", "--seeds", "1"]
    return {
        "study": ["study", "--out", "OUT/study", *small, *grid, "--workers", "1"],
        "quantize": ["quantize", "tiny-llama", "OUT/packed", *small],
        "splat train": ["splat", "train", str(scene), "OUT/splat", "--start", str(start), "--steps", "60",
                        "--degree", "1", "--budget", "300", "--snapshot-every", "7"],
        "field encode": ["field", "encode", str(place / "photo.png"), "OUT/photo.hardy", "--steps", "20", "--bpp", "8"],
    }  # fmt: skip


def started(words: list[str], out: Path) -> "subprocess.Popen[bytes]":
    line = [sys.executable, "-m", "hardy", *(word.replace("OUT", str(out)) for word in words)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def contents(out: Path) -> dict[str, str]:
    """A digest of every file below `out`, hidden ones too; reports and logs without their times."""
    return {str(path.relative_to(out)): _digest(path) for path in sorted(out.rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    if path.suffix in (".html", ".md"):
        return "made of report.json"
    if path.suffix in (".json", ".jsonl"):
        data = _TIMES.sub("", _without_times(path)).encode()
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            data = b"".join(name.encode() + file.get_tensor(name).tobytes() for name in sorted(file.keys()))
    else:
        data = path.read_bytes()
    return hashlib.sha256(data).hexdigest()


def _without_times(path: Path) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if not _TIMES.fullmatch(f'"{key}"')}
        return [plain(item) for item in value] if isinstance(value, list) else value

    text = path.read_text(encoding="utf-8")
    return json.dumps(plain(json.loads(text))) if path.suffix == ".json" else text


def attacked(words: list[str], kills: int, chance: random.Random, until: float) -> dict[str, Any]:
    """Kill `words` `kills` times, or as often as the time until `until` allows, and see what a rerun makes of it."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        whole = started(words, Path(folder))
        _, said = whole.communicate()
        seconds = time.monotonic() - begun
        if whole.returncode:
            raise SystemExit(f"{words}: {said.decode()}")
        reference = contents(Path(folder))
    for number in range(kills):
        if time.monotonic() > until:
            break
        with tempfile.TemporaryDirectory() as folder:
            out, kind = Path(folder), SIGNALS[number % 3]
            process = started(words, out)
            try:
                process.communicate(timeout=START_UP + chance.random() * max(0.0, seconds - START_UP))
                counts["ended before"] += 1
            except subprocess.TimeoutExpired:
                if kind is signal.SIGINT:
                    os.killpg(process.pid, kind)
                else:
                    process.send_signal(kind)
                process.communicate()
                counts[kind.name] += 1
            again = started(words, out)
            _, said = again.communicate()
            found = contents(out)
            if again.returncode:
                counts["failed"] += 1
                faults.append(f"{kind.name}: exit {again.returncode}: {said.decode()[-300:]}")
            elif changed := [name for name in reference if found.get(name) != reference[name]]:
                counts["differs"] += 1
                faults.append(f"{kind.name}: {changed}")
            if extra := sorted(found.keys() - reference.keys()):
                counts["left over"] += 1
                faults.append(f"{kind.name}: left over {extra[:5]}")
    return {"seconds": seconds, "faults": faults[:20], **counts}


def run(*, kills: int = KILLS, minutes: float = 30, only: str = "", seed: int = 0) -> Result:
    lines, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        listed = {name: words for name, words in commands(Path(folder)).items() if only in ("", name)}
        for name, words in listed.items():
            until = time.monotonic() + 60 * minutes / len(listed)
            one = found[name] = attacked(words, kills, random.Random(f"{name} {seed}"), until)
            print(name, one, flush=True)
            done = sum(one.get(kind.name, 0) for kind in SIGNALS)
            facts = {kind: one.get(kind, 0) for kind in ("failed", "differs", "left over")}
            figures = {kind.replace(" ", "_"): count for kind, count in facts.items()}
            lines += rows(name, undisturbed=Value(one["seconds"], "s"), kills=done, **figures)
    return Result(rows=lines, seeds=(seed,), raw=found)


if __name__ == "__main__":
    kinds = (int, float, str)
    options = dict(
        zip(("kills", "minutes", "only"), (k(w) for k, w in zip(kinds, sys.argv[1:], strict=False)), strict=False)
    )
    run(**options)  # pyright: ignore[reportArgumentType]
