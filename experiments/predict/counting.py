"""Counts of objects: in photos, and over the frames of folders, videos and cameras.

A clip ends with its peak, its total, an estimate of how many distinct objects it shows, and the
curve of its counts over time. Of any number of frames, those of one batch are held.
"""

import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.metrics.detection.frames import SAME_OBJECT, FrameCounts, count_frame
from cnn_jax.ops.nms import Detections
from cnn_jax.progress import track
from cnn_jax.reports import counts as curves
from cnn_jax.training import stopping

from .. import options as flags
from .detection import BoxPredictor
from .frames import Clip, Photos, Shot, Video
from .output import Show, shown
from .predictor import PICTURES, Input, Network, Result

ALL = "all classes"

_FEWEST_ROWS = 16  # of a frame's objects, so that few shapes are compiled


class Counted(NamedTuple):
    """A photo or frame with its counts."""

    shot: Shot
    counts: FrameCounts


def count(
    network: Network,
    predictor: BoxPredictor,
    inputs: list[Clip] | Photos,
    options: flags.PredictOptions,
) -> None:
    """Count the objects of all inputs, and show them as the flags say.

    Raises:
        UserError: an input cannot be read, or a flag does nothing for the inputs.
    """
    counting = Counting(network, predictor, options)
    with shown(options) as show:
        if isinstance(inputs, Photos):
            _refuse_for_photos(options)
            for counted in counting.frames(inputs, linked=False):
                show(photo_result(counted, predictor.names))
            return
        told = sys.stderr if (options.json or options.csv) else sys.stdout
        summaries = [_clip(counting, clip, predictor.names, options, show) for clip in inputs]
    # After the table, which may be on the same output.
    print("\n".join(summaries), file=told)


def _refuse_for_photos(options: flags.PredictOptions) -> None:
    """Refuse what only frames have."""
    for name in ("line", "frames", "every"):
        if getattr(options, name) != getattr(flags.PredictOptions(), name):
            raise UserError(
                f"--{name}: photos have no order; give a folder of frames, a video or a camera"
            )


class Counting:
    """The counts of a run's detections.

    Args:
        network: the run's.
        predictor: likewise.
        options: where and how many frames are counted.
    """

    def __init__(
        self, network: Network, predictor: BoxPredictor, options: flags.PredictOptions
    ) -> None:
        self._network, self._predictor, self._options = network, predictor, options
        line, region = (
            None if given is None else np.asarray(given, np.float32).reshape(-1, 2)
            for given in (options.line, options.region)
        )
        self._places = {"line": line, "region": region}
        self._count = jax.jit(
            partial(
                count_frame,
                num_classes=len(predictor.names),
                line=None if line is None else jnp.asarray(line),
                region=None if region is None else jnp.asarray(region),
            )
        )

    def frames(self, inputs: Clip | Photos, linked: bool = True) -> Iterator[Counted]:
        """Each photo, or frame of a clip, with its counts, as soon as they are there.

        Args:
            inputs: the photos or the clip.
            linked: whether an object may be that of the frame before.

        Raises:
            UserError: one cannot be read, or the line or the region lies outside of the first.
        """
        options, predictor = self._options, self._predictor
        waiting: deque[Shot] = deque()
        before = nothing = _padded(Detections(*(np.zeros((0, *s), t) for s, t in _ROWS)))
        camera = isinstance(inputs, Video) and isinstance(inputs.source, int)
        # Ctrl-C is the end of a camera, of which there is no other without --frames.
        asked = stopping.noted(signal.SIGINT) if camera else nullcontext(threading.Event())
        with (
            asked as stop,
            closing(inputs.shots(predictor.reading, options.every, stop.is_set)) as shots,
        ):

            def contents() -> Iterator[Input]:
                for shot in islice(shots, options.frames):
                    waiting.append(shot)
                    yield shot.content

            for _, content, found in self._network.outcomes(track(contents(), "counting")):
                shot = waiting.popleft()
                if shot.number == 0:
                    self._require_inside(content.shape[:2], shot.image)
                every = predictor.detected(shot.image, content, found, shot.output)
                kept = predictor.written(every)
                counts, now = self._count(before, _padded(kept.detections))
                before = now if linked else nothing
                yield Counted(shot, jax.device_get(counts))

    def _require_inside(self, size: tuple[int, int], image: str) -> None:
        """Refuse a line or a region beside the picture, in which nothing is ever counted."""
        height, width = size
        for name, points in self._places.items():
            if points is None:
                continue
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            if right < 0 or bottom < 0 or left > width or top > height:
                raise UserError(
                    f"--{name}: lies outside of {image}, which has {width} x {height} pixels"
                )


_ROWS = (((4,), np.float32), ((), np.float32), ((), np.int32), ((), bool))


def _padded(rows: Detections) -> Detections:
    """The detections, padded to a power of two."""
    count = len(rows.valid)
    room = max(_FEWEST_ROWS, 1 << max(count - 1, 0).bit_length())
    return Detections(
        *(
            np.concatenate([np.asarray(x, dtype), np.zeros((room - count, *shape), dtype)])
            for x, (shape, dtype) in zip(rows, _ROWS, strict=True)
        )
    )


