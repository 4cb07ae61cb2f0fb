"""Hadamard rotation of fields in integers: never, always, measured; writes results/dhq.json.

For every activation: photographs fitted in one batch as in fields.py, then quantized at W8A8, W8A16, W6A6 and W4A8 with
the first layer at 8, 12 and 16 bits. PSNR of the integer model against the photo, mean over photos; the float field is
the control. "auto" is compared with the better of the two photo by photo. "relu, heavy tails" is the relu field with
two channels of every hidden layer made 16 times as large, and their weights in the next layer as much smaller: the same
function, in which few channels take up the range of all.

    python benchmarks/dhq.py [--size 48] [--steps 300] [--width 48] [--photos 8]
"""

import argparse
import copy
import itertools
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from fields import PHOTOS, shrunk
from survival import processor

import hardy
from hardy.fields import Field, HadamardQuant, Schedule, fit_many
from hardy.fields.activations import KINDS
from hardy.files import write_json

RESULT = Path(__file__).parent / "results" / "dhq.json"
BITS = ((8, 8), (8, 16), (6, 6), (4, 8))
FIRST = (8, 12, 16)
ROTATE = ("never", "always", "auto")


@torch.no_grad()
def with_heavy_tails(field: Field) -> Field:
    """The same function of a relu field, in unequal channels."""
    field = copy.deepcopy(field)
    for layer, following in itertools.pairwise(field.layers):
        layer.weight[:2] *= 16
        layer.bias[:2] *= 16
        following.weight[:, :2] /= 16
    return field


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 48), ("steps", 300), ("width", 48), ("photos", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(PHOTOS.glob("*.png"))[: options.photos]
    signals = [shrunk(file, options.size) for file in files]
    begun, rows, shortfall = time.monotonic(), [], 0.0
    for kind in (*KINDS, "relu, heavy tails"):
        fields = [Field(2, 3, hidden_features=options.width, activation=kind.split(",")[0]) for _ in signals]
        fit_many(fields, signals, schedule=Schedule(steps=options.steps))
        if "tails" in kind:
            fields = [with_heavy_tails(field) for field in fields]
        exact = statistics.mean(field.psnr(signal) for field, signal in zip(fields, signals, strict=True))
        print(f"{kind} in float: {exact:.2f} dB")
        settings = [(w, a, first, True, "minmax") for w, a in BITS for first in FIRST]
        settings += [(8, 8, 16, False, "minmax"), (6, 6, 16, True, "mse"), (6, 6, 16, True, "percentile")]
        for weight, activation, first, per_channel, rule in settings:
            psnr, bits, turned = {}, 0.0, 0.0
            for rotate in ROTATE:
                method = HadamardQuant(
                    rotate=rotate,
                    weight_bits=weight,
                    activation_bits=activation,
                    first_layer_bits=first,
                    per_channel=per_channel,
                    range=rule,
                )
                made = [method.quantize(field, signal) for field, signal in zip(fields, signals, strict=True)]
                psnr[rotate] = [field.psnr(signal) for field, signal in zip(made, signals, strict=True)]
                bits = statistics.mean(field.bits for field in made)
                turned = statistics.mean(sum(field.rotated) / len(field.rotated) for field in made)
            worst = max(max(n, a) - auto for n, a, auto in zip(*(psnr[r] for r in ROTATE), strict=True))
            shortfall = max(shortfall, worst)
            mean = {rotate: statistics.mean(values) for rotate, values in psnr.items()}
            stored = sum(p.numel() * (2 if p.is_complex() else 1) for p in fields[0].parameters())
            rows.append(
                {
                    "activation": kind,
                    "bits": f"W{weight}A{activation}",
                    "first_layer_bits": first,
                    "per_channel": per_channel,
                    "range": rule,
                    "float": exact,
                    "psnr": mean,
                    "psnr_of_photos": psnr,
                    "auto_below_the_better": worst,
                    "layers_turned_by_auto": turned,
                    "true_bits_per_parameter": bits / stored,
                }
            )
            scale = "per channel" if per_channel else "per tensor"
            shown = "  ".join(f"{rotate} {mean[rotate]:6.2f}" for rotate in ROTATE)
            label = f"W{weight}A{activation} first {first} {scale} {rule}"
            print(f"  {label:40} {shown}   {bits / stored:.2f} bits", flush=True)
    result = {
        "command": "python benchmarks/dhq.py " + " ".join(f"--{name} {value}" for name, value in vars(options).items()),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
        "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "photos": [file.name for file in files],
        "seeds": [0],
        "auto_below_the_better_at_most": shortfall,
        "seconds": round(time.monotonic() - begun, 1),
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"auto below the better of the two by {shortfall:.3f} dB at most")
    print(f"{result['seconds']:.0f} s; written to {RESULT}")


if __name__ == "__main__":
    main()
