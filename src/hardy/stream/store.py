"""Keys and values of one layer in truly packed pages, from which a token goes without any other being touched.

Source: pages and a 16-bit tail as in KIVI (arXiv 2402.02750), for what XStreamVGGT (arXiv 2601.01204) simulates: its
code packs nothing, quantizes its whole cache again at every step after eviction has moved the groups (an error of 0.09
doubles in 20 evictions), and cuts the zero-point. Here a token is quantized once, when its page is full, and its codes
stay: dropping a token drops its bytes, and its neighbours keep the scales of their page.

Order of tokens: those of pages first, then the 16-bit ones, each with its position. Attention does not mind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hardy import checks
from hardy.errors import InputError
from hardy.ops.packed_attention import Segment
from hardy.stream.codec import Affine, Codec, Codes

PAGE = 64
"""Tokens of a page when it is sealed."""
SPARSE = PAGE // 4
"""A page with fewer tokens than this is merged with others like it, and only then quantized again."""
MERGED = PAGE // SPARSE
"""So many sparse pages of a row are merged at once: they fill one page at most."""


class LayerStore:
    """The cache of one layer.

    Args:
        codec: of sealed pages.
        per_head: every head keeps tokens of its own; otherwise all heads of a row keep the same.

    Attributes:
        seen: tokens that were appended so far.
        requantized: tokens of single heads whose keys were quantized more than once.
        padded: whether a token is padding.
        version: changes whenever what is stored does.
    """

    def __init__(self, codec: Codec, *, per_head: bool = False) -> None:
        self.codec, self.per_head = codec, per_head
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.seen = self.requantized = self.plain = 0
        self.version = getattr(self, "version", 0) + 1
        self.padded = False
        self._held: dict[str, torch.Tensor] = {}

    @property
    def positions(self) -> torch.Tensor:
        """(batch, heads or 1, tokens) int32: the place of each token in the stream, -1 for padding."""
        return self._held["positions"] if self._held else torch.zeros(1, 1, 0, dtype=torch.int32)

    @property
    def extra(self) -> torch.Tensor | None:
        """(batch, heads or 1, tokens) float32: what a scorer keeps of each token."""
        return self._held.get("extra")

    @extra.setter
    def extra(self, values: torch.Tensor) -> None:
        self._held["extra"] = values

    @property
    def length(self) -> int:
        """Tokens that are stored: `packed` in pages and `plain` in 16 bits."""
        return self.packed + self.plain

    @property
    def packed(self) -> int:
        """Tokens that are stored in pages, and come first."""
        return self._held["pages"].shape[-1] if "pages" in self._held else 0

    @property
    def page_count(self) -> int:
        """Pages that are alive, in the row that has most."""
        return int(self._held["pages"].max()) + 1 if self.packed else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batch, heads, dim."""
        batch, heads, _, dim = self._held["plain_keys"].shape
        return batch, heads, dim

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor that is kept, as the allocator holds them."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._held.values()}
        return sum(storages.values())

    def append(self, keys: torch.Tensor, values: torch.Tensor, padding: torch.Tensor | None = None) -> None:
        """Take in tokens in 16 bits: bfloat16 as it is, everything else as float16.

        Args:
            keys, values: (batch, heads, tokens, dim).
            padding: (batch, tokens) bool, True where a token is none.

        Raises:
            InputError: the shapes differ from each other or those before, or a value is not finite in 16 bits.
        """
        if keys.ndim != 4 or keys.shape != values.shape:
            raise InputError(
                "keys and values must be (batch, heads, tokens, dim) alike, got "
                f"{tuple(keys.shape)} and {tuple(values.shape)}"
            )
        if not self._held:
            self._begin(keys)
        elif (keys.shape[0], keys.shape[1], keys.shape[3]) != self.shape:
            raise InputError(f"this store holds (batch, heads, dim) {self.shape}, got keys {tuple(keys.shape)}")
        count = keys.shape[2]
        dtype = self._held["plain_keys"].dtype
        for name, new in (("keys", keys), ("values", values)):
            half = new.detach().to(dtype)
            if not math.isfinite(half.sum(dtype=torch.float32).item()) and not half.isfinite().all():
                kind = str(dtype).removeprefix("torch.")
                raise InputError(f"{name} must be finite in {kind}, got up to {new.abs().max():g}")
            self._reserve(f"plain_{name}", self.plain + count)[:, :, self.plain : self.plain + count] = half
        self.plain += count
        place = torch.arange(self.seen, self.seen + count, dtype=torch.int32, device=keys.device)
        place = place.expand(*self._held["positions"].shape[:2], -1)
        if padding is not None and padding.any():
            self.padded = True
            place = place.masked_fill(padding[:, None].to(place.device), -1)
        self._held["positions"] = torch.cat([self._held["positions"], place], -1)
        if self.extra is not None:
            self.extra = torch.cat([self.extra, self.extra.new_zeros(place.shape)], -1)
        self.seen += count
        self.version += 1

    def view(self, dtype: torch.dtype, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Dense keys and values from token `first` on, two of (batch, heads, length - first, dim)."""
        span = slice(max(0, first - self.packed), self.plain)
        plain = [self._held[f"plain_{name}"][:, :, span].to(dtype) for name in ("keys", "values")]
        if first >= self.packed:
            return plain[0], plain[1]
        pages = self._held["pages"][..., first:].long().expand(*self.shape[:2], -1)
        sealed = [self.codec.decode(self._codes(n, first), pages, self.shape[2], dtype) for n in ("keys", "values")]
        return torch.cat([sealed[0], plain[0]], 2), torch.cat([sealed[1], plain[1]], 2)

    def segments(self, first: int = 0) -> list[Segment] | None:
        """What `hardy.ops.packed_attention` reads, from token `first` on; None where it cannot read this codec."""
        held = self._held
        before = max(0, first - self.packed)
        plain = Segment(held["plain_keys"], held["plain_values"], self.plain, first=before)
        if not self.packed:
            return [plain]
        if not isinstance(self.codec, Affine):
            return None
        pages = held["pages"] if "keys_page" in held else None
        scales = held.get("keys_page"), held.get("values_token")
        first = min(first, self.packed)
        return [Segment(held["keys_codes"], held["values_codes"], self.packed, *scales, pages, first), plain]

    def evict(self, keep: torch.Tensor) -> None:
        """Drop all tokens but these.

        Args:
            keep: (batch, heads or 1, n), ascending places in the order of `positions`; every row must keep as many
                tokens of the pages as any other.

        Raises:
            InputError: it does not, or there are other rows.
        """
        if keep.shape[:2] != self.positions.shape[:2]:
            raise InputError(f"places of {tuple(self.positions.shape[:2])} rows are needed, got {tuple(keep.shape)}")
        before = self.packed
        counts = (keep < before).sum(-1)
        sealed = int(counts.max())
        if int(counts.min()) != sealed:
            raise InputError(f"rows must keep as many packed tokens each, got {int(counts.min())} to {sealed}")
        for name in ("positions", "extra"):
            if name in self._held:
                self._held[name] = _taken(self._held[name], keep)
        if sealed < before:
            self._keep_packed(keep[..., :sealed])
        if keep.shape[-1] - sealed < self.plain:
            self._keep_plain(keep[..., sealed:] - before)
        self.version += 1

    def seal(self, protected: torch.Tensor) -> int:
        """Quantize full pages of the oldest 16-bit tokens that are not protected.

        Args:
            protected: (batch, heads or 1, length) bool.

        Returns:
            How many tokens were quantized, of each head.
        """
        if not self.codec.packs:
            return 0
        bound = protected[..., self.packed :].to(torch.int8)
        count = int((1 - bound).sum(-1).min()) // PAGE * PAGE
        if not count:
            return 0
        order = torch.argsort(bound, dim=-1, stable=True)
        chosen, rest = order[..., :count], order[..., count:].sort(-1).values
        before = self.packed
        places = torch.arange(before, device=order.device).expand(*order.shape[:2], -1)
        moved = torch.cat([places, chosen + before, rest + before], -1)
        for name in ("positions", "extra"):
            if name in self._held:
                self._held[name] = _taken(self._held[name], moved)
        keys, values = (_taken(self._held[f"plain_{name}"], chosen) for name in ("keys", "values"))
        pages = range(0, count, PAGE)
        self._add("keys", [self.codec.encode_keys(keys[:, :, start : start + PAGE]) for start in pages])
        self._add("values", [self.codec.encode_values(values)])
        new = torch.arange(count, device=order.device) // PAGE + self.page_count
        new = new.to(torch.int16).expand(*order.shape[:2], -1)
        self._held["pages"] = torch.cat([self._held["pages"], new], -1) if before else new.contiguous()
        self._keep_plain(rest)
        self.version += 1
        return count

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may come several times (beams)."""
        self._held = {name: t.index_select(0, rows.to(t.device)) for name, t in self._held.items()}
        self.version += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that is stored, as `hardy.runs.checkpoint` takes it."""
        return {"seen": self.seen, "plain": self.plain, "requantized": self.requantized, "padded": self.padded,
                "held": dict(self._held)}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have what `state_dict` of a store with the same codec gave.

        Raises:
            InputError: its numbers and tensors do not fit each other, or a key or value is not finite.
        """
        self.clear()
        for name in ("seen", "plain", "requantized"):
            setattr(self, name, checks.integer(name, state[name], at_least=0))
        self.padded, self._held = bool(state["padded"]), dict(state["held"])
        if not self._held:
            return
        keys, values, positions = (self._held[name] for name in ("plain_keys", "plain_values", "positions"))
        if keys.ndim != 4 or keys.shape != values.shape or keys.dtype != values.dtype or self.plain > keys.shape[2]:
            shapes = f"plain keys {tuple(keys.shape)} and values {tuple(values.shape)}"
            raise InputError(f"{shapes} are not of {self.plain} tokens")
        heads = keys.shape[1] if self.per_head else 1
        if positions.shape != (keys.shape[0], heads, self.length) or positions.dtype != torch.int32:
            raise InputError(f"positions {tuple(positions.shape)} are not those of {self.length} tokens")
        for name, tensor in self._held.items():
            used = tensor[:, :, : self.plain] if name in ("plain_keys", "plain_values") else tensor
            checks.finite(name, used)

    def _begin(self, keys: torch.Tensor) -> None:
        batch, heads, _, dim = keys.shape
        dtype = torch.bfloat16 if keys.dtype == torch.bfloat16 else torch.float16
        for name in ("plain_keys", "plain_values"):
            self._held[name] = keys.new_empty(batch, heads, 0, dim, dtype=dtype)
        self._held["positions"] = keys.new_empty(batch, heads if self.per_head else 1, 0, dtype=torch.int32)

    def _reserve(self, name: str, room: int) -> torch.Tensor:
        """The 16-bit tokens with room for so many, in steps of a quarter page."""
        held = self._held[name]
        if held.shape[2] < room:
            grown = held.new_empty(*held.shape[:2], -(-room // SPARSE) * SPARSE, held.shape[3])
            grown[:, :, : self.plain] = held[:, :, : self.plain]
            self._held[name] = held = grown
        return held

    def _keep_plain(self, places: torch.Tensor) -> None:
        """Of the 16-bit tokens only these, with no more room than needed."""
        room = -(-places.shape[-1] // SPARSE) * SPARSE
        for name in ("plain_keys", "plain_values"):
            held = self._held[name]
            kept = held.new_empty(*held.shape[:2], room, held.shape[3])
            kept[:, :, : places.shape[-1]] = _taken(held, places)
            self._held[name] = kept
        self.plain = places.shape[-1]

    def _codes(self, name: str, first: int = 0) -> Codes:
        codes, token = self._held[f"{name}_codes"][:, :, first:], self._held.get(f"{name}_token")
        return Codes(codes, None if token is None else token[:, :, first:], self._held.get(f"{name}_page"))

    def _add(self, name: str, parts: list[Codes]) -> None:
        """New codes behind those that are there."""
        for kind in ("codes", "token", "page"):
            new = [tensor for part in parts if (tensor := getattr(part, kind)) is not None]
            if new:
                held = self._held.get(f"{name}_{kind}")
                self._held[f"{name}_{kind}"] = torch.cat([*([] if held is None else [held]), *new], 2)

    def _keep_packed(self, places: torch.Tensor) -> None:
        """Of the packed tokens only these: their bytes as they were, on the pages they were on."""
        names = ("pages", "keys_codes", "keys_token", "values_codes", "values_token")
        for name in names:
            if name in self._held:
                self._held[name] = _taken(self._held[name], places)
        if not places.shape[-1]:
            for name in (*names, "keys_page"):
                self._held.pop(name, None)
            return
        if "keys_page" in self._held:
            self._merge_sparse()
        self._drop_empty_pages()

    def _drop_empty_pages(self) -> None:
        """Free the scales of pages without a token, and count the others from 0."""
        pages = self._held["pages"]
        steps = torch.nn.functional.pad((pages[..., 1:] != pages[..., :-1]).to(torch.int16), (1, 0))
        new = steps.cumsum(-1)
        count = int(new.max()) + 1
        if "keys_page" in self._held:
            scales = self._held["keys_page"]
            old = pages.new_zeros(*pages.shape[:2], count, dtype=torch.long).scatter_(-1, new, pages.long())
            self._held["keys_page"] = _taken(scales, old)
        self._held["pages"] = new.to(torch.int16)

    def _merge_sparse(self) -> None:
        """Bring the tokens of sparse pages together on one page, row by row, and quantize their keys for it."""
        pages = self._held["pages"]
        occupancy = pages.new_zeros(*pages.shape[:2], int(pages.max()) + 1, dtype=torch.long)
        occupancy.scatter_add_(-1, pages.long(), torch.ones_like(pages, dtype=torch.long))
        sparse = (occupancy > 0) & (occupancy < SPARSE)
        for batch, row in (sparse.sum(-1) >= MERGED).nonzero().tolist():
            found = sparse[batch, row].nonzero().flatten()
            heads = slice(row, row + 1) if self.per_head else slice(0, self.shape[1])
            for group in found[: len(found) // MERGED * MERGED].view(-1, MERGED):
                self._merge(batch, row, heads, group)

    def _merge(self, batch: int, row: int, heads: slice, group: torch.Tensor) -> None:
        held, pages = self._held, self._held["pages"]
        mine = pages[batch, row]
        chosen = torch.isin(mine, group.to(mine.dtype)).nonzero().flatten()
        codes = held["keys_codes"][batch : batch + 1, heads]
        scales = held["keys_page"][batch : batch + 1, heads]
        now = Codes(codes[:, :, chosen], page=scales)
        index = mine[chosen].long().expand(1, codes.shape[1], -1)
        dense = self.codec.decode(now, index, self.shape[2], torch.float32)
        merged = self.codec.encode_keys(dense)
        assert merged.page is not None
        home = int(group[0])
        held["keys_codes"][batch : batch + 1, heads, chosen] = merged.codes
        held["keys_page"][batch : batch + 1, heads, home] = merged.page[:, :, 0]
        target = mine.clone()
        target[chosen] = home
        order = torch.argsort(target, stable=True)
        pages[batch, row] = target[order]
        for name in ("keys_codes", "keys_token", "values_codes", "values_token"):
            if name in held:
                held[name][batch, heads] = held[name][batch, heads][:, order]
        for name in ("positions", "extra"):
            if name in held:
                part = held[name][batch, row, : self.packed]
                part.copy_(part[order])
        self.requantized += len(chosen) * codes.shape[1]


def _taken(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(batch, heads, n, ...): of each row the tokens at `places` (batch, heads or 1, n)."""
    if places.shape[0] == places.shape[1] == 1:
        return tensor.index_select(2, places[0, 0])
    index = places.expand(*tensor.shape[:2], -1)
    index = index.reshape(*index.shape, *[1] * (tensor.ndim - 3)).expand(*index.shape, *tensor.shape[3:])
    return tensor.gather(2, index)
