"""Where a fit stands, in one safetensors file, from which it goes on after a kill as if nothing had been."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hardy.errors import InputError
from hardy.files import write_atomic

if TYPE_CHECKING:
    from hardy.fields.descent import Run

FORMAT = "hardy-fit-1"


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The first digits of the sha256 of all bytes of `tensors`."""
    whole = hashlib.sha256()
    for tensor in tensors.values():
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]


def write(path: str | Path, run: Run, identity: Mapping[str, str]) -> None:
    """Store `run`, atomically."""
    tensors = {f"final.{name}": tensor for name, tensor in run.final.items()}
    for name, leaf in run.leaves.items():
        tensors[f"now.{name}"] = leaf.detach()
        state = run.optimizer.state[leaf]
        if "step" in state:
            tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
    facts = {
        "identity": dict(identity),
        "step": run.step,
        "seconds": run.seconds,
        "alive": run.alive,
        "histories": run.histories,
        "finished": {network: [fit.psnr, fit.steps, fit.seconds] for network, fit in run.fits.items()},
    }
    metadata = {"format": FORMAT, "facts": json.dumps(facts)}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomic(path, lambda temporary: save_file(contiguous, str(temporary), metadata))


def resume(path: str | Path, run: Run, identity: Mapping[str, str]) -> None:
    """Bring `run` to where the file at `path` says; leave it at its start if there is no such file.

    Raises:
        InputError: the file is damaged, or of a run with other settings or other parameters.
    """
    from hardy.fields.descent import Fit

    if not Path(path).exists():
        return
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} is not the checkpoint of a fit")
        facts = json.loads(metadata["facts"])
        final = {name: tensors[f"final.{name}"] for name in run.final}
        for name, tensor in final.items():
            if tensor.shape != run.final[name].shape:
                raise InputError(
                    f"{path} is of another fit: {name} is {tuple(tensor.shape)} there, "
                    f"{tuple(run.final[name].shape)} here"
                )
        for name, here in identity.items():
            if (there := facts["identity"][name]) != here:
                raise InputError(f"{path} is of another fit: the {name} were {there}, not {here}")
        now = {name: tensors[f"now.{name}"] for name in run.final}
        finished = {
            int(network): Fit(psnr=psnr, steps=steps, seconds=seconds, history=_history(facts, int(network)))
            for network, (psnr, steps, seconds) in facts["finished"].items()
        }
        histories = [list(_history(facts, network)) for network in range(len(facts["histories"]))]
        step, seconds, alive = int(facts["step"]), float(facts["seconds"]), [int(i) for i in facts["alive"]]
    except (OSError, SafetensorError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from None
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{path} is damaged: {error}") from None
    for name, leaf in run.leaves.items():
        run.final[name].copy_(final[name])
        leaf.data = now[name].to(leaf.device)
        if f"step.{name}" in tensors:
            moments = {key: tensors[f"{key}.{name}"].to(leaf.device) for key in ("exp_avg", "exp_avg_sq")}
            run.optimizer.state[leaf] = {"step": tensors[f"step.{name}"], **moments}
    run.step = run.checked = step
    run.seconds, run.alive, run.histories, run.fits = seconds, alive, histories, finished


def _history(facts: dict, network: int) -> tuple[tuple[int, float], ...]:
    return tuple((int(step), float(psnr)) for step, psnr in facts["histories"][network])
