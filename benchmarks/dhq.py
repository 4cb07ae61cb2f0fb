"""Hadamard rotation of fields in integers: never, always, measured.

For every activation: photographs fitted in one batch as in fields.py, then quantized at W8A8, W8A16, W6A6 and W4A8 with
the first layer at 8, 12 and 16 bits. PSNR of the integer model against the photo, mean over photos; the float field is
the control. "auto" is compared with the better of the two photo by photo. "relu, heavy tails" is the relu field with
two channels of every hidden layer made 16 times as large, and their weights in the next layer as much smaller: the same
function, in which few channels take up the range of all.

    python -m benchmarks run dhq [--size 48] [--steps 300] [--width 48] [--photos 8]
"""

import copy
import itertools
import statistics

import torch

from benchmarks.fields import photographs, shrunk
from benchmarks.harness import Result, Value, mean_of, rows
from hardy.fields import Field, HadamardQuant, Schedule, fit_many
from hardy.fields.activations import KINDS

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


def run(*, size: int = 48, steps: int = 300, width: int = 48, photos: int = 8) -> Result:
    files = photographs(photos)
    signals = [shrunk(file, size) for file in files]
    found, raw, shortfall = [], [], 0.0
    for kind in (*KINDS, "relu, heavy tails"):
        fields = [Field(2, 3, hidden_features=width, activation=kind.split(",")[0]) for _ in signals]
        fit_many(fields, signals, schedule=Schedule(steps=steps))
        if "tails" in kind:
            fields = [with_heavy_tails(field) for field in fields]
        exact = mean_of([field.psnr(signal) for field, signal in zip(fields, signals, strict=True)], "dB")
        found += rows("float", {"activation": kind}, psnr=exact)
        print(f"{kind} in float: {exact.value:.2f} dB")
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
            stored = sum(p.numel() * (2 if p.is_complex() else 1) for p in fields[0].parameters())
            mean = {rotate: mean_of(values, "dB") for rotate, values in psnr.items()}
            details = {
                "activation": kind,
                "bits": f"W{weight}A{activation}",
                "first_layer_bits": first,
                "per_channel": per_channel,
                "range": rule,
            }
            for rotate in ROTATE:
                found += rows(rotate, details, psnr=mean[rotate])
            found += rows(
                "auto",
                details,
                below_the_better=Value(worst, "dB"),
                layers_turned=Value(turned, "share"),
                bits_per_parameter=bits / stored,
            )
            raw.append(details | {"psnr_of_photos": psnr})
            scale = "per channel" if per_channel else "per tensor"
            shown = "  ".join(f"{rotate} {mean[rotate].value:6.2f}" for rotate in ROTATE)
            label = f"W{weight}A{activation} first {first} {scale} {rule}"
            print(f"  {label:40} {shown}   {bits / stored:.2f} bits", flush=True)
    print(f"auto below the better of the two by {shortfall:.3f} dB at most")
    found += rows("auto", below_the_better_at_most=Value(shortfall, "dB"))
    return Result(rows=found, settings={"photos": [file.name for file in files]}, seeds=(0,), raw=raw)
