"""Every way in which a CPU computes a convolution, by itself, against XLA's in float64."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.ops.convolution_definition import Window
from cnn_jax.ops.cpu import choice, lowerings, winograd
from tests.ops.convolution_cases import (
    arrays,
    assert_close,
    cases,
    reference,
    values_and_gradients,
)

PATCHES = {"max_groups": 1}
SHIFTS = {"max_groups": 1, "max_stride": 1}
WINOGRAD = {"max_groups": 1, "max_stride": 1, "kernel_sizes": (3,), "max_dilation": 1}
FORWARD = {
    "product": (lowerings.by_product, {"max_groups": 1, "kernel_sizes": (1,)}),
    "patches": (lowerings.by_patches, PATCHES),
    "patches_unrolled": (partial(lowerings.by_patches, looped=False), PATCHES),
    "shared_shifts": (lowerings.by_shared_shifts, SHIFTS),
    "winograd": (winograd.by_winograd, WINOGRAD),
}
KERNEL_GRADIENTS = {
    "patches": (lowerings.kernel_gradient_by_patches, PATCHES),
    "shared_shifts": (lowerings.kernel_gradient_by_shared_shifts, SHIFTS),
    "winograd": (winograd.kernel_gradient_by_winograd, WINOGRAD),
}


@pytest.fixture(params=[1, 2000, 2**21], ids=["one image", "a few", "all at once"])
def block_bytes(request, monkeypatch):
    """The size of a block of images; in the smallest, patches are gathered in a loop."""
    monkeypatch.setattr(lowerings, "_BLOCK_BYTES", request.param)
    monkeypatch.setattr(lowerings, "_LOOPED_CHANNELS", 1 if request.param == 1 else 64)
    monkeypatch.setattr(winograd, "_PRODUCTS_BYTES", request.param)
    monkeypatch.setattr(winograd, "_ELEMENT_BYTES", request.param)


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("name", FORWARD)
def test_each_forward_lowering(name):
    lowering, limits = FORWARD[name]

    @settings(max_examples=5, deadline=None)
    @given(cases(**limits))
    def check(case):
        @jax.jit
        def both(x, kernel):
            return lowering(x, kernel, window=case[2]), reference(x, kernel, case[2])

        with jax.enable_x64():
            assert_close(*both(*arrays(*case, dtype=np.float64)[:2]), 1e-12)

    check()


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("name", KERNEL_GRADIENTS)
def test_each_kernel_gradient(name):
    lowering, limits = KERNEL_GRADIENTS[name]

    @settings(max_examples=5, deadline=None)
    @given(cases(**limits))
    def check(case):
        @jax.jit
        def both(x, kernel, g):
            expected = values_and_gradients(reference, x, kernel, g, case[2])[2]
            return lowering(x, g, window=case[2]), expected

        with jax.enable_x64():
            assert_close(*both(*arrays(*case, dtype=np.float64)), 1e-12)

    check()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.integers(0, 4))
def test_taps_that_see_only_padding_are_left_out(size, taps, stride, pad):
    """They change nothing, and no outer tap of the kernel that is left sees only padding."""
    if size + 2 * pad < taps:
        return
    padding = ((pad, pad), (pad, pad))
    window = Window((size, size), (taps, taps), (stride, stride), padding, (1, 1), 1)
    x, kernel, _ = arrays((2, size, size, 2), (taps, taps, 2, 3), window)
    seeing, trimmed = choice.without_idle_taps(window)
    kept = kernel[seeing]
    assert kept.shape[:2] == trimmed.kernel_size
    assert_close(reference(x, kept, trimmed), reference(x, kernel, window), 1e-5)
    seen = reference(np.ones_like(x), np.ones_like(kernel), window).any()
    if seen:
        for axis in range(2):
            for edge in (0, -1):
                only = np.zeros_like(kept)
                np.moveaxis(only, axis, 0)[edge] = 1
                assert np.any(reference(np.ones_like(x), only, trimmed))
