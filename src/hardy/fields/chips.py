"""How a field stands noise on its weights: PSNR over chip instances.

Source: the evaluation of Robust-INR (arXiv 2508.13481); its noise is not specified, so the noise here names its scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.evaluate import psnr_of_error
from hardy.fields.field import Field, stacked
from hardy.fields.latent_field import LatentField
from hardy.fields.latent_tiles import TiledField
from hardy.fields.losses import Noise, drawn, matrices_of
from hardy.fields.samples import Samples
from hardy.fields.signals import PEAK, Signal
from hardy.report import Row

LATENTS = (
    "a picture as latents has no weights of its own that noise could fall on: they are integers behind an entropy "
    "coder, and what decodes them lies in the package; noise is for networks of coordinates (--field coordinates)"
)


@torch.no_grad()
def noisy_psnr(field: Field, signal: Signal, noise: Noise, instances: int = 10) -> torch.Tensor:
    """The PSNR in dB of `field` as `signal` on so many chips, (instances,).

    Instance i has the draws of `noise` with the seed `noise.seed + i` applied to all layers of the field; biases are
    kept, as on chips that add them digitally.

    Raises:
        InputError: `instances` is not positive, field and signal do not fit, or the field is a picture as latents.
    """
    instances = checks.integer("instances", instances, at_least=1)
    if isinstance(field, LatentField | TiledField):
        raise InputError(LATENTS)
    parameters = {name: rows[0] for name, rows in stacked([field]).items()}
    device = parameters["layers.0.weight"].device
    samples = Samples.of([signal], device)
    samples.check(field.in_features, field.out_features, 1)
    matrices = matrices_of(parameters)
    errors = []
    for instance in range(instances):
        noisy = dict(parameters)
        if noise.strength:
            for name, matrix in matrices.items():
                site = name.removesuffix(".weight")
                noisy[name] = drawn(noise, matrix, noise.seed + instance, "chip", site)
        values = field.evaluate({name: tensor[None] for name, tensor in noisy.items()}, samples.coordinates)
        errors.append(samples.error(values.clamp(-1, 1)))
    return psnr_of_error(torch.cat(errors), PEAK).cpu()


def robustness(
    field: Field, signal: Signal, noises: Sequence[Noise], instances: int = 10, condition: str = "field"
) -> list[Row]:
    """A row of PSNR, mean and spread over chip instances, for each of `noises`; the clean field's first.

    Raises:
        InputError: see `noisy_psnr`; or fewer than two instances, which have no spread.
    """
    instances = checks.integer("instances", instances, at_least=2)
    if isinstance(field, LatentField | TiledField):
        raise InputError(LATENTS)
    clean = f"{condition}, no noise"
    rows = [Row(metric="psnr", condition=clean, value=field.psnr(signal), unit="dB")]
    for noise in noises:
        if not isinstance(noise, Noise):
            raise InputError(f"noise must be AdditiveNoise or ProportionalNoise, got {noise!r}")
        values = noisy_psnr(field, signal, noise, instances)
        rows.append(
            Row(
                metric="psnr",
                condition=f"{condition}, {noise}",
                value=values.mean().item(),
                spread=values.std().item(),
                n=instances,
                unit="dB",
                seeds=tuple(range(noise.seed, noise.seed + instances)),
                baseline=clean,
                details={"strength": noise.strength, "kind": type(noise).__name__},
            )
        )
    return rows
