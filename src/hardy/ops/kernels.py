"""The compiled kernels: which of their paths runs on this processor, and what to do where they were not built.

The environment variable HARDY_KERNELS picks a path by name (avx512, avx2, neon-dot, neon, scalar), or "torch" for the
torch references, on any device, which need no compiled code. Unset, the fastest path of this processor runs.
"""

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Any

from hardy.errors import InputError, install

VARIABLE = "HARDY_KERNELS"

_MISSING = (
    "hardy runs without its compiled kernels, many times slower than it could: when it was installed they could not be "
    "built. Install a C++17 compiler and then hardy again (pip install --force-reinstall --no-deps .); or set "
    f"{VARIABLE}=torch to keep to torch without this warning."
)


@functools.cache
def extension() -> ModuleType | None:
    """The compiled module, or None where it was not built."""
    try:
        return importlib.import_module("hardy._kernels")
    except ImportError:
        return None


def paths() -> list[str]:
    """The compiled paths that this processor can take, the fastest first; empty where nothing was built."""
    module = extension()
    return [] if module is None else list(module.trit_product_paths())


def wanted() -> str:
    """What HARDY_KERNELS asks for; empty if nothing."""
    return os.environ.get(VARIABLE, "")


def path() -> str | None:
    """The compiled path to take, or None for the torch reference; warns, once, if the kernels are missing.

    Raises:
        InputError: HARDY_KERNELS names no path of this processor.
    """
    return _path(wanted())


@functools.cache
def _path(wanted: str) -> str | None:
    known = paths()
    if wanted == "torch":
        return None
    if wanted:
        if wanted not in known:
            raise InputError(f"{VARIABLE}={wanted!r}: this processor has {', '.join([*known, 'torch'])}")
        return wanted
    if not known:
        warnings.warn(_MISSING, RuntimeWarning, stacklevel=4)
        return None
    return known[0]


def triton(name: str) -> Any:
    """The module of Triton kernels `hardy.ops.NAME`, for CUDA; None where HARDY_KERNELS is "torch", or where Triton is
    not installed, which is said once."""
    return None if wanted() == "torch" else _triton(name)


@functools.cache
def _triton(name: str) -> Any:
    try:
        return importlib.import_module(f"hardy.ops.{name}")
    except ImportError:
        _warn_of_triton()
        return None


@functools.cache
def _warn_of_triton() -> None:
    warnings.warn(
        f"hardy computes on CUDA without its Triton kernels, many times slower: {install('cuda')}",
        RuntimeWarning,
        stacklevel=6,
    )
