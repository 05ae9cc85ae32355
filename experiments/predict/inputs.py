"""The inputs that a command line names: files, folders, patterns and lists."""

import glob
import os
from collections.abc import Iterator, Sequence

from cnn_jax.data.decode import READ
from cnn_jax.data.image_files import list_images
from cnn_jax.errors import UserError
from cnn_jax.reading import read_lines


def expanded(given: Sequence[str], listed: str | None = None, images: bool = True) -> list[str]:
    """The inputs in the order given; what a folder or a pattern stands for is sorted.

    A folder stands for the images at any depth below it, `*.jpg` and `**/*.jpg` for the files that
    they match where the shell has not done so, and `@FILE` for what the lines of a file name. A
    file of any name that exists stands for itself.

    Args:
        given: files, folders, patterns and `@FILE`; or sentences and `@FILE`.
        listed: a further file whose lines are inputs.
        images: whether the inputs are images, not sentences.

    Raises:
        UserError: a folder, pattern or list holds nothing, or cannot be read.
    """
    inputs = [found for text in given for found in _meant(text, images)]
    if listed is not None:
        inputs += _lines(listed)
    return inputs


def _meant(text: str, images: bool) -> Iterator[str]:
    if os.path.isfile(text) and images:
        yield text
    elif text.startswith("@") and (images or os.path.isfile(text[1:])):
        yield from _lines(text[1:])
    elif images and os.path.isdir(text):
        found = list_images(text).files
        if not found:
            raise UserError(f"{text}: no images ({READ}) in this folder")
        yield from (os.path.join(text, name) for name in found)
    elif images and glob.has_magic(text):
        found = sorted(path for path in glob.glob(text, recursive=True) if os.path.isfile(path))
        if not found:
            raise UserError(f"{text}: no file has such a name")
        yield from found
    else:
        yield text


def _lines(file: str) -> list[str]:
    lines = [line.strip() for line in read_lines(file)]
    if not any(lines):
        raise UserError(f"{file}: names no input; give one in each line")
    return list(filter(None, lines))
