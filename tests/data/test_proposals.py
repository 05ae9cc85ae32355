"""Region proposals: the boxes of each method, and their cache."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from safetensors.numpy import save

from cnn_jax.data.formats.shape_boxes import ShapeBoxesSource
from cnn_jax.data.proposals import Proposals, dense_grid, edge_boxes, selective_search
from cnn_jax.data.proposals.edge_boxes import edge_map
from cnn_jax.data.proposals.source import ProposalSource, prepare
from cnn_jax.data.proposals.transform import ProposalTransform
from cnn_jax.data.source import Subset
from cnn_jax.data.transforms import BoxTransform
from cnn_jax.errors import UserError


def scene(index=0, size=48):
    return ShapeBoxesSource("train", 0, size)[index]


def recall(proposals, objects, threshold=0.5):
    lower = np.maximum(proposals[:, None, :2], objects[None, :, :2])
    upper = np.minimum(proposals[:, None, 2:], objects[None, :, 2:])
    shared = np.maximum(upper - lower, 0).prod(axis=-1)
    first, second = ((b[:, 2:] - b[:, :2]).prod(axis=-1) for b in (proposals, objects))
    return np.mean((shared / (first[:, None] + second[None] - shared)).max(axis=0) >= threshold)


@pytest.mark.parametrize(
    "method",
    [
        Proposals("selective_search"),
        Proposals("edge_boxes", proposal_size=64),
        Proposals("grid", grid_scales=(0.3, 0.4, 0.5), grid_step=0.25),
    ],
)
def test_most_objects_are_covered_by_legal_boxes_in_an_order_that_repeats(method):
    covered = []
    for index in range(6):
        example = scene(index)
        result = method.find(example["image"])
        assert result.dtype == np.float32 and result.shape[1] == 4
        assert (result[:, 2:] > result[:, :2]).all()
        assert (result >= 0).all() and (result <= 48).all()
        assert len(np.unique(result, axis=0)) == len(result)
        selective_search(np.zeros((32, 32, 3), np.uint8))  # C's random numbers move on
        np.testing.assert_array_equal(method.find(example["image"]), result)
        covered.append(recall(result, example["boxes"]))
    assert np.mean(covered) > 0.8


def test_selective_search_puts_large_regions_early_but_does_not_sort_by_area():
    result = selective_search(scene(1, 64)["image"])
    areas = (result[:, 2:] - result[:, :2]).prod(axis=1)
    half = len(result) // 2
    assert areas[:half].mean() > 1.5 * areas[half:].mean()
    assert (np.diff(areas) > 0).any()
    other = selective_search(scene(1, 64)["image"][:, ::-1].copy())
    assert len(result) > 5 and len(other) > 5


@pytest.mark.slow
def test_the_quality_mode_returns_more_boxes():
    image = scene(2)["image"]
    assert len(selective_search(image, quality=True)) > 2 * len(selective_search(image))


@pytest.mark.parametrize("image", [np.zeros((40, 30, 3), np.uint8), np.full((17, 200, 3), 7)])
@pytest.mark.parametrize("name", ["selective_search", "edge_boxes", "grid"])
def test_an_image_of_one_colour_gives_boxes_or_none_but_no_error(name, image):
    result = Proposals(name).find(image.astype(np.uint8))
    assert result.shape[1] == 4 and np.isfinite(result).all()


def test_edges_lie_between_colours_and_point_across():
    image = np.zeros((21, 21, 3), np.uint8)
    image[:, 10:] = 200
    strength, angle = edge_map(image)
    assert (np.flatnonzero(strength[10] > 0.5) >= 9).all()
    assert (np.flatnonzero(strength[10] > 0.5) <= 10).all()
    assert strength.max() == 1
    np.testing.assert_allclose(angle[:, 9:11], 0, atol=1e-5)
    _, turned = edge_map(image.transpose(1, 0, 2).copy())
    np.testing.assert_allclose(turned[9:11], np.pi / 2, atol=1e-5)
    # A border that falls from left to right is crossed upwards to the right: 3/4 pi, y downwards.
    rows, columns = np.indices((21, 21))
    diagonal = np.where((rows > columns)[..., None], 200, 0).astype(np.uint8).repeat(3, axis=-1)
    _, slanted = edge_map(diagonal)
    np.testing.assert_allclose(slanted[8:12, 8:12].diagonal(), 3 * np.pi / 4, atol=0.05)


def test_edge_boxes_find_a_square():
    image = np.full((80, 100, 3), 60, np.uint8)
    image[20:60, 30:75] = (200, 180, 40)
    best = edge_boxes(image)[:1]
    assert recall(best, np.float32([[30, 20, 75, 60]]), 0.75) == 1


def test_the_grid_covers_every_place_with_every_shape():
    boxes = dense_grid(30, 60, (0.5, 1.0), (1.0, 2.0), step=0.5)
    sides = boxes[:, 2:] - boxes[:, :2]
    expected = [(30, 30), (30 / 2**0.5, 30), (15, 15), (15 / 2**0.5, 15 * 2**0.5)]
    shapes = np.unique(sides.round(3), axis=0)
    np.testing.assert_allclose(shapes, np.unique(np.round(np.float32(expected), 3), axis=0), 1e-4)
    areas = sides.prod(axis=1).round(3)
    assert areas[0] == areas.max() and areas[-1] == areas.min()
    assert (boxes[:, 0] == 0).any() and np.isclose(boxes[:, 2], 60).any()
    square = boxes[np.isclose(sides, 15).all(axis=1)]
    assert len(square) == 3 * 7  # steps of 7.5 over 15 and 45 pixels


def subset(count=4, size=32):
    return Subset(ShapeBoxesSource("train", 0, size), range(count))


def test_proposals_are_computed_once_and_read_again(tmp_path, monkeypatch, capsys):
    method = Proposals("selective_search", max_proposals=5)
    source = ProposalSource(subset(), method, tmp_path)
    assert prepare(source, workers=0) == 4
    assert (
        capsys.readouterr().err
        == f"finding proposals of 4 images, unless {source.folder} has them\n"
    )
    stored = sorted(tmp_path.rglob("*.safetensors"))
    assert len(stored) == 4
    before = [source[i]["proposals"] for i in range(4)]
    monkeypatch.setattr(Proposals, "find", None)
    assert prepare(source, workers=0) == 0
    for index, boxes in enumerate(before):
        np.testing.assert_array_equal(source[index]["proposals"], boxes)
        assert len(boxes) <= 5
        assert set(source[index]) == {*subset()[index], "proposals"}
    # The number of proposals used is not part of the cache key.
    more = ProposalSource(subset(), Proposals("selective_search", max_proposals=50), tmp_path)
    assert len(more[0]["proposals"]) > 5
    assert source.describe(2) == "shapes train[2]" and source.class_names == subset().class_names


def test_other_settings_and_other_pixels_are_other_entries(tmp_path):
    keys = {
        Proposals(name, size).key
        for name in ("selective_search", "selective_search_quality", "edge_boxes")
        for size in (None, 64)
    }
    assert len(keys) == 6
    source = ProposalSource(subset(1), Proposals(), tmp_path)
    source.fill(0)
    changed = dict(subset(1)[0])
    changed["image"] = changed["image"].copy()
    changed["image"][0, 0, 0] ^= 1

    class Changed:
        class_names = ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return changed

        def describe(self, index):
            return "changed"

    assert ProposalSource(Changed(), Proposals(), tmp_path).fill(0)
    assert not source.fill(0)


def test_a_damaged_entry_is_recomputed(tmp_path):
    source = ProposalSource(subset(1), Proposals(), tmp_path)
    expected = source[0]["proposals"]
    (path,) = tmp_path.rglob("*.safetensors")
    others = [save({"other": expected}), save({"boxes": expected[:, :3].copy()})]
    for content in (b"", path.read_bytes()[:-7], b"nonsense", *others):
        path.write_bytes(content)
        np.testing.assert_array_equal(source[0]["proposals"], expected)
        assert not source.fill(0)


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    source = ProposalSource(subset(1), Proposals(), tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(source, workers=0)


@pytest.mark.slow
def test_worker_processes_find_the_same(tmp_path):
    helped = ProposalSource(subset(), Proposals(), tmp_path / "helped")
    assert prepare(helped, workers=2) == 4
    alone = ProposalSource(subset(), Proposals(), tmp_path / "alone")
    for index in range(4):
        np.testing.assert_array_equal(helped[index]["proposals"], alone[index]["proposals"])


@pytest.mark.slow
def test_a_killed_search_continues(tmp_path):
    program = tmp_path / "search.py"
    program.write_text(
        textwrap.dedent(
            f"""
            from cnn_jax.data.proposals import Proposals
            from cnn_jax.data.proposals.source import ProposalSource, prepare
            from cnn_jax.data.formats.shape_boxes import ShapeBoxesSource
            from cnn_jax.data.source import Subset

            if __name__ == "__main__":
                source = Subset(ShapeBoxesSource("train", 0, 64), range(400))
                prepare(ProposalSource(source, Proposals(), {str(tmp_path)!r}), workers=1)
            """
        ).replace(f"{str(tmp_path)!r})", f"__import__('pathlib').Path({str(tmp_path)!r}))")
    )
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("*.safetensors"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(tmp_path.rglob("[!.]*.safetensors")))
    assert done < 400
    source = ProposalSource(
        Subset(ShapeBoxesSource("train", 0, 64), range(min(done, 8))), Proposals(), tmp_path
    )
    assert prepare(source, workers=0) <= 1  # at most one was unfinished
    assert not multiprocessing.active_children()


def test_the_rows_of_a_batch_are_scaled_and_padded():
    example = {
        **scene(0, 32),
        "image": np.zeros((20, 40, 3), np.uint8),
        "proposals": np.float32([[0, 0, 40, 20], [4, 5, 10, 15], [1, 1, 2, 2]]),
    }
    prepared = ProposalTransform(BoxTransform(80, 5), max_proposals=4)(example)
    np.testing.assert_allclose(prepared["proposals"][:2], [[0, 0, 80, 80], [8, 20, 20, 60]])
    np.testing.assert_array_equal(prepared["proposal_valid"], [True, True, True, False])
    assert not prepared["proposals"][3].any()
    assert prepared["boxes"].shape == (5, 4) and prepared["image"].shape == (80, 80, 3)
    cut = ProposalTransform(BoxTransform(80, 5), max_proposals=2)(example)
    assert cut["proposal_valid"].all() and len(cut["proposals"]) == 2
    none = {**example, "proposals": np.zeros((0, 4), np.float32)}
    assert not ProposalTransform(BoxTransform(80, 5), 2)(none)["proposal_valid"].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_proposals": 0}, r"^max_proposals 0: must be in \[1, "),
        ({"proposal_size": 3}, r"^proposal_size 3: must be in \[16, "),
        ({"grid_step": 0.0}, r"^grid_step 0.0: must be in \[0.1, 10\]"),
        ({"grid_scales": ()}, "^grid_scales: must be one number or more"),
        ({"grid_ratios": (1.0, -1.0)}, r"^grid_ratios 1.0 -1.0: must be in \[0.01, 100\]"),
    ],
)
def test_mistakes(fields, message):
    with pytest.raises(UserError, match=message):
        Proposals(**fields)
    # Checked by the annotation in tests, and by the command line for a user.
    with pytest.raises(TypeCheckError, match="guess"):
        Proposals("guess")
