"""For each wanted patch of an image a similar one among its whole patches, and the colors that those vote for.

PatchMatch (Barnes et al., ACM Transactions on Graphics 28(3), 2009): random guesses, which neighbours share, and a
search about each at ever smaller reach. Where we differ: all patches look at the field of the round before, at
neighbours one and four pixels away, so that the field depends neither on the order of pixels nor on threads; random
numbers are a hash of seed, round, trial and pixel. The compiled loop (src/cpp/patchmatch.cpp) gives the same bits.
"""

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.ops import kernels

_STEPS = (1, 4)
_WORD = 0xFFFFFFFF


def nearest_patches(
    image: torch.Tensor,
    usable: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    *,
    radius: int = 3,
    rounds: int = 5,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The centre of a patch like that about each target, (T,) as y * width + x, and their mean squared distances (T,).

    A distance is over the pixels of the target's patch that lie in the image, summed over channels.

    Args:
        image: (height, width, channels), float32.
        usable: (height, width) bool, centres of patches that may be taken: each lies in the image whole.
        targets: (T,) int64, pixels y * width + x, each once.
        start: (T,) int64, a usable centre for each.
        radius: of patches, which have 2 * radius + 1 pixels a side.
        rounds: of sharing and search.
        seed: of the search.

    Raises:
        InputError: shapes do not fit, a start is not usable, or a usable patch leaves the image.
    """
    _check(image, usable, targets, start, radius, rounds)
    if kernels.path() is None or image.device.type != "cpu" or image.dtype != torch.float32:
        return nearest_patches_reference(image, usable, targets, start, radius=radius, rounds=rounds, seed=seed)
    height, width = usable.shape
    place = torch.full((height * width,), -1, dtype=torch.int32)
    place[targets] = torch.arange(len(targets), dtype=torch.int32)
    field, distances = start.clone(), torch.empty(len(targets))
    module = kernels.extension()
    assert module is not None
    module.nearest_patches(
        image.contiguous(), usable.contiguous().view(torch.uint8), targets.contiguous(), place.view(height, width),
        field, distances, radius, rounds, seed & _WORD, torch.get_num_threads(),
    )  # fmt: skip
    return field, distances


def nearest_patches_reference(
    image: torch.Tensor,
    usable: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    *,
    radius: int = 3,
    rounds: int = 5,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest_patches` in torch, on any device."""
    height, width = usable.shape
    flat = usable.reshape(-1)
    place = torch.full((height * width,), -1, dtype=torch.int64, device=image.device)
    place[targets] = torch.arange(len(targets), device=image.device)
    ty, tx = targets // width, targets % width
    field = start.clone()
    distances = patch_distances(image, targets, field, radius)
    for turn in range(rounds):
        found, best = field.clone(), distances.clone()

        def tried(y: torch.Tensor, x: torch.Tensor, there: torch.Tensor, found=found, best=best) -> None:
            inside = there & (y >= 0) & (x >= 0) & (y < height) & (x < width)
            source = torch.where(inside, y * width + x, 0)
            inside &= flat[source]
            rows = inside.nonzero()[:, 0]
            off = patch_distances(image, targets[rows], source[rows], radius)
            nearer = off < best[rows]
            best[rows[nearer]] = off[nearer]
            found[rows[nearer]] = source[rows[nearer]]

        for step in _STEPS:
            for dy, dx in ((-step, 0), (step, 0), (0, -step), (0, step)):
                y, x = ty + dy, tx + dx
                inside = (y >= 0) & (x >= 0) & (y < height) & (x < width)
                neighbour = torch.where(inside, place[torch.where(inside, y * width + x, 0)], -1)
                shared = field[neighbour.clamp(min=0)]
                tried(shared // width - dy, shared % width - dx, neighbour >= 0)
        reach, trial = max(height, width), 0
        every = torch.ones_like(targets, dtype=torch.bool)
        while reach > 0:
            side = 2 * reach + 1
            first, second = (_drawn(seed, turn, 2 * trial + i, targets) % side - reach for i in (0, 1))
            tried(found // width + first, found % width + second, every)
            reach, trial = reach // 2, trial + 1
        field, distances = found, best
    return field, distances


def patch_distances(image: torch.Tensor, targets: torch.Tensor, sources: torch.Tensor, radius: int) -> torch.Tensor:
    """(T,) mean over a target's pixels in the image of the squared difference to its source, summed over channels."""
    height, width = image.shape[:2]
    ty, tx, sy, sx = targets // width, targets % width, sources // width, sources % width
    total, pixels = image.new_zeros(len(targets)), image.new_zeros(len(targets))
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            inside = (ty + dy >= 0) & (ty + dy < height) & (tx + dx >= 0) & (tx + dx < width)
            a = image[(ty + dy).clamp(0, height - 1), (tx + dx).clamp(0, width - 1)]
            off = (a - image[(sy + dy).clamp(0, height - 1), (sx + dx).clamp(0, width - 1)]) * inside[:, None]
            for channel in off.unbind(1):
                total = total + channel * channel
            pixels += inside
    return total / pixels


def patch_votes(
    image: torch.Tensor, targets: torch.Tensor, field: torch.Tensor, weights: torch.Tensor, radius: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The colors (height, width, channels) that patches laid over targets give each pixel, and the votes behind them.

    A vote counts `weights` (T,); without any, (height, width) 0, the color is 0.
    """
    height, width, channels = image.shape
    ty, tx, fy, fx = targets // width, targets % width, field // width, field % width
    colors, votes = image.new_zeros(height * width, channels), image.new_zeros(height * width)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            y, x = ty + dy, tx + dx
            rows = ((y >= 0) & (x >= 0) & (y < height) & (x < width)).nonzero()[:, 0]
            pixel = (y * width + x)[rows]
            taken = image[(fy + dy)[rows], (fx + dx)[rows]]
            colors.index_add_(0, pixel, taken * weights[rows, None])
            votes.index_add_(0, pixel, weights[rows])
    colors = colors / votes.clamp(min=1e-20)[:, None]
    return colors.view(height, width, channels), votes.view(height, width)


def _drawn(seed: int, turn: int, trial: int, targets: torch.Tensor) -> torch.Tensor:
    """(T,) int64 below 2^32."""
    value = torch.tensor(seed & _WORD, device=targets.device)
    for part in (turn, trial, targets):
        value = _mixed(value) ^ part
    return _mixed(value)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer's bits, mixed ("lowbias32" of C. Wellons, public domain)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def _check(
    image: torch.Tensor, usable: torch.Tensor, targets: torch.Tensor, start: torch.Tensor, radius: int, rounds: int
) -> None:
    checks.integer("radius", radius, at_least=1)
    checks.integer("rounds", rounds, at_least=0)
    if image.ndim != 3 or usable.shape != image.shape[:2] or usable.dtype != torch.bool:
        raise InputError(f"usable must be bool of the image's size, got {tuple(usable.shape)} and {tuple(image.shape)}")
    height, width = usable.shape
    if min(height, width) <= 2 * radius and bool(usable.any()):
        raise InputError(f"an image of {width} x {height} holds no patch of {2 * radius + 1} pixels a side")
    inner = torch.zeros_like(usable)
    inner[radius : height - radius, radius : width - radius] = True
    if bool((usable & ~inner).any()):
        raise InputError("usable patches must lie in the image whole")
    if targets.ndim != 1 or start.shape != targets.shape:
        raise InputError(f"targets and start must be (T,), got {tuple(targets.shape)} and {tuple(start.shape)}")
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= height * width):
        raise InputError(f"targets must be pixels of the image, 0 to {height * width - 1}")
    if len(targets) and (
        int(start.min()) < 0 or int(start.max()) >= height * width or not bool(usable.reshape(-1)[start].all())
    ):
        raise InputError("every start must be the centre of a usable patch")
