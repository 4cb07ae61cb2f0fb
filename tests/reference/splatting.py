"""3D Gaussian splatting, pixel by pixel and Gaussian by Gaussian, in float64."""

import math

import numpy as np
from scipy.special import lpmv


def harmonics(coefficients: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The color, (3,), of (16, 3) coefficients seen along a direction: real harmonics by Legendre's polynomials."""
    x, y, z = direction / np.linalg.norm(direction)
    angle, color, at = math.atan2(y, x), np.full(3, 0.5), 0
    for degree in range(4):
        for order in range(-degree, degree + 1):
            m = abs(order)
            size = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m))
            wave = 1.0 if m == 0 else math.sqrt(2) * (math.cos(m * angle) if order > 0 else math.sin(m * angle))
            color = color + size * wave * lpmv(m, degree, z) * coefficients[at]
            at += 1
    return np.maximum(color, 0)


def rotation(quat: np.ndarray) -> np.ndarray:
    w, x, y, z = quat / np.linalg.norm(quat)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def seen(mean, quat, scale, view, k, width, height, blur):
    """Centre, depth, blurred covariance in the image, and how much the blur should lower the opacity."""
    x, y, z = view[:3, :3] @ mean + view[:3, 3]
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    u = np.clip(fx * x / z + cx, -0.15 * width, 1.15 * width) - cx
    v = np.clip(fy * y / z + cy, -0.15 * height, 1.15 * height) - cy
    slope = np.array([[fx / z, 0, -u / z], [0, fy / z, -v / z]])
    turn = rotation(quat)
    covariance = slope @ view[:3, :3] @ turn @ np.diag(scale**2) @ turn.T @ view[:3, :3].T @ slope.T
    blurred = covariance + blur * np.eye(2)
    lowered = np.sqrt(max(0, np.linalg.det(covariance)) / np.linalg.det(blurred))
    return np.array([fx * x / z + cx, fy * y / z + cy]), z, blurred, lowered


def render(means, quats, scales, opacities, colors, view, k, width, height, *, background, blur=0.3, antialiased=False):
    """Image, alphas, and each Gaussian's summed weights and pixel counts."""
    splats = []
    for i in range(len(means)):
        if view[2, :3] @ means[i] + view[2, 3] >= 0.01:
            centre, depth, covariance, lowered = seen(means[i], quats[i], scales[i], view, k, width, height, blur)
            splats.append((depth, i, centre, np.linalg.inv(covariance), opacities[i] * (lowered if antialiased else 1)))
    splats.sort(key=lambda splat: splat[:2])
    image, alphas = np.zeros((height, width, colors.shape[1])), np.zeros((height, width))
    weights, counts = np.zeros(len(means)), np.zeros(len(means), dtype=int)
    for row in range(height):
        for column in range(width):
            left = 1.0
            for _, i, centre, inverse, opacity in splats:
                offset = centre - (column + 0.5, row + 0.5)
                alpha = min(0.999, opacity * np.exp(-offset @ inverse @ offset / 2))
                if alpha < 1 / 255:
                    continue
                if left * (1 - alpha) <= 1e-4:
                    break
                image[row, column] += alpha * left * colors[i]
                weights[i] += alpha * left
                counts[i] += 1
                left *= 1 - alpha
            image[row, column] += left * background
            alphas[row, column] = 1 - left
    return image, alphas, weights, counts
