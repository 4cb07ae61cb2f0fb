"""Run the gallery's scripts, or those named, each in a process of its own, and say how long each took.

python gallery/run.py [NAME ...]
"""

import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
MOST = 60
"""Seconds that a script may take on two cores that nothing else wants; more is said."""


def scripts() -> list[str]:
    """The names of all, in the order in which they are shown."""
    order = ("study", "quantized_model", "chip_over_a_year", "repaired_mixture", "picture_as_a_network", "album")
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("run", "picture"))
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def main(names: list[str]) -> int:
    failed = 0
    for name in names or scripts():
        begun = time.monotonic()
        code = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], env=os.environ, check=False).returncode
        seconds = time.monotonic() - begun
        failed += code != 0
        print(f"{name}: {'failed' if code else 'done'} in {seconds:.0f} s{' (long)' * (seconds > MOST)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
