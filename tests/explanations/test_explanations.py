"""Grad-CAM and occlusion against oracles in NumPy, and on the maps of real networks."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.explanations.grad_cam import grad_cam
from cnn_jax.explanations.maps import checked_stage, map_shapes
from cnn_jax.explanations.occlusion import occlusion, starts


def logit(outputs, label):
    return outputs[label]


class Small(nn.Module):
    """Two convolutions with rectifiers, the mean of the map, and a linear layer."""

    @nn.compact
    def __call__(self, images):
        first = nn.relu(nn.Conv(4, (3, 3), padding="SAME", name="first")(images))
        second = nn.relu(nn.Conv(6, (3, 3), padding="VALID", name="second")(first))
        logits = nn.Dense(5, name="head")(jnp.mean(second, axis=(1, 2)))
        return logits, {"stage1": first, "stage2": second, "pre_logits": jnp.mean(second, (1, 2))}


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 9, 8, 3)).astype(np.float32)
    variables = Small().init(jax.random.key(0), images)
    variables = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), variables)
    return variables, images, np.array([0, 3, 4], np.int32)


def convolved(image, kernel, bias, padding):
    """A convolution of one image, as four loops."""
    image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    taps, (height, width) = kernel.shape[0], image.shape[:2]
    out = np.zeros((height - taps + 1, width - taps + 1, kernel.shape[3]))
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            window = image[row : row + taps, column : column + taps]
            out[row, column] = np.einsum("abc,abcf->f", window, kernel) + bias
    return out


def pulled_back(gradient, kernel, padding):
    """The gradient of a convolution's input from that of its output."""
    taps, (height, width) = kernel.shape[0], gradient.shape[:2]
    into = np.zeros((height + taps - 1, width + taps - 1, kernel.shape[2]))
    for row in range(height):
        for column in range(width):
            into[row : row + taps, column : column + taps] += kernel @ gradient[row, column]
    return into[padding : into.shape[0] - padding, padding : into.shape[1] - padding]


def oracle(params, image, label, stage, local=False):
    """Grad-CAM of the small network, forward and backward by hand in float64."""
    layer = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    first = np.maximum(convolved(image, layer["first"]["kernel"], layer["first"]["bias"], 1), 0)
    second = np.maximum(convolved(first, layer["second"]["kernel"], layer["second"]["bias"], 0), 0)
    gradient = np.broadcast_to(
        layer["head"]["kernel"][:, label] / (second.shape[0] * second.shape[1]), second.shape
    )
    features = second
    if stage == "stage1":
        gradient = pulled_back(gradient * (second > 0), layer["second"]["kernel"], 0)
        features = first
    weights = gradient if local else gradient.mean(axis=(0, 1))
    return np.maximum((features * weights).sum(axis=-1), 0)


@pytest.mark.parametrize("stage, local", [("stage1", False), ("stage2", False), ("stage1", True)])
def test_grad_cam_equals_the_oracle(small, stage, local):
    variables, images, labels = small

    @jax.jit
    def explained(variables, images):
        network = partial(Small().apply, variables)
        return grad_cam(network, logit, images, jnp.array(labels), stage, local)

    cams = np.asarray(explained(variables, images))
    pairs = zip(images, labels, strict=True)
    expected = np.stack([oracle(variables["params"], *pair, stage, local) for pair in pairs])
    assert expected.max() > 0.01 and (expected == 0).any()
    np.testing.assert_allclose(cams, expected, atol=1e-5, rtol=0)


def test_grad_cam_of_an_image_does_not_depend_on_its_batch(small):
    variables, images, labels = small
    network = partial(Small().apply, variables)
    together = grad_cam(network, logit, jnp.array(images), jnp.array(labels), "stage2")
    alone = grad_cam(network, logit, jnp.array(images[1:2]), jnp.array(labels[1:2]), "stage2")
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


def test_occlusion_equals_the_loop(small):
    variables, images, labels = small
    network = partial(Small().apply, variables)
    patch, step = 4, 3
    found = occlusion(
        network, logit, jnp.array(images), jnp.array(labels), patch=patch, step=step, at_a_time=5
    )
    for image, label, own in zip(images, labels, found, strict=True):
        falls = [[[] for _ in range(8)] for _ in range(9)]
        before = network(image[None])[0][0, label]
        for top in (0, 3, 5):
            for left in (0, 3, 4):
                covered = image.copy()
                covered[top : top + patch, left : left + patch] = 0
                fall = before - network(covered[None])[0][0, label]
                for row in range(top, top + patch):
                    for column in range(left, left + patch):
                        falls[row][column].append(fall)
        expected = [[np.mean(cell) for cell in row] for row in falls]
        np.testing.assert_allclose(own, expected, atol=1e-5)


@pytest.mark.parametrize("size, patch, step", [(10, 4, 3), (10, 10, 2), (9, 1, 1), (7, 3, 3)])
def test_patches_reach_every_row(size, patch, step):
    first = starts(size, patch, step)
    covered = {row for start in first for row in range(start, start + patch)}
    assert covered == set(range(size)) and (np.diff(first) > 0).all()


# A network of each family; their maps are made in different ways.
FAMILIES = ("resnet20", "vgg11_bn", "alexnet", "densenet_bc_100_12", "airbench94")


def network_of(model, size):
    """The network with variables that are only shapes, and the shape of its input."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables = jax.eval_shape(lambda x: model.init(keys, x, train=False), images)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
    return partial(model.apply, variables, train=False), images


@pytest.mark.parametrize("name", FAMILIES)
def test_the_logits_follow_from_every_map(name):
    model = models.create(name, 3, **({} if name == "alexnet" else {"width": 0.25}))
    network, images = network_of(model, max(32, model.minimum_size))
    shapes = map_shapes(network, images)
    features = jax.eval_shape(network, images)[1]
    assert set(shapes) == {name for name, x in features.items() if x.ndim == 4}
    sizes = [shape[1] for shape in shapes.values()]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) >= 3


def test_a_map_that_the_outputs_do_not_follow_from_is_left_out():
    """A grid of cells on a finer map than the backbone's last."""
    model = models.create("resnet18", 3, "grid_detector", grid=8, width=0.25)
    network, images = network_of(model, 128)
    assert "stage4" in jax.eval_shape(network, images)[1]
    assert checked_stage(map_shapes(network, images), None) == "stage3"


def test_the_coarsest_map_is_the_default_and_others_are_named(small):
    variables, images, _ = small
    shapes = map_shapes(partial(Small().apply, variables), images)
    assert list(shapes.items()) == [("stage1", (3, 9, 8, 4)), ("stage2", (3, 7, 6, 6))]
    assert checked_stage(shapes, None) == "stage2"
    assert checked_stage(shapes, "stage1") == "stage1"
    with pytest.raises(UserError, match=r"^stage stage3: no map .* one of stage1, stage2"):
        checked_stage(shapes, "stage3")
