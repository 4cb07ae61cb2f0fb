"""What `hardy sae train` does, with its report: what the features explain, and what the model loses with them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardy import hooks
from hardy.errors import InputError
from hardy.hooks.point import canonical
from hardy.interp.objects import kind_named
from hardy.interp.sae import SAE
from hardy.interp.sae_training import Training, activations_of, checkpoint_in, train
from hardy.report import Report, Row
from hardy.report.figures import Lines, Series
from hardy.runs.checkpoint import digest
from hardy.zoo.subject import Source, Subject


def point_of(object: str, layer: int) -> str:
    """The activation of a kind of object in a block.

    Raises:
        InputError: there is no such kind, or it is one of features.
    """
    kind = kind_named(object)
    if kind.name == "feature":
        raise InputError("a sparse autoencoder is trained on another object's activations, not on features")
    return kind.points.replace("*", str(layer))


def train_sae(
    model: Source,
    out: str | Path,
    *,
    object: str = "residual",
    layer: int = 0,
    settings: Training | None = None,
    text: str | Path | None = None,
    tokens: int = 200_000,
    window: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Report:
    """Train a sparse autoencoder and judge it on text that it does not see.

    `cfg.json` and `sae_weights.safetensors`, as SAELens reads them, and the report go to the folder `out`; a training
    that was interrupted goes on from there.

    Args:
        model: what `hardy.zoo.Subject.of` takes.
        out: folder.
        object, layer: whose activation.
        settings: of the training.
        text, tokens, window: as of `hardy.zoo.Subject.of`: the first half of a text trains, the second judges.
        device, dtype: of the model.
    """
    point, settings = point_of(object, layer), settings or Training()
    subject = Subject.of(model, text=text, tokens=tokens, window=window, device=device, dtype=dtype)
    hooks.points(subject.model, point)
    windows = subject.batches("calibration")
    batches = [torch.cat(windows[i : i + 8]) for i in range(0, len(windows), 8)]
    identity = {"model": subject.digest, "text": digest(batches), "point": point}
    checkpoint = checkpoint_in(out, settings, **identity)
    trained = train(subject.model, batches, point, settings, name=subject.name, checkpoint=checkpoint)
    trained.sae.save(out)
    held = subject.batches("evaluation")[:16]
    rows, facts = judged(subject.model, trained.sae, held)
    rows.append(Row(metric="dead_features", condition="training", value=trained.dead, n=trained.sae.width))
    figure = Lines(
        title="Training",
        caption="Share of a batch's variance that the features leave.",
        x_label="step",
        y_label="unexplained",
        series=(Series(label=point, x=tuple(map(float, trained.losses)), y=tuple(trained.losses.values())),),
    )
    seen = sum(batch.numel() for batch in batches)
    notes = [f"{trained.seen:,} activations were drawn from {seen:,} tokens of text"]
    if trained.seen > 2 * seen:
        notes.append("each was drawn several times: more text would be better than more steps")
    notes.append("the first position of each text is left out of training and judgement")
    report = Report(
        title=f"Sparse autoencoder of {point} in {subject.name}",
        summary=(
            f"{facts['on']:.1f} of {trained.sae.width} features at a time explain {facts['explained']:.0%} of the "
            f"variance on held-out text, the best {round(facts['on'])} fixed directions {facts['pca']:.0%}; with them "
            f"in its place the model keeps {facts['kept']:.0%} of what the activation is worth.",
        ),
        rows=tuple(rows),
        figures=(figure,),
        settings={"model": subject.name, "point": point, **vars(settings)},
        notes=tuple(notes),
    )
    report.save(out)
    return report


def judged(model: nn.Module, sae: SAE, held: list[torch.Tensor]) -> tuple[list[Row], dict[str, float]]:
    """What an autoencoder explains on text, beside as many principal directions, and what the model loses by it.

    Args:
        model: whose activation it is.
        sae: any.
        held: batches of token ids.
    """
    own = sae.to(next(model.parameters()).device)
    point = canonical(sae.point)
    stream = activations_of(model, held, point)
    x = torch.cat([stream(i) for i in range(len(held))])
    features = own.encode(x)
    on = (features > 0).sum(1).double().mean().item()
    never = (features <= 0).all(0).double().mean().item()
    centred = (x - x.mean(0)).double()
    size = torch.linalg.svdvals(centred).square()
    facts = {"on": on, "explained": own.explained(x), "pca": (size[: round(on)].sum() / size.sum()).item()}
    rows = [
        Row(metric="explained", condition="features", value=facts["explained"], n=len(x), baseline="fixed directions"),
        Row(metric="explained", condition="fixed directions", value=facts["pca"], n=len(x)),
        Row(metric="on", condition="features", value=on, n=len(x)),
        Row(metric="never_on", condition="features", value=never, n=sae.width),
    ]
    mean = x.mean(0)

    def put(new: Any) -> Any:
        def change(a: torch.Tensor) -> torch.Tensor:
            flat = a.flatten(2).float()
            found = new(flat).expand_as(flat).clone()
            found[:, :1] = flat[:, :1]
            return found.view_as(a)

        return change

    losses = {}
    replaced = {"whole": None, "features": lambda a: own.decode(own.encode(a)), "mean": lambda a: mean}
    for name, new in replaced.items():
        with hooks.patch(model, {} if new is None else {point: put(new)}):
            losses[name] = _loss(model, held)
        rows.append(Row(metric="loss", condition=name, value=losses[name], unit="nats/token"))
    span = losses["mean"] - losses["whole"]
    facts["kept"] = (losses["mean"] - losses["features"]) / span if abs(span) > 1e-6 else float("nan")
    rows.append(Row(metric="loss_recovered", condition="features", value=facts["kept"], baseline="mean"))
    return rows, facts


@torch.no_grad()
def _loss(model: Any, held: list[torch.Tensor]) -> float:
    """Mean cross-entropy in nats per token."""
    found = []
    for ids in held:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        found.append(nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())
    return sum(found) / len(found)
