"""Devices by their names."""

import torch

from hardy.errors import InputError


def device_of(device: torch.device | str | None) -> torch.device:
    """The device of this name; None and "auto" are a GPU of CUDA or ROCm if there is one, else the CPU.

    Other accelerators are taken by name ("mps", "xpu"): what is computed in float64 or in kernels of our own may not
    be possible there.

    Raises:
        InputError: it is not there.
    """
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=(found := torch.device(device)))
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} is not there: {reason}; give cpu, cuda, cuda:1 or auto") from None
    return found
