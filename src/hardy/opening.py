"""`hardy.load`: one call that opens whatever hardy wrote, by what is in it, and imports the room only then.

Another package names what its files hold by an entry point of the group "hardy.openers": the `format` that its JSON or
the metadata of its safetensors says, and the function that reads the path.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from hardy.entry_points import entry_points
from hardy.errors import InputError
from hardy.files import read_json
from hardy.reading import reading

GROUP = "hardy.openers"

OPENERS = {
    "hardy-artefact": "hardy.opening:read_artefact",
    "hardy-chip": "hardy.hardware:Chip.load",
    "hardy-field": "hardy.fields:load_field",
    "hardy-ranking": "hardy.core:Ranking.load",
    "hardy-report": "hardy.report:Report.load",
    "fields of integers": "hardy.opening:read_integer_fields",
    "Gaussians": "hardy.splat:load_ply",
    "method": "hardy.opening:read_method",
}
"""What a path holds -> "module:function" that reads it."""

_MAGIC = {b"\x93hrd": "fields of integers", b"ply\n": "Gaussians", b"ply\r": "Gaussians"}
_FOLDERS = {"hardy.json": "hardy-artefact", "report.json": "hardy-report"}
_KEYS = {frozenset({"scores", "meaning", "unit", "by"}): "hardy-ranking", frozenset({"method", "fields"}): "method"}


def load(path: str | Path, *, into: nn.Module | None = None) -> Any:
    """What is stored at `path`: a saved or packed model, a field, fields of integers, Gaussians, a chip, a ranking, a
    report or a method.

    Args:
        path: a file or folder that hardy, or a package that plugs into it, wrote.
        into: for a saved model that is not a Hugging Face model: a module of the same architecture that takes the
            weights.

    Returns:
        The object: an `nn.Module` in evaluation mode, `Field`, `IntegerField` (a list of them, if the file holds
        several), the parameters of Gaussians, `Chip`, `Ranking`, `Report` or `Method`.

    Raises:
        InputError: there is nothing, it is damaged, or of a kind that nothing here opens.
    """
    path = Path(path).expanduser()
    kind = kind_of(path)
    points = {point.name: point for point in entry_points(GROUP)}
    if kind in OPENERS:
        read = importlib.metadata.EntryPoint(kind, OPENERS[kind], GROUP).load()
    elif kind in points:
        read = points[kind].load()
    else:
        raise InputError(f"{path} holds a {kind}, which hardy.load does not open; it opens {_known([*points])}")
    if into is not None and kind != "hardy-artefact":
        raise InputError(f"into= takes the weights of a saved model; {path} holds a {kind}")
    with reading(path):
        return read(path) if into is None else read(path, into=into)


def kind_of(path: Path) -> str:
    """What `path` holds: one of `OPENERS`, or the format that it says.

    Raises:
        InputError: there is nothing, or nothing that is known.
    """
    if path.is_dir():
        for name, kind in _FOLDERS.items():
            if (path / name).is_file():
                return kind
        hint = "; hardy.zoo.load takes models of others" if (path / "config.json").is_file() else ""
        raise InputError(f"{path} is not an artefact of hardy: it has no hardy.json{hint}")
    if not path.is_file():
        raise InputError(f"{path} is not there")
    with reading(path), open(path, "rb") as file:
        start = file.read(64)
    if start[:4] in _MAGIC:
        return _MAGIC[start[:4]]
    if start[:4] == b"GGUF":
        raise InputError(f"{path} is a model in GGUF; hardy.zoo.load takes models of others")
    if start.lstrip()[:1] == b"{":
        value = read_json(path)
        if not isinstance(value, dict):
            raise InputError(f"{path} is damaged: it marks a number that is not finite, and nothing else")
        kind = _KEYS.get(frozenset(value)) or value.get("format")
    else:
        try:
            with safe_open(path, "pt") as tensors:
                kind = (tensors.metadata() or {}).get("format")
        except (SafetensorError, OSError):
            kind = None
    if not isinstance(kind, str):
        raise InputError(f"{path} is empty, damaged, or of no kind that hardy.load opens: {_known([])}")
    return kind


def read_artefact(path: Path, *, into: nn.Module | None = None) -> nn.Module:
    """A saved model; one that was made of a network of the zoo knows which, and needs no `into`."""
    from hardy.artefacts import artefact

    if into is None and not (path / "config.json").is_file():
        from hardy.zoo import digits

        if artefact.read_record(path).get("zoo") == digits.NAME:
            into = digits.TinyCNN()
    return artefact.load(path, into=into)


def read_method(path: Path) -> Any:
    """The method whose `to_dict` somebody stored as JSON."""
    from hardy.core.method import from_dict

    with reading(path):
        return from_dict(read_json(path))


def read_integer_fields(path: Path) -> Any:
    """The field in a `.hardy` file, a network of coordinates or a picture as latents; a list if it holds several."""
    from hardy.fields import IntegerField
    from hardy.fields.container import Picture, load_fields

    fields = [model if isinstance(model, Picture) else IntegerField(model) for model in load_fields(path)[0]]
    return fields[0] if len(fields) == 1 else fields


def _known(others: list[str]) -> str:
    return ", ".join([*OPENERS, *others])
