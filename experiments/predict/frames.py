"""The inputs of `--count`: photos, or folders of frames, videos and cameras, frame by frame."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, NamedTuple

from cnn_jax.data.decode import as_grey
from cnn_jax.data.image_reading import Reading
from cnn_jax.data.video import camera_frames, is_video, video_frames
from cnn_jax.errors import UserError

from .inputs import expanded
from .names import output_names
from .predictor import Input


class Shot(NamedTuple):
    """A photo, or a frame of a clip.

    Attributes:
        image: the file, or the camera, that it is of.
        output: the beginning of the names of the files made of it.
        content: what is predicted of: the file, or pixels.
        number: its place in the clip, from 0.
        seconds: its time from the clip's beginning; None where frames have none.
    """

    image: str
    output: str
    content: Input
    number: int
    seconds: float | None


@dataclass(frozen=True)
class Photos:
    """Images that have nothing to do with each other.

    Attributes:
        files: the images.
        outputs: the beginnings of the names of the files made of each.
    """

    files: tuple[str, ...]
    outputs: tuple[str, ...] = ()

    def shots(self, reading: Reading, every: int, ended: Callable[[], bool]) -> Iterator[Shot]:
        """Each image."""
        for number, (file, output) in enumerate(zip(self.files, self.outputs, strict=True)):
            yield Shot(file, output, file, number, None)


@dataclass(frozen=True)
class Folder(Photos):
    """A clip whose frames are the images in a folder.

    Attributes:
        name: the folder.
        output: the beginning of the name of its curve.
    """

    name: str = ""
    output: str = ""

    def shots(self, reading: Reading, every: int, ended: Callable[[], bool]) -> Iterator[Shot]:
        """Each frame that is not passed over."""
        yield from (
            shot for shot in super().shots(reading, every, ended) if shot.number % every == 0
        )


@dataclass(frozen=True)
class Video:
    """A clip that OpenCV reads.

    Attributes:
        name: the file, or `camera 0`.
        source: the file, or the camera's number.
        output: the beginning of the names of its curve and of its frames.
    """

    name: str
    source: str | int
    output: str = ""

    def shots(self, reading: Reading, every: int, ended: Callable[[], bool]) -> Iterator[Shot]:
        """Each frame that is not passed over, as the run reads images; until `ended`.

        Raises:
            UserError: it cannot be read, or the run reads images of other channels.
        """
        if reading.bits != 8 or reading.channels not in (1, 3):
            raise UserError(
                f"{self.name}: has colours of 8 bits; the run reads {reading.channels} channels of "
                f"{reading.bits} bits"
            )
        camera = isinstance(self.source, int)
        read = camera_frames if camera else video_frames
        for frame in read(self.source, every, **({"ended": ended} if camera else {})):
            output = f"{self.output}-{frame.number:06d}"
            pixels = frame.pixels if reading.channels == 3 else as_grey(frame.pixels)
            yield Shot(self.name, output, pixels, frame.number, frame.seconds)


Clip = Folder | Video


def clips(given: Sequence[str], listed: str | None) -> list[Clip] | Photos:
    """The inputs of `--count`, in their order.

    A folder is a clip whose frames are sorted by name, `9.png` before `10.png`; where images lie in
    folders below it, each of these is one. A number is a camera unless a file has this name. Other
    images are photos.

    Raises:
        UserError: an input stands for nothing or cannot be read, or clips and photos are mixed.
    """
    found: list[Clip] = []
    photos: list[str] = []
    for text in given:
        if os.path.isdir(text):
            found += _folders(text)
        elif re.fullmatch("[0-9]{1,4}", text) and not os.path.exists(text):
            found.append(Video(f"camera {int(text)}", int(text)))
        else:
            _sort(expanded([text]), found, photos)
    if listed is not None:
        _sort(expanded([], listed), found, photos)
    if found and photos:
        raise UserError(
            f"{photos[0]}: a photo beside {found[0].name}; count photos in a command of their own"
        )
    return _with_outputs(found) if found else Photos(tuple(photos), tuple(output_names(photos)))


def _with_outputs(found: Sequence[Clip]) -> list[Clip]:
    """The clips with names of their own for all that is made of them."""
    frames = iter(output_names([f for one in found if isinstance(one, Folder) for f in one.files]))
    named = []
    for clip, output in zip(found, output_names([clip.name for clip in found]), strict=True):
        clip = replace(clip, output=output.replace(" ", "-"))
        if isinstance(clip, Folder):
            clip = replace(clip, outputs=tuple(islice(frames, len(clip.files))))
        named.append(clip)
    return named


def _sort(files: Sequence[str], found: list[Clip], photos: list[str]) -> None:
    """Put videos among the clips, and what else there is among the photos."""
    for file in files:
        if is_video(file):
            found.append(Video(file, file))
        else:
            photos.append(file)


def _folders(folder: str) -> Iterator[Clip]:
    """The clips in a folder: its own images, and those of each folder below it.

    Raises:
        UserError: there are none, or a folder cannot be read.
    """
    paths = sorted(
        expanded([folder]), key=lambda path: (natural(os.path.dirname(path)), natural(path))
    )
    for place, files in groupby(paths, os.path.dirname):
        yield Folder(tuple(files), name=place)


def natural(name: str) -> list[Any]:
    """The key that sorts names as people do: numbers in them by their value."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]
