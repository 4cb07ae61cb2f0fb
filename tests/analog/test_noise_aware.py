"""Noise-aware training: its gradients against autograd's, its schedules, what it leaves alone, what is refused."""

import copy
import dataclasses
import itertools

import pytest
import torch
import transformers
from models import ConvNet, build, same_bytes
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.checkpoint import checkpoint

from hardy.analog import AnalogLinear, Deploy, NoiseAware, drift
from hardy.analog.noisy_forward import deviated, deviation
from hardy.core import InputError, changes, derive, generator
from hardy.hardware import PCM, AdditiveDevice, AdditiveNoise, Chip, LogNormalNoise, ProportionalNoise
from hardy.hardware.crossbar import digits_of, program_matrix

CELLS = Chip.preset("pcm").without_periphery()
READ = dataclasses.replace(Chip.preset("pcm"), dac_bits=None, adc_bits=None)
SLICED = dataclasses.replace(Chip.preset("pcm"), cell_levels=16, weight_slices=2, input_slice_bits=2, adc="ramp")
FIVE_PERCENT = AdditiveNoise(strength=0.05)


def seeded(make: type[nn.Module] | object, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()  # pyright: ignore[reportCallIssue]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def draws(weight: torch.Tensor, site: str, step: int, seed: int = 0) -> torch.Tensor:
    """The normal numbers that a weight noise meets at a step, counted from 0."""
    return torch.randn(weight.shape, generator=generator(seed, "training", site, step))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Of the sum of squared outputs, for the inputs and then the parameters."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    return list(torch.autograd.grad(model(*leaves).square().sum(), [*leaves, *model.parameters()]))


@pytest.mark.parametrize("input_gradient", ["clean", "noisy"])
def test_straight_through_is_the_formula(input_gradient: str, x: torch.Tensor) -> None:
    """Outputs of f(w); the weight's gradient is that of the output times the input; the input's is that times W."""
    model = seeded(mlp).train()
    first, second = model[0], model[2]
    noisy = {}
    for name, layer in (("0", first), ("2", second)):
        scale = layer.weight.detach().abs().amax(1, keepdim=True)
        noisy[name] = layer.weight.detach() + 0.05 * scale * draws(layer.weight, name, 0)
    hidden = torch.tanh(x @ noisy["0"].T + first.bias.detach())
    y = hidden @ noisy["2"].T + second.bias.detach()
    above = 2 * y
    through = (second.weight.detach() if input_gradient == "clean" else noisy["2"], first.weight.detach())
    inside = (above @ through[0]) * (1 - hidden**2)
    at_input = inside @ (through[1] if input_gradient == "clean" else noisy["0"])
    expected = [at_input, inside.T @ x, inside.sum(0), above.T @ hidden, above.sum(0)]
    NoiseAware(chip=FIVE_PERCENT, input_gradient=input_gradient, select="linear").apply(model)
    for ours, theirs in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


NOISES = [FIVE_PERCENT, ProportionalNoise(strength=0.1), LogNormalNoise(strength=0.1), CELLS, READ]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(getattr(noise, "device", noise)).__name__)
def test_full_gradient_is_the_derivative(noise: object, x: torch.Tensor) -> None:
    """Central differences of the same draw, in directions that move every weight.

    The products are in float64; the noise itself is computed in float32, which limits the step.
    """
    model = seeded(mlp).double().train()
    layer = NoiseAware(chip=noise, gradient="full", select="linear", seed=3)  # pyright: ignore[reportArgumentType]

    def value(moved: nn.Module) -> torch.Tensor:
        with layer.apply(moved):  # each application begins with the first draw
            return moved(x.double()).square().sum()

    parameters = list(model.parameters())
    slopes = torch.autograd.grad(value(model), parameters)
    random = torch.Generator().manual_seed(7)
    ways = [torch.randn(p.shape, generator=random, dtype=torch.float64) for p in parameters]
    step = 2e-4
    sides = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        for parameter, way in zip(moved.parameters(), ways, strict=True):
            parameter.data += sign * step * way
        sides.append(value(moved).item())
    slope = sum((s * w).sum().item() for s, w in zip(slopes, ways, strict=True))
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=0.02)


