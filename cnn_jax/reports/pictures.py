"""Pictures of examples with their truth and predictions."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from cnn_jax import files
from cnn_jax.reports.html import Html, join, tag

RIGHT, WRONG, INK, FAINT = (26, 143, 76), (207, 48, 48), (28, 33, 38), (102, 112, 121)

# Smaller images are enlarged pixel by pixel, to show exactly what the model saw.
SMALL = 100
# Larger images are reduced to this size before they go into a page.
LARGEST = 224

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Guess:
    """A picture with its most probable classes.

    Attributes:
        image: the picture, RGB.
        truth: the name of the true class.
        guesses: pairs (class name, probability), most probable first.
        where: the picture's origin.
    """

    image: Picture
    truth: str
    guesses: Sequence[tuple[str, float]]
    where: str = ""

    @property
    def right(self) -> bool:
        """True if the first guess is the truth."""
        return bool(self.guesses) and self.guesses[0][0] == self.truth

    def mark(self, rank: int) -> bool | None:
        """Return whether the first guess is right; None for the other guesses."""
        return self.right if rank == 0 else None

    def text(self) -> str:
        """Format the guesses: `bicycle 0.60; people 0.30; mountain 0.05`."""
        return "; ".join(f"{name} {probability:.2f}" for name, probability in self.guesses)


@dataclass(frozen=True)
class Gallery:
    """A section of pictures with their predictions.

    Attributes:
        title: the heading.
        guesses: the pictures, in order.
        note: the line above them.
    """

    title: str
    guesses: Sequence[Guess]
    note: str = ""

    def html(self) -> Html:
        note = tag("p", self.note, class_="note") if self.note else Html()
        cards = [_card(guess) for guess in self.guesses]
        return join([note, tag("div", *cards, class_="gallery")])


def data_uri(image: Picture, largest: int = LARGEST) -> str:
    """Encode the picture as a data URI: PNG if small, else JPEG of at most `largest` pixels."""
    picture = Image.fromarray(image)
    small = max(picture.size) <= SMALL
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((largest, largest))
        picture.save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if small else 'jpeg'};base64,{encoded}"


def draw_guesses(guesses: Sequence[Guess], columns: int = 6, width: int = 200) -> Image.Image:
    """Arrange the pictures in a grid, framed green or red, with truth and predictions below.

    Args:
        guesses: the pictures.
        columns: the largest number of pictures in a row.
        width: the width of a picture, in pixels.
    """
    lines = max((len(guess.guesses) for guess in guesses), default=0)
    row_height = 17
    height = width + (lines + 1) * row_height + 10
    columns = max(1, min(columns, len(guesses)))
    rows = -(-len(guesses) // columns)
    gap = 12
    size = (gap + columns * (width + gap), gap + rows * (height + gap))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for i, guess in enumerate(guesses):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + gap)
        frame = RIGHT if guess.right else WRONG
        draw.rectangle((x - 3, y - 3, x + width + 2, y + width + 2), fill=frame)
        sheet.paste(_square(guess.image, width), (x, y))
        y += width + 6
        draw.text((x, y), _fitted(f"truth: {guess.truth}", width), INK, font())
        for rank, (name, probability) in enumerate(guess.guesses):
            y += row_height
            ink = {True: RIGHT, False: WRONG, None: FAINT}[guess.mark(rank)]
            figure = f" {probability:.2f}"
            draw.text((x, y), _fitted(name, width - int(font().getlength(figure))), ink, font())
            draw.text((x + width, y), figure, ink, font(), anchor="ra")
    return sheet


def save(path: Path, picture: Image.Image) -> None:
    """Write a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    files.replace(path, buffer.getvalue())


