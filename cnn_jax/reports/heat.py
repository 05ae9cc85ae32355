"""Pictures of explanations: evidence over a photo, maps of a network, and its first filters."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Sheet = UInt8[np.ndarray, "sheet_height sheet_width 3"]
Evidence = Float[np.ndarray, "rows columns"]

# From weak to strong: evidence for the answer, and evidence against it.
_FOR = ((255, 225, 80), (226, 26, 28))
_AGAINST = ((120, 190, 255), (24, 72, 200))
# The share of the strongest colour that hides the photo.
_OPAQUE = 0.8

_GAP = 2


def enlarged(values: Evidence, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Enlarge a map of evidence to an image's size, bilinear, with the cells' centres in place.

    Args:
        values: the map.
        size: rows and columns.
    """
    return cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)


def placed(
    values: Evidence, place: tuple[int, int, int, int], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Enlarge a map of evidence to a part of an image; there is no evidence elsewhere.

    Args:
        values: the map.
        place: the part's first row and column, which may be negative, its rows and its columns.
        size: rows and columns of the image; what sticks out of it is cut off.
    """
    image = np.zeros(size, np.float32)
    top, left, rows, columns = place
    (first_row, last_row), (first, last) = (
        (max(begin, 0), max(min(begin + length, end), 0))
        for begin, length, end in zip((top, left), (rows, columns), size, strict=True)
    )
    whole = enlarged(values, (rows, columns))
    seen = whole[first_row - top : last_row - top, first - left : last - left]
    image[first_row:last_row, first:last] = seen
    return image


def peak(values: Evidence) -> tuple[int, int]:
    """The row and the column of the highest value; of several, the first."""
    row, column = np.unravel_index(np.argmax(values), values.shape)
    return int(row), int(column)


def overlay(image: Picture, values: Float[np.ndarray, "height width"]) -> Picture:
    """Colour a grey copy of the image where the evidence lies: for in red, against in blue.

    Args:
        image: the picture, RGB.
        values: the evidence at every pixel, in any unit; the strongest has the full colour.
    """
    strength = values / max(float(np.abs(values).max()), 1e-12)
    grey = np.repeat(image.mean(axis=-1, keepdims=True) * 0.75 + 40, 3, axis=-1)
    for sign, (weak, strong) in ((1, _FOR), (-1, _AGAINST)):
        share = np.clip(sign * strength, 0, 1)[..., None]
        color = np.array(weak) * (1 - share) + np.array(strong) * share
        opacity = _OPAQUE * share
        grey = grey * (1 - opacity) + color * opacity
    return np.clip(grey, 0, 255).round().astype(np.uint8)


def map_sheet(
    features: Float[np.ndarray, "rows columns features"], most: int = 64, width: int = 720
) -> Sheet:
    """Draw the maps of one example with the strongest activations, strongest first.

    Each map is stretched from black, its lowest value, to white.

    Args:
        features: the maps.
        most: the largest number of maps.
        width: about the width of the sheet in pixels.
    """
    strongest = np.argsort(-np.abs(features).mean(axis=(0, 1)), kind="stable")[:most]
    tiles = [_stretched(features[..., index]) for index in strongest]
    return _grid([np.repeat(tile[..., None], 3, axis=-1) for tile in tiles], width)


def filter_sheet(
    kernel: Float[np.ndarray, "rows columns channels filters"], width: int = 720
) -> Sheet:
    """Draw the filters of a convolution on images; a weight of 0 is grey.

    Those of three channels are drawn in colours, others in grey, as the mean over the channels.
    Each is stretched by its own largest weight.
    """
    if kernel.shape[2] != 3:
        kernel = np.repeat(kernel.mean(axis=2, keepdims=True), 3, axis=2)
    largest = np.maximum(np.abs(kernel).max(axis=(0, 1, 2), keepdims=True), 1e-12)
    shown = (127.5 + 127.5 * kernel / largest).round().astype(np.uint8)
    return _grid([shown[..., index] for index in range(shown.shape[-1])], width)


def _stretched(values: Evidence) -> UInt8[np.ndarray, "rows columns"]:
    low, high = float(values.min()), float(values.max())
    return (255 * (values - low) / max(high - low, 1e-12)).round().astype(np.uint8)


def _grid(tiles: list[Picture], width: int) -> Sheet:
    """Arrange tiles of one size in a grid on white, enlarged by a whole factor where small."""
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    factor = max(1, (width // columns - _GAP) // tiles[0].shape[1])
    tiles = [tile.repeat(factor, axis=0).repeat(factor, axis=1) for tile in tiles]
    height, across = (side + _GAP for side in tiles[0].shape[:2])
    sheet = np.full((rows * height - _GAP, columns * across - _GAP, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * across
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
