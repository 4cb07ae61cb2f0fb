"""What noise-aware training is measured on: ResNet-20 on CIFAR-10, and tiny-llama on its own training text."""

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import hardy
from benchmarks.harness import SHARED
from hardy.core.rng import generator
from hardy.hardware import AdditiveNoise
from hardy.zoo.text import training_documents

DATA = SHARED / "vision"
RELATIVE_TO = "channel-absmax"


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a shortcut without parameters."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.missing = stride, outside - inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """He et al.'s ResNet-20 for 32 x 32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (inside, outside) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            first = Block(inside, outside, 1 if stage == 1 else 2)
            blocks = nn.Sequential(first, Block(outside, outside, 1), Block(outside, outside, 1))
            setattr(self, f"layer{stage}", blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def images(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (count, 3, 32, 32) and labels."""
    with np.load(DATA / name) as stored:
        x = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(stored["labels"])
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x - mean) / std, y


def noise(strength: float, seed: int = 0, select: Any = None) -> AdditiveNoise:
    where = {} if select is None else {"select": select}
    return AdditiveNoise(strength=strength, relative_to=RELATIVE_TO, seed=seed, **where)


class Vision:
    """ResNet-20 on CIFAR-10. The last 2,000 training images are for choosing, the rest for training."""

    select, metric, unit = "conv,linear", "accuracy", "%"
    levels = (0.0, 0.05, 0.1)
    trained_at, rate, steps, batch, choices = 0.1, 3e-3, 120, 64, ((0.1, 3e-3), (0.1, 1e-2), (0.1, 3e-2))

    def __init__(self, judged: bool) -> None:
        self.x, self.y = images("cifar10_train20k.npz")
        held = (self.x[18000:], self.y[18000:])
        self._all = images("cifar10_test.npz") if judged else held
        self.take(500)
        self.x, self.y = self.x[:18000], self.y[:18000]

    def take(self, count: int) -> None:
        """Judge on the first `count` images."""
        self.judge = tuple(part[:count] for part in self._all)

    def model(self) -> nn.Module:
        model = ResNet20()
        model.load_state_dict(load_file(DATA / "resnet20.safetensors"), strict=False)
        return model.eval()

    def optimizer(self, model: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)

    def loss(self, model: nn.Module, seed: int, step: int) -> torch.Tensor:
        random = generator(seed, "batch", step)
        rows = torch.randint(len(self.x), (self.batch,), generator=random)
        x = F.pad(self.x[rows], (4, 4, 4, 4))
        top, left = torch.randint(9, (2,), generator=random).tolist()
        x = x[:, :, top : top + 32, left : left + 32]
        mirrored = torch.rand(self.batch, generator=random) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return F.cross_entropy(model(x), self.y[rows])

    @torch.inference_mode()
    def score(self, model: nn.Module) -> float:
        x, y = self.judge
        return 100 * (model(x).argmax(1) == y).double().mean().item()


class Language:
    """tiny-llama on its own training text."""

    select, metric, unit = None, "perplexity", ""
    levels = (0.0, 0.05, 0.1)
    trained_at, rate, steps, batch, choices = 0.1, 1e-4, 40, 4, ((0.1, 1e-4), (0.1, 3e-4))

    def __init__(self, judged: bool) -> None:
        _, self.tokenizer = hardy.zoo.load("tiny-llama")
        text = hardy.zoo.held_out_text("evaluation" if judged else "calibration")
        self.judge = torch.cat(hardy.evaluate.batches(self.tokenizer, text, window=256, tokens=2048))
        library, _ = training_documents()
        self.ids = hardy.evaluate.encode(self.tokenizer, "\n\n".join(library[::8]))

    def model(self) -> nn.Module:
        model, _ = hardy.zoo.load("tiny-llama")
        model.set_attn_implementation("eager")  # faster to train on a CPU
        return model

    def optimizer(self, model: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)

    def loss(self, model: nn.Module, seed: int, step: int) -> torch.Tensor:
        begins = torch.randint(len(self.ids) - 257, (self.batch,), generator=generator(seed, "batch", step)).tolist()
        rows = torch.stack([self.ids[begin : begin + 257] for begin in begins])
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    @torch.inference_mode()
    def score(self, model: nn.Module) -> float:
        logits = model(input_ids=self.judge, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), self.judge[:, 1:].flatten()).exp().item()


Task = Vision | Language
