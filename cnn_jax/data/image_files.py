"""Image files: which of a folder's are images, and what form they have."""

import os
from collections import Counter

from cnn_jax.data.decode import open_image, orientation_of
from cnn_jax.reading import Listing, list_files

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_NETPBM = (".ppm", ".pgm", ".pbm", ".pnm")
EXTENSIONS = (*_JPEG, ".png", ".webp", ".bmp", ".tif", ".tiff", *_NETPBM, ".gif", ".jp2", ".avif")
"""The extensions of image files, in lower case. A file of another name may be one: see
`list_images`."""

# Files of these endings lie beside images; they are not opened to see what they are.
_COMPANIONS = {".txt", ".xml", ".json", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html", ".py",
               ".mat", ".npy", ".npz", ".zip", ".gz", ".tar", ".pdf", ".cache"}  # fmt: skip


def is_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file's content begins as an image does, whatever its name."""
    try:
        with open_image(path):
            return True
    except Exception:
        return False


def list_images(place: str | os.PathLike[str], below: str = "") -> Listing:
    """List the images at any depth below `place`/`below`, relative to `place`.

    Files are images by their ending or, where the ending is unknown, by their content.
    `left_out` counts the others by their ending.

    Raises:
        UserError: a folder cannot be read.
    """
    found = list_files(place, below)
    images, left_out = [], found.left_out
    for path in found.files:
        ending = os.path.splitext(path)[1].lower()
        if ending in EXTENSIONS or (
            ending not in _COMPANIONS and is_image(os.path.join(place, path))
        ):
            images.append(path)
        else:
            left_out[ending or "without an ending"] += 1
    return Listing(images, left_out)


def describe_left_out(place: str | os.PathLike[str], left_out: Counter[str]) -> list[str]:
    """A notice about the files that are no images, in a list; an empty list if there are none."""
    total = left_out.total()
    if not total:
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(6))
    files = "file was" if total == 1 else "files were"
    return [f"{os.fspath(place)}: {total:,} {files} left out, as no images: {kinds}"]


def describe_form(file: str | os.PathLike[str]) -> str:
    """Describe how an image file stores its pixels: its format, Pillow's mode, and EXIF's turn.

    For example `JPEG RGB` or `PNG I;16`. A file that cannot be opened is `unreadable`.
    """
    try:
        with open_image(file) as image:
            turned = ", turned by EXIF" if orientation_of(image) != 1 else ""
            return f"{image.format} {image.mode}{turned}"
    except Exception:  # see `cnn_jax.data.decode.refused`
        return "unreadable"
