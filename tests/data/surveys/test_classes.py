"""The survey of classes against plain loops, and its weights against scikit-learn."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from cnn_jax.data import BOX_FORMATS, open_source
from cnn_jax.data.formats.boxes import BoxedImage, BoxSource
from cnn_jax.data.source import Subset
from cnn_jax.data.surveys.classes import Classes, balanced_weights, survey


class Labelled:
    class_names = ("a", "b", "c")

    def __init__(self, labels):
        self.labels = np.array(labels, np.int32)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        raise AssertionError("no image is read")

    def describe(self, index):
        return f"example {index}"


def boxed():
    """Two objects, one of them difficult; a crowd and an object; none at all."""
    rows = [([0, 2], [False, True], None), ([1, 1], None, [True, False]), ([], None, None)]
    images = [
        BoxedImage(
            f"{number}.png",
            np.zeros((len(labels), 4)),
            np.array(labels, np.int32),
            *(None if marks is None else np.array(marks, bool) for marks in (difficult, crowd)),
        )
        for number, (labels, difficult, crowd) in enumerate(rows)
    ]
    return BoxSource(("a", "b", "c"), images)


def test_the_labels_of_a_source_are_its_classes():
    found = survey(Labelled([2, 0, 2, 1]))
    assert found.examples == 4
    assert found.owner.tolist() == [0, 1, 2, 3] and found.label.tolist() == [2, 0, 2, 1]
    assert found.counts(3).tolist() == [1, 1, 2]
    assert survey(Subset(Labelled([2, 0, 2, 1]), [3, 0])).label.tolist() == [1, 2]


def test_objects_that_are_not_trained_on_do_not_count():
    found = survey(boxed())
    assert found.examples == 3
    assert found.owner.tolist() == [0, 1] and found.label.tolist() == [0, 1]
    assert survey(Subset(boxed(), [2, 1])).owner.tolist() == [1]


@pytest.mark.parametrize("formats", [None, BOX_FORMATS])
def test_built_in_scenes_have_the_classes_that_are_drawn(formats):
    given = {} if formats is None else {"formats": formats}
    source = open_source("shapes", "train", seed=3, image_size=32, **given)
    found = survey(source, most=12)
    for index in range(12):
        example = source[index]
        expected = example["labels"] if "labels" in example else [example["label"]]
        assert found.label[found.owner == index].tolist() == list(expected)
    assert found.examples == 12


def test_the_classes_in_an_example_are_listed_once():
    found = Classes(2, np.array([0, 0, 0, 1, 1]), np.array([2, 0, 2, 1, 1]))
    examples, labels = found.in_examples()
    assert list(zip(examples.tolist(), labels.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 1)]


def test_balanced_weights_are_scikit_learns():
    labels = np.random.default_rng(0).choice(5, 300, p=[0.5, 0.3, 0.1, 0.06, 0.04])
    weights = balanced_weights(np.bincount(labels))
    expected = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    # The sum over the examples is their number, so that the loss keeps its size.
    assert weights[labels].sum() == pytest.approx(300)
    # A class without objects changes nothing for the others.
    gap = balanced_weights(np.insert(np.bincount(labels), 2, 0))
    np.testing.assert_allclose(np.delete(gap, 2), expected)
    assert gap[2] == 1 and balanced_weights(np.zeros(3, int)).tolist() == [1, 1, 1]
