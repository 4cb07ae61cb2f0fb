"""Fields in integers: against Python's integers, against floats, on any number of threads; rotation as a choice."""

import copy
import hashlib

import pytest
import torch
from reference.integer_field import value_at
from torch import nn

from hardy.core import InputError
from hardy.fields import Field, HadamardQuant, Schedule, Signal, fit, grid_coordinates, image, sample_photo
from hardy.fields.activations import KINDS
from hardy.fields.hadamard_quant import bounds, weight_codes
from hardy.fields.integer_model import grid_numerators
from hardy.fields.unrolled import unrolled
from hardy.ops.hadamard import hadamard_transform

SIGNAL = sample_photo("flower", (16, 20))
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Field]:
    fields = {kind: Field(2, 3, hidden_features=24, hidden_layers=2, activation=kind) for kind in KINDS}
    for field in fields.values():
        fit(field, SIGNAL, schedule=Schedule(steps=150))
    return fields


@EVERY
def test_unrolled_fields_are_the_fields(kind: str, fitted: dict[str, Field]) -> None:
    _, _, values = unrolled(fitted[kind]).activations(SIGNAL.coordinates)
    torch.testing.assert_close(values.float(), fitted[kind](SIGNAL.coordinates), atol=1e-4, rtol=1e-4)


@EVERY
@pytest.mark.parametrize("rotate", ["never", "always"])
def test_every_code_is_that_of_unbounded_integers(kind: str, rotate: str, fitted: dict[str, Field]) -> None:
    made = HadamardQuant(rotate=rotate, weight_bits=6, activation_bits=7).quantize(  # pyright: ignore
        fitted[kind], SIGNAL
    )
    codes = made.render((5, 7)).reshape(-1, 3)
    points = grid_numerators((5, 7)).tolist()
    for index in range(0, 35, 4):
        assert codes[index].tolist() == value_at(made, points[index], [5, 7])


@EVERY
def test_sixteen_bits_are_the_float_field(kind: str, fitted: dict[str, Field]) -> None:
    for rotate in ("never", "always"):
        method = HadamardQuant(rotate=rotate, weight_bits=16, activation_bits=16, fraction_bits=14)
        made = method.quantize(fitted[kind], SIGNAL)
        assert made.psnr(SIGNAL) == pytest.approx(fitted[kind].psnr(SIGNAL), abs=0.05)
        values = made.render((16, 20)).reshape(-1, 3) / 2**14
        torch.testing.assert_close(values, fitted[kind](SIGNAL.coordinates), atol=0.02, rtol=0)


@EVERY
def test_more_bits_are_closer_and_auto_is_the_best(kind: str, fitted: dict[str, Field]) -> None:
    reference = Signal.on_grid(fitted[kind](SIGNAL.coordinates).detach().clamp(-1, 1).reshape(16, 20, 3))
    found = {}
    for bits in (4, 8, 12):
        for rotate in ("never", "always", "auto"):
            method = HadamardQuant(rotate=rotate, weight_bits=bits, activation_bits=bits)  # pyright: ignore
            found[bits, rotate] = method.quantize(fitted[kind], reference).psnr(reference)
        # All points are calibration points, so this holds exactly and not to 0.05 dB.
        assert found[bits, "auto"] >= max(found[bits, "never"], found[bits, "always"])
    for rotate in ("never", "always", "auto"):
        assert found[4, rotate] < found[8, rotate] < found[12, rotate]


def test_the_bits_do_not_depend_on_threads_or_on_the_block(fitted: dict[str, Field]) -> None:
    made = HadamardQuant(rotate="always").quantize(fitted["sine"], SIGNAL)
    expected, threads = made.render((200, 300)), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert torch.equal(made.render((200, 300)), expected)
    finally:
        torch.set_num_threads(threads)
    pieces = [made.codes(piece, (200, 300)) for piece in torch.from_numpy(grid_numerators((200, 300))).split(777)]
    assert torch.equal(torch.cat(pieces), expected.reshape(-1, 3))


