"""R-CNN's windows: the list, the sampling, and batches as functions of the step."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.batches import KeptRows, TrainingBatches
from cnn_jax.data.source import unchanged
from cnn_jax.data.windows import WindowOrder, Windows, WindowSource
from cnn_jax.errors import UserError
from cnn_jax.ops import boxes as box_ops


def batch(seed, images=3, objects=3, proposals=10):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 10, (images, objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 8, corner.shape)], axis=-1)
    near = boxes[:, rng.integers(objects, size=proposals)] + rng.normal(
        0, 1, (images, proposals, 4)
    )
    return {
        "boxes": boxes.astype(np.float32),
        "labels": rng.integers(4, size=(images, objects)).astype(np.int32),
        "object_valid": rng.random((images, objects)) < 0.8,
        "crowd": rng.random((images, objects)) < 0.2,
        "difficult": rng.random((images, objects)) < 0.2,
        "proposals": near.astype(np.float32),
        "proposal_valid": rng.random((images, proposals)) < 0.9,
        "valid": np.array([True, True, False]),
        "index": np.array([7, 8, 0], np.int32),
    }


def test_windows_are_all_regions_with_their_labels():
    given = [batch(0), batch(1)]
    result = Windows.of(given, foreground_iou=0.6)
    expected = []
    for one in given:
        for row in range(2):
            trained = one["object_valid"][row] & ~one["crowd"][row] & ~one["difficult"][row]
            regions = np.concatenate([one["boxes"][row], one["proposals"][row]])
            filled = np.concatenate([trained, one["proposal_valid"][row]])
            overlaps = np.array(box_ops.iou(jnp.array(regions), jnp.array(one["boxes"][row])))
            overlaps[:, ~trained] = -1
            for region, overlap, ok in zip(regions, overlaps, filled, strict=True):
                if ok:
                    best = overlap.argmax()
                    stands = overlap[best] >= np.float32(0.6)
                    label = one["labels"][row, best] + 1 if stands else 0
                    expected.append((one["index"][row], label, *region))
    assert len(result) == len(expected)
    rows = np.column_stack([result.image, result.labels, result.boxes])
    np.testing.assert_allclose(rows, np.array(expected, np.float32), rtol=1e-6)
    assert (result.labels > 0).any() and (result.labels == 0).any()


LABELS = np.array([0] * 90 + [1, 2, 3] * 4)


def test_a_batch_has_its_fraction_of_objects_and_depends_only_on_its_number():
    order = WindowOrder(LABELS, batch_size=16, seed=3)
    positions = np.arange(16 * 5)
    indices = order(positions)
    for step in range(5):
        drawn = indices[16 * step : 16 * step + 16]
        assert (LABELS[drawn] > 0).sum() == 4
        np.testing.assert_array_equal(order(np.arange(16 * step, 16 * step + 16)), drawn)
        # One process's rows are the same as in the whole batch.
        np.testing.assert_array_equal(order(np.arange(16 * step + 8, 16 * step + 12)), drawn[8:12])
    assert len(np.unique(indices)) > 30
    other = WindowOrder(LABELS, batch_size=16, seed=4)(positions)
    assert (other != indices).any()
    shares = [(LABELS[order(np.arange(16 * k, 16 * k + 8))] > 0).sum() for k in range(40)]
    assert 0 < np.mean(shares) < 4 and len(set(shares)) > 1


@pytest.mark.parametrize(("labels", "foreground"), [([0] * 5, 0), ([1] * 5, 8), ([0, 2], 2)])
def test_where_a_kind_is_missing_the_other_fills_the_batch(labels, foreground):
    labels = np.array(labels)
    drawn = WindowOrder(labels, batch_size=8, seed=0)(np.arange(8))
    assert (labels[drawn] > 0).sum() == foreground


def test_without_any_window_there_is_nothing_to_train_on():
    with pytest.raises(UserError, match="no region to train on"):
        WindowOrder(np.zeros(0, int), 8, 0)


class Images:
    class_names = ("a", "b")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": np.full((2, 2, 3), index, np.uint8)}

    def describe(self, index):
        return f"image {index}"


def test_batches_from_anywhere_are_the_same():
    windows = Windows(
        np.array([0, 1, 2, 3, 3], np.int32),
        np.arange(20, dtype=np.float32).reshape(5, 4),
        np.array([0, 0, 1, 2, 0], np.int32),
    )
    source = WindowSource(KeptRows(Images(), unchanged, 10**6), windows)
    assert len(source) == 5 and source.describe(4) == "image 3"
    order = WindowOrder(windows.labels, 4, seed=1)
    batches = TrainingBatches(source, unchanged, batch_size=4, seed=1, order=order)
    first = batches[3]
    iterator = batches.iterate(3)
    again = next(iterator)
    iterator.close()
    for name, column in first.items():
        np.testing.assert_array_equal(again[name], column)
    assert (first["label"] > 0).sum() == 1
    np.testing.assert_array_equal(first["ordinal"], [12, 13, 14, 15])
    for row in range(4):
        window = first["index"][row]
        np.testing.assert_array_equal(first["box"][row], windows.boxes[window])
        assert (first["image"][row] == windows.image[window]).all()
