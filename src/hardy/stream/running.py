"""`hardy stream run`: a video frame by frame through a session into a folder, to be gone on with, and its report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardy import checks
from hardy.errors import InputError
from hardy.reading import reading
from hardy.report import Pictures, Report, Row
from hardy.report.figures import Lines, Series
from hardy.runs.checkpoint import Checkpoint, digest
from hardy.runs.progress import progress
from hardy.stream.frames import Frames, as_tensor, fitted
from hardy.stream.policy import KVPolicy
from hardy.stream.recording import PLY_POINTS, Recording
from hardy.stream.session import StreamSession
from hardy.zoo.vggt import VGGT, kv_bytes
from hardy.zoo.vggt.config import CameraCache

SAVE_EVERY = 30
"""Frames between two checkpoints."""
_SHOWN = 6


@dataclasses.dataclass
class _Course:
    """What has been noted of the frames so far."""

    bytes: list[int] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def run(
    source: str | Path,
    out: str | Path,
    *,
    model: VGGT,
    policy: KVPolicy,
    camera_cache: CameraCache | None = None,
    long_side: int | None = None,
    stride: int = 1,
    limit: int | None = None,
    rate: float = 1.0,
    left_out_weights: int = 0,
) -> Report:
    """Stream a video into the folder `out`: see `hardy.stream.recording` for what lies there. The same call goes on.

    Args:
        source: a folder of pictures, or a video file.
        out: the folder, with the session's state until the last frame, and its report.
        model: in evaluation mode.
        policy: what the session keeps.
        camera_cache: as of `StreamSession`.
        long_side: of frames in pixels as the model sees them; by default what it was made for.
        stride: of so many frames one is read.
        limit: at most so many are.
        rate: frames in a second, for the times of the trajectory.
        left_out_weights: tensors of the model's file that are not used, which the report says.

    Raises:
        InputError: an option is out of range, a frame cannot be read or differs in size, or `out` holds another run.
    """
    stride = checks.integer("stride", stride, at_least=1)
    limit = None if limit is None else checks.integer("limit", limit, at_least=1)
    rate = checks.number("rate", rate, above=0)
    config = model.config
    long_side = checks.integer("long_side", long_side or config.image_size, at_least=config.patch_size)
    frames, recording = Frames(source, stride=stride, limit=limit), Recording(out)
    session = StreamSession(model, policy, camera_cache=camera_cache)
    identity = {
        "weights": digest(list(model.parameters())[:8]), "policy": str(policy), "camera_cache": session.camera_cache,
        "source": str(source), "long_side": long_side, "stride": stride,
    }  # fmt: skip
    checkpoint = Checkpoint(recording.folder / "session.safetensors", kind="stream of frames", identity=identity)
    course, size = _Course(), None
    if (state := checkpoint.load()) is not None:
        with reading(checkpoint.path):
            session.load_state_dict(state["session"])
            height, width = state["picture"]
            course, size = _Course(list(state["bytes"]), float(state["seconds"])), (height, width)

    def save() -> None:
        if session.frames:
            noted = {"bytes": course.bytes, "seconds": course.seconds, "picture": size}
            checkpoint.save({"session": session.state_dict(), **noted})

    title = f"{Path(source).name}: frames"
    saved = session.frames
    with progress(title, frames.count, done=saved) as bar:
        try:
            for pixels in frames.read(saved):
                if size is not None and pixels.shape[:2] != size:
                    raise InputError(
                        f"frame {session.frames} of {source} is {pixels.shape[1]} x {pixels.shape[0]} pixels, those "
                        f"before were {size[1]} x {size[0]}"
                    )
                size = pixels.shape[0], pixels.shape[1]
                image = as_tensor(pixels, *fitted(*size, long_side, config.patch_size))
                begun = time.monotonic()
                found = session.step(image)
                course.seconds += time.monotonic() - begun
                recording.write(found, pixels)
                course.bytes.append(session.nbytes)
                bar.update(session.frames, f"{session.nbytes / 1e6:.3g} MB")
                if session.frames % SAVE_EVERY == 0:
                    save()
                    saved = session.frames
        except KeyboardInterrupt:
            if len(course.bytes) == session.frames > saved and not session.failed:
                save()
            raise
    if not session.frames:
        raise InputError(f"{source} has no frames")
    if session.frames > saved:
        save()
    points = recording.finish(session.frames, rate=rate)
    report = _report(session, recording, course, frames, points, identity, left_out_weights)
    report.save(recording.folder)
    return report


def _report(
    session: StreamSession,
    recording: Recording,
    course: _Course,
    frames: Frames,
    points: int,
    identity: dict[str, Any],
    left_out_weights: int,
) -> Report:
    stats, config = session.stats, session.model.config
    assert session.size is not None
    height, width = session.size
    dense = kv_bytes(config, height, width)
    values: Sequence[tuple[str, float, str]] = (
        ("frames", stats["frames"], ""),
        ("tokens of a frame", config.tokens(height, width), ""),
        ("tokens kept of each layer", stats["kept"], ""),
        ("cache at most", max(course.bytes), "B"),
        ("cache of all frames in 16 bits", stats["dense_bytes"], "B"),
        ("one layer unpacked, beside the cache", stats["workspace_bytes"], "B"),
        ("tokens quantized more than once", stats["requantized"], ""),
        ("time of a frame", course.seconds / stats["frames"], "s"),
        ("points written", points, ""),
    )
    counts = tuple(float(i + 1) for i in range(len(course.bytes)))
    memory = Lines(
        title="Memory of the stream",
        caption="What the session holds after each frame, and what all keys and values in 16 bits would take.",
        x_label="frames",
        y_label="MB",
        series=(
            Series(label=str(session.policy), x=counts, y=tuple(size / 1e6 for size in course.bytes)),
            Series(label="everything, 16 bits", x=counts, y=tuple(dense * n / 1e6 for n in counts), style="dashed"),
        ),
    )
    notes = [
        "lengths are in the model's own unit",
        f"points are of the more confident half of each frame, at most {PLY_POINTS:,}",
        "what the first and the current frame need is kept in 16 bits, whatever the bits of the others",
    ]
    if left_out_weights:
        notes.append(f"{left_out_weights} tensors of the weights, the head for tracks, are not used")
    if frames.left_out:
        notes.append(f"{frames.left_out} files of the folder are no frames (no pictures, or depths beside them)")
    said = (
        f"{stats['frames']} frames of {width} x {height}, a cache of at most {max(course.bytes) / 1e6:.4g} MB; all "
        f"keys and values in 16 bits would take {stats['dense_bytes'] / 1e6:.4g} MB."
    )
    return Report(
        title=f"Stream of {Path(identity['source']).name}",
        summary=(said,),
        rows=tuple(Row(metric=name, condition="stream", value=value, unit=unit) for name, value, unit in values),
        figures=(memory, _pictures(recording, stats["frames"], height, width)),
        settings=identity,
        notes=tuple(notes),
    )


def _pictures(recording: Recording, count: int, height: int, width: int) -> Pictures:
    """A few frames and their depths, the first and the last among them."""
    shown = sorted({round(i * (count - 1) / max(1, _SHOWN - 1)) for i in range(min(_SHOWN, count))})
    scale = max(1, 160 // width)

    def enlarged(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((width * scale, height * scale))) / 255

    photos = [enlarged(recording.picture(index)) for index in shown]
    depths = [enlarged(recording.colored(recording.read(index).depth)) for index in shown]
    return Pictures.of(
        "Frames and depths",
        "Near is bright, on the scale of the first frame.",
        ("frame", "depth"),
        tuple(str(index) for index in shown),
        (photos, depths),
    )
