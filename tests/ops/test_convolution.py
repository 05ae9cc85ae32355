"""The convolution against `lax.conv_general_dilated`: values, derivatives, programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import export

from cnn_jax.ops.cpu import lowerings, winograd
from tests.ops.convolution_cases import (
    CHOICES,
    arrays,
    assert_close,
    cases,
    choice,
    public,
    reference,
    values_and_gradients,
)

pytestmark = pytest.mark.optimized  # Tests how programs are compiled.


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


@pytest.mark.parametrize("name", CHOICES)
def test_transformations(name, monkeypatch):
    """jit, vmap, pmap, scan and remat give what the plain call gives."""
    monkeypatch.setattr(lowerings, "_BLOCK_BYTES", 2**17)
    monkeypatch.setattr(winograd, "_PRODUCTS_BYTES", 2**17)
    monkeypatch.setattr(winograd, "_ELEMENT_BYTES", 2**13)
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


@pytest.mark.parametrize("axes", [(1, None), (None, 2), (3, 0)], ids=["images", "kernels", "both"])
def test_mapped_over_images_and_kernels(axes):
    """Values and gradients of a convolution mapped over either operand, at any axis, or both."""
    x_shape, kernel_shape, window = choice("shared shifts")
    x, kernel, g = arrays(x_shape, kernel_shape, window)
    several = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 1)).astype(np.float32)
    x_axis, kernel_axis = axes
    many_x = x if x_axis is None else np.moveaxis(several * x, 0, x_axis)
    many_kernels = kernel if kernel_axis is None else np.moveaxis(several * kernel, 0, kernel_axis)

    @jax.jit
    def both(x, kernel, g):
        functions = [functools.partial(f, window=window) for f in (public, reference)]
        return [
            values_and_gradients(
                lambda x, kernel, window, f=f: jax.vmap(f, axes)(x, kernel), x, kernel, g, window
            )
            for f in functions
        ]

    for a, e in zip(*both(many_x, many_kernels, several * g), strict=True):
        assert_close(a, e, 2e-5)


def test_under_shard_map_the_kernel_gradient_is_that_of_all_devices():
    x_shape, kernel_shape, window = choice("patches")
    devices = jax.local_device_count()
    x, kernel, g = arrays((devices, *x_shape[1:]), kernel_shape, window)
    by_image, whole = jax.P("devices"), jax.P()

    def gradients(x, kernel, g):
        def loss(x, kernel):
            return jax.lax.psum(jnp.sum(public(x, kernel, window) * g), "devices")

        return jax.grad(loss, (0, 1))(x, kernel)

    mapped = jax.shard_map(
        gradients,
        mesh=jax.make_mesh((devices,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(by_image, whole, by_image),
        out_specs=(by_image, whole),
    )
    expected = values_and_gradients(reference, x, kernel, g, window)[1:]
    for a, e in zip(jax.jit(mapped)(x, kernel, g), expected, strict=True):
        assert_close(a, e, 1e-5)


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


@pytest.mark.parametrize("name", CHOICES)
def test_forward_mode(name):
    """Directional derivatives, and products of the Hessian with a vector in either order."""
    case = choice(name)
    x, kernel, g = arrays(*case)
    direction = arrays(*case, seed=1)[:2]

    def derivatives(function):
        def loss(x, kernel):
            return jnp.sum(jnp.tanh(function(x, kernel, case[2])) * g)

        def slope(x, kernel):
            return jax.jvp(loss, (x, kernel), direction)[1]

        gradient = jax.grad(loss, (0, 1))
        pushed = jax.jvp(functools.partial(function, window=case[2]), (x, kernel), direction)
        linear = jax.linearize(functools.partial(function, window=case[2]), x, kernel)[1]
        return (
            *pushed,
            linear(*direction),
            *jax.jvp(gradient, (x, kernel), direction)[1],
            *jax.grad(slope, (0, 1))(x, kernel),
        )

    both = jax.jit(lambda: [derivatives(public), derivatives(reference)])()
    for a, e in zip(*both, strict=True):
        assert_close(a, e, 1e-4)


def test_jacobians():
    """Forward and reverse mode give XLA's Jacobians with respect to images and kernel."""
    x_shape, kernel_shape, window = choice("tiny map")
    x, kernel, _ = arrays((1, *x_shape[1:]), kernel_shape, window)
    for mode in (jax.jacfwd, jax.jacrev):
        actual, expected = (
            jax.jit(mode(functools.partial(f, window=window), (0, 1)))(x, kernel)
            for f in (public, reference)
        )
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, 1e-6)


def programs(case, platforms, differentiate=True):
    """The text of the same program with this project's convolution and with XLA's."""
    texts = []
    for convolve in (public, reference):

        def function(x, kernel, g, convolve=convolve):
            if differentiate:
                return values_and_gradients(convolve, x, kernel, g, case[2])
            return convolve(x, kernel, case[2])

        traced = jax.jit(function).trace(*arrays(*case))
        texts.append(traced.lower(lowering_platforms=platforms).as_text())
    return texts


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", CHOICES)
def test_accelerators_get_the_compilers_convolution(name, platform):
    """Traced on a CPU, the program for an accelerator is that of `lax.conv_general_dilated`."""
    actual, expected = programs(choice(name), (platform,))
    assert "stablehlo.convolution" in actual
    assert actual == expected


@pytest.mark.parametrize("name", CHOICES)
def test_a_program_for_a_cpu_makes_no_choice_at_run_time(name):
    assert "stablehlo.case" not in programs(choice(name), ("cpu",))[0]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_exported_for_an_accelerator(platform):
    case = choice("winograd")
    x, kernel, _ = arrays(*case)
    function = jax.jit(functools.partial(public, window=case[2]))
    text = export.export(function, platforms=[platform])(x, kernel).mlir_module()
    assert text.count("stablehlo.convolution") == 1
    assert "stablehlo.dot_general" not in text and "optimization_barrier" not in text


def test_exported_for_several_platforms():
    """One program serves both; on a CPU it computes what the function itself does, bit for bit."""
    case = choice("winograd")
    x, kernel, g = arrays(*case)
    function = jax.jit(functools.partial(values_and_gradients, public, window=case[2]))
    exported = export.export(function, platforms=["cpu", "cuda"])(x, kernel, g)
    for a, e in zip(exported.call(x, kernel, g), function(x, kernel, g), strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "tpu")])
def test_exported_for_any_number_of_images(platforms):
    x, kernel, _ = arrays(*choice("winograd"))
    window = choice("winograd")[2]
    (images,) = export.symbolic_shape("images")
    shape = jax.ShapeDtypeStruct((images, *x.shape[1:]), x.dtype)
    function = jax.jit(functools.partial(public, window=window))
    exported = export.export(function, platforms=platforms)(shape, kernel)
    for count in (1, 3):
        assert_close(exported.call(x[:count], kernel), reference(x[:count], kernel, window), 1e-5)


def test_the_precision_is_the_one_at_the_call():
    """A precision that was set around the call still holds when the program is built later."""
    case = choice("winograd")

    def function(x, kernel):
        with jax.default_matmul_precision("highest"):
            return public(x, kernel, case[2])

    traced = jax.jit(function).trace(*arrays(*case)[:2])
    assert "HIGHEST" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_wrong_number_of_channels_is_an_error():
    x, kernel, _ = arrays(*choice("patches"))
    with pytest.raises(ValueError, match="but 2 // 1 != 3"):
        public(jnp.asarray(x[..., :2]), jnp.asarray(kernel), choice("patches")[2])
