"""Repeated pictures: equal ones, copies that were encoded anew, and no others."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import duplicates
from cnn_jax.data.duplicates import Fingerprint, Fingerprints, fingerprint, repeats
from tests.near_copies import WAYS, scenes, taken


@pytest.fixture(scope="module")
def pictures():
    return scenes(64)


def test_no_scene_is_taken_for_another(pictures):
    assert len(pictures) == 720
    found = repeats(taken(pictures))
    assert (found.of == -1).all() and not found.exact.any() and not found.similarity.any()


def test_all_equal_pictures_are_found_and_most_of_those_encoded_anew(pictures):
    planted = pictures[::12]
    prints = taken(pictures)
    equal = repeats(taken(planted), prints)
    assert equal.of.tolist() == list(range(0, len(pictures), 12))
    assert equal.exact.all() and (equal.similarity == 1).all()
    for way, encode in WAYS.items():
        copies = repeats(taken([encode(Image.fromarray(p)) for p in planted]), prints)
        right = copies.of == equal.of
        assert right.mean() >= 0.9, way
        assert not (~right & (copies.of >= 0)).any()  # none is taken for another picture
        assert not copies.exact.any()


def test_within_a_split_the_earlier_one_is_repeated(pictures):
    one, two, three = pictures[:3]
    near = WAYS["JPEG 75"](Image.fromarray(one))
    found = repeats(taken([one, two, one, near, three, one]))
    assert found.of.tolist() == [-1, -1, 0, 0, -1, 0]
    assert found.exact.tolist() == [False, False, True, False, False, True]
    assert 0.99 < found.similarity[3] <= 1


def noisy(seed, count):
    """Thumbnails in groups of near ones, of many mean levels."""
    bases = np.random.default_rng(0)
    bases = bases.normal(bases.uniform(60, 190, (12, 1)), 30, (12, 256))
    rng = np.random.default_rng([seed, 1])
    prints = Fingerprints(count)
    for index in range(count):
        thumbnail = bases[rng.integers(12)] + rng.normal(0, rng.uniform(0, 8), 256)
        pixels = np.clip(np.rint(thumbnail), 0, 255).astype(np.uint8).reshape(16, 16)
        prints.add(index, Fingerprint(bytes([seed, index]), pixels, int(rng.choice([40, 100]))))
    return prints


def reference(pictures, others, earlier):
    """The nearest copy of each picture, pair by pair as the module's text defines it."""
    of = []
    for i, row in enumerate(pictures.thumbnails.astype(float)):
        best = (0.0, 0)
        for j, other in enumerate(others.thumbnails.astype(float)[: i if earlier else None]):
            small = min(pictures.sides[i], others.sides[j]) < duplicates.SMALL_SIDE
            most = duplicates.MAX_DIFFERENCE_OF_SMALL if small else duplicates.MAX_DIFFERENCE
            alike = np.corrcoef(row, other)[0, 1].round(4)
            apart = np.sqrt(((row - other) ** 2).mean())
            if alike >= duplicates.MIN_CORRELATION and apart <= most:
                best = max(best, (alike, -j))
        of.append(-best[1] if best[0] else -1)
    return of


def test_the_search_by_blocks_finds_the_nearest_pair_by_pair(monkeypatch):
    pictures, others = noisy(0, 90), noisy(1, 90)
    within, across = reference(pictures, pictures, True), reference(pictures, others, False)
    assert 20 < sum(place >= 0 for place in within) < 85
    for rows in (2048, 7):
        monkeypatch.setattr(duplicates, "_ROWS", rows)
        assert repeats(pictures).of.tolist() == within
        assert repeats(pictures, others).of.tolist() == across


def test_plain_and_unreadable_pictures_have_no_near_copies():
    plain = [np.full((80, 80, 3), level, np.uint8) for level in (255, 254, 255)]
    found = repeats(taken(plain))
    assert found.of.tolist() == [-1, -1, 0] and found.exact.tolist() == [False, False, True]
    empty = Fingerprints(3)
    assert (repeats(empty).of == -1).all()
    assert (repeats(empty, taken(plain)).of == -1).all()


def test_above_a_number_only_equal_pictures_are_looked_for(pictures, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_COMPARED", 2)
    near = WAYS["JPEG 75"](Image.fromarray(pictures[0]))
    assert repeats(taken([pictures[0], near, pictures[0]])).of.tolist() == [-1, -1, 0]


def test_a_fingerprint_is_of_the_pixels_and_their_shape():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert fingerprint(image).side == 2
    assert fingerprint(image).digest == fingerprint(image.copy()).digest
    assert fingerprint(image).digest != fingerprint(image.reshape(4, 2, 3)).digest
