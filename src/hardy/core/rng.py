"""Explicit seeds, fanned out by name: the same (seed, names) gives the same numbers on every machine and process."""

import hashlib

import torch

from hardy.checks import integer


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under `seed`.

    Streams of different names are statistically independent, and adding one never moves another, so a chip
    instance is reproducible from (seed, site, tile) whatever else is drawn and in whatever order.

    Args:
        seed: an integer, of Python or NumPy.
        names: texts and integers.

    Raises:
        InputError: a seed or name is something else.
    """
    # Length prefixes keep ("ab", "c") and ("a", "bc") apart; the type letter keeps 1 and "1" apart.
    parts = [f"i{integer('seed', seed)}"]
    parts += [f"s{name}" if isinstance(name, str) else f"i{integer('the name of a stream', name)}" for name in names]
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A `torch.Generator` on `device` for the stream called `names` under `seed`."""
    return torch.Generator(device).manual_seed(derive(seed, *names))
