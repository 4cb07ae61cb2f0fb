"""The recurrence of a selective state space, number by number: what the fast scan is compared with."""

import math

import torch


def selective_scan(
    x: torch.Tensor, step: torch.Tensor, rate: torch.Tensor, into: torch.Tensor, out_of: torch.Tensor
) -> torch.Tensor:
    """(batch, tokens, dim), as `hardy.ops.selective_scan.selective_scan`, one multiplication after the other."""
    batch, tokens, dim = x.shape
    y = torch.zeros_like(x)
    for b in range(batch):
        for d in range(dim):
            state = [0.0] * rate.shape[1]
            for t in range(tokens):
                for n in range(len(state)):
                    decay = math.exp(step[b, t, d].item() * rate[d, n].item())
                    state[n] = decay * state[n] + step[b, t, d].item() * x[b, t, d].item() * into[b, t, n].item()
                    y[b, t, d] += state[n] * out_of[b, t, n].item()
    return y
