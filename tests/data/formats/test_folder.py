"""Folders of images: which files, which classes, which split, and what can be wrong with them."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn_jax import data
from cnn_jax.data.formats.folder import FolderSource
from cnn_jax.data.source import Source, Subset, find_bad_images, without
from cnn_jax.errors import UserError


def write(path: Path, value: int = 0, size: tuple[int, int] = (4, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def fill(place: Path, counts: dict[str, int], pattern: str = "{:03}.png") -> None:
    for class_name, count in counts.items():
        for number in range(count):
            write(place / class_name / pattern.format(number))


def files(source: FolderSource, root: Path) -> list[str]:
    return [str(Path(source.describe(i)).relative_to(root)) for i in range(len(source))]


def open_all(root: Path, **options) -> dict[str, list[str]]:
    return {
        split: files(data.open_source(f"folder:{root}", split, **options), root)
        for split in ("train", "eval", "test")
    }


def problem(spec: str, split: str = "train", **options) -> str:
    with pytest.raises(UserError) as caught:
        data.open_source(spec, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_examples_classes_and_order(tmp_path):
    write(tmp_path / "train/zebra/b.PNG", 3, (5, 7))
    write(tmp_path / "train/zebra/deep/er/a.bmp", 4)
    write(tmp_path / "train/ape/x.jpeg", 5)
    write(tmp_path / "train/ape/y.webp", 6)
    for other in ("train/ape/notes.txt", "train/ape/.hidden.png", "train/readme.md"):
        (tmp_path / other).write_text("not an image")
    (tmp_path / "train/.cache").mkdir()
    write(tmp_path / "val/ape/1.png")
    write(tmp_path / "val/zebra/1.png")
    source = data.open_source(f"folder:{tmp_path}", "train")
    assert isinstance(source, Source)
    assert source.class_names == ("ape", "zebra")
    assert files(source, tmp_path / "train") == [
        "ape/x.jpeg",
        "ape/y.webp",
        "zebra/b.PNG",
        "zebra/deep/er/a.bmp",
    ]
    labels = [source[i]["label"] for i in range(4)]
    assert labels == [0, 0, 1, 1] and labels[0].dtype == np.int32
    np.testing.assert_array_equal(source[2]["image"], np.full((5, 7, 3), 3))
    assert [source.size(i) for i in range(4)] == [(4, 6), (4, 6), (5, 7), (4, 6)]
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize(
    ("present", "evaluation", "test"),
    [
        (("train", "val", "test"), "val", "test"),
        (("train", "val"), "val", "val"),
        (("train", "test"), "test", "test"),
        (("train", "validation"), "validation", "validation"),
        (("val", "test"), "val", "test"),
    ],
)
def test_folders_of_splits(tmp_path, present, evaluation, test):
    for name in present:
        fill(tmp_path / name, {"a": 2, "b": 1})
    for split, place in (("train", "train"), ("eval", evaluation), ("test", test)):
        if place in present:
            source = data.open_source(f"folder:{tmp_path}", split)
            assert files(source, tmp_path / place) == ["a/000.png", "a/001.png", "b/000.png"]
        else:
            message = problem(f"folder:{tmp_path}", split)
            assert message == f"{tmp_path}: has no folder train/ (it has: test/, val/)"


@pytest.mark.parametrize("prefix", ["", "train"])
def test_evaluation_held_out_by_name(tmp_path, prefix):
    place = tmp_path / prefix
    fill(place, {"many": 40, "few": 3, "one": 1})
    held = open_all(tmp_path)
    assert held["eval"] == held["test"]
    assert sorted(held["train"] + held["eval"]) == sorted(
        str(path.relative_to(tmp_path)) for path in place.rglob("*.png")
    )
    counts = {
        name: sum(f"{name}/" in file for file in held["eval"]) for name in ("many", "few", "one")
    }
    # A tenth of each class, at least one where that leaves one to train on.
    assert counts == {"many": 4, "few": 1, "one": 0}
    # The run's seed does not move files between the splits, nor do new files in another class.
    fill(place, {"more": 10})
    again = open_all(tmp_path, seed=5)
    assert [file for file in again["eval"] if "more" not in file] == held["eval"]


def test_the_held_out_share(tmp_path):
    fill(tmp_path, {"a": 30, "b": 10})
    held = open_all(tmp_path, holdout_fraction=0.5)
    assert sum(file.startswith("a/") for file in held["eval"]) == 15
    assert sum(file.startswith("b/") for file in held["eval"]) == 5
    # More is held out on top of what a smaller share would hold out.
    assert set(open_all(tmp_path, holdout_fraction=0.2)["eval"]) < set(held["eval"])


def test_no_share_is_held_out(tmp_path):
    fill(tmp_path, {"a": 4, "b": 1})
    assert len(data.open_source(f"folder:{tmp_path}", "train", holdout_fraction=0.0)) == 5
    assert f"add {tmp_path}/val/" in problem(f"folder:{tmp_path}", "eval", holdout_fraction=0.0)
    assert "holdout_fraction 1.0: must be in [0, 1)" in problem(
        f"folder:{tmp_path}", holdout_fraction=1.0
    )


def test_nothing_to_hold_out(tmp_path):
    fill(tmp_path, {"a": 1, "b": 1})
    assert len(data.open_source(f"folder:{tmp_path}", "train")) == 2
    assert "too few files" in problem(f"folder:{tmp_path}", "eval")


@given(
    tracks=st.dictionaries(
        st.sampled_from(["stop", "give way", "50"]),
        st.lists(st.integers(1, 4), min_size=1, max_size=6),
        min_size=2,
    ),
    fraction=st.floats(0.05, 0.9),
)
@settings(max_examples=20, deadline=None)
def test_tracks_are_never_divided(tmp_path_factory, tracks, fraction):
    root = tmp_path_factory.mktemp("signs")
    for class_name, lengths in tracks.items():
        for track, length in enumerate(lengths):
            for frame in range(length):
                write(root / "train" / class_name / f"{track:05}_{frame:05}.png")
        write(root / "test" / class_name / "00000.png")
    options = {"holdout_groups": r"(\d+)_", "holdout_fraction": fraction}
    train = files(data.open_source(f"folder:{root}", "train", **options), root)
    test = files(data.open_source(f"folder:{root}", "test", **options), root)
    assert test == [f"test/{class_name}/00000.png" for class_name in sorted(tracks)]
    if all(len(lengths) == 1 for lengths in tracks.values()):
        assert "too few files" in problem(f"folder:{root}", "eval", **options)
        return
    evaluation = files(data.open_source(f"folder:{root}", "eval", **options), root)
    assert sorted(train + evaluation) == sorted(
        str(path.relative_to(root)) for path in (root / "train").rglob("*.png")
    )

    def groups(names):
        return {(name.split("/")[1], name.split("/")[2].split("_")[0]) for name in names}

    assert not groups(train) & groups(evaluation)
    for class_name, lengths in tracks.items():
        held = sum(name == class_name for name, _ in groups(evaluation))
        assert held == min(max(round(fraction * len(lengths)), 1), len(lengths) - 1)


def test_groups_that_do_not_fit(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    assert "does not match the file name a/000.png" in problem(
        f"folder:{tmp_path}", holdout_groups=r"(\d+)_"
    )
    assert "not a regular expression" in problem(f"folder:{tmp_path}", holdout_groups="(")


def test_missing_folder(tmp_path):
    assert problem(f"folder:{tmp_path}/gone") == f"--data folder:{tmp_path}/gone: no such folder"
    file = write(tmp_path / "picture.png")
    assert "is not a folder" in problem(f"folder:{file}")
    assert "folder:DIR" in problem("folder:")


def test_no_classes(tmp_path):
    assert "no class folders" in problem(f"folder:{tmp_path}")
    write(tmp_path / "loose.png")
    assert "no class folders" in problem(f"folder:{tmp_path}")


def test_an_empty_class_is_named(tmp_path):
    for name in ("train", "val"):
        fill(tmp_path / name, {"full": 2})
        (tmp_path / name / "hollow").mkdir()
        (tmp_path / name / "hollow" / "notes.txt").write_text("no image")
    message = problem(f"folder:{tmp_path}")
    assert message.startswith(f"{tmp_path}/train/hollow: class folder without images")
    # A folder for evaluation may lack a rare class.
    write(tmp_path / "train/hollow/0.png")
    held_out = data.open_source(f"folder:{tmp_path}", "eval")
    assert held_out.class_names == ("full", "hollow") and held_out.labels.tolist() == [0, 0]
    for path in (tmp_path / "val").rglob("*.png"):
        path.unlink()
    assert problem(f"folder:{tmp_path}", "eval").startswith(f"{tmp_path}/val: no images")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_classes_that_only_evaluation_has_are_refused(tmp_path, split):
    fill(tmp_path / "train", {"a": 1, "b": 1})
    fill(tmp_path / "val", {"a": 1, "b": 1, "c": 1})
    message = problem(f"folder:{tmp_path}", split)
    assert message.startswith(f"{tmp_path}/train: has no folder for the class 'c'")


def test_labels_keep_their_places_where_evaluation_lacks_a_class(tmp_path):
    fill(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    fill(tmp_path / "val", {"a": 1, "c": 2})
    held_out = data.open_source(f"folder:{tmp_path}", "eval")
    assert held_out.class_names == ("a", "b", "c") and held_out.labels.tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    ("training", "validation", "test"),
    [
        ("Training", None, "Testing"),
        ("TRAIN", "Valid", "test"),
        ("training_set", "dev", "test_set"),
        ("train2017", "val2017", None),
        ("train-images", "Validation Images", "TestData"),
    ],
)
def test_splits_by_any_of_their_usual_names(tmp_path, training, validation, test):
    numbers = {training: 3, validation: 2, test: 1}
    for name, number in numbers.items():
        if name is not None:
            fill(tmp_path / name, {"a": number, "b": number})
    for split, name in (
        ("train", training), ("eval", validation or test), ("test", test or validation)
    ):  # fmt: skip
        source = data.open_source(f"folder:{tmp_path}", split)
        assert source.class_names == ("a", "b") and source.notices == ()
        assert len(source) == 2 * numbers[name]
        assert {Path(file).parts[0] for file in files(source, tmp_path)} == {name}


def test_a_class_called_like_a_split_stays_a_class(tmp_path):
    fill(tmp_path, {"bus": 10, "car": 10, "train": 10})
    source = data.open_source(f"folder:{tmp_path}", "train")
    assert source.class_names == ("bus", "car", "train") and len(source) == 27
    assert source.notices == (f"{tmp_path}: train/ is taken for a class, not for a split",)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("train/0.png test/0.png", "no class folders: test/, train/ are called like splits"),
        ("train/0.png test/0.png car/0.png", "test/, train/ are called like splits, car/ like"),
        ("seg_train/a/0.png seg_test/a/0.png", "seg_test/, seg_train/ look like splits"),
        ("a/train/0.png a/test/0.png b/train/0.png b/test/0.png", "splits lie below the classes"),
        ("data/a/0.png data/b/0.png", "(a/, b/) are the classes, give folder:{root}/data"),
        ("data/train/a/0.png data/train/b/0.png", "give folder:{root}/data"),
        ("train/data/a/0.png train/data/b/0.png", "(a/, b/) are the classes, move them to {root}"),
        ("only/0.png only/1.png", "a single class folder, only/; a classifier needs two"),
        ("test/a/0.png test/b/0.png more/c/0.png", "test/ holds class folders as a split does"),
        ("train/a/0.png train/b/0.png val/0.png", "val: no class folders"),
        ("train/a/0.png train/b/0.png val/a/1.png valid/a/1.png", "both mean the split 'val'"),
    ],
)
def test_folders_that_are_not_classes(tmp_path, paths, message):
    for path in paths.split():
        write(tmp_path / path)
    assert message.format(root=tmp_path) in problem(f"folder:{tmp_path}")


def test_what_is_left_out_or_nested_is_told(tmp_path):
    for name in ("a/x/0.png", "a/y/1.png", "b/0.png", "b/more/1.png"):
        write(tmp_path / "train" / name)
    write(tmp_path / "test/0.png")
    write(tmp_path / "extra/0.png")
    write(tmp_path / "train/loose.jpg")
    for name in ("._0.png", "0.xml", "1.xml", "notes", "Thumbs.db"):
        (tmp_path / "train/b" / name).write_text("no image")
    source = data.open_source(f"folder:{tmp_path}", "train", holdout_fraction=0.0)
    assert len(source) == 4
    assert source.notices == (
        f"{tmp_path}/test: left out, as it has no class folders",
        f"{tmp_path}: left out extra/, beside the folders of splits",
        f"{tmp_path}/train: 1 of the 2 class folders hold only folders (such as a/x/); what lies "
        "below counts as the upper folder's class",
        f"{tmp_path}/train: 1 image lies beside the class folders, left out",
        f"{tmp_path}/train: 3 files were left out, as no images: 2 .xml, 1 without an ending",
    )


def test_every_format_of_images_is_read_whatever_the_ending(tmp_path):
    kinds = {"a.jpg": "JPEG", "b.jfif": "JPEG", "c.tif": "TIFF", "d.TIFF": "TIFF", "e.gif": "GIF",
             "f.ppm": "PPM", "g.pgm": "PPM", "h.webp": "WEBP", "i.png": "TIFF", "j": "PNG",
             "k.dat": "BMP"}  # fmt: skip
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for file, kind in kinds.items():
            mode = "L" if file == "g.pgm" else "RGB"
            Image.new(mode, (6, 4), 0).save(tmp_path / name / file, kind)
    source = data.open_source(f"folder:{tmp_path}", "train", holdout_fraction=0.0)
    assert files(source, tmp_path) == [f"{name}/{file}" for name in "xy" for file in sorted(kinds)]
    assert all(source[i]["image"].shape == (4, 6, 3) for i in range(len(source)))
    assert source.notices == ()


def test_what_is_no_file_is_left_out_and_told(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    os.mkfifo(tmp_path / "a/pipe.png")
    (tmp_path / "a/zero.png").symlink_to("/dev/zero")
    (tmp_path / "a/gone.png").symlink_to("nowhere.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    (tmp_path / "b/again").symlink_to(tmp_path, target_is_directory=True)
    os.rename(tmp_path / "a/000.png", os.fsencode(tmp_path) + b"/a/\xff.png")
    source = data.open_source(f"folder:{tmp_path}", "train", holdout_fraction=0.0)
    assert [source[i]["label"] for i in range(3)] == [0, 0, 0]
    assert len(source) == 6
    assert source.notices[-1].startswith(f"{tmp_path}: 5 files were left out, as no images: ")
    for kind in ("1 named pipe", "1 device", "2 broken link", "1 link to a folder above it"):
        assert kind in source.notices[-1]
    assert len(data.open_source(f"folder:{tmp_path}", "eval")) >= 2


@given(data_=st.data())
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory, data_):
    root = tmp_path_factory.mktemp("folder")
    name = st.text("ab1 -_é猫", min_size=1, max_size=6).filter(lambda n: n == n.strip())
    names = data_.draw(st.lists(name, min_size=2, max_size=4, unique=True))
    layouts = (
        {"train": "Training", "eval": "val", "test": "TEST"},
        {"train": "training_set", "eval": "dev"},
        {"train": ""},
    )
    splits = {}
    for split, place in data_.draw(st.sampled_from(layouts)).items():
        written = {}
        for class_name in names:
            for file in data_.draw(st.lists(name, min_size=1, max_size=3, unique=True)):
                path = write(root / place / class_name / f"{file}.png", len(written))
                written[str(path)] = (class_name, len(written))
        splits[split] = written
    for split, written in splits.items():
        source = data.open_source(f"folder:{root}", split, holdout_fraction=0.0)
        for index in range(len(source)):
            class_name, value = written.pop(source.describe(index))
            assert source.class_names[source[index]["label"]] == class_name
            assert source[index]["image"][0, 0, 0] == value
        assert not written


def test_specs_that_name_no_format(tmp_path):
    assert f"folder:{tmp_path}" in problem(str(tmp_path))
    assert "did you mean folder?" in problem("foldr:x")
    assert "shapes, folder, tfds" in problem("hdf5:x")


def test_large_photos_may_be_read_small(tmp_path):
    path = tmp_path / "a" / "large.jpg"
    path.parent.mkdir()
    Image.fromarray(np.zeros((256, 512, 3), np.uint8)).save(path)
    write(tmp_path / "b" / "other.png")
    assert data.open_source(f"folder:{tmp_path}", "train")[0]["image"].shape == (256, 512, 3)
    small = data.open_source(f"folder:{tmp_path}", "train", draft_size=64)
    assert small[0]["image"].shape == (64, 128, 3)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_bad_images_are_found_and_left_out(tmp_path, workers, capsys):
    fill(tmp_path, {"a": 30, "b": 30})
    whole = (tmp_path / "a/000.png").read_bytes()
    bad = {"a/003.png": b"", "a/029.png": b"just text", "b/017.png": whole[: len(whole) // 2]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    source = data.open_source(f"folder:{tmp_path}", "train", holdout_fraction=0.0)
    everything = files(source, tmp_path)
    result = find_bad_images(source, workers)
    expected = [index for index, name in enumerate(everything) if name in bad]
    assert expected and list(result) == expected
    for index, reason in result.items():
        assert reason.startswith(source.describe(index)) and "\n" not in reason
    kept = without(source, result)
    assert files(kept, tmp_path) == [name for name in everything if name not in bad]
    assert kept.class_names == source.class_names
    assert all(kept[index]["image"].shape == (4, 6, 3) for index in range(len(kept)))
    capsys.readouterr()


def test_leaving_out_nothing_or_everything(tmp_path):
    fill(tmp_path, {"a": 1, "b": 1})
    source = data.open_source(f"folder:{tmp_path}", "train")
    assert without(source, {}) is source
    with pytest.raises(UserError, match="all 2 images"):
        without(source, {0: "damaged", 1: "damaged"})


def test_a_subset_renumbers(tmp_path):
    for number in range(5):
        write(tmp_path / "ab"[number == 4] / f"{number}.png", number)
    source = data.open_source(f"folder:{tmp_path}", "train", holdout_fraction=0.0)
    subset = Subset(source, [3, 0])
    assert subset.labels.tolist() == [0, 0] and subset.files == [source.files[3], source.files[0]]
    assert len(subset) == 2
    assert [int(subset[i]["image"][0, 0, 0]) for i in range(2)] == [3, 0]
    assert subset.describe(0) == source.describe(3)
