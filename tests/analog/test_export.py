"""A model on a chip as a graph: what its cells hold, or a refusal that names what no graph does."""

import dataclasses

import pytest
import torch
from torch import nn

from hardy.analog import Deploy, program
from hardy.core import InputError
from hardy.hardware import Chip

# What older releases of torch say of constants in a graph, which they hold all the same.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
    pytest.mark.filterwarnings("ignore:Node .* does not reference an nn.Module:UserWarning"),
]
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9)
CELLS = Chip.preset("pcm").without_periphery()


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(2 * 25, 5)).eval()


def test_what_the_cells_hold_is_exported() -> None:
    model, x = mixed(), torch.randn(1, 3, 6, 6)
    digital = model(x)
    with Deploy(chip=CELLS, seed=3).apply(model):
        expected = model(x).detach()
        assert not torch.allclose(expected, digital, rtol=1e-3)
        exported = torch.export.export(model, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), expected)


@pytest.mark.skipif(OLD, reason="the exporter of torch below 2.9 and onnxscript do not agree")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's, of itself
def test_what_the_cells_hold_is_written_as_onnx() -> None:
    onnx = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    model, x = mixed(), torch.randn(1, 3, 6, 6)
    with Deploy(chip=CELLS, seed=3).apply(model):
        expected = model(x).detach()
        graph = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert graph is not None
    (result,) = onnx.ReferenceEvaluator(graph.model_proto).run(None, {graph.model_proto.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "size", "name"),
    [
        (lambda: nn.Linear(8, 4), (2, 8), "0"),
        (lambda: nn.Conv1d(3, 4, 3), (1, 3, 8), "0"),
        (lambda: nn.GRU(8, 4), (3, 2, 8), "0.weight_ih_l0"),
        (lambda: nn.TransformerEncoderLayer(16, 4, 32, 0.0), (5, 1, 16), "0.self_attn.in_proj_weight.q"),
    ],
    ids=["linear", "conv", "gru", "attention"],
)
def test_converters_and_noise_are_refused_by_name(make: object, size: tuple[int, ...], name: str) -> None:
    model, x = nn.Sequential(make()).eval(), torch.randn(size)  # pyright: ignore[reportCallIssue]
    for chip in (dataclasses.replace(CELLS, adc_bits=8), dataclasses.replace(CELLS, read_noise=1.0)):
        with (
            Deploy(chip=chip).apply(model),
            pytest.raises(InputError, match=f"^{name} is on a chip whose converters and read noise act at every use"),
        ):
            torch.export.export(model, (x,), strict=False)


def test_weights_that_are_not_programmed_yet_are_not_exported() -> None:
    model, x = nn.Sequential(nn.Linear(8, 4)).eval(), torch.randn(2, 8)
    with Deploy(chip=CELLS).apply(model):
        with torch.no_grad():
            model[0]._parameters["weight"].mul_(2)
        with pytest.raises(InputError, match="the weight of 0 was changed since it was programmed"):
            torch.export.export(model, (x,), strict=False)
        program(model, 1)
        torch.testing.assert_close(torch.export.export(model, (x,), strict=False).module()(x), model(x))
