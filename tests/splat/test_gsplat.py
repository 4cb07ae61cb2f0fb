"""CUDA: how gsplat is asked and what is made of its answer; on a GPU, where there is one, that it is the same."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from splat.scenes import known_scene

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.splat import evaluate, rasterization, strategies, train
from hardy.splat.gsplat_backend import rasterization_gsplat
from hardy.splat.points import gaussians_from
from hardy.splat.training import Options, splat_device

DEFAULTS: dict[str, Any] = {
    "sh_degree": None,
    "features": None,
    "near_plane": 0.01,
    "far_plane": 1e10,
    "radius_clip": 0.0,
    "eps2d": 0.3,
    "backgrounds": None,
    "render_mode": "RGB",
    "rasterize_mode": "classic",
}
CHANGES: list[dict[str, Any]] = [
    {},
    {"render_mode": "RGB+ED", "rasterize_mode": "antialiased"},
    {"render_mode": "D"},
    {"render_mode": "RGB+D", "backgrounds": torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.0, 0.3]])},
    {"sh_degree": 2, "near_plane": 0.5, "far_plane": 20.0, "radius_clip": 1.0, "eps2d": 0.2},
    {"features": True, "sh_degree": 1},
]


class Recorder:
    """Stands where gsplat would: it keeps what it is asked, and answers with its signature through `rasterization`."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.counts = torch.zeros(0)

    def rasterization(
        self,
        means: Any,
        quats: Any,
        scales: Any,
        opacities: Any,
        colors: Any,
        viewmats: Any,
        k: Any,
        *size: int,
        **rest: Any,
    ) -> Any:
        self.asked = dict(rest, colors=colors)
        fixed = {"packed": False, "absgrad": True, "tile_size": 16, "sh_degree": None}
        for name, value in fixed.items():
            assert rest.pop(name) == value, name
        image, alphas, info = rasterization(means, quats, scales, opacities, colors, viewmats, k, *size, **rest)
        self.counts = info["pixel_counts"]
        names = ("means2d", "radii", "depths", "conics", "opacities")
        meta = {name: info[name] for name in names} | {"flatten_ids": torch.zeros(11), "isect_offsets": torch.zeros(2)}
        return image, alphas, meta

    def rasterize_to_indices_in_range(self, first: int, last: int, clear: Any, means2d: Any, *rest: Any) -> Any:
        assert (first, last) == (0, 2**31 - 1)
        assert clear.shape == (2, 30, 40)
        assert bool((clear == 1).all())
        assert rest[2:5] == (40, 30, 16)
        cameras, gaussians = self.counts.nonzero(as_tuple=True)
        times = self.counts[cameras, gaussians].long()
        rows = torch.arange(len(times)).repeat_interleave(times)
        return gaussians[rows], torch.zeros(len(rows), dtype=torch.long), cameras[rows]


def inputs(degree: int | None) -> list[Any]:
    scene = known_scene()
    random = torch.Generator().manual_seed(1)
    made = gaussians_from(scene, 2)
    shape = (60, 3) if degree is None else (60, 9, 3)
    tensors = [
        made["means"],
        torch.randn(60, 4, generator=random),
        made["scales"].exp(),
        torch.rand(60, generator=random),
    ]
    tensors.append(torch.rand(shape, generator=random) * 0.5)
    views = torch.stack([view.viewmat for view in scene.views[:2]])
    tensors = [tensor.clone().requires_grad_() for tensor in [*tensors, views]]
    return [*tensors, torch.stack([view.K for view in scene.views[:2]]), 40, 30]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: ",".join(changes) or "plain")