def test_a_known_picture_has_known_bits() -> None:
    """Weights that are exact in binary: this digest is the same wherever the test runs."""
    field = Field(2, 1, hidden_features=12, hidden_layers=2, activation="quad")
    with torch.no_grad():
        for index, parameter in enumerate(field.parameters()):
            places = torch.arange(parameter.numel()).reshape(parameter.shape)
            parameter.copy_(((places * 37 + 11 * index) % 64 - 32) / 1024.0)
        field.layers[2].weight.mul_(8)
    values = Signal.on_grid(field(grid_coordinates((8, 8))).detach().clamp(-1, 1).reshape(8, 8, 1))
    made = HadamardQuant(rotate="always").quantize(field, values)
    digest = hashlib.sha256(made.render((33, 47)).numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "383eef3d2b4c53e9"


def test_dead_units_are_no_obstacle(fitted: dict[str, Field]) -> None:
    field = copy.deepcopy(fitted["quad"])
    with torch.no_grad():
        field.layers[0].weight[0] = 1e-12
        field.layers[0].weight[1] = 0
        field.layers[1].weight[2] = 1e-30
    made = HadamardQuant(rotate="never").quantize(field, SIGNAL)
    assert made.psnr(SIGNAL) == pytest.approx(field.psnr(SIGNAL), abs=0.5)
    assert made.render((5, 7))[2, 3].tolist() == value_at(made, grid_numerators((5, 7))[17].tolist(), [5, 7])


def test_the_state_holds_integers_only_and_a_restored_one_is_the_same(fitted: dict[str, Field]) -> None:
    made = HadamardQuant().quantize(fitted["quad"], SIGNAL)
    assert all(not tensor.is_floating_point() for tensor in made.state_dict().values())
    assert not list(made.parameters())


def test_pixels_are_those_of_the_picture(fitted: dict[str, Field]) -> None:
    made = HadamardQuant().quantize(fitted["sine"], SIGNAL)
    pixels = made.pixels((16, 20))
    assert pixels.dtype == torch.uint8
    shown = (made.render((16, 20)) / 2**12).clamp(-1, 1)
    assert ((shown + 1) / 2 * 255 - pixels).abs().max() <= 0.5 + 1e-4
    assert image(pixels.numpy()).psnr(SIGNAL.values) == pytest.approx(made.psnr(SIGNAL), abs=0.1)


def test_coordinates_off_the_grid_are_rounded_to_a_fine_one(fitted: dict[str, Field]) -> None:
    made = HadamardQuant().quantize(fitted["quad"], SIGNAL)
    torch.testing.assert_close(
        made(SIGNAL.coordinates), made.render((16, 20)).reshape(-1, 3) / 2**12, atol=0.03, rtol=0
    )
    scattered = Signal(SIGNAL.coordinates, SIGNAL.values)
    assert HadamardQuant().quantize(fitted["quad"], scattered).psnr(scattered) == pytest.approx(
        made.psnr(SIGNAL), abs=0.3
    )


def test_rotation_wins_where_weights_have_heavy_tails() -> None:
    """A linear layer with few huge weights and inputs: at 4 bits rotated products are 3 dB closer, or more."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=random, dtype=torch.float64)
    x = torch.randn(500, 64, generator=random, dtype=torch.float64)
    weight[torch.rand(64, 64, generator=random) < 0.01] *= 20
    x[torch.rand(500, 64, generator=random) < 0.01] *= 20

    def ratio(w: torch.Tensor, v: torch.Tensor) -> float:
        codes, step = weight_codes(w, 4, True, "minmax")
        low, high = (end.item() for end in bounds(v.reshape(1, -1), 4, "minmax"))
        rounded = ((v - low) * 15 / (high - low)).round() * (high - low) / 15 + low
        product = rounded @ (codes * step[:, None]).T
        exact = v @ w.T
        return 10 * torch.log10(exact.square().sum() / (product - exact).square().sum()).item()

    assert ratio(hadamard_transform(weight) / 8, hadamard_transform(x) / 8) > ratio(weight, x) + 3


def test_auto_turns_a_layer_with_heavy_tails_and_gains() -> None:
    field = Field(2, 1, hidden_features=32, hidden_layers=2, activation="relu", seed=1)
    with torch.no_grad():
        field.layers[1].weight.mul_(torch.where(torch.rand(32, 32) < 0.01, 30.0, 1.0))
        field.layers[2].weight.div_(10)
        values = field(SIGNAL.coordinates)
        field.layers[2].weight.div_(values.abs().max())
        field.layers[2].bias.zero_()
    signal = Signal.on_grid(field(SIGNAL.coordinates).detach().clamp(-1, 1).reshape(16, 20, 1))
    found = {
        rotate: HadamardQuant(rotate=rotate, weight_bits=4, per_channel=False).quantize(field, signal)
        for rotate in ("never", "always", "auto")
    }
    psnr = {rotate: made.psnr(signal) for rotate, made in found.items()}
    assert any(found["auto"].rotated)
    assert psnr["auto"] >= max(psnr["always"], psnr["never"])
    assert psnr["auto"] > psnr["never"] + 1


def test_first_layer_and_channels_have_their_price(fitted: dict[str, Field]) -> None:
    """The two settings that matter most for periodic fields, each better than without."""
    field = fitted["sine"]
    psnr = {
        (first, channel): HadamardQuant(rotate="never", first_layer_bits=first, per_channel=channel, weight_bits=6)
        .quantize(field, SIGNAL)
        .psnr(SIGNAL)
        for first in (6, 16)
        for channel in (True, False)
    }
    assert psnr[16, True] > psnr[6, True]
    assert psnr[16, True] > psnr[16, False]


def test_true_bits_are_counted(fitted: dict[str, Field]) -> None:
    made = HadamardQuant(weight_bits=4, first_layer_bits=16).quantize(fitted["sine"], SIGNAL)
    weights = 24 * 2 * 16 + (24 * 24 + 3 * 24) * 4
    rows = (24 + 24 + 3) * (24 + 6 + 32)
    assert made.bits == weights + rows + 2 * 64


@pytest.mark.parametrize("rule", ["minmax", "mse", "percentile"])
def test_ranges(rule: str) -> None:
    values = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[0, 0], values[1, 0] = 40.0, -3.0
    low, high = bounds(values, 4, rule)  # pyright: ignore[reportArgumentType]
    assert low.shape == high.shape == (2, 1)
    if rule == "minmax":
        assert high[0] == 40
    elif rule == "percentile":
        assert (values[0] > high[0]).sum() == (values[0] < low[0]).sum() == 2
    else:
        full = bounds(values, 4, "minmax")

        def error(ends: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            step = (ends[1] - ends[0]) / 15
            rounded = ((values - ends[0]) / step).round().clamp(0, 15) * step + ends[0]
            return (rounded - values).square().sum(1)

        assert (error((low, high)) <= error(full)).all()
        assert error((low, high))[0] < 0.9 * error(full)[0]


def test_weights_of_zeros_and_single_rows() -> None:
    codes, step = weight_codes(torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=torch.float64), 4, True, "mse")
    assert codes[0].tolist() == [0, 0]
    assert step[0] == 0
    assert (codes[1] * step[1]).tolist() == pytest.approx([1, -2], abs=0.2)


def test_a_sequence_of_linear_layers_and_functions() -> None:
    layers = [nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3, bias=False)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers[::2]:
            layer.reset_parameters()  # pyright: ignore
    model = nn.Sequential(*layers)
    with torch.no_grad():
        signal = Signal.on_grid(model(SIGNAL.coordinates).clamp(-1, 1).reshape(16, 20, 3))
        made = HadamardQuant().quantize(model.double(), signal)
    assert made.psnr(signal) > 40


FIELD = Field(2, 3, hidden_features=4, hidden_layers=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HadamardQuant(rotate="sometimes"), "rotate must be always, auto or never"),  # pyright: ignore
        (lambda: HadamardQuant(range="max"), "range must be minmax, mse or percentile, got 'max'"),  # pyright: ignore
        (lambda: HadamardQuant(weight_bits=1), "weight_bits .* from 2 to 16, got 1"),
        (lambda: HadamardQuant(activation_bits=17), "activation_bits must be an integer from 2 to 16, got 17"),
        (lambda: HadamardQuant(first_layer_bits=8.0), "first_layer_bits .* got 8.0"),  # pyright: ignore
        (lambda: HadamardQuant(per_channel=None), "per_channel must be True or False"),  # pyright: ignore
        (lambda: HadamardQuant(fraction_bits=20), "fraction_bits .* 6 to 14, got 20"),
        (lambda: HadamardQuant().quantize(nn.Conv2d(2, 2, 1), SIGNAL), "nn.Sequential of nn.Linear .* got Conv2d"),
        (
            lambda: HadamardQuant().quantize(nn.Sequential(nn.Linear(2, 4), nn.Softmax(-1), nn.Linear(4, 3)), SIGNAL),
            "Softmax is not element-wise",
        ),
        (lambda: HadamardQuant().quantize(Field(1, 3), SIGNAL), "the model has 1 coordinates and 3 channels"),
        (lambda: HadamardQuant().quantize(FIELD, SIGNAL).render((0, 2)), r"from 1 to 32768, got \(0, 2\)"),
        (lambda: HadamardQuant().quantize(FIELD, SIGNAL)(torch.zeros(2)), r"\(points, d\), got shape \(2,\)"),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_weights_that_are_not_finite_are_refused() -> None:
    field = Field(2, 3, hidden_features=4, hidden_layers=1)
    with torch.no_grad():
        field.layers[1].weight[0, 0] = float("inf")
    with pytest.raises(InputError, match="layer 1 holds NaN or infinite"):
        HadamardQuant().quantize(field, SIGNAL)
