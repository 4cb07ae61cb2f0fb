"""How transformers reads a packed model: `from_pretrained` works on its folder once `hardy.quant` is imported."""

from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hardy.errors import InputError
from hardy.quant.grid_linear import GridLinear
from hardy.quant.trit_linear import TritLinear

QUANT_METHOD = "hardy"
VERSION = 1


def described(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The packed layers of `model` by name: all that is needed to make them anew, empty."""
    found: dict[str, dict[str, Any]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, TritLinear):
            found[name] = {"planes": layer.planes, "group_size": layer.group_size}
        elif isinstance(layer, GridLinear):
            found[name] = {"bits": layer.bits, "group_size": layer.group_size, "symmetric": layer.symmetric}
    return found


def empty_layer(
    entry: dict[str, Any], in_features: int, out_features: int, bias: bool, dtype: torch.dtype
) -> TritLinear | GridLinear:
    """The layer that `described` described, on the meta device.

    Raises:
        InputError: the entry is damaged, or of a format this version does not know.
    """
    kind = TritLinear if "planes" in entry else GridLinear
    try:
        return kind(in_features, out_features, bias=bias, dtype=dtype, device="meta", **entry)
    except TypeError:
        raise InputError(f"a packed layer is described by unknown settings: {entry}") from None


@register_quantization_config(QUANT_METHOD)
class PackedConfig(QuantizationConfigMixin):
    """The part of config.json that says which layers are packed, and how.

    Args:
        modules: see `described`.
        version: of this format.
    """

    def __init__(self, modules: dict[str, dict[str, Any]] | None = None, version: int = VERSION, **_: Any) -> None:
        if version != VERSION:
            raise InputError(f"packed layers of version {version}; this hardy reads version {VERSION}")
        self.quant_method = QUANT_METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.version = version
        self.modules = dict(modules or {})


@register_quantizer(QUANT_METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts empty packed layers into a model before its weights are read."""

    requires_calibration = True  # quantizing is done by hardy's methods, not while loading

    quantization_config: Any

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        for name, entry in self.quantization_config.modules.items():
            try:
                old: Any = model.get_submodule(name)
            except AttributeError:
                raise InputError(f"{name} is packed here, but {type(model).__name__} has no such layer") from None
            # GPT-2's Conv1D stores (in, out).
            width, rows = (old.in_features, old.out_features) if isinstance(old, nn.Linear) else old.weight.shape
            parent, _, leaf = name.rpartition(".")
            layer = empty_layer(entry, width, rows, old.bias is not None, old.weight.dtype)
            setattr(model.get_submodule(parent), leaf, layer)

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        from hardy.quant.pack import unpack

        return unpack(model)
