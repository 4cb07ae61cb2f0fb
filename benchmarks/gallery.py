"""The gallery's scripts: the seconds that each takes, and whether each ends with its picture.

Each in a process of its own, one after the other. What is compared with the minute that a script may take on two cores
is the lesser of wall clock and half the processor time, as in `gallery/run.py`: so other work on the machine does not
count.

    python -m benchmarks run gallery
"""

import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Result, rows
from benchmarks.harness.catalogue import FOLDER

GALLERY = FOLDER.parent / "gallery"


def run() -> Result:
    told = runpy.run_path(str(GALLERY / "run.py"))
    found, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in told["scripts"]():
            begun, spent = time.monotonic(), told["processor_seconds"]()
            done = subprocess.run(
                [sys.executable, str(GALLERY / f"{name}.py")],
                env=os.environ | {"HARDY_GALLERY": folder},
                capture_output=True,
                text=True,
                check=False,
            )
            wall, processor = time.monotonic() - begun, told["processor_seconds"]() - spent
            picture = Path(folder) / f"{name}.png"
            drawn = picture.is_file() and done.returncode == 0
            if not drawn:
                notes.append(f"{name}: {(done.stderr.strip().splitlines() or ['no picture'])[-1]}")
            found += rows(
                name, seconds=wall, processor=processor, least=min(wall, processor / 2),
                picture=picture.stat().st_size if drawn else 0,
            )  # fmt: skip
            print(f"{name:28}{wall:8.1f} s{processor:8.1f} s of a processor", flush=True)
    return Result(rows=found, settings={"most": told["MOST"]}, notes=notes)
