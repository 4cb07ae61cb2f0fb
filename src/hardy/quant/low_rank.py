"""LoRA on packed layers: adapters of PEFT train beside weights of few bits, which stay as they are (as in QLoRA).

PEFT knows the layers of torch and of a few quantizers by their class. Its configuration takes others from whoever
names them, and is handed on as it is.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from hardy.errors import InputError, install
from hardy.quant.packed_linear import PackedLinear

if TYPE_CHECKING:
    from peft import LoraConfig


def lora(config: "LoraConfig") -> "LoraConfig":
    """The same configuration, which also takes packed layers as its target modules.

        model = peft.get_peft_model(model, hardy.quant.lora(LoraConfig(target_modules=["q_proj"])))

    Gradients go through the packed layers to those before them. Merging an adapter into a packed layer is refused:
    the sum is no number of few bits; unpack the model first (`hardy.quant.Unpack`).

    Raises:
        InputError: PEFT is not installed, the configuration is of another kind, or asks for what needs a dense weight.
    """
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError:
        raise InputError(f"adapters need the package peft: {install('peft')}") from None
    if not isinstance(config, peft.LoraConfig):
        raise InputError(f"the configuration must be a peft.LoraConfig, got {type(config).__name__}")
    if config.use_dora or config.init_lora_weights not in (True, False, "gaussian"):
        asked = "use_dora" if config.use_dora else f"init_lora_weights={config.init_lora_weights!r}"
        raise InputError(f"{asked} needs dense weights, packed layers have none; unpack the model first")
    config._register_custom_module({PackedLinear: _layer_class()})
    return config


def _layer_class() -> type:
    layer: Any = importlib.import_module("peft.tuners.lora.layer")

    class PackedLora(layer.Linear):
        """PEFT's layer around a packed one."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            with warnings.catch_warnings():  # that PEFT does not know the layer; it reads its sizes all the same
                warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
                super().__init__(*arguments, **options)

        def merge(self, *_: Any, **__: Any) -> None:
            raise InputError("an adapter cannot be merged into a packed layer; unpack the model first")

    return PackedLora
