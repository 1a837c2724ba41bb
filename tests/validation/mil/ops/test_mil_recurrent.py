"""Recurrent operations against torch's own layers, with the weights in Core ML's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

RNG = np.random.default_rng(8)
STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 2
X = RNG.standard_normal((STEPS, BATCH, INPUT)).astype(np.float32)
H0, C0 = (RNG.standard_normal((BATCH, HIDDEN)).astype(np.float32) for _ in range(2))
H2, C2 = (RNG.standard_normal((BATCH, 2 * HIDDEN)).astype(np.float32) for _ in range(2))
TORCH_TO_LSTM, TORCH_TO_GRU = (0, 1, 3, 2), (0, 2, 1)  # torch: input, forget, cell, output; reset, update, new


def weights(layer, order, suffix=""):
    """Weights and the two biases of a torch layer, gates in Core ML's order."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    tensors = (getattr(layer, name + suffix).detach().numpy() for name in names)
    return [np.concatenate([np.split(t, len(order))[gate] for gate in order]) for t in tensors]


def split_directions(state):
    """[b, 2H] → torch's [2, b, H]."""
    return torch.from_numpy(state).reshape(BATCH, 2, HIDDEN).transpose(0, 1).contiguous()


def joined(state):
    return state.transpose(0, 1).reshape(BATCH, -1)


def check(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("every", [True, False])
def test_rnn(run, direction, every):
    torch.manual_seed(0)
    layer = torch.nn.RNN(INPUT, HIDDEN, nonlinearity="relu")
    w_ih, w_hh, b_ih, b_hh = weights(layer, (0,))
    given = {"weight_ih": w_ih, "weight_hh": w_hh, "bias": b_ih + b_hh, "activation": "relu"}

    def build(mb, x, h):
        outs = mb.rnn(x=x, initial_h=h, direction=direction, output_sequence=every, **given)
        return dict(zip(("all", "last"), outs, strict=True))

    read = torch.from_numpy(X).flip(0) if direction == "reverse" else torch.from_numpy(X)
    states, last = layer(read, torch.from_numpy(H0)[None])
    check(run(build, {"x": X, "h": H0}), {"all": states if every else states[-1:], "last": last[0]})


def test_gru_with_the_reset_gate_behind_the_product_is_torchs(run):
    torch.manual_seed(1)
    layer = torch.nn.GRU(INPUT, HIDDEN)
    w_ih, w_hh, b_ih, b_hh = weights(layer, TORCH_TO_GRU)
    given = {"weight_ih": w_ih, "weight_hh": w_hh, "bias": b_hh, "input_bias": b_ih, "reset_after": True}

    def build(mb, x, h):
        return dict(zip(("all", "last"), mb.gru(x=x, initial_h=h, output_sequence=True, **given), strict=True))

    states, last = layer(torch.from_numpy(X), torch.from_numpy(H0)[None])
    check(run(build, {"x": X, "h": H0}, "iOS18"), {"all": states, "last": last[0]})


def test_gru_before_ios18_resets_the_state_before_the_product(run):
    w_ih, w_hh = RNG.standard_normal((3, 1, 1)).astype(np.float32), RNG.standard_normal((3, 1, 1)).astype(np.float32)
    x, h = X[:1, :1, :1], H0[:1, :1]

    def build(mb, x, h):
        outs = mb.gru(x=x, initial_h=h, weight_ih=w_ih.reshape(3, 1), weight_hh=w_hh.reshape(3, 1))
        return {"last": outs[1]}

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    (in_r, in_o, in_z), (re_r, re_o, re_z) = w_ih.reshape(3).tolist(), w_hh.reshape(3).tolist()
    (value,), (state,) = x.reshape(1).tolist(), h.reshape(1).tolist()
    reset, update = sigmoid(in_r * value + re_r * state), sigmoid(in_z * value + re_z * state)
    expected = (1 - update) * np.tanh(in_o * value + re_o * (reset * state)) + update * state
    np.testing.assert_allclose(run(build, {"x": x, "h": h})["last"].item(), expected, rtol=1e-5)


@pytest.mark.parametrize("every", [True, False])
def test_lstm_in_both_directions(run, every):
    torch.manual_seed(2)
    layer = torch.nn.LSTM(INPUT, HIDDEN, bidirectional=True)
    ahead, back = weights(layer, TORCH_TO_LSTM), weights(layer, TORCH_TO_LSTM, "_reverse")
    given = {"weight_ih": ahead[0], "weight_hh": ahead[1], "bias": ahead[2] + ahead[3]}
    given |= {"weight_ih_back": back[0], "weight_hh_back": back[1], "bias_back": back[2] + back[3]}

    def build(mb, x, h, c):
        outs = mb.lstm(x=x, initial_h=h, initial_c=c, direction="bidirectional", output_sequence=every, **given)
        return dict(zip(("all", "last", "memory"), outs, strict=True))

    states, (h, c) = layer(torch.from_numpy(X), (split_directions(H2), split_directions(C2)))
    expected = {"all": states if every else joined(h)[None], "last": joined(h), "memory": joined(c)}
    check(run(build, {"x": X, "h": H2, "c": C2}), expected)


def test_lstm_peepholes_and_clipping(run):
    """One step by the formulas of the docstring; the output gate looks at the memory as it has become."""
    w_ih, w_hh = RNG.standard_normal((8, INPUT)), RNG.standard_normal((8, HIDDEN))
    peephole, clip = RNG.standard_normal(6), 0.3
    given = {"weight_ih": w_ih, "weight_hh": w_hh, "peephole": peephole}
    given = {name: value.astype(np.float32) for name, value in given.items()} | {"clip": np.float32(clip)}
    given |= {"recurrent_activation": "hard_sigmoid", "cell_activation": "linear", "activation": "scaled_tanh"}

    def build(mb, x, h, c):
        return dict(zip(("all", "last", "memory"), mb.lstm(x=x, initial_h=h, initial_c=c, **given), strict=True))

    def gate(value):
        return np.clip(0.2 * value + 0.5, 0, 1)

    i, f, o, z = np.split(X[0] @ w_ih.T + H0 @ w_hh.T, 4, axis=1)
    peep_i, peep_f, peep_o = np.split(peephole, 3)
    c = np.clip(gate(f + peep_f * C0) * C0 + gate(i + peep_i * C0) * z, -clip, clip)
    h = gate(o + peep_o * c) * np.tanh(c)
    found = run(build, {"x": X[:1], "h": H0, "c": C0})
    np.testing.assert_allclose(found["memory"], c, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["last"], h, rtol=1e-4, atol=1e-6)
    assert np.isclose(np.abs(found["memory"]), clip).any()
