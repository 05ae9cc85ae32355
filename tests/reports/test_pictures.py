"""Pictures of examples, and which examples are chosen."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cnn_jax.reports.pictures import RIGHT, WRONG, Gallery, Guess, Picks, data_uri, draw_guesses


def guess(truth: str = "bicycle", image: np.ndarray | None = None) -> Guess:
    image = np.full((8, 8, 3), 77, np.uint8) if image is None else image
    guesses = [("bicycle", 0.6), ("people", 0.3), ("mountain", 0.05)]
    return Guess(image, truth, guesses, "a/b.jpg")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_text_is_what_people_read():
    assert guess().text() == "bicycle 0.60; people 0.30; mountain 0.05"
    assert guess("bicycle").right
    assert not guess("people").right


def test_small_pictures_travel_without_loss():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    uri = data_uri(image)
    assert uri.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(decoded(uri)), image)


def test_large_pictures_are_reduced():
    image = np.full((600, 300, 3), (200, 30, 40), np.uint8)
    picture = decoded(data_uri(image))
    assert picture.format == "JPEG"
    assert picture.size == (112, 224)
    assert np.abs(np.asarray(picture).astype(int) - (200, 30, 40)).max() <= 3


def test_gallery_names_truth_guesses_and_place():
    page = Gallery("", [guess("bicycle"), guess("<i>cow</i>")], "first come first").html()
    assert page.count("<img") == 2
    assert "</img>" not in page
    assert '<figure class="right">' in page
    assert '<figure class="wrong">' in page
    assert "&lt;i&gt;cow&lt;/i&gt;" in page
    assert "<i>cow" not in page
    assert re.search(r"<span>people</span><span>0\.30</span>", page)
    assert page.count('class="guess true"') == page.count('class="guess false"') == 1
    assert "a/b.jpg" in page


def test_sheet_frames_right_green_and_wrong_red():
    image = np.full((10, 10, 3), (1, 2, 250), np.uint8)
    sheet = np.asarray(draw_guesses([guess("bicycle", image), guess("people", image)], width=60))
    first, second = 12, 12 + 60 + 12  # The left edges of the two pictures.
    assert tuple(sheet[30, first - 2]) == RIGHT
    assert tuple(sheet[30, second - 2]) == WRONG
    assert tuple(sheet[30, first + 30]) == tuple(sheet[30, second + 30]) == (1, 2, 250)
    # The first guess is written in the frame's colour.
    below = sheet[12 + 60 + 8 + 17 :, first : first + 60]
    assert (np.abs(below.astype(int) - RIGHT).sum(-1) < 10).any()


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 18])
def test_sheets_of_any_number(count):
    sheet = draw_guesses([guess()] * count, columns=6, width=50)
    rows, columns = -(-count // 6), max(1, min(count, 6))
    assert sheet.width == 12 + columns * 62
    assert sheet.height == 12 + rows * (50 + 4 * 17 + 10 + 12)


def test_long_names_and_odd_shapes_fit():
    wide = np.zeros((3, 400, 3), np.uint8)
    long = Guess(wide, "x" * 300, [("y" * 300, 1.0), ("日本", 0.0)])
    assert draw_guesses([long], width=80).width == 12 + 92


def examples(count: int, classes: int = 5):
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.full(classes, 0.4), count).astype(np.float32)
    label = rng.integers(0, classes, count)
    valid = rng.random(count) < 0.9
    return np.arange(count), label, probabilities, valid


def chosen(picks: Picks) -> list[list[tuple]]:
    names = [f"class {i}" for i in range(5)]
    image = np.zeros((2, 2, 3), np.uint8)
    return [
        [(g.where, g.truth, tuple(g.guesses)) for g in guesses]
        for guesses in picks.guesses(lambda i: image, names, str)
    ]


def test_the_most_confident_mistakes_are_picked():
    index, label, probabilities, valid = examples(200)
    picks = Picks(most=7, top=2)
    picks.add(index, label, probabilities, valid)
    wrong, right = chosen(picks)
    expected = [
        (-max(p), str(i), f"class {y}")
        for i, y, p, ok in zip(index, label, probabilities, valid, strict=True)
        if ok and np.argmax(p) != y
    ]
    expected.sort()
    assert [(where, truth) for where, truth, _ in wrong] == [e[1:] for e in expected[:7]]
    for where, truth, ((best, chance), _) in [*wrong, *right]:
        i = int(where)
        assert truth == f"class {label[i]}"
        assert best == f"class {probabilities[i].argmax()}"
        assert chance == pytest.approx(probabilities[i].max())
    assert all(valid[int(where)] and truth == g[0][0] for where, truth, g in right)
    assert len(right) == 7
    assert len({where for where, *_ in right}) == 7


def test_the_choice_does_not_depend_on_the_batches():
    data = examples(150)
    whole = Picks(most=6)
    whole.add(*data)
    for size in (1, 7, 64):
        picks = Picks(most=6)
        for start in range(0, 150, size):
            picks.add(*(column[start : start + size] for column in data))
        assert chosen(picks) == chosen(whole)
