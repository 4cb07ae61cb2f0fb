"""Which tokens of a cache matter: the higher a score, the longer a token stays.

Sources: XStreamVGGT (arXiv 2601.01204) for `PooledQuery`; InfiniteVGGT for `KeyDiversity`; OVGGT for `ResidualShift`;
SnapKV (arXiv 2404.14469); H2O (arXiv 2306.14048) for `AccumulatedAttention`; Devoto et al. (arXiv 2406.11430) for
`KeyNorm`; StreamingLLM (arXiv 2309.17453) for `SinkRecent`.

A scorer is its settings; what it gathers while a model runs is a `Memory`, one for each layer, which the cache holds.
Axes: batch, heads, tokens, dim; rows of scores are (batch, heads or 1).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from hardy import checks
from hardy.core.rng import generator
from hardy.errors import InputError, near_misses

Needs = Literal["nothing", "queries", "mlp_out"]


@dataclasses.dataclass
class Memory:
    """What a scorer has gathered of one layer.

    Attributes:
        queries: the last queries, (batch, heads, n, dim) in 16 bits.
        position: of the last of them.
        total, rows: a sum of queries (batch, dim), and of how many.
    """

    queries: torch.Tensor | None = None
    position: int = -1
    total: torch.Tensor | None = None
    rows: float = 0.0

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for tensor in (self.queries, self.total) if tensor is not None)

    def select_rows(self, rows: torch.Tensor) -> None:
        self.queries = None if self.queries is None else self.queries.index_select(0, rows.to(self.queries.device))
        self.total = None if self.total is None else self.total.index_select(0, rows.to(self.total.device))


@dataclasses.dataclass(frozen=True)
class Stored:
    """What there is to be scored.

    Attributes:
        keys, values: (batch, heads, tokens, dim) float32, of which only some scorers ask.
        positions: (batch, heads or 1, tokens), -1 for padding.
        extra: (batch, heads or 1, tokens) float32: what `observe_queries` or `observe_mlp` added up.
        memory: of this layer.
        stream: names of the random stream of this layer and moment.
        together: tokens that see each other, and all before them: one of a text, those of a frame.
    """

    dense: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    positions: torch.Tensor
    extra: torch.Tensor | None
    memory: Memory
    stream: tuple[int, ...]
    together: int = 1

    @property
    def keys(self) -> torch.Tensor:
        return self.dense()[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer(abc.ABC):
    """A rule for what stays."""

    name: ClassVar[str] = ""
    needs: ClassVar[Needs] = "nothing"
    """What must be observed while the model runs."""
    per_head: ClassVar[bool] = False
    """Whether every head has scores of its own."""
    keeps_extra: ClassVar[bool] = False
    """Whether a number is kept of each token, 4 bytes."""
    first: ClassVar[int] = 4
    """Tokens at the start of a stream that are protected unless the policy says otherwise."""

    @abc.abstractmethod
    def scores(self, stored: Stored) -> torch.Tensor:
        """(batch, heads or 1, tokens) float32."""

    def observe_queries(self, memory: Memory, queries: torch.Tensor, stored: Stored, scale: float) -> None:  # noqa: B027
        """Take in queries (batch, heads, n, dim), rotated as attention uses them, of the last n positions."""

    def observe_mlp(self, memory: Memory, output: torch.Tensor, stored: Stored) -> None:  # noqa: B027
        """Take in what the MLP of the layer adds for the last n tokens, (batch, n, dim)."""

    def forget(self, memory: Memory) -> None:  # noqa: B027
        """After an eviction."""

    def memory_bytes(self, batch: int, query_heads: int, dim: int) -> int:
        """Bytes that a layer's `Memory` takes at most."""
        return 0

    def for_frames(self, tokens: int, special: int) -> Scorer:
        """This rule for frames of so many tokens, of which the first `special` are no patches."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sliding(Scorer):
    """The last tokens stay, and nothing else."""

    name: ClassVar[str] = "sliding"
    first: ClassVar[int] = 0

    def scores(self, stored: Stored) -> torch.Tensor:
        return stored.positions.float()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkRecent(Scorer):
    """The first tokens, which models use as a sink of attention, and the last ones (StreamingLLM)."""

    name: ClassVar[str] = "sink-recent"

    def scores(self, stored: Stored) -> torch.Tensor:
        return stored.positions.float()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(Scorer):
    """The control: whatever is not protected goes by lot, drawn anew at each eviction."""

    name: ClassVar[str] = "random"
    seed: int = 0

    def scores(self, stored: Stored) -> torch.Tensor:
        chance = generator(self.seed, "kv-random", *stored.stream)
        return torch.rand(stored.positions.shape, generator=chance).to(stored.positions.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyNorm(Scorer):
    """Keys of small length stay: they tend to be those that attention goes to."""

    name: ClassVar[str] = "key-norm"
    per_head: ClassVar[bool] = True

    def scores(self, stored: Stored) -> torch.Tensor:
        return -stored.keys.norm(dim=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyDiversity(Scorer):
    """Keys unlike the mean direction of all keys stay (InfiniteVGGT)."""

    name: ClassVar[str] = "key-diversity"
    per_head: ClassVar[bool] = True

    def scores(self, stored: Stored) -> torch.Tensor:
        return key_diversity(stored.keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledQuery(Scorer):
    """Keys along the pooled query stay (XStreamVGGT): no softmax, and one score for all heads.

    Args:
        pool: queries that are averaged into one.
        special: first queries of each chunk that are taken as they are: camera and register tokens of a frame.
    """

    name: ClassVar[str] = "pooled-query"
    pool: int = 16
    special: int = 0
    needs: ClassVar[Needs] = "queries"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool", checks.integer("pool", self.pool, at_least=1))
        object.__setattr__(self, "special", checks.integer("special", self.special, at_least=0))

    def observe_queries(self, memory: Memory, queries: torch.Tensor, stored: Stored, scale: float) -> None:
        pooled = pooled_queries(queries.float(), self.pool, self.special)
        total = pooled.sum(1)
        memory.total = total if memory.total is None else memory.total + total
        memory.rows += pooled.shape[1]

    def scores(self, stored: Stored) -> torch.Tensor:
        assert stored.memory.total is not None
        mean = stored.memory.total / stored.memory.rows
        return (stored.keys.mean(1) @ mean[..., None])[..., 0][:, None]

    def forget(self, memory: Memory) -> None:
        memory.total, memory.rows = None, 0.0

    def memory_bytes(self, batch: int, query_heads: int, dim: int) -> int:
        return 4 * batch * dim

    def for_frames(self, tokens: int, special: int) -> PooledQuery:
        return dataclasses.replace(self, special=self.special or special)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnapKV(Scorer):
    """What the last queries attend to stays, with its neighbours (SnapKV).

    Args:
        window: queries that vote.
        kernel: neighbouring tokens over which the largest vote is taken.
    """

    name: ClassVar[str] = "snapkv"
    window: int = 32
    kernel: int = 7
    per_head: ClassVar[bool] = True
    needs: ClassVar[Needs] = "queries"

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", checks.integer("window", self.window, at_least=1))
        object.__setattr__(self, "kernel", checks.integer("kernel", self.kernel, at_least=1))
        if self.kernel % 2 == 0:
            raise InputError(f"kernel must be odd, got {self.kernel}")

    def observe_queries(self, memory: Memory, queries: torch.Tensor, stored: Stored, scale: float) -> None:
        kept = queries[:, :, -self.window :].to(torch.bfloat16 if queries.dtype == torch.bfloat16 else torch.float16)
        if memory.queries is not None:
            kept = torch.cat([memory.queries[:, :, kept.shape[2] - self.window :], kept], 2)[:, :, -self.window :]
        memory.queries = kept.clone() if kept.untyped_storage().nbytes() != kept.nbytes else kept
        memory.position = int(stored.positions.max())
        memory.rows = scale

    def scores(self, stored: Stored) -> torch.Tensor:
        memory = stored.memory
        assert memory.queries is not None
        queries = memory.queries.float()
        seen = stored.positions, memory.position, memory.rows, stored.together
        votes = attention_received(queries, stored.keys, *seen)
        order = stored.positions.expand(votes.shape).argsort(-1)
        pooled = F.max_pool1d(votes.gather(-1, order), self.kernel, stride=1, padding=self.kernel // 2)
        return torch.empty_like(votes).scatter_(-1, order, pooled)

    def memory_bytes(self, batch: int, query_heads: int, dim: int) -> int:
        return 2 * batch * query_heads * self.window * dim

    def for_frames(self, tokens: int, special: int) -> SnapKV:
        return dataclasses.replace(self, window=tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccumulatedAttention(Scorer):
    """What has been attended to most, summed over all queries so far (H2O). It reads all keys at every step: slow."""

    name: ClassVar[str] = "accumulated-attention"
    per_head: ClassVar[bool] = True
    keeps_extra: ClassVar[bool] = True
    needs: ClassVar[Needs] = "queries"

    def observe_queries(self, memory: Memory, queries: torch.Tensor, stored: Stored, scale: float) -> None:
        assert stored.extra is not None
        last = int(stored.positions.max())
        seen = stored.positions, last, scale, stored.together
        stored.extra.add_(attention_received(queries.float(), stored.keys, *seen))

    def scores(self, stored: Stored) -> torch.Tensor:
        assert stored.extra is not None
        return stored.extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualShift(Scorer):
    """Tokens that the layer's MLP moved far, and keys unlike the others, half and half (after OVGGT).

    Where we differ: OVGGT smooths over the image, and scores a token by the shift when it is new and by diversity
    afterwards; here both count as long as it is there.
    """

    name: ClassVar[str] = "residual-shift"
    keeps_extra: ClassVar[bool] = True
    needs: ClassVar[Needs] = "mlp_out"

    def observe_mlp(self, memory: Memory, output: torch.Tensor, stored: Stored) -> None:
        assert stored.extra is not None
        stored.extra[..., -output.shape[1] :] = output.float().norm(dim=-1)[:, None]

    def scores(self, stored: Stored) -> torch.Tensor:
        assert stored.extra is not None
        diversity = key_diversity(stored.keys).mean(1, keepdim=True)
        return _unit_range(stored.extra) / 2 + _unit_range(diversity) / 2


SCORERS: dict[str, type[Scorer]] = {
    kind.name: kind
    for kind in (
        SinkRecent, Sliding, Random, KeyNorm, KeyDiversity, PooledQuery, SnapKV, AccumulatedAttention, ResidualShift,
    )
}  # fmt: skip
"""Every scorer by the name that policies and commands have for it."""


def scorer_of(given: str | Scorer) -> Scorer:
    """A scorer from its name.

    Raises:
        InputError: there is none of this name; the message lists all.
    """
    if isinstance(given, Scorer):
        return given
    if given not in SCORERS:
        known = ", ".join(SCORERS)
        raise InputError(f"no scorer is called {given!r}{near_misses(str(given), SCORERS)}; there are: {known}")
    return SCORERS[given]()


def pooled_queries(queries: torch.Tensor, pool: int, special: int) -> torch.Tensor:
    """Mean over heads of `special` queries as they are and means of `pool` after them, (batch, rows, dim).

    Args:
        queries: (batch, heads, n, dim); the last window may hold fewer than `pool`.
    """
    mean = queries.mean(1)
    rest = mean[:, special:]
    parts = [part.mean(1, keepdim=True) for part in rest.split(pool, 1)] if rest.shape[1] else []
    return torch.cat([mean[:, :special], *parts], 1)


def key_diversity(keys: torch.Tensor) -> torch.Tensor:
    """1 - cosine between each key and the mean of all directions, (batch, heads, tokens), from keys (..., dim)."""
    unit = F.normalize(keys, dim=-1)
    return 1 - (unit @ unit.mean(-2)[..., None])[..., 0]


def attention_received(
    queries: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor, last: int, scale: float, together: int = 1
) -> torch.Tensor:
    """How much attention each key gets, summed over the queries and the heads that share it: (batch, heads, tokens).

    Args:
        queries: (batch, heads * group, n, dim), of the positions last - n + 1 to last; they see no key after them, or
            after the last of their frame.
        keys: (batch, heads, tokens, dim).
        positions: (batch, heads or 1, tokens), -1 for padding, which gets none.
        last: position of the last query.
        scale: of the scores.
        together: tokens of a frame, which see each other.
    """
    grouped = queries.unflatten(1, (keys.shape[1], -1))
    logits = scale * (grouped @ keys.mT[:, :, None])
    places = torch.arange(last - queries.shape[2] + 1, last + 1, device=keys.device)
    places = (places // together + 1) * together - 1
    hidden = (positions[:, :, None, :] > places[:, None]) | (positions[:, :, None, :] < 0)
    shares = logits.masked_fill(hidden[:, :, None], float("-inf")).softmax(-1).nan_to_num(0.0)
    return shares.sum((2, 3))


def _unit_range(values: torch.Tensor) -> torch.Tensor:
    low, high = values.aminmax(dim=-1, keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
