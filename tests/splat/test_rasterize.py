"""The rasterizer against its oracles, against gsplat's own images, and what it refuses."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import goldens
from reference.goldens import RASTERIZED
from reference.splatting import render
from safetensors.torch import load_file

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.splat import View, rasterization

WIDTH, HEIGHT = 37, 21
PATHS = [*kernels.paths(), "torch"]
NEEDS_KERNELS = pytest.mark.skipif(not kernels.paths(), reason="hardy's compiled kernels were not built")


def gaussians(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Gaussians about the origin, with spherical harmonics, a camera that looks at them, and a background.

    The numbers are the same in every dtype. With these seeds nothing lies so close to a cut-off that rounding decides.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    turn = torch.linalg.matrix_exp(0.2 * (lambda m: m - m.T)(normal(3, 3)))
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3], view[:3, 3] = turn, torch.tensor([0.1, -0.05, 4.0], dtype=torch.float64)
    made = {
        "means": normal(count, 3) * torch.tensor([1.2, 0.8, 0.7]),
        "quats": normal(count, 4),
        "scales": (0.5 * normal(count, 3) - 1.5).exp(),
        "opacities": (normal(count) + 1).sigmoid(),
        "colors": 0.3 * normal(count, 16, 3),
        "viewmats": view[None],
        "Ks": torch.tensor([[[30.0, 0, 18], [0, 33, 10], [0, 0, 1]]]),
        "backgrounds": torch.tensor([[0.1, 0.5, 0.9]]),
    }
    return {name: tensor.float().to(dtype) for name, tensor in made.items()}


def plain(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The same with plain colors."""
    made = gaussians(count, seed, dtype)
    return made | {"colors": made["colors"][:, 0].abs()}


