"""PatchMatch: the compiled loop gives the bits of the torch oracle, and comes near the best patch there is."""

import pytest
import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.patchmatch import nearest_patches, nearest_patches_reference, patch_distances, patch_votes


def problem(height: int = 30, width: int = 37, radius: int = 2, channels: int = 3) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    image = torch.rand(height, width, channels, generator=random)
    usable = torch.zeros(height, width, dtype=torch.bool)
    usable[radius : height - radius, radius : width - radius] = True
    usable[8:20, 10:22] = False
    wanted = torch.zeros(height, width, dtype=torch.bool)
    wanted[0:18, 12:20] = True  # to the border of the image
    targets = wanted.reshape(-1).nonzero()[:, 0]
    sources = usable.reshape(-1).nonzero()[:, 0]
    start = sources[torch.randint(len(sources), (len(targets),), generator=random)]
    return image, usable, targets, start


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("radius", "channels"), [(1, 1), (2, 3), (3, 4)])
def test_compiled_and_oracle_agree_to_the_last_bit(threads: int, radius: int, channels: int) -> None:
    if kernels.path() is None:
        pytest.skip("nothing was compiled")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tensors = problem(radius=radius, channels=channels)
        found = nearest_patches(*tensors, radius=radius, seed=7)
        wanted = nearest_patches_reference(*tensors, radius=radius, seed=7)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_it_finds_a_copy_of_the_patch_and_another_seed_looks_elsewhere() -> None:
    image, usable, targets, start = problem()
    image[2:7, 2:7] = image[10:15, 13:18]  # the patch about (12, 15) stands about (4, 4) too
    target = torch.tensor([12 * 37 + 15])
    found, distance = nearest_patches(image, usable, target, torch.tensor([6 * 37 + 6]), radius=2, rounds=80)
    assert found.tolist() == [4 * 37 + 4]
    assert distance.item() == 0
    field, distances = nearest_patches(image, usable, targets, start, radius=2)
    exact = torch.stack([
        patch_distances(image, targets, torch.full_like(targets, source), 2)
        for source in usable.reshape(-1).nonzero()[:, 0].tolist()
    ]).amin(0)  # fmt: skip
    assert bool((distances >= exact).all())
    assert distances.mean() < 1.5 * exact.mean()
    assert distances.mean() < 0.5 * patch_distances(image, targets, start, 2).mean()
    assert bool(usable.reshape(-1)[field].all())
    assert not torch.equal(field, nearest_patches(image, usable, targets, start, radius=2, rounds=1, seed=1)[0])


def test_votes_are_weighted_means() -> None:
    image = torch.arange(25.0).view(5, 5, 1)
    targets, field = torch.tensor([0, 1]), torch.tensor([12, 13])  # 12 is the middle
    colors, votes = patch_votes(image, targets, field, torch.tensor([1.0, 3.0]), 1)
    assert votes[0, 0] == 4
    assert colors[0, 0, 0] == (12 * 1 + 12 * 3) / 4  # both put the middle there
    assert votes[4, 4] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, u, t, s: (i, torch.ones_like(u), t, s), "usable patches must lie in the image whole"),
        (lambda i, u, t, s: (i, u, t, s * 0), "start must be the centre of a usable"),
        (lambda i, u, t, s: (i, u, t + 5000, s), "targets must be pixels"),
        (lambda i, u, t, s: (i, u[:5], t, s), "usable must be bool of the image's size"),
        (lambda i, u, t, s: (i, u, t, s[:2]), r"targets and start must be \(T,\)"),
    ],
)
def test_refuses_what_does_not_fit(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nearest_patches(*change(*problem()), radius=2)