def photo_result(counted: Counted, names: tuple[str, ...]) -> Result:
    """`photo.jpg: car 2, person 0`."""
    present = _named(counted.counts.present, names)
    image = counted.shot.image
    return Result(f"{image}: {_listed(present)}", [{"image": image, "counts": present}])


def frame_result(counted: Counted, names: tuple[str, ...], line: bool) -> Result:
    """`street.mp4, frame 12 (0.48 s): car 2, person 0; crossed to the left: car 1`."""
    shot, counts = counted
    present = _named(counts.present, names)
    seconds = None if shot.seconds is None else round(shot.seconds, 3)
    content: dict[str, Any] = {
        "image": shot.image,
        "frame": shot.number,
        "seconds": seconds,
        "counts": present,
        "appeared": _named(counts.appeared, names),
    }
    text = f"{shot.image}, {_moment(shot)}: {_listed(present)}"
    if line:
        for side in ("to_left", "to_right"):
            crossed = content[side] = _named(getattr(counts, side), names)
            those = {name: number for name, number in crossed.items() if number}
            if those:
                text += f"; crossed to the {side[3:]}: {_listed(those)}"
    return Result(text, [content])


def _named(numbers: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(names, np.asarray(numbers).tolist(), strict=True))


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def _moment(shot: Shot) -> str:
    """`frame 12 (0.48 s)`."""
    return f"frame {shot.number}" + ("" if shot.seconds is None else f" ({shot.seconds:.2f} s)")


class Summary:
    """The counts of a clip so far.

    Args:
        names: the names of the classes.

    Attributes:
        names: the same, with all classes together at the end where there are several.
        frames: the number of counted frames.
        series: the counts over time.
        sums: of each count over all frames.
        peak: the largest count of a frame, by class; `at` says in which.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = (*names, ALL) if len(names) > 1 else names
        self.frames = 0
        self.series = curves.CountSeries(len(names))
        self.sums = FrameCounts(*(np.zeros(len(self.names), np.int64) for _ in range(4)))
        self.peak = np.full(len(self.names), -1)
        self.at: list[Shot | None] = [None] * len(self.names)
        self.last: Shot | None = None

    def add(self, counted: Counted) -> None:
        """Add a frame."""
        shot = self.last = counted.shot._replace(content="")  # without its pixels
        self.frames += 1
        self.series.add(
            shot.number if shot.seconds is None else shot.seconds, counted.counts.present
        )
        whole = FrameCounts(*(self._with_all(numbers) for numbers in counted.counts))
        self.sums = FrameCounts(*(a + b for a, b in zip(self.sums, whole, strict=True)))
        for i in np.flatnonzero(whole.present > self.peak):
            self.peak[i], self.at[i] = whole.present[i], shot

    def _with_all(self, numbers: np.ndarray) -> np.ndarray:
        return np.append(numbers, numbers.sum()) if len(self.names) > len(numbers) else numbers

    def text(self, name: str, line: bool) -> str:
        """The table for a terminal: a row for each class."""
        head = ["", "peak", "", "total", "distinct*", *(["to left", "to right"] if line else [])]
        rows = [head]
        for i, label in enumerate(self.names):
            where = f"in {_moment(self.at[i])}" if self.peak[i] > 0 else ""
            crossed = (self.sums.to_left, self.sums.to_right) if line else ()
            numbers = (self.sums.present, self.sums.appeared, *crossed)
            rows.append([label, str(self.peak[i]), where, *(f"{n[i]:,}" for n in numbers)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place in (0, 2) else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        seconds = (
            "" if self.last.seconds is None else f", the last one at {self.last.seconds:.2f} s"
        )
        return "\n".join([f"{name}: {self.frames:,} frames counted{seconds}", *lines, _NOTE])


_NOTE = (
    "total: objects of all frames; one that stays counts in each\n"
    "*distinct: an estimate without a tracker: boxes that overlap none of their class in the\n"
    f"frame before by an IoU of {SAME_OBJECT:g}; too high where objects are missed, or move far"
)


def _clip(
    counting: Counting,
    clip: Clip,
    names: tuple[str, ...],
    options: flags.PredictOptions,
    show: Show,
) -> str:
    """Count a clip, show each frame, draw the curve, and return the text about the whole."""
    summary, line = Summary(names), options.line is not None
    for counted in counting.frames(clip):
        show(frame_result(counted, names, line))
        summary.add(counted)
    if summary.last is None:
        return f"{clip.name}: ended before the first frame"
    folder = Path(options.directory) if options.directory else Path(options.run) / PICTURES
    path = folder / f"{clip.output}-counts.png"
    time = "frame" if summary.last.seconds is None else "seconds"
    files.replace(path, curves.draw(summary.series, names, clip.name, time))
    return f"{summary.text(clip.name, line)}\ncurve: {path}"
