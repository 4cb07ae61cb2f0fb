"""A network of convolutions trained to binary weights and few-bit activations, packed and stored, with its page."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from hardy import checks
from hardy.artefacts import save
from hardy.artefacts.artefact import RECORD, check_destination, state_hash
from hardy.core import Report, Row
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.hooks import watch
from hardy.opening import load
from hardy.quant import Annealing, BinaryWeights, Pack, export_onnx
from hardy.quant.binary_layers import BinaryLayer
from hardy.reading import reading
from hardy.report.figures import Bars, BarSeries, Lines, Series
from hardy.runs.checkpoint import Checkpoint
from hardy.runs.progress import progress
from hardy.studies.binary_cost import image_cost, shares, stored_bytes
from hardy.studies.images import Images, read_images
from hardy.zoo import digits

FLOAT = "float"
EXAMPLE = "example.safetensors"
_CALIBRATION = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How the network is trained.

    Args:
        activation_bits: of the model that is kept.
        method, activation, select, eight_bit, rectifier: as for `hardy.quant.BinaryWeights`.
        sweep: activation bits that are trained as well, for the curves.
        epochs: of every training.
        batch_size: images in a step.
        learning_rate: of Adam; it falls to zero by a cosine.
        seed: of the order of the images.
    """

    activation_bits: int = 4
    method: str = "bwma"
    activation: str | None = None
    select: str | None = None
    eight_bit: str | None = None
    rectifier: str | None = None
    sweep: tuple[int, ...] = ()
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for bits in (self.activation_bits, *self.sweep):
            self.edit(bits)
        for name in ("epochs", "batch_size"):
            checks.integer(name, getattr(self, name), at_least=1)
        checks.number("learning_rate", self.learning_rate, above=0)
        checks.integer("seed", self.seed)

    def edit(self, bits: int) -> BinaryWeights:
        """The method at so many bits."""
        return BinaryWeights(
            activation_bits=bits, method=self.method, activation=self.activation, select=self.select,
            eight_bit=self.eight_bit, rectifier=self.rectifier,
        )  # fmt: skip


def binarize(
    model: str | nn.Module,
    out: str | Path,
    *,
    plan: Plan | None = None,
    data: str | Path | None = None,
    weights: str | Path | None = None,
) -> Report:
    """Train binary weights, pack them, and store the model and the report in the folder `out`.

    A run that was stopped goes on from `out`.training, which is gone when all is done.

    Args:
        model: "tiny-cnn", a folder of hardy, "module:function" of one that makes the network, or a network.
        out: a new folder, or an artefact of hardy, which is replaced.
        plan: how; the default plan by default.
        data: see `read_images`; the zoo's digits for tiny-cnn.
        weights: safetensors for what "module:function" makes.

    Raises:
        InputError: something cannot be read, or does not fit together, or the folder is something else's.
    """
    plan, out = plan or Plan(), Path(out)
    check_destination(out)
    network = model if isinstance(model, nn.Module) else network_of(model, weights)
    if data is None and getattr(network, "zoo_name", None) != digits.NAME:
        raise InputError("name the images to train on with data: an .npz file or a folder of pictures by class")
    images = read_images(data)
    network.eval()
    before = accuracy(network, images)
    identity = {
        "model": state_hash(network), "data": images.digest, **dataclasses.asdict(dataclasses.replace(plan, sweep=()))
    }  # fmt: skip
    work = out.with_name(f"{out.name}.training")
    rows = [Row(metric="accuracy", condition=FLOAT, value=before)]
    rows.append(Row(metric="bytes", condition=FLOAT, value=stored_bytes(network), unit="B"))
    kept: nn.Module | None = None
    figures: list[Any] = []
    for bits in dict.fromkeys((*plan.sweep, plan.activation_bits)):
        trained = copy.deepcopy(network)
        change = plan.edit(bits).apply(trained, images.x_train[:_CALIBRATION].split(plan.batch_size))
        check_labels(trained, images)
        checkpoint = Checkpoint(
            work / f"{bits}-bits.safetensors", kind="training of binary weights", identity={**identity, "bits": bits}
        )
        fit(trained, images, plan, bits, checkpoint)
        condition = f"{bits} bits"
        cost = image_cost(trained, images.x_test[:1], bits)
        if bits == plan.activation_bits:
            rows += [Row(metric="relative_error", condition=name, value=error) for name, error in errors(trained)]
            figures = [_errors(trained), *_histograms(trained, images)]
        Pack().apply(trained)
        rows += [
            Row(metric="accuracy", condition=condition, value=accuracy(trained, images), baseline=FLOAT,
                details={"activation_bits": bits}),
            Row(metric="energy", condition=condition, value=cost.energy / 1e3, unit="nJ/image"),
            Row(metric="latency", condition=condition, value=cost.nanoseconds / 1e3, unit="us/image"),
            Row(metric="area", condition=condition, value=cost.area / 1e6, unit="mm^2",
                details={"arrays": cost.arrays}),
            Row(metric="bytes", condition=condition, value=stored_bytes(trained), unit="B", baseline=FLOAT),
        ]  # fmt: skip
        if bits == plan.activation_bits:
            kept = trained
        else:
            del change
    assert kept is not None
    rows.sort(key=lambda row: row.details.get("activation_bits") is None and row.metric == "relative_error")
    report = _report(str(model if isinstance(model, str) else type(model).__name__), plan, images, rows, figures, kept)

    def extra(folder: Path) -> None:
        from safetensors.torch import save_file

        report.save(folder)
        save_file({"example": images.x_test[:1].contiguous()}, folder / EXAMPLE)

    save(kept, out, extra=extra)
    shutil.rmtree(work, ignore_errors=True)
    return report


