"""Does what carries a behaviour survive few bits and noise, does a vector still steer, may its ranking spend a budget?

    python -m benchmarks run circuit_survival
    python -m benchmarks run circuit_survival-smollm2-circuit
    python -m benchmarks run circuit_survival --model smollm2-135m --only vector --out FOLDER

Of the real model only the circuit has a committed result so far.

Three studies of one model: heads and edges located before and after quantization (2 to 4 bits, 1 to 3 trit-planes) and
5 % noise, beside random heads and random edges; a sentiment vector made on the intact model added to the changed one,
beside one made there and random directions (real models only); and blocks ranked by what they carry of the behaviour
given more bits, or kept from noise, beside other rankings and random ones at the same cost. The behaviour of the zoo's
model is induction, of a real one indirect objects; on the real one the ranking by what the loss gains without a block
is left out, which takes a run of the model for each. Other examples judge the budgets than were located on.
"""

import torch

from benchmarks.harness import Result, real_models, text_of
from hardy import interp, zoo
from hardy.core import Row
from hardy.evaluate import encode
from hardy.interp import prompts
from hardy.studies.circuit_study import circuit_survival, steering_survival
from hardy.studies.located_budget import located_budget

PARTS = ("circuit", "vector", "budget")


def run(*, model: str = "tiny-llama", examples: int = 8, seeds: int = 3, only: str = ",".join(PARTS)) -> Result:
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
        report = circuit_survival(subject, located, seeds=seeds)
        rows += report.rows
        notes += [*report.summary, *report.notes]
        print(report.summary[0], flush=True)
    if "vector" in parts and real:
        report = steering_survival(subject, prompts.sentiment(tokenizer, 40), openings(tokenizer), text(tokenizer))
        rows += report.rows
        notes += report.summary
        print(report.summary[0], flush=True)
    if "budget" in parts:
        report = located_budget(subject, located, judge, others=others, seeds=seeds)
        rows += report.rows
        notes += report.summary
        print(report.summary[0], flush=True)
    settings = {"model": model, "examples": examples, "parts": only}
    if real:
        settings["weights"] = "dequantized from a 4-bit file"
    return Result(rows=rows, settings=settings, seeds=range(seeds), notes=notes)


def openings(tokenizer: object) -> interp.Task:
    """Neutral openings, judged by ten good against ten bad words: none of them is among the pairs' sentences."""
    things = ("film", "play", "show", "band")
    texts = [f"I went to see the {thing} yesterday. I thought that it was" for thing in things]
    good, bad = (tuple(f" {word}" for word in words) for words in (prompts.GOOD, prompts.BAD))
    examples = [interp.Example(text, good, bad) for text in texts]
    return interp.Task.of(examples, tokenizer, name="neutral openings", first_token=True)


def text(tokenizer: object) -> torch.Tensor:
    return encode(tokenizer, text_of("prose")[:3000])[:128][None]  # pyright: ignore[reportArgumentType]
