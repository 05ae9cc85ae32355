"""Index images, or the objects in them, by a trained network's features, for `similar`.

python -m experiments.index runs/NAME photos --out looks                  # whole images
python -m experiments.index runs/NAME photos --objects runs/cells --out looks   # what it detects
python -m experiments.index runs/NAME --data voc:DIR --out looks          # the boxes of a data set
python -m experiments.index runs/NAME --data folder:DIR --split train --out looks

A run of classify or annotate gives the features: what its last layer gets, as unit vectors. Any
number of images takes the memory of one batch.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.progress import track

from . import options as flags
from .predict.inputs import expanded
from .similarity import index_folder, regions
from .similarity.embedding import Embedder
from .similarity.regions import Detector, Region


@dataclass(frozen=True)
class Options:
    """Index images, or the objects in them, for look-alike search."""

    verb: ClassVar[str] = "index"

    run: str = flags.flag("", positional=True, metavar="RUN")
    """Folder of the run, of classify or annotate, whose features are compared."""
    images: tuple[str, ...] = flags.flag((), positional=True, metavar="IMAGE")
    """Images: files, folders, patterns such as `**/*.jpg`, and `@FILE` with one in each line."""
    list: str | None = flags.flag(None, metavar="FILE")
    """A file with an image in each line."""
    data: str | None = flags.flag(None, aliases="dataset", metavar="SPEC")
    """Image files with a class, `folder:DIR`; or with boxes, `voc:DIR`, `coco:JSON,IMAGES` or
    `yolo:DATA.yaml`, each of whose objects is a row."""
    split: Literal["train", "eval", "test"] = flags.flag("train", only={"data": flags.GIVEN})
    """Examples of the data that are indexed."""
    objects: str | None = flags.flag(None, unless={"data": flags.GIVEN}, metavar="RUN")
    """Run of a detector, each of whose objects is a row."""
    score_threshold: float | None = flags.least_score(only={"objects": flags.GIVEN})
    """Lowest score of an object. Default: the detector's own."""
    out: str | None = flags.flag(None, aliases="output-dir output", metavar="DIR")
    """Folder of the index."""
    state: Literal["best", "last"] | None = None
    """State whose features are compared. Default: the best where the run keeps one, else the
    last."""
    batch_size: int = flags.flag(32, minimum=1, maximum=flags.LARGEST_BATCH, aliases="bs")
    """Pictures in a step."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags; compute the vectors and write the index."""
    options = flags.parse_plain(Options, argv)
    given = bool(options.images or options.list)
    if not options.run or given == (options.data is not None):
        raise UserError("give a run's folder, and images or --data: index RUN IMAGE... --out DIR")
    if options.out is None:
        raise UserError("--out: name the folder of the index")
    embedder = Embedder(Path(options.run), options.state, options.batch_size)
    print(embedder.told, file=sys.stderr)
    found = embedder.vectors(pictures(options, embedder))
    content = index_folder.write(Path(options.out), found, about(options, embedder))
    what = "objects" if content["objects"] or content["boxes"] else "images"
    print(f"{options.out}: {content['rows']:,} {what}, {content['size']} numbers each")


def pictures(options: Options, embedder: Embedder) -> Iterator[tuple[Region, np.ndarray]]:
    """The regions that are indexed, in the order given.

    Raises:
        UserError: the inputs cannot be read.
    """
    if options.data is not None:
        source = regions.open_regions(options.data, options.split, embedder.reading)
        return regions.labelled(source)
    files = track(expanded(options.images, options.list), "embedding")
    if options.objects is None:
        return regions.whole(files, embedder.read)
    detector = Detector(options.objects, options.score_threshold)
    return regions.objects(files, detector, embedder.reading, embedder.read)


def about(options: Options, embedder: Embedder) -> dict[str, Any]:
    """The index's record of how it was made."""
    detector = None if options.objects is None else os.path.abspath(options.objects)
    return {
        "run": os.path.abspath(options.run),
        "state": options.state,
        "network": embedder.fingerprint,
        "objects": detector,
        "score_threshold": options.score_threshold,
        "data": options.data,
        "split": None if options.data is None else options.split,
        "boxes": options.data is not None and not options.data.startswith("folder:"),
    }


if __name__ == "__main__":
    flags.entry(main)
