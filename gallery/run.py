"""Run the gallery's scripts, or those named, each in a process of its own, and say how long each took.

python gallery/run.py [NAME ...]
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
ORDER = (
    "study", "quantized_real_model", "binary_network", "chip_over_a_year", "repaired_mixture", "picture_as_a_network",
    "picture_in_few_bytes", "album", "noise_and_fields", "thing_taken_out", "video_in_bounded_memory",
)  # fmt: skip
"""What is shown first."""

MOST = 60
"""Seconds that a script may take on two cores that nothing else wants: wall clock, and half its processor time."""


def scripts() -> list[str]:
    """The names of all, in the order in which they are shown."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("run", "picture"))
    return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def processor_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(names: list[str]) -> int:
    failed = 0
    for name in names or scripts():
        begun, spent = time.monotonic(), processor_seconds()
        code = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], env=os.environ, check=False).returncode
        seconds, processor = time.monotonic() - begun, processor_seconds() - spent
        failed += code != 0
        long = " (long)" if min(seconds, processor / 2) > MOST else ""
        took = f"{seconds:.0f} s, {processor:.0f} s of a processor"
        print(f"{name}: {'failed' if code else 'done'} in {took}{long}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
