"""What quantizers share that look at data: layer after layer, each with the inputs that the quantized ones before give.

The inputs of a layer's weights are gathered with all layers before it already quantized (GPTQ, arXiv 2210.17323), so a
layer makes up for errors before it as far as its Hessian tells. With a `correction` it is also told what the
unmodified model has in their place (GPTAQ, arXiv 2504.02692, whose share is 1/4), and within a layer each weight is
fitted to what the ones before it have become; without, all weights of one layer are fitted to the same pass.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from hardy import checks
from hardy.core.method import ALL_SELECTED, WeightLedger
from hardy.core.selection import Site, select
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.hooks.block_inputs import BlockInputs, block_inputs, block_of
from hardy.ops.feedback import Order, damped_cholesky
from hardy.ops.rotation import rotate, rotate_both
from hardy.quant.gram import Gram, Inputs, count_calls, gather, place, recorded, stages
from hardy.quant.quantizer import Quantizer, StoredWeight, turned
from hardy.report import Row
from hardy.runs.progress import track

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedQuantizer(Quantizer):
    """A quantizer that brings the outputs of each weight near to what they were, on calibration data.

    Args:
        damping: added to the diagonal of each Hessian, relative to its mean: how little to trust the data.
        order: "activation" visits the groups and in them the inputs of the largest power first, so that the errors
            which count most have the most inputs left to make up for them; "given" visits inputs as they are stored.
        correction: share, 0 to 1, of the way from a weight to the one whose outputs, on the inputs that it now gets,
            are nearest to the unmodified model's. All of the way would fit the calibration text alone.

    `apply(model, data)` needs batches, as `hardy.evaluate.batches` cuts from a text: each a tensor, a tuple of
    positional or a mapping of keyword arguments of the model. Block after block is run on them, each twice: to see its
    inputs, and to make the next one's; with a correction also once as it was, keeping what its layers are given, and
    once for each of its parts. A model whose blocks hand over more than hidden states runs from its start for
    every layer. All batches count alike, padding too, so give unpadded text. The model is run in its current mode: call
    `model.eval()` first, if it has dropout.

    The report has, beside what all quantizers report, `output_error`, the relative error of the weights' outputs on
    the calibration inputs (with a correction, of the corrected weights'), and `tokens_per_input`, how many tokens an
    input was seen with; below 1 the data cannot tell all directions of the inputs apart, and below about 10 another
    text will often see a larger error. Of a stack of experts it is the expert that saw the fewest. With a correction
    there is `corrected`, the share of the weights that had one: stacks of experts have none.
    """

    damping: float = 0.01
    order: Order = "activation"
    correction: float = 0.0

    def check(self) -> None:
        super().check()
        number = isinstance(self.damping, int | float) and not isinstance(self.damping, bool)
        if not (number and 0 <= self.damping <= 1):
            raise InputError(f"damping must be a number from 0 to 1, got {self.damping!r}")
        checks.number("correction", self.correction, at_least=0, at_most=1)
        if self.order not in get_args(Order):
            raise InputError(f"order must be {' or '.join(get_args(Order))}, got {self.order!r}")

    @abc.abstractmethod
    def quantize_for(self, weight: torch.Tensor, gram: torch.Tensor) -> tuple[StoredWeight, Mapping[str, float]]:
        """The stored form of `weight` (..., out, in) for inputs of the Gram matrix `gram` (..., in, in), and facts."""

    def stored_for(self, weight: torch.Tensor, gram: torch.Tensor) -> tuple[StoredWeight, Mapping[str, float]]:
        """What `quantize_for` gives for `weight` and its inputs, both turned by the method's `rotation`."""
        size = self.rotation
        found, facts = self.quantize_for(rotate(weight, size), rotate_both(gram, size))
        return turned(found, size), facts

    def quantize(self, weight: torch.Tensor, site: Site) -> tuple[StoredWeight, Mapping[str, float]]:
        """As `quantize_for` when nothing is known: independent inputs of equal power."""
        eye = torch.eye(weight.shape[-1], dtype=torch.float64, device=weight.device)
        return self.quantize_for(weight, eye.expand(*weight.shape[:-2], *eye.shape))

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        batches = [] if data is None else list(data)
        if not batches:
            raise InputError(
                f"{type(self).__name__} needs calibration batches: give a list of input tensors as apply(model, data), "
                "such as hardy.evaluate.batches(tokenizer, text)"
            )
        ledger = WeightLedger(model, edits)
        sites = select(model, self.select, layers=self.layers)
        for site in sites:
            self.check_row(site, ledger.read(site))
        calls = count_calls(model, batches[0], sites)
        outputs: list[OutputError] = []
        layers = [
            list(sites_here) for _, sites_here in itertools.groupby(sites, key=lambda site: (site.stack, site.layer))
        ]
        inputs = block_inputs(model, batches, [site.module for site in sites])
        unmodified = BlockInputs(model, batches, inputs.blocks) if inputs and self.correction else None
        if self.correction and not inputs:
            _log.warning("no correction: the blocks of this %s are no chain", type(model).__name__)
        for sites_here in track(layers, type(self).__name__):
            block = block_of(sites_here[0].module)
            wanted: Inputs = {}
            if unmodified and block:
                wanted = self.wanted(model, sites_here, unmodified, unmodified.blocks.index(block))
            before = inputs.before(inputs.blocks.index(block)) if inputs and block else contextlib.nullcontext(batches)
            with before as reaching:
                outputs += self.fit_layer(model, ledger, sites_here, reaching, wanted, calls)
        return ledger.rows() + output_rows(outputs)

    def wanted(self, model: nn.Module, sites: Sequence[Site], unmodified: BlockInputs, index: int) -> Inputs:
        """What `sites` in block `index`, which is not quantized yet, are given in the unmodified model."""
        while unmodified.at < index:
            unmodified.step()
        with recorded(model, sites) as found:
            unmodified.step()
        return found

    def fit_layer(
        self,
        model: nn.Module,
        ledger: WeightLedger,
        sites: Sequence[Site],
        batches: Sequence[Any],
        wanted: Inputs,
        calls: dict[str, int],
    ) -> list[OutputError]:
        """Quantize the weights of one layer for their inputs in `batches`, and what that does to their outputs."""
        outputs = []
        for sites_here in stages(model, batches[0], sites, calls) if wanted else [sites]:
            grams = gather(model, batches, sites_here, calls, wanted)
            for site in sites_here:
                weight, gram = ledger.read(site), grams[place(site)]
                target = self._corrected(weight, gram) if gram.is_drifted else weight
                stored, facts = self.stored_for(target, gram.value)
                new = stored.dequantize()
                if ledger.write(site, weight, new, facts):
                    ledger.edits.store(site, stored)
                    corrected = weight.numel() * gram.is_drifted
                    outputs.append(OutputError(site.name, *_energies(target, new, gram), corrected, weight.numel()))
        return outputs

    def _corrected(self, weight: torch.Tensor, gram: Gram) -> torch.Tensor:
        """`weight` (out, in), moved by `correction` towards W (gram + drift) gram^-1, damped."""
        lower = damped_cholesky(gram.value, max(self.damping, 1e-6))
        moved = torch.cholesky_solve(gram.missing_of(weight).T, lower).T
        return (weight.double() + self.correction * moved).to(weight.dtype)


class OutputError(NamedTuple):
    """What a weight's rounding did to its outputs on the calibration inputs."""

    site: str
    error: float
    """Sum of squares of what changed."""
    energy: float
    """Sum of squares of the outputs."""
    tokens_per_input: float
    corrected: int = 0
    """How many of its weights were quantized for what the unmodified model has."""
    weights: int = 0


def each_matrix(
    fit: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]], weight: torch.Tensor, gram: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What `fit` gives for each weight (out, in) of a stack (..., out, in) with its Gram matrix, each stacked again."""
    if weight.ndim == 2:
        return fit(weight, gram)
    parts = [each_matrix(fit, *pair) for pair in zip(weight, gram, strict=True)]
    return tuple(torch.stack(each) for each in zip(*parts, strict=True))


def _energies(weight: torch.Tensor, new: torch.Tensor, gram: Gram) -> tuple[float, float, float]:
    """Squared error and square of the outputs, and tokens per input."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight, value = weight.to(dtype), gram.value.to(dtype)
    found = [((part @ value) * part).sum(dtype=torch.float64).item() for part in (new.to(dtype) - weight, weight)]
    return found[0], found[1], gram.tokens.min().item() / weight.shape[-1]


def output_rows(outputs: Sequence[OutputError]) -> list[Row]:
    """The relative error of all outputs together and of each weight's, and how many tokens tell of it."""
    fewest = min((each.tokens_per_input for each in outputs), default=0.0)
    whole = OutputError(ALL_SELECTED, sum(each.error for each in outputs), sum(each.energy for each in outputs), fewest)
    rows = []
    if corrected := sum(each.corrected for each in outputs):
        share = corrected / sum(each.weights for each in outputs)
        rows.append(Row(metric="corrected", condition=ALL_SELECTED, value=share))
    for each in (whole, *outputs):
        relative = (max(0.0, each.error) / each.energy) ** 0.5 if each.energy else 0.0
        rows.append(Row(metric="output_error", condition=each.site, value=relative))
        rows.append(Row(metric="tokens_per_input", condition=each.site, value=each.tokens_per_input))
    return rows
