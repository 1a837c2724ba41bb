"""Indexed reading and writing, against loops and NumPy's own indexing."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.validation import mil

RNG = np.random.default_rng(13)
X = RNG.standard_normal((3, 4, 5)).astype(np.float32)
ND = np.array([[0, 3], [2, 1], [1, -1]], dtype=np.int32)
ALONG = np.array([[[0, 1, 2, 0, 1]] * 4] * 2, dtype=np.int32)
UPDATES = RNG.random((3, 2, 5)).astype(np.float32) + 0.5
SMALL = RNG.random((2, 4, 5)).astype(np.float32) + 0.5

APPLY = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": max,
    "min": min,
}


def scattered(mode):
    """Rows 3 and 1 of axis 1 are written."""
    out = X.copy()
    for i, row in enumerate([3, 1]):
        out[:, row] = np.vectorize(APPLY[mode])(X[:, row], UPDATES[:, i])
    return out


def scattered_nd():
    out = X.copy()
    for place, row in zip([(0, 3), (2, 1), (0, 3)], SMALL[0, :3], strict=True):
        out[place] += row
    return out


def scattered_along():
    out = X.copy()
    for p, i, j in np.ndindex(ALONG.shape):
        out[ALONG[p, i, j], i, j] += SMALL[p, i, j]
    return out


CASES = {
    "gather": (lambda mb, x: mb.gather(x=x, indices=[[2, 0], [1, 1]], axis=1), X[:, [[2, 0], [1, 1]]]),
    "gather_scalar": (lambda mb, x: mb.gather(x=x, indices=2, axis=-1), X[..., 2]),
    "gather_negative": (lambda mb, x: mb.gather(x=x, indices=[-1, 0], axis=0), X[[-1, 0]]),
    "gather_batch": (
        lambda mb, x: mb.gather(x=x, indices=[[0, 3], [1, 1], [2, 0]], axis=1, batch_dims=1),
        np.stack([row[i] for row, i in zip(X, [[0, 3], [1, 1], [2, 0]], strict=True)]),
    ),
    "gather_along_axis": (
        lambda mb, x: mb.gather_along_axis(x=x, indices=ALONG, axis=0),
        np.take_along_axis(X, ALONG, 0),
    ),
    "gather_nd": (lambda mb, x: mb.gather_nd(x=x, indices=ND), X[ND[:, 0], ND[:, 1]]),
    "gather_nd_batch": (
        lambda mb, x: mb.gather_nd(x=x, indices=ND[:, :1], batch_dims=1),
        np.stack([row[i] for row, i in zip(X, [0, 2, 1], strict=True)]),
    ),
    "scatter_nd": (
        lambda mb, x: mb.scatter_nd(
            data=x, indices=np.array([[0, 3], [2, 1], [0, 3]], np.int32), updates=SMALL[0, :3], mode="add"
        ),
        scattered_nd(),
    ),
    "scatter_along_axis": (
        lambda mb, x: mb.scatter_along_axis(data=x, indices=ALONG, updates=SMALL, axis=0, mode="add"),
        scattered_along(),
    ),
    **{
        f"scatter_{mode}": (
            lambda mb, x, mode=mode: mb.scatter(data=x, indices=[3, 1], updates=UPDATES, axis=1, mode=mode),
            scattered(mode),
        )
        for mode in APPLY
    },
}


@pytest.fixture(scope="module")
def results(run):
    return run(lambda mb, x: {name: build(mb, x) for name, (build, _) in CASES.items()}, {"x": X}, "iOS16")


@pytest.mark.parametrize("name", CASES)
def test_scatter_or_gather(name, results):
    assert results[name].shape == CASES[name][1].shape
    np.testing.assert_allclose(results[name], CASES[name][1], rtol=1e-6)


@pytest.mark.parametrize(("target", "outside"), [("iOS16", [3, -4]), ("iOS17", [3, -1])])
def test_an_index_outside_reads_nan_or_is_an_error_that_names_the_operation(save, target, outside):
    index = np.array([0], dtype=np.int32)

    def build(mb, x, n, i):
        return {"out": mb.gather(x=x, indices=i, axis=0), "whole": mb.gather(x=n, indices=i, axis=0)}

    model = mil.load(save(build, {"x": X, "n": X.astype(np.int32), "i": index}, target))
    data = {"x": X, "n": X.astype(np.int32)}
    np.testing.assert_array_equal(model.predict({**data, "i": index})["out"], X[:1])
    for place in outside:
        found = model.predict({**data, "i": index + place}, outputs=["out"])["out"]
        assert np.isnan(found).all()
        with pytest.raises(mil.FailedOp, match=r"gather .*axis of 3 elements"):
            model.predict({**data, "i": index + place})


def test_an_index_outside_writes_nothing_or_is_an_error_if_it_is_to_be_validated(save):
    index = np.array([[0, 1], [3, 0], [1, 9]], dtype=np.int32)
    updates = np.ones((3, *X.shape[2:]), np.float32)

    def build(mb, x, i):
        return {
            "free": mb.scatter_nd(data=x, indices=i, updates=updates, mode="update"),
            "checked": mb.scatter_nd(data=x, indices=i, updates=updates, mode="update", validate_indices=True),
        }

    model = mil.load(save(build, {"x": X, "i": index}))
    expected = X.copy()
    expected[0, 1] = 1
    np.testing.assert_array_equal(model.predict({"x": X, "i": index}, outputs=["free"])["free"], expected)
    with pytest.raises(mil.FailedOp, match=r"scatter_nd .*axis of 3 elements"):
        model.predict({"x": X, "i": index})
