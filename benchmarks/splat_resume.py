"""A training of 30,000 steps, killed at random moments and gone on with, against one that was left alone.

The ray-traced room at 32 x 24 pixels with at most 300 Gaussians and all of densification, through the command line, one
thread. The processes are killed with SIGKILL; compared are the Gaussians' file, every tensor of the last checkpoint
(parameters, moments, state of the strategy) and the history of evaluations without its seconds, byte for byte.

    python -m benchmarks run splat_resume
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from benchmarks.harness import Result, Value, rows
from hardy.core.rng import generator
from hardy.files import write_json
from hardy.splat import save_ply
from hardy.splat.points import gaussians_from
from hardy.splat.room import room

STRATEGY, BUDGET, DEGREE, SEED = "global-to-local-reactivate", 300, 1, 0
START_UP = 6.0  # seconds at least that a process is left to run: Python, torch, the checkpoint


def run(*, steps: int = 30_000, kills: int = 5) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene, start = write_room(place / "scene")
        line = [sys.executable, "-m", "hardy", "splat", "train", str(scene), "", "--strategy", STRATEGY]
        line += ["--steps", str(steps), "--budget", str(BUDGET), "--degree", str(DEGREE)]
        line += ["--start", str(start), "--seed", str(SEED)]

        began = time.perf_counter()
        train(line, place / "whole")
        whole_seconds = time.perf_counter() - began
        print(f"left alone: {whole_seconds:.0f} s", flush=True)

        killed_at, random = [], generator(SEED, "kills")
        began = time.perf_counter()
        while len(killed_at) < kills:
            wait = START_UP + float(torch.rand((), generator=random)) * max(1.0, whole_seconds / kills)
            killed = train([*line, "--snapshot-every", "700"], place / "killed", wait)
            at = reached(place / "killed") if (place / "killed" / "checkpoint.safetensors").is_file() else 0
            if not killed:
                raise SystemExit(f"the training ended before kill {len(killed_at) + 1}")
            killed_at.append({"after_seconds": round(wait, 2), "goes_on_from_step": at})
            print(killed_at[-1], flush=True)
        train([*line, "--snapshot-every", "700"], place / "killed")
        killed_seconds = time.perf_counter() - began

        found = {"left_alone": facts(place / "whole"), "killed": facts(place / "killed")}
        same = {name: found["left_alone"][name] == found["killed"][name] for name in found["killed"]}
    print(json.dumps(found, indent=1))
    if not all(same.values()):
        raise SystemExit(f"not the same: {', '.join(name for name, alike in same.items() if not alike)}")
    lines = rows("left alone", seconds=Value(whole_seconds, "s"))
    lines += rows("killed", {"kills": kills}, seconds=Value(killed_seconds, "s"), same=len(same), compared=len(same))
    settings = {"strategy": STRATEGY, "budget": BUDGET, "degree": DEGREE}
    return Result(rows=lines, settings=settings, seeds=(SEED,), raw={"kills": killed_at, **found})


def write_room(folder: Path) -> tuple[Path, Path]:
    """The room as photos with a transforms.json, and a PLY file of Gaussians at its points."""
    scene = room(width=32, height=24, views=16, points=150)
    folder.mkdir()
    frames = []
    for view in sorted((*scene.views, *scene.held_out), key=lambda view: view.name):
        Image.fromarray((view.image * 255).round().to(torch.uint8).numpy()).save(folder / view.name)
        pose = np.linalg.inv(view.viewmat.double().numpy())
        pose[:3, 1:3] *= -1
        frames.append({"file_path": view.name, "transform_matrix": pose.tolist()})
    record = {"fl_x": float(scene.views[0].K[0, 0]), "w": 32, "h": 24, "frames": frames}
    write_json(folder / "transforms.json", record)
    save_ply(gaussians_from(scene, DEGREE), folder / "start.ply")
    return folder, folder / "start.ply"


def train(line: list[str], out: Path, kill_after: float | None = None) -> bool:
    """Train into a folder; whether the process was killed."""
    words = [str(out) if word == "" else word for word in line]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise SystemExit(said.decode())
    return False


def reached(out: Path) -> int:
    """The step of the checkpoint."""
    return record_of(out)["record"]["step"]


def record_of(out: Path) -> dict[str, Any]:
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        return json.loads(file.metadata()["record"])["state"]


def facts(out: Path) -> dict[str, Any]:
    """What must be the same: digests of the file, of all tensors, and the history without seconds."""
    record = record_of(out)
    tensors = hashlib.sha256()
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            tensors.update(name.encode() + file.get_tensor(name).numpy().tobytes())
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in record["record"]["history"]]
    return {
        "ply_sha256": hashlib.sha256((out / "gaussians.ply").read_bytes()).hexdigest(),
        "checkpoint_tensors_sha256": tensors.hexdigest(),
        "history_sha256": hashlib.sha256(json.dumps(history).encode()).hexdigest(),
        "final": history[-1],
        "state": {key: value for key, value in record["state"].items() if isinstance(value, int | float)},
    }
