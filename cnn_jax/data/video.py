"""Frames of video files and cameras, read one after another by OpenCV."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from cnn_jax.errors import UserError
from cnn_jax.reading import require_file

# What is broken is told in one line; FFmpeg, which reads this once, and OpenCV would print theirs.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEOS = (
    *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m2ts", ".mts"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mjpg", ".mjpeg"),
)
"""The extensions of video files, in lower case."""

# A header says how many frames there are by the length in time, which may be a few off.
_SHORT = 0.9


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: its place in the video, from 0; frames that are passed over count.
        seconds: its time from the beginning.
        pixels: the upright picture, RGB.
    """

    number: int
    seconds: float
    pixels: UInt8[np.ndarray, "height width 3"]


def is_video(file: str | os.PathLike[str]) -> bool:
    """Tell by its ending whether a file is a video."""
    return os.path.splitext(os.fspath(file))[1].lower() in VIDEOS


def video_frames(file: str | os.PathLike[str], every: int = 1) -> Iterator[Frame]:
    """Read a video file, of which one frame is held at a time.

    Args:
        file: a video of any format that OpenCV's FFmpeg reads.
        every: 3 reads the frames 0, 3, 6, ...

    Raises:
        UserError: the file is missing, is no video, has no frames, or breaks off before nine tenths
            of the frames that its header names.
    """
    name = os.fspath(file)
    require_file(file)
    with _opened(name, f"{name}: not a video that OpenCV reads, or a broken one") as capture:
        named, number = capture.get(cv2.CAP_PROP_FRAME_COUNT), 0
        rate = capture.get(cv2.CAP_PROP_FPS)
        while capture.grab():
            if number % every == 0:
                pixels = _retrieved(capture)
                if pixels is None:
                    break
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if number and seconds <= 0 < rate:  # the format has no times
                    seconds = number / rate
                yield Frame(number, seconds, pixels)
            number += 1
    if number == 0:
        raise UserError(f"{name}: no frames in this video")
    if number < _SHORT * named:
        raise UserError(
            f"{name}: breaks off after {number:,} of {named:,.0f} frames; the file is not whole"
        )


def camera_frames(
    camera: int, every: int = 1, ended: Callable[[], bool] = lambda: False
) -> Iterator[Frame]:
    """Read a camera of this machine until `ended`, or until it gives no more frames.

    Args:
        camera: its number; 0 is the first.
        every: as in `video_frames`.
        ended: asked before each frame.

    Raises:
        UserError: there is no such camera, or it gives no frame.
    """
    with _opened(camera, f"camera {camera}: there is none of this number here") as capture:
        start, number = time.monotonic(), 0
        while not ended() and capture.grab():
            if number % every == 0:
                pixels = _retrieved(capture)
                if pixels is None:
                    break
                yield Frame(number, time.monotonic() - start, pixels)
            number += 1
        if number == 0 and not ended():
            raise UserError(f"camera {camera}: gives no frames; another program may use it")


@contextlib.contextmanager
def _opened(source: str | int, refusal: str) -> Iterator[Any]:
    """A video or a camera as a `cv2.VideoCapture`, which is let go at the end.

    Raises:
        UserError: it cannot be opened; the text is `refusal`.
    """
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise UserError(refusal)
        yield capture
    finally:
        capture.release()
        cv2.utils.logging.setLogLevel(level)


def _retrieved(capture: Any) -> np.ndarray | None:
    """The frame that was grabbed, RGB; None if it cannot be decoded."""
    decoded, pixels = capture.retrieve()
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if decoded else None
