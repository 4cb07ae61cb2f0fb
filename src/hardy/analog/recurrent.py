"""nn.LSTM, nn.GRU and nn.RNN whose products are computed on a chip, step by step; the gates stay digital.

Where arrays are read exactly torch's own kernel runs with what they hold. Where there are converters or read noise the
input's products come first, for all steps at once, and the hidden state's at each step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from hardy.analog.reading import STORED, reading_class

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
"""The modules that `recurrent_class` is for."""


def recurrent_class(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """`kind`, one of `RECURRENT`, with the products of its weights `names` on arrays."""
    base: Any = reading_class(kind, names)

    def get(self: Any) -> list[Any]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    def put(self: Any, weights: list[Any]) -> None:
        vars(self)["_flat_weights"] = weights  # what it is again when the class is put back

    def forward(self: Any, input: Any, hx: Any = None) -> Any:
        if all(stored.reads_exactly for _, stored in vars(self)[STORED].entries.values()):
            return kind.forward(self, input, hx)
        return _Unrolled(self)(input, hx)

    members = {"__module__": kind.__module__, "_flat_weights": property(get, put), "forward": forward}
    return type(kind.__name__, (base,), members)


class _Unrolled:
    """One use of a recurrent module: what torch's kernel does, with each product on its arrays."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.entries = vars(module)[STORED].entries
        self.lstm, self.gru = isinstance(module, nn.LSTM), isinstance(module, nn.GRU)

    def __call__(self, input: Any, hx: Any) -> Any:
        module, lengths = self.module, None
        x = input
        if isinstance(input, PackedSequence):
            x, lengths = pad_packed_sequence(input, batch_first=module.batch_first)
        batched = x.ndim == 3
        if not batched:
            x, hx = x[:, None], None if hx is None else _each(hx, lambda state: state[:, None])
        elif module.batch_first:
            x = x.transpose(0, 1)
        mask = None if lengths is None else torch.arange(len(x))[:, None, None] < lengths[None, :, None]
        sides = 2 if module.bidirectional else 1
        hidden, cells = self._initial(x, hx, sides)
        last: list[list[torch.Tensor]] = [[], []]
        for layer in range(module.num_layers):
            outputs = []
            for side in range(sides):
                place = layer * sides + side
                y, h, c = self._direction(x, hidden[place], cells[place], layer, side == 1, mask)
                outputs.append(y)
                last[0].append(h)
                last[1].append(c)
            x = torch.cat(outputs, dim=-1)
            if module.dropout and layer < module.num_layers - 1:
                x = nn.functional.dropout(x, module.dropout, module.training)
        states = [torch.stack(parts) for parts in last]
        state: Any = tuple(states) if self.lstm else states[0]
        if not batched:
            return x[:, 0], _each(state, lambda values: values[:, 0])
        x = x.transpose(0, 1) if module.batch_first else x
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, module.batch_first, enforce_sorted=input.sorted_indices is None)
        return x, state

    def _initial(self, x: torch.Tensor, hx: Any, sides: int) -> tuple[torch.Tensor, torch.Tensor]:
        module, places = self.module, self.module.num_layers * sides
        if hx is not None:
            return hx if self.lstm else (hx, hx)
        hidden = x.new_zeros(places, x.shape[1], module.proj_size or module.hidden_size)
        return hidden, x.new_zeros(places, x.shape[1], module.hidden_size)

    def _direction(
        self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, layer: int, reverse: bool, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One layer in one direction; x (time, batch, in), h and c (batch, hidden)."""
        suffix = f"_l{layer}" + "_reverse" * reverse
        names = {part: f"weight_{part}{suffix}" for part in ("ih", "hh", "hr")}
        if not all(self.entries[name][1].known for name in names.values() if name in self.entries):
            # Calibrated ranges of what the steps feed back: on the states of a run that is read exactly.
            with torch.no_grad():
                products = self._product(names["ih"], x)
                fed = self._steps(products, h, c, names, suffix, reverse, mask, exactly=True)
                for part, values in (("hh", fed[0]), ("hr", fed[3])):
                    for array in self.entries[names[part]][1].arrays if names[part] in self.entries else ():
                        array.calibrate(values.flatten(0, 1).float())
        return self._steps(self._product(names["ih"], x), h, c, names, suffix, reverse, mask)[:3]

    def _product(self, name: str, x: torch.Tensor, exactly: bool = False) -> torch.Tensor:
        """With the weight `name`, (..., in) to (..., out)."""
        parameter = self.module._parameters[name]
        if name not in self.entries:
            return x @ parameter.mT
        stored = self.entries[name][1]
        return x @ stored.values(parameter).mT if exactly else stored.product(x, parameter)

    def _steps(
        self, products: torch.Tensor, h: torch.Tensor, c: torch.Tensor, names: dict[str, str], suffix: str,
        reverse: bool, mask: torch.Tensor | None, exactly: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
        """States at all steps, the last ones, and what the projection of the states is given."""
        module, biases = self.module, [0.0, 0.0]
        if module.bias:
            biases = [getattr(module, f"bias_{part}{suffix}") for part in ("ih", "hh")]
        products = products + biases[0]
        outputs, unprojected = [h] * len(products), [h] * len(products)
        for t in reversed(range(len(products))) if reverse else range(len(products)):
            fed = self._product(names["hh"], h, exactly) + biases[1]
            new, cell = self._cell(products[t], fed, h, c)
            unprojected[t] = new
            if module.proj_size:
                new = self._product(names["hr"], new, exactly)
            h, c = (new, cell) if mask is None else (torch.where(mask[t], new, h), torch.where(mask[t], cell, c))
            outputs[t] = h
        return torch.stack(outputs), h, c, torch.stack(unprojected)

    def _cell(
        self, x: torch.Tensor, fed: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next state from both products, biases included, in torch's order of the gates."""
        if self.lstm:
            enter, forget, new, out = (x + fed).chunk(4, dim=-1)
            c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
            return out.sigmoid() * c.tanh(), c
        if self.gru:
            (reset, update, new), (reset_h, update_h, new_h) = x.chunk(3, dim=-1), fed.chunk(3, dim=-1)
            update = (update + update_h).sigmoid()
            new = (new + (reset + reset_h).sigmoid() * new_h).tanh()
            return (1 - update) * new + update * h, c
        return (x + fed).tanh() if self.module.nonlinearity == "tanh" else (x + fed).relu(), c


def _each(state: Any, change: Any) -> Any:
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)
