"""The page of an index: its images, and what looks like each of them or of their objects."""

from pathlib import Path

import numpy as np

from cnn_jax.data.decode import as_rgb
from cnn_jax.data.image_reading import RGB
from cnn_jax.progress import track
from cnn_jax.reports.pictures import data_uri
from cnn_jax.reports.similar import IMAGE, OBJECT, Item, LookAlikes, Shown, page

from .index_folder import Index
from .regions import Region, cut_out
from .search import Search


def of(index: Index, k: int, most: int) -> tuple[str, str]:
    """The page of an index, and a line that says what is on it.

    Neighbours are searched among what the page shows.

    Args:
        index: the index.
        k: the number of neighbours.
        most: the most images; of more, as many are taken evenly spread.

    Raises:
        UserError: an image cannot be read.
    """
    rows = _chosen(index, most)
    images: list[Shown] = []
    items: list[Item] = []
    places: dict[str, int] = {}
    pixels = np.zeros((1, 1, 3), np.uint8)
    for row in track(rows, "reading"):
        region = index.region(row)
        if region.file not in places:
            places[region.file] = len(images)
            pixels = as_rgb(RGB.decode(region.file))
            images.append(Shown(data_uri(pixels, IMAGE), _short(region.file)))
        items.append(_item(region, places[region.file], pixels))
    found = _among(index, rows, k)
    whole = all(item.box is None for item in items)
    lead = f"Click on {'an image' if whole else 'an object'} to see what looks like it."
    what = "images" if whole else f"objects in {len(images):,} images"
    told = f"{len(items):,} {what} of {len(index):,} rows, {min(k, len(items) - 1)} neighbours each"
    return page(LookAlikes("Images", images, items, found), lead), told


def _chosen(index: Index, most: int) -> list[int]:
    """The rows of the images that are shown, those of an image after one another."""
    by_file: dict[str, list[int]] = {}
    for row, region in enumerate(index.regions):
        by_file.setdefault(region.file, []).append(row)
    every = list(by_file.values())
    kept = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int))
    return [row for place in kept for row in every[place]]


def _among(index: Index, rows: list[int], k: int) -> list[list[tuple[int, float]]]:
    """The neighbours of each row among these, by their places; a row is none of its own."""
    vectors = np.asarray(index.vectors[rows])
    own = [[place] for place in range(len(rows))]
    return list(Search(vectors).neighbors(vectors, k, own))


def _item(region: Region, image: int, pixels: np.ndarray) -> Item:
    if region.box is None:
        return Item(image, region.label or Path(region.file).name)
    height, width = pixels.shape[:2]
    sides = np.clip(np.array(region.box) / [width, height, width, height], 0, 1).tolist()
    left, top, right, bottom = sides
    name = region.label or "object"
    picture = data_uri(np.ascontiguousarray(cut_out(pixels, region)), OBJECT)
    return Item(image, name, (left, top, right, bottom), picture)


def _short(file: str) -> str:
    """A file's name and its folder's."""
    return "/".join(Path(file).parts[-2:])
