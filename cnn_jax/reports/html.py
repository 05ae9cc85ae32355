"""HTML that is escaped by construction: text is data unless `tag` built it."""

from html import escape


class Html(str):
    """Text that is already markup and is inserted into a page unchanged."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | int | float | bool | None) -> Html:
    """Build an element; children and attributes are escaped, except children that are `Html`.

    Args:
        name: the element's name, such as `td`.
        children: text or elements inside it.
        attributes: the attributes. A trailing underscore is dropped (`class_`), other underscores
            become hyphens. True gives an attribute without a value, False and None give none.
            Floats are rounded to two decimals, enough for a drawing.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}{_value(value)}"
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{text}>{join(children)}</{name}>")


def join(children: tuple[str, ...] | list[str]) -> Html:
    """Join text and elements; text is escaped."""
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children))


def bar(name: str, share: float, figures: str) -> Html:
    """Build a row of a list of bars (class `bars`): a name, a bar filled to a share, figures."""
    filled = tag("div", tag("i", style=f"width:{100 * share:.1f}%"))
    return tag("div", tag("span", name, title=name), filled, tag("span", figures), class_="bar")


def _value(value: str | int | float | bool) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f'="{escape(str(value))}"'
