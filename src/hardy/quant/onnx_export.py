"""A model with packed binary layers as ONNX, in operators that every runtime has, or as QONNX.

In ONNX activations become QuantizeLinear and DequantizeLinear after a Clip to their few bits; weights are int8 with the
scale of each channel in their DequantizeLinear. In QONNX (arXiv 2206.07527), which tools for FPGAs read, they become
Quant and BipolarQuant of their true bits. The offset is one more convolution with a single filter of ones.
"""

import abc
import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from hardy import checks
from hardy.errors import InputError, install, shortened
from hardy.files import write_atomic
from hardy.quant.binary_layers import BinaryLayer
from hardy.quant.packed_levels import PackedConvolution, PackedLevels

OPSET = 18


def export_onnx(
    model: nn.Module, example: torch.Tensor, path: str | Path, *, dialect: Literal["onnx", "qonnx"] = "onnx"
) -> Path:
    """Write `model` to an ONNX file whose batch may have any size.

    Args:
        model: with packed binary layers, or none; in evaluation mode.
        example: an input, the batch first.
        path: of the file.
        dialect: "onnx" for the operators that every runtime has; "qonnx" for those of the domain
            qonnx.custom_op.general, which the package qonnx, FINN and hls4ml read.

    Raises:
        InputError: a layer is still in training, or torch cannot export the model, or the packages of
            the extra `export` are missing.
    """
    checks.one_of("dialect", dialect, DIALECTS)
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
    with torch.no_grad(), _plain_operators(model, dialect), _quiet():
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
def _plain_operators(model: nn.Module, dialect: str) -> Iterator[None]:
    """Within it packed layers compute with operators of ONNX."""
    layers = [module for module in model.modules() if isinstance(module, PackedLevels)]
    for layer in layers:
        layer.forward = DIALECTS[dialect](layer)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Operators(abc.ABC):
    """The forward of a packed layer in operators of ONNX."""

    def __init__(self, layer: PackedLevels) -> None:
        self.spatial, self.window = isinstance(layer, PackedConvolution), layer.window
        self.grid, self.bias, self.bits = layer.grid(), layer.bias, layer.weight_bits
        codes = layer.dense_codes()
        self.codes = codes if self.spatial else codes.flatten(1)
        self.scale = layer.scale
        self.offset = layer.offset if layer.offset is not None and bool(layer.offset.any()) else None

    @abc.abstractmethod
    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """`x`, whose shift is taken away already, on the grid."""

    @abc.abstractmethod
    def weight(self) -> torch.Tensor:
        """Scale times codes."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.grid
        if grid.shift is not None:
            x = x - (grid.shift[:, None, None] if self.spatial else grid.shift)
        x, weight = self.rounded(x), self.weight()
        if not self.spatial:
            y = F.linear(x, weight, self.bias)
            return y if self.offset is None else y + x.sum(-1, keepdim=True) * self.offset
        options = (self.window.stride, self.window.padding, self.window.dilation, self.window.groups)
        y = F.conv2d(x, weight, self.bias, *options)
        if self.offset is None:
            return y
        column = torch.ones(self.window.groups, *self.codes.shape[1:])
        ones = F.conv2d(x, column, None, *options)
        if self.window.groups > 1:
            ones = ones.repeat_interleave(len(self.scale) // self.window.groups, 1)
        return y + ones * self.offset[:, None, None]


class _Plain(_Operators):
    """QuantizeLinear and DequantizeLinear."""

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.grid
        step = torch.tensor(grid.step / grid.factor)
        zero = torch.tensor(grid.zero_code, dtype=torch.uint8)
        if grid.factor == 2:  # two values: what is above zero, and the rest
            x = torch.where(x > 0, grid.step / 2, -grid.step / 2)
        else:
            low = -grid.zero_point * grid.step
            x = x.clamp(low, low + (2**grid.bits - 1) * grid.step)
        x = _symbolic("QuantizeLinear", (x, step, zero), torch.uint8, x.shape)
        return _symbolic("DequantizeLinear", (x, step, zero), torch.float32, x.shape)

    def weight(self) -> torch.Tensor:
        zeros = torch.zeros(len(self.scale), dtype=torch.int8)
        inputs = (self.codes, self.scale, zeros)
        return _symbolic("DequantizeLinear", inputs, torch.float32, self.codes.shape, {"axis": 0})


class _Qonnx(_Operators):
    """Quant and BipolarQuant."""

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.grid
        if grid.factor == 2:  # BipolarQuant has zero above, this grid has it below
            return -_qonnx("BipolarQuant", (-x, torch.tensor(grid.step / 2)))
        signed = int(grid.zero_point > 0)
        return _quant(x, torch.tensor(grid.step), grid.bits, signed=signed, narrow=0)

    def weight(self) -> torch.Tensor:
        scale = self.scale.view(-1, *[1] * (self.codes.ndim - 1))
        codes = self.codes.float()
        if self.bits == 1:
            return _qonnx("BipolarQuant", (codes, scale))
        return _quant(codes * scale, scale, self.bits, signed=1, narrow=1)


def _quant(x: torch.Tensor, scale: torch.Tensor, bits: int, *, signed: int, narrow: int) -> torch.Tensor:
    attributes = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
    return _qonnx("Quant", (x, scale, torch.tensor(0.0), torch.tensor(float(bits))), attributes)


def _qonnx(operator: str, inputs: tuple[Any, ...], attributes: Any = None) -> torch.Tensor:
    name = f"qonnx.custom_op.general::{operator}"
    return torch.onnx.ops.symbolic(
        name, inputs, attributes or {}, dtype=torch.float32, shape=inputs[0].shape, version=1
    )


DIALECTS: dict[str, type[_Operators]] = {"onnx": _Plain, "qonnx": _Qonnx}


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
