"""The optimizers of the zoo's trainings: Muon for matrices, AdamW for the rest, and their learning rate's course."""

from collections.abc import Collection

import torch
from torch import nn

from hardy.errors import InputError


def optimizers_of(
    model: nn.Module,
    *,
    apart: Collection[nn.Module | None] = (),
    matrix_lr: float,
    other_lr: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of linear layers but those `apart`, AdamW for the rest; each group has its `peak_lr`.

    What else has two dimensions is no map between features that orthogonal steps would suit: embeddings, a router's
    rows, the decay rates of a state space. Muon takes no stacks, so experts go to AdamW too.

    Raises:
        InputError: this torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"training uses torch.optim.Muon: torch >= 2.9 is needed, this is {torch.__version__}")
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m not in apart]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer, rate in ((muon, matrix_lr), (adamw, other_lr)):
        for group in optimizer.param_groups:
            group["peak_lr"] = rate
    return [muon, adamw]


def trapezoid(step: int, steps: int, warmup: float, decay: float) -> float:
    """The factor on learning rates at `step` of `steps`: up in the first `warmup` of them, to zero in the last
    `decay`, both shares."""
    up = (step + 1) / max(1.0, warmup * steps)
    down = (steps - step) / max(1.0, decay * steps)
    return min(1.0, up, down)
