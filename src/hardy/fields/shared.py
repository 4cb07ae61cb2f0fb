"""Many images in one network: layers of their own around layers that all of them share.

Source: MINR (arXiv 2508.13471): input layer, projection and output of each image's own, the middle shared; and, as
`share="early"`, the other way round of STRAINER (2409.09566), which shares the input side. The paper does not give the
projection's shape: here it is a hidden layer with the activation, and there may be none or several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.fields.activations import Activation, activation
from hardy.fields.descent import Fit, Schedule, descend, schedule_of, separately, together
from hardy.fields.field import Field, Parameters, affine, initial_layer
from hardy.fields.losses import Loss, SquaredError
from hardy.fields.samples import PointLoss, Samples
from hardy.fields.signals import Signal

Share = Literal["middle", "early"]


class SharedField(nn.Module):
    """Fields of several images that have layers in common.

    Args:
        images: how many, at least 1; `add_images` adds more.
        in_features: coordinates of a point.
        out_features: channels of a value.
        hidden_features: units of each hidden layer.
        shared_layers: hidden-to-hidden layers that all images share.
        projections: hidden-to-hidden layers of each image's own: 1 as in MINR, 0 for the bare minimum.
        share: "middle", images have their own input layer, then projections, then the shared layers; "early", the
            input layer is shared too and projections come after the shared layers. Output layers are always own.
        activation: as in `Field`.
        seed: of the initial weights.

    Raises:
        InputError: a size is out of range, or `share` is unknown.
    """

    def __init__(
        self,
        images: int,
        in_features: int,
        out_features: int,
        *,
        hidden_features: int = 256,
        shared_layers: int = 3,
        projections: int = 1,
        share: Share = "middle",
        activation: str | Activation = "sine",
        seed: int = 0,
    ) -> None:
        super().__init__()
        images = checks.integer("images", images, at_least=1)
        self.in_features = checks.integer("in_features", in_features, at_least=1)
        self.out_features = checks.integer("out_features", out_features, at_least=1)
        self.hidden_features = checks.integer("hidden_features", hidden_features, at_least=1)
        self.shared_layers = checks.integer("shared_layers", shared_layers, at_least=1)
        self.projections = checks.integer("projections", projections, at_least=0)
        self.share = checks.one_of("share", share, get_args(Share))
        self.seed = checks.integer("seed", seed)
        self.activation = _activation(activation)
        width, entered = self.activation.width(self.hidden_features), self.activation.encoded_features(self.in_features)
        self.sizes = [entered, *[width] * (1 + self.projections + self.shared_layers), self.out_features]
        begin = 1 + self.projections if share == "middle" else 0
        self.common = range(begin, begin + self.shared_layers + (share == "early"))
        self.shared = nn.ModuleDict({str(index): self._layer(index, "shared") for index in self.common})
        self.own = nn.ModuleList(self._own(image) for image in range(images))

    def _layer(self, index: int, *names: str | int) -> nn.Linear:
        random = generator(self.seed, *names, index)
        return initial_layer(self.activation, self.sizes[index], self.sizes[index + 1], index == 0, random)

    def _own(self, image: int) -> nn.ModuleDict:
        indices = [index for index in range(len(self.sizes) - 1) if index not in self.common]
        return nn.ModuleDict({str(index): self._layer(index, "image", image) for index in indices})

    def field(self, image: int) -> Field:
        """The field of one image, whose layers are this module's own: what changes one changes the other.

        Raises:
            InputError: there is no such image.
        """
        if type(image) is not int or not 0 <= image < len(self.own):
            raise InputError(f"image must be an integer from 0 to {len(self.own) - 1}, got {image!r}")
        field = Field(
            self.in_features,
            self.out_features,
            hidden_features=self.hidden_features,
            hidden_layers=len(self.sizes) - 2,
            activation=self.activation,
        )
        field.layers = nn.ModuleList(self._at(self.own[image], index) for index in range(len(self.sizes) - 1))
        return field

    def _at(self, own: nn.Module, index: int) -> nn.Module:
        assert isinstance(own, nn.ModuleDict)
        return self.shared[str(index)] if index in self.common else own[str(index)]

    def forward(self, coordinates: torch.Tensor, image: int) -> torch.Tensor:
        """The values (..., out_features) of one image at `coordinates` (..., in_features)."""
        return self.field(image)(coordinates)

    def psnr(self, signals: Sequence[Signal]) -> list[float]:
        """The PSNR in dB of each image as the signal at its place.

        Raises:
            InputError: there are not as many signals as images.
        """
        if len(signals) != len(self.own):
            raise InputError(f"{len(signals)} signals are given for {len(self.own)} images")
        return [self.field(image).psnr(signal) for image, signal in enumerate(signals)]

    def parameter_counts(self) -> dict[str, int]:
        """Real numbers stored: "shared", "per_image", "total", and "separate", as many fields that share nothing."""

        def count(modules: nn.Module) -> int:
            return sum(p.numel() * (2 if p.is_complex() else 1) for p in modules.parameters())

        shared, own, images = count(self.shared), count(self.own[0]), len(self.own)
        # A field on its own needs no projection to fit in with others.
        width = self.sizes[1]
        projection = (width * width + width) * (2 if self.activation.dtype.is_complex else 1) * self.projections
        separate = images * (shared + own - projection)
        return {"shared": shared, "per_image": own, "total": shared + images * own, "separate": separate}

    def evaluate(self, own: Parameters, shared: Parameters, coordinates: torch.Tensor) -> torch.Tensor:
        """The values of several images, layer by layer.

        Args:
            own: by "own.INDEX.weight" and so on, each (images, ...).
            shared: by "shared.INDEX.weight", each (...).
            coordinates: (images or 1, points, in_features).

        Returns:
            (images, points, out_features), real.
        """
        x, last = self.activation.encode(coordinates), len(self.sizes) - 2
        for index in range(last + 1):
            factor = 1.0 if index == last else self.activation.factor(index == 0)
            if index in self.common:
                weight, bias = (shared[f"shared.{index}.{name}"] for name in ("weight", "bias"))
                x = nn.functional.linear(x.to(weight.dtype), factor * weight, factor * bias)
            else:
                x = affine(x, own[f"own.{index}.weight"], own[f"own.{index}.bias"], factor)
            x = x if index == last else self.activation.function(x)
        return x.real if x.is_complex() else x

    def shared_parameters(self) -> dict[str, torch.Tensor]:
        """The shared parameters by name, detached."""
        return {f"shared.{name}": tensor.detach() for name, tensor in self.shared.named_parameters()}

    def own_parameters(self, images: Sequence[int]) -> dict[str, torch.Tensor]:
        """The own parameters of some images by name, each (images, ...), copied and detached."""
        return {
            f"own.{name}": torch.stack([self.own[image].get_parameter(name).detach() for image in images])
            for name, _ in self.own[0].named_parameters()
        }

    @torch.no_grad()
    def take(self, parameters: Parameters, images: Sequence[int]) -> None:
        """Write own parameters, (images, ...), and shared ones to their places."""
        for name, tensor in parameters.items():
            group, _, leaf = name.partition(".")
            if group == "shared":
                self.shared.get_parameter(leaf).copy_(tensor)
                continue
            for row, image in zip(tensor, images, strict=True):
                self.own[image].get_parameter(leaf).copy_(row)


_activation = activation  # `SharedField.__init__` has an argument of this name


def fit_shared(
    model: SharedField,
    signals: Sequence[Signal],
    *,
    loss: Loss | PointLoss | None = None,
    schedule: Schedule | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **schedule_fields: Any,
) -> Fit:
    """Fit all images of `model` together, in place; what is minimised is the mean of their errors.

    Args:
        model: with as many images as there are signals.
        signals: of any sizes.
        loss, schedule, checkpoint, progress: as in `hardy.fields.fit`.

    Returns:
        What came of it; its psnr is the mean over the images.

    Raises:
        InputError: model and signals do not fit, the fit diverged (the model is then as it was), or the checkpoint is
            damaged or of another fit.
    """
    everyone = range(len(model.own))
    own, shared = model.own_parameters(everyone), model.shared_parameters()
    samples = _samples(model, signals, len(everyone), next(iter(shared.values())).device)

    def predict(parameters: Parameters, coordinates: torch.Tensor) -> torch.Tensor:
        one = {name: tensor[0] for name, tensor in parameters.items()}
        return model.evaluate(one, one, coordinates)

    fitted, fits = descend(
        {name: tensor[None] for name, tensor in (own | shared).items()},
        predict,
        samples,
        loss=loss or SquaredError(),
        schedule=schedule_of(schedule, schedule_fields),
        learning_rate=model.activation.learning_rate,
        networks=together,
        checkpoint=checkpoint,
        progress=progress,
    )
    _refuse_divergence(fits)
    model.take({name: tensor[0] for name, tensor in fitted.items()}, everyone)
    return fits[0]


def add_images(
    model: SharedField,
    signals: Sequence[Signal],
    *,
    loss: Loss | PointLoss | None = None,
    schedule: Schedule | None = None,
    progress: bool = False,
    **schedule_fields: Any,
) -> list[Fit]:
    """Add images to `model`, fitting their own layers only: nothing changes for the images that are there.

    Args:
        model: fitted to others before.
        signals: the new images, each of which is fitted as if it were added alone.
        loss, schedule, progress: as in `hardy.fields.fit`.

    Returns:
        What came of each; its place in `model` follows those that were there.

    Raises:
        InputError: model and signals do not fit, or a fit diverged; the model is then as it was.
    """
    shared = model.shared_parameters()
    device = next(iter(shared.values())).device
    samples = _samples(model, signals, len(signals), device)
    before = len(model.own)
    new = list(range(before, before + len(signals)))
    model.own.extend(model._own(image).to(device) for image in new)
    try:
        fitted, fits = descend(
            model.own_parameters(new),
            lambda parameters, coordinates: model.evaluate(parameters, shared, coordinates),
            samples,
            loss=loss or SquaredError(),
            schedule=schedule_of(schedule, schedule_fields),
            learning_rate=model.activation.learning_rate,
            networks=separately,
            progress=progress,
        )
        _refuse_divergence(fits)
    except BaseException:
        del model.own[before:]
        raise
    model.take(fitted, new)
    return fits


def _samples(model: SharedField, signals: Sequence[Signal], images: int, device: torch.device) -> Samples:
    samples = Samples.of(signals, device)
    samples.check(model.in_features, model.out_features, images)
    return samples


def _refuse_divergence(fits: Sequence[Fit]) -> None:
    for result in fits:
        if math.isnan(result.psnr):
            raise InputError(
                f"the fit diverged within {result.steps} steps; use a smaller learning_rate or a weaker loss"
            )