def test_straight_through_is_right_on_average_for_noise_that_does_not_depend_on_the_weight() -> None:
    """E[gradient] of the straight-through and of the full gradient, one layer, absolute noise: the same."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    noise = AdditiveNoise(strength=0.2, relative_to="absolute")
    sums = {}
    for way in ("straight-through", "full"):
        model = seeded(lambda: nn.Sequential(nn.Linear(6, 3))).train()
        NoiseAware(chip=noise, gradient=way, select="linear").apply(model)  # pyright: ignore[reportArgumentType]
        sums[way] = sum(gradients(model, x)[1] for _ in range(50)) / 50
    torch.testing.assert_close(sums["straight-through"], sums["full"])
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 3))).train()
    NoiseAware(chip=ProportionalNoise(strength=0.2), gradient="full", select="linear").apply(model)
    dropped = gradients(model, x)[1]
    NoiseAware(chip=ProportionalNoise(strength=0.2), select="linear").apply(
        other := seeded(lambda: nn.Sequential(nn.Linear(6, 3))).train()
    )
    assert not torch.allclose(dropped, gradients(other, x)[1]), "with noise that does, a term is dropped"


@pytest.mark.parametrize("chip", ["pcm", "reram-wan", CELLS, SLICED, SLICED.without_periphery()], ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv1d", "fused", "conv"])
def test_training_computes_what_deploy_would(
    kind: str, chip: Chip | str, ids: torch.Tensor, images: torch.Tensor
) -> None:
    """With perfect reads, the noisy forward is the one of the chip instance that the draw names."""
    chip = Chip.preset(chip) if isinstance(chip, str) else chip
    chip = dataclasses.replace(chip, read_noise=0.0)
    if kind == "conv":
        model, inputs, select = seeded(ConvNet), images, "conv,linear"
    else:
        model, inputs, select = build("llama" if kind == "linear" else "gpt2"), ids, "linear"
        if kind == "fused":
            select = "attention.k,mlp"

    def run(changed: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            y = changed(inputs)
        return y if isinstance(y, torch.Tensor) else y.logits

    clean = run(model)
    with NoiseAware(chip=chip, select=select, seed=5).apply(model):
        for module in model.modules():
            if "forward" in vars(module):  # and no dropout
                module.train()
        noisy = run(model)
        assert same_bytes(run(model.eval()), clean), "without noise in evaluation mode"
    with Deploy(chip=chip, select=select, seed=derive(5, "training", 0)).apply(model):
        assert torch.equal(run(model), noisy)
    assert not torch.equal(noisy, clean)


def test_convolutions_have_the_gradient_of_the_clean_one(images: torch.Tensor) -> None:
    """With no noise at all, straight through is plain autograd: strides, groups, dilation and named padding."""
    layers = [
        nn.Conv2d(3, 6, 3, padding="same", dilation=2, groups=3),
        nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=1),
        nn.Conv2d(4, 4, 2, padding="valid", bias=False),
    ]
    model = nn.Sequential(*(seeded(lambda layer=layer: copy.deepcopy(layer)) for layer in layers)).train()
    plain = gradients(model, images)
    with NoiseAware(chip=Chip.preset("ideal"), select="conv").apply(model):
        for ours, theirs in zip(gradients(model, images), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_nothing_but_the_forward_changes(llama: nn.Module, ids: torch.Tensor) -> None:
    before, keys = dict(llama.named_parameters()), list(llama.state_dict())
    modules = dict(llama.named_modules())
    with NoiseAware(chip="pcm").apply(llama):
        assert list(llama.state_dict()) == keys
        assert all(parameter is before[name] for name, parameter in llama.named_parameters())
        assert dict(llama.named_modules()) == modules
    assert not any("forward" in vars(module) for module in llama.modules())
    assert changes(llama) == ()


def test_undo_keeps_what_training_made_of_the_weights(x: torch.Tensor) -> None:
    model = seeded(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # made before the method is applied
    change = NoiseAware(chip=FIVE_PERCENT, select="linear").apply(model)
    start = model[0].weight.detach().clone()
    model.train()
    model(x).square().sum().backward()
    optimizer.step()
    trained = model[0].weight.detach().clone()
    change.undo()
    assert not torch.equal(start, trained)
    assert same_bytes(model[0].weight, trained)
    assert torch.equal(model(x), model.eval()(x))


def test_then_it_is_deployed_before_or_after_undo(x: torch.Tensor) -> None:
    model = seeded(mlp)
    change = NoiseAware(chip=CELLS, select="linear").apply(model)
    with Deploy(chip=CELLS, seed=4, select="linear").apply(model):
        assert type(model[0]) is AnalogLinear
        beside = model.train()(x).detach()
        assert torch.equal(model(x), beside), "one chip instance: the training noise is not on top of it"
        drift(model, 60)
    change.undo()
    with Deploy(chip=CELLS, seed=4, select="linear").apply(model):
        assert torch.equal(model(x), beside)


def test_tied_weights_stay_tied_and_are_trained_together(ids: torch.Tensor) -> None:
    model = build("llama", tied=True).train()
    NoiseAware(chip=FIVE_PERCENT, select="head").apply(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    first, second = (model(ids).logits.detach() for _ in range(2))
    assert not torch.equal(first, second)
    model(ids, labels=ids).loss.backward()
    assert model.model.embed_tokens.weight.grad is not None
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_noise_is_new_at_every_step_or_as_asked(x: torch.Tensor) -> None:
    def outputs(**fields: object) -> list[torch.Tensor]:
        model = seeded(mlp).train()
        NoiseAware(chip=CELLS, select="linear", **fields).apply(model)  # pyright: ignore[reportArgumentType]
        return [model(x).detach() for _ in range(6)]

    def runs(values: list[torch.Tensor]) -> list[bool]:
        return [torch.equal(a, b) for a, b in itertools.pairwise(values)]

    assert runs(outputs()) == [False] * 5
    assert runs(outputs(resample=3)) == [True, True, False, True, True]
    assert runs(outputs(resample=3, gradient="full")) == [True, True, False, True, True]
    assert runs(outputs(resample="never")) == [True] * 5
    for ours, theirs in zip(outputs(resample=3), outputs(resample=3, gradient="full"), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_between_draws_the_deviation_stays_while_the_weight_moves(x: torch.Tensor) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 3, bias=False))).train()
    NoiseAware(chip=FIVE_PERCENT, select="linear", resample="never").apply(model)
    before = model(x).detach()
    with torch.no_grad():
        model[0].weight += 1
    torch.testing.assert_close(model(x).detach(), before + x.sum(1, keepdim=True))


def test_every_slice_keeps_its_own_deviation_while_the_weight_moves_and_the_noise_grows() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 12, generator=random)
    chip = dataclasses.replace(SLICED, tile_rows=4, weight_range="tile")
    held = program_matrix(weight, chip, seed=1, site="x")
    digits = [digit for digit, _ in digits_of(weight, held.scale, chip)]
    off = deviation(held, weight, chip)
    for part, slice_of, digit in zip(off.slices, held.slices, digits, strict=True):
        torch.testing.assert_close(part.weight + digit, slice_of.weight)
    half = deviated(off, weight, chip, 0.5)
    torch.testing.assert_close(half.weight, weight + 0.5 * (held.weight - weight))
    torch.testing.assert_close(half.slices[0].weight, digits[0] + 0.5 * (held.slices[0].weight - digits[0]))
    assert held.slices[1].read_variance is not None
    torch.testing.assert_close(half.slices[1].read_variance, held.slices[1].read_variance / 4)
    moved = weight + 0.01 * torch.randn(5, 12, generator=random)
    again = deviated(off, moved, chip)
    torch.testing.assert_close(again.weight - moved, held.weight - weight, atol=1e-6, rtol=1e-5)
    for state in (half, again):
        torch.testing.assert_close(sum(part.weight for part in state.slices), state.weight)


def test_a_weight_of_several_cells_is_trained(x: torch.Tensor) -> None:
    model = seeded(mlp).train()
    NoiseAware(chip=SLICED, select="linear", resample=2, warmup_steps=3).apply(model)
    outputs = []
    for _ in range(4):
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters())  # pyright: ignore[reportOptionalMemberAccess]
    assert len({output.sum().item() for output in outputs}) == 4, "reads and strength differ"


def test_every_sample_meets_a_chip_of_its_own() -> None:
    x = torch.ones(3, 6)
    model = seeded(mlp).train()
    NoiseAware(chip=FIVE_PERCENT, select="linear", resample="sample").apply(model)
    y = model(x)
    assert not torch.equal(y[0], y[1])
    assert not torch.equal(y[1], y[2])
    y.sum().backward()
    assert model[0].weight.grad is not None


def test_every_sample_is_read_on_its_own() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 3, bias=False))).train()
    NoiseAware(chip=Chip(device=AdditiveDevice(read=0.1)), select="linear", resample="sample").apply(model)
    y = model(torch.ones(3, 6))
    assert not torch.equal(y[0], y[1])
    assert not torch.equal(y[1], y[2])


def test_warmup_grows_to_the_full_noise(x: torch.Tensor) -> None:
    """The deviation of step n is that of the full noise times n / warmup_steps, until it is whole."""
    weight = seeded(lambda: nn.Linear(6, 3, bias=False)).weight.detach()
    scale = 0.05 * weight.abs().amax(1, keepdim=True)
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 3, bias=False))).train()
    NoiseAware(chip=FIVE_PERCENT, select="linear", warmup_steps=4).apply(model)
    for step in range(6):
        expected = weight + min(1, (step + 1) / 4) * scale * draws(weight, "0", step)
        torch.testing.assert_close(model(x).detach(), x @ expected.T)


def test_warmup_scales_reads_too() -> None:
    """At half strength the reads have half their standard deviation; 40,000 of them."""
    noise = Chip(device=AdditiveDevice(read=0.1))
    spreads = []
    for step in (1, 2):
        model = nn.Sequential(nn.Linear(4, 40_000, bias=False)).train()
        nn.init.ones_(model[0].weight)
        NoiseAware(chip=noise, select="linear", warmup_steps=2).apply(model)
        with torch.no_grad():
            y = [model(torch.ones(1, 4)) for _ in range(step)][-1]
        spreads.append(y.std().item())
    assert spreads[1] == pytest.approx(0.1 * 2**0.5 * 2, rel=0.02)
    assert spreads[0] == pytest.approx(spreads[1] / 2, rel=0.02)


def test_weights_are_kept_within_the_limit_while_training(x: torch.Tensor) -> None:
    model = seeded(mlp).eval()
    limit = 1.2 * model[0].weight.detach().std(1, correction=0, keepdim=True)
    inside = model[0].weight.detach().abs() <= limit
    before = model[0].weight.detach().clone()
    assert not inside.all()
    change = NoiseAware(chip=FIVE_PERCENT, select="linear", clip=1.2).apply(model)
    model(x)
    assert same_bytes(model[0].weight.detach(), before), "not in evaluation mode"
    loss = model.train()(x).square().sum() + model(x).square().sum()  # the second pass writes nothing
    loss.backward()
    assert (model[0].weight.grad != 0).all(), "a weight at its limit still has a gradient"
    change.undo()
    expected = torch.where(inside, before, before.clamp(-limit, limit))
    assert torch.equal(model[0].weight.detach(), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_meets_the_same_noise(reentrant: bool, x: torch.Tensor) -> None:
    plain, saving = seeded(mlp).train(), seeded(mlp).train()
    for model in (plain, saving):
        NoiseAware(chip=READ, select="linear").apply(model)
    for _ in range(2):
        expected = gradients(plain, x)
        leaf = x.clone().requires_grad_()
        loss = checkpoint(saving, leaf, use_reentrant=reentrant).square().sum()
        loss.backward()
        got = [leaf.grad, *(p.grad for p in saving.parameters())]
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        saving.zero_grad()


def test_straight_through_keeps_nothing_but_inputs_and_weights_for_the_backward_pass(x: torch.Tensor) -> None:
    """Bytes that the graph holds beyond the model's own tensors: with PCM cells, many times the weights in full."""

    def kept(**fields: object) -> int:
        model = seeded(lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))).train()
        own = {parameter.data_ptr() for parameter in model.parameters()}
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in own:
                held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        if fields:
            NoiseAware(chip=CELLS, select="linear", **fields).apply(model)  # pyright: ignore[reportArgumentType]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = model(torch.ones(2, 64))
        assert y.requires_grad
        return sum(held.values())

    weights = 2 * 64 * 64 * 4
    assert kept(gradient="straight-through") == kept()
    assert kept(gradient="straight-through", input_gradient="noisy") <= kept() + weights
    assert kept(gradient="full") > kept() + 10 * weights


