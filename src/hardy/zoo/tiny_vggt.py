"""tiny-vggt: a streaming VGGT of a few megabytes, trained on videos of traced rooms.

The same classes as for the public weights, which may not be shipped; frames of 64 x 48 pixels. A frame sees itself and
those before. Lengths are in units of the mean distance of what the first frame shows, so that a stream knows its unit
from its first frame on.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import torch

from hardy import checks
from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.evaluate.geometry import depth_errors, depth_scale, trajectory_error
from hardy.files import write_json
from hardy.reading import reading
from hardy.runs.checkpoint import Checkpoint
from hardy.runs.progress import progress
from hardy.zoo.optimizers import optimizers_of, trapezoid
from hardy.zoo.room_sequences import FIELDS, Sequence3D, recolored, room_sequence
from hardy.zoo.vggt import VGGT, Geometry, PastFrames, VGGTConfig, pose_of
from hardy.zoo.vggt.loading import load_vggt, save_vggt

NAME = "tiny-vggt"
FOLDER = Path(__file__).parent / "weights" / "vision" / NAME
CONFIG = VGGTConfig(
    image_size=64, patch_size=8, dim=96, heads=3, encoder_depth=2, depth=4, taps=(0, 1, 2, 3), camera_depth=2,
    camera_heads=3, features=32, channels=(32, 48, 64, 64), hidden=16, dense=("depth",), camera_cache="per-iteration",
)  # fmt: skip
WIDTH, HEIGHT = 64, 48
STEPS, FRAMES = 4000, 24
LENGTHS = (2, 3, 6, 12)
"""Frames of a video; as many videos make a batch as give `FRAMES` frames."""
HELD_OUT, HELD_OUT_FRAMES = 16, 24
MATRIX_LR, OTHER_LR, WEIGHT_DECAY, WARMUP, DECAY = 1.5e-3, 7e-4, 0.02, 0.04, 0.6
FIELD_OF_VIEW = 0.4
"""Radians."""
CONFIDENCE, EDGES, CAMERA, EARLIER = 0.1, 0.5, 0.1, 0.6
"""Weights of the loss: of ln confidence, of differences between neighbours, of poses, of a refinement to the next."""


def tiny_vggt() -> VGGT:
    """The trained network, in evaluation mode.

    Raises:
        InputError: its weights are not in this installation.
    """
    file = FOLDER / "model.safetensors"
    if not file.is_file():
        raise InputError(f"the weights of {NAME} are not in this installation: {file} is missing")
    return load_vggt(file)[0]


def held_out(number: int, frames: int = HELD_OUT_FRAMES, *, rays: int = 2) -> Sequence3D:
    """A video of a room that training never saw."""
    return room_sequence("held-out", number, frames=frames, width=WIDTH, height=HEIGHT, rays=rays)


def train(out: str | Path = FOLDER, *, steps: int = STEPS, seed: int = 0, validate_every: int = 250) -> dict[str, Any]:
    """Train it into the folder `out`, or go on from the checkpoint that is there; the figures of its card.

    Args:
        out: folder of the result and of the checkpoint.
        steps: in all. They may be changed as long as the learning rate has not begun to fall.
        seed: of the start and of all videos.
        validate_every: steps between validations, which are also where a stopped training goes on.

    Raises:
        InputError: a number is out of range, or the checkpoint is of another training.
    """
    steps, out = checks.integer("steps", steps, at_least=1), Path(out)
    validate_every = checks.integer("validate_every", validate_every, at_least=1)
    out.mkdir(parents=True, exist_ok=True)
    recipe = {
        "seed": seed, "frames": FRAMES, "lengths": list(LENGTHS), "matrix_lr": MATRIX_LR,
        "other_lr": OTHER_LR, "weight_decay": WEIGHT_DECAY, "warmup": WARMUP, "decay": DECAY, "dim": CONFIG.dim,
        "depth": CONFIG.depth,
    }  # fmt: skip
    checkpoint = Checkpoint(out / "checkpoint.safetensors", kind=f"training of {NAME}", identity=recipe)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, NAME))
        model = VGGT(CONFIG, scale=1.0).train()
        # At their usual start, of length 1e-6, the gradients of what a norm makes of these tokens drown all others.
        torch.nn.init.normal_(model.aggregator.camera_token)
        torch.nn.init.normal_(model.aggregator.register_token)
        torch.nn.init.normal_(model.camera_head.pose_branch.fc2.weight, std=0.002)  # poses far off drown depths too
        # Each refinement adds this to the field of view. From zero it would cross zero, where there is no gradient.
        torch.nn.init.constant_(model.camera_head.pose_branch.fc2.bias[7:], FIELD_OF_VIEW)
    optimizers = optimizers_of(model, matrix_lr=MATRIX_LR, other_lr=OTHER_LR, weight_decay=WEIGHT_DECAY)
    start, seconds, curve = 0, 0.0, []
    if (state := checkpoint.load()) is not None:
        with reading(checkpoint.path):
            start, seconds, curve = state["step"], state["seconds"], state["curve"]
            if steps != state["steps"] and trapezoid(start - 1, state["steps"], WARMUP, DECAY) < 1:
                raise InputError(
                    f"steps={steps}: the learning rate of {checkpoint.path} is already falling (or still rising) for "
                    f"{state['steps']} steps at step {start}; go on with {state['steps']}, or train anew elsewhere"
                )
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
    clock, running = time.monotonic(), 0.0
    with progress(NAME, steps, done=start) as bar:
        for step in range(start, steps):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * trapezoid(step, steps, WARMUP, DECAY)
            images, depth, pose = batch(seed, step)
            loss = loss_of(model(images, PastFrames(images.shape[1])), depth, pose)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            running += loss.item()
            bar.update(step + 1)
            if (step + 1) % validate_every == 0 or step + 1 == steps:
                since = step + 1 - max(start, step // validate_every * validate_every)
                found = validation(model, count=4)
                curve.append([step + 1, running / since, found["abs_rel"], found["trajectory_error"]])
                running, spent = 0.0, seconds + time.monotonic() - clock
                states = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
                checkpoint.save({"steps": steps, "step": step + 1, "seconds": spent, "curve": curve, **states})
                bar.print(
                    f"step {step + 1}  loss {curve[-1][1]:.4f}  abs rel {found['abs_rel']:.4f}  "
                    f"path {found['trajectory_error']:.3f} m  {spent / 60:.1f} min"
                )
    return _finish(out, model.eval(), recipe | {"steps": steps}, curve, seconds + time.monotonic() - clock)


def batch(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, depths and poses of a step's videos, in the unit of their first frames.

    Each video comes twice, the second time backwards and in other colors: tracing takes a third of the time.
    """
    number, again = divmod(step, 2)
    images, depths, poses = [], [], []
    for row, video in enumerate(_videos(seed, number)):
        video = video.backwards() if again else video
        length = len(video.images)
        images.append(recolored(video.images, ("training", step, row), seed))
        unit = unit_of(video)
        viewmats = video.viewmats.clone()
        viewmats[:, :3, 3] /= unit
        poses.append(pose_of(viewmats, video.K.expand(length, 3, 3), HEIGHT, WIDTH))
        depths.append(video.depth / unit)
    return torch.stack(images), torch.stack(depths), torch.stack(poses)


