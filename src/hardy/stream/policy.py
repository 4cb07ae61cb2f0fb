"""How much a cache may hold, in how many bits, what is never dropped, and by which rule the rest is."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch

from hardy import checks
from hardy.core.ranking import Ranking
from hardy.errors import InputError
from hardy.stream.codec import BITS, CODECS, Affine, Codec
from hardy.stream.scorers import Scorer, SinkRecent, scorer_of
from hardy.stream.store import PAGE, SPARSE

Unit = Literal["tokens", "bytes", "frames"]
_UNITS: dict[str, tuple[Unit, int]] = {
    "": ("tokens", 1), "t": ("tokens", 1), "token": ("tokens", 1), "tokens": ("tokens", 1),
    "f": ("frames", 1), "frame": ("frames", 1), "frames": ("frames", 1),
    "b": ("bytes", 1), "kb": ("bytes", 10**3), "mb": ("bytes", 10**6), "gb": ("bytes", 10**9),
    "kib": ("bytes", 2**10), "mib": ("bytes", 2**20), "gib": ("bytes", 2**30),
}  # fmt: skip
LAYER_SPREAD = 0.5
"""A ranking gives its first layer 1 + this of the mean budget and its last 1 - this."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """So many tokens of each layer, bytes of the whole cache, or frames."""

    amount: int
    unit: Unit

    @classmethod
    def of(cls, given: int | str | Budget) -> Budget:
        """A budget from 512, "512 tokens", "64MB" or "2 frames".

        Raises:
            InputError: it is none of these, or not positive.
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, str):
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", given)
            unit, factor = _UNITS.get(match[2].lower(), (None, 0)) if match else (None, 0)
            if match is None or unit is None:
                raise InputError(f'budget must be as 512, "512 tokens", "64MB" or "2 frames", got {given!r}')
            amount = float(match[1]) * factor
            if amount != int(amount):
                raise InputError(f"budget must be whole {unit}, got {given!r}")
            return cls(checks.integer("budget", int(amount), at_least=1), unit)
        return cls(checks.integer("budget", given, at_least=1), "tokens")

    def __str__(self) -> str:
        if self.unit == "bytes":
            name, size = next(
                ((n, s) for n, s in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)) if self.amount >= s), ("B", 1)
            )
            return f"{self.amount / size:g} {name}"
        return f"{self.amount} {self.unit}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protect:
    """What is never dropped.

    Args:
        first: tokens at the start of the stream, which stay in 16 bits; by default what the scorer says, 4 or none.
        recent: last tokens, which stay in 16 bits.
        turn: everything since the last `CompressedCache.begin_turn`, as far as the budget goes.
        frame: of a stream of frames, the whole first frame and the whole current one instead; its default.
    """

    first: int | None = None
    recent: int = 16
    turn: bool = False
    frame: bool = False

    def __post_init__(self) -> None:
        if self.first is not None:
            object.__setattr__(self, "first", checks.integer("first", self.first, at_least=0))
        object.__setattr__(self, "recent", checks.integer("recent", self.recent, at_least=1))
        checks.boolean("turn", self.turn)
        checks.boolean("frame", self.frame)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KVPolicy:
    """What a `CompressedCache` keeps.

    Args:
        budget: 512 or "512 tokens" of each layer of full attention, "64MB" of the whole cache, or None for all.
        bits: of codes, for keys and values alike or (keys, values); 16 packs nothing.
        scorer: a name of `hardy.stream.scorers.SCORERS`, or a scorer.
        protect: "turn" of a chat, "frame" of a video, or what is protected in detail.
        codec: "affine", or "lloyd-max" after a random rotation.
        layers: a ranking of layers or of parts of them: those that matter more get more of the budget.
        interval: tokens that are evicted at once, so that a full cache need not be sorted at every token; by default
            a page of 64, or an eighth of what can be evicted.

    Raises:
        InputError: a field is out of range.
    """

    budget: int | str | Budget | None = None
    bits: int | tuple[int, int] = 16
    scorer: str | Scorer = dataclasses.field(default_factory=SinkRecent)
    protect: str | Protect | None = None
    codec: str | Codec = "affine"
    layers: Ranking | None = None
    interval: int | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("budget", None if self.budget is None else Budget.of(self.budget))
        put("scorer", scorer_of(self.scorer))
        put("protect", _protection(self.protect))
        if isinstance(self.codec, Codec):
            put("bits", (self.codec.key_bits, self.codec.value_bits))
        else:
            sides = (self.bits, self.bits) if isinstance(self.bits, int) else checks.items("bits", self.bits)
            if len(sides) != 2:
                raise InputError(f"bits must be one number, or two for keys and values, got {self.bits!r}")
            key_bits, value_bits = (checks.one_of("bits", side, BITS) for side in sides)
            put("bits", (key_bits, value_bits))
            kind = CODECS[checks.one_of("codec", self.codec, CODECS)]
            put("codec", kind(key_bits=key_bits, value_bits=value_bits))  # pyright: ignore[reportArgumentType] - of BITS
        if self.layers is not None and not isinstance(self.layers, Ranking):
            raise InputError(f"layers must be a Ranking, got {self.layers!r:.80}")
        if self.interval is not None:
            put("interval", checks.integer("interval", self.interval, at_least=1, at_most=PAGE))

    @property
    def rule(self) -> Scorer:
        """The scorer."""
        assert isinstance(self.scorer, Scorer)
        return self.scorer

    @property
    def coder(self) -> Codec:
        """The codec."""
        assert isinstance(self.codec, Codec)
        return self.codec

    @property
    def limit(self) -> Budget | None:
        """The budget."""
        assert self.budget is None or isinstance(self.budget, Budget)
        return self.budget

    @property
    def guard(self) -> Protect:
        """What is protected."""
        assert isinstance(self.protect, Protect)
        return self.protect

    @property
    def first(self) -> int:
        """Tokens at the start of a stream that are protected."""
        return self.rule.first if self.guard.first is None else self.guard.first

    @property
    def least(self) -> int:
        """The smallest budget in tokens: what is protected, and one token that can go."""
        return self.first + self.guard.recent + 1

    def __str__(self) -> str:
        bits = self.coder.key_bits, self.coder.value_bits
        width = f"{bits[0]} bits" if bits[0] == bits[1] else f"{bits[0]}/{bits[1]} bits"
        parts = [] if self.limit is None else [self.rule.name, str(self.limit)]
        return ", ".join([*parts, width, *([] if isinstance(self.coder, Affine) else ["rotated"])])

    def for_frames(self, tokens: int, special: int) -> KVPolicy:
        """This policy in tokens, for a video whose frames have `tokens` of them each, the first `special` no patches.

        The first frame stays, unless the rule is one that lets the first tokens go, and the current one does.

        Raises:
            InputError: the budget is less than these frames, or turns are to be protected.
        """
        guard, rule = self.guard, self.rule.for_frames(tokens, special)
        if guard.turn:
            raise InputError('protect="turn" is for chats; a stream of frames has protect="frame"')
        if guard.frame or guard == Protect():
            guard = Protect(first=tokens if rule.first else 0, recent=tokens)
        limit = self.limit
        if limit is not None and limit.unit == "frames":
            limit = Budget(limit.amount * tokens, "tokens")
        made = dataclasses.replace(self, budget=limit, scorer=rule, protect=guard, interval=self.interval or 1)
        if limit is not None and limit.unit == "tokens" and limit.amount < made.first + guard.recent:
            raise InputError(
                f"a budget of {self.limit} ({limit.amount} tokens) is less than what is protected, the first "
                f"{made.first} and the last {guard.recent} tokens, where a frame has {tokens}; give at least "
                f'"{math.ceil((made.first + guard.recent) / tokens)} frames", or protect less'
            )
        return made

    def evicted_at_once(self, tokens: int) -> int:
        """Tokens that go in one eviction of a layer whose budget is `tokens`."""
        return self.interval or max(1, min(PAGE, (tokens - self.least) // 8))

    def protected(self, positions: torch.Tensor, seen: int, turn: int, tokens: int | None) -> torch.Tensor:
        """Which tokens are never dropped, of the shape of `positions`.

        Args:
            positions: (batch, heads or 1, tokens), -1 for padding, which never is protected.
            seen: tokens so far.
            turn: position at which the last turn began.
            tokens: the budget, of which a turn takes at most what the first tokens and one more leave.
        """
        held = self.plain(positions, seen)
        if self.guard.turn and tokens is not None:
            room = tokens - self.evicted_at_once(tokens) - self.first
            held |= (positions >= 0) & (positions >= max(turn, seen - room))
        return held

    def plain(self, positions: torch.Tensor, seen: int) -> torch.Tensor:
        """Which tokens stay in 16 bits, the first and the recent ones, of the shape of `positions`."""
        real = positions >= 0
        # The first tokens never go, so that the least position is that of the first real one.
        begin = torch.where(real, positions, seen).amin(-1, keepdim=True)
        return real & ((positions < begin + self.first) | (positions >= seen - self.guard.recent))

    def shares(self, layers: Sequence[int]) -> list[float]:
        """What each of `layers`, numbers of layers, gets of the mean budget; they have the mean 1.

        Raises:
            InputError: the ranking says nothing about one of them.
        """
        if self.layers is None:
            return [1.0] * len(layers)
        scores = layer_scores(self.layers)
        missing = [number for number in layers if number not in scores]
        if missing:
            raise InputError(f"the ranking by {self.layers.by} has no unit in layer {missing[0]}")
        order = sorted(layers, key=lambda number: -scores[number])
        middle = (len(order) - 1) / 2
        place = {number: (middle - rank) / (middle or 1) for rank, number in enumerate(order)}
        return [1 + LAYER_SPREAD * place[number] for number in layers]

    def bytes_of(self, tokens: int, batch: int, heads: int, query_heads: int, dim: int) -> int:
        """Bytes of a layer that holds `tokens`, on full pages, with the longest 16-bit tail."""
        rule, coder = self.rule, self.coder
        tail = min(tokens, self.first + self.guard.recent + PAGE - 1) if coder.packs else tokens
        room = math.ceil((tail + 1) / SPARSE) * SPARSE
        rows = batch * heads if rule.per_head else batch
        each = 4 + (4 if rule.keeps_extra else 0)
        total = 4 * batch * heads * dim * room + rows * each * (tokens + 1) + rule.memory_bytes(batch, query_heads, dim)
        sealed = tokens - tail
        if sealed > 0:
            total += math.ceil(batch * heads * sealed * coder.bytes_per_token(dim, PAGE)) + 2 * rows * sealed
        return total

    def tokens_in(self, limit: int, batch: int, heads: int, query_heads: int, dim: int) -> int:
        """The most tokens for which `bytes_of` is at most `limit`.

        Raises:
            InputError: not even what is protected fits.
        """
        shape = batch, heads, query_heads, dim
        if self.bytes_of(self.least, *shape) > limit:
            raise InputError(
                f"{limit} bytes of a layer are less than what is protected takes: {self.least} tokens of {batch} x "
                f"{heads} heads of {dim} need {self.bytes_of(self.least, *shape)}; give more, or protect less"
            )
        low, high = self.least, self.least + 1
        while self.bytes_of(high, *shape) <= limit:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes_of(middle, *shape) <= limit else (low, middle)
        return low


def layer_scores(ranking: Ranking) -> dict[int, float]:
    """The mean score of the units of each layer, by the first number in their names ("model.layers.3.mlp" -> 3)."""
    found: dict[int, list[float]] = {}
    for name, score in ranking.scores.items():
        if match := re.search(r"\d+", name):
            found.setdefault(int(match[0]), []).append(score)
    return {number: sum(scores) / len(scores) for number, scores in found.items()}


def _protection(given: str | Protect | None) -> Protect:
    if given is None:
        return Protect()
    if isinstance(given, Protect):
        return given
    name = checks.one_of("protect", given, ("turn", "frame"))
    return Protect(turn=name == "turn", frame=name == "frame")
