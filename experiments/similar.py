"""Find what looks like a picture, or like an object in it, in an index of `index`.

python -m experiments.similar looks photo.jpg             # 1 0.93 photos/a.jpg; ..., and a picture
python -m experiments.similar looks photo.jpg --object 2  # of the objects that the detector finds
python -m experiments.similar looks photo.jpg --box 10 20 120 90
python -m experiments.similar looks --page looks.html     # a page to click on
python -m experiments.similar looks --queries folder:DIR --split test --baselines   # recall, mAP

The search is exact: all cosines, and the highest of them.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cnn_jax import files
from cnn_jax.data.decode import as_rgb
from cnn_jax.errors import UserError
from cnn_jax.ranges import LARGEST_SIDE
from cnn_jax.reports.boxes import Scene, sheet
from cnn_jax.reports.pictures import save

from . import options as flags
from .predict.names import output_names
from .similarity import page, quality
from .similarity.embedding import Embedder
from .similarity.index_folder import Index
from .similarity.regions import Detector, Region, cut_out

PICTURES = "similar"
"""The folder below an index's where pictures go unless the user names one."""

_PHOTO_ONLY = {"page|queries": flags.GIVEN}


@dataclass(frozen=True)
class Options:
    """Find what looks alike in an index."""

    verb: ClassVar[str] = "similar"

    index: str = flags.flag("", positional=True, metavar="INDEX")
    """Folder of the index."""
    photo: str = flags.flag("", positional=True, metavar="IMAGE")
    """The image whose look-alikes are searched."""
    object: int | None = flags.flag(
        None, minimum=1, maximum=10_000, unless={"box|page|queries": flags.GIVEN}, metavar="N"
    )
    """The N-th object of the image, best first, that the index's detector finds; or of an image of
    the index, its N-th object there. Default: each object that the detector finds, or all of the
    image where the index has no detector."""
    box: tuple[float, float, float, float] | None = flags.flag(
        None, minimum=0, maximum=LARGEST_SIDE, unless=_PHOTO_ONLY, metavar="X1 Y1 X2 Y2"
    )
    """The part of the image, in pixels."""
    k: int = flags.flag(
        10, minimum=1, maximum=10_000, unless={"queries": flags.GIVEN}, aliases="top topk top-k"
    )
    """Number of neighbours."""
    out: str | None = flags.flag(
        None, unless=_PHOTO_ONLY, aliases="output-dir directory", metavar="DIR"
    )
    """Folder for the picture of the neighbours. Default: INDEX/similar."""
    page: str | None = flags.flag(None, unless={"queries": flags.GIVEN}, metavar="FILE")
    """Write a self-contained page of the index's images to this file; a click on an image, or on an
    object in it, shows what looks like it."""
    most: int = flags.flag(200, minimum=1, maximum=100_000, only={"page": flags.GIVEN})
    """Most images of a page, evenly spread over the index."""
    queries: str | None = flags.flag(None, metavar="SPEC")
    """Measure the search with these image files, whose classes the index has too: recall at 1, 5
    and 10, and mAP. A query that is in the index is no neighbour of itself."""
    split: Literal["train", "eval", "test"] = flags.flag("test", only={"queries": flags.GIVEN})
    """Examples of the data that are the queries."""
    baselines: bool = flags.flag(False, only={"queries": flags.GIVEN})
    """Measure random vectors, colour histograms and the network before training too."""
    seed: int = flags.flag(
        0,
        range=flags.declared(flags.RunOptions)["seed"].range,
        only={"baselines": flags.GIVEN},
    )
    """The number that random vectors and the untrained network derive from."""
    run: str | None = flags.flag(None, unless={"page": flags.GIVEN}, metavar="RUN")
    """Folder of the index's run, where it has been moved."""
    batch_size: int = flags.flag(
        32, minimum=1, maximum=flags.LARGEST_BATCH, unless={"page": flags.GIVEN}, aliases="bs"
    )
    """Pictures in a step."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags; search, write the page, or measure."""
    options = flags.parse_plain(Options, argv)
    alone = options.page is not None or options.queries is not None
    if not options.index or alone == bool(options.photo):
        raise UserError(
            "give an index and an image, or --page or --queries: similar INDEX IMAGE, "
            "similar INDEX --page FILE, similar INDEX --queries SPEC"
        )
    index = Index(options.index)
    if options.page is not None:
        content, told = page.of(index, options.k, options.most)
        files.replace(Path(options.page), content)
        print(f"{options.page}: {told}")
        return
    embedder = opened(index, options)
    if options.queries is not None:
        baselines = options.seed if options.baselines else None
        print(quality.table(index, embedder, options.queries, options.split, baselines), end="")
        return
    show(index, embedder, options)


