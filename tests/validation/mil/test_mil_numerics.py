"""The three ways of computing half precision, through packages."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.validation import mil

ONES = np.ones((1, 4096), dtype=np.float16)
MODES = ("exact", "rounded", "pessimistic")
RNG = np.random.default_rng(11)


def half(*shape):
    return RNG.standard_normal(shape).astype(np.float16)


X, IMAGE, ROWS = half(2, 3, 40), half(1, 4, 9, 9), half(1, 40, 300)


@pytest.fixture(scope="module")
def overflowing(save):
    def build(mb, h):
        product = mb.mul(x=h, y=np.float16(300.5), name="product")
        large = mb.mul(x=product, y=np.float16(300), name="large")
        return {"out": mb.mul(x=large, y=np.float16(2**-12))}

    return save(build, {"h": ONES})


def test_exact_rounds_nothing_and_overflows_nowhere(overflowing):
    results = mil.load(overflowing, numerics="exact").predict({"h": ONES}, outputs=["product", "large", "out"])
    assert {value.dtype.name for value in results.values()} == {"float32"}
    np.testing.assert_array_equal(results["large"], np.float32(90150))  # 300.5 is stored as it is
    np.testing.assert_array_equal(results["out"], np.float32(90150 / 4096))


@pytest.mark.parametrize("numerics", [None, "rounded", "pessimistic"])
def test_the_others_overflow(overflowing, numerics):
    model = mil.load(overflowing, **({} if numerics is None else {"numerics": numerics}))
    results = model.predict({"h": ONES})
    assert results["out"].dtype == np.float16
    assert np.isinf(results["out"]).all()


def test_only_pessimistic_sums_stop_at_the_accumulators_end(save):
    weight = np.ones((1, 4096), dtype=np.float16)
    path = save(lambda mb, x: {"out": mb.linear(x=x, weight=weight)}, {"x": ONES})
    found = [mil.load(path, numerics=numerics).predict({"x": ONES})["out"].item() for numerics in MODES]
    assert found == [4096, 4096, 2048]


def test_other_names_are_refused(overflowing):
    with pytest.raises(mil.BadInput, match=r"'half'.*exact, rounded, pessimistic"):
        mil.load(overflowing, numerics="half")


def ops(mb, x, image, rows):
    weight = half(6, 40)
    kernel, back, channel = half(8, 2, 3, 3), half(4, 3, 3, 3), half(4)
    return {
        "linear": mb.linear(x=x, weight=weight, bias=half(6)),
        "matmul": mb.matmul(x=x, y=x, transpose_y=True),
        "einsum": mb.einsum(values=(x, mb.transpose(x=x, perm=[2, 1, 0])), equation="chw,whr->chr"),
        "conv": mb.conv(x=image, weight=kernel, groups=2, strides=[2, 1], pad_type="same"),
        "conv_transpose": mb.conv_transpose(x=image, weight=back, strides=[2, 2], pad=[1, 1, 1, 1], pad_type="custom"),
        "avg_pool": mb.avg_pool(x=image, kernel_sizes=[4, 4], pad_type="same"),
        "l2_pool": mb.l2_pool(x=image, kernel_sizes=[5, 4], pad_type="valid"),
        "softmax": mb.softmax(x=rows, axis=-1),
        "cumsum": mb.cumsum(x=rows, axis=2),
        "sum": mb.reduce_sum(x=rows, axes=[-1]),
        "mean": mb.reduce_mean(x=rows, axes=[0, 2]),
        "l1": mb.reduce_l1_norm(x=rows, axes=[2]),
        "l2": mb.reduce_l2_norm(x=rows, axes=[2]),
        "squares": mb.reduce_sum_square(x=rows, axes=[2]),
        "log_sum_exp": mb.reduce_log_sum_exp(x=rows, axes=[2]),
        "log_sum": mb.reduce_log_sum(x=mb.abs(x=rows), axes=[2]),
        "layer_norm": mb.layer_norm(x=x, axes=[-1], gamma=half(40), beta=half(40)),
        "instance_norm": mb.instance_norm(x=image, gamma=channel, beta=channel),
        "l2_norm": mb.l2_norm(x=image),
        "local_response_norm": mb.local_response_norm(x=image, size=3, alpha=np.float16(20)),
        "rnn": mb.rnn(
            x=x,
            initial_h=half(3, 16),
            weight_ih=half(16, 40),
            weight_hh=half(16, 16),
            bias=half(16),
            output_sequence=True,
        )[0],
        "attention": mb.scaled_dot_product_attention(query=x, key=x, value=x),
    }


@pytest.fixture(scope="module")
def summed(save):
    data = {"x": X, "image": IMAGE, "rows": ROWS}
    path = save(ops, data, "iOS18")
    return {numerics: mil.load(path, numerics=numerics).predict(data) for numerics in MODES}


def test_every_operation_that_sums_does_so_in_half_precision_when_asked(summed):
    """Near the others, and not the same: each of these chains is long enough to show its roundings."""
    for name, exact in summed["exact"].items():
        rounded, pessimistic = summed["rounded"][name], summed["pessimistic"][name]
        np.testing.assert_array_equal(rounded, exact.astype(np.float16), err_msg=name)
        np.testing.assert_allclose(pessimistic, exact, rtol=0.05, atol=0.1, err_msg=name)
        assert not np.array_equal(pessimistic, rounded), name


def test_single_precision_is_the_same_in_all_of_them(save):
    x = RNG.standard_normal((1, 5000)).astype(np.float32)
    path = save(lambda mb, x: {"out": mb.reduce_sum(x=mb.exp(x=x), axes=[1])}, {"x": x})
    found = {mil.load(path, numerics=numerics).predict({"x": x})["out"].item() for numerics in MODES}
    assert len(found) == 1


def test_compressed_constants_are_unpacked_alike(save):
    def build(mb, h):
        scale, data = np.float16([0.1]), RNG.integers(-128, 127, (1, 4096)).astype(np.int8)
        zero = np.int8([3])
        weight = mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero, scale=scale, axis=0, name="w")
        return {"out": mb.add(x=h, y=weight)}

    path = save(build, {"h": ONES}, "iOS16")
    taps = {n: mil.load(path, numerics=n).predict({"h": ONES}, outputs=["w"])["w"] for n in MODES}
    for found in taps.values():
        np.testing.assert_array_equal(found, taps["rounded"])


def test_half_precision_inside_a_branch_alone_is_seen(save):
    def build(mb, x):
        def small():
            return mb.cast(x=mb.exp(x=mb.cast(x=x, dtype="fp16"), name="raised"), dtype="fp32")

        positive = mb.greater(x=mb.reduce_max(x=x, keep_dims=False), y=np.float32(0))
        return {"out": mb.cond(pred=positive, _true_fn=small, _false_fn=lambda: mb.exp(x=x))}

    x = np.full((1, 4), 12, np.float32)
    package = save(build, {"x": x})
    model = mil.load(package)
    assert model.computes_in_half
    assert np.isinf(model.predict({"x": x})["out"]).all()
    assert not mil.load(save(lambda mb, x: {"out": mb.exp(x=x)}, {"x": x})).computes_in_half
