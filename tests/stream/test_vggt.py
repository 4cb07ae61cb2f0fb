"""The architecture against its description: names and numbers, what frames see, rotations, poses, and files."""

import math
from pathlib import Path

import pytest
import torch
from stream.small_vggt import frames, small

from hardy.errors import InputError
from hardy.stream.vggt import VGGT, AllFrames, PastFrames, VGGTConfig, kv_bytes, load_vggt, track_shapes
from hardy.zoo.vggt import Attend, matrices, pose_of, unprojected
from hardy.zoo.vggt.dense import ResidualUnit, place_embedding
from hardy.zoo.vggt.layers import rotated, rotation_of
from hardy.zoo.vggt.loading import save_vggt


def test_names_and_numbers_are_those_of_the_public_weights() -> None:
    with torch.device("meta"):
        tensors = VGGT().state_dict()
    tracks = track_shapes()

    def millions(prefix: str) -> float:
        return sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix)) / 1e6

    parts = {"aggregator": 909.11, "aggregator.patch_embed": 304.37, "aggregator.frame_blocks": 302.36,
             "aggregator.global_blocks": 302.36, "camera_head": 216.17, "point_head": 32.65,
             "depth_head": 32.65}  # fmt: skip
    for prefix, wanted in parts.items():
        assert millions(prefix) == pytest.approx(wanted, abs=0.006)
    in_tracks = sum(map(math.prod, tracks.values())) / 1e6
    assert in_tracks == pytest.approx(65.94, abs=0.006)
    assert millions("") + in_tracks == pytest.approx(1256.54, abs=0.006)
    assert len(tensors) + len(tracks) == 1797
    for name, shape in {
        "aggregator.patch_embed.pos_embed": (1, 1370, 1024), "aggregator.camera_token": (1, 2, 1, 1024),
        "aggregator.register_token": (1, 2, 4, 1024), "aggregator.global_blocks.23.attn.q_norm.weight": (64,),
        "camera_head.poseLN_modulation.1.weight": (6144, 2048), "camera_head.pose_branch.fc2.weight": (9, 1024),
        "depth_head.scratch.output_conv2.2.weight": (2, 32, 1, 1),
        "point_head.scratch.layer4_rn.weight": (256, 1024, 3, 3),
    }.items():  # fmt: skip
        assert tuple(tensors[name].shape) == shape
    assert "depth_head.scratch.refinenet4.resConfUnit1.conv1.weight" not in tensors
    assert tracks["track_head.tracker.updateformer.virual_tracks"] == (1, 64, 1, 384)


def test_tokens_and_bytes_of_a_frame() -> None:
    config = VGGTConfig()
    sizes = ((392, 518), (378, 518), (210, 518), (140, 518))
    assert [config.tokens(*size) for size in sizes] == [1041, 1004, 560, 375]
    assert kv_bytes(config, 392, 518) / 1e6 == pytest.approx(102.3, abs=0.05)
    with pytest.raises(InputError, match="multiples of the patch size 14, got 390 x 518"):
        config.tokens(390, 518)


