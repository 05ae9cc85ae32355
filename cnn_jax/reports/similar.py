"""A page on which a click on an image, or on an object in it, shows what looks like it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.reports.html import Html, join, tag
from cnn_jax.reports.page import render

_HERE = Path(__file__).parent
IMAGE, OBJECT = 380, 150
"""The longer side of an image in the page, and of an object that is cut out, in pixels."""


@dataclass(frozen=True)
class Item:
    """An image, or an object in one, that is clicked.

    Attributes:
        image: the number of its image in the page.
        name: what it is called: its class, or its file.
        box: [x1, y1, x2, y2] as shares of the image's width and height; None for all of it.
        picture: the object, cut out, as a data URI; None for all of the image.
    """

    image: int
    name: str
    box: tuple[float, float, float, float] | None = None
    picture: str | None = None


@dataclass(frozen=True)
class Shown:
    """An image of the page.

    Attributes:
        picture: a data URI.
        where: its file.
    """

    picture: str
    where: str


@dataclass(frozen=True)
class LookAlikes:
    """The section with the images, and the strip that a click opens.

    Attributes:
        title: the heading.
        images: the images, in order.
        items: what can be clicked.
        neighbors: of each item, the numbers of those that look like it with their cosines, best
            first.
    """

    title: str
    images: Sequence[Shown]
    items: Sequence[Item]
    neighbors: Sequence[Sequence[tuple[int, float]]]

    def html(self) -> Html:
        of_image: list[list[int]] = [[] for _ in self.images]
        for number, item in enumerate(self.items):
            of_image[item.image].append(number)
        figures = [
            self._figure(image, own) for image, own in zip(self.images, of_image, strict=True)
        ]
        close = tag(
            "button", "\N{MULTIPLICATION SIGN}", class_="close", type="button", aria_label="close"
        )
        strip = tag("div", class_="strip")
        return join(
            [
                tag("style", Html((_HERE / "similar.css").read_text())),
                tag("div", *figures, class_="looks"),
                tag("div", close, tag("p"), strip, class_="drawer", hidden=True, role="region"),
                tag("script", self._data(), type="application/json", id="similar-data"),
                tag("script", Html((_HERE / "similar.js").read_text())),
            ]
        )

    def _figure(self, image: Shown, own: Sequence[int]) -> Html:
        """An image with an outline for each object, the larger ones below the smaller."""
        order = sorted(own, key=lambda number: -_area(self.items[number].box))
        looks = [_button(number, self.items[number]) for number in order]
        # An image element has no end tag.
        picture = tag("img", src=image.picture, alt=image.where)
        scene = tag("div", Html(picture.removesuffix("</img>")), *looks, class_="scene")
        names = [self.items[number].name for number in own]
        name = names[0] if len(names) == 1 else f"{len(names)} objects"
        caption = tag("figcaption", tag("b", name), tag("div", image.where, class_="where"))
        return tag("figure", scene, caption)

    def _data(self) -> Html:
        """The items and their neighbours as JSON, in which nothing ends the element."""
        items = [
            {
                "image": item.image,
                "name": item.name,
                "where": self.images[item.image].where,
                "box": item.box,
                "picture": item.picture,
            }
            for item in self.items
        ]
        near = [[[row, round(cosine, 4)] for row, cosine in own] for own in self.neighbors]
        text = json.dumps({"items": items, "neighbors": near}, ensure_ascii=False)
        return Html(text.replace("<", "\\u003c"))


def _area(box: tuple[float, float, float, float] | None) -> float:
    return 1.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def _button(number: int, item: Item) -> Html:
    """The outline of an item, which is clicked."""
    told = {"data_item": number, "type": "button", "aria_label": item.name, "title": item.name}
    if item.box is None:
        return tag("button", class_="look all", **told)
    left, top, right, bottom = (100 * side for side in item.box)
    style = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    return tag("button", class_="look", style=style, **told)


def page(section: LookAlikes, lead: str) -> str:
    """Write the page as HTML.

    Args:
        section: the images.
        lead: the summary in one sentence.
    """
    return render("Similar looks", lead, [section])
