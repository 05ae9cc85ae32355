"""A self-contained HTML page of sections, without external fonts, pictures and scripts.

A section is any object with a `title` and an `html()`. Pages are readable in light and dark mode,
on a phone and on paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cnn_jax.reports.html import Html, join, tag
from cnn_jax.reports.style import STYLE


@runtime_checkable
class Section(Protocol):
    """A part of a page.

    Attributes:
        title: the heading.
    """

    title: str

    def html(self) -> Html:
        """Build the content below the heading."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        title: the heading.
        text: the paragraph.
    """

    title: str
    text: str

    def html(self) -> Html:
        return tag("p", self.text)


@dataclass(frozen=True)
class Lines:
    """A list of lines.

    Attributes:
        title: the heading.
        lines: the lines, in order.
        none: the paragraph in place of an empty list.
    """

    title: str
    lines: Sequence[str]
    none: str = "None."

    def html(self) -> Html:
        if not self.lines:
            return tag("p", self.none)
        return tag("ul", *(tag("li", line) for line in self.lines))


@dataclass(frozen=True)
class Table:
    """A table; text columns are aligned left, the others right, as suits numbers.

    Attributes:
        title: the heading.
        header: the names of the columns; empty for a table without a header row.
        rows: the cells, text or `Html`.
        note: the line below.
        left: the number of text columns at the left.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    left: int = 1

    def html(self) -> Html:
        def cells(row: Sequence[str], kind: str) -> list[Html]:
            return [tag(kind, c, class_=None if i < self.left else "n") for i, c in enumerate(row)]

        head = tag("thead", tag("tr", *cells(self.header, "th"))) if self.header else Html()
        body = tag("tbody", *(tag("tr", *cells(row, "td")) for row in self.rows))
        note = tag("p", self.note, class_="note") if self.note else Html()
        return join([tag("div", tag("table", head, body), class_="wide"), note])


@dataclass(frozen=True)
class Folded:
    """A section that is closed until it is clicked; it is not printed.

    Attributes:
        section: the content.
    """

    section: Section

    @property
    def title(self) -> str:
        return self.section.title

    def html(self) -> Html:
        return tag("details", tag("summary", "show"), self.section.html())


def settings_table(title: str, values: Mapping[str, Any]) -> Table:
    """Tabulate nested settings, one row each: `packages.jax`, `0.10.2`."""

    def flat(prefix: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, Mapping):
            return [row for key, item in value.items() for row in flat(f"{prefix}.{key}", item)]
        if isinstance(value, Sequence) and not isinstance(value, str):
            if any(isinstance(item, Mapping) for item in value):
                return [row for i, item in enumerate(value) for row in flat(f"{prefix}.{i}", item)]
            value = ", ".join(str(item) for item in value)
        return [(prefix[1:], "–" if value is None else str(value))]  # noqa: RUF001

    return Table(title, (), flat("", values), left=2)


def render(title: str, lead: str, sections: Sequence[Section], command: str = "") -> str:
    """Render the page as HTML.

    Args:
        title: the heading.
        lead: the summary in one sentence.
        sections: the parts, in order.
        command: the command line of the run.
    """

    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        # Without an icon, the browser would request one.
        Html('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    header = tag(
        "header",
        tag("h1", title),
        tag("p", lead, class_="lead"),
        tag("pre", command) if command else Html(),
    )
    body = [tag("section", tag("h2", part.title), part.html()) for part in sections]
    page = tag("html", head, tag("body", header, tag("main", *body)), lang="en")
    return f"<!doctype html>\n{page}\n"