class Dense:
    """Everything so far in float32: what a stream of any length would see with memory without end."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def block(self, number: int) -> Attend:
        return self._of(number)

    def camera(self, iteration: int, number: int) -> Attend:
        return self._of(iteration, number)

    def _of(self, *key: int) -> Attend:
        def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            old = self.held.get(key)
            self.held[key] = (
                [keys, values] if old is None else [torch.cat(p, 2) for p in zip(old, (keys, values), strict=True)]
            )
            return torch.nn.functional.scaled_dot_product_attention(queries, *self.held[key])

        return attend


@torch.no_grad()
def test_a_stream_says_what_a_causal_batch_says() -> None:
    model, images = small(), frames(5)
    batch = model(images[None], PastFrames(5))
    dense = Dense()
    steps = [model(image[None, None], dense, first=i == 0) for i, image in enumerate(images)]
    for name in ("pose", "depth", "depth_confidence", "points"):
        whole, parts = getattr(batch, name)[0], torch.cat([getattr(step, name)[0] for step in steps])
        assert float((whole - parts).abs().max() / whole.abs().max()) < 5e-7, name
    taps = model.aggregator(images[None], PastFrames(5), True)[-1][0]
    again = Dense()
    tokens = torch.cat([model.aggregator(f[None, None], again, i == 0)[-1][0] for i, f in enumerate(images)])
    assert float((taps - tokens).abs().max() / taps.abs().max()) < 5e-7
    every = model(images[None], AllFrames())
    assert not torch.allclose(every.depth[0, 0], batch.depth[0, 0])
    assert not torch.allclose(every.pose[0, 0], batch.pose[0, 0])


@torch.no_grad()
def test_the_first_frame_has_tokens_of_its_own_and_all_later_ones_share_others() -> None:
    model, images = small(), frames(3)
    before = model(images[None], PastFrames(3)).pose[0]
    model.aggregator.camera_token[:, 1] *= -1
    after = model(images[None], PastFrames(3)).pose[0]
    torch.testing.assert_close(after[0], before[0], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(after[1:], before[1:], rtol=1e-3)


def test_a_residual_unit_adds_relu_of_its_input() -> None:
    unit = ResidualUnit(4)
    for conv in (unit.conv1, unit.conv2):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(1, 4, 3, 3)
    kept = x.clone()
    assert torch.equal(unit(x), kept.relu())
    assert torch.equal(x, kept), "the input itself stays"


def test_rotations_turn_rows_and_columns_apart() -> None:
    """Against the definition, number by number: pairs (j, j + 2) of each half turn by place / 100^(j / 2)."""
    x = torch.randn(1, 1, 8, 8)
    found = rotated(x, rotation_of(2, 3, 2, 8, x.device))[0, 0]
    for token in range(8):
        row, column = divmod(token - 2, 3) if token >= 2 else (-1, -1)
        for half, place in enumerate((row + 1, column + 1)):
            for j in range(2):
                a, b = float(x[0, 0, token, 4 * half + j]), float(x[0, 0, token, 4 * half + j + 2])
                angle = place * 100 ** (-j / 2)
                wanted = (a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle))
                both = found[token, 4 * half + j], found[token, 4 * half + j + 2]
                assert [float(value) for value in both] == pytest.approx(wanted, abs=1e-5)


def test_places_are_sines_and_cosines_of_columns_then_rows() -> None:
    found = place_embedding(8, 3, 4, 4 / 3)
    across = 0.8 * (-1 + 1 / 4)
    assert found[:4, 0, 0].tolist() == pytest.approx(
        [math.sin(across), math.sin(across / 10), math.cos(across), math.cos(across / 10)], abs=1e-6
    )
    assert torch.equal(found[:4, 0], found[:4, 2])
    assert torch.equal(found[4:, :, 0], found[4:, :, 3])


def test_poses_are_cameras_and_depths_are_points() -> None:
    random = torch.Generator().manual_seed(1)
    pose = torch.cat([torch.randn(4, 7, generator=random), 0.5 + torch.rand(4, 2, generator=random)], 1)
    viewmats, k = matrices(pose, 8, 12)
    again = pose_of(viewmats, k, 8, 12)
    quats = pose[:, 3:7] / pose[:, 3:7].norm(dim=1, keepdim=True)
    quats = torch.where(quats[:, 3:] < 0, -quats, quats)
    torch.testing.assert_close(again, torch.cat([pose[:, :3], quats, pose[:, 7:]], 1), atol=1e-4, rtol=1e-4)
    depth = 1 + torch.rand(4, 8, 12, generator=random)
    points = unprojected(depth, viewmats, k)
    seen = points @ viewmats[:, None, :3, :3].mT + viewmats[:, None, None, :3, 3]
    pixels = seen @ k[:, None].mT
    torch.testing.assert_close(pixels[..., 2], depth, atol=1e-4, rtol=1e-4)
    x = (torch.arange(12) + 0.5).expand(4, 8, 12)
    torch.testing.assert_close(pixels[..., 0] / pixels[..., 2], x, atol=1e-3, rtol=1e-4)


def test_weights_come_back_from_files(tmp_path: Path) -> None:
    model, images = small(), frames(2)[None]
    save_vggt(model, tmp_path / "model.safetensors")
    found, left_out = load_vggt(tmp_path / "model.safetensors")
    assert found.config == model.config
    assert left_out == 0
    with torch.no_grad():
        assert torch.equal(found(images).depth, model(images).depth)
    public = model.state_dict() | {"track_head.tracker.fmap_norm.weight": torch.ones(3)}
    torch.save(public, tmp_path / "model.pt")
    again, left_out = load_vggt(tmp_path / "model.pt", model.config)
    assert left_out == 1
    with torch.no_grad():
        assert torch.equal(again(images).pose, model(images).pose)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = small()
    file, state = tmp_path / "model.pt", model.state_dict()
    some = "depth_head.norm.bias"
    for change, message in (
        ({k: v for k, v in state.items() if k != some}, "1 are missing, depth_head.norm.bias first"),
        (state | {"other.weight": torch.ones(1)}, "1 are of no part of the model, other.weight first"),
        (state | {some: torch.ones(3)}, r"depth_head.norm.bias is \(3,\), this model has \(32,\)"),
        (state | {some: torch.full((32,), torch.nan)}, "depth_head.norm.bias has NaN or infinite weights"),
        ({"epoch": 3}, "holds no state dict"),
    ):
        torch.save(change, file)
        with pytest.raises(InputError, match=message):
            load_vggt(file, model.config)
    file.write_bytes(b"not a file of weights")
    with pytest.raises(InputError, match="neither a .safetensors file nor one of torch.save"):
        load_vggt(file, model.config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 18}, "dim must be a multiple of 4 x heads"),
        ({"taps": (0, 1, 2, 4)}, "taps must be an integer from 0 to 3"),
        ({"dense": ("point",)}, 'dense must name "depth"'),
        ({"camera_cache": "none"}, "camera_cache must be shared or per-iteration"),
        ({"depth": 0}, "depth must be an integer of at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**options)
    with pytest.raises(InputError, match=r"\(batch, frames, 3, height, width\)"):
        small()(frames(1))
