"""Load a causal language model: from the zoo, a Hugging Face folder, a GGUF file, an artefact of hardy, or the hub."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hardy import checks
from hardy.artefacts.artefact import RECORD, no_progress_bars, read_record, remember
from hardy.artefacts.declared import check_declared
from hardy.deprecation import renamed
from hardy.devices import device_of
from hardy.errors import InputError, install, near_misses, shortened
from hardy.files import read_json
from hardy.reading import available_memory, reading

WEIGHTS = Path(__file__).parent / "weights"
FLOATS = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
HUB_FILES = ["*.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.model", "vocab*", "merges*"]


def names() -> tuple[str, ...]:
    """The zoo models whose weights are in this installation."""
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob("*/card.json")))


def card(name: str) -> dict[str, Any]:
    """The model card of a zoo model: data, recipe, figures, loss curve.

    Raises:
        InputError: there is no such zoo model.
    """
    if name not in names():
        raise InputError(f"no zoo model {name!r}{near_misses(name, names())}; there are: {', '.join(names())}")
    return json.loads((WEIGHTS / name / "card.json").read_text(encoding="utf-8"))


def find(name: str) -> Path:
    """The folder or GGUF file of the model `name`: the zoo's, the user's own, or the hub's, downloaded if need be.

    Raises:
        InputError: there is no such model, or its folder is damaged.
    """
    if name in names():
        return WEIGHTS / name
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / RECORD).is_file():
            read_record(path)
        elif not (path / "config.json").is_file():
            raise InputError(f"{name} is a folder without config.json: not a Hugging Face model")
        return path
    if path.is_file() and path.suffix == ".gguf":
        if importlib.util.find_spec("gguf") is None:
            raise InputError(f"{name} is a GGUF file, which the gguf package reads: {install('export')}")
        return path
    looks_like_path = path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    close = near_misses(name, names())
    if looks_like_path or (close and "/" not in name):
        kind = "a file, not a .gguf" if path.exists() else "not there"
        raise InputError(f"unknown model {name!r}: as a folder it is {kind}, and no zoo model{close}")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=10))
    except Exception as error:  # no network, no such model, no access, not an id: all of them are the name's fault
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"unknown model {name!r}: no zoo model ({', '.join(names())}), no folder, not on the hub: {reason}"
        ) from error


def load(
    name: str | Path = "tiny-llama",
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, and its tokenizer. It may be one that sees pictures as well.

    Args:
        name: a zoo name, a local Hugging Face folder, a GGUF file (whose few bits become dense weights), an artefact of
            hardy, or a hub id.
        dtype: of the weights, or its name; "auto" for the one they are stored in (float32 for GGUF).
        device: where they go; "auto" for a GPU if there is one.

    Raises:
        InputError: `name` is unknown (with near misses), damaged, not a causal language model, has no tokenizer,
            or holds NaN or infinite weights; an unknown dtype, or a device that is not there.
    """
    name, dtype, device = str(name), dtype_of(dtype), device_of(device)
    place = find(name)
    source: dict[str, Any] = {"pretrained_model_name_or_path": place}
    if place.is_file():
        source = _in_gguf(place)
        dtype = torch.float32 if dtype == "auto" else dtype
    config = _reading(name, "configuration", lambda: AutoConfig.from_pretrained(**source))
    with reading(name, "model"):
        kind = _kind_of(name, config)
    made = _reading(name, "weights", lambda: check_declared(place, config, lambda: kind.from_config(config)))
    _check_room(name, made, dtype)
    model, info = _reading(
        name,
        "weights",
        lambda: kind.from_pretrained(**source, dtype=dtype, output_loading_info=True),
    )
    missing = [*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])]
    if missing:
        raise InputError(f"model {name!r} is damaged: {len(missing)} weights missing or misshapen: {missing[0]} ...")
    for parameter, tensor in model.named_parameters():
        if not tensor.sum().isfinite() and (bad := int((~tensor.isfinite()).sum())):
            raise InputError(f"model {name!r} has {bad} NaN or infinite weights in {parameter}")
    if (place / RECORD).is_file():
        remember(model, read_json(place / RECORD))
    tokenizer = _reading(name, "tokenizer", lambda: AutoTokenizer.from_pretrained(**source))
    if place.is_file() and hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # what transformers calls a model that it has already made dense
    return model.to(device).eval(), tokenizer


