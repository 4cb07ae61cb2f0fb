"""Does clipping help the model, or only the weights? Perplexity of tiny-llama; writes results/clipping.json.

Control: round-to-nearest over the full range, at the same bits and groups. One text, nothing is drawn: differences
of about 1 % are within what another 3,072 tokens would change.

    python benchmarks/clipping.py
"""

from pathlib import Path

import torch

import hardy
from hardy.files import write_json
from hardy.quant import ClippedRoundToNearest, RoundToNearest
from hardy.studies.measure import measure, perplexity_of
from hardy.zoo import Subject

RESULT = Path(__file__).parent / "results" / "clipping.json"


def main() -> None:
    subject = Subject.of("tiny-llama")
    rows = []
    for bits in (2, 3, 4):
        for group_size in (16, 42, 128):
            row: dict[str, float] = {"bits": bits, "group_size": group_size}
            for name, kind in (("clipped", ClippedRoundToNearest), ("full_range", RoundToNearest)):
                method = kind(bits=bits, group_size=group_size)
                values = measure(subject, {"part": "evaluation", "method": method.to_dict()}, 0)
                row[name] = perplexity_of(values["loss"])
                row["bits_per_weight"] = values["bits_per_weight"]
            rows.append(row)
            print(f"{bits} bits, groups of {group_size}: {row['clipped']:.2f} clipped, {row['full_range']:.2f} plain")
    versions = {"hardy": hardy.__version__, "torch": torch.__version__}
    write_json(RESULT, {"settings": subject.settings(), "versions": versions, "rows": rows})


if __name__ == "__main__":
    main()
