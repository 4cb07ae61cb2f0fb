"""Commands ended at random moments and run again: the files of those left alone, and nothing left over.

Each command runs twice undisturbed; a file that is the same both times must be the same byte for byte after a kill, one
that holds times or durations must be the same without them. Then the command is ended by SIGKILL, SIGINT or SIGTERM
(in turn, SIGINT to the whole group, as Ctrl-C), half the times at a random moment of its processor time, half the times
right before a random one of its steps on files (one is opened for writing, renamed, removed; a folder is made), and the
same command runs again to its end. Faults are reruns that fail, files that differ, files that the undisturbed command
has not, in its target, beside it or among temporary files, and a Ctrl-C that does not end in status 130, with a word
and without a traceback.

The processes are forked from one that has imported everything: not the start of Python is attacked. Models, pictures
and steps are as small as they can be.

    python -m benchmarks run kills
"""

import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Result, Value, rows
from benchmarks.splat_resume import write_room
from hardy.cli.main import main
from hardy.files import read_json, write_json
from hardy.zoo import corpus, recipes
from hardy.zoo.recipe import Recipe
from hardy.zoo.text import standard_library
from hardy.zoo.tokenizer import train_tokenizer

KILLS, AT_ONCE = 200, 20
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
FAULTS = ("failed", "differs", "left over", "rude")
LIMIT = 300.0  # seconds that a rerun may take before it counts as failed
_IMPORTED = (
    "hardy.fields.media", "hardy.quant.block_by_block", "hardy.report.rendering", "hardy.splat", "hardy.studies",
    "matplotlib.backends.backend_svg", "scipy.stats", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
)  # fmt: skip
_STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree", "shutil.copytree"}
_TIMES = {"seconds", "hours", "date", "created", "time"}
_TIME = re.compile(r"\b\d+(\.\d+)? ?(s|min|h)\b|\b\d{4}-\d\d-\d\d[T ]?[\d:.+]*")


def commands(place: Path) -> dict[str, list[str]]:
    """Each command's words; OUT stands for the folder of its target."""
    Image.fromarray(np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)).save(place / "photo.png")
    scene, start = write_room(place / "scene")
    model, text = str(_model(place / "model")), place / "text.txt"
    text.write_text("def main(argv):\n    return len(argv)\n" * 16)
    small = ["--text", str(text), "--tokens", "64", "--window", "32", "--group-size", "16"]
    grid = ["--bits", "4", "--additive", "0.05", "--proportional", "0.1", "--keep", "0.25", "--seeds", "1"]
    return {
        "study": ["study", "--model", model, "--out", "OUT/study", *small, *grid, "--workers", "1"],
        "quantize": ["quantize", model, "OUT/packed", "--bits", "4", "--calibration", "none", *small],
        "splat train": ["splat", "train", str(scene), "OUT/splat", "--start", str(start), "--steps", "40",
                        "--degree", "1", "--budget", "300", "--snapshot-every", "7"],
        "zoo train": ["zoo", "train", "micro", "--out", "OUT/training", "--steps", "24", "--validate-every", "5"],
        "field encode": ["field", "encode", str(place / "photo.png"), "OUT/photo.hardy", "--steps", "20", "--bpp", "8"],
    }  # fmt: skip


def _model(folder: Path) -> Path:
    """A Llama of two layers with random weights and a tokenizer."""
    train_tokenizer(
        ["def add(first, second):\n    return first + second\n"], vocab_size=270, max_length=64
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _llama(270).save_pretrained(folder)
    return folder


def _llama(vocabulary: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))  # pyright: ignore[reportArgumentType]


def _little_recipe() -> None:
    """A model of the zoo that trains in a second: the trainer's own code on parts of two modules."""
    documents = [(standard_library() / name).read_text(encoding="utf-8")[:6000] for name in ("ast.py", "bdb.py")]
    corpus.training_documents = lambda: (documents[:1], documents[1:])
    corpus.held_out_text = lambda part: "def main(argv):\n    return len(argv)\n" * 8
    recipes.RECIPES["micro"] = Recipe(
        name="micro", summary="for kills", data=corpus.LibraryText, build=_llama, vocab_size=400, context=32, batch=2,
        steps=24, decay=0.5,
    )  # fmt: skip


