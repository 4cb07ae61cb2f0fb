"""What stands around binary layers: a first and last layer of 8 bits, RPReLU; packed, stored, on a chip, as (Q)ONNX."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hardy
from hardy.analog import Deploy
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.quant import BinaryWeights, Pack, PackedInt8Conv2d, PackedInt8Linear, RPReLU, export_onnx, unpack
from hardy.quant.activation import EightBit as EightBitInputs
from hardy.quant.binary import EightBit
from hardy.quant.binary_layers import BinaryConv2d
from hardy.studies.binary_cost import image_cost, shares
from hardy.zoo import digits, tiny_cnn

ENDS = "conv1,head"


@pytest.fixture(scope="module")
def data() -> dict[str, torch.Tensor]:
    return digits.digits()


def whole(data: dict[str, torch.Tensor], **fields: Any) -> nn.Module:
    """tiny-cnn with all that there is, a step of training behind it, so that no parameter is where it began."""
    model = tiny_cnn()
    BinaryWeights(**{"activation_bits": 3, "eight_bit": ENDS, **fields}).apply(model, [data["x_train"][:128]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    F.cross_entropy(model(data["x_train"][:64]), data["y_train"][:64]).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    return model.eval()


def test_eight_bits_are_the_nearest_of_255_levels_and_train_straight_through() -> None:
    weight = torch.randn(5, 40, generator=generator(0, "weight"))
    weight[3] = 0
    levels = EightBit().levels(weight, "channel")
    for row, codes, scale in zip(weight, levels.codes, levels.scale[:, 0], strict=True):
        largest = float(row.abs().max())
        assert float(scale) == pytest.approx(largest / 127)
        assert codes.tolist() == [round(float(w) / largest * 127) if largest else 0 for w in row]
    trained = weight.clone().requires_grad_()
    EightBit()(trained, "channel").sum().backward()
    assert torch.equal(trained.grad, torch.ones_like(weight))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("signed", [True, False])
def test_the_grid_of_eight_bits_begins_as_wide_as_the_inputs(signed: bool) -> None:
    x = torch.linspace(-2 if signed else 0, 3, 50)
    rule = EightBitInputs(1)
    rule.calibrate(x.abs().mean().item(), x.abs().max().item(), signed)
    assert float((rule(x[:, None])[:, 0] - x).detach().abs().max()) <= float(rule.step.detach()) / 2 + 1e-6
    assert rule.codes(x.max().view(1, 1)).item() == 255


def test_first_and_last_of_eight_bits_are_packed_stored_and_computed(
    data: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = whole(data)
    x = data["x_test"][:40]
    with torch.no_grad():
        expected = model(x)
        report = Pack().apply(model).report
        assert isinstance(model.conv1, PackedInt8Conv2d)
        assert isinstance(model.head, PackedInt8Linear)
        assert float((model(x) - expected).norm() / expected.norm()) < 0.01
    assert report.value("bits_per_weight", "conv1") == (8 * 9 * 16 + 32 * 16) / (9 * 16)
    assert report.value("bits_per_weight", "head") == (8 * 320 + 32 * 10) / 320
    assert shares(model)[1] + shares(model)[8] == 1
    hardy.save(model, tmp_path / "model")
    loaded = hardy.load(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert model.to(torch.bfloat16).head.scale.dtype == torch.float32  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="the input of a layer with 8-bit weights must be finite"):
        loaded(x * torch.nan)


@pytest.mark.parametrize("options", [{"groups": 4}, {"dilation": 2, "padding": 2}, {"stride": 2, "bias": False}])
def test_packed_eight_bits_like_a_loop(options: dict[str, Any]) -> None:
    """In whole numbers, value by value."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 8, 3, **options), nn.Conv2d(8, 2, 1))
    x = torch.randn(1, 4, 7, 7, generator=generator(0, "x"))
    BinaryWeights(select="1", eight_bit="0").apply(model, [x])
    trained: Any = model[0]
    codes, step, scale = (
        trained.levels().codes.view(8, -1, 3, 3),
        trained.activation.step.item(),
        trained.levels().scale,
    )
    conv = trained.window
    Pack().apply(model)
    found = model[0](x)
    inputs = F.pad(x, (conv.padding[1],) * 2 + (conv.padding[0],) * 2)[0] / step
    width, per_group = codes.shape[1], 8 // conv.groups
    for out in range(8):
        for i in range(found.shape[2]):
            for j in range(found.shape[3]):
                total = 0
                for c in range(width):
                    for a in range(3):
                        for b in range(3):
                            place = (out // per_group * width + c, i * conv.stride[0] + a * conv.dilation[0],
                                     j * conv.stride[1] + b * conv.dilation[1])  # fmt: skip
                            code = min(127, max(-128, round(float(inputs[place]))))
                            total += code * int(codes[out, c, a, b])
                bias = 0.0 if trained.bias is None else float(trained.bias.detach()[out])
                assert float(found[0, out, i, j]) == pytest.approx(total * step * float(scale[out]) + bias, abs=1e-4)


