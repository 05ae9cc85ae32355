"""TFDS data sets, made by TFDS's own builders, read without TensorFlow or a network."""

import importlib
import json
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cnn_jax import data
from cnn_jax.data.formats.tfds import found_splits
from cnn_jax.errors import UserError
from tests.data.formats.tiny_sets import (
    COUNTS,
    Tiny,
    TinyFaces,
    TinyMasks,
    TinyObjects,
    TinyPhotos,
    TinySized,
    TinyTest,
    TinyText,
    TinyTrainOnly,
    TinyTurned,
    picture,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for builder in (
        *(Tiny, TinyTrainOnly, TinyTest, TinyText, TinyMasks, TinyFaces, TinyObjects),
        *(TinyPhotos, TinyTurned),
    ):
        builder(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def numbers(source, *, grey: bool = False, masks: bool = False) -> list[int]:
    """Return the numbers of the pictures that a source holds, read from their pixels."""
    known = {}
    for number in range(max(COUNTS.values())):
        pixels = picture(number)
        if grey:
            pixels = np.repeat(pixels[..., :1], 3, -1)
        known[pixels.tobytes()] = number
    result = []
    for index in range(len(source)):
        example = source[index]
        number = known[example["image"].tobytes()]
        assert example["image"].shape == (4 + number % 3, 5, 3)
        if masks:
            assert example["mask"].shape == source.size(index)
            np.testing.assert_array_equal(example["mask"], number % 3)
        else:
            assert example["label"] == number % 3 and example["label"].dtype == np.int32
        result.append(number)
    return result


@pytest.mark.parametrize(
    ("split", "place"), [("train", "train"), ("eval", "validation"), ("test", "test")]
)
def test_splits_hold_their_examples(data_dir, split, place):
    source = data.open_source("tfds:tiny", split, data_dir=data_dir)
    assert source.class_names == ("zero", "one", "two")
    assert isinstance(source, data.Source)
    assert sorted(numbers(source)) == list(range(COUNTS[place]))
    assert source.size(2) == source[2]["image"].shape[:2]
    assert source.describe(2) == f"tfds:tiny {place}[2]"
    assert "tensorflow" not in sys.modules


def test_evaluation_on_the_test_split_and_other_feature_names(data_dir):
    assert sorted(
        numbers(data.open_source("tfds:tiny_test", "train", data_dir=data_dir), grey=True)
    ) == (list(range(COUNTS["train"])))
    source = data.open_source("tfds:tiny_test", "eval", data_dir=data_dir)
    assert len(source) == COUNTS["test"]
    unlabelled = []
    for index in range(len(source)):
        try:
            source[index]
        except UserError as error:
            unlabelled.append(str(error))
    assert len(unlabelled) == 1
    assert "has no label" in unlabelled[0]


def test_evaluation_held_out_of_the_only_split(data_dir):
    def held(split):
        return numbers(
            data.open_source("tfds:tiny_train_only", split, data_dir=data_dir, holdout_fraction=0.2)
        )

    assert len(held("eval")) == 4
    assert held("eval") == held("test")
    assert sorted(held("train") + held("eval")) == list(range(20))


def test_a_source_goes_to_worker_processes(data_dir):
    source = data.open_source("tfds:tiny", "train", data_dir=data_dir)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(source))[3]["image"], source[3]["image"]
    )


def test_the_data_dir_of_the_environment(data_dir):
    """TFDS reads it once, and what is prepared there without the code that prepared it."""
    code = "from cnn_jax import data; print(len(data.open_source('tfds:tiny', 'test')))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.stdout == f"{COUNTS['test']}\n", ended.stderr


@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [
        ("tiny_sized", "small/2.0.0", 3),  # the first configuration, the newest version
        ("tiny_sized:2.0.0", "small/2.0.0", 3),
        ("tiny_sized/large", "large/2.0.0", 6),
        ("tiny_sized/large:2.*.*", "large/2.0.0", 6),
    ],
)
def test_a_set_is_prepared_where_it_is_missing_and_read_from_there_again(
    tmp_path, monkeypatch, name, folder, count
):
    source = data.open_source(f"tfds:{name}", "train", data_dir=tmp_path)
    assert sorted(numbers(source)) == list(range(count))
    folders = {path.parent for path in (tmp_path / "tiny_sized").glob("*/*/*.array_record*")}
    assert folders == {tmp_path / "tiny_sized" / folder}
    # Again, and not prepared again.
    monkeypatch.setattr(TinySized, "_examples", None)
    assert len(data.open_source(f"tfds:{name}", "eval", data_dir=tmp_path)) == count
    assert "tensorflow" not in sys.modules


