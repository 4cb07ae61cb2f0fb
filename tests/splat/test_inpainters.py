"""Inpainters of one photo: they fill holes, only holes, and differ by their seed."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from hardy.errors import InputError
from hardy.evaluate import psnr_of_error
from hardy.splat.harmonic import harmonic_fill
from hardy.splat.inpainters import Diffusion, OpenCV, PatchMatch, Tiny, named


def checker(height: int = 48, width: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squares = ((x // 5 + y // 5) % 2).float()
    image = torch.stack([0.2 + 0.6 * squares, 0.3 + 0.3 * squares, 0.8 - 0.5 * squares], -1)
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[18:31, 22:38] = True
    return image, hole


def off(image: torch.Tensor, truth: torch.Tensor, hole: torch.Tensor) -> float:
    return psnr_of_error((image - truth)[hole].square().mean()).item()


def test_harmonic_fill_goes_on_linearly_and_knows_its_limits() -> None:
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(9.0), indexing="ij")
    plane = torch.stack([2 * x - y, 0.5 * y + 3], -1)
    hole = torch.zeros(12, 9, dtype=torch.bool)
    hole[3:8, 2:7] = True
    torch.testing.assert_close(harmonic_fill(torch.where(hole[..., None], 99, plane), hole), plane)
    corner = torch.zeros(12, 9, dtype=torch.bool)
    corner[:4, :4] = True  # at the border nothing is known beyond it
    filled = harmonic_fill(plane[..., 0], corner)
    assert plane[..., 0].min() <= filled[corner].min() <= filled[corner].max() <= plane[..., 0].max()
    with pytest.raises(InputError, match="covers everything"):
        harmonic_fill(plane, torch.ones(12, 9, dtype=torch.bool))


def test_patchmatch_continues_a_texture_that_the_rim_alone_does_not_tell() -> None:
    image, hole = checker()
    empty = torch.where(hole[..., None], 0, image)
    filled = PatchMatch()(empty, hole)[0]
    assert torch.equal(filled[~hole], image[~hole])
    assert off(filled, image, hole) > off(harmonic_fill(empty, hole), image, hole) + 6


def test_candidates_differ_by_seed_and_repeat_and_a_prior_stays() -> None:
    image, hole = checker()
    image = (image + 0.1 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    first, second = PatchMatch(rounds=2)(image, hole, count=2, seed=3)
    assert not torch.equal(first, second)
    assert torch.equal(first, PatchMatch(rounds=2)(image, hole, count=1, seed=3)[0])
    prior = torch.zeros_like(hole)
    prior[18:31, 22:30] = True
    kept = PatchMatch(rounds=2)(image, hole, prior=prior)[0]
    assert torch.equal(kept[prior], image[prior])
    whole = PatchMatch()(image, hole, prior=hole)
    assert torch.equal(whole[0], image)
    with pytest.raises(InputError, match="no whole patch"):
        PatchMatch()(image, torch.ones_like(hole))


@pytest.mark.parametrize("method", ["navier-stokes", "telea"])
def test_opencv_fills_the_hole_alone(method: Any) -> None:
    if importlib.util.find_spec("cv2") is None:
        pytest.skip("OpenCV is not installed")
    image, hole = checker()
    (filled,) = OpenCV(method=method)(torch.where(hole[..., None], 0, image), hole, count=3)
    assert torch.equal(filled[~hole], image[~hole])
    assert filled[hole].min() > 0.1


def test_tiny_learns_from_the_photos_and_is_the_same_for_a_seed() -> None:
    image, hole = checker(64, 96)
    images, holes = [image, image.flip(1)], [hole, hole.flip(1)]
    trained = Tiny.trained(images, holes, steps=12, seed=1)
    one, two = trained(image, hole, count=2)
    assert not torch.equal(one, two)
    assert torch.equal(one[~hole], image[~hole])
    assert torch.equal(one, Tiny.trained(images, holes, steps=12, seed=1)(image, hole)[0])
    with pytest.raises(InputError, match="of 1 photos 0 have such a crop"):
        Tiny.trained([image], [torch.ones_like(hole)], steps=1)


def test_names_of_the_command_line(tmp_path: Path) -> None:
    assert named("patchmatch") == PatchMatch()
    assert named("opencv-telea") == OpenCV(method="telea")
    with pytest.raises(InputError, match="no inpainter 'patchmach'.*patchmatch"):
        named("patchmach")
    with pytest.raises(InputError, match="holds no pipeline of diffusers"):
        named(f"diffusers:{tmp_path}")


def test_a_pipeline_of_diffusers_from_a_folder(tmp_path: Path) -> None:
    """A random one of a few thousand parameters, made on the spot: its path is run, not its taste."""
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed")
    pytest.importorskip("diffusers")
    tiny_pipeline(tmp_path)
    image, hole = checker(30, 44)
    inpainter = Diffusion(path=str(tmp_path), steps=2, guidance=1.0)
    one, two = inpainter(image, hole, count=2, seed=1)
    assert one.shape == image.shape
    assert torch.equal(one[~hole], image[~hole])
    assert not torch.equal(one, two)
    prior = torch.zeros_like(hole)
    prior[18:25, 22:30] = True
    assert torch.isfinite(inpainter(image, hole, prior=prior)[0]).all()


def tiny_pipeline(folder: Path) -> None:
    import json

    from diffusers import (  # pyright: ignore[reportMissingImports]
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=9, out_channels=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (folder / "words").mkdir()
    (folder / "words" / "vocab.json").write_text(json.dumps(words))
    (folder / "words" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "words" / "vocab.json"), str(folder / "words" / "merges.txt"), model_max_length=8
    )
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=CLIPTextModel(config), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