# ---- one process


class _Run:
    """A command in a process of its own, forked from this one.

    Args:
        words: of the command.
        place: where `run/` (its targets), `tmp/` and what it says are.
        dies_at: (step on files, signal), for a process that ends itself; its number of steps is in `steps` otherwise.
    """

    def __init__(self, words: list[str], place: Path, dies_at: tuple[int, signal.Signals] | None = None) -> None:
        self.place, self.said, self._steps = place, place / "said", place / "steps"
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            status = 70
            try:
                status = self._child([word.replace("OUT", str(place / "run")) for word in words], dies_at)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def _child(self, words: list[str], dies_at: tuple[int, signal.Signals] | None) -> int:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(self.said, "wb") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.place / "tmp")
        count, watched = 0, (str(self.place / "run"), str(self.place / "tmp"))

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            creates = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in _STEPS or writes or creates) and str(arguments[0]).startswith(watched):
                count += 1
                if dies_at is not None and count == dies_at[0] + 1:
                    os.kill(os.getpid(), dies_at[1])

        sys.addaudithook(watch)
        sys.argv = ["hardy", *words]
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        self._steps.write_text(str(count))
        return status

    def ended(self, within: float = LIMIT) -> int:
        """The status it ended with, negative for a signal; after `within` seconds it is killed."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.003)
        self.kill(signal.SIGKILL)
        os.waitpid(self.process, 0)
        return -signal.SIGKILL

    def kill_after(self, seconds: float, kind: signal.Signals) -> bool:
        """Send a signal once so much processor time is spent; whether the process lived so long."""
        watched = psutil.Process(self.process)
        while watched.status() != psutil.STATUS_ZOMBIE:
            used = watched.cpu_times()
            if used.user + used.system >= seconds:
                time.sleep(random.random() * 0.01)  # the system counts in hundredths
                self.kill(kind)
                return True
            time.sleep(0.002)
        return False

    def kill(self, kind: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if kind is signal.SIGINT else os.kill)(self.process, kind)

    @property
    def steps(self) -> int:
        return int(self._steps.read_text())


@contextlib.contextmanager
def _fresh(place: Path) -> Iterator[Path]:
    """`place` with empty `run` and `tmp`: the same names every time, since reports name their folders."""
    for name in ("run", "tmp"):
        shutil.rmtree(place / name, ignore_errors=True)
        (place / name).mkdir(parents=True)
    yield place


# ---- comparison


def contents(place: Path) -> dict[str, tuple[str, str]]:
    """Two digests of every file that a command left, hidden ones too: of its bytes, and of all but its times."""
    files = [path for name in ("run", "tmp") for path in sorted((place / name).rglob("*"))]
    return {str(path.relative_to(place)): _digests(path) for path in files if path.is_file() or path.name[0] == "."}


def _digests(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "a folder", "a folder"
    data, lasting = path.read_bytes(), b""
    if path.suffix == ".safetensors":  # which stores metadata in any order
        with safe_open(path, "np") as file:
            tensors = b"".join(name.encode() + file.get_tensor(name).tobytes() for name in sorted(file.keys()))
            metadata = file.metadata() or {}
        data = tensors + json.dumps(metadata, sort_keys=True).encode()
        lasting = tensors + _without_times(metadata).encode()
    elif path.suffix == ".json":
        lasting = _without_times(json.loads(data)).encode()
    elif path.suffix == ".jsonl":
        lasting = "".join(_without_times(json.loads(line)) for line in data.decode().splitlines()).encode()
    elif path.suffix in (".md", ".html"):
        lasting = _TIME.sub("", data.decode()).encode()
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(lasting or data).hexdigest()


def _without_times(value: Any) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, str) and value[:1] == "{":
            with contextlib.suppress(ValueError):
                return plain(json.loads(value))
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in _TIMES}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return json.dumps(plain(value), sort_keys=True)


# ---- the attack


def reference(words: list[str], place: Path) -> dict[str, Any]:
    """What two undisturbed runs leave, the second one's processor time, and its steps on files."""
    found = []
    for _ in range(2):
        with _fresh(place):
            before = os.times()
            run = _Run(words, place)
            if status := run.ended():
                raise SystemExit(f"{' '.join(words)} ends with {status}: {run.said.read_text()}")
            after = os.times()
            found.append(contents(place))
    first, second = found
    unlike = [name for name in {**first, **second} if first.get(name, "")[1:] != second.get(name, "")[1:]]
    if unlike:
        raise SystemExit(f"{' '.join(words)}: two undisturbed runs differ in {unlike}")
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    exact = [name for name in second if first[name][0] == second[name][0]]
    return {"contents": second, "exact": exact, "seconds": seconds, "steps": run.steps}


