"""Streams of frames within a budget: depth and camera path against bytes, every rule in 16 bits and in 4.

    python -m benchmarks run stream-vision
    python -m benchmarks run stream-vision-speed
    python -m benchmarks run stream-vision-whole

The zoo's tiny-vggt over videos of rooms that it never saw, and over real ones (7-Scenes, where they lie beside the
checkout; every 10th frame, in two halves), at 64 x 48 pixels. In each layer all rules are held to the bytes of the keys
and values of eight frames in 16 bits; in 4 bits more tokens fit. The first frame and the current one are protected.
Depths are judged by the protocol of video depth (one scale for a whole video), paths by the absolute trajectory error
after alignment, both with the error of knowing nothing beside: the best constant depth, and no motion.

Speed: the next frame after 10 to 250, whose keys and values are random numbers, of a VGGT with random weights that CPUs
can run: 6 pairs of blocks of 256 channels, 135 tokens a frame. The dense cache is in 32 bits as its model; "every key
anew" does what StreamVGGT does besides, which stores keys as they were before their norm and rotation and repeats both
for the whole cache at every frame. The whole: the same of the public architecture (1.26 billion parameters, 1.19
without its head for tracks, which streams do not use) with random weights in bfloat16, at small frames and at those it
is made for. It takes 14 GB.
"""

import dataclasses
import functools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import SHARED, NotMeasuredError, Result, Value, in_turns, mean_of, rows, timed
from hardy.core.rng import generator
from hardy.evaluate import depth_errors, depth_scale, trajectory_error
from hardy.runs import Cell, Study
from hardy.stream import KVPolicy, StreamSession
from hardy.stream.frames import as_tensor
from hardy.stream.scorers import SCORERS
from hardy.stream.vggt import VGGT, VGGTConfig, tiny_vggt
from hardy.zoo.tiny_vggt import HEIGHT, WIDTH, best_constant, held_out
from hardy.zoo.vggt.layers import rotated, rotation_of