def test_the_further_channel_weighs_and_changes_nothing(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "gsplat", recorder)
    options = {**DEFAULTS, **changes}
    if changes.get("features"):
        options["features"] = torch.rand(60, 2, generator=torch.Generator().manual_seed(2))
    plain, asked = inputs(options["sh_degree"]), inputs(options["sh_degree"])
    image, alphas, info = rasterization(*plain, **options)
    image_g, alphas_g, info_g = rasterization_gsplat(*asked, **options)
    torch.testing.assert_close(image_g, image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alphas_g, alphas)
    info["means2d"].retain_grad()
    info_g["means2d"].retain_grad()
    target = torch.rand(image.shape, generator=torch.Generator().manual_seed(3))
    for made, other in ((image, alphas), (image_g, alphas_g)):
        ((made - target).square().mean() + 0.1 * other.mean()).backward()
    torch.testing.assert_close(info_g["weights"], info["weights"], atol=1e-4, rtol=1e-4)
    for a, b in zip(plain[:6], asked[:6], strict=True):
        if a.grad is None:
            assert b.grad is None or not bool(b.grad.any())
        else:
            torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(info_g["means2d"].grad, info["means2d"].grad, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(info_g["absgrad"], info["absgrad"], atol=1e-6, rtol=1e-3)
    assert torch.equal(info_g["pixel_counts"], info["pixel_counts"])
    assert info_g["pairs"] == 11 * 256
    assert set(info) == set(info_g)
    for name in ("near_plane", "far_plane", "radius_clip", "eps2d", "rasterize_mode"):
        assert recorder.asked[name] == options[name]
    assert not bool(recorder.asked["colors"][..., -1].any())
    with pytest.raises(KeyError):
        info_g["nothing"]


def test_weights_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", Recorder())
    given = inputs(None)
    with torch.no_grad():
        image, alphas, info = rasterization_gsplat(*given, **DEFAULTS)
        expected = rasterization(*given)[2]
        torch.testing.assert_close(info["weights"], expected["weights"], atol=1e-4, rtol=1e-4)
    assert not image.requires_grad
    assert not alphas.requires_grad
    assert all(tensor.grad is None for tensor in given[:6])


@pytest.mark.parametrize("preset", ["vanilla", "pixelgs", "absgs", "mcmc", "global_to_local_reactivate"])
def test_no_tensor_is_made_on_another_device(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made without a device lands on "meta", which does not mix with the CPU that this training is on."""
    monkeypatch.setattr(kernels, "path", lambda: None)
    scene = known_scene(size=(24, 18))
    strategy = getattr(strategies, preset)(
        24, cap_max=90, refine_start_iter=2, refine_every=4, **({} if preset == "mcmc" else {"grow_grad2d": 1e-6})
    )
    options = Options(steps=24, sh_degree=1)
    start = gaussians_from(scene, 1)
    plain = train(scene, strategy, options=options, start=start)
    assert len(plain.parameters["means"]) > 60
    torch.set_default_device("meta")
    try:
        found = train(scene, strategy, options=options, start=start, device="cpu")
    finally:
        torch.set_default_device(None)
    for name, tensor in plain.parameters.items():
        assert torch.equal(tensor, found.parameters[name])


def test_refuses_devices_that_are_not_there() -> None:
    scene, options = known_scene(), Options(steps=2)
    for wrong in ("cude", "cuda:77", "mps:0"):
        with pytest.raises(InputError, match=f"device '{wrong}' is not there"):
            train(scene, options=options, device=wrong)
    with pytest.raises(InputError, match='device must be "cpu" or "cuda", got'):
        train(scene, options=options, device="meta")


def test_a_gpu_is_the_default_only_with_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for installed, expected in ((None, "cpu"), (object(), "cuda")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, installed=installed: installed)
        assert splat_device("auto") == torch.device(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gsplat_on_a_gpu_is_what_the_cpu_is(tmp_path: Path) -> None:
    pytest.importorskip("gsplat")
    for changes in CHANGES[:5]:
        options = {**DEFAULTS, **changes}
        plain = inputs(options["sh_degree"])
        moved = [each.detach().cuda().requires_grad_() for each in plain[:6]] + [plain[6].cuda(), 40, 30]
        on_gpu = {name: each.cuda() if isinstance(each, torch.Tensor) else each for name, each in options.items()}
        image, _, info = rasterization(*plain, **options)
        image_g, _, info_g = rasterization(*moved, **on_gpu)
        torch.testing.assert_close(image_g.cpu(), image, atol=5e-3, rtol=1e-2)
        for made, found in ((image, info), (image_g, info_g)):
            found["means2d"].retain_grad()
            made.square().mean().backward()
        torch.testing.assert_close(info_g["weights"].cpu(), info["weights"], atol=0.05, rtol=0.02)
        difference = (info_g["pixel_counts"].cpu() - info["pixel_counts"]).abs()
        assert difference.sum() <= 0.02 * info["pixel_counts"].sum() + 5
        torch.testing.assert_close(info_g["means2d"].grad.cpu(), info["means2d"].grad, atol=1e-5, rtol=0.05)
    scene = known_scene(size=(100, 96))
    strategy = strategies.global_to_local_reactivate(120, cap_max=150)
    start = evaluate(gaussians_from(scene, 1), scene.held_out)
    found = train(scene, strategy, options=Options(steps=120, sh_degree=1), out=tmp_path, device="cuda")
    assert found.parameters["means"].device.type == "cuda"
    assert found.history[-1]["psnr"] > start.psnr + 1
