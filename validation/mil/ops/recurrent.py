"""Recurrent operations (``recurrent.py`` of iOS 15, 17 and 18): x [s, b, I] → every state, or the last, and the last.

Sums and states are kept in float32 from one step of the sequence to the next. Where the docstrings leave
something open, coremltools' own tests (``ops/tests/iOS14/test_recurrent.py``) decide, as noted below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.sums import Sums
from lvexport.validation.mil.table import op

Activation = Callable[[Tensor], Tensor]

# With the defaults of their layers: ``scaled_tanh`` has alpha and beta 1 (comment in the tests' ``_apply_act``).
ACTIVATIONS: Mapping[str, Activation] = {
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "tanh": torch.tanh,
}


@op("rnn")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    call: Call,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """initial_h [b, H], weight_ih [H, I], weight_hh [H, H], bias [H] → [s or 1, b, H], [b, H]."""
    act = _activation(activation)
    h, states = initial_h, []
    for inputs in _projected(_ordered(x, direction), weight_ih, bias, call.sums):
        h = act(inputs + call.sums.linear(h, weight_hh, None))
        states.append(h)
    return _sequence(states, output_sequence), h


@op("gru")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    call: Call,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Weights [3H, …] and bias [3H] in the order reset, output, update → [s or 1, b, H], [b, H]."""
    return gru_ios18(
        x, initial_h, weight_ih, weight_hh, call, bias, direction, output_sequence, recurrent_activation, activation
    )


@op("gru", since=Opset.IOS18)
def gru_ios18(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    call: Call,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The reset gate scales the state (tests), or with ``reset_after`` the state's product with its weights."""
    gate, act, sums = _activation(recurrent_activation), _activation(activation), call.sums
    recurrent_r, recurrent_o, recurrent_z = weight_hh.chunk(3)
    zero = x.new_zeros(len(weight_hh))
    bias_r, bias_o, bias_z = (zero if bias is None else bias).chunk(3)
    h, states = initial_h, []
    for inputs in _projected(_ordered(x, direction), weight_ih, input_bias, sums):
        input_r, input_o, input_z = inputs.chunk(3, -1)
        r = gate(input_r + sums.linear(h, recurrent_r, bias_r))
        z = gate(input_z + sums.linear(h, recurrent_z, bias_z))
        proposed = r * sums.linear(h, recurrent_o, bias_o) if reset_after else sums.linear(r * h, recurrent_o, bias_o)
        h = (1 - z) * act(input_o + proposed) + z * h
        states.append(h)
    return _sequence(states, output_sequence), h


@dataclass(frozen=True)
class _Direction:
    """Parameters of an LSTM in one direction: weights [4H, …] in the order input, forget, output, cell."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    peephole: Tensor | None

    def run(self, x: Tensor, h: Tensor, c: Tensor, gates: _Gates) -> tuple[list[Tensor], Tensor]:
        """Hidden states of all steps, and the last memory state."""
        peephole = self.weight_hh.new_zeros(3 * h.shape[-1]) if self.peephole is None else self.peephole
        peep_i, peep_f, peep_o = peephole.chunk(3)
        states = []
        for inputs in _projected(x, self.weight_ih, self.bias, gates.sums):
            i, f, o, z = (inputs + gates.sums.linear(h, self.weight_hh, None)).chunk(4, -1)
            c_new = gates.recurrent(f + peep_f * c) * c + gates.recurrent(i + peep_i * c) * gates.cell(z)
            c = c_new if gates.clip is None else c_new.clamp(-gates.clip, gates.clip)
            # The output gate looks at the new memory, the other two at the old one.
            h = gates.recurrent(o + peep_o * c) * gates.output(c)
            states.append(h)
        return states, c


@dataclass(frozen=True)
class _Gates:
    recurrent: Activation
    cell: Activation
    output: Activation
    clip: float | None
    sums: Sums


@op("lstm")
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    call: Call,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """States [b, H], or [b, 2H] with the backward ones behind → all or the last [s or 1, b, ·], last h, last c."""
    recurrent, cell, output = (_activation(name) for name in (recurrent_activation, cell_activation, activation))
    gates = _Gates(recurrent, cell, output, clip, call.sums)
    forward = _Direction(weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        states, c = forward.run(_ordered(x, direction), initial_h, initial_c, gates)
        return _sequence(states, output_sequence), states[-1], c
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("the weights of the backward direction are missing")
    backward = _Direction(weight_ih_back, weight_hh_back, bias_back, peephole_back)
    (h_ahead, h_back), (c_ahead, c_back) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    ahead, c_ahead = forward.run(x, h_ahead, c_ahead, gates)
    back, c_back = backward.run(x.flip(0), h_back, c_back, gates)
    # Here, unlike in a reversed LSTM, the backward states stand beside the inputs that they belong to.
    every = torch.cat([torch.stack(ahead), torch.stack(back[::-1])], -1)
    last = torch.cat([ahead[-1], back[-1]], -1)
    return every if output_sequence else last.unsqueeze(0), last, torch.cat([c_ahead, c_back], -1)


def _activation(name: str) -> Activation:
    if name.lower() not in ACTIVATIONS:
        raise ValueError(f"there is no recurrent activation {name!r}")
    return ACTIVATIONS[name.lower()]


def _ordered(x: Tensor, direction: str) -> Tensor:
    """x in the order in which it is read; the states are returned in that order too."""
    if direction not in ("forward", "reverse"):
        raise ValueError(f"there is no direction {direction!r}")
    return x.flip(0) if direction == "reverse" else x


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None, sums: Sums) -> tuple[Tensor, ...]:
    """The part of each step's sums that comes from the input: s × [b, gates·H], in one product."""
    return sums.linear(x, weight, bias).unbind(0)


def _sequence(states: list[Tensor], every: bool) -> Tensor:
    return torch.stack(states if every else states[-1:])
