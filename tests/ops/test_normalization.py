"""Local response normalisation against the paper's sum written as a loop, and torch's answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.normalization import local_response_norm


def paper_by_loops(x, size, k, alpha, beta):
    """Krizhevsky et al. 2012, section 3.3: b_i = a_i / (k + alpha sum_j a_j^2)^beta."""
    channels = x.shape[-1]
    y = np.empty_like(x)
    for i in range(channels):
        first, last = max(0, i - size // 2), min(channels - 1, i + size // 2)
        strength = sum(x[..., j] ** 2 for j in range(first, last + 1))
        y[..., i] = x[..., i] / (k + alpha * strength) ** beta
    return y


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_equals_the_papers_sum(channels):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, channels)) * 50
    ours = local_response_norm(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, paper_by_loops(x, 5, 2.0, 1e-4, 0.75), rtol=1e-5)


def test_other_constants():
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 7))
    ours = local_response_norm(jnp.asarray(x, jnp.float32), size=3, k=1.5, alpha=0.3, beta=0.6)
    np.testing.assert_allclose(ours, paper_by_loops(x, 3, 1.5, 0.3, 0.6), rtol=1e-5)


# torch.nn.functional.local_response_norm(torch.arange(1., 7.).view(1, 6, 1, 1), size, alpha=0.9,
# beta=0.75, k=1.5) of torch 2.13.
TORCH = {
    5: [0.352233, 0.469779, 0.483551, 0.463532, 0.597746, 0.773318],
    4: [0.484901, 0.631597, 0.616284, 0.563262, 0.512437, 0.663896],
}


@pytest.mark.parametrize("size", TORCH)
def test_equals_torch_when_divided_by_size(size):
    x = jnp.arange(1.0, 7.0).reshape(1, 1, 1, 6)
    ours = local_response_norm(x, size, k=1.5, alpha=0.9, beta=0.75, divide_by_size=True)
    np.testing.assert_allclose(ours[0, 0, 0], TORCH[size], rtol=1e-5)


def test_keeps_the_type_and_computes_in_float32():
    """The sum 2 + 1e-4 x^2 would be 2 in bfloat16 for any x of the usual size."""
    x = jnp.full((1, 1, 1, 1), 8.0, jnp.bfloat16)
    y = local_response_norm(x)
    assert y.dtype == jnp.bfloat16
    expected = jnp.asarray(8.0 / (2 + 1e-4 * 64) ** 0.75, jnp.bfloat16)
    assert y[0, 0, 0, 0] == expected


def test_gradient_is_finite_at_zero():
    gradient = jax.grad(lambda x: jnp.sum(local_response_norm(x)))(jnp.zeros((1, 2, 2, 4)))
    np.testing.assert_allclose(gradient, 2.0**-0.75, rtol=1e-5)
