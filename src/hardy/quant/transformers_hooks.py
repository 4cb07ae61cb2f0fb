"""How transformers reads a packed model: `from_pretrained` works on its folder once `hardy.quant` is imported.

Without that import transformers knows no such layers: it warns of an "unknown quantization type, got hardy", reads the
rest, and would leave random weights in their place. So the file holds, under the name of each dense weight, a tensor of
another shape, which transformers refuses to load.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hardy.artefacts.packing import describe, install, packed_layers
from hardy.errors import InputError
from hardy.quant.unpacking import unpack

QUANT_METHOD = "hardy"
VERSION = 1


@register_quantization_config(QUANT_METHOD)
class PackedConfig(QuantizationConfigMixin):
    """The part of config.json that says which layers are packed, and how.

    Args:
        modules: see `hardy.artefacts.packing.describe`.
        version: of this format.
    """

    def __init__(self, modules: Mapping[str, Mapping[str, Any]] | None = None, version: int = VERSION, **_: Any):
        if version != VERSION:
            raise InputError(f"packed layers of version {version}; this hardy reads version {VERSION}")
        self.quant_method = QUANT_METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.version = version
        self.modules = dict(modules or {})


@register_quantizer(QUANT_METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts empty packed layers into a model before its weights are read, and guards those that are written."""

    requires_calibration = True  # quantizing is done by hardy's methods, not while loading

    quantization_config: Any

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        modules, whole = self.quantization_config.modules, cast(Any, model)
        install(model, modules)
        guards = "|".join(re.escape(guard) for guard in _guards(model))
        ignored = whole._keys_to_ignore_on_load_unexpected  # a list in some versions, a set in others
        ignored = [] if ignored is None else ignored
        whole._keys_to_ignore_on_load_unexpected = type(ignored)([*ignored, f"^({guards})$"])

    def get_state_dict_and_metadata(self, model: nn.Module, *_: Any) -> Any:
        # Stacks of experts are stored expert by expert, gate and up apart, so theirs is one that can be split.
        guards = {
            name: torch.zeros(1 if name.endswith(".weight") else (2, 2, 2), dtype=torch.uint8)
            for name in _guards(model)
        }
        return model.state_dict() | guards, {}

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        return unpack(model, dtype)


def quantizer_of(model: nn.Module) -> Any:
    """The quantizer of a model whose layers are packed already; it belongs at `model.hf_quantizer`."""
    config, quantizer = cast(Any, PackedConfig), cast(Any, PackedQuantizer)  # as decorators of transformers hide them
    return quantizer(config(modules=describe(model)))


def _guards(model: nn.Module) -> list[str]:
    return [f"{name}.{weight}" for name, layer in packed_layers(model).items() for weight in layer.stands_for]
