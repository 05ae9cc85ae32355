"""Run lengths and outlines against pycocotools, which draws the masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from cnn_jax.data.formats.run_lengths import box_of_outlines, box_of_runs, decode_counts

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)


@settings(max_examples=200, deadline=None)
@given(mask=masks)
def test_compressed_and_plain_run_lengths_give_the_box_and_area_of_the_mask(mask):
    height, width = mask.shape
    encoded = coco.encode(np.asfortranarray(mask))
    counts = decode_counts(encoded["counts"].decode())
    box, area = box_of_runs(counts, height, width)
    assert sum(counts) == mask.size and area == mask.sum()
    rows, columns = np.nonzero(mask)
    if not len(rows):
        assert box == (0, 0, 0, 0)
        return
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    x, y, w, h = coco.toBbox(encoded)
    assert box == (x, y, x + w, y + h)


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 2**30), min_size=1, max_size=20))
def test_large_counts_are_decoded(counts):
    total = sum(counts)
    encoded = coco.frPyObjects({"size": [total, 1], "counts": counts}, total, 1)
    assert decode_counts(encoded["counts"].decode()) == counts


def test_a_missing_last_run_is_background():
    assert box_of_runs([5, 2], 4, 4) == ((1, 1, 2, 3), 2)
    assert box_of_runs([], 4, 4) == ((0, 0, 0, 0), 0)


@pytest.mark.parametrize("text", ["P" * 50, "~", "\x00", "1é", "o"])
def test_texts_that_are_no_run_lengths_are_refused(text):
    with pytest.raises(ValueError, match="run lengths"):
        decode_counts(text)


@pytest.mark.parametrize("counts", [[17], [-1, 3], [3, 10**400], [8, 8, 8]])
def test_run_lengths_must_fit_their_mask(counts):
    with pytest.raises(ValueError, match="do not fit a mask of 4 x 4"):
        box_of_runs(counts, 4, 4)


def test_outlines_give_the_box_around_all_parts():
    triangle, square = [0, 0, 4, 0, 0, 3], [10, 10, 12, 10, 12, 12, 10, 12]
    assert box_of_outlines([triangle]) == ((0, 0, 4, 3), 6)
    assert box_of_outlines([triangle, square]) == ((0, 0, 12, 12), 10)
    for wrong in ([], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]]):
        with pytest.raises(ValueError, match="three points"):
            box_of_outlines(wrong)
