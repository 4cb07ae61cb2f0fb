"""Ctrl-C: a line that says what is kept, exit status 130, and no library that takes it for something else."""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

STATUS = 130


@contextmanager
def interruptible(out: str | Path | None = None) -> Iterator[None]:
    """Ends a command stopped with Ctrl-C in a line that says what is kept in `out`, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f" What is finished is in {out}; the same command goes on from there." if out else ""
        typer.echo(f"\nInterrupted.{kept}", err=True)
        raise typer.Exit(STATUS) from None


def until_interrupted(told: str, stop: Callable[[], object]) -> None:
    """Say what goes on, wait for Ctrl-C, and stop it."""
    typer.echo(f"{told} (Ctrl-C ends)")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        stop()


class Commands(TyperGroup):
    """All commands, those too that keep nothing: Typer by itself would end in silence."""

    def invoke(self, ctx: Any) -> Any:
        with interruptible():
            return super().invoke(ctx)


def take_interrupts() -> None:
    """Let no library swallow Ctrl-C.

    While modules are imported, where nothing is under way yet, it ends the process there and then: some take the
    exception for a module that is missing, and go on. In code that cannot raise it comes again a moment later.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nobody ignores it, as `nohup` does
        signal.signal(signal.SIGINT, _interrupted)
        sys.unraisablehook = _come_again


def _come_again(ignored: Any) -> None:
    if ignored.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(ignored)


def _interrupted(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            sys.stdout.flush()
            os.write(2, b"\nInterrupted.\n")
            os._exit(STATUS)
        frame = frame.f_back
    raise KeyboardInterrupt