def network_of(name: str, weights: str | Path | None) -> nn.Module:
    """The network that `name` names; see `binarize`."""
    if ":" in name and not Path(name).exists():
        module, _, function = name.partition(":")
        try:
            made = getattr(importlib.import_module(module), function)()
        except (ImportError, AttributeError) as error:
            raise InputError(f"{name} cannot be imported: {error}") from None
        if not isinstance(made, nn.Module):
            raise InputError(f"{name} makes a {type(made).__name__}, no network")
        if weights is not None:
            if not Path(weights).is_file():
                raise InputError(f"{weights} is not there")
            with reading(weights):
                wrong = made.load_state_dict(load_file(weights), strict=False)
            missing = [key for key in wrong.missing_keys if not key.endswith("num_batches_tracked")]
            if missing or wrong.unexpected_keys:
                raise InputError(f"{weights} does not fit {name}: {[*missing, *wrong.unexpected_keys][:3]}")
        return made
    if weights is not None:
        raise InputError(f"weights belong to module:function; {name} has its own")
    if name == digits.NAME:
        return digits.tiny_cnn()
    if not Path(name).exists():
        raise InputError(f"{name} is none of {digits.NAME}, a folder of hardy, module:function")
    found = load(name)
    if not isinstance(found, nn.Module):
        raise InputError(f"{name} holds a {type(found).__name__}, no network")
    return found


def export_folder(folder: str | Path, path: Path, dialect: Literal["onnx", "qonnx"] = "onnx") -> None:
    """Write the model that `binarize` stored in `folder` to ONNX or QONNX; see `hardy.quant.export_onnx`."""
    folder = Path(folder)
    example = folder / EXAMPLE
    if not (folder / RECORD).is_file() or not example.is_file():
        raise InputError(f"{folder} is not a folder that hardy binarize wrote")
    with reading(example):
        image = load_file(example)["example"]
    export_onnx(load(folder), image, path, dialect=dialect)


def check_labels(model: nn.Module, images: Images) -> None:
    """Raise `InputError` unless the network takes the images and knows all their classes."""
    try:
        with torch.no_grad():
            classes = model(images.x_train[:2]).shape
    except RuntimeError as error:
        raise InputError(f"the network does not take images {tuple(images.x_train.shape[1:])}: {error}") from None
    top = int(torch.cat([images.y_train, images.y_test]).max())
    if len(classes) != 2 or classes[1] <= top:
        raise InputError(
            f"the network gives {tuple(classes[1:])} numbers for an image, and there are labels up to {top}"
        )