def test_any_function_will_do_and_may_write_to_what_it_is_given(x: torch.Tensor) -> None:
    def black_box(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        values = weight.numpy()  # no graph could follow
        values += 0.1 * torch.randn(weight.shape, generator=random).numpy()
        return torch.from_numpy(values)

    model = seeded(mlp)
    before = model[0].weight.detach().clone()
    method = NoiseAware(chip=black_box, select="linear")
    change = method.apply(model)
    first, second = (gradients(model.train(), x) for _ in range(2))
    assert not torch.equal(first[1], second[1])
    assert same_bytes(model[0].weight.detach(), before)
    with pytest.raises(InputError, match="black_box.*cannot be stored; undo"):
        method.to_dict()
    change.undo()
    with pytest.raises(InputError, match="gradient='full': the noise black_box is not differentiable at 0"):
        NoiseAware(chip=lambda_named(lambda w, g: w.detach() + 1), gradient="full", select="linear").apply(model)


def lambda_named(function: object) -> object:
    function.__name__ = "black_box"  # pyright: ignore[reportAttributeAccessIssue]
    return function


def test_autocast_and_bfloat16(ids: torch.Tensor) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = build("llama", dtype=dtype).train()
        NoiseAware(chip="pcm").apply(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            loss = model(ids, labels=ids).loss
        loss.backward()
        grads = [parameter.grad for parameter in model.parameters()]
        assert all(grad is not None and grad.dtype == dtype and torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("calibrated", [True, False])
def test_calibrated_converters_get_their_ranges_from_data_or_from_the_first_inputs(
    calibrated: bool, llama: nn.Module, ids: torch.Tensor
) -> None:
    layer = llama.model.layers[0].mlp.up_proj
    with NoiseAware(chip="pcm-foundation", select="mlp").apply(llama, [ids] if calibrated else None):
        forward = vars(layer)["forward"]
        assert forward.peripheries[0].known == calibrated
        llama.train()(ids, labels=ids).loss.backward()
        found = forward.peripheries[0]
        assert found.known
        llama(2 + 0 * ids)
        assert forward.peripheries[0] == found
    assert layer.weight.grad is not None


def test_a_model_in_training_is_copied_with_its_noise(x: torch.Tensor) -> None:
    model = seeded(mlp).train()
    NoiseAware(chip=FIVE_PERCENT, select="linear").apply(model)
    again = copy.deepcopy(model)
    assert torch.equal(again(x), model(x))
    with torch.no_grad():
        again[0].weight.zero_()
    again(x)
    assert model[0].weight.abs().sum() > 0
    assert vars(again[0])["forward"].module is again[0]
    changes(again)[0].undo()
    assert "forward" in vars(model[0])


def test_in_the_trainer_of_transformers(ids: torch.Tensor, tmp_path: object) -> None:
    """As it is: no callback, and evaluation inside of it is that of the clean model."""
    model = build("llama")
    data = [{"input_ids": row, "labels": row} for row in ids.repeat(8, 1)]
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    change = NoiseAware(chip="pcm", warmup_steps=2).apply(model)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no", seed=1, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:4])
    trainer.train()
    steps = vars(model.model.layers[0].mlp.up_proj)["forward"].steps
    losses = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    change.undo()
    assert steps == 3
    assert losses[0] == losses[1] == trainer.evaluate()["eval_loss"]
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, before)


def test_training_with_noise_holds_under_noise_where_plain_training_does_not() -> None:
    """Digits: accuracy over ten chip instances, after equal steps from the same start, for two starts."""
    digits = load_digits()
    x = torch.from_numpy(digits.data).float() / 16
    y = torch.from_numpy(digits.target).long()
    noise = AdditiveNoise(strength=0.1, relative_to="absolute")

    def accuracy(start: int, **fields: object) -> float:
        layers = (nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear)
        sizes = ((64, 32), (), (32, 32), (), (32, 10))
        make = lambda: nn.Sequential(*(layer(*size) for layer, size in zip(layers, sizes, strict=True)))  # noqa: E731
        model = seeded(make, start).train()
        change = NoiseAware(chip=noise, select="linear", **fields).apply(model) if fields else None  # pyright: ignore[reportArgumentType]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            nn.functional.cross_entropy(model(x[:1200]), y[:1200]).backward()
            optimizer.step()
            optimizer.zero_grad()
        if change is not None:
            change.undo()
        found = []
        for seed in range(100, 110):
            with dataclasses.replace(noise, seed=seed).apply(model.eval()):
                found.append((model(x[1200:]).argmax(1) == y[1200:]).double().mean().item())
        return sum(found) / len(found)

    plain = accuracy(0) + accuracy(1)
    noisy = accuracy(0, input_gradient="noisy") + accuracy(1, input_gradient="noisy")
    assert noisy > plain + 2 * 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chip": Chip.preset("pcm"), "gradient": "full"}, "needs a chip without converters.*dac_bits=8"),
        (
            {"chip": dataclasses.replace(CELLS, wire_resistance=1.0, wires="exact"), "gradient": "full"},
            "cannot go through chip with wires='exact'",
        ),
        ({"chip": FIVE_PERCENT, "seconds": 5.0}, "seconds is for a Chip"),
        ({"chip": AdditiveNoise(strength=0.1, select="mlp")}, r"give NoiseAware\(select='mlp'"),
        ({"chip": FIVE_PERCENT, "resample": "sample", "input_gradient": "noisy"}, "needs .*input_gradient='clean'"),
        ({"chip": "pcn"}, "no chip 'pcn'; did you mean pcm"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NoiseAware(**fields)  # pyright: ignore[reportArgumentType]


def test_layers_that_cannot_be_trained_so_are_refused(llama: nn.Module, ids: torch.Tensor) -> None:
    with pytest.raises(InputError, match="embed_tokens is a Embedding; noise-aware training takes nn.Linear"):
        NoiseAware(chip=FIVE_PERCENT, select="embedding").apply(llama)
    with pytest.raises(InputError, match="experts.gate_up_proj is a .*Experts; noise-aware training takes"):
        NoiseAware(chip=FIVE_PERCENT, select="experts").apply(build("mixtral"))
    with pytest.raises(InputError, match="matches nothing in Sequential"):
        NoiseAware(chip=FIVE_PERCENT).apply(nn.Sequential(nn.ReLU()))
    with Deploy(chip=CELLS, select="mlp").apply(llama), pytest.raises(InputError, match="is on a chip already"):
        NoiseAware(chip=FIVE_PERCENT).apply(llama)
    for conv in (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), nn.Conv2d(3, 3, 2, padding="same")):
        with pytest.raises(InputError, match="padding"):
            NoiseAware(chip=FIVE_PERCENT, select="conv").apply(nn.Sequential(conv))
    assert not any("forward" in vars(module) for module in llama.modules())


def plus_one(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return weight + 1


def twice(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return 2 * weight


@pytest.mark.parametrize("gradient", ["straight-through", "full"])
def test_noises_on_the_same_layer_add_up_the_later_one_first(gradient: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(4, 6)
    model, clean = nn.Sequential(layer), layer(x).detach()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    first = NoiseAware(chip=plus_one, gradient=gradient, select="0", warmup_steps=2).apply(model)
    second = NoiseAware(chip=twice, gradient=gradient, select="0").apply(model)
    half = model(x)  # the first is in its first of two steps of warmup
    torch.testing.assert_close(half, nn.functional.linear(x, 2 * weight + 0.5, bias))
    output = model(x)
    torch.testing.assert_close(output, nn.functional.linear(x, 2 * weight + 1, bias))
    up = torch.randn(4, 5)
    (of_weight,) = torch.autograd.grad(output, layer.weight, up)
    torch.testing.assert_close(of_weight, (2 if gradient == "full" else 1) * up.mT @ x)
    outer = vars(layer)["forward"]
    assert (outer.steps, outer.inner.steps) == (2, 2)
    assert torch.equal(model.eval()(x), clean)
    model.train()
    with pytest.raises(InputError, match="changed again since; undo the later change first"):
        first.undo()
    second.undo()
    torch.testing.assert_close(model(x), nn.functional.linear(x, weight + 1, bias))
    first.undo()
    assert "forward" not in vars(layer)
    assert torch.equal(layer.weight, weight)


def test_reads_of_a_later_noise_do_not_pass_through_an_earlier_one() -> None:
    """The spread of its reads is that of its own arrays, however large the noise is that it stands on."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(2000, 64)
    alone = NoiseAware(chip=READ, select="0", resample="never")
    spreads = []
    for methods in ([alone], [NoiseAware(chip=plus_one, select="0"), alone]):
        model = nn.Sequential(copy.deepcopy(layer))
        for method in methods:
            method.apply(model)
        with torch.no_grad():
            spreads.append((model(x) - model(x)).std().item())
    assert spreads[0] == pytest.approx(spreads[1], rel=0.02)
    assert spreads[0] > 0


def test_what_cannot_stand_on_another_forward_goes_first(ids: torch.Tensor) -> None:
    converters = Chip.preset("pcm")
    assert converters.has_range
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(3, 6)
    with NoiseAware(chip=plus_one, select="0").apply(model):
        with pytest.raises(InputError, match="converters would pass over.*apply this method first"):
            NoiseAware(chip=converters, select="0").apply(model, [x])
        with pytest.raises(InputError, match="resample='sample' would run it once for each sample"):
            NoiseAware(chip=twice, select="0", resample="sample").apply(model)
    with NoiseAware(chip=converters, select="0").apply(model, [x]):
        on_chip = model(x)
        with NoiseAware(chip=plus_one, select="0").apply(model):
            assert not torch.allclose(model(x), on_chip, atol=0.1)


def test_a_forward_that_others_have_put_on_is_kept() -> None:
    layer, x = nn.Linear(6, 5, bias=False), torch.randn(3, 6)
    original = layer.forward
    layer.forward = lambda features: original(features) + 100
    with NoiseAware(chip=plus_one, select="0").apply(nn.Sequential(layer)):
        torch.testing.assert_close(layer(x), x @ (layer.weight + 1).mT + 100)
    torch.testing.assert_close(layer(x), x @ layer.weight.mT + 100)


def test_noise_that_is_no_weight_is_refused(llama: nn.Module) -> None:
    bad = {
        "must return a weight of shape": lambda w, g: w[:1],
        "must return a weight": lambda w, g: None,
        "NaN or infinite weights": lambda w, g: w / 0,
        "has NaN or infinite derivatives": lambda w, g: w + (w - w).sqrt(),
    }
    for message, function in bad.items():
        full = "derivatives" in message
        with pytest.raises(InputError, match=message):
            NoiseAware(chip=function, gradient="full" if full else "straight-through").apply(llama)
    with torch.no_grad():
        llama.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"up_proj holds 1 NaN"):
        NoiseAware(chip=FIVE_PERCENT).apply(llama)


def test_cells_at_zero_have_a_gradient() -> None:
    """The 1/f noise of PCM has a power of the conductance in it, whose slope at zero is infinite before its limit."""
    cells = torch.tensor([0.0, 1e-9, 1.0, 20.0], requires_grad=True)
    std = PCM().read_std(cells, cells, 0.0)
    assert std is not None
    assert torch.isfinite(torch.autograd.grad(std.sum(), cells)[0]).all()
