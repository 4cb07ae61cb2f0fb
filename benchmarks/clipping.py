"""Does clipping help the model, or only the weights? Perplexity of tiny-llama.

Control: round-to-nearest over the full range, at the same bits and groups. One text, nothing is drawn: differences
of about 1 % are within what another 3,072 tokens would change.

    python -m benchmarks run clipping
"""

from benchmarks.harness import Result, rows
from hardy.quant import ClippedRoundToNearest, RoundToNearest
from hardy.studies.measure import measure, perplexity_of
from hardy.zoo import Subject


def run() -> Result:
    subject, found = Subject.of("tiny-llama"), []
    for bits in (2, 3, 4):
        for group_size in (16, 42, 128):
            perplexity = {}
            for name, kind in (("clipped", ClippedRoundToNearest), ("full range", RoundToNearest)):
                method = kind(bits=bits, group_size=group_size)
                values = measure(subject, {"part": "evaluation", "method": method.to_dict()}, 0)
                perplexity[name] = perplexity_of(values["loss"])
                details = {"bits": bits, "group_size": group_size, "bits_per_weight": values["bits_per_weight"]}
                found += rows(name, details, perplexity=perplexity[name])
            print(f"{bits} bits, groups of {group_size}: {perplexity}", flush=True)
    return Result(rows=found, settings=subject.settings())
