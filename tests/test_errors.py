"""Messages for a user: one line that can be printed, whatever the data hold."""

import pytest

from cnn_jax.errors import UserError, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.xml: naïve 猫", "a.xml: naïve 猫"),
        ("a\nb\r\0c\x1b[31m", r"a\nb\r\x00c\x1b[31m"),
        ("bytes \udcff, half \ud800", r"bytes \udcff, half \ud800"),
        ("\u202e\u2028", r"\u202e\u2028"),
    ],
)
def test_what_no_terminal_shows_is_written_as_an_escape(text, shown):
    assert one_line(text) == str(UserError(text)) == shown
    assert str(UserError(text, "seed", 3)) == f"seed 3: {shown}"


def test_a_long_message_keeps_its_ends():
    for text in (f"first {'x' * 100_000} last", f"first {chr(0) * 100_000} last"):
        shown = str(UserError(text))
        assert len(shown) < 1500 and shown.startswith("first ") and shown.endswith(" last")
