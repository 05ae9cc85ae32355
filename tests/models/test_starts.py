"""First parameters that are set: identities and whitening filters, in networks of several kinds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models.layers import Conv
from cnn_jax.models.starts import convolutions, with_identities, with_whitening
from cnn_jax.ops.whitening import whitening_filters

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def drawn(model):
    """Random parameters of a network's shapes."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), IMAGE)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.array(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def test_convolutions_are_found_in_the_order_of_their_calls():
    found = convolutions(models.create("airbench94", 5, width=0.1), IMAGE)
    assert ["/".join(path) for path in found] == [
        "whiten",
        *(f"stage{stage}/conv{number}" for stage in (1, 2, 3) for number in (1, 2)),
    ]
    assert next(iter(convolutions(models.create("resnet18", 5, width=0.1), IMAGE))) == (
        "stem_conv",
    )


def test_identities_pass_on_the_channels_that_there_are():
    model = models.create("airbench94", 5, width=0.1)
    params, layers = drawn(model), convolutions(model, IMAGE)
    changed = with_identities(params, layers)
    for path in [*layers][1:]:
        before, after = (tree[path[0]][path[1]]["kernel"] for tree in (params, changed))
        channels, filters = after.shape[2:]
        passed = min(channels, filters)
        x = jax.random.normal(jax.random.key(1), (2, 6, 6, channels))
        y = Conv(filters, use_bias=False).apply({"params": {"kernel": after}}, x)
        np.testing.assert_array_equal(y[..., :passed], x[..., :passed])
        np.testing.assert_array_equal(after[..., passed:], before[..., passed:])
    for name in ("whiten", "head"):
        np.testing.assert_array_equal(changed[name]["kernel"], params[name]["kernel"])


class Others(nn.Module):
    """Convolutions that cannot be the identity of all channels, or are the first."""

    @nn.compact
    def __call__(self, images, train=False):
        x = Conv(8, name="first")(images)
        return Conv(8, groups=2, name="grouped")(Conv(8, 1, name="small")(x))


def test_the_first_convolution_and_those_of_other_forms_stay_as_they_are_drawn():
    params = drawn(Others())
    changed = with_identities(params, convolutions(Others(), IMAGE))
    assert jax.tree.all(jax.tree.map(np.array_equal, changed, params))


@pytest.mark.parametrize(
    ("name", "path", "whitened"),
    # 24 filters are 12 and their negatives; of 16, 8 and theirs; of 70, the 27 that there are.
    [("airbench94", "whiten", 12), ("resnet20", "stem_conv", 8), ("wide", "first", 27)],
)
def test_half_of_the_first_filters_whiten_and_half_are_their_negatives(name, path, whitened):
    model = Wide() if name == "wide" else models.create(name, 5)
    images = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype(np.float32)
    params = drawn(model)
    changed = with_whitening(params, convolutions(model, IMAGE), images)
    kernel = np.asarray(changed[path]["kernel"])
    filters = whitening_filters(images, kernel.shape[:2])[..., :whitened]
    np.testing.assert_array_equal(kernel[..., :whitened], filters)
    np.testing.assert_array_equal(kernel[..., whitened : 2 * whitened], -filters)
    rest = np.asarray(params[path]["kernel"])[..., 2 * whitened :]
    np.testing.assert_array_equal(kernel[..., 2 * whitened :], rest)
    others = {k: v for k, v in changed.items() if k != path}
    assert jax.tree.all(
        jax.tree.map(np.array_equal, others, {k: v for k, v in params.items() if k != path})
    )


class Wide(nn.Module):
    """One convolution of many filters."""

    filters: int = 70

    @nn.compact
    def __call__(self, images, train=False):
        return Conv(self.filters, name="first")(images)


def test_a_first_convolution_of_one_filter_is_refused():
    model = Wide(1)
    with pytest.raises(UserError, match=r"^whiten: the network has no first convolution of two"):
        with_whitening(drawn(model), convolutions(model, IMAGE), [])
