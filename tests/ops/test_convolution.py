"""The convolution against `lax.conv_general_dilated` in float64, every lowering by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax.ops import convolution
from cnn_jax.ops.cpu import lowerings as convolution_lowerings
from cnn_jax.ops.cpu import winograd
from cnn_jax.ops.cpu.image_blocks import Window

pytestmark = pytest.mark.optimized  # Tests how programs are compiled.


def reference(x, kernel, window):
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def public(x, kernel, window):
    return convolution.conv(
        x,
        kernel,
        strides=window.strides,
        padding=window.padding,
        dilation=window.dilation,
        groups=window.groups,
    )


@st.composite
def cases(draw, max_stride=3, max_groups=3, max_dilation=2, kernel_sizes=(1, 2, 3, 4)):
    """Shapes and a window with at least one output pixel."""
    size = st.integers(1, 4)
    kernel_size = (draw(st.sampled_from(kernel_sizes)), draw(st.sampled_from(kernel_sizes)))
    strides = (draw(st.integers(1, max_stride)), draw(st.integers(1, max_stride)))
    dilation = (draw(st.integers(1, max_dilation)), draw(st.integers(1, max_dilation)))
    pad = st.integers(0, 3)
    padding = ((draw(pad), draw(pad)), (draw(pad), draw(pad)))
    groups = draw(st.integers(1, max_groups))
    image = []
    for k, d, (before, after) in zip(kernel_size, dilation, padding, strict=True):
        least = max(1, (k - 1) * d + 1 - before - after)
        image.append(draw(st.integers(least, least + 6)))
    batch = draw(st.integers(1, 5))
    in_channels, out_channels = groups * draw(size), groups * draw(size)
    x_shape = (batch, *image, in_channels)
    kernel_shape = (*kernel_size, in_channels // groups, out_channels)
    return x_shape, kernel_shape, Window(strides, padding, dilation, groups)


def arrays(x_shape, kernel_shape, window, dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=x_shape).astype(dtype)
    kernel = generator.normal(size=kernel_shape).astype(dtype)
    out = jax.eval_shape(functools.partial(reference, window=window), x, kernel)
    return x, kernel, generator.normal(size=out.shape).astype(dtype)


def assert_close(actual, expected, tolerance):
    expected = np.asarray(expected, np.float64)
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, 0, tolerance * scale)


def values_and_gradients(function, x, kernel, g, window):
    out, pullback = jax.vjp(functools.partial(function, window=window), x, kernel)
    return out, *pullback(g)


def check_against_reference(case, dtype, tolerance):
    @jax.jit
    def both(*arrays):
        rounded = [a.astype(dtype) for a in arrays]
        return (
            values_and_gradients(reference, *arrays, case[2]),
            values_and_gradients(public, *rounded, case[2]),
        )

    with jax.enable_x64():
        expected, actual = both(*arrays(*case, dtype=np.float64))
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype and a.shape == e.shape
        assert_close(a, e, tolerance)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_values_and_gradients_float32(case):
    check_against_reference(case, jnp.float32, 1e-5)


@settings(max_examples=10, deadline=None)
@given(cases())
def test_values_and_gradients_float64(case):
    check_against_reference(case, jnp.float64, 1e-12)


@settings(max_examples=10, deadline=None)
@given(cases())
def test_values_and_gradients_bfloat16(case):
    check_against_reference(case, jnp.bfloat16, 5e-2)


WINOGRAD = {"max_groups": 1, "max_stride": 1, "kernel_sizes": (3,), "max_dilation": 1}
FORWARD = {
    "compiler": (convolution_lowerings.by_compiler, {}),
    "product": (convolution_lowerings.by_product, {"max_groups": 1, "kernel_sizes": (1,)}),
    "patches": (convolution_lowerings.by_patches, {"max_groups": 1}),
    "shared_shifts": (convolution_lowerings.by_shared_shifts, {"max_groups": 1, "max_stride": 1}),
    "winograd": (winograd.by_winograd, WINOGRAD),
}
KERNEL_GRADIENTS = {
    "patches": (convolution_lowerings.kernel_gradient_by_patches, {"max_groups": 1}),
    "shared_shifts": (
        convolution_lowerings.kernel_gradient_by_shared_shifts,
        {"max_groups": 1, "max_stride": 1},
    ),
    "winograd": (winograd.kernel_gradient_by_winograd, WINOGRAD),
    "compiler": (convolution_lowerings.kernel_gradient_by_compiler, {}),
}
# One image a block, a few, all at once.
BLOCK_BYTES = [1, 2000, 2**21]


def set_block_bytes(monkeypatch, block_bytes):
    monkeypatch.setattr(convolution_lowerings, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(winograd, "_TILES_BYTES", block_bytes)


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
@pytest.mark.parametrize("name", FORWARD)
def test_each_forward_lowering(name, block_bytes, monkeypatch):
    lowering, limits = FORWARD[name]
    set_block_bytes(monkeypatch, block_bytes)

    @settings(max_examples=5, deadline=None)
    @given(cases(**limits))
    def check(case):
        @jax.jit
        def both(x, kernel):
            return lowering(x, kernel, case[2]), reference(x, kernel, case[2])

        with jax.enable_x64():
            assert_close(*both(*arrays(*case, dtype=np.float64)[:2]), 1e-12)

    check()


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
@pytest.mark.parametrize("name", KERNEL_GRADIENTS)
def test_each_kernel_gradient(name, block_bytes, monkeypatch):
    lowering, limits = KERNEL_GRADIENTS[name]
    set_block_bytes(monkeypatch, block_bytes)

    @settings(max_examples=5, deadline=None)
    @given(cases(**limits))
    def check(case):
        @jax.jit
        def both(x, kernel, g):
            expected = values_and_gradients(reference, x, kernel, g, case[2])[2]
            return lowering(x, g, kernel, case[2]), expected

        with jax.enable_x64():
            assert_close(*both(*arrays(*case, dtype=np.float64)), 1e-12)

    check()


# Shapes that take each of the ways: (batch, size, in and out channels), kernel size, strides.
CHOICES = {
    "winograd": ((3, 9, 32, 32), (3, 3), (1, 1)),
    "tiny map": ((3, 2, 6, 4), (3, 3), (2, 2)),
    "product": ((3, 5, 4, 6), (1, 1), (1, 1)),
    "strided product": ((3, 5, 4, 6), (1, 1), (2, 2)),
    "shared shifts": ((3, 12, 8, 8), (3, 3), (1, 1)),
    "patches": ((3, 12, 3, 8), (7, 7), (2, 2)),
}


def choice(name):
    (batch, size, in_channels, out_channels), kernel_size, strides = CHOICES[name]
    padding = tuple((k // 2, k // 2) for k in kernel_size)
    kernel_shape = (*kernel_size, in_channels, out_channels)
    return (batch, size, size, in_channels), kernel_shape, Window(strides, padding, (1, 1), 1)


@pytest.mark.parametrize("name", CHOICES)
def test_chosen_lowerings_under_transformations(name, monkeypatch):
    """jit, vmap, pmap, scan and remat give what the plain call gives."""
    set_block_bytes(monkeypatch, 2**17)
    x_shape, kernel_shape, window = choice(name)
    devices = jax.local_device_count()
    x, kernel, g = arrays((devices * x_shape[0], *x_shape[1:]), kernel_shape, window)
    shards = [a.reshape(devices, -1, *a.shape[1:]) for a in (x, g)]

    def gradients(x, g, function=public):
        return values_and_gradients(function, x, kernel, g, window)

    expected = jax.jit(jax.vmap(functools.partial(gradients, function=reference)))(*shards)
    rematerialised = jax.checkpoint(functools.partial(public, window=window))

    def scanned(_, shard):
        return None, gradients(*shard)

    actual = {
        "jit": jax.jit(gradients)(*[a[0] for a in shards]),
        "vmap": jax.jit(jax.vmap(gradients))(*shards),
        "pmap": jax.pmap(gradients)(*shards),
        "scan": jax.jit(lambda *shards: jax.lax.scan(scanned, None, shards)[1])(*shards),
        "remat": jax.jit(
            lambda x, g: gradients(x, g, lambda x, kernel, window: rematerialised(x, kernel))
        )(*[a[0] for a in shards]),
    }
    for transformation, results in actual.items():
        for a, e in zip(results, expected, strict=True):
            e = e[0] if transformation in ("jit", "remat") else e
            assert_close(a, e, 2e-5)


@pytest.mark.parametrize("name", CHOICES)
def test_gradient_of_gradient(name):
    x, kernel, g = arrays(*choice(name))
    window = choice(name)[2]

    def penalty(function, kernel):
        """The squared norm of the input gradient, as in a gradient penalty."""
        loss = lambda x: jnp.sum(jnp.tanh(function(x, kernel, window)) * g)  # noqa: E731
        return jnp.sum(jax.grad(loss)(x) ** 2)

    @jax.jit
    def both(kernel):
        return [jax.grad(functools.partial(penalty, f))(kernel) for f in (public, reference)]

    assert_close(*both(kernel), 1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.integers(0, 4))
def test_taps_that_see_only_padding_are_left_out(size, taps, stride, pad):
    """They change nothing, and what is left has no outer tap that sees no pixel."""
    if size + 2 * pad < taps:
        return
    window = Window((stride, stride), ((pad, pad), (pad, pad)), (1, 1), 1)
    x, kernel, _ = arrays((2, size, size, 2), (taps, taps, 2, 3), window)
    kept, trimmed = convolution._without_idle_taps(x, kernel, window)
    assert_close(reference(x, kept, trimmed), reference(x, kernel, window), 1e-5)
    seen = reference(np.ones_like(x), np.ones_like(kernel), window).any()
    if seen:
        for axis in range(2):
            for edge in (0, -1):
                only = np.zeros_like(kept)
                np.moveaxis(only, axis, 0)[edge] = 1
                assert np.any(reference(np.ones_like(x), only, trimmed))


def test_accelerators_get_the_compilers_convolution(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    case = choice("winograd")
    x, kernel, _ = arrays(*case)
    jaxpr = jax.make_jaxpr(functools.partial(public, window=case[2]))(x, kernel)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["conv_general_dilated"]
