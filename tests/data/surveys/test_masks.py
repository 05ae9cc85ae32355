"""The floor of segmentation: what needs no image."""

import numpy as np

from cnn_jax.data.surveys.masks import position_prior


class Masks:
    class_names = ("sky", "road", "car")

    def __init__(self, masks):
        self.masks = np.asarray(masks, np.uint8)

    def __len__(self):
        return len(self.masks)

    def mask(self, index):
        return self.masks[index]


def test_each_place_gets_its_most_frequent_class():
    training = Masks([[[0, 1, 2]], [[0, 1, 255]], [[1, 2, 255]]])
    evaluated = Masks([[[0, 0, 2]], [[255, 1, 1]]])
    # Sky, road, car from left to right.
    expected = [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    np.testing.assert_array_equal(position_prior(training, evaluated, (1, 3)), expected)


def test_a_place_without_any_class_gets_the_first():
    nothing = Masks(np.full((2, 1, 2), 255))
    result = position_prior(nothing, Masks([[[1, 255]]]), (1, 2))
    np.testing.assert_array_equal(result, [[0, 0, 0], [1, 0, 0], [0, 0, 0]])


def test_masks_are_resized():
    large = np.zeros((1, 4, 4), np.uint8)
    large[:, :, 2:] = 2
    result = position_prior(Masks(large), Masks([[[0, 2], [0, 1]]]), (2, 2))
    np.testing.assert_array_equal(result, [[2, 0, 0], [0, 0, 1], [0, 0, 1]])
