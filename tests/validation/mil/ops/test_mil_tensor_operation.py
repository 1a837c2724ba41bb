"""Making, joining, ordering and reshaping tensors, against NumPy. These move elements: results must be exact."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(11)
X = RNG.permutation(120).astype(np.float32).reshape(2, 3, 4, 5)
M = RNG.permutation(20).astype(np.float32).reshape(4, 5) - 10
I = np.array([[2, 0, 5], [1, -1, 3]], dtype=np.int32)  # noqa: E741
BLOCKS = np.arange(2 * 8 * 4 * 6, dtype=np.float32).reshape(2, 8, 4, 6)


def one_hot(axis):
    return np.stack([np.where(k == I, 3.0, -1.0) for k in range(4)], axis=axis).astype(np.float32)


def topk(x, k, axis, ascending):
    order = np.argsort(x if ascending else -x, axis=axis, kind="stable")
    return np.take(order, np.arange(k), axis=axis)


def blocks_of_depth(x, b, depth_last):
    """depth_to_space by its definition; the place in a block is the slow part of the channel unless depth_last."""
    n, c, h, w = x.shape
    out = np.empty((n, c // b**2, h * b, w * b), x.dtype)
    for channel in range(c // b**2):
        for i in range(b):
            for j in range(b):
                place = channel * b**2 + i * b + j if depth_last else (i * b + j) * (c // b**2) + channel
                out[:, channel, i::b, j::b] = x[:, place]
    return out


OPERATION = {
    "band_part": (lambda mb, v: mb.band_part(x=v["m"], lower=1, upper=0), np.tril(np.triu(M, -1))),
    "band_part_upper": (lambda mb, v: mb.band_part(x=v["m"], lower=0, upper=-1), np.triu(M)),
    "concat": (lambda mb, v: mb.concat(values=(v["m"], v["m"]), axis=-1), np.concatenate([M, M], -1)),
    "concat_interleave": (
        lambda mb, v: mb.concat(values=(v["m"], mb.relu(x=v["m"])), axis=0, interleave=True),
        np.stack([M, np.maximum(M, 0)], 1).reshape(8, 5),
    ),
    "cumsum": (lambda mb, v: mb.cumsum(x=v["m"], axis=1), M.cumsum(1)),
    "cumsum_exclusive": (
        lambda mb, v: mb.cumsum(x=v["m"], axis=0, exclusive=True),
        np.concatenate([np.zeros((1, 5)), M.cumsum(0)[:-1]]),
    ),
    "cumsum_reverse": (
        lambda mb, v: mb.cumsum(x=v["m"], axis=1, exclusive=True, reverse=True),
        np.concatenate([M[:, ::-1].cumsum(1)[:, ::-1][:, 1:], np.zeros((4, 1))], 1),
    ),
    "fill": (lambda mb, v: mb.fill(shape=[2, 3], value=7.5), np.full((2, 3), 7.5)),
    "fill_int": (lambda mb, v: mb.fill(shape=[4], value=7), np.full(4, 7, np.int32)),
    "fill_like": (lambda mb, v: mb.fill_like(ref_tensor=v["m"], value=2.5), np.full_like(M, 2.5)),
    "flatten2d": (lambda mb, v: mb.flatten2d(x=v["x"], axis=-1), X.reshape(24, 5)),
    "one_hot": (
        lambda mb, v: mb.one_hot(indices=v["i"], one_hot_vector_size=4, on_value=3.0, off_value=-1.0),
        one_hot(-1),
    ),
    "one_hot_axis": (
        lambda mb, v: mb.one_hot(indices=v["i"], one_hot_vector_size=4, axis=1, on_value=3.0, off_value=-1.0),
        one_hot(1),
    ),
    "pad": (
        lambda mb, v: mb.pad(x=v["m"], pad=[1, 2, 0, 3], mode="constant", constant_val=9.0),
        np.pad(M, ((1, 2), (0, 3)), constant_values=9),
    ),
    "pad_reflect": (lambda mb, v: mb.pad(x=v["m"], pad=[3, 1], mode="reflect"), np.pad(M, ((0, 0), (3, 1)), "reflect")),
    "pad_replicate": (
        lambda mb, v: mb.pad(x=v["m"], pad=[2, 1, 0, 4], mode="replicate"),
        np.pad(M, ((2, 1), (0, 4)), "edge"),
    ),
    "range": (lambda mb, v: mb.range_1d(start=2, end=11, step=4), np.array([2, 6, 10], np.int32)),
    "range_down": (lambda mb, v: mb.range_1d(start=1.0, end=-0.5, step=-0.5), np.array([1, 0.5, 0])),
    "shape": (lambda mb, v: mb.shape(x=v["x"]), np.array([2, 3, 4, 5], np.int32)),
    "stack": (lambda mb, v: mb.stack(values=(v["m"], v["m"]), axis=1), np.stack([M, M], 1)),
    "tile": (lambda mb, v: mb.tile(x=v["m"], reps=[2, 3]), np.tile(M, (2, 3))),
    "argsort": (lambda mb, v: mb.argsort(x=v["m"], axis=0), np.argsort(-M, 0).astype(np.int32)),
    "argsort_ascending": (lambda mb, v: mb.argsort(x=v["m"], ascending=True), np.argsort(M, 1).astype(np.int32)),
    "split_sizes": (lambda mb, v: mb.split(x=v["x"], split_sizes=[1, 3], axis=2)[1], X[:, :, 1:]),
    "split_even": (lambda mb, v: mb.split(x=v["x"], num_splits=3, axis=1)[1], X[:, 1:2]),
    "topk_values": (
        lambda mb, v: mb.topk(x=v["m"], k=3, axis=1)[0],
        np.take_along_axis(M, topk(M, 3, 1, ascending=False), 1),
    ),
    "topk_indices": (
        lambda mb, v: mb.topk(x=v["m"], k=2, axis=0, ascending=True)[1],
        topk(M, 2, 0, ascending=True).astype(np.int32),
    ),
    "non_zero": (lambda mb, v: mb.non_zero(x=v["i"]), np.argwhere(I).astype(np.int32)),
}
TRANSFORMATION = {
    "depth_to_space": (
        lambda mb, v: mb.depth_to_space(x=v["b"], block_size=2),
        blocks_of_depth(BLOCKS, 2, depth_last=False),
    ),
    "pixel_shuffle": (
        lambda mb, v: mb.pixel_shuffle(x=v["b"], upscale_factor=2),
        blocks_of_depth(BLOCKS, 2, depth_last=True),
    ),
    "space_to_depth": (
        lambda mb, v: mb.space_to_depth(x=mb.depth_to_space(x=v["b"], block_size=2), block_size=2),
        BLOCKS,
    ),
    "pixel_unshuffle": (
        lambda mb, v: mb.pixel_unshuffle(x=mb.pixel_shuffle(x=v["b"], upscale_factor=2), downscale_factor=np.uint32(2)),
        BLOCKS,
    ),
    "space_to_batch": (
        lambda mb, v: mb.space_to_batch(x=v["b"], block_shape=[2, 3], paddings=[[0, 0], [0, 0]]),
        np.concatenate([BLOCKS[:, :, i::2, j::3] for i in range(2) for j in range(3)]),
    ),
    "batch_to_space": (
        lambda mb, v: mb.batch_to_space(
            x=mb.space_to_batch(x=v["b"], block_shape=[2, 4], paddings=[[1, 1], [2, 0]]),
            block_shape=[2, 4],
            crops=[[1, 1], [2, 0]],
        ),
        BLOCKS,
    ),
    "expand_dims": (lambda mb, v: mb.expand_dims(x=v["m"], axes=[0, -1]), M[None, :, :, None]),
    "reshape": (lambda mb, v: mb.reshape(x=v["x"], shape=[4, -1, 3]), X.reshape(4, -1, 3)),
    "reshape_like": (
        lambda mb, v: mb.reshape_like(
            x=v["x"], ref_tensors=(v["x"], v["m"]), begins=(0, 1), ends=(3, 0), end_masks=(False, True)
        ),
        X,
    ),
    "reverse": (lambda mb, v: mb.reverse(x=v["x"], axes=[1, -1]), X[:, ::-1, :, ::-1]),
    "reverse_all": (lambda mb, v: mb.reverse(x=v["m"]), M[::-1, ::-1]),
    "reverse_sequence": (
        lambda mb, v: mb.reverse_sequence(x=v["m"], lengths=[1, 5, 0, 3], seq_axis=1, batch_axis=0),
        np.stack([np.concatenate([row[:n][::-1], row[n:]]) for row, n in zip(M, [1, 5, 0, 3], strict=True)]),
    ),
    "reverse_sequence_columns": (
        lambda mb, v: mb.reverse_sequence(x=v["m"], lengths=[1, 4, 0, 3, 2], seq_axis=0, batch_axis=1),
        np.stack([np.concatenate([row[:n][::-1], row[n:]]) for row, n in zip(M.T, [1, 4, 0, 3, 2], strict=True)]).T,
    ),
    "slice_by_index": (
        lambda mb, v: mb.slice_by_index(x=v["x"], begin=[0, -2, 1, 4], end=[2, 3, 4, 0], stride=[1, 1, 2, -2]),
        X[0:2, -2:3, 1:4:2, 4:0:-2],
    ),
    "slice_masks": (
        lambda mb, v: mb.slice_by_index(
            x=v["x"],
            begin=[0, 1, 9, -1],
            end=[0, 0, 2, 0],
            begin_mask=[True, False, True, False],
            end_mask=[True, True, False, False],
            squeeze_mask=[False, False, False, True],
        ),
        X[:, 1:, :2, -1],
    ),
    "slice_by_size": (
        lambda mb, v: mb.slice_by_size(x=v["x"], begin=[0, 1, -3, 2], size=[1, -1, 2, 3]),
        X[:1, 1:, -3:-1, 2:],
    ),
    "sliding_windows": (
        lambda mb, v: mb.sliding_windows(x=v["m"], axis=1, size=3, stride=2),
        np.stack([M[:, 0:3], M[:, 2:5]], 1),
    ),
    "squeeze": (lambda mb, v: mb.squeeze(x=mb.expand_dims(x=v["m"], axes=[0, 2]), axes=[0]), M[:, None, :]),
    "squeeze_all": (lambda mb, v: mb.squeeze(x=mb.expand_dims(x=v["m"], axes=[0, 2])), M),
    "transpose": (lambda mb, v: mb.transpose(x=v["x"], perm=[2, 0, -1, 1]), X.transpose(2, 0, 3, 1)),
    "from_computed_shape": (lambda mb, v: mb.reshape(x=v["x"], shape=mb.shape(x=v["x"])), X),
}
CASES = {**OPERATION, **TRANSFORMATION}


@pytest.fixture(scope="module")
def results(run):
    return run(
        lambda mb, **values: {name: build(mb, values) for name, (build, _) in CASES.items()},
        {"x": X, "m": M, "i": I, "b": BLOCKS},
    )


@pytest.mark.parametrize("name", CASES)
def test_tensor_operation(name, results):
    expected = CASES[name][1]
    np.testing.assert_array_equal(results[name], expected)
    assert results[name].dtype.kind == expected.dtype.kind


def test_slice_update(run):
    def build(mb, x):
        update = np.arange(6, dtype=np.float32).reshape(2, 3)
        return {"out": mb.slice_update(x=x, update=update, begin=[0, 4], end=[3, 1], stride=[2, -1])}

    expected = M.copy()
    expected[0:3:2, 4:1:-1] = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(run(build, {"x": M}, target="iOS18")["out"], expected)


@pytest.mark.parametrize(("target", "shape"), [("iOS15", (2, 4, 3, 5)), ("iOS17", (1, 4, 6, 5))])
def test_a_zero_in_a_shape_means_what_the_opset_says(save, target, shape):
    """From the left with equal ranks before iOS 17; from the right, whatever the ranks, since then."""
    from lvexport.validation import mil

    wanted = [0, 4, 3, 0] if target == "iOS15" else [0, 4, -1, 0]
    x = X if target == "iOS15" else X.reshape(24, 5)
    path = save(lambda mb, x: {"out": mb.reshape(x=x, shape=wanted)}, {"x": x}, target)
    np.testing.assert_array_equal(mil.load(path).predict({"x": x})["out"], X.reshape(shape))
