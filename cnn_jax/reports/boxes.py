"""Drawing of boxes into pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageOps

from cnn_jax.reports.html import Html, join, tag
from cnn_jax.reports.pictures import INK, RIGHT, WRONG, Picture, data_uri, font

MISSED, TRUTH = (222, 140, 0), (120, 132, 142)

# Smaller pictures are enlarged to this size, so that labels are readable.
_READABLE = 320
# The side of a picture in a page, in pixels.
_IN_PAGE = 400


@dataclass(frozen=True)
class Mark:
    """A box to draw.

    Attributes:
        box: [x1, y1, x2, y2] in pixels of the picture.
        text: the text at the upper edge; none if empty.
        color: the colour of the edges.
    """

    box: Float[np.ndarray, "4"]
    text: str = ""
    color: tuple[int, int, int] = RIGHT


def draw_boxes(
    image: Picture, marks: Sequence[Mark]
) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """Draw boxes and their texts into a picture; a small one is enlarged by a whole factor.

    Args:
        image: the picture, RGB.
        marks: the boxes, the last one on top.
    """
    picture = Image.fromarray(image).convert("RGB")
    factor = max(1, round(_READABLE / max(picture.size)))
    if factor > 1:
        size = tuple(side * factor for side in picture.size)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 300))
    for mark in marks:
        x1, y1, x2, y2 = (float(v) * factor for v in mark.box)
        # A box thinner than its own edges is still drawn.
        x2, y2 = max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1)
        draw.rectangle((x1, y1, x2, y2), outline=mark.color, width=width)
    for mark in marks:
        if mark.text:
            _write(draw, mark, factor, picture.size)
    return np.asarray(picture)


def _write(draw: ImageDraw.ImageDraw, mark: Mark, factor: int, size: tuple[int, int]) -> None:
    """Write a box's text above it or, without room there, inside; never beyond the picture."""
    x, y = float(mark.box[0]) * factor, float(mark.box[1]) * factor
    left, top, right, bottom = draw.textbbox((0, 0), mark.text, font())
    y = y - bottom - 1 if y > bottom + 1 else y + 1
    x = max(0.0, min(x, size[0] - right - 2))
    draw.rectangle((x, y + top - 1, x + right + 2, y + bottom + 1), fill=mark.color)
    # White on dark colours, black on bright ones.
    bright = np.dot(mark.color, (0.299, 0.587, 0.114)) > 150
    draw.text((x + 1 - left, y), mark.text, (0, 0, 0) if bright else (255, 255, 255), font())


@dataclass(frozen=True)
class Scene:
    """A picture with drawn boxes and its caption.

    Attributes:
        picture: the picture with the boxes.
        caption: the line below.
        where: the picture's origin.
        right: whether it contains no mistake; None where nothing is judged.
    """

    picture: Picture
    caption: str
    where: str = ""
    right: bool | None = True


@dataclass(frozen=True)
class Scenes:
    """A section of pictures with boxes.

    Attributes:
        title: the heading.
        scenes: the pictures, in order.
        note: the line above them.
        pairs: whether each picture is two beside each other, and needs twice the width.
    """

    title: str
    scenes: Sequence[Scene]
    note: str = ""
    pairs: bool = False

    def html(self) -> Html:
        note = tag("p", self.note, class_="note") if self.note else Html()
        cards = [_card(scene, self.pairs) for scene in self.scenes]
        kind = "pairs" if self.pairs else "wide-pictures"
        return join([note, tag("div", *cards, class_=f"gallery {kind}")])


def _card(scene: Scene, pair: bool) -> Html:
    address = data_uri(scene.picture, _IN_PAGE * (1 + pair))
    picture = tag("img", src=address, alt=scene.caption)
    # An image element has no end tag.
    picture = Html(picture.removesuffix("</img>"))
    where = tag("div", scene.where, class_="where") if scene.where else Html()
    caption = tag("figcaption", tag("div", scene.caption), where)
    kind = {True: "right", False: "wrong", None: "unjudged"}[scene.right]
    return tag("figure", picture, caption, class_=kind)


def sheet(scenes: Sequence[Scene], columns: int = 4, width: int = 320) -> Image.Image:
    """Arrange the pictures in a grid, framed green, red or grey, with their captions below."""
    gap, line = 12, 20
    columns = max(1, min(columns, len(scenes)))
    rows = -(-len(scenes) // columns)
    height = width + line
    size = (gap + columns * (width + gap), gap + rows * (height + gap))
    whole = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(whole)
    for i, scene in enumerate(scenes):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + gap)
        picture = Image.fromarray(scene.picture)
        picture = ImageOps.contain(picture, (width, width), Image.Resampling.LANCZOS)
        frame = {True: RIGHT, False: WRONG, None: TRUTH}[scene.right]
        corner = (x - 2, y - 2, x + picture.width + 1, y + picture.height + 1)
        draw.rectangle(corner, fill=frame)
        whole.paste(picture, (x, y))
        draw.text((x, y + width + 2), scene.caption, INK, font())
    return whole
