"""ROME: one fact edited by a rank-one change of an MLP's output projection (Meng et al. 2022).

The MLP is a memory of keys and values: at the last token of the subject the down projection is given a new value v* for
its key k*, W <- W + (v* - W k*) (C^-1 k*)^T / (k*^T C^-1 k*). v* is found by gradient: the target is made likely, what
the prompt's essence says about the subject is held, and the value is kept short. C, the second moment of the keys on
`data`, keeps other keys' values; without data it is the identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.functional import kl_div

from hardy import checks, hooks
from hardy.core.method import Method, WeightLedger
from hardy.core.selection import select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.blocks import blocks_of
from hardy.interp.steering import block_name
from hardy.interp.task import last_logits
from hardy.report import Row


def rank_one(weight: torch.Tensor, key: torch.Tensor, value: torch.Tensor, moment: torch.Tensor | None) -> torch.Tensor:
    """The weight nearest to `weight`, as C measures it, that maps `key` to `value`.

    Args:
        weight: (out, in).
        key: (in,).
        value: (out,).
        moment: (in, in), symmetric positive definite, or None for the identity.
    """
    towards = key if moment is None else torch.linalg.solve(moment, key)
    return weight + torch.outer(value - weight @ key, towards / (key @ towards))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ROME(Method):
    """Make `target` follow `prompt`, in one block. `ROME.of` makes it from texts; `apply(model, data)` takes batches of
    token ids for C.

    Args:
        prompt: token ids.
        subject: place of the subject's last token in the prompt.
        target: token ids.
        layer: block whose MLP is edited.
        essence: token ids of a prompt about the subject whose answer is held, with the subject's last token at
            `essence_subject`; none for no such guard.
        essence_subject: its place.
        steps, learning_rate, weight_decay, clamp, divergence: of the search for v*: Adam steps, their size, the pull to
            the old value, the longest change as a multiple of the value's norm, and the weight of the guard.
        damping: of C, relative to its mean diagonal.
    """

    prompt: tuple[int, ...]
    subject: int
    target: tuple[int, ...]
    layer: int
    essence: tuple[int, ...] = ()
    essence_subject: int = 0
    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    divergence: float = 0.0625
    damping: float = 0.01

    @classmethod
    def of(cls, tokenizer: Any, template: str, subject: str, target: str, *, layer: int, **settings: Any) -> ROME:
        """The edit that makes `target` follow `template` with `subject` in its braces.

        Args:
            tokenizer: of the model.
            template: "The capital of {} is".
            subject: "France".
            target: " Rome", with the space that it begins with.
            layer: block that is edited.
            settings: other fields.
        """
        if template.count("{}") != 1:
            raise InputError(f"template must hold one {{}} for the subject, got {template!r}")
        prompt, place = _located(tokenizer, template, subject)
        essence, essence_place = _located(tokenizer, "{} is a", subject)
        ids = tokenizer(target, add_special_tokens=False).input_ids
        return cls(
            prompt=prompt, subject=place, target=tuple(ids), layer=layer, essence=essence,
            essence_subject=essence_place, **settings,
        )  # fmt: skip

    def check(self) -> None:
        for name in ("prompt", "target"):
            ids = checks.items(name, getattr(self, name))
            if not ids:
                raise InputError(f"{name} needs at least one token, got none")
        for name in ("prompt", "target", "essence"):
            ids = tuple(checks.integer(f"{name}", i, at_least=0) for i in checks.items(name, getattr(self, name)))
            object.__setattr__(self, name, ids)
        checks.integer("subject", self.subject, at_least=0, at_most=len(self.prompt) - 1)
        checks.integer("essence_subject", self.essence_subject, at_least=0, at_most=max(0, len(self.essence) - 1))
        checks.integer("layer", self.layer, at_least=0)
        checks.integer("steps", self.steps, at_least=1)
        for name in ("learning_rate", "clamp", "damping"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("weight_decay", "divergence"):
            checks.number(name, getattr(self, name), at_least=0)

    def __str__(self) -> str:
        return f"ROME(layer={self.layer}, steps={self.steps})"

    def edit(self, model: Any, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        name = block_name(model, self.layer)
        down = blocks_of(model)[self.layer].mlp.get("down")
        if not down:
            raise InputError(f"{name} has no single down projection, so no place for a fact")
        projection = f"{name}.{down}"
        moment = None if data is None else second_moment(model, projection, data, self.damping)
        key, old = self.key_and_value(model, projection)
        value, before, after = self.value_for(model, projection, old)
        site = select(model, [f"re:{projection.replace('.', chr(92) + '.')}"])[0]
        ledger = WeightLedger(model, edits)
        weight = ledger.read(site)
        bias = getattr(model.get_submodule(projection), "bias", None)
        goal = value if bias is None else value - bias.detach().float()
        new = rank_one(weight.double(), key.double(), goal.double(), None if moment is None else moment.double())
        ledger.write(site, weight, new.float(), {})
        rows = ledger.rows()
        rows.append(Row(metric="target_log_probability", condition="before", value=before, unit="nats"))
        rows.append(Row(metric="target_log_probability", condition="with the value found", value=after, unit="nats"))
        return rows

    def key_and_value(self, model: Any, projection: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What a projection takes in and gives at the subject's last token, (in,) and (out,)."""
        points = [(projection, "input"), (projection, "output")]
        ids = torch.tensor([self.prompt], device=model.device)
        with torch.no_grad(), hooks.record(model, points, stop=True) as seen:  # pyright: ignore[reportArgumentType]
            hooks.run(model, ids)
        key, value = (seen[point].reshape(len(self.prompt), -1)[self.subject].float() for point in points)
        return key, value

    def value_for(self, model: Any, projection: str, old: torch.Tensor) -> tuple[torch.Tensor, float, float]:
        """v*, and the target's log-probability before and with it."""
        whole = torch.tensor([[*self.prompt, *self.target]], device=model.device)
        goals = whole[0, len(self.prompt) :]
        essence = torch.tensor([self.essence], device=model.device) if self.essence else None
        with torch.no_grad():
            held = (
                None if essence is None else last_logits(model, {"input_ids": essence, "use_cache": False})[0].float()
            )
        shift = torch.zeros_like(old, requires_grad=True)
        optimizer = torch.optim.Adam([shift], lr=self.learning_rate)

        def shifted(place: int) -> Any:
            def put(x: torch.Tensor) -> torch.Tensor:
                rows = torch.nn.functional.one_hot(torch.tensor(place, device=x.device), x.shape[-2]).to(x)
                return x + rows.unsqueeze(-1) * shift.to(x)

            return put

        def target_log_probability() -> torch.Tensor:
            with hooks.patch(model, {(projection, "output"): shifted(self.subject)}):
                logits = last_logits(model, {"input_ids": whole, "use_cache": False}, len(self.target) + 1)[
                    0, :-1
                ].float()
            return logits.log_softmax(-1).gather(1, goals.unsqueeze(1)).mean()

        with torch.no_grad():
            before = target_log_probability().item()
        with torch.enable_grad():
            for _ in range(self.steps):
                chance = target_log_probability()
                loss = -chance + self.weight_decay * shift.norm() / old.norm().square()
                if essence is not None and held is not None and self.divergence:
                    with hooks.patch(model, {(projection, "output"): shifted(self.essence_subject)}):
                        now = last_logits(model, {"input_ids": essence, "use_cache": False})[0].float()
                    held_log = held.log_softmax(-1)
                    loss = loss + self.divergence * kl_div(
                        held_log, now.log_softmax(-1), log_target=True, reduction="sum"
                    )
                (gradient,) = torch.autograd.grad(loss, shift)
                shift.grad = gradient
                optimizer.step()
                longest = self.clamp * old.norm()
                with torch.no_grad():
                    if shift.norm() > longest:
                        shift *= longest / shift.norm()
        with torch.no_grad():
            after = target_log_probability().item()
        return old + shift.detach(), before, after


