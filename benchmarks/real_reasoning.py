"""Reasoning of a published model on a noisy chip: answers at once and in steps, after examples, with copied layers.

Qwen2.5-Coder (chat) on problems that a script makes and whose answers it knows: sums of three numbers, and the value
that a few lines of Python print. Asked for the number alone, or for short steps first, and both after two solved
examples. Right answers, their length in tokens, and the share without an end or a number.

ways: all four ways of asking, at one strength of the noise after the other.
copies: at once and in steps, with three copies of a third of the layers: shallow, middle or deep.

Noise in proportion to each weight; the same chip instances and problems throughout, so differences are paired.
It takes long on a CPU: what is measured is kept, and the same command goes on where it was stopped.

    python -m benchmarks run real_reasoning-mild      (or -strong)
    python -m benchmarks run real_reasoning-copies
"""

import json
import random
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.harness import Result, real_models
from hardy.studies import reasoning

ONLY = "Answer with the number only."
STEPS = "Work it out in one or two short steps, then end with the number."


def problem(source: random.Random, kind: str) -> tuple[str, str, int]:
    """A question, a solution in short steps, and the answer."""
    if kind == "sum":
        a, b, c = source.randint(11, 49), source.randint(11, 49), source.randint(11, 49)
        steps = f"{a} + {b} = {a + b}. {a + b} - {c} = {a + b - c}."
        return f"What is {a} + {b} - {c}?", steps, a + b - c
    start, step, times = source.randint(2, 9), source.randint(2, 5), source.randint(2, 4)
    code = f"x = {start}\nfor _ in range({times}):\n    x = x + {step}\nprint(x)"
    steps = f"The loop adds {step} {times} times, {step * times}. {start} + {step * times} = {start + step * times}."
    return f"What does this program print?\n```python\n{code}\n```", steps, start + step * times


def write_tasks(file: Path, tokenizer: Any, count: int) -> None:
    """Problems of both kinds in turns, each with complete prompts for all four ways of asking."""
    source, lines = random.Random(0), []
    examples = [problem(source, kind) for kind in ("sum", "program")]
    for number in range(count):
        question, _, answer = problem(source, ("sum", "program")[number % 2])
        record: dict[str, Any] = {"answer": answer}
        for way, wish in (("direct", ONLY), ("steps", STEPS)):
            solved = []
            for asked, worked, right in examples:
                reply = str(right) if way == "direct" else f"{worked} {right}"
                solved += [
                    {"role": "user", "content": f"{asked}\n{wish}"}, {"role": "assistant", "content": reply}
                ]  # fmt: skip
            last = [{"role": "user", "content": f"{question}\n{wish}"}]
            for name, turns in ((way, last), (f"examples_{way}", solved + last)):
                record[name] = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        lines.append(json.dumps(record))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(
    *, part: str = "ways", model: str = "qwen2.5-coder-0.5b", models: str = "", levels: str = "0.1,0.2",
    problems: int = 8, seeds: int = 10, work: Path,
) -> Result:  # fmt: skip
    folder = real_models(models)[model]
    tasks = work / "tasks.jsonl"
    write_tasks(tasks, AutoTokenizer.from_pretrained(folder), problems)
    if part == "copies":  # asked in two ways, three places for the copies beside none
        asked = [json.loads(line) for line in tasks.read_text(encoding="utf-8").splitlines()]
        kept = [{key: each[key] for key in ("answer", "direct", "steps")} for each in asked]
        tasks.write_text("\n".join(map(json.dumps, kept)) + "\n", encoding="utf-8")
    report = reasoning(
        str(folder), tasks=str(tasks), noise="proportional", levels=[float(level) for level in levels.split(",")],
        n_seeds=seeds, copies=1 if part == "ways" else 3, problems=problems, max_new_tokens=96, workers=1,
        out=work / "study",
    )  # fmt: skip
    report.print(metrics=("accuracy", "tokens", "unfinished"))
    settings = {"problems": problems, "summary": list(report.summary)}
    notes = [note.replace(str(folder), model) for note in report.notes]
    return Result(rows=report.rows, settings=settings, seeds=range(seeds), notes=notes)
