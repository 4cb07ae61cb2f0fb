"""`python -m benchmarks`: list, run, tables, mark."""

import argparse
import sys
import traceback
from pathlib import Path

from benchmarks.harness import NotMeasuredError, catalogue
from benchmarks.harness.record import Record, committed
from hardy.errors import InputError


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="hardy's benchmarks and their results.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every benchmark, when it was measured, and whether its script is still that one")
    each = commands.add_parser("run", help="measure; options of a benchmark come after its name")
    each.add_argument("name", nargs="?")
    each.add_argument(
        "--all", action="store_true", help="one after the other; what cannot run here is said and skipped"
    )
    each.add_argument("--out", type=Path, help="a folder for the results; by default they replace the committed ones")
    tables = commands.add_parser("tables", help="write the README's figures and plots from the committed results")
    tables.add_argument(
        "--check", action="store_true", help="write nothing; fail where something is not as it should be"
    )
    mark = commands.add_parser("mark", help="say of changed scripts why their results still hold")
    mark.add_argument("names", nargs="*", help="by default all results whose script has changed")
    mark.add_argument("--why", required=True)
    options, rest = parser.parse_known_args(words)
    if rest and not (options.command == "run" and options.name):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        if options.command == "list":
            return listed()
        if options.command == "run":
            if options.all == bool(options.name):
                parser.error("run needs a name or --all")
            return measured(catalogue.names() if options.all else [options.name], rest, options.out)
        if options.command == "mark":
            return marked(options.names, options.why)
        return written(options.check)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def listed() -> int:
    there = set(committed())
    for name in catalogue.names():
        script, _ = catalogue.of(name)
        print(f"{name:22} {_state(name) if name in there else 'not measured':42} {catalogue.title(script)}")
    return 0


def _state(name: str) -> str:
    record = Record.read(name)
    took = "" if record.seconds is None else f", {record.seconds:.0f} s"
    if not record.is_of_this_script:
        return f"{record.date}{took}, SCRIPT CHANGED"
    change = record.last_change
    return f"{record.date}{took}" + (f", script since {change['date']}" if change else "")


def measured(names: list[str], rest: list[str], out: Path | None) -> int:
    from benchmarks.harness.run import run

    skipped: list[str] = []
    for index, name in enumerate(names):
        if name not in catalogue.names():
            raise InputError(f"there is no benchmark {name!r}; there are {', '.join(catalogue.names())}")
        if len(names) > 1:
            print(f"[{index + 1}/{len(names)}] {name}", flush=True)
        try:
            print(f"written to {run(name, rest, out)}", flush=True)
        except NotMeasuredError as error:
            skipped.append(name)
            print(f"{name}: not measured: {error}", file=sys.stderr)
        except Exception:
            if len(names) == 1:
                raise
            skipped.append(name)  # hours of others are not lost for it
            traceback.print_exc()
    if len(names) > 1:
        print(f"{len(names) - len(skipped)} measured, {len(skipped)} not: {', '.join(skipped) or 'none'}")
    return 1 if skipped else 0


def marked(names: list[str], why: str) -> int:
    for name in names or [name for name in committed() if not Record.read(name).is_of_this_script]:
        print(Record.read(name).marked(why).write())
    return 0


def written(check: bool) -> int:
    from benchmarks import readme

    stale = [name for name in committed() if not Record.read(name).is_of_this_script]
    for name in stale:
        print(
            f"{name}: its script has changed since. Measure again (python -m benchmarks run {name}), or say why that "
            f"does not matter (python -m benchmarks mark {name} --why ...)",
            file=sys.stderr,
        )
    if not check:
        readme.write()
        return 0
    drifted = not readme.is_current()
    if drifted:
        print(
            "the figures of README or docs are not those of the results: python -m benchmarks tables", file=sys.stderr
        )
    return 1 if stale or drifted else 0


if __name__ == "__main__":
    sys.exit(main())
