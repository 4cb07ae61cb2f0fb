"""Low-rank adapters that hold at every noise level: digital beside a frozen, noisy base, with small Gram matrices.

HaLoRA, arXiv 2502.19747. The adapters are PEFT's; ours are the noise under them, the penalty, and that they cannot be
merged. The paper prints the norm of the penalty as a 2-norm; we default to Frobenius, whose gradient is that of all
directions, and offer the spectral one.
"""

import dataclasses
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn
from transformers import TrainerCallback

from hardy import checks
from hardy.analog.adapters import keep_adapters_digital
from hardy.analog.noise_aware import NoiseAware
from hardy.analog.noisy_forward import Resample, Simulator
from hardy.core.layers import Layers
from hardy.core.rng import derive
from hardy.core.selection import LINEAR, Selector, select
from hardy.core.surgery import Edits
from hardy.errors import InputError, install
from hardy.hardware.chip import Chip
from hardy.hardware.noise import WeightNoise

if TYPE_CHECKING:
    from peft import PeftModel

Norm = Literal["frobenius", "spectral"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HaLoRA:
    """Low-rank adapters for a model whose own weights are on noisy arrays.

    `adapt` gives a PEFT model: train it in any loop with `penalty` added to the loss, or with the Trainer of
    transformers and `callback`; save it with its `save_pretrained`. With `chip=None` and `penalty_weight=0` it is
    plain LoRA, with `penalty_weight=0` alone LoRA with noise.

    Args:
        chip: the noise of the frozen base in training, as for `NoiseAware`; None for none.
        rank: of each adapter.
        alpha: the adapter's output is multiplied by alpha / rank.
        penalty_weight: factor (mu) on the norms of the Gram matrices.
        norm: of a Gram matrix: "frobenius", or "spectral" for its largest singular value.
        resample: new noise at every so many steps, as for `NoiseAware`.
        warmup_steps: the noise grows to its full size over so many steps.
        seed: of the adapters' first values and of all noise.
        seconds: since programming, for a chip.
        select: which linear layers get an adapter.
        layers: in which layers of the model; all by default.
        noisy: which weights of the base are noisy in training; by default all that `Deploy` puts on a chip.
    """

    chip: Chip | WeightNoise | Simulator | str | None = None
    rank: int = 8
    alpha: float = 16.0
    penalty_weight: float = 1e-3
    norm: Norm = "frobenius"
    resample: Resample = 1
    warmup_steps: int = 0
    seed: int = 0
    seconds: float = 0.0
    select: Selector = "attention.q,attention.v"
    layers: Layers | None = None
    noisy: Selector = LINEAR

    def __post_init__(self) -> None:
        checks.integer("rank", self.rank, at_least=1)
        checks.number("alpha", self.alpha, above=0)
        checks.number("penalty_weight", self.penalty_weight, at_least=0)
        checks.one_of("norm", self.norm, get_args(Norm))
        checks.integer("seed", self.seed)
        if self.chip is not None:
            self._noise()  # its fields are checked there

    def adapt(self, model: nn.Module) -> "PeftModel":
        """Put adapters on the selected layers and freeze everything else.

        Returns:
            A `peft.PeftModel` around `model`, which is changed in place; `unload()` takes the adapters off again.

        Raises:
            InputError: PEFT is not installed, a selected layer is not linear, or the model has adapters already.
        """
        try:
            import peft
        except ImportError:
            raise InputError(f"HaLoRA needs PEFT: {install('peft')}") from None
        if hasattr(model, "peft_config"):
            raise InputError(f"this {type(model).__name__} has adapters already; unload them first")
        sites = select(model, self.select, layers=self.layers)
        for site in sites:
            module = model.get_submodule(site.module)
            if site.rows is not None or not isinstance(module, nn.Linear):
                kind = type(module).__name__ if site.rows is None else "a part of a fused projection"
                raise InputError(f"{site.name} is {kind}; HaLoRA puts adapters on whole nn.Linear layers")
        exactly = "|".join(re.escape(site.module) for site in sites)
        config = peft.LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=exactly)  # pyright: ignore[reportArgumentType]
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks for what transformers is about to rename
            torch.manual_seed(derive(self.seed, "adapters"))  # PEFT draws from the global generator
            adapted = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
        # Not undone with the noise: these adapters are for a chip, on it or not.
        keep_adapters_digital(adapted, select(adapted, _under_adapters), Edits(adapted))
        try:
            if self.chip is not None:
                self._noise().apply(adapted)
        except BaseException:
            adapted.unload()
            vars(model).pop("peft_config", None)  # which older releases of PEFT leave behind
            raise
        return adapted

    def penalty(self, model: nn.Module) -> torch.Tensor:
        """mu * sum over adapters of `||A A^T|| + ||B^T B||`, a scalar to add to the loss.

        A is (rank, in) and B (out, rank), without the factor alpha / rank.

        Raises:
            InputError: `model` has no adapters.
        """
        grams = list(_grams(model))
        if not grams:
            raise InputError(f"this {type(model).__name__} has no low-rank adapters: make them with adapt()")
        order = "fro" if self.norm == "frobenius" else 2
        norms = torch.stack([torch.linalg.matrix_norm(gram.float(), order) for gram in grams])
        return self.penalty_weight * norms.sum()

    def callback(self, model: nn.Module) -> TrainerCallback:
        """For the Trainer of transformers: adds the gradient of `penalty` once before each optimizer step.

        It comes after gradients were summed over batches and clipped, whatever their number.
        """
        return _PenaltyCallback(self, model)

    def _noise(self) -> NoiseAware:
        # The base is frozen, so the true gradient, that through its noisy weights, costs nothing more than memory.
        chip: Any = self.chip
        return NoiseAware(
            chip=chip,
            input_gradient="noisy",
            resample=self.resample,
            warmup_steps=self.warmup_steps,
            seed=self.seed,
            seconds=self.seconds,
            select=self.noisy,
        )


class _PenaltyCallback(TrainerCallback):
    def __init__(self, method: HaLoRA, model: nn.Module) -> None:
        self.method, self.model = method, model

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.enable_grad():
            self.method.penalty(self.model).backward()


def _under_adapters(name: str, module: nn.Module) -> bool:
    return name.endswith(".base_layer")


def _grams(model: nn.Module) -> Iterator[torch.Tensor]:
    """`A A^T` and `B^T B` of every adapter, (rank, rank)."""
    for module in model.modules():
        if hasattr(module, "lora_A") and hasattr(module, "lora_B"):
            layer: Any = module
            for name in layer.lora_A:
                first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
                yield first @ first.mT
                yield second.mT @ second
