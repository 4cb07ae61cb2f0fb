"""Sparse autoencoders: an activation as a sum of few of many learned directions, whose amounts are objects like heads.

TopK (Gao et al. 2024) and JumpReLU (Rajamanoharan et al. 2024). Files are in the folder layout of SAELens (cfg.json and
sae_weights.safetensors). What is patched of a feature changes the activation by the difference along its direction;
what the autoencoder does not explain stays as it was, so a patch that changes nothing is exact to the last bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hardy import checks, hooks
from hardy.errors import InputError
from hardy.files import read_json, write_atomic, write_json
from hardy.hooks.point import canonical, resolve
from hardy.interp.steering import SteeringVector
from hardy.reading import reading

Architecture = Literal["topk", "jumprelu"]
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_NAMES = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1, "threshold": 1}
_HEADS = "hook_z"
_FORMAT = "6.0.0"
"""The version of SAELens since which configurations are laid out like this; it reads others as older ones."""


@dataclasses.dataclass(frozen=True, eq=False)
class SAE:
    """A trained sparse autoencoder of one activation of one model.

    Attributes:
        encoder: (d_in, d_sae).
        decoder: (d_sae, d_in): the direction of each feature.
        encoder_bias: (d_sae,).
        decoder_bias: (d_in,).
        point: name of the activation ("blocks.3.resid_post").
        model: name of the model, for messages; checked against `config._name_or_path` by width alone.
        k: features that are on at a time ("topk"), or None.
        threshold: (d_sae,) below which a feature is off ("jumprelu"), or None.
        centred: whether the decoder's bias is taken off the activation first.
        layers: how many blocks the model has, or None where that was not written down.
    """

    encoder: torch.Tensor
    decoder: torch.Tensor
    encoder_bias: torch.Tensor
    decoder_bias: torch.Tensor
    point: str
    model: str = ""
    k: int | None = None
    threshold: torch.Tensor | None = None
    centred: bool = True
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.encoder.ndim != 2 or self.decoder.shape != self.encoder.mT.shape:
            raise InputError(
                f"decoder must be (d_sae, d_in) where encoder is (d_in, d_sae), got {tuple(self.decoder.shape)} and "
                f"{tuple(self.encoder.shape)}"
            )
        shapes = {"encoder_bias": self.width, "threshold": self.width, "decoder_bias": self.d_in}
        for name, size in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != (size,):
                raise InputError(f"{name} must be ({size},), got {tuple(value.shape)}")
        if (self.k is None) == (self.threshold is None):
            raise InputError("a sparse autoencoder has either k (topk) or a threshold (jumprelu)")
        if self.k is not None:
            checks.integer("k", self.k, at_least=1, at_most=self.width)

    @property
    def architecture(self) -> Architecture:
        """As SAELens calls it."""
        return "topk" if self.threshold is None else "jumprelu"

    @property
    def d_in(self) -> int:
        """Width of the activation, heads side by side."""
        return self.encoder.shape[0]

    @property
    def width(self) -> int:
        """Features."""
        return self.encoder.shape[1]

    @property
    def name(self) -> str:
        """Of its features as an activation: "blocks.3.resid_post.feature", (batch, position, feature)."""
        return f"{canonical(self.point)}.feature"

    def before(self, x: torch.Tensor) -> torch.Tensor:
        """What the features are cut off from, (..., d_in) -> (..., d_sae)."""
        centred = x - self.decoder_bias if self.centred else x
        return centred @ self.encoder + self.encoder_bias

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Amounts of the features, (..., d_sae), none below zero.

        Args:
            x: (..., d_in) in the dtype of the weights.
        """
        before = self.before(x)
        if self.threshold is not None:
            return before.relu() * (before > self.threshold)
        assert self.k is not None
        return top_k(before, self.k)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """The activation that the features make, (..., d_sae) -> (..., d_in)."""
        return features @ self.decoder + self.decoder_bias

    def explained(self, x: torch.Tensor) -> float:
        """Share of the variance of activations (n, d_in) that the features explain: 1 all, 0 no more than the mean."""
        x = x.to(self.decoder)
        left = (x - self.decode(self.encode(x))).double().square().sum()
        return (1 - left / (x - x.mean(0)).double().square().sum()).item()

    def to(self, device: torch.device | str) -> SAE:
        """The same on a device."""
        moved: Any = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)

    def fits(self, model: Any) -> hooks.Point:
        """Its activation in `model`.

        Raises:
            InputError: the model has no such activation, it is of another width, or the model of another depth.
        """
        (point,) = resolve(model, [canonical(self.point)])
        if self.layers is not None and self.layers != (depth := depth_of(model)):
            raise InputError(
                f"the sparse autoencoder is of {self.model or 'a model'} with {self.layers} blocks; "
                f"{type(model).__name__} has {depth}"
            )
        found: list[int] = []
        ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
        watch = {point: lambda x: found.append(x[0, 0].numel())}
        with torch.no_grad(), hooks.watch(model, watch, stop=True):
            model(input_ids=ids, use_cache=False)
        if found[0] != self.d_in:
            raise InputError(
                f"the sparse autoencoder of {self.model or 'another model'} takes {self.point} of width {self.d_in}, "
                f"that of {type(model).__name__} is of width {found[0]}"
            )
        return point

    @contextlib.contextmanager
    def attached(self, model: nn.Module) -> Iterator[SAE]:
        """Make the features objects of `model` for as long as the block lasts.

        "blocks.3.resid_post.feature.17" can be located, recorded, patched and knocked out like a head; inside of
        `generate` too.

        Raises:
            InputError: as of `fits`.
        """
        own = self.to(next(model.parameters()).device)
        with hooks.named(model, {self.name: own.point_in(model)}):
            yield own

    def point_in(self, model: nn.Module) -> hooks.Point:
        """The features as a point of `hardy.hooks`, for one model."""
        place = self.fits(model)
        values: dict[str, Any] = {field.name: getattr(place, field.name) for field in dataclasses.fields(place)}
        values["name"] = self.name
        return _Features(**values, sae=self)

    def steering(self, feature: int, scale: float = 1.0, **settings: Any) -> SteeringVector:
        """The method that adds `scale` of a feature's direction to the residual stream.

        Raises:
            InputError: it is no autoencoder of the residual stream after a block, or has no such feature.
        """
        parts = canonical(self.point).split(".")
        if parts[-1] != "resid_post":
            raise InputError(
                f"only features of the stream after a block are directions to add; this is of {self.point}"
            )
        checks.integer("feature", feature, at_least=0, at_most=self.width - 1)
        return SteeringVector(vector=self.decoder[feature], layer=int(parts[-2]), scale=scale, **settings)

    def save(self, folder: str | Path) -> Path:
        """Write cfg.json and sae_weights.safetensors as SAELens does, each atomically."""
        folder = Path(folder)
        tensors = {"W_enc": self.encoder, "W_dec": self.decoder, "b_enc": self.encoder_bias, "b_dec": self.decoder_bias}
        if self.threshold is not None:
            tensors["threshold"] = self.threshold
        parts = canonical(self.point).split(".")
        heads = parts[-1] == "z"
        hook = ".".join([*parts[:-1], f"hook_{parts[-1]}"])
        config = {
            "architecture": self.architecture, "d_in": self.d_in, "d_sae": self.width, "dtype": "float32",
            "device": "cpu", "apply_b_dec_to_input": self.centred, "normalize_activations": "none",
            "reshape_activations": _HEADS if heads else "none",
            "metadata": {
                "sae_lens_version": _FORMAT, "hook_name": hook, "model_name": self.model, "hook_head_index": None,
                "n_layers": self.layers,
            },
        }  # fmt: skip
        if self.k is not None:
            config |= {"k": self.k, "rescale_acts_by_decoder_norm": False}
        plain = {name: value.detach().float().cpu().contiguous().clone() for name, value in tensors.items()}
        write_atomic(folder / WEIGHTS, lambda temporary: save_file(plain, temporary))
        write_json(folder / CONFIG, config)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> SAE:
        """What `save`, or SAELens, wrote: "topk", "jumprelu" and "standard" autoencoders.

        Raises:
            InputError: the folder holds none, is damaged, or of a kind that is not known here.
        """
        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(f"{folder} holds no sparse autoencoder: {name} is missing")
        tensors = _tensors(folder / WEIGHTS)
        with reading(folder / CONFIG):
            config = dict(read_json(folder / CONFIG))
            return _made(folder, config, dict(config.get("metadata") or config), tensors)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with reading(path), safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    missing = [name for name in ("W_enc", "W_dec", "b_enc", "b_dec") if name not in found]
    if missing:
        raise InputError(f"{path} is damaged: {missing[0]} is missing")
    for name, axes in _NAMES.items():
        if name in found and (found[name].ndim != axes or not torch.isfinite(found[name]).all()):
            raise InputError(f"{path} is damaged: {name} must be finite, of {axes} axes")
    return found


