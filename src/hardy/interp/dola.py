"""DoLa: the next token by what the last block knows and an early one does not (Chuang et al. 2024).

log p of the last block less log p of an early one, that of the largest Jensen-Shannon divergence among the candidates,
for the tokens that the last block finds at least `plausible` times as likely as its best; all others are left out. The
published repetition penalty belongs to sampling and is not part of this.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hardy import checks, hooks
from hardy.core.method import Method
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.interp.sae import depth_of
from hardy.interp.vocabulary import lens
from hardy.report import Row


def contrasted(final: torch.Tensor, early: Sequence[torch.Tensor], plausible: float = 0.1) -> torch.Tensor:
    """Scores of the next token, (..., vocabulary); -inf for those that are not plausible.

    Args:
        final: logits of the last block, (..., vocabulary).
        early: logits of earlier ones.
        plausible: share of the best token's probability.
    """
    last = final.float().log_softmax(-1)
    others = torch.stack([logits.float().log_softmax(-1) for logits in early])
    middle = torch.logaddexp(others, last) - torch.log(torch.tensor(2.0))
    divergence = ((last.exp() * (last - middle)).sum(-1) + (others.exp() * (others - middle)).sum(-1)) / 2
    chosen = divergence.argmax(0)
    place = chosen.unsqueeze(0).unsqueeze(-1).expand(1, *last.shape)
    scores = last - others.gather(0, place)[0]
    least = last.max(-1, keepdim=True).values + torch.log(torch.tensor(plausible))
    return scores.masked_fill(last < least, float("-inf"))


class _Contrasting:
    """Stands in for the forward of a model, whose logits it contrasts with those of earlier blocks."""

    def __init__(self, model: Any, layers: Sequence[int], plausible: float) -> None:
        self.model, self.layers, self.plausible = model, tuple(layers), plausible
        self.inner = vars(model).get("forward")
        functools.update_wrapper(self, type(model).forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = functools.partial(type(self.model).forward, self.model) if self.inner is None else self.inner
        points = [f"blocks.{layer}.resid_post" for layer in self.layers]
        with hooks.record(self.model, points) as seen:
            output = forward(*args, **kwargs)
        length = output.logits.shape[1]
        early = [lens(self.model, stream[:, -length:]) for stream in seen.values()]
        output.logits = contrasted(output.logits, early, self.plausible).to(output.logits.dtype)
        return output


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoLa(Method):
    """Contrasts the model's logits with those that its head reads off earlier blocks; works inside `generate`.

    Args:
        layers: blocks after which the stream may be read; the one whose answer differs most is taken token by token.
        plausible: share of the best token's probability below which a token is left out, above 0.
    """

    layers: tuple[int, ...]
    plausible: float = 0.1

    def check(self) -> None:
        for layer in checks.items("layers", self.layers):
            checks.integer("layers", layer, at_least=0)
        if not self.layers:
            raise InputError("layers needs at least one block, got none")
        checks.number("plausible", self.plausible, above=0, at_most=1)

    @property
    def reapplied(self) -> bool:
        return True

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        depth = depth_of(model)
        for layer in self.layers:
            if layer >= depth - 1:
                raise InputError(f"layers must be before the last block, 0 to {depth - 2}, got {layer}")
        edits.swap(model, "forward", _Contrasting(model, self.layers, self.plausible))
        return [Row(metric="candidate_blocks", condition="logits", value=len(self.layers))]
