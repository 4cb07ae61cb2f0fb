"""Progress is a bar in a terminal, lines in a pipe, nothing when nothing is wanted, and always on standard error."""

import concurrent.futures
import io
import multiprocessing
import os
import pty
import re
import subprocess
import sys
import time

import joblib
import pytest

from hardy.errors import InputError
from hardy.runs import progress as module
from hardy.runs.progress import progress, silenced, track


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDY_PROGRESS", raising=False)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(module, "time", clock := Clock())
    return clock


def test_a_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with progress("fit", 100, done=20) as bar:
        for step in range(21, 101):
            clock.now += 1
            bar.update(step, f"{step} dB")
            if step == 30:
                bar.print("a line [that] stays")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "fit: 25/100 (25%), 0:05 elapsed, 1:15 left, 25 dB"
    assert lines[2] == "a line [that] stays"
    assert lines[-1] == "fit: 100/100 (100%), 1:20 elapsed, 100 dB"
    assert len(lines) == 17


def test_a_short_job_says_nothing_and_a_job_that_stops_early_where(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    assert list(track([1, 2, 3], "short")) == [1, 2, 3]
    assert capsys.readouterr().err == ""
    with progress("count", None) as bar:
        for seconds in (6, 1):
            clock.now += seconds
            bar.advance(2)
    assert capsys.readouterr().err == "count: 2, 0:06 elapsed\ncount: 4, 0:07 elapsed\n"


def test_silence(capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(**options: bool) -> None:
        for _ in track(range(3), "work", **options):
            clock.now += 9

    work(show=False)
    with silenced():
        work()
        with silenced():
            work()
        work()
    monkeypatch.setenv("HARDY_PROGRESS", "off")
    work()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("HARDY_PROGRESS", "lines")
    work()
    assert capsys.readouterr().err.startswith("work: 1/3 (33%), 0:09 elapsed, 0:18 left\n")
    monkeypatch.setenv("HARDY_PROGRESS", "of")
    with pytest.raises(InputError, match="HARDY_PROGRESS must be auto, bar, lines or off, got 'of'; did you mean off"):
        work()


def say(clock: Clock) -> str:
    shown, sys.stderr, module.time = sys.stderr, io.StringIO(), clock
    try:
        for _ in track(range(3), "work"):
            clock.now += 9
        return sys.stderr.getvalue()
    finally:
        sys.stderr, module.time = shown, time


def test_workers_are_silent() -> None:
    assert say(Clock()).startswith("work: 1/3")
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(say, Clock()).result() == ""
    with joblib.parallel_config("loky", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(say)(Clock()) for _ in range(2)) == ["", ""]


def test_an_error_passes_through(clock: Clock) -> None:
    for kind in ("lines", "bar", "off"):
        os.environ["HARDY_PROGRESS"] = kind
        with pytest.raises(KeyError), progress("fails", 3):
            raise KeyError
    assert module._running is None


def test_a_terminal_gets_bars_one_inside_the_other() -> None:
    code = """
import time
from hardy.runs.progress import progress, track
with progress("outer [x]", 2) as bar:
    for _ in track(range(2), "inner"):
        time.sleep(0.15)
    bar.advance(note="31 dB")
    bar.print("stays [here]")
    time.sleep(0.3)
print("result")
"""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.communicate()[0] == b"result\n"
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    for part in ("outer [x]", "inner", "stays [here]", "31 dB", "━"):
        assert part in text


def test_an_update_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, most in (("lines", 5e-6), ("bar", 2e-5)):
        monkeypatch.setenv("HARDY_PROGRESS", kind)
        with progress("fast", 20000) as bar:
            begun = time.process_time()
            for step in range(20000):
                bar.update(step + 1)
            assert (time.process_time() - begun) / 20000 < 10 * most
