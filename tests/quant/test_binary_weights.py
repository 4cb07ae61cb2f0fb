"""Layers with binary weights: trained in a plain loop, packed, saved, loaded, on a chip, as ONNX."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hardy
from hardy.analog import Deploy
from hardy.core.rng import generator
from hardy.errors import InputError
from hardy.quant import Annealing, BinaryWeights, Pack, PackedBinaryConv2d, PackedBinaryLinear, export_onnx, unpack
from hardy.quant.binary_layers import BinaryConv2d
from hardy.zoo import digits, tiny_cnn

X = torch.randn(6, 8, 7, 7, generator=generator(0, "images"))


def network(**options: object) -> nn.Module:
    """First and last layers, and between them a convolution of the given kind and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, **{"padding": 1, **options}), nn.BatchNorm2d(24),  # pyright: ignore[reportArgumentType]
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 5),
        ).eval()  # fmt: skip


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Within the rounding of float32 sums, but for the few activations that it moved over a threshold."""
    return float((a - b).norm() / a.norm()) < 0.02


@pytest.mark.parametrize("method", ["bwma", "xnor", "lsq-a", "dorefa", "bwma-lloyd"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_packed_layers_compute_what_was_trained(method: str, bits: int) -> None:
    model = network(stride=2)
    BinaryWeights(activation_bits=bits, method=method).apply(model, [X])
    with torch.no_grad():
        expected = model(X)
        change = Pack().apply(model)
        assert isinstance(model[3], PackedBinaryConv2d)  # pyright: ignore[reportIndexIssue]
        assert isinstance(model[7], PackedBinaryLinear)  # pyright: ignore[reportIndexIssue]
        assert isinstance(model[0], nn.Conv2d)  # pyright: ignore[reportIndexIssue]
        assert isinstance(model[9], nn.Linear)  # pyright: ignore[reportIndexIssue]
        assert close(expected, model(X))
    weights, out = 12 * 24 * 9 + 96 * 20, 24 + 20
    assert change.report.rows[0].value == pytest.approx((weights + 64 * out) / weights)


@pytest.mark.parametrize(
    "options", [{"groups": 4}, {"groups": 12}, {"dilation": 2}, {"padding": "same"}, {"bias": False}]
)
def test_groups_dilation_and_padding_are_right(options: dict[str, object]) -> None:
    model = network(**options)
    BinaryWeights(activation_bits=3, method="reactnet", select="3").apply(model, [X])
    with torch.no_grad():
        expected = model(X)
        Pack().apply(model)
        assert close(expected, model(X))


def test_a_plain_loop_trains_it_and_it_is_saved_and_loaded(tmp_path: Path) -> None:
    data, model = digits.digits(), tiny_cnn()
    before = digits.accuracy(model, data["x_test"], data["y_test"])
    change = BinaryWeights(activation_bits=2).apply(model, [data["x_train"][:256]])
    untrained = digits.accuracy(model, data["x_test"], data["y_test"])
    optimizer, annealing = torch.optim.Adam(model.parameters(), lr=3e-3), Annealing(model, 60)
    model.train()
    for step in range(60):
        x, y = digits.batch(data, 0, step)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        annealing.step()
        optimizer.zero_grad()
    model.eval()
    trained = digits.accuracy(model, data["x_test"], data["y_test"])
    assert before > 0.98
    assert trained > max(0.8, untrained)
    with pytest.raises(InputError, match="still in training; apply Pack"):
        hardy.save(model, tmp_path / "model")
    Pack().apply(model)
    assert digits.accuracy(model, data["x_test"], data["y_test"]) == pytest.approx(trained, abs=0.02)
    hardy.save(model, tmp_path / "model")
    loaded = hardy.load(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(data["x_test"]), model(data["x_test"]))
    assert [type(m).__name__ for m in hardy.artefacts.history(loaded)] == ["BinaryWeights", "Pack"]
    assert change.report.value("relative_error", "all selected weights") > 0


def test_undo_gives_the_dense_layers_back_with_what_training_made() -> None:
    model = network()
    layer = model[3]  # pyright: ignore[reportIndexIssue]
    parameter, state = layer.weight, set(model.state_dict())
    change = BinaryWeights(select="3").apply(model, [X])
    assert model[3].weight is parameter  # pyright: ignore[reportIndexIssue]
    with torch.no_grad():
        parameter += 1
    change.undo()
    assert model[3] is layer  # pyright: ignore[reportIndexIssue]
    assert model[3].weight is parameter  # pyright: ignore[reportIndexIssue]
    assert set(model.state_dict()) == state


def test_annealing_goes_from_soft_to_sharp_and_goes_on() -> None:
    model = network()
    BinaryWeights(select="3").apply(model, [X])
    layer = next(m for m in model.modules() if isinstance(m, BinaryConv2d))
    assert layer.progress == 1.0
    annealing = Annealing(model, 4)
    assert layer.progress == 0.0
    annealing.step()
    state = annealing.state_dict()
    other = Annealing(model, 9)
    other.load_state_dict(state)
    assert layer.progress == 0.25
    with pytest.raises(InputError, match="no layer of this Sequential has binary weights"):
        Annealing(nn.Sequential(nn.Linear(2, 2)), 3)


@pytest.mark.parametrize("packed", [True, False])
def test_a_chip_holds_the_signs_and_one_column_of_ones(packed: bool) -> None:
    data, model = digits.digits(), tiny_cnn()
    BinaryWeights(activation_bits=4, select="conv3").apply(model, [data["x_train"][:256]])
    if packed:
        Pack().apply(model)
    x = data["x_test"][:20]
    with torch.no_grad():
        expected = model(x)
        with Deploy(chip="ideal").apply(model):
            array = dict(model.named_modules())["conv3.array"]
            assert tuple(array.weight.shape) == (33, 16, 3, 3)  # pyright: ignore[reportAttributeAccessIssue]
            assert bool((array.weight[-1] == 1).all())  # pyright: ignore[reportIndexIssue, reportArgumentType]
            assert close(expected, model(x))
        assert torch.equal(expected, model(x))
        with Deploy(chip="pcm", seed=1).apply(model, [data["x_train"][:64]]):
            noisy = model(x)
    assert not torch.equal(expected, noisy)
    assert float((noisy - expected).norm() / expected.norm()) < 0.5


def test_unpacked_layers_compute_the_same_and_gradients_go_through_packed_ones() -> None:
    model = network()
    BinaryWeights(activation_bits=2, select="3").apply(model, [X])
    Pack().apply(model)
    with torch.no_grad():
        expected = model(X)
    x = X.clone().requires_grad_()
    y = model(x)
    y.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    assert close(expected, y.detach())
    with torch.no_grad():
        assert close(expected, unpack(copy.deepcopy(model))(X))


def test_what_cannot_be_binarized_is_refused() -> None:
    with pytest.raises(InputError, match="method 'irnet' changes the scale .* 7 computes, which only a batch norm"):
        BinaryWeights(method="irnet", select="7").apply(network())
    with pytest.raises(InputError, match="activation 'rsign' changes"):
        BinaryWeights(activation="rsign", select="7").apply(network())
    with pytest.raises(InputError, match="3 pads with padding_mode='reflect'"):
        BinaryWeights(select="3").apply(network(padding_mode="reflect"))
    with pytest.raises(InputError, match="1 is a BatchNorm2d; binary weights take"):
        BinaryWeights(select="1").apply(network())
    with pytest.raises(InputError, match="without its first and last nothing is left"):
        BinaryWeights().apply(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    model = network()
    with pytest.raises(InputError, match="the input of 3 must be finite"):
        BinaryWeights().apply(model, [X * torch.nan])
    model[0].weight.data.zero_()  # pyright: ignore[reportIndexIssue]
    model[0].bias.data.zero_()  # pyright: ignore[reportIndexIssue]
    model[1].bias.data.fill_(-1)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(InputError, match="3 saw no input other than zero"):
        BinaryWeights(select="3").apply(model, [X])
    with pytest.raises(InputError, match="calibration was given no batches"):
        BinaryWeights().apply(network(), [])
    model = network()
    change = BinaryWeights(select="3").apply(model)
    with pytest.raises(InputError, match="3 has seen no input, so the step"):
        Pack().apply(model)
    with pytest.raises(InputError, match="3 is a BinaryConv2d; |has binary weights already"):
        BinaryWeights(select="3").apply(model)
    change.undo()
    model[3].weight.data[0] = torch.nan  # pyright: ignore[reportIndexIssue]
    with pytest.raises(InputError, match=r"3 holds 108 NaN or infinite weights of 2592"):
        BinaryWeights(select="3").apply(model)


def test_a_step_that_fell_to_zero_is_said() -> None:
    model = network()
    BinaryWeights(select="3").apply(model, [X])
    model[3].activation.step.data.fill_(-0.1)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(InputError, match="3 the step of its activations .* above 0, got -0.1"):
        Pack().apply(model)


def test_a_packed_layer_of_a_newer_format_is_refused_by_name() -> None:
    model = network()
    BinaryWeights(select="3").apply(model, [X])
    Pack().apply(model)
    record = hardy.artefacts.packing.describe(model)
    assert record["3"]["format"] == 1
    with pytest.raises(InputError, match="binary layer of format 2; this hardy reads format 1"):
        hardy.artefacts.packing.install(network(), {"3": {**record["3"], "format": 2}})
    with pytest.raises(InputError, match="described by unknown settings"):
        hardy.artefacts.packing.install(network(), {"3": {**record["3"], "color": 2}})
    with pytest.raises(InputError, match="the input of a layer with binary weights must be finite"):
        model(X * torch.inf)


@pytest.mark.parametrize("method", ["bwma", "xnor"])
def test_onnxruntime_runs_the_export(tmp_path: Path, method: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    data, model = digits.digits(), tiny_cnn()
    BinaryWeights(activation_bits=4, method=method).apply(model, [data["x_train"][:256]])
    with pytest.raises(InputError, match="conv2 is still in training"):
        export_onnx(model, data["x_test"][:1], tmp_path / "model.onnx")
    Pack().apply(model)
    export_onnx(model, data["x_test"][:1], tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    found = torch.from_numpy(session.run(None, {"input": data["x_test"][:7].numpy()})[0])
    with torch.no_grad():
        assert close(model(data["x_test"][:7]), found)