def _made(folder: Path, config: dict[str, Any], about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> SAE:
    kind = config.get("architecture", "standard")
    topk = kind == "topk" or config.get("activation_fn_str", config.get("activation_fn")) == "topk"
    if kind not in ("topk", "jumprelu", "standard"):
        raise InputError(f"{folder}: architecture must be topk, jumprelu or standard, got {kind!r}")
    for name in ("normalize_activations", "rescale_acts_by_decoder_norm", "finetuning_scaling_factor"):
        if config.get(name) not in (None, "none", False):
            raise InputError(f"{folder}: {name} must be none here, got {config[name]!r}")
    point = about.get("hook_name") or config.get("hook_name") or config.get("hook_point")
    if not isinstance(point, str):
        raise InputError(f"{folder / CONFIG} does not say the activation (hook_name)")
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    threshold = tensors.get("threshold")
    if kind == "standard" and not topk:
        threshold = torch.zeros(len(tensors["b_enc"]))
    on = int(k) if topk and k is not None else None
    if (topk and on is None) or (kind == "jumprelu" and threshold is None):
        raise InputError(f"{folder} is damaged: a {kind} autoencoder without its {'k' if topk else 'threshold'}")
    return SAE(
        tensors["W_enc"], tensors["W_dec"], tensors["b_enc"], tensors["b_dec"], canonical(point),
        str(about.get("model_name") or ""), on, None if topk else threshold,
        bool(config.get("apply_b_dec_to_input", True)), about.get("n_layers"),
    )  # fmt: skip


def top_k(before: torch.Tensor, k: int) -> torch.Tensor:
    """The `k` largest of the last axis, the others 0, none below 0."""
    largest = before.topk(k, dim=-1)
    return torch.zeros_like(before).scatter(-1, largest.indices, largest.values.relu())


def depth_of(model: nn.Module) -> int:
    """Blocks."""
    from hardy.hooks.blocks import blocks_of

    return len(blocks_of(model))


@dataclasses.dataclass(frozen=True, eq=False)
class _Features(hooks.Point):
    """Features read out of an activation, and written back with what they do not explain left alone."""

    sae: SAE | None = None

    def take(self, x: torch.Tensor, lead: Sequence[int]) -> torch.Tensor:
        assert self.sae is not None
        inner = super().take(x, lead)
        return self.sae.encode(inner.flatten(2).to(self.sae.encoder.dtype))

    def put(self, x: torch.Tensor, new: torch.Tensor, lead: Sequence[int]) -> torch.Tensor:
        assert self.sae is not None
        inner = super().take(x, lead)
        # On the graph as well: what is before this point gets the gradient that it has without an autoencoder.
        difference = (new - self.take(x, lead)) @ self.sae.decoder
        changed = inner + difference.to(inner.dtype).view_as(inner)
        return super().put(x, changed, lead)
