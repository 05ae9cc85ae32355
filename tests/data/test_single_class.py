"""Objects whatever their class."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.formats.boxes import BoxedImage, BoxSource
from cnn_jax.data.single_class import SingleClass
from cnn_jax.data.source import Subset
from cnn_jax.data.surveys.classes import survey
from cnn_jax.errors import UserError

NAMES = ("cat", "dog", "bird")


@pytest.fixture
def photos(tmp_path):
    """Three photos, with a cat and a dog, with nothing, and with two birds of which one counts."""
    path = tmp_path / "photo.png"
    Image.new("RGB", (20, 10)).save(path)
    boxes = np.array([[1.0, 1, 5, 5], [2, 2, 9, 9]])
    crowd = np.array([False, True])
    return BoxSource(
        NAMES,
        [
            BoxedImage(str(path), boxes, np.array([0, 1])),
            BoxedImage(str(path), boxes[:0], np.zeros(0, int)),
            BoxedImage(str(path), boxes, np.array([2, 2]), crowd=crowd),
        ],
        ["1 box dropped"],
    )


def test_all_objects_are_of_the_one_class_and_else_the_same(photos):
    source = SingleClass(photos, "animal")
    assert source.class_names == ("animal",) and len(source) == 3
    for index in range(3):
        own, merged = photos[index], source[index]
        assert merged.keys() == own.keys() and merged["labels"].dtype == own["labels"].dtype
        assert (merged["labels"] == 0).all()
        for name in own.keys() - {"labels"}:
            np.testing.assert_array_equal(merged[name], own[name])
    assert source.present.tolist() == [[True], [False], [True]]
    assert [source.classes(i).tolist() for i in range(3)] == [[0, 0], [], [0]]
    assert survey(source).counts(1).tolist() == [3]
    assert source.object_counts().tolist() == [2, 0, 2] and source.object_count(2) == 2
    assert source.notices == ("1 box dropped",) and source.files == photos.files


def test_no_example_is_copied_past_the_one_class(photos):
    photos.gather = lambda indices, into: None  # as packed data has it
    assert Subset(photos, [0]).gather is not None
    assert SingleClass(photos, "animal").gather is None


def test_generated_scenes_too():
    scenes = data.open_source("shapes", "eval", image_size=32, formats=data.BOX_FORMATS)
    source = SingleClass(scenes, "shape")
    assert source.drawn and source.present is None
    assert all((source[i]["labels"] == 0).all() for i in range(5))


def test_a_class_needs_a_name(photos):
    with pytest.raises(UserError, match="must be a name"):
        SingleClass(photos, " ")
