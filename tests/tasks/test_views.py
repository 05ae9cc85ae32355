"""Views at test time: each is undone before it is averaged or joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.ops.nms import Detections
from cnn_jax.tasks.detection.evaluation import DetectionRule
from cnn_jax.tasks.views import (
    Views,
    average_classes,
    average_pixels,
    join_detections,
    read_views,
)


def test_views_are_read_and_the_image_itself_comes_first():
    assert list(read_views(())) == [(1.0, False)]
    assert list(read_views(("0.5", "flip", "1"))) == [
        (1.0, False),
        (1.0, True),
        (0.5, False),
        (0.5, True),
    ]
    for text in ("mirror", "0", "nan", "5"):
        with pytest.raises(UserError, match=f"tta {text}: must be"):
            read_views((text,))


def test_probabilities_of_classes_are_averaged():
    sizes = []

    def predict(batch):
        """The probability of class 0 is the brightness of the left half."""
        image = jnp.asarray(batch["image"], jnp.float32)
        sizes.append(image.shape[1:3])
        left = image[:, :, : image.shape[2] // 2].mean(axis=(1, 2, 3)) / 255
        return jnp.log(jnp.stack([left, 1 - left], axis=1))

    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :, :4] = 204
    image[:, :, 4:] = 51
    flipped = average_classes(predict, {"image": jnp.array(image)}, Views(flip=True))
    np.testing.assert_allclose(np.exp(flipped), [[0.5, 0.5]], rtol=1e-5)
    sizes.clear()
    many = average_classes(predict, {"image": jnp.array(image)}, Views(scales=(0.5, 1.5)))
    assert sizes == [(8, 8), (4, 4), (12, 12)]
    np.testing.assert_allclose(np.exp(many).sum(axis=1), 1, rtol=1e-5)
    # Of several crops of each image, every one is mirrored.
    crops = average_classes(
        lambda batch: predict({"image": batch["image"][:, 0]}),
        {"image": jnp.stack([image, image], axis=1)},
        Views(flip=True),
    )
    np.testing.assert_allclose(crops, flipped, rtol=1e-6)


@pytest.mark.parametrize("margin", [0, 3])
def test_pixels_come_back_to_their_places(margin):
    """The classes of a pixel depend on its own colour, so that a view changes nothing but edges."""

    def predict(batch):
        image = jnp.asarray(batch["image"], jnp.float32)
        inner = image[:, margin : image.shape[1] - margin, margin : image.shape[2] - margin]
        return jax.nn.log_softmax(inner / 64)

    rows, columns = np.mgrid[: 16 + 2 * margin, : 20 + 2 * margin]
    image = np.stack([8 * rows, 6 * columns, 200 - 5 * columns], axis=-1)[None].astype(np.uint8)
    plain = np.exp(predict({"image": jnp.array(image)}))
    flipped = np.exp(average_pixels(predict, {"image": jnp.array(image)}, Views(flip=True), margin))
    np.testing.assert_allclose(flipped, plain, atol=1e-5)
    sizes = Views(flip=True, scales=(0.5, 2.0))
    averaged = np.exp(average_pixels(predict, {"image": jnp.array(image)}, sizes, margin))
    assert averaged.shape == plain.shape
    np.testing.assert_allclose(averaged.sum(axis=-1), 1, rtol=1e-4)
    # Colours change evenly: only at the border do neighbours differ.
    np.testing.assert_allclose(averaged[:, 2:-2, 2:-2], plain[:, 2:-2, 2:-2], atol=0.02)


def finder(side, sees):
    """A detector of one bright rectangle, as a box in pixels of the original image."""

    def predict(batch):
        bright = jnp.asarray(batch["image"], jnp.float32)[..., 0] > 128

        def one(bright, size):
            rows, columns = jnp.any(bright, axis=1), jnp.any(bright, axis=0)
            ends = [(jnp.argmax(x), side - jnp.argmax(x[::-1])) for x in (columns, rows)]
            (left, right), (top, bottom) = ends
            corners = jnp.stack([left, top, right, bottom]).astype(jnp.float32)
            box = corners * jnp.tile(size[::-1], 2).astype(jnp.float32) / side
            found = jnp.any(bright) & sees((left + right) / 2)
            return Detections(
                box[None].astype(jnp.float32),
                jnp.where(found, 0.75, 0.0)[None],
                jnp.where(found, 1, -1)[None],
                found[None],
            )

        return jax.vmap(one)(bright, batch["size"])

    return predict


RULE = DetectionRule(max_detections=3)
SETTINGS = {"rule": RULE, "num_classes": 2, "background": (0.0, 0.0, 0.0)}


def scene():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, 8:16, 20:28] = 255
    return {"image": jnp.array(image), "size": jnp.array([[64.0, 96.0]])}


@pytest.mark.parametrize("views", [Views(), Views(flip=True), Views(True, (0.5,))])
def test_detections_of_all_views_are_joined_in_the_original_image(views):
    found = join_detections(finder(32, lambda x: x > -1), scene(), views, **SETTINGS)
    assert np.asarray(found.valid)[0].sum() == 1
    np.testing.assert_allclose(found.boxes[0, 0], [60, 16, 84, 32], atol=1e-4)
    assert (found.labels[0, 0], float(found.scores[0, 0])) == (1, 0.75)


def test_an_object_that_one_view_shows_is_found():
    sees_left = finder(32, lambda x: x < 16)
    alone = join_detections(sees_left, scene(), Views(), **SETTINGS)
    assert not np.asarray(alone.valid).any()
    found = join_detections(sees_left, scene(), Views(flip=True), **SETTINGS)
    np.testing.assert_allclose(found.boxes[0, 0], [60, 16, 84, 32], atol=1e-4)
    with pytest.raises(UserError, match=r"tta 1.5: must be at most 1 for detect"):
        join_detections(sees_left, scene(), Views(scales=(1.5,)), **SETTINGS)


def test_proposals_follow_the_image():
    seen = []

    def predict(batch):
        seen.append(np.asarray(batch["proposals"][0]))
        return finder(32, lambda x: x > -1)(batch)

    batch = {**scene(), "proposals": jnp.array([[[20.0, 8, 28, 16]]])}
    join_detections(predict, batch, Views(True, (0.5,)), **SETTINGS)
    expected = [[20, 8, 28, 16], [4, 8, 12, 16], [10, 4, 14, 8], [2, 4, 6, 8]]
    np.testing.assert_allclose(np.concatenate(seen), expected)