class Picks:
    """A selection of an evaluation's examples, made while its batches pass.

    It keeps the most confident mistakes and a random choice of right answers: those whose
    positions come first in a fixed shuffled order. The selection does not depend on the division
    of the set into batches.

    Args:
        most: the number of examples kept of each kind.
        top: the number of classes named for each.
    """

    def __init__(self, most: int = 24, top: int = 3) -> None:
        self.most, self.top = most, top
        # (rank, index, label, classes, probabilities): the lowest rank is kept.
        self._wrong: list[tuple] = []
        self._right: list[tuple] = []

    def add(
        self,
        index: np.ndarray,
        label: np.ndarray,
        probabilities: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Select from a batch.

        Args:
            index: integers [batch], the examples' positions in their source.
            label: integers [batch], true classes.
            probabilities: floats [batch, classes].
            valid: booleans [batch], False for padding.
        """
        predicted = probabilities.argmax(-1)
        for right, kept in ((True, self._right), (False, self._wrong)):
            rows = np.flatnonzero(valid & ((predicted == label) == right))
            rank = _shuffled(index[rows]) if right else -probabilities[rows].max(-1)
            for order in np.lexsort((index[rows], rank))[: self.most]:
                row = rows[order]
                best = np.argsort(-probabilities[row], kind="stable")[: self.top]
                chances = probabilities[row, best]
                kept.append((rank[order], int(index[row]), int(label[row]), best, chances))
            kept.sort(key=lambda item: item[:2])
            del kept[self.most :]

    def guesses(
        self, image: Callable[[int], Picture], names: Sequence[str], where: Callable[[int], str]
    ) -> tuple[list[Guess], list[Guess]]:
        """Return the (wrong, right) predictions with their pictures.

        Args:
            image: returns the picture at a position in the source.
            names: the names of the classes.
            where: returns that picture's origin.
        """

        def guess(item: tuple) -> Guess:
            _, index, label, best, chances = item
            ranked = [(names[c], float(p)) for c, p in zip(best, chances, strict=True)]
            return Guess(image(index), names[label], ranked, where(index))

        return [guess(item) for item in self._wrong], [guess(item) for item in self._right]


def _shuffled(index: np.ndarray) -> np.ndarray:
    """Hash each integer to a fixed pseudo-random number (Knuth's multiplicative hash)."""
    return (index.astype(np.uint64) + np.uint64(1)) * np.uint64(2654435761) % np.uint64(2**32)


def _card(guess: Guess) -> Html:
    lines = []
    for rank, (name, probability) in enumerate(guess.guesses):
        kind = {True: "true", False: "false", None: ""}[guess.mark(rank)]
        text = (tag("span", name), tag("span", f"{probability:.2f}"))
        lines.append(tag("div", *text, class_=f"guess {kind}".strip()))
    truth = tag("div", tag("b", guess.truth))
    where = tag("div", guess.where, class_="where") if guess.where else Html()
    picture = tag(
        "img",
        src=data_uri(guess.image),
        alt=f"{guess.truth}: {guess.text()}",
        class_="small" if max(guess.image.shape[:2]) <= SMALL else None,
    )
    # An image element has no end tag.
    picture = Html(picture.removesuffix("</img>"))
    caption = tag("figcaption", truth, *lines, where)
    return tag("figure", picture, caption, class_="right" if guess.right else "wrong")


def _square(image: Picture, side: int) -> Image.Image:
    """Place the whole picture in the middle of a square."""
    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    size = [max(1, round(scale * length)) for length in picture.size]
    small = max(picture.size) <= SMALL
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    square = Image.new("RGB", (side, side), (240, 242, 244))
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    square.paste(picture.resize(size, method), corner)
    return square


@cache
def font() -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib and covers most alphabets."""
    # Located without importing matplotlib, which would take longer than the rest.
    (package,) = find_spec("matplotlib").submodule_search_locations
    path = Path(package, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), 13)


def _fitted(text: str, width: int) -> str:
    """Cut the text with an ellipsis if it is wider than `width` pixels."""
    if font().getlength(text) <= width:
        return text
    while text and font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
