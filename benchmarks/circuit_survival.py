"""Does what carries a behaviour survive few bits and noise, and may a ranking by it spend a budget?

    python -m benchmarks run circuit_survival
    python -m benchmarks run circuit_survival-smollm2-circuit
    python -m benchmarks run circuit_survival-smollm2-budget

Two studies of one model: heads and edges located before and after quantization (2 to 4 bits, 1 to 3 trit-planes) and
5 % noise, beside random heads and random edges; and blocks ranked by what they carry of the behaviour given more bits,
kept from noise or given copies, beside other rankings and random ones at the same cost. Whether a vector still steers
is `steering_survival`. The behaviour of the zoo's model is induction, of a real one indirect objects; on the real one
the ranking by what the loss gains without a block is left out, which takes a run of the model for each. Other examples
judge the budgets than were located on.
"""

from pathlib import Path

from benchmarks.harness import Result, real_models
from hardy import interp, zoo
from hardy.core import Row
from hardy.interp import prompts
from hardy.studies.circuit_study import circuit_survival
from hardy.studies.located_budget import located_budget

PARTS = ("circuit", "budget")


def run(
    *,
    model: str = "tiny-llama",
    examples: int = 8,
    seeds: int = 3,
    only: str = ",".join(PARTS),
    low: int = 2,
    high: int = 4,
    noise: float = 0.3,
    work: Path | None = None,
) -> Result:
    real = model not in zoo.names()
    place = str(real_models()[model]) if real else model
    subject = zoo.Subject.of(place, tokens=1024, window=256)
    tokenizer = subject.tokenizer
    if real:
        located = interp.Task.of(prompts.indirect_object(tokenizer, examples), tokenizer, name="indirect objects")
        judge = interp.Task.of(prompts.indirect_object(tokenizer, 24, seed=1), tokenizer, name="indirect objects")
    else:
        located, judge = (
            prompts.induction(range(300, 1200), n=n, length=6, seed=s) for n, s in ((examples, 0), (24, 1))
        )
    rows: list[Row] = []
    notes: list[str] = []
    parts = only.split(",")
    others = ("effective-rank",) if real else ("effective-rank", "perplexity-drop")  # a run of the model for each block
    if "circuit" in parts:
        report = circuit_survival(subject, located, seeds=seeds, out=None if work is None else work / "circuit")
        rows += report.rows
        notes += [*report.summary, *report.notes]
        print(report.summary[0], flush=True)
    if "budget" in parts:
        report = located_budget(
            subject, located, judge, others=others, low=low, high=high, noise=noise, seeds=seeds,
            out=None if work is None else work / "budget",
        )  # fmt: skip
        rows += report.rows
        notes += report.summary
        print(report.summary[0], flush=True)
    settings = {"model": model, "examples": examples, "parts": only}
    if real:
        settings["weights"] = "dequantized from a 4-bit file"
    return Result(rows=rows, settings=settings, seeds=range(seeds), notes=notes)
