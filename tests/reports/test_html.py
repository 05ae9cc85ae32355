"""Nothing that comes from data can become markup."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.reports.html import Html, join, tag


class Recorder(HTMLParser):
    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_data(self, text):
        self.text += text


# A parser reads \r as \n and has no null characters.
readable = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))


@given(readable, readable)
def test_any_text_survives_and_stays_text(child, attribute):
    read = Recorder(tag("p", child, title=attribute))
    assert read.tags == [("p", {"title": attribute})]
    assert read.text == child


def test_markup_made_by_tag_is_kept():
    inner = tag("b", "a < b")
    assert tag("p", inner, " & ", Html("<br>")) == "<p><b>a &lt; b</b> &amp; <br></p>"
    assert join(["<", inner]) == "&lt;<b>a &lt; b</b>"


def test_attributes():
    assert tag("a", class_="x", stroke_width=1.25, x=3.0, y=1 / 3, hidden=True) == (
        '<a class="x" stroke-width="1.25" x="3" y="0.33" hidden></a>'
    )
    assert tag("a", title=None, hidden=False) == "<a></a>"