def opened(index: Index, options: Options) -> Embedder:
    """The network that the index was made with.

    Raises:
        UserError: it is not there, or it is another one now.
    """
    run = Path(options.run or index.config["run"])
    if not run.is_dir():
        raise UserError(f"{run}: the run of the index is not there; --run says where it is now")
    embedder = Embedder(run, index.config["state"], options.batch_size)
    if embedder.fingerprint != index.config["network"]:
        raise UserError(
            f"{run}: has other parameters than when {index.folder} was made; make the index anew"
        )
    return embedder


def show(index: Index, embedder: Embedder, options: Options) -> None:
    """Print and draw the neighbours of a photo, or of each of its objects."""
    pixels, queries = queried(index, embedder, options)
    cut = [cut_out(pixels, query) for query in queries]
    vectors = np.stack([v for _, v in embedder.vectors(zip(queries, cut, strict=True))])
    found = index.search.neighbors(vectors, options.k, [index.rows_of(query) for query in queries])
    scenes: list[Scene] = []
    for number, (query, picture, rows) in enumerate(zip(queries, cut, found, strict=True), 1):
        print(query if query.box is None else f"object {options.object or number}: {query}")
        scenes.append(Scene(as_rgb(picture), "searched"))
        for place, (row, cosine) in enumerate(rows, 1):
            region = index.region(row)
            print(f"{place:3d}  {cosine:.3f}  {region}")
            caption = f"{cosine:.2f} {region.label or Path(region.file).name}"
            scenes.append(Scene(as_rgb(cut_out(embedder.read(region.file), region)), caption))
    folder = Path(options.out) if options.out else index.folder / PICTURES
    path = folder / f"{output_names([options.photo])[0]}.png"
    save(path, sheet(scenes, columns=min(options.k + 1, 11), width=160))
    print(f"picture: {path}", file=sys.stderr)


def queried(index: Index, embedder: Embedder, options: Options) -> tuple[np.ndarray, list[Region]]:
    """The pixels of the photo, and the parts of it that are searched.

    Raises:
        UserError: the photo cannot be read, or has no such object.
    """
    photo, detector = options.photo, index.config["objects"]
    if options.box is not None:
        return (pixels := embedder.read(photo)), [_within(pixels, photo, options.box)]
    if detector is not None:
        finder = Detector(detector, index.config["score_threshold"])
        ((pixels, objects),) = finder.found([photo], embedder.reading, embedder.read)
    else:
        pixels = embedder.read(photo)
        objects = list(_known(index, photo)) if options.object is not None else []
    if options.object is None:
        return pixels, objects or [Region(photo)]
    if options.object > len(objects):
        known = "the detector finds" if detector is not None else "the index knows"
        raise UserError(
            f"--object {options.object}: {known} {len(objects)} objects in {photo}; --box says "
            "where one is"
        )
    return pixels, [objects[options.object - 1]]


def _known(index: Index, photo: str) -> Iterator[Region]:
    """The objects that the index has of a photo."""
    for row in index.rows_of_file(photo):
        if (region := index.region(row)).box is not None:
            yield region


def _within(pixels: np.ndarray, photo: str, box: tuple[float, float, float, float]) -> Region:
    """A box of a photo, as far as it lies in it."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    right, bottom = min(right, float(width)), min(bottom, float(height))
    if left >= right or top >= bottom:
        raise UserError(
            f"must be X1 Y1 X2 Y2 with an area in the image of {width} x {height}", "box", box
        )
    return Region(photo, (left, top, right, bottom))


if __name__ == "__main__":
    flags.entry(main)