def fit(model: nn.Module, images: Images, plan: Plan, bits: int, checkpoint: Checkpoint) -> None:
    """Train `model`, or go on from the checkpoint; an epoch is what can be lost."""
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.learning_rate)
    per_epoch = math.ceil(len(images.x_train) / plan.batch_size)
    annealing, first = Annealing(model, plan.epochs * per_epoch), 0
    if (state := checkpoint.load()) is not None:
        with reading(checkpoint.path):
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            annealing.load_state_dict(state["annealing"])
            first = checks.integer("epoch", state["epoch"], at_least=0)
    model.train()
    with progress(f"{bits} bits", plan.epochs, done=first) as bar:
        for epoch in range(first, plan.epochs):
            order = torch.randperm(len(images.x_train), generator=generator(plan.seed, "order", epoch))
            total = 0.0
            for rows in order.split(plan.batch_size):
                rate = 0.5 * (1 + math.cos(math.pi * annealing.done / annealing.steps))
                optimizer.param_groups[0]["lr"] = plan.learning_rate * rate
                loss = F.cross_entropy(model(images.x_train[rows]), images.y_train[rows])
                if not torch.isfinite(loss):
                    raise InputError(
                        f"the loss is {loss.item()} in epoch {epoch + 1} at {bits} bits; lower learning_rate"
                    )
                loss.backward()
                optimizer.step()
                annealing.step()
                optimizer.zero_grad(set_to_none=True)
                total += loss.item() * len(rows)
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save({"epoch": epoch + 1, "annealing": annealing.state_dict(), **states})
            bar.update(epoch + 1, f"loss {total / len(order):.3f}")
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share of the test images that are named right."""
    parts = zip(images.x_test.split(256), images.y_test.split(256), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return right / len(images.y_test)


def errors(model: nn.Module) -> list[tuple[str, float]]:
    """The relative error of the two levels against the float weight, layer by layer."""
    found = []
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryLayer):
            weight = layer.weight.detach().flatten(1).float()
            found.append((name, ((layer.levels().dense() - weight).norm() / weight.norm()).item()))
    return found


def _errors(model: nn.Module) -> Bars:
    names, values = zip(*errors(model), strict=True)
    return Bars(
        title="Error of each layer",
        caption="Two levels against the float weights that they were trained from; 0.60 is the best for Gaussian ones.",
        y_label="relative error",
        groups=names,
        series=(BarSeries(label="weights", values=values),),
    )


@torch.no_grad()
def _histograms(model: nn.Module, images: Images) -> list[Lines]:
    """What the first, the middle and the last binary layer are given, and the levels that they round it to."""
    layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, BinaryLayer) and layer.rule.bits == 1}
    names = list(layers)
    chosen = list(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
    seen: dict[str, torch.Tensor] = {}
    points = {(name, "input"): (lambda x, name=name: seen.update({name: x.flatten()})) for name in chosen}
    with watch(model, points):
        model(images.x_test[:64])
    figures = []
    for name in chosen:
        rule, x = layers[name].activation, seen[name].float()
        top = float(torch.quantile(x[:: max(1, len(x) // 10000)], 0.999)) or 1.0
        counts = torch.histc(x, 60, float(x.min()), top) / len(x)
        centres = torch.linspace(float(x.min()), top, 61)
        levels = (torch.arange(rule.levels + 1) - rule.zero_point) * rule.step
        levels = levels[(levels >= x.min()) & (levels <= top)][:64]
        figures.append(
            Lines(
                title=f"Inputs of {name}",
                caption=f"{rule.bits} bits, a learned step of {float(rule.step):.3g}; points are the levels.",
                x_label="activation", y_label="share of the inputs", log_y=True,
                series=(
                    Series(label="inputs", x=tuple(((centres[1:] + centres[:-1]) / 2).tolist()),
                           y=tuple(counts.tolist())),
                    Series(label="levels", x=tuple(levels.tolist()),
                           y=(float(counts.max()),) * len(levels), style="points"),
                ),
            )
        )  # fmt: skip
    return figures


def _report(name: str, plan: Plan, images: Images, rows: list[Row], figures: list[Any], kept: nn.Module) -> Report:
    by = {(row.metric, row.condition): row.value for row in rows}
    points = [(int(row.details["activation_bits"]), row) for row in rows if "activation_bits" in row.details]  # pyright: ignore[reportArgumentType]
    points.sort(key=lambda point: point[0])
    bits = tuple(float(b) for b, _ in points)
    reached = tuple(100 * row.value for _, row in points)
    energy = tuple(by["energy", row.condition] for _, row in points)
    flat = (100 * by["accuracy", FLOAT],) * len(points)
    curves = [
        Lines(
            title=f"Accuracy against {label}", caption="Weights of one bit; dashed: the float network.",
            x_label=unit, y_label="accuracy, %", log_x=log,
            series=(Series(label=plan.method, x=x, y=reached), Series(label=FLOAT, x=x, y=flat, style="dashed")),
        )
        for label, unit, x, log in (
            ("bits", "bits of activations", bits, False), ("energy", "energy, nJ an image", energy, True)
        )
    ]  # fmt: skip
    condition = f"{plan.activation_bits} bits"
    share = shares(kept)
    ends = f", {share[8]:.0%} of 8 bits" if share[8] else ""
    kept_dense = (
        "The first and the last layer"
        if plan.select is None and plan.eight_bit is None
        else "Layers that are not named"
    )
    return Report(
        title=f"{name} with binary weights and {plan.activation_bits}-bit activations",
        summary=(
            f"{100 * by['accuracy', condition]:.1f} % of {len(images.y_test)} test images right, "
            f"{100 * by['accuracy', FLOAT]:.1f} % with float weights; {by['bytes', condition] / 1e3:.1f} kB instead of "
            f"{by['bytes', FLOAT] / 1e3:.1f} kB. {share[1]:.0%} of the weights are binary{ends}.",
        ),
        rows=tuple(rows),
        figures=(*curves, *figures),
        settings={"model": name, "data": images.name, **dataclasses.asdict(plan), "sweep": list(plan.sweep)},
        notes=(
            f"{kept_dense} stays dense; batch norms, rectifiers and biases are float.",
            "One training of each; no spread over seeds.",
            "Energy, latency and area are closed-form figures of published parts, of the packed layers alone.",
            "XNOR-Net's input scale is left out.",
        ),
    )
