"""Ternary planes: a group of weights as a sum of trits (-1, 0, 1), each plane of them times one scale of the group.

Source: PTQTP (arXiv 2509.16989): ridge regression for the scales and exhaustive search for the trits, in turn.

Axes: groups (..., groups, group_size) as `hardy.ops.rounding.grouped` gives them; trits (planes, ..., groups,
group_size) int8; scales (planes, ..., groups, 1). All arithmetic is float64: planes that are equal, as they are at
the start, make a float32 system exactly singular.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import torch

from hardy.errors import InputError
from hardy.ops import kernels
from hardy.ops.rounding import float16_scale

Start = Literal["sign", "magnitude"]

RIDGE = 1e-8
LARGEST_RIDGE = 1.0
# Two ports of PTQTP disagree on when the ridge grows: tenfold above a condition number of 1e6, or by the square root
# of the excess above 1e12. The second never acts: equal planes of 128 trits have 2.6e10 and groups need 5000 weights
# to reach 1e12. On 256 x 4096 Gaussian weights both give 0.1684 (two planes) and 0.0630 (three), so the one that acts
# is kept.
LARGEST_CONDITION = 1e6
# Groups are worked on so many weights at a time: on a CPU the search stays in its cache, and a GPU is kept busy (on an
# H200 parts of 2^17 take 70 times as long) as far as there is memory for it.
_AT_A_TIME = 2**17
_AT_A_TIME_ON_GPU = 2**24
_AT_A_TIME_ON_MANY_CORES = 2**23  # in the compiled kernels, which keep a group to themselves
_BYTES_PER_WEIGHT = 400


def candidates(planes: int) -> list[tuple[int, ...]]:
    """One of every pair (c, -c) of trits of `planes` planes, in the order in which ties are settled.

    Zero first, then the sparser one, then the one that uses the later planes, then plus before minus. The other half
    of the 3^planes candidates is their negatives: of a pair, the one that stands for a number with the sign of the
    weight is never farther from it, and where the two are equally far both stand for zero, which comes first.
    """
    half = [c for c in itertools.product((0, 1, -1), repeat=planes) if next((t for t in c if t), 1) > 0]
    return sorted(half, key=lambda c: (sum(map(abs, c)), tuple(map(abs, c)), [-t for t in c]))


def nearest_trits(groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The trits of each weight that bring `sum(scales * trits)` nearest to it, out of all 3^planes.

    Ties go to the first in the order of `candidates`, so a weight of zero (and with it padding) always gets zeros.
    """
    order = torch.tensor(candidates(len(scales)), dtype=torch.int8, device=groups.device)
    levels = sum(scale * column for scale, column in zip(scales, order.T, strict=True))
    assert isinstance(levels, torch.Tensor)  # (..., groups, candidates); not a matrix product, whose order may vary
    magnitudes = groups.abs()
    best = magnitudes.clone()
    choice = torch.zeros_like(groups, dtype=torch.uint8)
    for index in range(1, len(order)):
        distance = (magnitudes - levels[..., index, None].abs()).abs_()
        # A later candidate has the larger index, so the maximum is the choice: several times faster than a masked fill.
        torch.maximum(choice, (distance < best).view(torch.uint8).mul_(index), out=choice)
        torch.minimum(best, distance, out=best)
    choice = choice.long()
    signs = groups.sign().to(torch.int8)
    # Each candidate with the sign that makes it stand for a number above zero.
    upright = order.T.unflatten(1, (*[1] * (levels.ndim - 1), -1)) * levels.sign().to(torch.int8)
    return torch.stack([plane.gather(-1, choice) * signs for plane in upright])


