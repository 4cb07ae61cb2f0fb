"""tiny-cnn: a convolutional network for handwritten digits, trained on images that scikit-learn brings along.

The images are the 8 x 8 test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
1998), 1,797 of them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from hardy.core.rng import derive, generator
from hardy.errors import InputError
from hardy.files import write_atomic, write_json

NAME = "tiny-cnn"
FOLDER = Path(__file__).parent / "weights" / "vision" / NAME
WIDTHS, STEPS, BATCH, TEST = (16, 32, 32), 1500, 64, 360


class TinyCNN(nn.Module):
    """Four 3 x 3 convolutions with batch norm, 16 to 32 channels, and a linear head: 16,794 parameters.

    Takes images (batch, 1, 8, 8) from 0 to 1 and gives logits (batch, 10).
    """

    zoo_name = NAME

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.conv1, self.bn1 = nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
        self.conv2, self.bn2 = nn.Conv2d(first, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
        self.conv3, self.bn3 = nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(second)
        self.conv4, self.bn4 = nn.Conv2d(second, third, 3, padding=1, bias=False), nn.BatchNorm2d(third)
        self.relu1, self.relu2, self.relu3, self.relu4 = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(third, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm, relu in (
            (self.conv1, self.bn1, self.relu1), (self.conv2, self.bn2, self.relu2),
            (self.conv3, self.bn3, self.relu3), (self.conv4, self.bn4, self.relu4),
        ):  # fmt: skip
            x = relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


def digits() -> dict[str, torch.Tensor]:
    """`x_train, y_train, x_test, y_test`: images (count, 1, 8, 8) from 0 to 1 and labels 0 to 9.

    The 360 test images are drawn once for all.
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    y = torch.from_numpy(data.target).long()
    order = torch.randperm(len(x), generator=generator(0, "digits"))
    test, train = order[:TEST], order[TEST:]
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def tiny_cnn() -> TinyCNN:
    """The trained network, in evaluation mode.

    Raises:
        InputError: its weights are not in this installation.
    """
    file = FOLDER / "model.safetensors"
    if not file.is_file():
        raise InputError(f"the weights of {NAME} are not in this installation: {file} is missing")
    model = TinyCNN()
    model.load_state_dict(load_file(file))
    return model.eval()


def train(out: str | Path = FOLDER, *, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Train it into the folder `out` (a minute on one core), and give the figures of its card."""
    data, out = digits(), Path(out)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, NAME))
        model = TinyCNN().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    for step in range(steps):
        x, y = batch(data, seed, step)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    found = {
        "name": NAME,
        "summary": "CNN, 4 convolutions, trained on scikit-learn's handwritten digits",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": {"steps": steps, "batch": BATCH, "seed": seed, "optimizer": "AdamW, one cycle to 5e-3"},
        "data": {"images": len(data["x_train"]), "test": len(data["x_test"]), "source": "sklearn.datasets.load_digits"},
        "held_out": {"accuracy": accuracy(model, data["x_test"], data["y_test"])},
        "versions": {"torch": torch.__version__},
    }
    write_atomic(out / "model.safetensors", lambda temporary: save_file(model.state_dict(), temporary))
    write_json(out / "card.json", found)
    return found


def batch(data: dict[str, torch.Tensor], seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a training step: drawn at random, each moved by at most a pixel."""
    random = generator(seed, "digits", step)
    rows = torch.randint(len(data["x_train"]), (BATCH,), generator=random)
    top, left = torch.randint(3, (2,), generator=random).tolist()
    x = F.pad(data["x_train"][rows], (1, 1, 1, 1))[:, :, top : top + 8, left : left + 8]
    return x, data["y_train"][rows]


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of the images that the model names right."""
    return (model(x).argmax(1) == y).double().mean().item()


def card() -> dict[str, Any]:
    """Data, recipe and figures."""
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