@functools.lru_cache(maxsize=1)
def _videos(seed: int, number: int) -> list[Sequence3D]:
    length = LENGTHS[derive(seed, "length", number) % len(LENGTHS)]
    rows = range(FRAMES // length)
    size = {"frames": length, "width": WIDTH, "height": HEIGHT, "seed": seed}
    return [room_sequence("training", number, row, **size) for row in rows]


def unit_of(video: Sequence3D) -> float:
    """The mean distance of what the first frame shows from its camera."""
    height, width = video.depth.shape[1:]
    x = (torch.arange(width) + 0.5 - width / 2) / video.K[0, 0]
    y = (torch.arange(height) + 0.5 - height / 2) / video.K[1, 1]
    return float((video.depth[0] * (1 + x**2 + y[:, None] ** 2).sqrt()).mean())


def loss_of(found: Geometry, depth: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """Errors of log depths, weighed by a confidence that has its price, of their differences, and of poses."""
    error = found.depth.log() - depth.log()
    weighed = found.depth_confidence * error.abs() - CONFIDENCE * found.depth_confidence.log()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    cameras = torch.zeros(())
    for number, estimate in enumerate(reversed(found.poses)):
        cameras = cameras + EARLIER**number * (estimate - pose).abs().mean((0, 1)).sum()
    return weighed.mean() + EDGES * edges + CAMERA * cameras / len(found.poses)


@torch.no_grad()
def validation(model: VGGT, count: int = HELD_OUT) -> dict[str, Any]:
    """Errors on rooms that training never saw; controls are the best constant depth, no motion, the mean field of view.

    Depths have one scale for a whole video, the best one, and so has the constant. Paths are aligned; degrees.
    """
    training = model.training
    model.eval()
    totals: dict[str, float] = {}
    for number in range(count):
        video = held_out(number)
        found = model(video.images[None], PastFrames(len(video.images)))
        estimate = found.depth[0] * depth_scale(found.depth[0], video.depth)
        constant = torch.ones_like(video.depth)
        errors = depth_errors(estimate, video.depth)
        errors["constant_abs_rel"] = best_constant(video.depth, constant)
        viewmats = found.cameras[0][0]
        eyes = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
        errors["trajectory_error"] = trajectory_error(eyes, video.eyes)
        errors["still_trajectory_error"] = trajectory_error(torch.zeros_like(eyes), video.eyes)
        turns = viewmats[:, :3, :3] @ video.viewmats[:, :3, :3].mT
        errors["turn_degrees"] = float(_angles(turns).mean())
        errors["still_turn_degrees"] = float(_angles(video.viewmats[:, :3, :3]).mean())
        fields = [torch.rad2deg(2 * (WIDTH / 2 / k[..., 0, 0]).atan()) for k in (found.cameras[1][0], video.K)]
        errors["field_degrees"] = float((fields[0] - fields[1]).abs().mean())
        errors["constant_field_degrees"] = abs(float(fields[1]) - sum(FIELDS) / 2)
        for name, value in errors.items():
            totals[name] = totals.get(name, 0.0) + value / count
    model.train(training)
    return {"videos": count, "frames": HELD_OUT_FRAMES, **totals}


def best_constant(depth: torch.Tensor, constant: torch.Tensor) -> float:
    """The least absolute relative error that one depth for all pixels of a video can have."""
    candidates = torch.quantile(depth.flatten()[::7], torch.linspace(0.02, 0.8, 60))
    return min(depth_errors(constant * float(value), depth)["abs_rel"] for value in candidates)


def _angles(turns: torch.Tensor) -> torch.Tensor:
    """Degrees of rotation matrices (..., 3, 3)."""
    cosines = (turns.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(cosines.clamp(-1, 1).acos())


def _finish(out: Path, model: VGGT, recipe: dict[str, Any], curve: list[list[float]], seconds: float) -> dict[str, Any]:
    """Store the weights as float16, and write the card, whose figures are those of the stored weights."""
    save_vggt(model, out / "model.safetensors", torch.float16)
    model, _ = load_vggt(out / "model.safetensors")
    card = {
        "name": NAME,
        "summary": "streaming VGGT for frames of 64 x 48, trained on videos of traced rooms",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": recipe,
        "data": {"source": "generated: rooms of random size, colors, things, lamp and path, traced ray by ray",
                 "frames_seen": recipe["steps"] * FRAMES},
        "held_out": validation(model),
        "loss_curve": curve,
        "hours": seconds / 3600,
        "versions": {"torch": torch.__version__},
    }  # fmt: skip
    write_json(out / "card.json", card)
    return card


def card() -> dict[str, Any]:
    """Data, recipe and figures."""
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
