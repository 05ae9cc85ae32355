"""From a batch of bytes to augmented images: flips that alternate from epoch to epoch."""

import jax
import numpy as np

from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.transforms import TrainingTransform
from cnn_jax.tasks.images import augmented

COUNT, SIDE = 40, 4


class Ramps:
    """Images that are brighter to the right, each by its own amount."""

    class_names = ("one",)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[:] = (np.arange(SIDE) * (index + 1))[None, :, None]
        return {"image": image, "label": np.int32(0)}

    def describe(self, index):
        return f"ramp {index}"


def flips(batch_size, seed=0, epochs=3):
    """Which examples are mirrored in which epoch, from batches that may span two of them."""
    batches = TrainingBatches(Ramps(), TrainingTransform(SIDE), batch_size=batch_size, seed=seed)
    config = Augmentation(flip=True, flip_mode="alternating")
    augment = jax.jit(lambda batch: augmented(batch, jax.random.key(seed), config))
    mirrored = np.full((epochs, COUNT), -1)
    for step in range(-(-epochs * COUNT // batch_size)):
        batch = batches[step]
        images = np.asarray(augment(batch))
        plain = batch["image"] / np.float32(255)
        for row, (epoch, index) in enumerate(zip(batch["epoch"], batch["index"], strict=True)):
            if epoch < epochs:
                falls = images[row, 0, 0, 0] > images[row, 0, -1, 0]
                expected = plain[row, :, ::-1] if falls else plain[row]
                np.testing.assert_allclose(images[row], expected, rtol=1e-6)
                mirrored[epoch, index] = falls
    return mirrored


def test_two_epochs_show_every_image_both_ways():
    mirrored = flips(batch_size=16)
    np.testing.assert_array_equal(mirrored[0] + mirrored[1], 1)
    np.testing.assert_array_equal(mirrored[1] + mirrored[2], 1)
    assert 0.25 < mirrored[0].mean() < 0.75


def test_the_half_depends_on_the_seed_and_not_on_the_batches():
    np.testing.assert_array_equal(flips(batch_size=16), flips(batch_size=7))
    assert (flips(batch_size=16)[0] != flips(batch_size=16, seed=1)[0]).any()