def attacked(words: list[str], kills: int, whole: dict[str, Any], place: Path, chance: random.Random) -> dict[str, Any]:
    """Kill `words` `kills` times, and see what a rerun makes of each."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    number = 0
    while sum(counts[kind.name] for kind in SIGNALS) < kills:
        kind, on_files = SIGNALS[number % 3], number // 3 % 2 == 0
        number += 1
        with _fresh(place):
            if on_files:
                step = chance.randrange(whole["steps"])
                run, when = _Run(words, place, (step, kind)), f"step {step} of {whole['steps']}"
            else:
                moment = chance.random() * whole["seconds"]
                run, when = _Run(words, place), f"{moment:.2f} of {whole['seconds']:.2f} s"
                if not run.kill_after(moment, kind):
                    counts["ended before"] += 1
                    run.ended()
                    continue
            status, said = run.ended(), run.said.read_text(errors="replace")
            counts[kind.name] += 1
            counts["on files"] += on_files
            found = []
            silent = status == 130 and "Interrupted." not in said
            if kind is signal.SIGINT and (status not in (0, 130) or "Traceback" in said or silent):
                found.append(("rude", f"status {status}: {said[max(0, said.find('Traceback') - 200) :][:600]}"))
            again = _Run(words, place)
            status = again.ended()
            left = contents(place)
            if status:
                found.append(("failed", f"status {status}: {again.said.read_text(errors='replace')[-400:]}"))
            elif unlike := [name for name in whole["contents"] if not _same(name, left, whole)]:
                found.append(("differs", str(unlike)))
            if extra := sorted(left.keys() - whole["contents"].keys()):
                found.append(("left over", str(extra[:5])))
            for fault, told in found:
                counts[fault] += 1
                faults.append(f"{fault}, {kind.name} at {when}: {told}")
    return {"faults": faults, **counts}


def _same(name: str, left: dict[str, tuple[str, str]], whole: dict[str, Any]) -> bool:
    exact = name in whole["exact"]
    return name in left and left[name][0 if exact else 1] == whole["contents"][name][0 if exact else 1]


def run(*, kills: int = KILLS, only: str = "", seed: int = 0, work: Path) -> Result:
    """Runs that were themselves stopped go on with the kills that are not in `work` yet."""
    _little_recipe()
    for name in _IMPORTED:
        importlib.import_module(name)
    lines, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        for name, words in commands(place).items():
            if only not in ("", name):
                continue
            whole = reference(words, place)
            total: Counter[str] = Counter()
            faults: list[str] = []
            for first in range(0, kills, AT_ONCE):
                file = work / f"{name} {seed} {first}.json".replace(" ", "-")
                if not file.is_file():
                    count = min(AT_ONCE, kills - first)
                    write_json(file, attacked(words, count, whole, place, random.Random(f"{name} {seed} {first}")))
                part = read_json(file)
                faults += part.pop("faults")
                total.update(part)
                print(name, first, dict(total), faults[-3:], flush=True)
            raw[name] = {"faults": faults, "files": len(whole["contents"]), "same_bytes": len(whole["exact"]), **total}
            kinds = {kind.name: total[kind.name] for kind in SIGNALS}
            figures = {fault.replace(" ", "_"): total[fault] for fault in FAULTS}
            facts = {"undisturbed": Value(whole["seconds"], "s"), "files": len(whole["contents"])}
            facts |= {"same_bytes": len(whole["exact"])}
            lines += rows(name, kinds, kills=sum(kinds.values()), on_files=total["on files"], **facts, **figures)
    settings = {"signals": [kind.name for kind in SIGNALS]}
    return Result(rows=lines, settings=settings, seeds=(seed,), raw=raw)