def test_an_older_version_is_read_where_it_is_prepared(tmp_path, monkeypatch):
    """TFDS prepares the newest one alone."""
    assert "is too old" in problem("tfds:tiny_sized/large:1.0.0", data_dir=tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr(TinySized, "VERSION", tfds.core.Version("1.0.0"))
        TinySized(
            data_dir=tmp_path, config="large", file_format="array_record"
        ).download_and_prepare()
    for version, count in (("", 6), (":1.0.0", 7), (":2.0.0", 6)):
        source = data.open_source(f"tfds:tiny_sized/large{version}", "train", data_dir=tmp_path)
        assert len(source) == count


@pytest.mark.parametrize("name", ["tiny_sized:3.0.0", "tiny_sized/huge:1.0.0"])
def test_an_unknown_version_or_configuration(tmp_path, name):
    assert name.partition(":")[2] in problem(f"tfds:{name}", data_dir=tmp_path)


def test_what_tfds_prepares_with_is_declared():
    """TFDS declares too little: without this package it prepares nothing."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(one.startswith("importlib_resources") for one in declared)
    importlib.import_module("importlib_resources")


def problem(spec: str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        data.open_source(spec, "train", **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_name_gives_the_nearest(data_dir):
    message = problem("tfds:mnits", data_dir=data_dir)
    assert "no data set of this name" in message
    assert "mnist" in message


def test_no_name():
    assert "tfds:NAME" in problem("tfds:")


def test_an_unknown_configuration(data_dir):
    assert "foo" in problem("tfds:tiny/foo", data_dir=data_dir)


def test_a_set_that_cannot_be_prepared_gives_the_command(tmp_path):
    message = problem("tfds:tiny_broken", data_dir=tmp_path)
    assert "no route to the host" in message and "where there is a network, run:" in message
    assert f"tfds build tiny_broken --file_format=array_record --data_dir={tmp_path}" in message


@pytest.mark.parametrize(
    ("name", "package", "installed"),
    [
        ("tiny_needy", "no_such_package", "no_such_package"),
        ("tiny_arrays", "tensorflow", "'cnn_jax[tfds-prepare]'"),
    ],
)
def test_a_missing_package_is_not_blamed_on_the_network(
    tmp_path, monkeypatch, name, package, installed
):
    monkeypatch.setitem(sys.modules, package, None)
    message = problem(f"tfds:{name}", data_dir=tmp_path)
    assert message == (
        f"--data tfds:{name}: preparing it needs {package}, which is not installed here: "
        f"pip install {installed}"
    )


def test_a_set_without_images_or_labels(data_dir):
    assert problem("tfds:tiny_text", data_dir=data_dir).endswith("has text")


def test_a_set_prepared_as_tfrecord(tmp_path):
    builder = Tiny(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    info = Path(builder.data_dir) / "dataset_info.json"
    stored = json.loads(info.read_text())
    info.write_text(json.dumps(stored | {"fileFormat": "tfrecord"}))
    message = problem("tfds:tiny", data_dir=tmp_path)
    assert "holds tfrecord files" in message and "--file_format=array_record" in message


def test_the_usual_split_of_several(data_dir):
    names = ["test", "test2015", "train", "validation", "unsupervised", "minival"]
    assert found_splits(names) == {"train": "train", "val": "validation", "test": "test"}
    assert found_splits(["Training", "dev", "testing"]) == {
        "train": "Training", "val": "dev", "test": "testing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("dataset_info.json", lambda path: path.write_text("{" * 10), "Failed to load JSON"),
        ("dataset_info.json", lambda path: path.write_bytes(b"\xff"), "UnicodeDecodeError"),
        ("dataset_info.json", lambda path: os.truncate(path, 2**33), "8,589,934,592 bytes"),
        ("features.json", lambda path: (path.unlink(), os.mkfifo(path)), "holds a named pipe"),
        ("*record*", lambda path: path.unlink(), "cannot be read"),
        ("*record*", lambda path: path.write_bytes(bytes(70_000)), "cannot be read"),
        ("*record*", lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "holds a device"),
    ],
)
def test_damaged_files_end_with_a_line(tmp_path, file, damage, message):
    builder = TinyTrainOnly(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    (path,) = Path(builder.data_dir).glob(file)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        data.open_source("tfds:tiny_train_only", "train", data_dir=tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_masks_are_laid_on_the_upright_image(data_dir):
    """The masks of TinyTurned are stored as the image's pixels are, before EXIF turns them."""
    source = data.open_source(
        "tfds:tiny_turned", "train", formats=data.MASK_FORMATS, data_dir=data_dir,
        class_names=("even", "odd"),
    )  # fmt: skip
    for index in range(len(source)):
        example = source[index]
        assert example["image"].shape[:2] == example["mask"].shape == source.size(index) == (5, 4)
        np.testing.assert_array_equal(example["mask"], example["image"][..., 0] // 100)
    (notice,) = source.notices
    assert "were turned as EXIF turns the image" in notice


def test_groups_are_refused(data_dir):
    assert "--holdout-groups" in problem("tfds:tiny", data_dir=data_dir, holdout_groups="(.)")


def test_masks(data_dir):
    def opened(split, **settings):
        return data.open_source(
            "tfds:tiny_masks", split, formats=data.MASK_FORMATS, data_dir=data_dir, **settings
        )

    source = opened("eval", label_values=(1, 2, 3), class_names=("pet", "ground", "border"))
    assert source.class_names == ("pet", "ground", "border")
    assert sorted(numbers(source, masks=True)) == list(range(COUNTS["test"]))
    with pytest.raises(UserError, match="--label-values"):
        opened("train")
    with pytest.raises(UserError, match=r"tiny_masks train\[\d+\] segmentation_mask: value"):
        wrong = opened("train", label_values=(1, 2))
        [wrong.mask(index) for index in range(len(wrong))]
    with pytest.raises(UserError, match="needs an image"):
        data.open_source("tfds:tiny", "train", formats=data.MASK_FORMATS, data_dir=data_dir)


def test_faces_and_objects(data_dir):
    def opened(name, split="train"):
        return data.open_source(f"tfds:{name}", split, formats=data.BOX_FORMATS, data_dir=data_dir)

    source = opened("tiny_faces")
    assert source.class_names == ("face",)
    result = {len(source[i]["labels"]): source[i] for i in range(len(source))}
    assert sorted(result) == [0, 1, 2, 3]
    counts = [source.object_count(i) for i in range(len(source))]
    assert counts == [len(source[i]["labels"]) for i in range(len(source))]
    assert result[0]["boxes"].shape == (0, 4)
    # Pictures are 5 wide; that of number 2 is 6 high.
    np.testing.assert_allclose(result[2]["boxes"], [[0, 0, 1, 3], [1, 0, 2, 3]], atol=1e-5)
    np.testing.assert_allclose(result[2]["area"], [3, 3], atol=1e-4)
    assert result[2]["difficult"].tolist() == [True, False]
    assert not result[2]["crowd"].any()
    source = opened("tiny_objects", "eval")
    assert source.class_names == ("zero", "one", "two")
    examples = {int(source[i]["labels"][0]): source[i] for i in range(3)}
    assert examples[2]["crowd"].tolist() in ([True], [False])
    assert all(example["area"].tolist() == [3] for example in examples.values())
    assert sum(bool(source[i]["crowd"][0]) for i in range(len(source))) == 1
    with pytest.raises(UserError, match=r"tfds:tiny: needs a list of boxes \(objects or faces"):
        opened("tiny")


def test_boxes_of_stored_pixels_are_turned(data_dir):
    """TFDS decodes without EXIF, so its boxes are of the picture as stored."""
    source = data.open_source("tfds:tiny_photos", "train", formats=data.BOX_FORMATS,
                              data_dir=data_dir)  # fmt: skip
    example = source[0]
    # The first row, of five pixels, becomes the last column.
    assert example["image"].shape == (5, 4, 3)
    np.testing.assert_allclose(example["boxes"], [[3, 0, 4, 5]], atol=1e-6)
