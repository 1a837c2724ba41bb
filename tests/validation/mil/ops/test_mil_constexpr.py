"""Quantized values and compressed constants, against the formulas and bit layouts that coremltools documents."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(17)
X = (RNG.standard_normal((3, 4)) * 3).astype(np.float32)
Q = RNG.integers(-128, 128, (3, 4)).astype(np.int8)
SCALE = np.array([0.5, 0.1, 2.0], dtype=np.float32)
ZERO = np.array([3, -128, 127], dtype=np.int8)
LUT = RNG.standard_normal(64).astype(np.float32)
INDEX = RNG.integers(0, 64, 21).astype(np.uint8)
MASK = RNG.integers(0, 2, 21).astype(np.uint8)


def packed(values, bits):
    """Element after element, each from its lowest bit up, into bytes that fill from the lowest bit up."""
    stream = [(int(value) >> bit) & 1 for value in values for bit in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return np.array([sum(stream[i + bit] << bit for bit in range(8)) for i in range(0, len(stream), 8)], np.uint8)


def wide(q, zero):
    return q.astype(np.float32) - zero.astype(np.float32).reshape(-1, 1)


def dense():
    out = np.zeros(21, dtype=np.float32)
    out[np.flatnonzero(MASK)] = LUT[: MASK.sum()]
    return out.reshape(3, 7)


IOS17 = {
    "affine": (
        lambda mb: mb.constexpr_affine_dequantize(quantized_data=Q, zero_point=ZERO, scale=SCALE, axis=0),
        SCALE.reshape(-1, 1) * wide(Q, ZERO),
    ),
    "affine_scalar": (
        lambda mb: mb.constexpr_affine_dequantize(
            quantized_data=Q, zero_point=np.int8(5), scale=np.float32(0.25), axis=1
        ),
        0.25 * (Q.astype(np.float32) - 5),
    ),
    "cast": (
        lambda mb: mb.constexpr_cast(source_val=X.astype(np.float16), output_dtype="fp32"),
        X.astype(np.float16).astype(np.float32),
    ),
    "lut": (
        lambda mb: mb.constexpr_lut_to_dense(
            indices=packed(INDEX, 6), lut=LUT, shape=np.array([3, 7], dtype=np.uint32)
        ),
        LUT[INDEX].reshape(3, 7),
    ),
    "sparse": (
        lambda mb: mb.constexpr_sparse_to_dense(
            nonzero_data=LUT[: MASK.sum()], mask=packed(MASK, 1), shape=np.array([3, 7], dtype=np.uint32)
        ),
        dense(),
    ),
}


def with_input(mb, x, constants):
    """A program's results must be computed from its input: x, times 0, is added to each constant."""
    zero = mb.mul(x=mb.reduce_sum(x=x), y=np.float32(0))
    return {name: mb.add(x=constant, y=zero) for name, constant in constants.items()}


@pytest.fixture(scope="module")
def ios17(run):
    return run(lambda mb, x: with_input(mb, x, {name: make(mb) for name, (make, _) in IOS17.items()}), {"x": X})


@pytest.mark.parametrize("name", IOS17)
def test_compressed_constant(name, ios17):
    np.testing.assert_allclose(ios17[name], IOS17[name][1], rtol=1e-6)


NARROW = RNG.integers(-8, 8, (4, 6)).astype(np.int8)
BLOCK_SCALE = RNG.random((2, 3)).astype(np.float32)
BLOCK_OFFSET = RNG.integers(-8, 8, (2, 3)).astype(np.int8)
GROUPED = RNG.integers(0, 8, (4, 6)).astype(np.uint8)
TABLES = RNG.standard_normal((2, 1, 8, 1)).astype(np.float32)
VECTORS = RNG.standard_normal((1, 1, 8, 2)).astype(np.float32)


KEPT = RNG.integers(0, 8, MASK.sum()).astype(np.uint8)
ROW_SCALE = RNG.random((3, 1)).astype(np.float32)
ROW_OFFSET = RNG.integers(-8, 8, (3, 1)).astype(np.int8)


def sparse(mb, parts):
    mask, values = parts
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


