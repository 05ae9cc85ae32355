"""A user's error is one line that can be printed, whatever stands in the names and values."""

import pytest

from cnn_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.png: is empty", "a.png: is empty"),
        ("a\nb.png:\r\nno", "a b.png: no"),
        ("a\0b: \ud800 \x1b[31m", "a\\x00b: \\ud800 \\x1b[31m"),
        ("नम.png: ½", "नम.png: ½"),
        ("x" * 10_000 + ".png: no", "x" * 200 + "..." + "x" * 45 + ".png: no"),
    ],
)
def test_one_printable_line(text, shown):
    assert str(UserError(text)) == shown


def test_a_message_of_many_words_is_cut():
    assert len(str(UserError("word " * 10_000))) < 1300
    assert str(UserError("must be less", "rate", "9" * 500)).startswith("rate 999")
