"""The survival study of the zoo's models with the defaults of `hardy study`.

Controls: the unmodified model; random layers of the same number and size as the protected ones.

    python -m benchmarks run survival
"""

from pathlib import Path

from benchmarks.harness import Result
from hardy.studies import survival
from hardy.studies.survival_report import AGREEMENT

PEERS = ("transformers",)


def run(*, work: Path) -> Result:
    report = survival("tiny-llama", out=work)
    report.print(metrics=("perplexity", AGREEMENT))
    return Result(rows=report.rows, seeds=range(5), report=report)
