"""The scales of all trit-planes and the norms of a model, trained together towards the unmodified model's predictions.

Source: ours; distillation of a quantized model by its own unmodified self, as in LLM-QAT (arXiv 2305.17888), of nothing
but what takes few bits anyway: trits stay, and not a byte is added to the file. The unmodified model is the same one
with its changes suspended, so there is no second copy of the weights.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import kl_div

from hardy import checks
from hardy.core.method import ALL_SELECTED, Method, changes, squared_norm
from hardy.core.rng import generator
from hardy.core.roles import as_matrix, is_linear, is_transposed, role_of
from hardy.core.selection import Site, all_sites
from hardy.core.surgery import Edits, weight_of
from hardy.errors import InputError
from hardy.ops.rotation import rotate
from hardy.ops.rounding import float16_scale, ungrouped
from hardy.quant.trit_planes import TritWeight
from hardy.report import Row
from hardy.runs.progress import progress

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedScales(Method):
    """Train the scales that `TritPlanes` or `CalibratedTritPlanes` left, and the norms, on windows of token ids.

    Adam on the Kullback-Leibler divergence of the predictions from the unmodified model's, with a cosine schedule.
    `apply(model, data)` takes batches (windows, tokens), as calibration does, of a causal language model whose
    quantizer has been applied and not yet `Pack`. Layers on which there is none but whole linear layers of trit-planes
    are tuned; the rest stays as it is.

    Args:
        steps: of training; 0 leaves everything as it is.
        rate: of Adam at its highest, in units of a layer's mean scale, and as it is for norms.
        tokens: of data in a step.
        seed: of the order of the windows.

    The report has the divergence in nats per token before and after, on the windows of the first and last steps, a
    tenth of them.
    """

    steps: int = 100
    rate: float = 2e-3
    tokens: int = 1024
    seed: int = 0

    def check(self) -> None:
        checks.integer("steps", self.steps, at_least=0)
        checks.number("rate", self.rate, above=0)
        checks.integer("tokens", self.tokens, at_least=2)
        checks.integer("seed", self.seed, at_least=0)

    def edit(self, model: nn.Module, edits: Edits, data: Iterable[Any] | None) -> list[Row]:
        windows = [ids for batch in data or () for ids in batch]
        if not windows or windows[0].ndim != 1 or windows[0].is_floating_point():
            raise InputError(
                "TunedScales needs batches of token ids (windows, tokens), such as hardy.evaluate.batches gives"
            )
        stored = {name: form for change in changes(model) for name, form in change.stored.items()}
        sites = [site for site in all_sites(model) if _is_tuned(model, site, stored.get(site.name))]
        if not sites:
            raise InputError("there are no trit-planes to tune: apply TritPlanes or CalibratedTritPlanes first")
        before = {site.name: weight_of(model, site) for site in sites}
        forms: dict[str, TritWeight] = {site.name: stored[site.name] for site in sites}
        scales = {name: nn.Parameter(form.scales.clone()) for name, form in forms.items()}
        norms = {
            f"{name}.weight": nn.Parameter(weight.detach().float().clone())
            for name, module in model.named_modules()
            if role_of(model, name, module) == "norm"
            and isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        }

        def overrides() -> dict[str, torch.Tensor]:
            found = {name: value.to(_parameter(model, name).dtype) for name, value in norms.items()}
            for site in sites:
                form, module = forms[site.name], model.get_submodule(site.module)
                weight = _Dequantized.apply(form.trits, scales[site.name], form.width, form.rotation)
                weight = weight.to(before[site.name].dtype)
                found[f"{site.module}.{site.parameter}"] = weight.mT if is_transposed(module) else weight
            return found

        losses = self._train(model, windows, overrides, scales, norms) if self.steps else []
        rows, error, energy = [], 0.0, 0.0
        for site in sites:
            form = forms[site.name]
            new = scales[site.name].detach()
            rounded = float16_scale(new.abs())
            trits = torch.where(new < 0, -form.trits, form.trits)
            tuned = dataclasses.replace(form, scales=rounded, trits=trits) if self.steps else form
            edits.set_weight(site, tuned.dequantize())
            edits.store(site, tuned)
            error += squared_norm(weight_of(model, site).float(), minus=before[site.name].float())
            energy += squared_norm(before[site.name].float())
        for name, value in norms.items() if self.steps else ():
            module, old = model.get_submodule(name.removesuffix(".weight")), _parameter(model, name)
            edits.swap(module, "weight", nn.Parameter(value.detach().to(old.dtype), requires_grad=old.requires_grad))
        tenth = max(1, len(losses) // 10)
        for condition, part in (("before tuning", losses[:tenth]), ("after tuning", losses[-tenth:])):
            if part:
                rows.append(Row(metric="divergence", condition=condition, value=sum(part) / len(part), unit="nats"))
        moved = (error / energy) ** 0.5 if energy else 0.0
        details = {"scales": sum(each.numel() for each in scales.values()), "norms": len(norms)}
        return [Row(metric="relative_change", condition=ALL_SELECTED, value=moved, details=details), *rows]

    def _train(
        self, model: Any, windows: list[torch.Tensor], overrides: Any, scales: dict[str, Any], norms: dict[str, Any]
    ) -> list[float]:
        groups = [{"params": [each], "lr": self.rate * each.detach().abs().mean().item()} for each in scales.values()]
        groups.append({"params": [*norms.values()], "lr": self.rate})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        warm = min(10, self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        )
        order = generator(self.seed, "windows")
        at_once = max(1, self.tokens // len(windows[0]))
        losses: list[float] = []
        begun = time.perf_counter()
        with progress("tuning scales", self.steps) as bar, _frozen(model):
            for step in range(self.steps):
                ids = torch.stack([windows[int(i)] for i in torch.randint(len(windows), (at_once,), generator=order)])
                with _unmodified(model), torch.no_grad():
                    target = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
                options = {"input_ids": ids, "use_cache": False}
                logits = torch.func.functional_call(model, overrides(), (), options).logits
                found = logits.float().log_softmax(-1)
                loss = kl_div(found.flatten(0, 1), target.flatten(0, 1), reduction="batchmean", log_target=True)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise InputError(f"tuning diverged at step {step}; give a rate below {self.rate:g}")
                if step == 0:
                    each = time.perf_counter() - begun
                    _log.info("tuning takes %.1f seconds a step, %.0f minutes", each, each * self.steps / 60)
                bar.update(step + 1, f"{losses[-1]:.3f} nats")
        return losses


def _is_tuned(model: nn.Module, site: Site, form: Any) -> bool:
    module: Any = model.get_submodule(site.module)
    if not (isinstance(form, TritWeight) and site.rows is None and site.parameter == "weight" and is_linear(module)):
        return False
    return torch.equal(form.dequantize().to(weight := as_matrix(module, module.weight.detach())), weight)


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


@contextlib.contextmanager
def _unmodified(model: nn.Module) -> Iterator[None]:
    """The model without any of its changes, for a moment."""
    applied = changes(model)
    for change in reversed(applied):
        change.suspend()
    try:
        yield
    finally:
        for change in applied:
            change.resume()


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients but of what is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class _Dequantized(torch.autograd.Function):
    """`TritWeight.dequantize` with a gradient for the scales, which keeps nothing but the trits."""

    @staticmethod
    def forward(ctx: Any, trits: torch.Tensor, scales: torch.Tensor, width: int, rotation: int) -> torch.Tensor:
        ctx.save_for_backward(trits)
        ctx.rotation = rotation
        return rotate(ungrouped((trits * scales).sum(0), width), rotation)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (trits,) = ctx.saved_tensors
        (gradient,) = gradients
        *rows, groups, size = trits.shape[1:]
        padded = nn.functional.pad(rotate(gradient.float(), ctx.rotation), (0, groups * size - gradient.shape[-1]))
        return None, (trits * padded.view(*rows, groups, size)).sum(-1, keepdim=True), None, None
