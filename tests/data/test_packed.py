"""Packed data: equal to its source, whole or refused, and continued where it was stopped."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cnn_jax
from cnn_jax import data
from cnn_jax.data import packed, packing
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.packed import PackedSource, prepared
from cnn_jax.data.packing import Part
from cnn_jax.data.source import Subset
from cnn_jax.data.transforms import (
    BoxTransform,
    EvaluationTransform,
    MaskTransform,
    TrainingTransform,
)
from cnn_jax.errors import UserError

ABOUT = {"task": "classify", "data": "folder:x", "seed": 0}


class Pictures:
    """Pictures of many sizes with what each task knows of them."""

    class_names = ("even", "odd")
    notices = ("a notice",)

    def __init__(self, count=20, kind="label", fails=None, seconds=0.0):
        self.count, self.kind, self.fails, self.seconds = count, kind, fails, seconds
        self.read = Counter()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read[index] += 1
        time.sleep(self.seconds)
        if index == self.fails:
            raise UserError(f"{self.describe(index)}: damaged")
        rng = np.random.default_rng(index)
        size = rng.integers(5, 40, 2).tolist()
        example = {"image": rng.integers(0, 256, (*size, 3), np.uint8)}
        if self.kind == "label":
            return {**example, "label": np.int32(index % 2)}
        if self.kind == "tags":
            return {**example, "labels": np.array([index % 2, index % 3]) > 0}
        if self.kind == "mask":
            return {**example, "mask": rng.integers(0, 2, size, np.uint8)}
        objects = index % 4
        corners = rng.uniform(0, 4, (objects, 2))
        return {
            **example,
            "boxes": np.concatenate([corners, corners + 1], axis=1).astype(np.float32),
            "labels": rng.integers(0, 2, objects).astype(np.int32),
            "difficult": rng.random(objects) < 0.5,
            "crowd": np.zeros(objects, bool),
            "area": np.ones(objects, np.float32),
        }

    def describe(self, index):
        return f"é {index}"

    def object_count(self, index):
        return index % 4


TRANSFORMS = {
    "label": TrainingTransform(16),
    "tags": EvaluationTransform(18, 16),
    "boxes": BoxTransform(16, 2),
    "mask": MaskTransform((12, 16), margin=3, border=(10.0, 5.0), resized=True),
}


def pack(folder, part, about=ABOUT, lines=None, **others):
    notify = (lambda line: None) if lines is None else lines.append
    return packing.write(folder, {"train": part, **others}, about, ("--crop", "pad"), notify)


def assert_same_batches(ours, others):
    for step in range(3):
        mine, other = ours[step], others[step]
        assert mine.keys() == other.keys()
        for name in mine:
            assert mine[name].dtype == other[name].dtype
            assert type(mine[name]) is np.ndarray
            np.testing.assert_array_equal(mine[name], other[name])


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_batches_are_those_of_the_source(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(packing, "_BLOCK_BYTES", 2000)  # so that there are several blocks
    source, transform = Pictures(kind=kind), TRANSFORMS[kind]
    assert pack(tmp_path, Part(source, transform))
    again = PackedSource(tmp_path, "train")
    assert (again.class_names, again.notices) == (source.class_names, source.notices)
    assert [again.describe(i) for i in range(len(again))] == [f"é {i}" for i in range(20)]
    finish = prepared(again, transform)
    for batches, arguments in ((TrainingBatches, {"seed": 3}), (EvaluationBatches, {})):
        assert_same_batches(
            batches(again, finish, batch_size=6, **arguments),
            batches(source, transform, batch_size=6, **arguments),
        )
    assert_same_batches(
        TrainingBatches(Subset(again, [3, 1, 4]), finish, batch_size=2, seed=0),
        TrainingBatches(Subset(source, [3, 1, 4]), transform, batch_size=2, seed=0),
    )
    copy = pickle.loads(pickle.dumps(again))
    assert_same_batches(
        EvaluationBatches(copy, finish, batch_size=6),
        EvaluationBatches(again, finish, batch_size=6),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_worker_processes_read_packed_data(tmp_path, kind):
    pack(tmp_path, Part(Pictures(kind=kind), TRANSFORMS[kind]))
    source = PackedSource(tmp_path, "train")
    finish = prepared(source, TRANSFORMS[kind])
    batches = TrainingBatches(source, finish, batch_size=6, seed=1, workers=1)
    for step, batch in zip(range(3), batches.iterate(), strict=False):
        for name, column in batches[step].items():
            np.testing.assert_array_equal(batch[name], column)


def test_what_surveys_ask_is_known_without_the_images(tmp_path):
    labelled, boxed, masked = (tmp_path / name for name in ("labels", "boxes", "masks"))
    pack(labelled, Part(Pictures(), TRANSFORMS["label"]))
    np.testing.assert_array_equal(PackedSource(labelled, "train").labels, np.arange(20) % 2)
    pack(boxed, Part(Pictures(kind="boxes"), TRANSFORMS["boxes"]))
    boxes = PackedSource(boxed, "train")
    assert [boxes.object_count(i) for i in range(20)] == [i % 4 for i in range(20)]
    np.testing.assert_array_equal(boxes.object_counts(), np.arange(20) % 4)
    assert boxes.labels is None
    source = Pictures(kind="mask")
    pack(masked, Part(source, TRANSFORMS["mask"]))
    masks = PackedSource(masked, "train")
    assert masks.size(0) == masks.mask(0).shape == (12, 16)
    for index in range(20):  # those of the mask itself, not of its canvas
        pixels = np.bincount(source[index]["mask"].ravel(), minlength=2)
        np.testing.assert_array_equal(masks.mask_counts(index), pixels)


def test_a_run_that_needs_other_canvases_is_refused(tmp_path):
    pack(tmp_path, Part(Pictures(), TrainingTransform(16)))
    source = PackedSource(tmp_path, "train")
    with pytest.raises(UserError) as caught:
        prepared(Subset(source, [0, 1]), TrainingTransform(24))
    assert str(caught.value) == (
        f"packed:{tmp_path}: packed with canvas_size 16, not 24 as this run needs; pack the data "
        "for it, or give the flags that it was packed with (--crop pad)"
    )
    for other in (TrainingTransform(16, keep_aspect=True), EvaluationTransform(18, 16)):
        with pytest.raises(UserError, match="packed with"):
            prepared(source, other)
    with pytest.raises(UserError, match="was packed for classify, not for segment"):
        data.open_source(f"packed:{tmp_path}", "train", formats=data.MASK_FORMATS)


def test_splits_of_the_same_examples_are_stored_once(tmp_path):
    evaluated = Part(Pictures(8), EvaluationTransform(18, 16))
    pack(tmp_path, Part(Pictures(), TrainingTransform(16)), eval=evaluated, test=evaluated)
    assert {path.name for path in tmp_path.iterdir()} == {"train", "eval", "manifest.json"}
    held_out, test = PackedSource(tmp_path, "eval"), PackedSource(tmp_path, "test")
    assert len(test) == len(held_out) == 8
    np.testing.assert_array_equal(test[5]["image"], held_out[5]["image"])


def test_a_stopped_command_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_BLOCK_BYTES", 3000)  # three examples and some
    monkeypatch.setattr(packing, "in_threads", in_order)
    whole, half = tmp_path / "whole", tmp_path / "half"
    pack(whole, Part(Pictures(), TrainingTransform(16)))
    with pytest.raises(UserError, match="damaged"):
        pack(half, Part(Pictures(fails=13), TrainingTransform(16)))
    with pytest.raises(UserError, match="packing was stopped before its end"):
        PackedSource(half, "train")
    # Another command in the same folder, and half a line of the block that was being written.
    with pytest.raises(UserError, match="holds a part of other packed data"):
        pack(half, Part(Pictures(), TrainingTransform(17)))
    with (half / "train" / "progress.jsonl").open("a") as file:
        file.write('{"rows": 4, "fil')
    with (half / "train" / "image.bin").open("ab") as file:
        file.write(b"more")
    source, lines = Pictures(), []
    assert pack(half, Part(source, TrainingTransform(16)), lines=lines)
    assert lines[1] == f"{half}/train: going on after 12 of 20 examples"
    assert set(source.read) == {0, *range(12, 20)}  # the first one tells the shapes
    assert contents(half) == contents(whole)
    assert not pack(half, Part(source, TrainingTransform(16)))
    with pytest.raises(UserError, match="other data is packed there"):
        pack(half, Part(source, TrainingTransform(18)))


def in_order(function, items, title, at_once):
    return map(function, items)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


KILLED = """
import sys
from pathlib import Path
from cnn_jax.data import packing
from cnn_jax.data.transforms import TrainingTransform
sys.path.insert(0, {tests!r})
from tests.data.test_packed import ABOUT, Pictures
packing._BLOCK_BYTES = 3000
part = packing.Part(Pictures(200, seconds={seconds}), TrainingTransform(16))
packing.write(Path({folder!r}), {{"train": part}}, ABOUT, (), lambda line: None)
"""


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path):
    root = Path(cnn_jax.__file__).parents[1]

    def run(folder, seconds):
        code = KILLED.format(tests=str(root), folder=str(folder), seconds=seconds)
        return subprocess.Popen([sys.executable, "-c", code], env=os.environ, cwd=root)

    assert run(tmp_path / "whole", 0).wait(120) == 0
    killed, progress = tmp_path / "killed", tmp_path / "killed" / "train" / "progress.jsonl"
    for least in (1, 20, 45):
        process = run(killed, 0.02)
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if progress.exists() and progress.read_text().count("\n") > least:
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert run(killed, 0).wait(120) == 0
    assert contents(killed) == contents(tmp_path / "whole")


def test_damaged_files_are_refused_with_one_line(tmp_path):
    pack(tmp_path, Part(Pictures(), TrainingTransform(16)))
    image, label = tmp_path / "train" / "image.bin", tmp_path / "train" / "label.bin"
    manifest = tmp_path / "manifest.json"

    def refused(path, content, words, read=lambda: PackedSource(tmp_path, "train")):
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read()
        path.write_bytes(before)
        message = str(caught.value)
        assert message.startswith(str(path)) and words in message and "\n" not in message

    pixels, flipped = image.read_bytes(), bytearray(image.read_bytes())
    flipped[5000] ^= 1
    refused(image, pixels[:-1], "has 15,359 bytes, not 15,360 as when it was written")
    refused(image, bytes(flipped), "damaged: bytes 0 to 15,360", lambda: packed.verify(tmp_path))
    refused(label, bytes(80), "damaged: bytes 0 to 80")
    refused(manifest, b"{", "not JSON")
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["head"]["class_names"] = ["a", "b"]
    refused(manifest, json.dumps(content).encode(), "changed since it was written")
    image.unlink()
    with pytest.raises(UserError, match=f"{image}: cannot be read"):
        PackedSource(tmp_path, "train")
    manifest.unlink()
    with pytest.raises(UserError, match="no packed data there"):
        PackedSource(tmp_path, "train")


def test_whole_packed_data_passes_its_checksums(tmp_path):
    pack(tmp_path, Part(Pictures(kind="boxes"), TRANSFORMS["boxes"]))
    assert packed.verify(tmp_path) == [
        f"{tmp_path}: train: all bytes of 20 examples are as written"
    ]


def test_what_the_disk_has_no_room_for_is_refused_before_it_is_written(tmp_path, monkeypatch):
    usage = packing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    lines = []
    with pytest.raises(UserError, match=r"would take 0\.0 MB, and the disk has"):
        pack(tmp_path, Part(Pictures(), TrainingTransform(16)), lines=lines)
    assert "train 20 examples" in lines[0]
    assert not list(tmp_path.rglob("*.bin"))


def test_examples_of_other_shapes_are_refused(tmp_path):
    masks = Part(Pictures(kind="mask"), MaskTransform((5, 5)))
    with pytest.raises(UserError, match="give --image-shape"):
        pack(tmp_path, masks)
