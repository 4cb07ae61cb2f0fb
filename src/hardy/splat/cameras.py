"""Cameras that took no photo: placed by hand, or on a path around what there is to see."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from hardy.deprecation import renamed_fields
from hardy.errors import InputError
from hardy.ops.projection import rotations
from hardy.splat.ply import Parameters
from hardy.splat.points import looked_at
from hardy.splat.quality import degree_of
from hardy.splat.rendering import RasterizeMode, rasterization
from hardy.splat.scene import Scene

_SWING = math.radians(20)  # at least this far, where cameras say nothing about it
_GAP = math.radians(120)  # without a camera: then nobody knows what is behind


@renamed_fields(k="K")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera.

    Args:
        viewmat: (4, 4), world to camera; x to the right, y down, z forward.
        K: (3, 3), intrinsics in pixels.
        width, height: of the image.
    """

    viewmat: torch.Tensor
    K: torch.Tensor
    width: int
    height: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circle:
    """A path around a point, looking at it.

    Args:
        center: (3,), what is looked at.
        up: (3,), of length 1.
        ahead: (3,), of length 1, across `up`: from the centre to the middle of the path.
        radius: distance from the axis through the centre.
        rise: how far above the centre, along `up`.
        arc: angle of the path; 2 pi for all around, less for back and forth.
        fov: vertical angle of view.
    """

    center: np.ndarray
    up: np.ndarray
    ahead: np.ndarray
    radius: float
    rise: float
    arc: float
    fov: float

    def camera(self, share: float, width: int, height: int) -> Camera:
        """The camera after a share of the path, which ends where it began."""
        whole = self.arc >= 2 * math.pi
        angle = 2 * math.pi * share if whole else self.arc / 2 * math.sin(2 * math.pi * share)
        aside = np.cross(self.up, self.ahead)
        outward = math.cos(angle) * self.ahead + math.sin(angle) * aside
        eye = self.center + self.radius * outward + self.rise * self.up
        return camera_at(eye, self.center, self.up, self.fov, width, height)


def camera_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray, fov: float, width: int, height: int) -> Camera:
    """A camera at `eye` (3,) that looks at `target` (3,), with `fov` radians from top to bottom."""
    ahead = _unit(target - eye)
    right = np.cross(ahead, up)
    if np.linalg.norm(right) < 1e-6:  # straight up or down: any right will do
        right = np.cross(ahead, np.roll(up, 1))
    right = _unit(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return _camera(rotation, eye, fov, width, height)


def camera_of(wxyz: np.ndarray, position: np.ndarray, fov: float, width: int, height: int) -> Camera:
    """A camera from the quaternion (w, x, y, z) that turns it into the world, as viser gives it, and its place."""
    quat = torch.from_numpy(np.asarray(wxyz, dtype=float))
    if not bool(torch.isfinite(quat).all()) or not float(quat.norm()) > 0:
        raise InputError(f"the rotation of a camera must be finite and not zero, got {quat.tolist()}")
    return _camera(rotations(quat / quat.norm()).numpy().T, np.asarray(position, dtype=float), fov, width, height)


def circle_of_scene(scene: Scene) -> Circle:
    """The circle that the training cameras are nearest to; only as much of it as they stand on."""
    eyes = torch.stack([view.eye for view in scene.views]).double().cpu().numpy()
    downs = torch.stack([view.viewmat[1, :3] for view in scene.views]).double().cpu().numpy()
    up = _unit(-downs.mean(0)) if np.linalg.norm(downs.mean(0)) > 1e-3 else _unit(-downs[0])
    center = looked_at(scene).cpu().numpy()
    offsets = eyes - center
    rises = offsets @ up
    flat = offsets - rises[:, None] * up
    radius = float(np.linalg.norm(flat, axis=1).mean())
    if radius < 1e-3 * scene.extent:  # all cameras at one place, looking around
        radius, flat = scene.extent, np.broadcast_to(_across(up), flat.shape)
    first = _unit(flat[0]) if np.linalg.norm(flat[0]) > 1e-9 else _across(up)
    aside = np.cross(up, first)
    angles = np.sort(np.arctan2(flat @ aside, flat @ first))
    gaps = np.diff(np.append(angles, angles[0] + 2 * math.pi))
    widest = int(gaps.argmax())
    arc, middle = 2 * math.pi, 0.0
    if gaps[widest] > _GAP:
        arc = max(2 * math.pi - float(gaps[widest]), _SWING)
        middle = float(angles[widest] + gaps[widest] / 2 + math.pi)
    ahead = math.cos(middle) * first + math.sin(middle) * aside
    view = scene.views[0]
    fov = 2 * math.atan(view.image.shape[0] / 2 / float(view.K[1, 1]))
    return Circle(center=center, up=up, ahead=ahead, radius=radius, rise=float(rises.mean()), arc=arc, fov=fov)


def circle_of_gaussians(parameters: Parameters, fov: float = math.radians(50)) -> Circle:
    """A circle all around the Gaussians, far enough away to see most of them; y is taken to point down.

    Raises:
        InputError: there are none.
    """
    means = parameters["means"].detach().double().cpu()
    if not len(means):
        raise InputError("there are no Gaussians to look at")
    seen = parameters["opacities"].detach().sigmoid().cpu() > 0.1
    means = means[seen] if bool(seen.any()) else means
    center = means.median(0).values
    reach = float((means - center).norm(dim=1).sort().values[int(0.9 * (len(means) - 1))])
    reach = reach or float(parameters["scales"].detach().exp().max())
    away = 1.1 * reach / math.sin(fov / 2)
    up, ahead = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, -1.0])
    rise, radius = 0.25 * away, math.sqrt(1 - 0.25**2) * away
    return Circle(center=center.numpy(), up=up, ahead=ahead, radius=radius, rise=rise, arc=2 * math.pi, fov=fov)


def render_camera(
    parameters: Parameters,
    camera: Camera,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    rasterize_mode: RasterizeMode = "classic",
) -> np.ndarray:
    """(height, width, 3) uint8: what a camera sees, at the degree that there is."""
    device = parameters["means"].device
    with torch.no_grad():
        images, _, _ = rasterization(
            parameters["means"],
            parameters["quats"],
            parameters["scales"].exp(),
            parameters["opacities"].sigmoid(),
            torch.cat([parameters["sh0"], parameters["shN"]], 1),
            camera.viewmat[None].to(device),
            camera.K[None].to(device),
            camera.width,
            camera.height,
            sh_degree=degree_of(parameters),
            backgrounds=torch.tensor([background], device=device),
            rasterize_mode=rasterize_mode,
        )
    return (images[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _camera(rotation: np.ndarray, eye: np.ndarray, fov: float, width: int, height: int) -> Camera:
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
    focal = height / 2 / math.tan(fov / 2)
    k = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(viewmat=torch.from_numpy(viewmat).float(), K=k, width=width, height=height)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _across(up: np.ndarray) -> np.ndarray:
    """Some direction across `up`."""
    return _unit(np.cross(up, np.eye(3)[int(np.abs(up).argmin())]))
