"""Runs one benchmark: options from the signature of its `run`, and around it everything that a result records."""

import argparse
import hashlib
import importlib
import inspect
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import catalogue
from benchmarks.harness.record import RESULTS, Record, commit, load, machine, today, versions
from hardy.errors import InputError
from hardy.report import Report

WORK = catalogue.FOLDER.parent / "build" / "benchmarks"
"""Where unfinished benchmarks that can go on keep what they have."""


def run(name: str, words: Sequence[str] = (), out: Path | None = None) -> Path:
    """Measure, and write the result into `out`, by default the committed results.

    Args:
        name: of the result.
        words: options that differ from those of the committed result, as on a command line.
        out: a folder.

    Raises:
        KeyError: there is no such benchmark.
        NotMeasuredError: data or a package is missing.
        InputError: there are options, which the committed result has not, and no `out`.
    """
    script, options = catalogue.of(name)
    try:
        module = importlib.import_module(f"benchmarks.{script}")
    except ModuleNotFoundError as error:
        raise catalogue.NotMeasuredError(f"{error}; pip install -r benchmarks/requirements.txt") from error
    given = options_of(module.run, name, words)
    changed = {key: value for key, value in given.items() if options.get(key) != value}
    if changed and out is None:
        raise InputError(f"{name} is measured with other options; with {changed} name a folder for it with --out")
    chosen = options | given
    work = WORK / f"{name}-{hashlib.sha256(repr(sorted(chosen.items())).encode()).hexdigest()[:8]}"
    arguments = chosen | ({"work": work} if "work" in inspect.signature(module.run).parameters else {})
    torch.set_num_threads(1)  # a script that needs more says so
    before, begun, code = load(), time.monotonic(), catalogue.sha256(script)
    found = module.run(**arguments)
    record = Record(
        name=name,
        command=" ".join(["python -m benchmarks run", name, *_words(changed)]),
        date=today(),
        machine=machine(before),
        versions=versions(getattr(module, "PEERS", ())),
        source={"sha256": code, "commit": commit(), "changes": []},
        seeds=list(found.seeds),
        seconds=round(time.monotonic() - begun, 1),
        report=found.report
        or Report(
            title=catalogue.title(script),
            rows=tuple(found.rows),
            settings={"options": {**defaults_of(module.run), **chosen}, **found.settings},
            notes=tuple(found.notes),
        ),
        raw=found.raw,
    )
    file = record.write(out or RESULTS)
    shutil.rmtree(work, ignore_errors=True)
    return file


def defaults_of(function: Any) -> dict[str, Any]:
    """The options of a `run` and their defaults; `work` is the harness's."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.name != "work"}


def options_of(function: Any, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Options as they are on a command line, of the types of the defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks run {name}", argument_default=argparse.SUPPRESS)
    for option, default in defaults_of(function).items():
        flag = f"--{option.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"default: {default}")
        else:
            parser.add_argument(flag, type=type(default), help=f"default: {default}")
    return vars(parser.parse_args(words))


def _words(options: dict[str, Any]) -> list[str]:
    found = []
    for option, value in options.items():
        flag = option.replace("_", "-")
        found += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag} {value}"]
    return found