@torch.no_grad()
def second_moment(model: Any, projection: str, data: Iterable[Any], damping: float) -> torch.Tensor:
    """E[k k^T] of what a projection takes in, (in, in), float64, with `damping` times its mean diagonal added."""
    total, count = None, 0
    for batch in data:
        with hooks.record(model, [(projection, "input")], stop=True) as seen:  # nothing after it is needed
            hooks.run(model, batch)
        keys = seen[(projection, "input")].flatten(0, -2).double()
        total = keys.mT @ keys if total is None else total + keys.mT @ keys
        count += len(keys)
    if total is None:
        raise InputError("data is empty; leave it out to edit without the moments of other keys")
    total = total / count
    return total + damping * total.diagonal().mean() * torch.eye(len(total), dtype=total.dtype, device=total.device)


def _located(tokenizer: Any, template: str, subject: str) -> tuple[tuple[int, ...], int]:
    """Token ids of the template about the subject, and the place of the subject's last token."""
    before, _, after = template.partition("{}")
    text = before + subject + after
    ids: Sequence[int] = tokenizer(text).input_ids
    head = tokenizer(before + subject).input_ids
    same = next((i for i, (a, b) in enumerate(zip(ids, head, strict=False)) if a != b), min(len(ids), len(head)))
    if same < len(head):
        raise InputError(f"the tokens of {subject!r} run into what follows in {text!r}; end the subject with a word")
    return tuple(ids), same - 1