def test_a_chip_holds_whole_numbers_without_a_column_of_ones_and_they_cost_seven_columns(
    data: dict[str, torch.Tensor],
) -> None:
    model, x = whole(data), data["x_test"][:20]
    thin = image_cost(whole(data, eight_bit=None), x[:1], 3)
    trained = image_cost(model, x[:1], 3)
    Pack().apply(model)
    assert image_cost(model, x[:1], 3) == trained
    assert trained.energy > thin.energy
    assert trained.arrays == thin.arrays + 2  # 112 columns of 9 rows, and 70 of 32
    with torch.no_grad():
        expected = model(x)
        with Deploy(chip="ideal").apply(model):
            array: Any = model.get_submodule("conv1.array").weight
            assert tuple(array.shape) == (16, 1, 3, 3)
            assert float(array.abs().amax()) == 127
            assert float((model(x) - expected).norm() / expected.norm()) < 0.02
        assert torch.equal(model(x), expected)
        with Deploy(chip="pcm", seed=1).apply(model, [data["x_train"][:64]]):
            assert not torch.equal(model(x), expected)


def test_gradients_go_through_packed_layers_of_eight_bits(data: dict[str, torch.Tensor]) -> None:
    model = whole(data)
    Pack().apply(model)
    x = data["x_test"][:4].clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def test_what_is_no_choice_for_eight_bits_is_refused(data: dict[str, torch.Tensor]) -> None:
    for fields, message in (
        ({"select": "conv1,conv2", "eight_bit": "conv1"}, "conv1 is in select and in eight_bit"),
        ({"eight_bit": "conv*"}, "without its first and last and those of eight_bit nothing is left"),
        ({"eight_bit": "bn1"}, "bn1 is a BatchNorm2d"),
        ({"eight_bit": "convolution1"}, "matches nothing in TinyCNN"),
    ):
        with pytest.raises(InputError, match=message):
            BinaryWeights(**fields).apply(tiny_cnn(), [data["x_train"][:8]])  # pyright: ignore[reportArgumentType]


def test_rprelu_like_a_loop() -> None:
    x = torch.randn(2, 3, 4, 4, generator=generator(0, "x"))
    part = RPReLU(3, -3)
    for i, values in enumerate((part.bend, part.lift, part.slope)):
        values.data.copy_(torch.randn(3, generator=generator(i, "values")))
    found = part(x).detach()
    bend, lift, slope = (values.tolist() for values in (part.bend, part.lift, part.slope))
    for image, channel, i, j in np.ndindex(2, 3, 4, 4):
        off = float(x[image, channel, i, j]) - bend[channel]
        wanted = off * (1.0 if off > 0 else slope[channel]) + lift[channel]
        assert float(found[image, channel, i, j]) == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(InputError, match="takes 3 channels at -3"):
        part(x[:, :2])


