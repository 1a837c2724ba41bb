"""Random operations: distributions, the limits that are documented, and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

N = 20_000
X = np.zeros(1, np.float32)


def drawn(save, ops):
    """A model with one output for each of ``ops``: name → function of the builder."""
    from lvexport.validation import mil

    def build(mb, x):
        return {"same": mb.identity(x=x)} | {name: make(mb) for name, make in ops.items()}

    return mil.load(save(build, {"x": X}))


@pytest.fixture(scope="module")
def model(save):
    shape, half = np.array([N], np.int32), np.float16
    return drawn(
        save,
        {
            "bernoulli": lambda mb: mb.random_bernoulli(shape=shape, prob=np.float32(0.3)),
            "normal": lambda mb: mb.random_normal(shape=shape, mean=np.float32(2), stddev=np.float32(3)),
            "uniform": lambda mb: mb.random_uniform(shape=shape, low=np.float32(-1), high=np.float32(2)),
            "half": lambda mb: mb.random_uniform(shape=shape, low=half(0.5), high=half(1)),
            "equal": lambda mb: mb.random_uniform(shape=shape, low=np.float32(4), high=np.float32(4)),
            "seeded": lambda mb: mb.random_normal(shape=shape, seed=7),
            "again": lambda mb: mb.random_normal(shape=shape, seed=7),
            "other": lambda mb: mb.random_normal(shape=shape, seed=8),
            "logits": lambda mb: mb.random_categorical(x=np.log(np.float32([[1, 3], [4, 1]])), size=N),
            "probs": lambda mb: mb.random_categorical(x=np.float32([0.1, 0.0, 0.9]), mode="probs", size=N),
        },
    )


@pytest.fixture(scope="module")
def values(model):
    torch.manual_seed(0)
    return model.predict({"x": X})


def test_distributions(values):
    assert set(np.unique(values["bernoulli"])) == {0, 1}
    assert values["bernoulli"].mean() == pytest.approx(0.3, abs=0.02)
    assert (values["normal"].mean(), values["normal"].std()) == (pytest.approx(2, abs=0.1), pytest.approx(3, abs=0.1))
    assert (values["uniform"].mean(), values["uniform"].std()) == (
        pytest.approx(0.5, abs=0.03),
        pytest.approx(3 / np.sqrt(12), abs=0.02),
    )
    assert values["logits"].shape == (2, N)
    assert values["logits"].mean(1) == pytest.approx([0.75, 0.2], abs=0.02)
    assert np.bincount(values["probs"].astype(int), minlength=3) / N == pytest.approx([0.1, 0, 0.9], abs=0.02)


def test_the_upper_limit_is_never_reached_even_by_rounding(values):
    assert -1 <= values["uniform"].min() <= values["uniform"].max() < 2
    assert values["half"].dtype == np.float16
    assert values["half"].min() == 0.5
    assert values["half"].max() == np.nextafter(np.float16(1), np.float16(0))
    assert set(values["equal"]) == {4}


def test_a_seed_gives_the_same_values_and_no_seed_gives_others(model, values):
    np.testing.assert_array_equal(values["seeded"], values["again"])
    assert (values["seeded"] != values["other"]).mean() > 0.9
    second = model.predict({"x": X})
    np.testing.assert_array_equal(values["seeded"], second["seeded"])
    assert (values["normal"] != second["normal"]).mean() > 0.9
