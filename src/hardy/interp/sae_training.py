"""Training of sparse autoencoders on activations that stream by: never more of them than one buffer in memory.

TopK with auxiliary loss on dead features (Gao et al. 2024); JumpReLU with straight-through gradients of the count of
features that are on (Rajamanoharan et al. 2024). Activations are scaled to a mean norm of sqrt(d_in) for the training,
and the weights back at its end. Unlike both papers, the decoder starts as random unit directions whose transpose is the
encoder for either kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.hooks.point import canonical
from hardy.interp.sae import SAE, Architecture, depth_of, top_k
from hardy.reading import reading
from hardy.runs.checkpoint import Checkpoint
from hardy.runs.progress import progress

Stream = Callable[[int], torch.Tensor]
"""Number of a chunk -> its activations, (n, d_in); the same for the same number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a sparse autoencoder is trained.

    Args:
        architecture: "topk" or "jumprelu".
        expansion: features for each coordinate of the activation.
        k: features on at a time: all of topk's, and what jumprelu is pulled to.
        steps: of Adam.
        batch: activations per step.
        buffer: activations that are mixed before they are drawn from.
        learning_rate: falls to 0 linearly over the last fifth.
        dead_after: activations without it being on, after which a feature counts as dead.
        revive: weight of the loss that has dead features explain what is left (topk), or pulls them up (jumprelu).
        bandwidth, sparsity: of jumprelu: width of the kernel that gives thresholds a gradient, and weight of
            ((features on) / k - 1)^2.
        seed: of the start and of the order.
    """

    architecture: Architecture = "topk"
    expansion: int = 8
    k: int = 16
    steps: int = 2000
    batch: int = 512
    buffer: int = 16384
    learning_rate: float = 1e-3
    dead_after: int = 50_000
    revive: float = 1 / 32
    bandwidth: float = 0.05
    sparsity: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("architecture", self.architecture, ("topk", "jumprelu"))
        for name in ("expansion", "k", "steps", "batch", "dead_after"):
            checks.integer(name, getattr(self, name), at_least=1)
        checks.integer("buffer", self.buffer, at_least=self.batch)
        checks.integer("seed", self.seed)
        for name in ("learning_rate", "bandwidth"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("revive", "sparsity"):
            checks.number(name, getattr(self, name), at_least=0)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained autoencoder and how its training went.

    Attributes:
        sae: of raw activations.
        losses: step -> mean squared error over the variance of a batch.
        dead: share of the features that were not on in the last `dead_after` activations.
        on: mean number of features on at the end.
        seen: activations that were drawn.
    """

    sae: SAE
    losses: Mapping[int, float]
    dead: float
    on: float
    seen: int


