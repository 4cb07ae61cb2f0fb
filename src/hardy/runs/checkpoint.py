"""Where a long run stands, in one safetensors file, from which it goes on as if nothing had been; never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hardy import __version__
from hardy.errors import InputError
from hardy.files import NON_FINITE, from_json, sweep, to_json, write_atomic
from hardy.reading import reading

FORMAT, VERSION = "hardy-checkpoint", 1
_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


class Checkpoint:
    """The file of one run.

    Args:
        path: of the file, which need not exist.
        kind: of the run ("fit", "splat training"): another kind's file is refused.
        identity: what the run depends on, as plain JSON data (settings, digests of data and start): only a run of the
            same identity goes on from the file.
    """

    def __init__(self, path: str | Path, *, kind: str, identity: Mapping[str, Any]) -> None:
        self.path, self.kind = Path(path), kind
        self.identity: dict[str, Any] = json.loads(json.dumps(to_json(identity)))  # as it will be read back

    def save(self, state: Mapping[str, Any]) -> None:
        """Store `state`, atomically: mappings, lists, tuples, numbers, texts, None and tensors in any nesting.

        The state dicts of modules and optimizers are such. Tensors come back on the CPU.

        Raises:
            InputError: something else is in it, which would need pickling.
        """
        packing = _Packing()
        record = {"kind": self.kind, "identity": self.identity, "state": packing.packed(state, "")}
        metadata = {"format": FORMAT, "version": str(VERSION), "hardy": __version__, "record": json.dumps(record)}
        write_atomic(self.path, lambda temporary: save_file(packing.tensors, temporary, metadata))

    def load(self) -> dict[str, Any] | None:
        """The state that `save` stored; None if there is no file. What a killed run left half written is removed.

        Raises:
            InputError: the file is damaged, foreign, or of a run of another kind or identity; the message says what
                differs.
        """
        sweep(self.path)
        if not self.path.exists():
            return None
        with reading(self.path):
            identity, state = read(self.path, self.kind)
            if identity != self.identity:
                raise InputError(
                    f"{self.path} belongs to another {self.kind}: {difference(identity, self.identity)}; "
                    "choose another place, or remove it to begin anew"
                )
        return state

    def resume(self, restore: Callable[[dict[str, Any]], object]) -> bool:
        """Give the state that `save` stored to `restore`; whether there was one.

        Raises:
            InputError: as `load`; or what is in the file is not what `restore` takes.
        """
        if (state := self.load()) is None:
            return False
        with reading(self.path):
            restore(state)
        return True


def read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and state of a run's file, whatever run it was: for one that begins where another ended.

    Raises:
        InputError: the file is damaged, foreign, or of a run of another kind.
    """
    with reading(path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"{path} is not a checkpoint of hardy")
            if metadata.get("version") != str(VERSION):
                raise InputError(
                    f"{path} is a checkpoint of version {metadata.get('version')}, made by hardy "
                    f"{metadata.get('hardy')}; this hardy reads version {VERSION}"
                )
            record = json.loads(metadata["record"])
            if record["kind"] != kind:
                raise InputError(f"{path} is the checkpoint of a {record['kind']}, not of a {kind}")
            identity = dict(record["identity"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        state = _unpacked(record["state"], tensors)
        if not isinstance(state, dict):
            raise TypeError("its state is no mapping")
        return identity, state


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """The first digits of the sha256 of all bytes of `tensors`, for an identity."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]


def difference(there: Mapping[str, Any], here: Mapping[str, Any], most: int = 3) -> str:
    """What differs between two records, "plan.seeds is 5 there, 4 here", at most `most` of it in full."""
    before, after = _flat(there), _flat(here)
    names = [name for name in {**before, **after} if before.get(name, _NONE) != after.get(name, _NONE)]
    told = [f"{name} is {_shown(before, name)} there, {_shown(after, name)} here" for name in names[:most]]
    return ", ".join(told) + (f" and {len(names) - most} more" if len(names) > most else "")


_NONE = object()


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = repr(from_json(values[name])) if name in values else "absent"
    return text if len(text) <= 200 else text[:200] + "..."


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level: {"plan": {"seeds": 5}} -> {"plan.seeds": 5}."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        nested = isinstance(value, Mapping) and value and NON_FINITE not in value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


class _Packing:
    """Splits nested data into JSON and tensors, one entry for those that are the same (tied weights)."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple, str] = {}
        self._storages: set[int] = set()

    def packed(self, value: Any, place: str) -> Any:
        """`value` for JSON; `place` is where it stands, which names its tensors."""
        if isinstance(value, torch.Tensor):
            return {_TENSOR: self._tensor(value, place or "state")}
        if isinstance(value, Mapping):
            items = [(key, self.packed(item, f"{place}.{key}".lstrip("."))) for key, item in value.items()]
            if all(isinstance(key, str) and key != NON_FINITE and not key.startswith("$") for key in value):
                return dict(items)
            return {_PAIRS: [[self.packed(key, place), item] for key, item in items]}
        if isinstance(value, list | tuple):
            inner = [self.packed(item, f"{place}.{i}".lstrip(".")) for i, item in enumerate(value)]
            return {_TUPLE: inner} if isinstance(value, tuple) else inner
        if value is None or type(value) in (bool, int, float, str):
            return to_json(value)
        raise InputError(f"a checkpoint holds tensors and plain data, not a {type(value).__name__} ({place})")

    def _tensor(self, value: torch.Tensor, name: str) -> str:
        storage = value.untyped_storage().data_ptr()
        same = (storage, value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and same in self._names:
            return self._names[same]
        while name in self.tensors:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if storage in self._storages or dense.untyped_storage().nbytes() != dense.nbytes:
            dense = dense.clone()  # safetensors takes no parts of a storage
        self.tensors[name] = dense
        self._names[same] = name
        self._storages.add(storage)
        return name


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_unpacked(item, tensors) for item in value[_TUPLE])
    if _PAIRS in value:
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in value[_PAIRS]}
    if NON_FINITE in value:
        return from_json(value)
    return {key: _unpacked(item, tensors) for key, item in value.items()}
