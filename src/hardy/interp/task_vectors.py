"""Task vectors: what a fine-tuning changed in the weights, added, taken away, or merged with others.

Task arithmetic (Ilharco et al. 2023); TIES merging (Yadav et al. 2023): each vector is trimmed to its largest entries,
a sign is elected for each weight by the sum, and those that agree with it are averaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hardy import checks
from hardy.core.method import ALL_SELECTED, Method, squared_norm
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.files import write_atomic
from hardy.reading import reading
from hardy.report import Row

FORMAT, VERSION = "hardy-task-vector", 1
By = Literal["sum", "ties"]


def ties(vectors: Sequence[torch.Tensor], keep: float) -> torch.Tensor:
    """One vector from several.

    Args:
        vectors: all of one shape.
        keep: share of the entries of each, the largest, that take part.
    """
    trimmed = torch.stack([_largest(vector, keep) for vector in vectors])
    sign = trimmed.sum(0).sign()
    agree = (trimmed.sign() == sign) & (trimmed != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp_min(1)


def _largest(vector: torch.Tensor, keep: float) -> torch.Tensor:
    count = max(1, round(keep * vector.numel()))
    if count >= vector.numel():
        return vector
    least = vector.abs().flatten().kthvalue(vector.numel() - count + 1).values
    return torch.where(vector.abs() >= least, vector, 0.0)


def write_task_vector(base: nn.Module, tuned: nn.Module, path: str | Path) -> Path:
    """Write what differs between two models of one architecture, float32; parameters that are the same are left out.

    Raises:
        InputError: they have other parameters, or are the same.
    """
    before, after = (dict(model.named_parameters()) for model in (base, tuned))
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in after.items()}:
        raise InputError(f"{type(base).__name__} and {type(tuned).__name__} have parameters of other names or shapes")
    found = {name: after[name].detach().float().cpu() - before[name].detach().float().cpu() for name in before}
    found = {name: checks.finite(name, value) for name, value in found.items() if value.any()}
    if not found:
        raise InputError("the two models are the same: there is no task vector")
    return save_vector(found, path)


def save_vector(changes: Mapping[str, torch.Tensor], path: str | Path) -> Path:
    """Write what is added to each named parameter, atomically."""
    plain = {name: value.contiguous() for name, value in changes.items()}
    metadata = {"format": FORMAT, "version": str(VERSION)}
    write_atomic(path, lambda temporary: save_file(plain, temporary, metadata))
    return Path(path)


def _read(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise InputError(f"no task vector at {path}")
    with reading(path), safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("format") != FORMAT:
            raise InputError(f"{path} is no task vector of hardy")
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    parameters = dict(model.named_parameters())
    for name, value in found.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise InputError(f"{path} is of another model: {type(model).__name__} has no {name} {tuple(value.shape)}")
        checks.finite(f"{path}: {name}", value)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskVectors(Method):
    """Adds task vectors to the weights.

    Args:
        files: of `write_task_vector`.
        scale: times the sum, or the merged vector; negative takes a task away, 0 changes nothing.
        by: "sum", or "ties".
        keep: share of each vector's largest entries that take part in "ties".
    """

    files: tuple[str, ...]
    scale: float = 1.0
    by: By = "sum"
    keep: float = 0.2

    def check(self) -> None:
        if not checks.texts("files", self.files):
            raise InputError("files needs at least one task vector, got none")
        checks.number("scale", self.scale)
        checks.one_of("by", self.by, ("sum", "ties"))
        checks.number("keep", self.keep, above=0, at_most=1)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        vectors = [_read(path, model) for path in self.files]
        places: dict[int, list[tuple[nn.Module, str]]] = {}  # of a parameter, several where it is tied
        for module in model.modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                places.setdefault(id(parameter), []).append((module, attribute))
        added, whole = 0.0, 0.0
        for name, parameter in list(model.named_parameters()):
            parts = [vector[name] for vector in vectors if name in vector]
            whole += squared_norm(parameter.detach())
            if not parts or not self.scale:
                continue
            if self.by == "ties":
                empty = [torch.zeros_like(parts[0])] * (len(vectors) - len(parts))
                change = self.scale * ties([*parts, *empty], self.keep)
            else:
                change = self.scale * torch.stack(parts).sum(0)
            added += squared_norm(change)
            value = (parameter.detach().float() + change.to(parameter.device)).to(parameter.dtype)
            new = nn.Parameter(checks.finite(name, value), requires_grad=parameter.requires_grad)
            for module, attribute in places[id(parameter)]:
                edits.swap(module, attribute, new)
        relative = (added / whole) ** 0.5
        return [Row(metric="relative_error", condition=ALL_SELECTED, value=relative)]