class _Threshold(torch.autograd.Function):
    """relu(x) where x is above a threshold; the threshold's gradient by a kernel of a given width around it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return x.relu() * (x > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        near = ((x - threshold).abs() < ctx.bandwidth / 2).to(x)
        return gradient * (x > threshold).to(x), -(threshold / ctx.bandwidth * near * gradient).sum(0), None


class _Step(torch.autograd.Function):
    """1 where x is above a threshold, whose gradient is by the same kernel."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, threshold)
        ctx.bandwidth = bandwidth
        return (x > threshold).to(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        near = ((x - threshold).abs() < ctx.bandwidth / 2).to(x)
        return None, -(near * gradient).sum(0) / ctx.bandwidth, None


class _Run:
    """The parameters of a training, its losses, and what of the features was seen on."""

    def __init__(self, settings: Training, first: torch.Tensor) -> None:
        self.settings = settings
        d_in = first.shape[1]
        width = settings.expansion * d_in
        if settings.k > width:
            raise InputError(f"k must be at most the {width} features, got {settings.k}")
        self.scale = (d_in**0.5 / first.norm(dim=1).mean().clamp_min(1e-12)).item()
        random = generator(settings.seed, "sae")
        decoder = torch.randn(width, d_in, generator=random).to(first.device)
        decoder = decoder / decoder.norm(dim=1, keepdim=True)
        self.parameters = {
            "decoder": nn.Parameter(decoder),
            "encoder": nn.Parameter(decoder.mT.clone()),
            "encoder_bias": nn.Parameter(decoder.new_zeros(width)),
            "decoder_bias": nn.Parameter(first.mean(0) * self.scale),
        }
        if settings.architecture == "jumprelu":
            self.parameters["threshold"] = nn.Parameter(decoder.new_full((width,), 0.1))
        self.idle = torch.zeros(width, dtype=torch.long, device=first.device)
        self.on = 0.0
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate, betas=(0.9, 0.999))

    def step(self, x: torch.Tensor, number: int) -> float:
        """One step on raw activations (batch, d_in); the share of the batch's variance that is left."""
        p, settings = self.parameters, self.settings
        rate = min(1.0, (settings.steps - number) / max(1, settings.steps // 5))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        with torch.enable_grad():
            x = x * self.scale
            before = (x - p["decoder_bias"]) @ p["encoder"] + p["encoder_bias"]
            dead = self.idle >= settings.dead_after
            if settings.architecture == "topk":
                features, extra = top_k(before, settings.k), x.new_zeros(())
            else:
                features = _Threshold.apply(before, p["threshold"], settings.bandwidth)
                assert isinstance(features, torch.Tensor)
                on: Any = _Step.apply(before, p["threshold"], settings.bandwidth)
                warm = min(1.0, (number + 1) / max(1, settings.steps // 5))
                extra = warm * settings.sparsity * (on.sum(1).mean() / settings.k - 1).square()
                if dead.any():
                    extra = extra + settings.revive * (p["threshold"] - before)[:, dead].relu().mean()
            left = x - (features @ p["decoder"] + p["decoder_bias"])
            variance = (x - x.mean(0)).square().mean().clamp_min(1e-12)
            error = left.square().mean() / variance
            if settings.architecture == "topk" and dead.any():
                some = min(int(dead.sum()), max(settings.k, x.shape[1] // 2))
                others = before.masked_fill(~dead, float("-inf"))
                missing = left.detach() - top_k(others, some) @ p["decoder"]
                extra = extra + settings.revive * missing.square().mean() / variance
            loss = error + extra
            self.optimizer.zero_grad()
            loss.backward()
        if not torch.isfinite(loss):
            raise InputError(f"the loss at step {number} is {loss.item()}: lower learning_rate")
        with torch.no_grad():
            self._hold_directions()
            self.optimizer.step()
            p["decoder"].div_(p["decoder"].norm(dim=1, keepdim=True).clamp_min(1e-12))
            if "threshold" in p:
                p["threshold"].clamp_min_(1e-4)
            fired = (features > 0).any(0)
            self.idle = torch.where(fired, 0, self.idle + len(x))
            self.on = (features > 0).sum(1).double().mean().item()
        return error.item()

    def _hold_directions(self) -> None:
        """Take out of the gradient of each unit direction what would only change its length."""
        weight, gradient = self.parameters["decoder"], self.parameters["decoder"].grad
        assert gradient is not None
        gradient -= (gradient * weight).sum(1, keepdim=True) * weight

    def raw(self, point: str, name: str, layers: int | None) -> SAE:
        """The autoencoder of activations as they are in the model."""
        p = {key: value.detach().clone() for key, value in self.parameters.items()}
        threshold = p["threshold"] / self.scale if "threshold" in p else None
        k = self.settings.k if threshold is None else None
        return SAE(
            p["encoder"], p["decoder"], p["encoder_bias"] / self.scale, p["decoder_bias"] / self.scale, point, name, k,
            threshold, True, layers,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        parameters = {name: value.detach() for name, value in self.parameters.items()}
        return {
            "parameters": parameters, "optimizer": self.optimizer.state_dict(), "idle": self.idle, "scale": self.scale,
            "on": self.on,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["parameters"].items():
                self.parameters[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.idle = state["idle"].to(self.idle.device)
        self.scale, self.on = state["scale"], state["on"]


class _Buffer:
    """Chunks of a stream, mixed: half is drawn before it is filled up again (as both papers' code does)."""

    def __init__(self, stream: Stream, size: int, seed: int) -> None:
        self.stream, self.size, self.seed = stream, size, seed
        self.chunk = self.fills = 0
        self.kept = torch.empty(0)
        self.place = 0

    def fill(self) -> None:
        """Mix what is left with new chunks, up to `size`."""
        parts = [self.kept[self.place :]] if len(self.kept) else []
        count = sum(map(len, parts))
        while count < self.size:
            new = checks.finite("activation", self.stream(self.chunk))
            parts.append(new)
            self.chunk += 1
            count += len(new)
        mixed = torch.cat(parts)
        order = torch.randperm(len(mixed), generator=generator(self.seed, "sae-order", str(self.fills)))
        self.kept, self.place, self.fills = mixed[order.to(mixed.device)], 0, self.fills + 1

    def draw(self, count: int) -> torch.Tensor:
        if self.place + count > max(count, len(self.kept) // 2):
            self.fill()
        self.place += count
        return self.kept[self.place - count : self.place]

    def state(self) -> dict[str, Any]:
        return {"chunk": self.chunk, "fills": self.fills, "place": self.place, "kept": self.kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.chunk, self.fills, self.place, self.kept = (state[n] for n in ("chunk", "fills", "place", "kept"))


def fit(
    stream: Stream, settings: Training | None = None, *, point: str = "", name: str = "", layers: int | None = None,
    checkpoint: Checkpoint | None = None, every: int = 500,
) -> Trained:  # fmt: skip
    """Train on any stream of vectors.

    Args:
        stream: see `Stream`.
        settings: of the training.
        point, name, layers: kept with the result, see `SAE`.
        checkpoint: where the run stands is kept there, and gone on from.
        every: steps between two checkpoints.

    Raises:
        InputError: a vector is not finite, or the training diverges.
    """
    settings = settings or Training()
    buffer = _Buffer(stream, settings.buffer, settings.seed)
    stored = checkpoint.load() if checkpoint is not None else None
    start, losses = 0, dict[int, float]()
    if checkpoint is None or stored is None:
        buffer.fill()
        run = _Run(settings, buffer.kept)
    else:
        with reading(checkpoint.path):
            buffer.restore(stored["buffer"])
            run = _Run(settings, buffer.kept)
            run.restore(stored["run"])
            start, losses = stored["step"], {int(n): v for n, v in stored["losses"]}
    log = max(1, settings.steps // 100)
    with progress(f"sparse autoencoder of {point or 'vectors'}", settings.steps, done=start) as bar:
        for number in range(start, settings.steps):
            left = run.step(buffer.draw(settings.batch), number)
            if number % log == 0 or number == settings.steps - 1:
                losses[number] = left
            bar.advance(note=f"{1 - left:.1%} explained, {run.on:.0f} on")
            if checkpoint is not None and (number + 1) % every == 0 and number + 1 < settings.steps:
                state = {"step": number + 1, "losses": [[n, v] for n, v in losses.items()]}
                checkpoint.save(state | {"run": run.state(), "buffer": buffer.state()})
    dead = (run.idle >= settings.dead_after).double().mean().item()
    if checkpoint is not None:
        checkpoint.path.unlink(missing_ok=True)
    return Trained(run.raw(point, name, layers), losses, dead, run.on, settings.steps * settings.batch)


def activations_of(model: nn.Module, batches: Sequence[Any], point: str) -> Stream:
    """The activations at one point of a model while it reads batches, again from the first after the last.

    The first position of each text is left out: its activation is many times as large as all others in most models,
    and would be all that is learned.

    Args:
        model: any decoder.
        batches: as of `hardy.hooks.run`.
        point: name of an activation of (batch, position, ...).
    """
    if not batches:
        raise InputError("a sparse autoencoder needs text, got no batches")

    def chunk(number: int) -> torch.Tensor:
        found: list[torch.Tensor] = []
        batch = batches[number % len(batches)]
        with torch.no_grad(), hooks.watch(model, {point: lambda x: found.append(x.detach())}, stop=True):
            hooks.run(model, batch)
        return found[0][:, 1:].flatten(2).flatten(0, 1).float()

    return chunk


def train(
    model: Any, batches: Sequence[Any], point: str, settings: Training | None = None, *, name: str = "",
    checkpoint: Checkpoint | None = None,
) -> Trained:  # fmt: skip
    """Train a sparse autoencoder of one activation of a model.

    Args:
        model: any decoder of transformers, quantized, packed or on a chip too.
        batches: text as batches of token ids; read again from the first when they run out.
        point: name of the activation ("blocks.3.resid_post", "blocks.3.mlp_out", "blocks.3.attn.z", "embed").
        settings: of the training.
        name: of the model.
        checkpoint: where the run stands is kept there, and gone on from.

    Raises:
        InputError: there is no such activation, it is not finite, or the training diverges.
    """
    hooks.points(model, point)
    stream = activations_of(model, batches, point)
    return fit(stream, settings, point=canonical(point), name=name, layers=depth_of(model), checkpoint=checkpoint)


def checkpoint_in(folder: str | Path, settings: Training, **identity: Any) -> Checkpoint:
    """The place where a training in `folder` stands."""
    return Checkpoint(
        Path(folder) / "training.safetensors",
        kind="sparse autoencoder",
        identity={"settings": dataclasses.asdict(settings), **identity},
    )


def toy_superposition(
    features: int = 32, width: int = 16, *, on: int = 2, chunk: int = 4096, seed: int = 0
) -> tuple[torch.Tensor, Stream]:
    """A task of known answer: unit directions (features, width), and a stream of sums of about `on` of them at a time.

    Amounts are between 0.5 and 1.5.
    """
    random = generator(seed, "toy-superposition")
    directions = torch.randn(features, width, generator=random)
    directions = directions / directions.norm(dim=1, keepdim=True)

    def stream(number: int) -> torch.Tensor:
        draw = generator(seed, "toy-superposition", str(number))
        active = torch.rand(chunk, features, generator=draw) < on / features
        return (active * (0.5 + torch.rand(chunk, features, generator=draw))) @ directions

    return directions, stream
