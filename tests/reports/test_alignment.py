"""Alignments as heat maps: words on both axes, weights in the cells, fonts for every script."""

import io

import numpy as np
from PIL import Image

from cnn_jax.reports.alignment import Alignment, Alignments, draw, fonts_for

WEIGHTS = np.array([[0.9, 0.1, 0.0], [0.0, 0.25, 0.75]], np.float32)
ALIGNMENT = Alignment(["Singapore", "<b>", "$x"], ["新", "坡"], WEIGHTS, "reference: 新加坡")


def test_the_section_names_words_and_weights():
    html = Alignments("Alignments", [ALIGNMENT]).html()
    for text in ("Singapore", "&lt;b&gt;", "新 ← Singapore: 0.90", "坡 ← $x: 0.75", "reference"):
        assert text in html
    assert html.count('class="hit"') == 4  # Zero weights are not drawn.
    assert 'fill-opacity="0.75"' in html


def test_the_picture_is_darkest_where_the_weight_is():
    words = ["a", "b", "c"]
    data, missing = draw(Alignment(words, words[:2], WEIGHTS))
    assert missing == ""
    with Image.open(io.BytesIO(data)) as picture:
        grey = np.asarray(picture.convert("L"), float)
    height, width = grey.shape
    # The cells fill most of the lower right of the picture; its two rows differ as the weights do.
    first, second = (grey[int(height * y), :] for y in (0.45, 0.8))
    assert first[int(width * 0.3)] < 120
    assert second[int(width * 0.3)] > 200
    assert second[int(width * 0.85)] < first[int(width * 0.85)]


def test_characters_without_a_font_are_returned():
    assert fonts_for("Straße é") == (["DejaVu Sans"], "")
    families, missing = fonts_for("a\U0010fffd")
    assert families == ["DejaVu Sans"]
    assert missing == "\U0010fffd"
    data, missing = draw(Alignment(["\U0010fffd"], ["a"], np.ones((1, 1), np.float32)))
    assert data.startswith(b"\x89PNG")
    assert missing == "\U0010fffd"