FRAMES, BUDGET = 40, 8
"""Frames of a traced video, and the frames in 16 bits whose bytes every rule is held to."""


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames (n, 3, height, width), depths (n, height, width) that are 0 where none is known, camera centres (n, 3)."""

    images: torch.Tensor
    depth: torch.Tensor
    eyes: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Shared:
    model: VGGT
    videos: Mapping[str, Video]
    dense: Mapping[str, torch.Tensor]


def run(*, part: str = "quality", rooms: int = 4, work: Path | None = None) -> Result:
    if part in LADDERS:
        return speed(LADDERS[part])
    if part != "quality":
        raise NotMeasuredError(f"there are parts quality, {', '.join(LADDERS)}, not {part!r}")
    model = tiny_vggt()
    videos = {f"rooms {number}": room(number) for number in range(rooms)}
    notes = []
    if (folder := SHARED / "stream" / "7scenes").is_dir():
        whole = real(folder)
        half = len(whole.images) // 2
        for number, span in enumerate((slice(0, half), slice(half, 2 * half))):
            videos[f"7-Scenes {number}"] = Video(whole.images[span], whole.depth[span], whole.eyes[span])
    else:
        notes.append(f"no real frames: {folder} is not there")
    settings = {"frames": FRAMES, "budget": f"{BUDGET} frames in 16 bits", "pixels": f"{WIDTH} x {HEIGHT}"}
    chosen = arms(model)
    dense = {
        name: torch.stack([step.depth for step in map(StreamSession(model).step, video.images)])
        for name, video in videos.items()
    }
    study = Study(
        name="stream-vision", run=measure, settings=settings, subject=Shared(model, videos, dense), out=work, workers=2
    )  # fmt: skip
    cells = {
        (arm, video): Cell(condition=f"{arm} | {video}", arguments={**how, "video": video}, seed=0)
        for arm, how in chosen.items()
        for video in videos
    }
    found = {result.cell.key: result for result in study.results(list(cells.values()))}
    lines = []
    for kind in dict.fromkeys(name.rpartition(" ")[0] for name in videos):
        mine = [name for name in videos if name.rpartition(" ")[0] == kind]
        for arm in chosen:
            values: list[Any] = [found[cells[arm, video].key].values for video in mine]
            if any(value is None for value in values):
                error = next(found[cells[arm, video].key].error for video in mine)
                notes.append(f"{arm} on {kind} was not measured: {str(error).strip().splitlines()[-1]}")
                continue
            scorer = arm.partition(",")[0]
            control = arm.replace(scorer, "random") if scorer in SCORERS and scorer != "random" else "dense, 16 bits"
            lines += rows(
                f"{arm} | {kind}",
                {"kept": round(statistics.mean(v["kept"] for v in values)), "arm": arm, "video": kind},
                baseline=None if arm == "dense, 16 bits" else f"{control} | {kind}",
                abs_rel=mean_of([v["abs_rel"] for v in values]),
                delta=mean_of([v["delta"] for v in values], "of pixels"),
                trajectory=mean_of([v["trajectory"] for v in values], "m"),
                off_dense=mean_of([v["off_dense"] for v in values]),
                cache=mean_of([v["bytes"] / 1e3 for v in values], "kB"),
            )
        for video_metric, name in (("abs_rel", "best constant depth"), ("trajectory", "no motion")):
            values = [knowing_nothing(videos[video])[video_metric] for video in mine]
            value = mean_of(values, "m" if name == "no motion" else "")
            lines += rows(f"{name} | {kind}", {"arm": name, "video": kind}, **{video_metric: value})
    notes.append("the spread is over videos; bytes are of keys and values across frames, cameras' apart")
    notes.append("off_dense is the mean of |depth - dense depth| / dense depth: what the cache alone changes")
    return Result(rows=lines, settings=settings, seeds=(0,), notes=notes)


def arms(model: VGGT) -> dict[str, dict[str, Any]]:
    """Every arm and what makes it: rules at the same bytes in each layer."""
    config = model.config
    tokens = config.tokens(HEIGHT, WIDTH)
    shape = 1, config.heads, config.heads, config.dim // config.heads
    plain = KVPolicy(budget=BUDGET * tokens).for_frames(tokens, config.special)
    room = plain.bytes_of(BUDGET * tokens, *shape)
    found: dict[str, dict[str, Any]] = {f"dense, {bits} bits": {"bits": bits} for bits in (16, 4)}
    for bits in (16, 4):
        for scorer in SCORERS:
            policy = KVPolicy(bits=bits, scorer=scorer).for_frames(tokens, config.special)
            budget = policy.tokens_in(room, *shape)
            found[f"{scorer}, {bits} bits"] = {"bits": bits, "scorer": scorer, "budget": budget}
    return found


def measure(shared: Shared, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    video = shared.videos[arguments["video"]]
    options = {name: value for name, value in arguments.items() if name != "video"}
    session, most = StreamSession(shared.model, KVPolicy(**options)), 0
    steps = []
    for image in video.images:
        steps.append(session.step(image))
        most = max(most, sum(layer.nbytes for layer in session.layers))
    depth = torch.stack([step.depth for step in steps])
    viewmats = torch.stack([step.viewmat for step in steps])
    eyes = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    known = video.depth > 0
    estimate, target = depth[known], video.depth[known]
    errors = depth_errors(estimate * depth_scale(estimate, target), target)
    dense = shared.dense[arguments["video"]]
    return {
        **errors,
        "trajectory": trajectory_error(eyes, video.eyes),
        "off_dense": float(((depth - dense).abs() / dense).mean()),
        "bytes": float(most),
        "kept": float(session.stats["kept"]),
    }


def knowing_nothing(video: Video) -> dict[str, float]:
    """The errors of the best constant depth and of a camera that never moves."""
    target = video.depth[video.depth > 0]
    still = trajectory_error(torch.zeros_like(video.eyes), video.eyes)
    return {"abs_rel": best_constant(target, torch.ones_like(target)), "trajectory": still}


def room(number: int) -> Video:
    video = held_out(number, FRAMES)
    return Video(video.images, video.depth, video.eyes)


def real(folder: Path) -> Video:
    """The frames of 7-Scenes in metres, as small as the model sees them."""
    images, depths, eyes = [], [], []
    for file in sorted(folder.glob("frame-*.color.jpg")):
        stem = str(file).removesuffix(".color.jpg")
        images.append(as_tensor(np.asarray(Image.open(file).convert("RGB")), HEIGHT, WIDTH))
        depth = np.asarray(Image.open(f"{stem}.depth.png")).astype(np.float32)
        depth[depth > 60_000] = 0
        down, across = depth.shape[0] // HEIGHT, depth.shape[1] // WIDTH
        depths.append(torch.from_numpy(depth[down // 2 :: down, across // 2 :: across] / 1000))
        eyes.append(torch.from_numpy(np.loadtxt(f"{stem}.pose.txt")[:3, 3]).float())
    return Video(torch.stack(images), torch.stack(depths), torch.stack(eyes))


@dataclasses.dataclass(frozen=True)
class Ladder:
    """What the next frame costs after so many others: counts for each size of frames, height and width."""

    config: VGGTConfig
    counts: Mapping[tuple[int, int], tuple[int, ...]]
    policies: Mapping[str, KVPolicy]
    dtype: torch.dtype
    filling: int  # frames after which every session is full
    rounds: int
    warm_up: int


SPEED = VGGTConfig(
    image_size=182, patch_size=14, dim=256, heads=4, encoder_depth=2, depth=6, taps=(1, 2, 3, 5), camera_depth=2,
    camera_heads=4, features=32, channels=(32, 64, 64, 64), dense=("depth",), camera_cache="per-iteration",
)  # fmt: skip
TWO_FRAMES, FOUR_FRAMES, EIGHT_FRAMES = (
    KVPolicy(budget="2f"), KVPolicy(budget="4f", bits=4), KVPolicy(budget="8f", bits=4)
)  # fmt: skip
LADDERS = {
    "speed": Ladder(
        SPEED,
        {(140, 182): (10, 50, 100, 250)},
        {
            "2 frames, 16 bits": TWO_FRAMES,
            "8 frames, 4 bits": EIGHT_FRAMES,
            "8 frames, 4 bits, pooled-query": dataclasses.replace(EIGHT_FRAMES, scorer="pooled-query"),
        },
        torch.float32,
        filling=10,
        rounds=3,
        warm_up=1,
    ),
    "whole": Ladder(
        VGGTConfig(),
        {(140, 182): (10, 50, 100, 200), (392, 518): (10, 50, 100)},
        {"2 frames, 16 bits": TWO_FRAMES, "4 frames, 4 bits": FOUR_FRAMES},
        torch.bfloat16,
        filling=6,
        rounds=1,
        warm_up=0,
    ),
}


class Before:
    """Keys and values of so many frames, random numbers: keys as they are after norm and rotation, or as before."""

    def __init__(self, model: VGGT, pixels: tuple[int, int], frames: int) -> None:
        config = model.config
        dim, dtype = config.dim // config.heads, next(model.parameters()).dtype
        shape = 1, config.heads, frames * config.tokens(*pixels), dim
        chance = generator(0, "stream-vision-speed", frames)
        self.model, self.pixels = model, pixels
        self.layers = [
            [torch.randn(shape, generator=chance, dtype=dtype) for _ in range(2)] for _ in range(config.depth)
        ]
        self.norms: list[Any] = [block.attn.k_norm for block in model.aggregator.global_blocks]
        down, across = config.grid(*pixels)
        self.rotation = rotation_of(down, across, config.special, dim, torch.device("cpu"))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)


class DenseCache:
    """Attention to all of them; with `anew`, every key of the cache goes through norm and rotation again.

    The camera head asks a session, which holds little of a frame.
    """

    def __init__(self, before: Before, cameras: StreamSession, anew: bool) -> None:
        self.before, self.cameras, self.anew = before, cameras, anew

    def block(self, number: int) -> Any:
        return functools.partial(self.attend, number)

    def camera(self, iteration: int, number: int) -> Any:
        return self.cameras.camera(iteration, number)

    def attend(self, number: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        before = self.before
        old, old_values = before.layers[number]
        if self.anew:
            old = rotated(before.norms[number](old), before.rotation)
        both = torch.cat([old, keys], 2), torch.cat([old_values, values], 2)
        return torch.nn.functional.scaled_dot_product_attention(queries, *both)


def speed(ladder: Ladder) -> Result:
    """Seconds and bytes of the next frame after so many."""
    torch.manual_seed(0)
    model, lines = VGGT(ladder.config).to(ladder.dtype).eval(), []
    for pixels, counts in ladder.counts.items():
        frame = torch.rand(3, *pixels)
        sessions = {name: StreamSession(model, policy) for name, policy in ladder.policies.items()}
        for session in sessions.values():
            for _ in range(ladder.filling):
                session.step(frame)
        cameras = StreamSession(model, TWO_FRAMES)
        cameras.step(frame)
        for count in counts:
            before = Before(model, pixels, count)
            dense = {
                "dense": DenseCache(before, cameras, anew=False),
                "dense, every key anew": DenseCache(before, cameras, anew=True),
            }
            steps = {name: timed(functools.partial(forward, model, frame, cache)) for name, cache in dense.items()}
            steps |= {name: timed(functools.partial(session.step, frame)) for name, session in sessions.items()}
            lines += step_rows(in_turns(steps, rounds=ladder.rounds, warm_up=ladder.warm_up), before, sessions, count)
            del before, dense, steps
    notes = [
        f"medians over {ladder.rounds} rounds in which all take turns; ratios are of the same round",
        "weights are random: what is kept means nothing, what it costs does",
        "one thread",
    ]
    settings = {
        "tokens of a frame": {f"{h} x {w}": ladder.config.tokens(h, w) for h, w in ladder.counts},
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(ladder.dtype).removeprefix("torch."),
    }  # fmt: skip
    return Result(rows=lines, seeds=(0,), notes=notes, settings=settings)


def step_rows(
    times: Mapping[str, list[float]], before: Before, sessions: Mapping[str, StreamSession], count: int
) -> list[Any]:
    lines = []
    for name, seconds in times.items():
        size = sessions[name].nbytes if name in sessions else before.nbytes
        ratios = [slow / own for slow, own in zip(times["dense"], seconds, strict=True)]
        anew = [slow / own for slow, own in zip(times["dense, every key anew"], seconds, strict=True)]
        pixels = " x ".join(map(str, before.pixels))
        where = f"after {count} frames of {pixels}"
        lines += rows(
            f"{name} | {where}",
            {"arm": name, "frames": count, "pixels": pixels},
            baseline=None if name == "dense" else f"dense | {where}",
            seconds=Value(statistics.median(seconds), "s", n=len(seconds)),
            times_faster=Value(statistics.median(ratios), "x", n=len(ratios)),
            times_faster_than_anew=Value(statistics.median(anew), "x", n=len(anew)),
            cache=Value(size / 1e6, "MB"),
        )
        print(lines[-4].condition, lines[-4].value, lines[-3].value, flush=True)
    return lines


@torch.no_grad()
def forward(model: VGGT, frame: torch.Tensor, cache: DenseCache) -> None:
    model(frame[None, None].to(next(model.parameters()).dtype), cache, first=False)
