"""The survival study of the zoo's models with the defaults of `hardy study`; writes results/survival.json.

Controls: the unmodified model; random layers of the same number and size as the protected ones.

    python benchmarks/survival.py
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
import transformers

import hardy
from hardy.files import write_json
from hardy.studies import survival
from hardy.studies.survival_report import AGREEMENT

RESULT = Path(__file__).parent / "results" / "survival.json"


def processor() -> str:
    """Name of the CPU, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        report = survival("tiny-llama", out=Path(folder) / "study")
        seconds = time.monotonic() - begun
    result = {
        "command": "hardy study",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {
            "hardy": hardy.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seconds": round(seconds, 1),
        "report": json.loads(report.to_json()),
    }
    write_json(RESULT, result)
    report.print(metrics=("perplexity", AGREEMENT))
    print(f"{seconds:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
