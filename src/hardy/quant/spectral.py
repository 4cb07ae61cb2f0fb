"""Effective-rank drop and energy gain: how far training concentrated the outputs of each layer in few directions.

Source: LieQ (arXiv 2508.03332): its representational compactness, which the paper's second version gives bits by, and
its top-k energy. Outputs Z = W h are compared with W~ h, W~ random, on the same inputs h. Where we differ: Z is never
formed. The squared singular values of Z are the eigenvalues of W C W^T with the inputs' Gram matrix C = sum of h h^T,
so one pass over the text gives everything, whatever its length; and block after block, so that the Gram matrices of
one block are all that is held.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hardy.core import selection
from hardy.core.ranking import Ranking
from hardy.core.rng import generator
from hardy.core.roles import is_linear
from hardy.core.selection import LINEAR, Selector, Site
from hardy.core.surgery import weight_of
from hardy.core.units import Unit, exactly, units
from hardy.errors import InputError
from hardy.hooks.block_inputs import block_inputs, block_of
from hardy.hooks.statistics import SecondMoment, observe
from hardy.ops.plane_layout import row_ranges


def effective_rank_of(energies: torch.Tensor) -> float:
    """exp of the entropy of `energies` / sum, (K,) of at least 0 and not all 0: K if all are alike, 1 if one is all.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, on energies (squared singular values) as LieQ does.
    """
    shares = energies / energies.sum()
    return math.exp(-torch.xlogy(shares, shares).sum().item())


def top_energy(energies: torch.Tensor) -> float:
    """Share of the largest k of K `energies`, k = max(1, ceil(K / 10)), in their sum."""
    k = max(1, -(-len(energies) // 10))
    return (energies.topk(k).values.sum() / energies.sum()).item()


def rank_drop(trained: torch.Tensor, random: torch.Tensor) -> float:
    """(R~ - R) / R~ with the effective ranks R of `trained` and R~ of `random` energies."""
    return 1 - effective_rank_of(trained) / effective_rank_of(random)


def energy_increase(trained: torch.Tensor, random: torch.Tensor) -> float:
    """Top energy of `trained` less that of `random`."""
    return top_energy(trained) - top_energy(random)


LEFT_OUT = ("experts", "ssm.dt")
"""Each expert sees its own few tokens; Mamba uses the weight of its step-size projection without running it."""


@dataclasses.dataclass(frozen=True)
class Contrast:
    """What is compared between the energies of the trained and of the random outputs, and how a ranking says it."""

    of: Callable[[torch.Tensor, torch.Tensor], float]
    meaning: str
    unit: str
    by: str


RANK_DROP = Contrast(
    rank_drop, "relative drop of the outputs' effective rank from random weights", "relative drop", "effective-rank"
)
ENERGY_GAIN = Contrast(
    energy_increase, "gain of the top tenth's share of the outputs' energy over random weights", "share", "energy-gain"
)


class Inputs:
    """The inputs that a linear layer saw, by their Gram matrix (in, in), float64."""

    def __init__(self, gram: torch.Tensor) -> None:
        self.gram = gram

    @functools.cached_property
    def root(self) -> torch.Tensor:
        """R of shape (in, in) with R R^T = the Gram matrix."""
        values, vectors = torch.linalg.eigh(self.gram)
        return vectors * values.clamp(min=0).sqrt()

    def energies(self, rows: Iterable[torch.Tensor], outputs: int) -> torch.Tensor:
        """Squared singular values of the outputs of a weight on these inputs, (min(outputs, in),) float64.

        Args:
            rows: the weight (outputs, in), in one or more pieces of its rows; of a tall one, one piece is held at once.
            outputs: how many rows it has.
        """
        if outputs <= len(self.gram):
            weight = torch.cat(list(rows)).double()
            product = weight @ self.gram @ weight.T
        else:  # the same eigenvalues but for zeros, from the smaller matrix
            product = torch.zeros_like(self.gram)
            for piece in rows:
                half = piece.double() @ self.root
                product.addmm_(half.T, half)
        return torch.linalg.eigvalsh(product).clamp(min=0)


def moments(model: nn.Module, batches: Sequence[Any], sites: Sequence[Site]) -> Iterator[tuple[Site, SecondMoment]]:
    """The second moment of the inputs of each of `sites`, those of one block at a time where blocks make a chain."""
    inputs = block_inputs(model, batches, [site.module for site in sites]) if batches else None
    if inputs is None:
        yield from _moments(model, batches, sites)
        return
    inside = {name: [site for site in sites if block_of(site.module) == name] for name in inputs.blocks}
    outside = [site for site in sites if block_of(site.module) not in inside]
    for index, name in enumerate(inputs.blocks):
        if inside[name]:
            with inputs.before(index, stop=True) as reaching:
                yield from _moments(model, reaching, inside[name])
    if outside:
        with inputs.before(len(inputs.blocks) - 1) as reaching:
            yield from _moments(model, reaching, outside)


def _moments(model: nn.Module, batches: Sequence[Any], sites: Sequence[Site]) -> Iterator[tuple[Site, SecondMoment]]:
    seen = observe(model, batches, [exactly(site) for site in sites], [SecondMoment])
    for site in sites:
        yield site, seen.pop(site.name)[0]


def rankings(
    model: nn.Module,
    batches: Iterable[Any],
    contrasts: Sequence[Contrast],
    *,
    select: Selector = LINEAR,
    unit: Unit = "block",
    seeds: Sequence[int] = (0, 1, 2),
) -> list[Ranking]:
    """A ranking for each contrast, all from one pass over the text. A score is the mean over seeds, heads, projections.

    Arguments and errors as `effective_rank`.
    """
    if not seeds:
        raise InputError("seeds must name at least one random reference, got none")
    sites = [site for site in selection.select(model, select) if not (site.role or "").startswith(LEFT_OUT)]
    for site in sites:
        module = model.get_submodule(site.module)
        if not is_linear(module):
            raise InputError(f"{site.name} is a {type(module).__name__}; this locator takes linear layers")
    if not sites:
        raise InputError(f"selection {select!r} holds only what this locator leaves out: {', '.join(LEFT_OUT)}")
    groups = units(sites, unit)
    batches = list(batches)
    if batches and all(isinstance(batch, torch.Tensor) and not batch.is_floating_point() for batch in batches):
        for site in sites:  # a text that is too short is refused before it is read
            _check_tokens(site, weight_of(model, site), sum(batch.numel() for batch in batches))
    scores: dict[str, list[float]] = {}
    for site, moment in moments(model, batches, sites):
        scores[site.name] = _scores(model, site, moment, contrasts, seeds)
    means = [
        {name: sum(scores[site.name][i] for site in members) / len(members) for name, members in groups.items()}
        for i in range(len(contrasts))
    ]
    return [
        Ranking(scores=mean, meaning=contrast.meaning, unit=contrast.unit, by=contrast.by)
        for mean, contrast in zip(means, contrasts, strict=True)
    ]


def _scores(
    model: nn.Module, site: Site, moment: SecondMoment, contrasts: Sequence[Contrast], seeds: Sequence[int]
) -> list[float]:
    """Of each contrast, the mean over seeds and heads."""
    weight = weight_of(model, site)
    _check_tokens(site, weight, moment.tokens)
    inputs = Inputs(moment.value)
    heads = _heads(model, site, weight)
    trained = [_energies(site, inputs, head) for head in heads]
    totals = [0.0] * len(contrasts)
    for seed in seeds:
        drawn = _random(weight, generator(seed, "random-reference", site.name))
        if len(heads) == 1:
            references = [inputs.energies(drawn, len(weight))]
        else:
            references = [inputs.energies([head], len(head)) for head in _heads(model, site, torch.cat(list(drawn)))]
        for energies, reference in zip(trained, references, strict=True):
            totals = [total + c.of(energies, reference) for total, c in zip(totals, contrasts, strict=True)]
    return [total / len(seeds) / len(heads) for total in totals]


def _random(like: torch.Tensor, draws: torch.Generator) -> Iterator[torch.Tensor]:
    """Normal weights of the shape (out, in) of `like`, in pieces of rows; both measures are of shares of the energy."""
    for begin, end in row_ranges(*like.shape):
        yield torch.randn(end - begin, like.shape[1], generator=draws).to(like.device)


def effective_rank(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    select: Selector = LINEAR,
    unit: Unit = "block",
    seeds: Sequence[int] = (0, 1, 2),
) -> Ranking:
    """Rank layers by the relative drop of their outputs' effective rank from that of random weights.

    The score is (R~ - R) / R~: 0 for a layer that spreads its inputs as random weights do, near 1 for one that
    training made low-rank. Queries, keys and values count head by head; the score of a block is the mean over its
    projections, that of a projection the mean over its heads.

    Routed experts are left out (each sees its own few tokens), and so are the step-size projection of a state-space
    layer and its scan. Memory: in^2 float64 numbers for every linear layer of one block, or of the whole model where
    its blocks do not hand over hidden states alone; rank a part with `select` if that is too much.

    Args:
        model: any module; its linear layers are compared.
        batches: calibration text, as in `hardy.hooks.observe`; unpadded.
        select: which linear layers count, as in `hardy.core.selection.select`.
        unit: "block" ranks the model's numbered blocks, named by globs ("model.layers.3.*"); "site" every layer.
        seeds: of the random references; scores are means over them.

    Raises:
        InputError: fewer tokens than a layer is wide (its rank would be that of the text), a layer that is not
            linear, was not run or has only zeros as outputs, or an argument that cannot be used.
    """
    return rankings(model, batches, [RANK_DROP], select=select, unit=unit, seeds=seeds)[0]


def energy_gain(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    select: Selector = LINEAR,
    unit: Unit = "block",
    seeds: Sequence[int] = (0, 1, 2),
) -> Ranking:
    """Rank layers by how much more of their outputs' energy is in few directions than for random weights.

    The score is E_k(Z) - E_k(Z~), E_k the share of the largest k = max(1, ceil(K / 10)) of the squared singular values,
    of which K = min(out, in) can be more than 0. Arguments, errors and what is left out as in `effective_rank`.
    """
    return rankings(model, batches, [ENERGY_GAIN], select=select, unit=unit, seeds=seeds)[0]


def _check_tokens(site: Site, weight: torch.Tensor, tokens: int) -> None:
    needed = min(weight.shape)
    if tokens == 0:
        raise InputError(
            f"{site.name} was not run by the model, so its outputs are unknown; leave it out with select='linear,!...'"
        )
    if tokens < needed:
        raise InputError(
            f"calibration text of {tokens} tokens is too short: the rank of {site.name}, "
            f"{weight.shape[0]} x {weight.shape[1]}, needs at least {needed} tokens"
        )


def _energies(site: Site, inputs: Inputs, weight: torch.Tensor) -> torch.Tensor:
    energies = inputs.energies((weight[begin:end] for begin, end in row_ranges(*weight.shape)), len(weight))
    if not energies.sum() > 0:
        raise InputError(f"the outputs of {site.name} are all zero on this text, so they have no rank")
    return energies


def _heads(model: Any, site: Site, weight: torch.Tensor) -> Sequence[torch.Tensor]:
    """The rows of each head for queries, keys and values, whole or fused; for any other projection all rows."""
    whole = (weight,)
    if (site.role or "").removeprefix("cross_") not in {f"attention.{part}" for part in ("q", "k", "v", "qkv")}:
        return whole
    config = getattr(model, "config", None)
    if config is None:
        return whole
    config = config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    return weight.split(size) if size and weight.shape[0] % size == 0 else whole
