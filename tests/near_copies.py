"""The similarities of near copies and of different pictures, between which the limits lie.

python -m tests.near_copies FOLDER ...

Of the images below each folder, and of 720 built-in scenes at 64 and at 32 pixels, it prints the
most similar pairs of different pictures, how many of those are taken for near copies, and the share
of copies that is found after each way of encoding a picture anew.
"""

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax.data.decode import decode
from cnn_jax.data.duplicates import Fingerprints, fingerprint, repeats
from cnn_jax.data.formats.shapes import scene
from cnn_jax.data.image_files import list_images

MOST_COPIES = 300


def saved(picture: Image.Image, kind: str, **settings: int) -> np.ndarray:
    """The pixels of a picture after it was saved as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return decode(buffer.getvalue())


def halved(picture: Image.Image) -> Image.Image:
    """The picture with half of its rows and columns."""
    return picture.resize([max(1, side // 2) for side in picture.size], Image.Resampling.BICUBIC)


WAYS: Mapping[str, Callable[[Image.Image], np.ndarray]] = {
    "JPEG 95": lambda picture: saved(picture, "JPEG", quality=95),
    "JPEG 75": lambda picture: saved(picture, "JPEG", quality=75),
    "JPEG 50": lambda picture: saved(picture, "JPEG", quality=50),
    "half, PNG": lambda picture: saved(halved(picture), "PNG"),
    "half, JPEG 75": lambda picture: saved(halved(picture), "JPEG", quality=75),
    "half, JPEG 50": lambda picture: saved(halved(picture), "JPEG", quality=50),
}
"""The ways of encoding a picture anew."""


def taken(pictures: Sequence[np.ndarray]) -> Fingerprints:
    """The fingerprints of pictures."""
    prints = Fingerprints(len(pictures))
    for index, picture in enumerate(pictures):
        prints.add(index, fingerprint(picture))
    return prints


def scenes(size: int, count: int = 240) -> list[np.ndarray]:
    """So many built-in scenes of each split."""
    return [
        scene(0, index, size, split=split).image
        for split in ("train", "eval", "test")
        for index in range(count)
    ]


def differences(prints: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Correlation and root mean squared difference of the thumbnails of all pairs."""
    rows = prints.thumbnails.astype(np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    first, second = np.triu_indices(len(rows), 1)
    correlation = np.einsum("ij,ij->i", centred[first], centred[second])
    return correlation, np.sqrt(((rows[first] - rows[second]) ** 2).mean(axis=1))


def report(name: str, pictures: Sequence[np.ndarray]) -> None:
    """Print the similarities of a set."""
    prints = taken(pictures)
    correlation, difference = differences(prints)
    print(f"{name}: {len(pictures)} pictures")
    print(f"  most similar pairs: {np.sort(correlation)[-3:][::-1].round(3)}")
    alike = correlation >= 0.96
    nearest = np.sort(difference[alike])[:3].round(1) if alike.any() else "none"
    print(f"  pairs above .96: {alike.sum()}; their least differences in grey levels: {nearest}")
    found = repeats(prints)
    print(f"  taken for equal: {found.exact.sum()}, for near copies: {(found.of >= 0).sum()}")
    chosen = range(0, len(pictures), max(1, len(pictures) // MOST_COPIES))
    for way, encode in WAYS.items():
        copies = taken([encode(Image.fromarray(pictures[index])) for index in chosen])
        pairs = [
            differences(taken([pictures[i], encode(Image.fromarray(pictures[i]))])) for i in chosen
        ]
        alike, apart = (np.array(values).ravel() for values in zip(*pairs, strict=True))
        right = repeats(copies, prints).of == np.array(chosen)
        print(
            f"  {way:13} found {100 * right.mean():5.1f} %; correlation: lowest {alike.min():.3f}, "
            f"tenth {np.quantile(alike, 0.1):.3f}; difference: highest {apart.max():.1f}, "
            f"tenth {np.quantile(apart, 0.9):.1f}"
        )


def main() -> None:
    """Print the similarities of the built-in scenes, and of the folders that are named."""
    for size in (64, 32):
        report(f"built-in scenes of {size} pixels", scenes(size))
    for folder in sys.argv[1:]:
        names = list_images(folder).files
        report(folder, [decode(str(Path(folder, name))) for name in names])


if __name__ == "__main__":
    main()
