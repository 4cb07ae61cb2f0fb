"""The scan against the loop, its gradient against finite differences and against autograd through the loop."""

import torch
from models import build
from reference.state_space import selective_scan as by_loop

from hardy.ops.selective_scan import selective_scan
from hardy.zoo.tiny_mamba import quick_scan


def _inputs(batch: int = 2, tokens: int = 6, dim: int = 3, states: int = 2) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(batch, tokens, dim), (batch, tokens, dim), (dim, states), (batch, tokens, states)]
    x, step, rate, into = (torch.randn(shape, generator=random) for shape in shapes)
    out_of = torch.randn(shapes[-1], generator=random)
    return [x, 0.3 * step.exp(), -rate.exp(), into, out_of]


def test_it_is_the_loop() -> None:
    torch.testing.assert_close(selective_scan(*_inputs()), by_loop(*_inputs()))


def test_one_token_has_no_past() -> None:
    x, step, rate, into, out_of = _inputs(tokens=1)
    expected = step * x * (into * out_of).sum(-1, keepdim=True)
    torch.testing.assert_close(selective_scan(x, step, rate, into, out_of), expected)


def _plain(x: torch.Tensor, step: torch.Tensor, rate: torch.Tensor, into: torch.Tensor, out_of: torch.Tensor):
    state, outputs = torch.zeros(len(x), *rate.shape), []
    for t in range(x.shape[1]):
        decay = torch.exp(step[:, t, :, None] * rate)
        state = decay * state + (step[:, t] * x[:, t])[..., None] * into[:, t, None, :]
        outputs.append((state * out_of[:, t, None, :]).sum(-1))
    return torch.stack(outputs, 1)


def test_its_gradient_is_that_of_autograd_through_the_loop() -> None:
    weights = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function in (selective_scan, _plain):
        inputs = [tensor.requires_grad_() for tensor in _inputs()]
        gradients.append(torch.autograd.grad((function(*inputs) * weights).sum(), inputs))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_training_with_it_is_training_with_the_loop_of_transformers(ids: torch.Tensor) -> None:
    model = build("mamba").train()
    loss = model(input_ids=ids, use_cache=False).logits.square().mean()
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with quick_scan():
        quick = model(input_ids=ids, use_cache=False).logits.square().mean()
    quick.backward()
    torch.testing.assert_close(quick, loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7, msg=name)