@pytest.fixture(scope="module")
def ios18(run):
    from coremltools.converters.mil.mil import types

    int4 = types.nptype_from_builtin(types.int4)
    uint3 = types.nptype_from_builtin(types.uint3)
    uint1 = types.nptype_from_builtin(types.uint1)

    def build(mb, x):
        indices, mask = GROUPED.astype(uint3), MASK.reshape(3, 7).astype(uint1)
        constants = {
            "blockwise": mb.constexpr_blockwise_shift_scale(
                data=NARROW.astype(int4), scale=BLOCK_SCALE, offset=BLOCK_OFFSET.astype(int4)
            ),
            "lut_groups": mb.constexpr_lut_to_dense(indices=indices, lut=TABLES),
            "lut_vectors": mb.constexpr_lut_to_dense(indices=indices, lut=VECTORS, vector_axis=0),
            "sparse_lut": sparse(
                mb,
                mb.constexpr_lut_to_sparse(
                    indices_mask=mask, indices_nonzero_data=KEPT.astype(uint3), lut=VECTORS, vector_axis=0
                ),
            ),
            "sparse_blocks": sparse(
                mb,
                mb.constexpr_sparse_blockwise_shift_scale(
                    data_mask=mask, nonzero_data=KEPT.astype(np.int8), scale=ROW_SCALE, offset=ROW_OFFSET
                ),
            ),
            "sparse_mask": mb.constexpr_sparse_to_dense(nonzero_data=LUT[: MASK.sum()], mask=mask),
        }
        return with_input(mb, x, constants)

    return run(build, {"x": X}, target="iOS18")


def test_blockwise(ios18):
    spread = (BLOCK_SCALE.repeat(2, 0).repeat(2, 1), BLOCK_OFFSET.repeat(2, 0).repeat(2, 1))
    np.testing.assert_allclose(ios18["blockwise"], spread[0] * (NARROW.astype(np.float32) - spread[1]), rtol=1e-6)


def test_lut_by_group(ios18):
    expected = np.concatenate([TABLES[0, 0, :, 0][GROUPED[:2]], TABLES[1, 0, :, 0][GROUPED[2:]]])
    np.testing.assert_array_equal(ios18["lut_groups"], expected)


def test_lut_of_vectors(ios18):
    expected = np.empty((8, 6), np.float32)
    for place, index in np.ndenumerate(GROUPED):
        expected[2 * place[0] : 2 * place[0] + 2, place[1]] = VECTORS[0, 0, index]
    np.testing.assert_array_equal(ios18["lut_vectors"], expected)


def test_sparse_by_mask(ios18):
    np.testing.assert_array_equal(ios18["sparse_mask"], dense())


def test_sparse_lut_of_vectors(ios18):
    expected, kept = np.zeros((6, 7), np.float32), iter(KEPT)
    for row, column in zip(*np.nonzero(MASK.reshape(3, 7)), strict=True):
        expected[2 * row : 2 * row + 2, column] = VECTORS[0, 0, next(kept)]
    np.testing.assert_array_equal(ios18["sparse_lut"], expected)


def test_sparse_blockwise(ios18):
    expected, kept = np.zeros((3, 7), np.float32), iter(KEPT)
    for row, column in zip(*np.nonzero(MASK.reshape(3, 7)), strict=True):
        expected[row, column] = ROW_SCALE[row, 0] * (int(next(kept)) - int(ROW_OFFSET[row, 0]))
    np.testing.assert_allclose(ios18["sparse_blocks"], expected, rtol=1e-6)


def test_quantize_and_dequantize(run):
    def build(mb, x):
        steps = mb.quantize(input=x, zero_point=ZERO, scale=SCALE, output_dtype="int8", axis=0)
        unsigned = mb.quantize(input=x, zero_point=np.uint8(128), scale=np.float32(0.01), output_dtype="uint8")
        return {
            "steps": mb.cast(x=steps, dtype="int32"),
            "unsigned": mb.cast(x=unsigned, dtype="int32"),
            "back": mb.dequantize(input=steps, zero_point=ZERO, scale=SCALE, axis=0),
        }

    results = run(build, {"x": X})
    steps = np.clip(np.round(X / SCALE.reshape(-1, 1)) + ZERO.reshape(-1, 1), -128, 127)
    np.testing.assert_array_equal(results["steps"], steps)
    np.testing.assert_array_equal(results["unsigned"], np.clip(np.round(X / np.float32(0.01)) + 128, 0, 255))
    np.testing.assert_allclose(results["back"], SCALE.reshape(-1, 1) * wide(steps, ZERO), rtol=1e-6)