def test_rprelu_trains_and_stays_when_the_rest_is_packed_stored_unpacked_and_undone(
    data: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    x = data["x_test"][:20]
    model = whole(data, method="reactnet", rectifier="rprelu")
    assert isinstance(model.relu4, RPReLU)
    assert model.relu4.channels == 32
    assert float(model.relu4.slope.detach().std()) > 0  # it has learned
    assert isinstance(model.conv2, BinaryConv2d)
    assert float(model.conv2.activation.zero_point) == 4  # what follows an RPReLU may be negative
    with torch.no_grad():
        expected = model(x)
        Pack().apply(model)
        assert float((model(x) - expected).norm() / expected.norm()) < 0.02
        hardy.save(model, tmp_path / "model")
        loaded = hardy.load(tmp_path / "model")
        assert torch.equal(loaded(x), model(x))
        packed = model(x)
        unpack(loaded)
        assert float((loaded(x) - packed).norm() / packed.norm()) < 0.02
        assert unpack(loaded) is loaded  # there is nothing left to unpack
    for change in reversed(hardy.core.method.changes(model)):
        change.undo()
    assert isinstance(model.relu4, nn.ReLU)
    assert isinstance(model.conv2, nn.Conv2d)


def test_rprelu_begins_with_the_slopes_of_a_prelu_and_serves_a_module_that_is_called_twice() -> None:
    shared = nn.PReLU(6, init=0.1)
    model = nn.Sequential(nn.Linear(4, 6), shared, nn.Linear(6, 6), shared, nn.Linear(6, 2), nn.ReLU())
    x = torch.randn(5, 4, generator=generator(0, "x"))
    change = BinaryWeights(select="2", rectifier="rprelu").apply(model, [x])
    assert model[1] is model[3]
    assert model[1].slope.tolist() == pytest.approx([0.1] * 6)  # pyright: ignore[reportAttributeAccessIssue]
    assert model[5].slope.tolist() == [0.25, 0.25]  # pyright: ignore[reportAttributeAccessIssue]
    assert change.report.value("rectifier_channels", "5") == 2
    change.undo()
    assert model[3] is shared


def test_where_rprelu_cannot_stand_it_is_said() -> None:
    x = torch.randn(5, 4, generator=generator(0, "x"))
    relu = nn.ReLU()
    two_widths = nn.Sequential(nn.Linear(4, 6), relu, nn.Linear(6, 8), relu, nn.Linear(8, 2))
    none = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 2))
    for model, batches, message in (
        (two_widths, [x], "1 is called with 6 and 8 channels; RPReLU needs a module for each place"),
        (none, [x], "this Sequential has no such module; what is called as a function cannot be replaced"),
        (two_widths, None, "needs a batch of inputs"),
    ):
        before = list(model)
        with pytest.raises(InputError, match=message):
            BinaryWeights(rectifier="rprelu").apply(model, batches)
        assert list(model) == before


ONE_BIT = {"activation_bits": 1, "method": "reactnet"}


@pytest.mark.parametrize(("fields", "dialect"), [({}, "onnx"), ({}, "qonnx"), (ONE_BIT, "qonnx")])
def test_what_is_exported_computes_the_same(
    fields: dict[str, Any], dialect: Any, data: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnx.reference")
    model = whole(data, rectifier="rprelu", **fields)
    Pack().apply(model)
    file = export_onnx(model, data["x_test"][:1], tmp_path / "model.onnx", dialect=dialect)
    proto = onnx.load(file)
    x = data["x_test"][:7]
    session = onnx.reference.ReferenceEvaluator(proto, new_ops=_quantizers())
    found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    with torch.no_grad():
        expected = model(x)
    assert float((found - expected).norm() / expected.norm()) < 0.02
    if dialect == "qonnx" and importlib.util.find_spec("qonnx"):
        assert np.abs(_by_qonnx(file, x.numpy()) - expected.numpy()).max() < 1e-4
    domains = {node.domain for node in proto.graph.node}
    assert domains == ({"", "qonnx.custom_op.general"} if dialect == "qonnx" else {""})


def _by_qonnx(file: Path, x: np.ndarray) -> np.ndarray:
    """What the package qonnx computes, which wants to be told how many pictures there are."""
    from qonnx.core.modelwrapper import ModelWrapper  # pyright: ignore[reportMissingImports]
    from qonnx.core.onnx_exec import execute_onnx  # pyright: ignore[reportMissingImports]
    from qonnx.transformation.infer_shapes import InferShapes  # pyright: ignore[reportMissingImports]

    model = ModelWrapper(str(file))
    model.set_tensor_shape("input", list(x.shape))
    return next(iter(execute_onnx(model.transform(InferShapes()), {"input": x}).values()))


def _quantizers() -> list[Any]:
    """Quant and BipolarQuant as QONNX defines them, and what onnx' own evaluator lacks in this opset."""
    from onnx.reference.op_run import OpRun

    class Quant(OpRun):
        op_domain = "qonnx.custom_op.general"

        def _run(
            self, x: Any, scale: Any, zero: Any, bits: Any, *, signed: int, narrow: int, rounding_mode: str
        ) -> Any:
            assert rounding_mode == "ROUND"
            low = -(2 ** (bits - 1)) + narrow if signed else 0
            high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
            return ((np.round(np.clip(x / scale + zero, low, high)) - zero) * scale,)

    class BipolarQuant(OpRun):
        op_domain = "qonnx.custom_op.general"

        def _run(self, x: Any, scale: Any) -> Any:
            return (np.where(x >= 0, 1, -1).astype(np.float32) * scale,)

    class DequantizeLinear(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any, *, axis: int = 1, **_: Any) -> Any:
            shape = [-1 if i == axis else 1 for i in range(x.ndim)] if scale.ndim else []
            return ((x.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape),)

    class QuantizeLinear(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any, **_: Any) -> Any:
            return (np.clip(np.round(x / scale) + zero, 0, 255).astype(np.uint8),)

    return [Quant, BipolarQuant, DequantizeLinear, QuantizeLinear]