def outline(name: str | Path) -> nn.Module:
    """The model `name` as its configuration says, on the meta device: all its modules, no weights, read in no time.

    Raises:
        InputError: as `load`, for what the configuration tells, also of more layers than are stored.
    """
    name = str(name)
    place = find(name)
    source: dict[str, Any] = {"pretrained_model_name_or_path": place}
    if place.is_file():
        source = _in_gguf(place)
    config = _reading(name, "configuration", lambda: AutoConfig.from_pretrained(**source))
    kind = _kind_of(name, config)
    return _reading(name, "weights", lambda: check_declared(place, config, lambda: kind.from_config(config)))


def stored_dtype(name: str) -> torch.dtype | None:
    """The dtype that a folder says its weights are stored in; None where it does not say, as a GGUF file."""
    place = find(name)
    config = read_json(place / "config.json") if (place / "config.json").is_file() else {}
    found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return found if isinstance(found, torch.dtype) else None


def _check_room(name: str, made: torch.nn.Module, dtype: torch.dtype | str) -> None:
    """Refuse a model, `made` on the meta device, whose weights do not fit into the free memory."""
    free = available_memory()
    if dtype == "auto":
        return
    count = sum(p.numel() for p in made.parameters())
    needed = count * dtype.itemsize  # pyright: ignore[reportAttributeAccessIssue]
    if needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise InputError(
            f"model {name!r} takes {needed / 1e9:.1f} GB in {kind}, {free / 1e9:.1f} GB are free; give a smaller dtype "
            "(auto for the stored one)"
        )


def dtype_of(dtype: torch.dtype | str) -> torch.dtype | str:
    """The dtype of this name ("auto" stays as it is).

    Raises:
        InputError: there is none, or it is not a floating-point dtype.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found in FLOATS.values()):
        raise InputError(f"dtype must be auto, {', '.join(FLOATS)}, got {dtype!r}{near_misses(str(dtype), FLOATS)}")
    return found  # pyright: ignore[reportReturnType]


@renamed(tokens="max_new_tokens")
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """The continuation of `prompt` by at most `max_new_tokens` tokens.

    Args:
        temperature: 0 takes the likeliest token each time, else tokens are sampled at this temperature.
        seed: of the sampling. The global random generators are left as they were.

    Raises:
        InputError: a negative or non-finite temperature, or no tokens asked for.
    """
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature must be finite and at least 0, got {temperature}")
    checks.integer("max_new_tokens", max_new_tokens, at_least=1)
    encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    if encoded["input_ids"].shape[1] == 0:
        raise InputError("the prompt is empty")
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = model.generate(  # pyright: ignore[reportCallIssue]
            encoded["input_ids"].to(model.device),
            attention_mask=encoded["attention_mask"].to(model.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=padding,
            **sampling,
        )
    continuation = ids[0, encoded["input_ids"].shape[1] :].tolist()
    return "".join(tokenizer.batch_decode([continuation], skip_special_tokens=True))


def _in_gguf(file: Path) -> dict[str, Any]:
    """What transformers calls a GGUF file."""
    with contextlib.suppress(ImportError):
        gguf: Any = importlib.import_module("gguf")
        if not hasattr(gguf, "__version__"):  # which older transformers under Python 3.10 ask for
            gguf.__version__ = importlib.metadata.version("gguf")
    return {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}


def _reading(name: str, part: str, read: Any) -> Any:
    """Run `read`, whose errors are as many as file formats, and give them one shape; without progress bars."""
    try:
        with no_progress_bars():
            return read()
    except Exception as error:
        reason = shortened(error, 300) or type(error).__name__
        raise InputError(f"cannot read the {part} of model {name!r}: {reason}") from error


def text_part(model: Any) -> str:
    """Name of the language model inside a model that takes pictures or sound as well; "" for one that does not."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or config.get_text_config() is config:
        return ""
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), "")


def _kind_of(name: str, config: Any) -> Any:
    """The class of transformers that makes and reads such a model: a language model, or one that sees as well."""
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and _says_causal(config):
        return AutoModelForCausalLM
    sees = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and _says_causal(config)
    if sees and config.get_text_config() is not config and not config.is_encoder_decoder:
        return AutoModelForImageTextToText
    raise InputError(f"model {name!r} is a {_architecture(config)}, not a causal language model")


def _architecture(config: Any) -> str:
    return (getattr(config, "architectures", None) or [type(config).__name__])[0]


def _says_causal(config: Any) -> bool:
    """BERT and its kin are in the causal mapping too; the stored architecture tells what was trained."""
    return _architecture(config).endswith(("ForCausalLM", "LMHeadModel", "Config", "ForConditionalGeneration"))