def run(inputs: dict[str, torch.Tensor], path: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """Images and the gradients of a random function of them, by name."""
    monkeypatch.setenv("HARDY_KERNELS", path)
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    image, alphas, info = rasterization(**inputs, width=WIDTH, height=HEIGHT, **options)  # pyright: ignore[reportArgumentType]
    info["means2d"].retain_grad()
    random = torch.Generator().manual_seed(5)
    wanted = [torch.randn(t.shape, generator=random, dtype=torch.float64).to(t) for t in (image, alphas)]
    ((image * wanted[0]).sum() + (alphas * wanted[1]).sum()).backward()
    found = {"image": image.detach(), "alphas": alphas.detach(), "by means2d": info["means2d"].grad}
    found |= {f"by {name}": tensor.grad for name, tensor in inputs.items()}
    return found | {name: info[name] for name in ("weights", "pixel_counts", "radii", "absgrad", "conics", "depths")}


def close(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    for name, value in expected.items():
        error = (found[name].double() - value.double()).abs().max()
        assert error <= tolerance * value.double().abs().max(), (name, error)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("path", PATHS)
def test_agrees_with_loops_over_pixels_and_gaussians(path: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_KERNELS", path)
    inputs = plain(40, seed=3)
    inputs["means"][0, 2] = -9.0  # behind the camera
    inputs["opacities"][1:6] = 0.9999  # cut at 0.999
    inputs["scales"][1:6] = 2.0
    image, alphas, info = rasterization(**inputs, width=WIDTH, height=HEIGHT, rasterize_mode=mode)  # pyright: ignore[reportArgumentType]
    arrays = {name: tensor.double().numpy() for name, tensor in inputs.items()}
    view, k, background = (arrays.pop(name)[0] for name in ("viewmats", "Ks", "backgrounds"))
    expected = render(
        **arrays, view=view, k=k, width=WIDTH, height=HEIGHT, background=background, antialiased=mode == "antialiased"
    )
    assert np.abs(image[0].numpy() - expected[0]).max() < 3e-6
    assert np.abs(alphas[0, ..., 0].numpy() - expected[1]).max() < 3e-6
    assert np.abs(info["weights"][0].numpy() - expected[2]).max() < 1e-4
    assert (info["pixel_counts"][0].numpy() == expected[3]).all()
    assert expected[1].max() > 0.999  # pixels that were finished early took part


@NEEDS_KERNELS
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("path", kernels.paths())
def test_kernels_agree_with_torch_in_float64(path: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"sh_degree": 3, "render_mode": "RGB+ED", "rasterize_mode": mode}
    expected = run(gaussians(150, seed=2, dtype=torch.float64), "torch", monkeypatch, **options)
    close(run(gaussians(150, seed=2), path, monkeypatch, **options), expected, 2e-5)


@NEEDS_KERNELS
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_lower_degrees_of_harmonics(degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(gaussians(30, dtype=torch.float64), "torch", monkeypatch, sh_degree=degree)
    found = run(gaussians(30), kernels.paths()[0], monkeypatch, sh_degree=degree)
    close(found, expected, 2e-5)
    assert not found["by colors"][:, (degree + 1) ** 2 :].any()


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gradients_are_those_of_finite_differences(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in float64, in every input; few pixels, so that no cut-off lies within a step."""
    monkeypatch.setenv("HARDY_KERNELS", "torch")
    inputs = gaussians(5, seed=1, dtype=torch.float64)
    inputs["scales"] = inputs["scales"] + 0.4

    def image(*tensors: torch.Tensor) -> torch.Tensor:
        named: Any = dict(zip(inputs, tensors, strict=True))
        named["Ks"] = named["Ks"] / torch.tensor([[8.0], [8.0], [1.0]], dtype=torch.float64)
        made, alphas, _ = rasterization(
            **named, width=4, height=2, sh_degree=3, render_mode="RGB+D", rasterize_mode=mode
        )
        return torch.cat([made, alphas], -1)

    wanted = [tensor.requires_grad_() for tensor in inputs.values()]
    assert torch.autograd.gradcheck(image, wanted, eps=1e-7, atol=1e-5, rtol=1e-4, check_undefined_grad=False)


@NEEDS_KERNELS
def test_the_same_bits_on_every_path_and_for_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = gaussians(2500, seed=7)  # more than one chunk of 1024
    expected = run(inputs, "scalar", monkeypatch, sh_degree=3)
    for path in kernels.paths():
        for threads in (1, 2, 3):
            before = torch.get_num_threads()
            try:
                torch.set_num_threads(threads)
                found = run(inputs, path, monkeypatch, sh_degree=3)
            finally:
                torch.set_num_threads(before)
            for name, value in expected.items():
                # Torch's own sum over the image depends on threads.
                assert name == "by backgrounds" or torch.equal(found[name], value), (path, threads, name)


@pytest.mark.parametrize("path", PATHS)
def test_gives_the_image_that_loops_are_too_slow_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """800 Gaussians with spherical harmonics of degree 3; `goldens.py` made them."""
    monkeypatch.setenv("HARDY_KERNELS", path)
    kept = load_file(RASTERIZED)
    expected = {name: kept.pop(name) for name in ("image", "alphas", "weights", "pixel_counts")}
    height, width = expected["alphas"].shape
    image, alphas, info = rasterization(**kept, width=width, height=height, sh_degree=3)  # pyright: ignore
    assert (image[0] - expected["image"]).abs().max() < 5e-6
    assert (alphas[0, ..., 0] - expected["alphas"]).abs().max() < 5e-6
    assert (info["weights"][0] - expected["weights"]).abs().max() < 2e-6 * expected["weights"].max()
    assert torch.equal(info["pixel_counts"][0].long(), expected["pixel_counts"])


def test_the_kept_image_is_of_the_gaussians_that_the_script_makes() -> None:
    kept = load_file(RASTERIZED)
    assert all(torch.equal(kept[name], torch.from_numpy(made)) for name, made in goldens.gaussians().items())


@pytest.mark.parametrize(("name", "most"), [("tiny", 1e-5), ("basic", 1e-5)])
@pytest.mark.parametrize("path", PATHS)
def test_gives_the_images_of_gsplat(
    name: str, most: float, path: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDY_KERNELS", path)
    case = load_file(data / "splat" / f"{name}_case.safetensors")
    view = torch.eye(4)
    view[:3, 3] = -torch.tensor([0.123, 0.456, -8.0])
    k = torch.tensor([[61.5, 0, 61.5], [0, 61.5, 41], [0, 0, 1]])
    image, alphas, _ = rasterization(
        case["means"],
        case["quats"],
        case["scales"].exp(),
        case["opacities"].sigmoid(),
        case["coeffs"],
        view[None],
        k[None],
        123,
        82,
        sh_degree=3,
    )
    assert (torch.cat([image, alphas], -1)[0] - case["out_img"]).abs().max() < most


@pytest.mark.parametrize("path", PATHS)
def test_weights_are_the_gradient_of_a_channel_of_zeros(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_KERNELS", path)
    inputs = gaussians(100)
    del inputs["backgrounds"]
    zeros = torch.zeros(100, 1, requires_grad=True)
    image, _, info = rasterization(**inputs, width=WIDTH, height=HEIGHT, sh_degree=2, features=zeros)  # pyright: ignore[reportArgumentType]
    assert not image[..., 3].any()
    image[..., 3].sum().backward()
    assert zeros.grad is not None
    torch.testing.assert_close(zeros.grad[:, 0], info["weights"][0], rtol=1e-5, atol=1e-5)
    assert (info["pixel_counts"][0] > 0).equal(info["weights"][0] > 0)


@pytest.mark.parametrize("path", PATHS)
def test_cameras_and_channels_do_not_disturb_each_other(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: dict[str, Any] = plain(60)
    del inputs["backgrounds"]
    inputs["colors"] = torch.cat([inputs["colors"], torch.rand(60, 4, generator=torch.Generator().manual_seed(0))], 1)
    turned = inputs["viewmats"].clone()
    turned[:, 2, 3] += 1
    both = inputs | {"viewmats": torch.cat([inputs["viewmats"], turned]), "Ks": inputs["Ks"].expand(2, -1, -1)}
    together = run(both, path, monkeypatch)
    apart = [run(inputs, path, monkeypatch)["image"], run(inputs | {"viewmats": turned}, path, monkeypatch)["image"]]
    assert torch.equal(together["image"], torch.cat(apart))
    few = run(inputs | {"colors": inputs["colors"][:, 1:4]}, path, monkeypatch)
    torch.testing.assert_close(together["image"][:1, ..., 1:4], few["image"])
    assert together["absgrad"].shape == (2, 60, 2)
    assert (together["absgrad"] >= together["by means2d"].abs() * (1 - 1e-4) - 1e-5).all()


@pytest.mark.parametrize("path", PATHS)
def test_depth_modes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_KERNELS", path)
    inputs: Any = plain(50) | {"width": WIDTH, "height": HEIGHT}
    color, alphas, _ = rasterization(**inputs)
    deep = rasterization(**inputs, render_mode="D")[0]
    both = rasterization(**inputs, render_mode="RGB+ED")[0]
    torch.testing.assert_close(both[..., :3], color)
    torch.testing.assert_close(both[..., 3:], deep / alphas.clamp(min=1e-10))
    one = {name: value[:1] if name in ("means", "quats", "scales", "opacities", "colors") else value for name, value
           in inputs.items()}  # fmt: skip
    expected, alphas, info = rasterization(**one, render_mode="ED")
    assert alphas.max() > 0.01
    torch.testing.assert_close(expected[alphas > 0.01], info["depths"][0].expand(int((alphas > 0.01).sum())))


@pytest.mark.parametrize("path", PATHS)
def test_nothing_to_see_shows_the_background(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = run(plain(0), path, monkeypatch)
    behind = plain(30)
    behind["viewmats"][:, 2, 3] = -40
    unseen = run(behind, path, monkeypatch)
    for found in (empty, unseen):
        assert torch.equal(found["image"], torch.tensor([0.1, 0.5, 0.9]).expand(1, HEIGHT, WIDTH, 3))
        assert not found["alphas"].any()
    assert not unseen["by means"].any()
    assert not unseen["radii"].any()


@pytest.mark.parametrize("path", PATHS)
@given(seed=st.integers(0, 10**6), size=st.floats(-12, 8), length=st.floats(-8, 8))
def test_any_sizes_give_finite_images_and_gradients(path: str, seed: int, size: float, length: float) -> None:
    before = os.environ.get("HARDY_KERNELS")
    with pytest.MonkeyPatch.context() as patch:
        inputs = plain(6, seed)
        inputs["scales"] = inputs["scales"] * torch.tensor([1.0, 10.0**size, 10 ** (size / 2)]).clamp(1e-15, 1e8)
        inputs["quats"] = inputs["quats"] * 10**length
        found = run(inputs, path, patch, rasterize_mode="antialiased")
    assert os.environ.get("HARDY_KERNELS") == before
    for name, value in found.items():
        assert torch.isfinite(value).all(), name
    assert (found["alphas"] <= 1).all()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"means": torch.zeros(7, 2)}, r"means must have the shape \(7, 3\), got \(7, 2\)"),
    ({"quats": torch.zeros(7, 4)}, r"quats must not be zero, as that of Gaussian 0 is"),
    ({"scales": torch.zeros(7, 3)}, r"scales must be above 0, got 0; they are not logarithms here"),
    ({"scales": torch.full((7, 3), torch.nan)}, r"scales holds 21 values that are not finite"),
    ({"opacities": torch.ones(7, 1)}, r"opacities must have the shape \(7,\), got \(7, 1\)"),
    ({"viewmats": torch.eye(4)}, r"viewmats must have the shape \(4, 4, 4\), got \(4, 4\)"),
    ({"viewmats": torch.zeros(0, 4, 4), "Ks": torch.zeros(0, 3, 3)}, r"at least one camera"),
    ({"Ks": torch.eye(3).expand(2, 3, 3)}, r"Ks must have the shape \(1, 3, 3\), got \(2, 3, 3\)"),
    ({"width": 0}, r"at least one pixel, got 0 x 21"),
    ({"sh_degree": 4}, r"sh_degree must be 0 to 3.*got 4"),
    ({"sh_degree": 1}, r"colors must have the shape \(7, at least 4, 3\) for sh_degree=1, got \(7, 3\)"),
    ({"colors": torch.zeros(6, 3)}, r"colors must have the shape \(7, D\) or \(1, 7, D\), got \(6, 3\)"),
    ({"colors": torch.zeros(7, 32)}, r"must have 1 to 31 channels, got 32"),
    ({"features": torch.zeros(6, 1)}, r"features must have the shape \(7, E\), got \(6, 1\)"),
    ({"backgrounds": torch.zeros(3)}, r"backgrounds must have the shape \(1, 3\), got \(3,\)"),
    ({"render_mode": "RGBD"}, r"render_mode must be RGB, D, ED, RGB\+D or RGB\+ED, got 'RGBD'"),
    ({"rasterize_mode": "smooth"}, r"rasterize_mode must be classic or antialiased, got 'smooth'"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_refuses_what_makes_no_sense(wrong: dict[str, Any], message: str) -> None:
    inputs: Any = plain(7) | {"width": WIDTH, "height": HEIGHT} | wrong
    with pytest.raises(InputError, match=message):
        rasterization(**inputs)


def test_the_arguments_of_gsplat_are_taken_where_they_mean_what_is_done_anyway() -> None:
    inputs: Any = plain(7) | {"width": WIDTH, "height": HEIGHT}
    expected = rasterization(**inputs)[0]
    same: dict[str, Any] = {
        "packed": False,
        "absgrad": True,
        "sparse_grad": False,
        "tile_size": 8,
        "camera_model": "pinhole",
    }
    same["rolling_shutter"] = types.SimpleNamespace(name="GLOBAL")  # as gsplat's enumeration has it
    assert torch.equal(rasterization(**inputs, **same, tile_size=8, covars=None, channel_chunk=32)[0], expected)
    with pytest.raises(InputError, match="packed must be False here, got True"):
        rasterization(**inputs, packed=True)
    with pytest.raises(InputError, match="camera_model must be 'pinhole' here, got 'fisheye'"):
        rasterization(**inputs, camera_model="fisheye")
    with pytest.raises(TypeError, match="unexpected keyword argument 'tiles'"):
        rasterization(**inputs, tiles=8)


def test_scenes_in_batch_dimensions_are_those_alone() -> None:
    inputs = [gaussians(20, seed) for seed in range(2)]
    backgrounds = torch.stack([each.pop("backgrounds") for each in inputs])
    batch = {name: torch.stack([each[name] for each in inputs])[:, None] for name in inputs[0]}  # (2, 1, ...)
    means = batch.pop("means").requires_grad_()
    image, alphas, info = rasterization(
        means, **batch, width=WIDTH, height=HEIGHT, sh_degree=2, backgrounds=backgrounds[:, None]
    )
    assert image.shape == (2, 1, 1, HEIGHT, WIDTH, 3)
    assert alphas.shape == (2, 1, 1, HEIGHT, WIDTH, 1)
    assert info["weights"].shape == (2, 1, 1, 20)
    info["scenes"][1]["means2d"].retain_grad()
    image[1].sum().backward()
    for i, each in enumerate(inputs):
        alone, _, known = rasterization(**each, width=WIDTH, height=HEIGHT, sh_degree=2, backgrounds=backgrounds[i])
        assert torch.equal(image[i, 0], alone)
        assert torch.equal(info["pixel_counts"][i, 0], known["pixel_counts"])
    assert means.grad is not None
    assert not means.grad[0].any()
    assert means.grad[1].any()
    assert info["scenes"][1]["means2d"].grad.any()
    with pytest.raises(InputError, match="quats must begin with the batch dimensions"):
        rasterization(means, **batch | {"quats": batch["quats"][:1]}, width=WIDTH, height=HEIGHT, sh_degree=2)


def test_each_camera_may_have_coefficients_and_all_one_background() -> None:
    inputs = gaussians(20) | {"backgrounds": torch.tensor([0.1, 0.5, 0.9])}
    size = {"width": WIDTH, "height": HEIGHT, "sh_degree": 3}
    own = torch.stack([inputs["colors"], -inputs["colors"]])
    pair = {name: inputs[name].expand(2, -1, -1) for name in ("viewmats", "Ks")}
    both, _, _ = rasterization(**inputs | pair | {"colors": own}, **size)
    for camera in range(2):
        alone, _, _ = rasterization(
            **inputs | {"colors": own[camera], "backgrounds": torch.tensor([[0.1, 0.5, 0.9]])}, **size
        )
        assert torch.equal(both[camera], alone[0])
    with pytest.raises(InputError, match=r"or \(2, 20, at least 16, 3\)"):
        rasterization(**inputs | pair | {"colors": own[:1]}, **size)


def test_the_old_name_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="hardy.splat.rasterize is now called rasterization"):
        from hardy.splat import rasterize  # pyright: ignore[reportAttributeAccessIssue]
    assert rasterize is rasterization
    with pytest.warns(DeprecationWarning, match="k of View is now called K"):
        view = View(name="a", image=torch.zeros(2, 2, 3), viewmat=torch.eye(4), k=torch.eye(3))  # pyright: ignore
    with pytest.warns(DeprecationWarning, match="k of View is now called K"):
        assert torch.equal(view.k, view.K)  # pyright: ignore[reportAttributeAccessIssue]


def test_nothing_is_said_of_leaks_when_a_graph_outlives_the_interpreter() -> None:
    code = """
import torch
from hardy.splat import View, rasterization
means, view = torch.randn(20, 3, requires_grad=True), torch.eye(4)
view[2, 3] = 4
ones, k = torch.ones(20), torch.tensor([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])
kept = rasterization(means, torch.randn(20, 4), torch.full((20, 3), 0.1), ones, torch.rand(20, 3), view[None], k[None],
                     80, 60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
