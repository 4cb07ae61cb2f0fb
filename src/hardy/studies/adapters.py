"""Adapters trained for a chip, as a repair: HaLoRA, and at the same cost the same adapters trained without the chip."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardy import checks
from hardy.analog.adapters import keep_adapters_digital
from hardy.analog.halora import HaLoRA
from hardy.core import selection
from hardy.core.layers import Layers
from hardy.core.rng import generator
from hardy.core.selection import LINEAR, Selector
from hardy.core.surgery import Edits
from hardy.errors import InputError
from hardy.evaluate.language import encode
from hardy.files import follow_umask, write_json
from hardy.runs.progress import track
from hardy.studies.measure import copy_sharing_weights, measure
from hardy.zoo.subject import Subject
from hardy.zoo.text import texts_of

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


def trained_adapters(subject: Subject, halora: HaLoRA, below: Path, *, steps: int, learning_rate: float) -> Path:
    """Train adapters on the calibration text and store them, unless they are stored already.

    Args:
        subject: the model, its calibration text, and its window, of which at most 128 tokens are used.
        halora: the adapters, their noise and penalty.
        below: the folder in which they get one named by everything that they depend on.
        steps: of 4 windows each; the rate rises over a tenth of them and falls over the second half.
        learning_rate: of AdamW.

    Returns:
        The folder of the adapters, in PEFT's format; `trained.json` in it has the "loss", the mean of the last tenth,
        and "weights", how many the adapters have.
    """
    checks.integer("steps", steps, at_least=1)
    checks.number("learning_rate", learning_rate, above=0)
    ids = encode(subject.tokenizer, texts_of(subject.text)["calibration"])
    window = min(subject.window, WINDOW)
    if len(ids) <= window:
        raise InputError(f"the calibration text has {len(ids)} tokens; adapters need more than a window of {window}")
    known = subject.settings()
    facts = {name: known[name] for name in ("model_sha256", "text_sha256", "window", "dtype", "device")}
    facts |= {"steps": steps, "learning_rate": learning_rate}
    text = json.dumps([repr(halora), facts], sort_keys=True)
    folder = below / f"{'halora' if halora.chip else 'lora'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (folder / _DONE).is_file():
        return folder
    needs = {name: parameter.requires_grad for name, parameter in subject.model.named_parameters()}
    adapted = halora.adapt(copy_sharing_weights(subject.model)).train()
    try:
        losses = list(_losses(subject, adapted, halora, ids, window, steps, learning_rate))
    finally:
        for name, parameter in subject.model.named_parameters():  # what was frozen with the copy
            parameter.requires_grad_(needs[name])
    adapted.save_pretrained(str(folder))
    follow_umask(folder)
    count = sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name)
    last = losses[-max(1, steps // 10) :]
    write_json(folder / _DONE, {"loss": sum(last) / len(last), "weights": count})  # last: what is there is whole
    return folder


def _losses(
    subject: Subject, adapted: Any, halora: HaLoRA, ids: torch.Tensor, window: int, steps: int, learning_rate: float
) -> Iterator[float]:
    """The loss of every step of training."""
    weights = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup, 2 * (1 - step / steps))
    )
    for step in track(range(steps), f"adapters, {'with' if halora.chip else 'without'} noise"):
        starts = torch.randint(len(ids) - window, (BATCH,), generator=generator(halora.seed, "windows", step))
        batch = torch.stack([ids[start : start + window] for start in starts.tolist()]).to(subject.device)
        loss = adapted(input_ids=batch, labels=batch, use_cache=False).loss
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"the loss at step {step} is {loss.item()}: a learning rate of {learning_rate} is too large"
            )
        (loss + halora.penalty(adapted)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        yield loss.item()


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


def measure_adapted(subject: Subject, arguments: Mapping[str, Any], seed: int) -> dict[str, float]:
    """`measure`, with the adapters in the folder `arguments["adapters"]`, if there are any."""
    if arguments.get("adapters") is None:
        return measure(subject, arguments, seed)
    with adapters_on(subject.model, arguments["adapters"]):
        return measure(subject, arguments, seed)
