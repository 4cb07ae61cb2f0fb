"""Decoding of latents, one number after the other: what `hardy.fields` does with arrays, with Python's integers."""

from collections.abc import Callable

Plane = list[list[int]]


def joined(even: list[int], odd: list[int], steps: list[int], low: int, high: int) -> list[int]:
    """One row from its two halves: the lifting steps backwards, over 2^14, mirrored at the ends."""

    def times(x: int, factor: int) -> int:
        return (x * factor + 8192) >> 14

    if not odd:
        return list(even)
    x = [0] * (len(even) + len(odd))
    x[0::2], x[1::2] = [times(v, low) for v in even], [times(v, high) for v in odd]

    def at(i: int) -> int:
        return x[-i if i < 0 else 2 * len(x) - 2 - i if i >= len(x) else i]

    for index in (3, 2, 1, 0):
        for i in range(1 - index % 2, len(x), 2):
            x[i] -= times(at(i - 1) + at(i + 1), steps[index])
    return x


def put_together(smaller: Plane, right: Plane, below: Plane, across: Plane, join: Callable[..., list[int]]) -> Plane:
    """A plane from the smaller one and its three details."""

    def turned(plane: Plane, width: int) -> Plane:
        return [[row[x] for row in plane] for x in range(width)]

    halves = []
    for top, bottom in ((smaller, below), (right, across)):
        width = len(top[0])
        columns = [join(a, b) for a, b in zip(turned(top, width), turned(bottom, width), strict=True)]
        halves.append(
            turned(columns, len(columns[0]) if columns else 0)
            if columns
            else [[] for _ in range(len(top) + len(bottom))]
        )
    return [join(a, b) for a, b in zip(*halves, strict=True)]


def guessed(plane: Plane, y: int, x: int, first: list[list[int]], second: list[list[int]]) -> list[int]:
    """What the upsampling network says of two details at a place, over 2^10 steps."""

    def quarters(i: int, j: int) -> int:
        return (plane[min(max(i, 0), len(plane) - 1)][min(max(j, 0), len(plane[0]) - 1)] + 128) >> 8

    seen = [
        min(127, max(-127, quarters(y + i, x + j) - quarters(y, x)))
        for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)
    ]  # fmt: skip
    hidden = [min(256, max(-256, sum(w * s for w, s in zip(row, seen, strict=True)) >> 2)) for row in first]
    return [sum(w * h for w, h in zip(row, hidden, strict=True)) << 2 >> 4 for row in second]


def slope(first: Plane, other: Plane, y: int, x: int, largest: int) -> int:
    """How much the other plane changes with the first around a place, over 2^10; `largest` of all planes' sizes."""
    shift = max(6, largest.bit_length() - 15)
    places = [
        (min(max(y + i, 0), len(first) - 1), min(max(x + j, 0), len(first[0]) - 1))
        for i in range(-2, 3) for j in range(-2, 3)
    ]  # fmt: skip
    a, b = ([plane[i][j] >> shift for i, j in places] for plane in (first, other))
    variance = 25 * sum(v * v for v in a) - sum(a) ** 2 + (1 << max(0, 20 - 2 * shift)) * 625
    together = 25 * sum(v * w for v, w in zip(a, b, strict=True)) - sum(a) * sum(b)
    return min(4096, max(-4096, (together << 10) // variance))


def features(
    known: Callable[[int, int, int, int, int], int], level: int, plane: int, detail: int, y: int, x: int
) -> list[int]:
    """What the context network sees at a place; `known` gives a logarithm of a size, or zero."""
    beside = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    diagonal = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    found = [known(level, detail, plane, y + i, x + j) for i, j in beside + diagonal]
    for ring in (
        [(0, -2), (0, 2)],
        [(-2, 0), (2, 0)],
        [(i, j) for i in range(-2, 3) for j in range(-2, 3) if abs(i * j) == 2],
    ):
        found.append(sum(known(level, detail, plane, y + i, x + j) for i, j in ring))
    found += [known(level + 1, detail, plane, y // 2 + i, x // 2 + j) for i, j in [(0, 0), *beside]]
    found += [known(level + 1, (detail + other) % 3, plane, y // 2, x // 2) for other in (1, 2)]
    for before in range(2):
        if before < detail:
            of = [known(level, before, plane, y + i, x + j) for i, j in [(0, 0), *beside]]
            found += [of[0], of[1] + of[2], of[3] + of[4]]
        else:
            found += [0, 0, 0]
    for before in (plane - 1, plane - 2):
        of = [known(level, detail, before, y + i, x + j) if before >= 0 else 0 for i, j in [(0, 0), *beside]]
        found += [of[0], sum(of[1:])]
    return found


def context_class(seen: list[int], first: list[list[int]], bias: list[int], second: list[int], last: int) -> int:
    """The class of a latent of which this was seen."""
    hidden = [
        min(1023, max(0, (sum(w * s for w, s in zip(row, seen, strict=True)) + b) >> 6))
        for row, b in zip(first, bias, strict=True)
    ]
    score = sum(w * h for w, h in zip(second, hidden, strict=True)) + last
    return min(47, max(0, (score + 512) >> 10))
