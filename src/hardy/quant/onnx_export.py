"""A model with packed binary layers as ONNX, in operators that every runtime has.

Activations become QuantizeLinear and DequantizeLinear after a Clip to their few bits; signs are int8, -1 and 1, with
the scale of each channel in their DequantizeLinear; the offset is one more convolution with a single filter of ones.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hardy.errors import InputError, install, shortened
from hardy.files import write_atomic
from hardy.quant.binary_layers import BinaryLayer
from hardy.quant.packed_binary import PackedBinary, PackedBinaryConv2d

OPSET = 18


def export_onnx(model: nn.Module, example: torch.Tensor, path: str | Path) -> Path:
    """Write `model` to an ONNX file whose batch may have any size.

    Args:
        model: with packed binary layers, or none; in evaluation mode.
        example: an input, the batch first.
        path: of the file.

    Raises:
        InputError: a layer is still in training, or torch cannot export the model, or the packages of
            the extra `export` are missing.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"ONNX is written with the {package} package: {install('export')}")
    if not hasattr(torch.onnx, "ops"):
        raise InputError(f"ONNX is written by torch >= 2.8, this is {torch.__version__}")
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer):
            raise InputError(f"{name} is still in training; apply Pack first")
    if model.training:
        raise InputError(f"{type(model).__name__} is in training mode; export it after model.eval()")
    path = Path(path)
    with torch.no_grad(), _plain_operators(model), _quiet():
        try:
            batch = torch.export.Dim("batch", min=1, max=2**16)
            # A batch of one would be taken for a constant.
            example = torch.cat([example, example]) if len(example) == 1 else example
            program: Any = torch.onnx.export(
                model, (example,), dynamo=True, opset_version=OPSET, input_names=["input"], output_names=["output"],
                dynamic_shapes=({0: batch},), verbose=False,
            )  # fmt: skip
        except Exception as error:  # as many kinds as there are passes in the exporter
            raise InputError(f"torch cannot export this {type(model).__name__}: {shortened(error, 300)}") from error
    write_atomic(path, lambda temporary: program.save(str(temporary)))
    return path


@contextlib.contextmanager
def _plain_operators(model: nn.Module) -> Iterator[None]:
    """Within it packed layers compute with operators of ONNX."""
    layers = [module for module in model.modules() if isinstance(module, PackedBinary)]
    for layer in layers:
        layer.forward = _Operators(layer)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Operators:
    """The forward of a packed layer in operators of ONNX."""

    def __init__(self, layer: PackedBinary) -> None:
        self.spatial, self.window = isinstance(layer, PackedBinaryConv2d), layer.window
        self.grid, self.bias = layer.grid(), layer.bias
        signs = layer.dense_signs().to(torch.int8)
        self.signs = signs if self.spatial else signs.flatten(1)
        self.scale, self.offset, self.shifted = layer.scale, layer.offset, bool(layer.offset.any())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.grid
        if grid.shift is not None:
            x = x - (grid.shift[:, None, None] if self.spatial else grid.shift)
        step = torch.tensor(grid.step / grid.factor)
        zero = torch.tensor(grid.zero_code, dtype=torch.uint8)
        if grid.factor == 2:  # two values: what is above zero, and the rest
            x = torch.where(x > 0, grid.step / 2, -grid.step / 2)
        else:
            low = -grid.zero_point * grid.step
            x = x.clamp(low, low + (2**grid.bits - 1) * grid.step)
        x = _symbolic("QuantizeLinear", (x, step, zero), torch.uint8, x.shape)
        x = _symbolic("DequantizeLinear", (x, step, zero), torch.float32, x.shape)
        zeros = torch.zeros(len(self.scale), dtype=torch.int8)
        weight = _symbolic(
            "DequantizeLinear", (self.signs, self.scale, zeros), torch.float32, self.signs.shape, {"axis": 0}
        )
        if not self.spatial:
            ones = x.sum(-1, keepdim=True)
            y = F.linear(x, weight, self.bias)
            return y + ones * self.offset if self.shifted else y
        options = (self.window.stride, self.window.padding, self.window.dilation, self.window.groups)
        y = F.conv2d(x, weight, self.bias, *options)
        if not self.shifted:
            return y
        column = torch.ones(self.window.groups, *self.signs.shape[1:])
        ones = F.conv2d(x, column, None, *options)
        if self.window.groups > 1:
            ones = ones.repeat_interleave(len(self.scale) // self.window.groups, 1)
        return y + ones * self.offset[:, None, None]


def _symbolic(operator: str, inputs: tuple[Any, ...], dtype: torch.dtype, shape: Any, attributes: Any = None) -> Any:
    return torch.onnx.ops.symbolic(operator, inputs, attributes or {}, dtype=dtype, shape=shape, version=OPSET)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter and its packages tell and warn of."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
