"""An edited model on disk: hardy.json (what was done to which model) beside safetensors, whole or not there at all."""

import contextlib
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from hardy import __version__
from hardy.artefacts.declared import check_declared
from hardy.artefacts.packing import describe, install
from hardy.core.method import Chain, Method, changes, from_dict
from hardy.errors import InputError, shortened
from hardy.files import follow_umask, named, read_json, sweep, temporary_beside, write_json
from hardy.reading import reading
from hardy.report.report import FILES as REPORT_FILES
from hardy.report.report import Report

FORMAT, VERSION = "hardy-artefact", 1
RECORD = "hardy.json"

# What was done to a model before it was saved and loaded; kept on the model, as its changes are.
_HISTORY = "_hardy_history"
_ASIDE = ".old"
"""End of the hidden name beside an artefact under which it waits while a newer one takes its place."""


def state_hash(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """sha256 of names, shapes, types and bytes of all parameters and buffers; parameters as if cast to `dtype`."""
    digest = hashlib.sha256()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in sorted(model.state_dict().items()):
        if dtype is not None and name in parameters and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def history(model: nn.Module) -> tuple[Method, ...]:
    """All methods that made `model`, oldest first: those applied before it was saved and loaded, and since."""
    earlier = (from_dict(record) for record in vars(model).get(_HISTORY, {}).get("methods", ()))
    return (*earlier, *(change.method.recorded(model) for change in changes(model)))


def remember(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Give `model` the history in `record`, the `hardy.json` of the folder that it was loaded from."""
    kept = [method.to_dict() for stored in record["methods"] if (method := _in_the_weights(from_dict(stored)))]
    vars(model)[_HISTORY] = {"methods": kept, "base_sha256": record.get("base_sha256")}


def _in_the_weights(method: Method) -> Method | None:
    """`method` without what is no matter of weights and is applied again to a model that was loaded."""
    if isinstance(method, Chain):
        kept = tuple(inner for member in method.methods if (inner := _in_the_weights(member)))
        return Chain(methods=kept) if kept else None
    return None if method.reapplied else method


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    extra: Callable[[Path], object] | None = None,
    shard_size: str | None = None,
) -> Path:
    """Store `model` with the record of the methods applied to it.

    A Hugging Face model stays loadable by `from_pretrained`. The folder appears in one step: an interrupted save
    leaves what was there before. What a model makes anew whenever it is built (rotary frequencies, which
    transformers keeps in float32) is not stored: load a model in the dtype you want rather than casting it with `.to`,
    which rounds those too.

    Args:
        model: any module; the weights go to safetensors.
        folder: a new folder, or an artefact of hardy, which is replaced; other files in it stay.
        tokenizer: stored along, for language models.
        shard_size: the most that a file of a Hugging Face model's weights holds ("500MB"): as much is in memory while
            it is written. By default as transformers has it.
        extra: called with the folder before it appears, to write further files into it, such as a report.

    Returns:
        The folder.

    Raises:
        InputError: the folder exists and is not an artefact of hardy, a file in it that is not the artefact's would
            be overwritten, or a method cannot be recorded.
    """
    folder = named(folder)
    check_destination(folder)
    for method in (part for change in changes(model) for part in change.method.parts()):
        if method.unsaved:
            raise InputError(f"a model with {type(method).__name__} cannot be stored: {method.unsaved}; undo it first")
    for name, module in model.named_modules():
        if reason := getattr(module, "unsaved", ""):
            raise InputError(f"{name} ({type(module).__name__}) cannot be stored: {reason}")
    methods = [method.to_dict() for method in history(model)]
    base = vars(model).get(_HISTORY, {}).get("base_sha256") or _base_hash(model)
    temporary = temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        packed = {}
        if hasattr(model, "save_pretrained"):  # whose configuration says what is packed
            with no_progress_bars():
                pretrained: Any = model
                options = {} if shard_size is None else {"max_shard_size": shard_size}
                pretrained.save_pretrained(temporary, **options)
        else:
            packed = {"packed": describe(model)}
            save_model(model, str(temporary / "model.safetensors"))
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir()) if path.is_file()}
        if extra is not None:
            extra(temporary)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "class": type(model).__name__,
            **({"zoo": name} if (name := getattr(model, "zoo_name", None)) else {}),
            "methods": methods,
            "base_sha256": base,
            **packed,
            "files": files,
            "extra": sorted({path.name for path in temporary.iterdir()} - files.keys()),
            "versions": {"hardy": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        write_json(temporary / RECORD, record)
        follow_umask(temporary)
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_destination(folder: str | Path) -> None:
    """Raise `InputError` unless `save` may write there: a new or empty folder, or an artefact of hardy."""
    folder = named(folder)
    sweep(folder)
    _settle(folder)
    if folder.is_dir() and (folder / RECORD).is_file():
        _own_files(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an artefact of hardy; choose another folder")


def read_record(folder: str | Path) -> dict[str, Any]:
    """The checked `hardy.json` of `folder`: every file it names is there, whole and unchanged.

    Raises:
        InputError: the folder is missing, foreign, damaged, of a newer format, or names a method not known here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder} is not an artefact of hardy: it has no {RECORD}")
    record, expected = _parsed(folder)
    for method in record["methods"]:
        with reading(folder / RECORD):
            from_dict(method)
    if not any(name.endswith(".safetensors") for name in expected):
        raise InputError(f"{folder / RECORD} is damaged: it names no weights")
    there = {path.name: path for path in folder.iterdir() if path.is_file()}  # so no name can lead out of the folder
    for name, (size, digest) in expected.items():
        if name not in there:
            raise InputError(f"{folder} is damaged: {name} is missing")
        if (there[name].stat().st_size, _fingerprint(there[name])["sha256"]) != (size, digest):
            raise InputError(f"{folder} is damaged: {name} is not the file that was saved")
    return record


def load(folder: str | Path, *, into: nn.Module | None = None) -> nn.Module:
    """The model that `save` stored, in evaluation mode, in the dtype it was stored in, with its `history`.

    What is no matter of weights is applied again: a model on a chip comes back on the same chip instance.

    Args:
        folder: the artefact.
        into: a module of the same architecture that takes the weights; needed unless it is a Hugging Face model.

    Raises:
        InputError: the folder is missing, foreign or damaged, or does not fit `into`.
    """
    folder = Path(folder)
    record = read_record(folder)
    if into is not None:
        try:
            if (folder / "config.json").is_file():
                into.load_state_dict(_pretrained(folder, record).state_dict())
            else:
                install(into, record.get("packed", {}))
                load_model(into, str(folder / "model.safetensors"))
        except (RuntimeError, SafetensorError, OSError) as error:
            raise InputError(f"{folder} does not fit {type(into).__name__}: {str(error).splitlines()[0]}") from None
    elif (folder / "config.json").is_file():
        into = _pretrained(folder, record)
    else:
        raise InputError(f"{folder} holds a {record.get('class')}; give a module of that class with into=")
    remember(into, record)
    into.eval()
    for method in (part for stored in record["methods"] for part in from_dict(stored).parts() if part.reapplied):
        method.apply(into)
    return into


def _pretrained(folder: Path, record: dict[str, Any]) -> nn.Module:
    import transformers

    architecture = getattr(transformers, str(record.get("class")), None)
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise InputError(
            f"transformers {transformers.__version__} has no model {record.get('class')!r}, the class of {folder}"
        )
    try:
        with no_progress_bars():
            read: Any = architecture.from_pretrained
            config = transformers.AutoConfig.from_pretrained(folder)
            check_declared(folder, config, lambda: architecture(config))
            model, info = read(folder, dtype="auto", use_safetensors=True, output_loading_info=True)
    except Exception as error:  # as many kinds as there are formats inside
        raise InputError(f"cannot read the model in {folder}: {shortened(error, 300)}") from error
    wrong = [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]
    if wrong:
        raise InputError(f"the weights in {folder} are not those of a {record.get('class')}: {wrong[0]}")
    return model


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers without its own progress bars and log, whose errors hardy says in its own line."""
    from logging import CRITICAL

    from transformers.utils import logging

    shown, told = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(told)
        if shown:
            logging.enable_progress_bar()


def _base_hash(model: nn.Module) -> str:
    """`state_hash` of the model without its changes; of one cast since, as if it had been cast without them."""
    with contextlib.ExitStack() as suspended:
        dtype = next((cast for change in changes(model) if (cast := change.cast_to())), None)
        for change in reversed(changes(model)):
            change.suspend()
            suspended.callback(change.resume)
        return state_hash(model, dtype)


def _parsed(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """The record of `folder`, of the right shape, and size and digest of each file it names."""
    with reading(folder / RECORD):
        record = read_json(folder / RECORD)
        kind, number, files = record["format"], record["version"], dict(record["files"])
        record = {**record, "methods": [dict(method) for method in record["methods"]]}
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
        record["extra"] = [str(name) for name in record.get("extra", ())]
        record["packed"] = {str(name): dict(entry) for name, entry in record.get("packed", {}).items()}
    if kind != FORMAT:
        raise InputError(f"{folder / RECORD} is of format {kind!r}, not {FORMAT!r}")
    if number != VERSION:
        raise InputError(f"{folder / RECORD} is of version {number}; this hardy reads version {VERSION}")
    return record, expected


def _own_files(folder: Path) -> set[str]:
    """What of the contents of `folder` a newer artefact may replace: all that its record names, and a hardy report."""
    record, expected = _parsed(folder)
    names = {RECORD, *expected, *record["extra"]}
    with contextlib.suppress(InputError):
        Report.load(folder)
        names |= {*REPORT_FILES}
    return names


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _replace_folder(new: Path, folder: Path) -> None:
    """Move `new` to `folder`; an artefact that is there steps aside first, gives back what is not its own, and goes."""
    if not (folder / RECORD).is_file():
        os.replace(new, folder)
        return
    own = _own_files(folder)
    others = sorted(path.name for path in folder.iterdir() if path.name not in own or path.is_dir())
    if taken := [name for name in others if (new / name).exists()]:
        raise InputError(f"{folder} holds files that are not the artefact's and would be overwritten: {taken}")
    aside = folder.with_name(f".{folder.name}{_ASIDE}")
    os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except BaseException:
        os.replace(aside, folder)
        raise
    _settle(folder)


def _settle(folder: Path) -> None:
    """Finish what `_replace_folder` began, in this process or in one that was killed in the middle of it."""
    aside = folder.with_name(f".{folder.name}{_ASIDE}")
    if not (aside / RECORD).is_file():
        return
    if not folder.exists():
        os.replace(aside, folder)
        return
    own = _own_files(aside) - {RECORD}
    for path in [path for path in aside.iterdir() if path.name not in {RECORD, *own} or path.is_dir()]:
        if not (folder / path.name).exists():
            os.replace(path, folder / path.name)
    for path in [path for path in aside.iterdir() if path.name in own and not path.is_dir()]:
        path.unlink()
    (aside / RECORD).unlink()  # last: it says what is whose
    if not any(aside.iterdir()):
        aside.rmdir()
