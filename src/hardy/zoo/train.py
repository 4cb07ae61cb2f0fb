"""Train a zoo language model: seeded, resumable, with its loss curve and its figures written beside the weights."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from hardy import checks
from hardy.artefacts.artefact import no_progress_bars
from hardy.core.rng import derive
from hardy.errors import InputError
from hardy.files import sweep, write_files, write_json, write_text
from hardy.reading import reading
from hardy.runs.checkpoint import Checkpoint
from hardy.runs.progress import progress
from hardy.zoo.optimizers import optimizers_of
from hardy.zoo.recipe import Data, Recipe
from hardy.zoo.tokenizer import is_stored

CHECKPOINT = "checkpoint.safetensors"
LOG = "training.jsonl"


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    steps: int | None = None,
    device: str | None = None,
    compile: bool = False,
    validate_every: int = 250,
) -> dict[str, Any]:
    """Train `recipe` into the folder `out`, or go on from the checkpoint that is there.

    The folder ends up loadable by `transformers`, with `training.jsonl` (one line per validation) and `card.json`
    (data, steps, figures). Weights are stored in float16.

    Args:
        recipe: what to train.
        out: folder of the result and of the checkpoint.
        steps: total steps, if not the recipe's. A run may be prolonged as long as its decay has not begun.
        device: "cuda", "cpu"; by default a GPU if there is one.
        compile: use `torch.compile` (needs a C++ compiler; about 1.5 times faster on a CPU).
        validate_every: steps between validations, which are also the points a killed run resumes from.

    Returns:
        The model card's figures.

    Raises:
        InputError: `steps` is not positive, or the checkpoint in `out` belongs to another recipe, or its decay has
            begun for other `steps`.
    """
    steps = recipe.steps if steps is None else checks.integer("steps", steps, at_least=1)
    validate_every = checks.integer("validate_every", validate_every, at_least=1)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    sweep(out / "*")
    checkpoint = Checkpoint(out / CHECKPOINT, kind="training of a language model", identity=_settings(recipe))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    data = recipe.data(recipe, out)
    if not is_stored(out):
        write_files(out, data.tokenizer.save_pretrained)
    torch.manual_seed(derive(recipe.seed, "init"))  # transformers initialises from the global generator
    model = recipe.build(recipe.vocab_size).train()
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    if device == "cpu":
        model.set_attn_implementation("eager")  # twice as fast to train on a CPU as the fused kernel
    optimizers = optimizers_of(
        model,
        apart=(model.get_output_embeddings(),),
        matrix_lr=recipe.matrix_lr,
        other_lr=recipe.other_lr,
        weight_decay=recipe.weight_decay,
    )
    start, seconds = _resume(checkpoint, recipe, steps, model, optimizers)

    # A mixture of experts is also trained to spread its tokens over them.
    balance = getattr(model.config, "router_aux_loss_coef", 0.0)
    options = {"output_router_logits": True} if balance else {}

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            output = model(input_ids=inputs, use_cache=False, **options)
        loss = cross_entropy(output.logits.flatten(0, 1).float(), targets.flatten())
        return loss + balance * output.aux_loss if balance else loss

    step_loss = torch.compile(loss_of) if compile else loss_of
    clock, running = time.monotonic(), 0.0
    with progress(recipe.name, steps, done=start) as bar:
        for step in range(start, steps):
            factor = recipe.learning_rate(step, steps)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
            with recipe.training():
                inputs, targets = data.batch(step, steps)
                loss = step_loss(inputs.to(device), targets.to(device))
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            running += loss.item()
            done = step + 1
            bar.update(done)
            if done % validate_every == 0 or done == steps:
                since = done - max(start, (done - 1) // validate_every * validate_every)
                model.eval()
                nats = data.validation_loss(model)
                model.train()
                line = {
                    "step": done,
                    "tokens": done * recipe.batch * recipe.context,
                    "learning_rate": recipe.matrix_lr * factor,
                    "train_loss": running / since,
                    "validation_loss": nats,
                    "seconds": seconds + time.monotonic() - clock,
                }
                running = 0.0
                _save(checkpoint, steps, line, model, optimizers)
                bar.print(
                    f"step {done}  train loss {line['train_loss']:.4f}  validation loss {nats:.4f}  "
                    f"{line['seconds'] / 60:.1f} min"
                )
    return _finish(out, recipe, steps, model.eval(), data)


def _settings(recipe: Recipe) -> dict[str, Any]:
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    del values["build"], values["data"], values["summary"], values["steps"], values["training"]
    return values


def _save(
    checkpoint: Checkpoint,
    steps: int,
    line: dict[str, Any],
    model: PreTrainedModel,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    log = checkpoint.path.with_name(LOG)
    with reading(log):
        lines = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        lines = [{**line, "step": checks.integer("step", line["step"])} for line in lines]
    lines = [old for old in lines if old["step"] < line["step"]] + [line]
    write_text(log, "".join(json.dumps(entry) + "\n" for entry in lines))
    # After the log: a run that is killed between the two comes to this step, and writes this line, again.
    states = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    checkpoint.save({"steps": steps, "step": line["step"], "seconds": line["seconds"], **states})


def _resume(
    checkpoint: Checkpoint,
    recipe: Recipe,
    steps: int,
    model: PreTrainedModel,
    optimizers: list[torch.optim.Optimizer],
) -> tuple[int, float]:
    """Load the checkpoint, if there is one; its step and the seconds spent so far."""
    old = checkpoint.path.with_suffix(".pt")
    if old.is_file() and not checkpoint.path.exists():
        raise InputError(f"{old} is a checkpoint that this hardy no longer reads; remove it to train anew")
    state = checkpoint.load()
    if state is None:
        return 0, 0.0
    with reading(checkpoint.path):
        if steps != state["steps"] and recipe.learning_rate(state["step"] - 1, state["steps"]) < 1:
            raise InputError(
                f"steps={steps}: the learning rate of {checkpoint.path} is already falling (or still rising) for "
                f"{state['steps']} steps at step {state['step']}; go on with {state['steps']}, or train anew elsewhere"
            )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return checks.integer("step", state["step"], at_least=0), checks.number("seconds", state["seconds"])


def _finish(
    out: Path,
    recipe: Recipe,
    steps: int,
    model: PreTrainedModel,
    data: Data,
) -> dict[str, Any]:
    """Store the weights as float16 and write the card, whose figures are those of the stored weights."""
    model.to(torch.device("cpu"), torch.float16)  # pyright: ignore[reportArgumentType]
    with no_progress_bars():
        write_files(out, model.save_pretrained)
    model.float()
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    card = {
        "name": recipe.name,
        "summary": recipe.summary,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": _settings(recipe) | {"steps": steps},
        "data": {**data.facts(), "tokens_seen": steps * recipe.batch * recipe.context},
        "held_out": data.held_out(model),
        "loss_curve": [[line["step"], line["train_loss"], line["validation_loss"]] for line in lines],
        "hours": lines[-1]["seconds"] / 3600,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_json(out / "card.json", card)
    return card
