"""Weights in a file that is mapped into memory, so that those that nobody looks at need not be in memory."""

import ctypes
import logging
import mmap
import os
import shutil
import tempfile

import torch
from torch import nn

from hardy.errors import shortened

_log = logging.getLogger(__name__)
_PREFIX = "hardy-weights-"


def to_file(model: nn.Module) -> bool:
    """Keep the parameters and buffers of `model` in a temporary file that is gone with them, as the same objects.

    They read and write as before: the system brings a page of the file into memory when it is touched, and `release`
    takes it out.

    Returns:
        Whether they are in a file: not where one of them is on another device, or the disk has no room.
    """
    tensors = list({id(t): t for t in (*model.parameters(), *model.buffers()) if t.numel()}.values())
    if any(t.device.type != "cpu" or t.layout != torch.strided for t in tensors):
        return False
    starts, total = [], 0
    for tensor in tensors:
        starts.append(total)
        total += -(-tensor.numel() * tensor.element_size() // mmap.PAGESIZE) * mmap.PAGESIZE
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * total:
        _log.info("no room for %.1f GB of weights in %s: they stay in memory", total / 1e9, tempfile.gettempdir())
        return False
    handle, path = tempfile.mkstemp(prefix=_PREFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            for tensor, start in zip(tensors, starts, strict=True):
                file.seek(start)
                tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tofile(file)
            file.truncate(total)
        storage = torch.UntypedStorage.from_file(path, shared=True, nbytes=total)
    except OSError as error:
        _log.info("weights stay in memory: %s", shortened(error, 200))
        return False
    finally:
        os.unlink(path)  # what is mapped stays until it is unmapped
    with torch.no_grad():
        for tensor, start in zip(tensors, starts, strict=True):
            values = torch.empty(0, dtype=torch.uint8).set_(storage)  # pyright: ignore[reportArgumentType, reportCallIssue]
            values = values[start : start + tensor.numel() * tensor.element_size()]
            tensor.data = values.view(tensor.dtype).view(tensor.shape)
    return True


def is_in_file(tensor: torch.Tensor) -> bool:
    """Whether `to_file` has put it into a file."""
    name = tensor.untyped_storage().filename if tensor.device.type == "cpu" else None
    return name is not None and os.path.basename(name).startswith(_PREFIX)


def release(tensor: torch.Tensor) -> None:
    """Take the values of a tensor that is in a file out of memory until they are next used; nothing for another."""
    madvise = getattr(_C, "madvise", None)
    if madvise is None or not is_in_file(tensor):
        return
    begin = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = tensor.data_ptr() - begin + tensor.numel() * tensor.element_size()
    madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED)  # pyright: ignore[reportAttributeAccessIssue]


def return_freed_memory() -> None:
    """Have every large tensor that is freed from now on go back to the system, instead of into a heap that only grows.

    glibc keeps what it once handed out up to 32 MB at a time: half the size of a model was measured.
    """
    if (mallopt := getattr(_C, "mallopt", None)) is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)


def trim() -> None:
    """Give the system back what was freed until now, which glibc keeps where smaller tensors lie between others."""
    if (malloc_trim := getattr(_C, "malloc_trim", None)) is not None:
        malloc_trim(0)


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_C = ctypes.CDLL(None) if os.name == "posix" else None
