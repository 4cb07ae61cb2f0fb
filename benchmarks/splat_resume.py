"""A training of 30,000 steps, killed at random moments and gone on with, against one that was left alone.

The ray-traced room at 32 x 24 pixels with at most 300 Gaussians and all of densification, through the command line, one
thread. The processes are killed with SIGKILL; compared are the Gaussians' file, every tensor of the last checkpoint
(parameters, moments, state of the strategy) and the history of evaluations without its seconds, byte for byte.
Written to benchmarks/results/splat_resume.json.
"""

import argparse
import hashlib
import json
import os
import platform
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
from survival import processor

import hardy
from hardy.core.rng import generator
from hardy.files import write_json
from hardy.splat import save_ply
from hardy.splat.points import gaussians_from
from hardy.splat.room import room

RESULT = Path(__file__).parent / "results" / "splat_resume.json"
STRATEGY, BUDGET, DEGREE, SEED = "global-to-local-reactivate", 300, 1, 0
START_UP = 6.0  # seconds at least that a process is left to run: Python, torch, the checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene, start = write_room(place / "scene")
        line = [sys.executable, "-m", "hardy", "splat", "train", str(scene), "", "--strategy", STRATEGY]
        line += ["--steps", str(options.steps), "--budget", str(BUDGET), "--degree", str(DEGREE)]
        line += ["--start", str(start), "--seed", str(SEED)]

        began = time.perf_counter()
        run(line, place / "whole")
        whole_seconds = time.perf_counter() - began
        print(f"left alone: {whole_seconds:.0f} s", flush=True)

        kills, random = [], generator(SEED, "kills")
        began = time.perf_counter()
        while len(kills) < options.kills:
            longest = whole_seconds / options.kills
            wait = START_UP + float(torch.rand((), generator=random)) * max(1.0, longest)
            killed = run([*line, "--snapshot-every", "700"], place / "killed", wait)
            at = reached(place / "killed") if (place / "killed" / "checkpoint.safetensors").is_file() else 0
            if not killed:
                raise SystemExit(f"the training ended before kill {len(kills) + 1}")
            kills.append({"after_seconds": round(wait, 2), "goes_on_from_step": at})
            print(kills[-1], flush=True)
        run([*line, "--snapshot-every", "700"], place / "killed")
        killed_seconds = time.perf_counter() - began

        found = {"left_alone": facts(place / "whole"), "killed": facts(place / "killed")}
        same = {name: found["left_alone"][name] == found["killed"][name] for name in found["killed"]}
        result = {
            "steps": options.steps,
            "strategy": STRATEGY,
            "budget": BUDGET,
            "degree": DEGREE,
            "kills": kills,
            "seconds": {"left_alone": whole_seconds, "killed": killed_seconds},
            **found,
            "same": same,
            "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "system": platform.system()},
            "versions": {"hardy": hardy.__version__, "python": platform.python_version(), "torch": torch.__version__},
        }
    write_json(RESULT, result)
    print(json.dumps(result, indent=1))
    if not all(same.values()):
        raise SystemExit(f"not the same: {', '.join(name for name, alike in same.items() if not alike)}")


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


def run(line: list[str], out: Path, kill_after: float | None = None) -> bool:
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


if __name__ == "__main__":
    main()