class SortedLevels:
    """The numbers that some scales can stand for, sorted by magnitude, to look the nearest of them up column by column.

    `nearest_trits` for one weight of each group at a time: exhaustive too, but half way between two magnitudes the
    smaller one is taken.

    Args:
        scales: (planes, groups), at least 0 and finite.
    """

    def __init__(self, scales: torch.Tensor) -> None:
        self._candidates = torch.tensor(candidates(len(scales)), dtype=torch.int8, device=scales.device)
        levels = sum(scale * column[:, None] for scale, column in zip(scales, self._candidates.T, strict=True))
        assert isinstance(levels, torch.Tensor)
        self._signs = levels.sign().to(torch.int8)
        self.magnitudes, self._order = levels.abs().sort(dim=0, stable=True)  # (candidates, groups)
        self._between = (self.magnitudes[1:] + self.magnitudes[:-1]) / 2

    def nearest(self, magnitudes: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The levels nearest to `magnitudes` (groups,), and in `out` (groups,) int64 their places among the sorted."""
        torch.sum(magnitudes > self._between, 0, out=out)
        return self.magnitudes.gather(0, out[None])[0]

    def table(self) -> torch.Tensor:
        """The trits of each of the sorted magnitudes, (planes, candidates, groups) int8."""
        upright = self._signs.gather(0, self._order)
        return torch.stack([plane[self._order] * upright for plane in self._candidates.T])

    def trits(self, choice: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        """Trits (planes, weights, groups) of the places (weights, groups) that `nearest` found and the signs."""
        candidate = self._order.gather(0, choice)
        upright = self._signs.gather(0, candidate) * signs.to(torch.int8)
        return torch.stack([plane[candidate] * upright for plane in self._candidates.T])


def ridge_scales(groups: torch.Tensor, trits: torch.Tensor, ridge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales a that minimise `|w - sum(a * trits)|^2 + ridge * |a|^2` in each group, and the ridge used.

    With S the trits of a group as columns, a = A^-1 S'w for A = S'S + ridge I. Where the condition number
    |A| |A^-1| (Frobenius norms) is above `LARGEST_CONDITION`, the ridge grows tenfold until it is not, at most to
    `LARGEST_RIDGE`.

    S'S holds integers, so the coefficients of A's adjugate and determinant as polynomials in the ridge are exact, also
    where S'S is singular.

    Args:
        groups: (..., groups, group_size), float64.
        trits: (planes, ..., groups, group_size), 1 to 3 planes; or anything else to be scaled and summed.
        ridge: (..., groups), above zero.

    Returns:
        Scales (planes, ..., groups, 1), of any sign, and the ridge (..., groups), never below the given one.
    """
    columns = trits.to(groups.dtype)
    counted = trits.float() if trits.dtype == torch.int8 else columns  # sums of integers are exact in float32 as well
    gram = torch.stack([(counted * column).sum(-1) for column in counted]).movedim((0, 1), (-2, -1)).to(groups.dtype)
    moments = torch.stack([(column * groups).sum(-1) for column in columns], -1)
    eye = torch.eye(len(trits), dtype=groups.dtype, device=groups.device)
    adjugate, determinant = _ADJUGATES[len(trits)](gram, eye)

    def condition(ridge: torch.Tensor) -> torch.Tensor:
        norms = torch.linalg.matrix_norm(gram + ridge[..., None, None] * eye) * torch.linalg.matrix_norm(
            adjugate(ridge[..., None, None])
        )
        return norms / determinant(ridge)

    while (bad := (condition(ridge) > LARGEST_CONDITION) & (ridge < LARGEST_RIDGE)).any():
        ridge = torch.where(bad, (10 * ridge).clamp(max=LARGEST_RIDGE), ridge)
    solved = (adjugate(ridge[..., None, None]) * moments[..., None, :]).sum(-1) / determinant(ridge)[..., None]
    return solved.movedim(-1, 0)[..., None], ridge


_Polynomial = Callable[[torch.Tensor], torch.Tensor]


def _one(gram: torch.Tensor, eye: torch.Tensor) -> tuple[_Polynomial, _Polynomial]:
    return lambda ridge: eye + 0 * ridge, lambda ridge: gram[..., 0, 0] + ridge


def _two(gram: torch.Tensor, eye: torch.Tensor) -> tuple[_Polynomial, _Polynomial]:
    trace = gram[..., 0, 0] + gram[..., 1, 1]
    determinant = gram[..., 0, 0] * gram[..., 1, 1] - gram[..., 0, 1].square()
    flipped = trace[..., None, None] * eye - gram
    return lambda ridge: flipped + ridge * eye, lambda ridge: determinant + ridge * trace + ridge**2


def _three(gram: torch.Tensor, eye: torch.Tensor) -> tuple[_Polynomial, _Polynomial]:
    x, y, z = gram.unbind(-1)
    cofactors = torch.stack(
        [torch.linalg.cross(y, z, dim=-1), torch.linalg.cross(z, x, dim=-1), torch.linalg.cross(x, y, dim=-1)], -1
    )
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    minors = cofactors.diagonal(dim1=-2, dim2=-1).sum(-1)
    determinant = (x * cofactors[..., 0]).sum(-1)
    flipped = trace[..., None, None] * eye - gram
    return (
        lambda ridge: cofactors + ridge * flipped + ridge**2 * eye,
        lambda ridge: determinant + ridge * minors + ridge**2 * trace + ridge**3,
    )


# Adjugate and determinant of `gram + ridge * eye`, as functions of the ridge.
_ADJUGATES = {1: _one, 2: _two, 3: _three}


def sign_start(groups: torch.Tensor, planes: int) -> torch.Tensor:
    """Every plane the sign of the weight; zero for zero, which keeps padding out. PTQTP's start."""
    return groups.sign().to(torch.int8).expand(planes, *groups.shape).clone()


def magnitude_start(groups: torch.Tensor, planes: int) -> torch.Tensor:
    """Each plane the best single plane for what the planes before it left over; the first is the optimum for one."""
    rest, trits = groups, []
    for _ in range(planes):
        # The best plane of m trits takes the m largest weights and gains (sum of them)^2 / m.
        largest = rest.abs().sort(dim=-1, descending=True, stable=True).values
        sums = largest.cumsum(-1)
        counts = torch.arange(1, groups.shape[-1] + 1, device=groups.device)
        last = (sums.square() / counts).argmax(-1, keepdim=True)
        kept = (rest.abs() >= largest.gather(-1, last)) & (rest != 0)
        plane = torch.where(kept, rest.sign(), 0)
        scale = (plane * rest).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
        trits.append(plane.to(torch.int8))
        rest = rest - scale * plane
    return torch.stack(trits)


STARTS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"sign": sign_start, "magnitude": magnitude_start}


