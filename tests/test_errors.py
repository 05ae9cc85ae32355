"""A user's error is one line that can be printed, whatever stands in the names and values."""

import pytest

from cnn_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.png: is empty", "a.png: is empty"),
        ("a\nb.png: no", "a\\nb.png: no"),
        ("a\0b: \ud800 \x1b[31m", "a\\x00b: \\ud800 \\x1b[31m"),
        ("नम.png: ½", "नम.png: ½"),
    ],
)
def test_one_printable_line(text, shown):
    assert str(UserError(text)) == shown


def test_the_middle_of_a_long_message_is_left_out():
    message = str(UserError("D/" + "x" * 10_000 + ".png: no"))
    assert len(message) < 1300 and message.startswith("D/xxx") and message.endswith("x.png: no")
    assert str(UserError("must be less", "rate", "9" * 500)).startswith("rate 999")
