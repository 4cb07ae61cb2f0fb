"""The recurrence of a selective state space (Mamba), with a gradient that holds only the states.

Source: Gu and Dao, Mamba (2312.00752), equation 2 with the discretization of its released form: the state decays by
`exp(step * rate)` and takes in `step * x * into`. Autograd through the plain loop keeps every product of every token;
here the states are kept and the rest is computed again on the way back, token by token, so that the working set stays
in the cache of a processor. `tests/reference/state_space.py` is the loop it is compared with.
"""

from typing import Any

import torch


def selective_scan(
    x: torch.Tensor, step: torch.Tensor, rate: torch.Tensor, into: torch.Tensor, out_of: torch.Tensor
) -> torch.Tensor:
    """What the states of all tokens give out: `y[t] = h[t] @ out_of[t]`, `h[t] = exp(step * rate) * h[t-1] + ...`.

    Args:
        x: inputs, (batch, tokens, dim).
        step: positive step sizes, (batch, tokens, dim).
        rate: negative decay rates, (dim, states).
        into, out_of: input and output vectors of the states, (batch, tokens, states).

    Returns:
        (batch, tokens, dim) float32.
    """
    return _SelectiveScan.apply(x.float(), step.float(), rate.float(), into.float(), out_of.float())  # pyright: ignore[reportReturnType]


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: torch.Tensor, step: torch.Tensor, rate: torch.Tensor, into: torch.Tensor, out_of: torch.Tensor
    ) -> torch.Tensor:
        # Tokens first: each step of the loops then works on contiguous memory.
        x, step, into, out_of = (tensor.transpose(0, 1).contiguous() for tensor in (x, step, into, out_of))
        tokens, batch, dim = x.shape
        states = x.new_zeros(tokens + 1, batch, dim, rate.shape[1])
        taken = (step * x).unsqueeze(-1)
        y = torch.empty_like(x)
        for t in range(tokens):
            state = states[t + 1]
            torch.mul(step[t].unsqueeze(-1), rate, out=state)
            state.exp_().mul_(states[t]).addcmul_(taken[t], into[t].unsqueeze(1))
            torch.bmm(state, out_of[t].unsqueeze(-1), out=y[t].unsqueeze(-1))
        ctx.save_for_backward(x, step, rate, into, out_of, states)
        return y.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, step, rate, into, out_of, states = ctx.saved_tensors
        grad = grad.transpose(0, 1).float().contiguous()
        grad_x, grad_step = torch.empty_like(x), torch.empty_like(step)
        grad_into, grad_rate = torch.empty_like(into), torch.zeros_like(rate)
        grad_out_of = torch.einsum("tbd,tbdn->tbn", grad, states[1:])
        taken = (step * x).unsqueeze(2)
        carried = torch.zeros_like(states[0])  # gradient that the later states send to this one
        decay, product = torch.empty_like(carried), torch.empty_like(carried)
        for t in reversed(range(len(x))):
            carried.addcmul_(grad[t].unsqueeze(-1), out_of[t].unsqueeze(1))
            torch.bmm(taken[t], carried, out=grad_into[t].unsqueeze(1))
            given = torch.bmm(carried, into[t].unsqueeze(-1)).squeeze(-1)
            torch.mul(step[t].unsqueeze(-1), rate, out=decay)
            carried.mul_(decay.exp_())
            torch.mul(carried, states[t], out=product)  # gradient of the logarithm of the decay
            grad_rate += (product * step[t].unsqueeze(-1)).sum(0)
            torch.mul(given, step[t], out=grad_x[t])
            torch.sum(product.mul_(rate), -1, out=grad_step[t])
            grad_step[t].addcmul_(given, x[t])
        return tuple(
            value if value is grad_rate else value.transpose(0, 1)
            for value in (grad_x, grad_step, grad_rate, grad_into, grad_out_of)
        )
