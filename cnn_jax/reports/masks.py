"""Pictures of masks: colours for classes, and four views of an image side by side."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cnn_jax.conventions import IGNORED
from cnn_jax.reports.html import Html, tag
from cnn_jax.reports.pictures import INK, font

Picture = UInt8[np.ndarray, "height width 3"]
Mask = UInt8[np.ndarray, "height width"]

# Distinct colours; further classes take hues around the circle.
_FIRST = (
    *((70, 130, 180), (200, 80, 60), (240, 200, 70), (120, 80, 140), (235, 120, 185)),
    *((60, 140, 70), (250, 130, 50), (110, 75, 50), (60, 70, 200), (220, 30, 70)),
    *((60, 190, 190), (150, 200, 90), (180, 170, 150), (30, 60, 90), (240, 220, 190)),
)
_UNJUDGED = (0, 0, 0)
_RIGHT, _WRONG = 0.75, (224, 40, 40)

VIEWS = ("image", "truth", "prediction", "errors")


def palette(num_classes: int) -> UInt8[np.ndarray, "256 3"]:
    """Choose a colour for each value of a mask; black for values that are no class."""
    colors = np.full((256, 3), _UNJUDGED, np.uint8)
    for label in range(num_classes):
        if label < len(_FIRST):
            colors[label] = _FIRST[label]
        else:
            # Steps of the golden angle stay far apart for long.
            hue = (label * 0.618034) % 1.0
            rgb = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (label % 2), 0.9 - 0.25 * (label % 3))
            colors[label] = np.array(rgb) * 255
    return colors


def key(class_names: Sequence[str]) -> Html:
    """Explain the colours of the classes."""
    colors = palette(len(class_names))
    keys = []
    for label, name in enumerate(class_names):
        swatch = "height:11px;background:rgb({},{},{})".format(*colors[label].tolist())
        keys.append(tag("span", tag("i", style=swatch), tag("b", name)))
    return tag("p", *keys, class_="key")


def index_image(mask: Mask, num_classes: int) -> Image.Image:
    """Convert a mask to a palette image: its pixels are the classes, shown in their colours."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(palette(num_classes).ravel().tolist())
    return image


def overlay(image: Picture, mask: Mask, num_classes: int, strength: float = 0.5) -> Picture:
    """Blend the image with its mask's colours."""
    colors = palette(num_classes)[mask].astype(np.float32)
    return (image * (1 - strength) + colors * strength).round().astype(np.uint8)


def errors(image: Picture, truth: Mask, predicted: Mask) -> Picture:
    """Show the image in grey, wrong predictions in red, and ignored pixels in black."""
    grey = image.mean(axis=-1, keepdims=True) * _RIGHT + 255 * (1 - _RIGHT)
    shown = np.broadcast_to(grey, image.shape).astype(np.uint8)
    shown[(truth != predicted) & (truth != IGNORED)] = _WRONG
    shown[truth == IGNORED] = _UNJUDGED
    return shown


def side_by_side(
    image: Picture, truth: Mask, predicted: Mask, num_classes: int, gap: int = 4
) -> UInt8[np.ndarray, "height across 3"]:
    """Place the `VIEWS` of an image in a row."""
    colors = palette(num_classes)
    views = (image, colors[truth], colors[predicted], errors(image, truth, predicted))
    white = np.full((image.shape[0], gap, 3), 255, np.uint8)
    return np.hstack([part for view in views for part in (view, white)][:-1])


def sheet(rows: Sequence[Picture], class_names: Sequence[str], width: int = 960) -> Image.Image:
    """Place rows of `side_by_side` below each other, with the views' names and the legend.

    Args:
        rows: the rows, all of one shape.
        class_names: the names in the legend.
        width: the width of the sheet in pixels.
    """
    pad, line = 12, 20
    legend, place = [], (pad, 0)
    for label, name in enumerate(class_names):
        needed = 18 + int(font().getlength(name)) + 16
        if place[0] + needed > width - pad and place[0] > pad:
            place = (pad, place[1] + line)
        legend.append((label, name, place))
        place = (place[0] + needed, place[1])
    top = pad + place[1] + line + 6
    inner = width - 2 * pad
    height = round(rows[0].shape[0] * inner / rows[0].shape[1]) if rows else 0
    paper = Image.new("RGB", (width, top + line + len(rows) * (height + 6) + pad), (255, 255, 255))
    draw = ImageDraw.Draw(paper)
    colors = palette(len(class_names))
    for label, name, (x, y) in legend:
        box = (x, pad + y + 3, x + 11, pad + y + 14)
        draw.rectangle(box, fill=tuple(colors[label].tolist()))
        draw.text((x + 18, pad + y), name, INK, font())
    for i, view in enumerate(VIEWS):
        draw.text((pad + i * inner / len(VIEWS), top), view, INK, font())
    for i, row in enumerate(rows):
        # Small images are enlarged pixel by pixel.
        method = Image.Resampling.NEAREST if row.shape[1] < inner else Image.Resampling.LANCZOS
        picture = Image.fromarray(row).resize((inner, height), method)
        paper.paste(picture, (pad, top + line + i * (height + 6)))
    return paper
