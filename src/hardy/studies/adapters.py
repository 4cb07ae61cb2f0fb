"""Adapters trained for a chip, as a repair: HaLoRA, and at the same cost the same adapters trained without the chip."""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import nn

from hardy.analog.adapters import keep_adapters_digital
from hardy.analog.halora import HaLoRA
from hardy.core import selection
from hardy.core.layers import Layers
from hardy.core.method import Method
from hardy.core.rng import generator
from hardy.core.selection import LINEAR, Selector
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.evaluate.language import encode
from hardy.files import follow_umask, write_json
from hardy.studies.measure import load_dense, loaded, measure, texts_of

BATCH, WINDOW = 4, 128
_DONE = "trained.json"


def whole_layers(model: nn.Module, select: Selector | None, layers: Layers | None) -> tuple[str, ...]:
    """Names of the linear layers that can have an adapter; with `select` all of these, or HaLoRA says why not."""
    sites = selection.select(model, select or LINEAR, layers=layers)
    if select is not None:
        return tuple(site.name for site in sites)
    names = [s.name for s in sites if s.rows is None and isinstance(model.get_submodule(s.module), nn.Linear)]
    if not names:
        raise InputError(f"this {type(model).__name__} has no nn.Linear layer that could have an adapter")
    return tuple(names)


def trained_adapters(
    model: str, text: str | None, halora: HaLoRA, folder: Path, *, steps: int, learning_rate: float, window: int
) -> dict[str, float]:
    """Train adapters on the calibration text and store them, unless the folder has exactly these already.

    Args:
        model: a zoo name, a Hugging Face folder or a hub id.
        text: as `texts_of` takes it.
        halora: the adapters, their noise and penalty.
        folder: below it the adapters get a folder named by everything that they depend on.
        steps: of 4 windows each; the rate rises over a tenth of them and falls over the second half.
        learning_rate: of AdamW.
        window: tokens that the model sees at once, at most 128.

    Returns:
        "loss", the mean of the last tenth, and "weights", how many the adapters have.
    """
    if type(steps) is not int or steps < 1:
        raise InputError(f"steps must be at least 1, got {steps!r}")
    if not 0 < learning_rate < math.inf:
        raise InputError(f"learning rate must be above 0, got {learning_rate}")
    base, tokenizer = load_dense(model)
    ids = encode(tokenizer, texts_of(text)[1])
    window = min(window, WINDOW)
    if len(ids) <= window:
        raise InputError(f"the calibration text has {len(ids)} tokens; adapters need more than a window of {window}")
    file = folder / _DONE
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    adapted = halora.adapt(base).train()
    weights = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup, 2 * (1 - step / steps))
    )
    losses = []
    for step in track(range(steps), f"adapters, {'with' if halora.chip else 'without'} noise", transient=True):
        starts = torch.randint(len(ids) - window, (BATCH,), generator=generator(halora.seed, "windows", step))
        batch = torch.stack([ids[start : start + window] for start in starts.tolist()])
        loss = adapted(input_ids=batch, labels=batch, use_cache=False).loss
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"the loss at step {step} is {loss.item()}: a learning rate of {learning_rate} is too large"
            )
        (loss + halora.penalty(adapted)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
    adapted.save_pretrained(str(folder))
    follow_umask(folder)
    last = losses[-max(1, steps // 10) :]
    found = {"loss": sum(last) / len(last), "weights": float(sum(weight.numel() for weight in weights))}
    write_json(file, found)  # last: what is there is whole
    return found


def folder_of(below: Path, name: str, *facts: Any) -> Path:
    """A folder named by everything that its adapters depend on."""
    text = json.dumps([_plain(fact) for fact in facts], sort_keys=True)
    return below / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextmanager
def adapters_on(model: nn.Module, folder: str | Path) -> Iterator[None]:
    """`model` with the adapters that a folder holds, digital and never merged; then as it was."""
    import peft

    needs = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks for what transformers is about to rename
        adapted = peft.PeftModel.from_pretrained(model, str(folder))  # pyright: ignore[reportArgumentType]
    edits = Edits(adapted)
    try:
        keep_adapters_digital(
            adapted, selection.select(adapted, lambda name, module: name.endswith(".base_layer")), edits
        )
        yield
    finally:
        edits.undo()
        adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(needs[name])


def measure_adapted(settings: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """`measure`, with the adapters in the folder `arguments["adapters"]`, if there are any."""
    if arguments.get("adapters") is None:
        return measure(settings, arguments, seed)
    model, _ = loaded(settings)
    with adapters_on(model, arguments["adapters"]):
        return measure(settings, arguments, seed)


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Method) else repr(value)
