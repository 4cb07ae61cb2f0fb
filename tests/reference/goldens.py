"""Images that the slow oracle took too long for in a test; kept beside this file, with the Gaussians they show.

python tests/reference/goldens.py
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference.splatting import harmonics, render

from hardy.files import write_atomic

RASTERIZED = Path(__file__).parent / "goldens" / "rasterized.safetensors"
WIDTH, HEIGHT = 93, 62


def gaussians(count: int = 800, seed: int = 0) -> dict[str, np.ndarray]:
    """Gaussians in a box before a turned camera, some of them behind it, in float32; and the camera."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(np.eye(3) + 0.1 * random.standard_normal((3, 3)))[0]
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = turn * np.sign(np.diag(turn)), (0.1, -0.05, 4.0)
    made = {
        "means": random.standard_normal((count, 3)) * (1.6, 1.0, 1.5),
        "quats": random.standard_normal((count, 4)),
        "scales": np.exp(0.5 * random.standard_normal((count, 3)) - 1.9),
        "opacities": 1 / (1 + np.exp(-random.standard_normal(count) - 0.5)),
        "colors": 0.3 * random.standard_normal((count, 16, 3)),
        "viewmats": view[None],
        "Ks": np.array([[[50.0, 0, 31], [0, 55, 20], [0, 0, 1]]]),
        "backgrounds": np.array([[0.1, 0.5, 0.9]]),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}


def rasterized() -> dict[str, np.ndarray]:
    """The Gaussians, the image of them and its alphas, and each Gaussian's weights and pixel counts."""
    made = gaussians()
    exact = {name: array.astype(np.float64) for name, array in made.items()}
    view, k, background = (exact.pop(name)[0] for name in ("viewmats", "Ks", "backgrounds"))
    eye = -view[:3, :3].T @ view[:3, 3]
    exact["colors"] = np.array([harmonics(c, m - eye) for c, m in zip(exact["colors"], exact["means"], strict=True)])
    image, alphas, weights, counts = render(**exact, view=view, k=k, width=WIDTH, height=HEIGHT, background=background)
    found = {"image": image, "alphas": alphas, "weights": weights}
    return made | {name: array.astype(np.float32) for name, array in found.items()} | {"pixel_counts": counts}


if __name__ == "__main__":
    write_atomic(RASTERIZED, lambda path: save_file(rasterized(), path))  # which everybody may read