def fit_trits(
    groups: torch.Tensor,
    lengths: torch.Tensor,
    planes: int,
    starts: tuple[Start, ...] = ("sign", "magnitude"),
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Trits and float16 scales for each group: PTQTP from each start, of which the best is kept group by group.

    A group has converged, and is left alone from then on, when its scales moved by no more than the tolerance
    (Euclidean norm) in one iteration; so no group depends on its neighbours. Scales are then rounded to float16, made
    positive (the sign goes to the trits), and the trits are searched once more for the scales as rounded.

    On CPU the compiled kernels do it, where there are any: the same decisions, sums in another order. Sums are of
    weights as given, not in units of their mean, so that float64 holds those of float32 weights exactly, as a rule, and
    ties are settled alike everywhere; with few float64 weights that are not zero, chance may decide between equals.

    Args:
        groups: (..., groups, group_size), finite; padding is zero.
        lengths: how many weights of a group are no padding; broadcastable to (..., groups).
        planes: 1 to 3.
        starts: tried in this order; the first wins a tie.
        iterations: the most that a group gets.
        tolerance: in units of the group's mean |w|.

    Returns:
        Trits (planes, ..., groups, group_size) int8; scales (planes, ..., groups, 1), float32 with float16 values,
        infinite where float16 has no such number, 0 for a plane of zeros; whether each group (..., groups) converged.

    Raises:
        InputError: there is no such number of planes or no such start.
    """
    if planes not in _ADJUGATES:
        raise InputError(f"planes must be 1, 2 or 3, got {planes!r}")
    if not starts or any(start not in STARTS for start in starts):
        raise InputError(f"starts must be one or more of {', '.join(STARTS)}, got {starts!r}")
    flat = groups.flatten(0, -2)
    sizes = lengths.expand(groups.shape[:-1]).flatten()
    path = kernels.path() if groups.device.type == "cpu" else None
    fit = _fit if path is None else _fit_compiled
    trits, scales, converged = fit(flat, sizes, planes, starts, iterations, tolerance)
    shape = groups.shape
    return trits.reshape(planes, *shape), scales.reshape(planes, *shape[:-1], 1), converged.reshape(shape[:-1])


_Fit = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _fit_compiled(
    groups: torch.Tensor,
    lengths: torch.Tensor,
    planes: int,
    starts: tuple[Start, ...],
    iterations: int,
    tolerance: float,
) -> _Fit:
    """`fit_trits` of (groups, group_size) in the compiled kernels: sums are added up in another order, that is all."""
    module = kernels.extension()
    assert module is not None
    count, size = groups.shape
    trits = torch.empty((planes, count, size), dtype=torch.int8)
    scales = torch.empty((planes, count), dtype=torch.float32)
    converged = torch.empty(count, dtype=torch.uint8)
    dtype = torch.float64 if groups.dtype == torch.float64 else torch.float32
    lengths = lengths.double().contiguous()
    tried = [list(STARTS).index(start) for start in starts]
    at_a_time = max(1, _AT_A_TIME_ON_MANY_CORES // size)
    for first in range(0, count, at_a_time):
        part = groups[first : first + at_a_time].detach().to(dtype).contiguous()
        module.fit_trits(
            part,
            lengths[first : first + at_a_time],
            tried,
            iterations,
            tolerance,
            first,
            trits,
            scales,
            converged,
            torch.get_num_threads(),
        )
    return trits, scales, converged.bool()


def _fit(
    groups: torch.Tensor,
    lengths: torch.Tensor,
    planes: int,
    starts: tuple[Start, ...],
    iterations: int,
    tolerance: float,
) -> _Fit:
    """`fit_trits` of (groups, group_size) in torch, part by part."""
    at_a_time = max(1, _weights_at_a_time(groups.device) // groups.shape[-1])
    parts = [
        _best_start(part.double(), size.double(), planes, starts, iterations, tolerance)
        for part, size in zip(groups.split(at_a_time), lengths.split(at_a_time), strict=True)
    ]
    trits, scales, converged = zip(*parts, strict=True)
    return torch.cat(trits, 1), torch.cat(scales, 1)[..., 0], torch.cat(converged)


def _weights_at_a_time(device: torch.device) -> int:
    if device.type != "cuda":
        return _AT_A_TIME
    free, _ = torch.cuda.mem_get_info(device)
    return max(_AT_A_TIME, min(_AT_A_TIME_ON_GPU, free // _BYTES_PER_WEIGHT))


def _best_start(
    groups: torch.Tensor,
    lengths: torch.Tensor,
    planes: int,
    starts: tuple[Start, ...],
    iterations: int,
    tolerance: float,
) -> _Fit:
    """`fit_trits` of (groups, group_size)."""
    unit = groups.abs().sum(-1) / lengths
    best: _Fit | None = None
    best_error = groups.new_full(groups.shape[:1], torch.inf)
    for start in starts:
        exact, converged = _alternate(groups, STARTS[start](groups, planes), iterations, tolerance * unit)
        scales = float16_scale(exact.abs()).double()
        overflow = torch.isinf(scales)
        trits = nearest_trits(groups, torch.where(overflow, 0, scales))
        scales = torch.where(overflow | (trits != 0).any(-1, keepdim=True), scales, 0)
        # With a scale that float16 does not have, a start loses to any other; alone, it is the caller's to refuse.
        error = torch.where(overflow.any(0), torch.inf, (trits * scales).sum(0) - groups).square().sum(-1)
        found = trits, scales.float(), converged
        if best is None:
            best, best_error = found, error
            continue
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = (
            torch.where(better[:, None], found[0], best[0]),
            torch.where(better[:, None], found[1], best[1]),
            torch.where(better, found[2], best[2]),
        )
    assert best is not None
    return best


def _alternate(
    groups: torch.Tensor, trits: torch.Tensor, iterations: int, tolerance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales after at most `iterations` of ridge and search from `trits`, and which groups converged.

    `tolerance` is (groups,), in the units of the weights.
    """
    scales = groups.new_full((len(trits), len(groups), 1), torch.inf)
    ridge = groups.new_full(groups.shape[:1], RIDGE)
    active = torch.arange(len(groups), device=groups.device)
    for _ in range(iterations):
        new, ridge[active] = ridge_scales(groups[active], trits, ridge[active])
        moved = (new - scales[:, active]).square().sum(0).sqrt().squeeze(-1)
        scales[:, active] = new
        still = moved > tolerance[active]
        active = active[still]
        if len(active) == 0:
            break
        trits = nearest_trits(groups[active], new[:, still])
    converged = torch.ones(len(groups), dtype=torch.bool, device=groups.device)
    converged[active] = False
    return scales, converged
