"""The options of `predict`."""

import dataclasses
from typing import Any, ClassVar, Literal

from cnn_jax.errors import check
from cnn_jax.ranges import LARGEST_INT

from .data import LARGEST_BATCH
from .declare import GIVEN, flag


def least_score(**conditions: Any) -> Any:
    """The field of `--score-threshold`: the lowest score of a detection, None for the run's own.

    Args:
        **conditions: when the flag has an effect, `only` and `unless`.
    """
    names = "conf conf-thres confidence-threshold"
    return flag(None, minimum=0, maximum=1, aliases=names, **conditions)


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predict for your own images or sentences with a trained run."""

    verb: ClassVar[str] = "predict"

    run: str = flag("", positional=True, metavar="RUN")
    """Folder of the run."""
    images: tuple[str, ...] = flag((), positional=True, metavar="IMAGE")
    """Images: files, folders, patterns such as `**/*.jpg`, and `@FILE` with one in each line. With
    `--count` also videos, and cameras by their numbers. For runs of translate: sentences."""
    list: str | None = flag(None, metavar="FILE")
    """A file with an image, or a sentence, in each line."""
    json: bool = False
    """Print JSON instead of lines."""
    csv: bool = flag(False, unless={"json": GIVEN})
    """Print a CSV table instead of lines."""
    predictions: str | None = flag(None, metavar="FILE", unless={"json|csv": GIVEN})
    """Write the predictions to this file instead, .csv, .json or .jsonl."""
    batch_size: int = flag(32, minimum=1, maximum=LARGEST_BATCH, aliases="bs")
    """Images in a step."""
    state: Literal["best", "last"] | None = None
    """State of the run that predicts: the one with the best evaluation, or the last one. Default:
    the best, if the run keeps it."""
    top: int = flag(
        3, minimum=1, maximum=65_536, only={"verb": ("classify",)}, aliases="topk top-k"
    )
    """Number of classes that are named for each image."""
    tta: tuple[str, ...] = flag(
        (), only={"verb": ("classify", "segment", "detect")}, metavar="VIEW"
    )
    """Average over each image and views of it: `flip` is its mirror image, numbers such as 0.75
    1.25 are sizes as shares of its own. Detections of all views are joined."""
    directory: str | None = flag(
        None, only={"verb": ("segment", "detect")}, aliases="output-dir out", metavar="DIR"
    )
    """Folder for pictures and arrays. Default: RUN/predictions."""
    probabilities: bool = flag(False, only={"verb": ("segment",)})
    """Write the probabilities of every pixel too."""
    score_threshold: float | None = least_score(only={"verb": ("detect",)})
    """Lowest score of a detection that is named, drawn, counted or cut out. Default: the run's
    own, which was chosen on its evaluation data."""
    count: bool = flag(False, only={"verb": ("detect",)})
    """Print the number of objects of each class in each image; of a folder of frames, a video or a
    camera also its peak, total, and an estimate of distinct objects, and draw them over time."""
    every: int = flag(
        1, minimum=1, maximum=LARGEST_INT, only={"count": GIVEN}, aliases="vid-stride", metavar="N"
    )
    """Count every N-th frame."""
    frames: int | None = flag(
        None, minimum=1, maximum=LARGEST_INT, only={"count": GIVEN}, metavar="N"
    )
    """End after this number of counted frames. Default: the video's end; a camera's is Ctrl-C."""
    line: tuple[float, float, float, float] | None = flag(
        None,
        minimum=-LARGEST_INT,
        maximum=LARGEST_INT,
        only={"count": GIVEN},
        metavar="X1 Y1 X2 Y2",
    )
    """Count the objects whose centre crosses this line, in pixels, from one frame to the next: to
    the left and to the right, as one walks along it."""
    region: tuple[float, ...] | None = flag(
        None, minimum=-LARGEST_INT, maximum=LARGEST_INT, only={"count": GIVEN}, metavar="X Y"
    )
    """Count only objects whose centre is inside this polygon, by its corners in pixels."""
    crops: str | None = flag(None, only={"verb": ("detect",)}, aliases="save-crop", metavar="DIR")
    """Folder for the detections cut out of the images, with a folder below it for each class."""

    def __post_init__(self) -> None:
        points = None if self.region is None else len(self.region) / 2
        expected = "three points or more, X1 Y1 X2 Y2 X3 Y3 ..."
        check(points is None or points in range(3, 10_000), "region", self.region, expected)
        ends = self.line
        check(ends is None or ends[:2] != ends[2:], "line", ends, "between two different points")
