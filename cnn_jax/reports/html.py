"""HTML that is escaped by construction: text is data unless it was built by `tag`."""

from html import escape


class Html(str):
    """Text that is markup already and goes into a page as it is."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | int | float | bool | None) -> Html:
    """An element; children and attributes are escaped, except children that are `Html`.

    Args:
        name: the element's name, such as `td`.
        children: text or elements inside it.
        attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens;
            True gives an attribute without value, False and None none; floats are shortened to
            two decimals, which is all a drawing needs.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}{_value(value)}"
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{text}>{join(children)}</{name}>")


def join(children: tuple[str, ...] | list[str]) -> Html:
    """Text and elements one after another."""
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children))


def _value(value: str | int | float | bool) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f'="{escape(str(value))}"'
