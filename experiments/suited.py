"""A recipe that suits the data: for `classify --data SPEC` without a flag that says how to train.

The choice is a preset, and the flags that depend on the number and the size of the images. They
join the command line as if they were typed.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.data.packed import folder_of, original
from cnn_jax.data.source import Source, Subset
from cnn_jax.errors import UserError

from . import options as flags

Opener = Callable[[Any], Source]

TINY = 40
"""Pixels on the shorter side of the largest images that are taken at their own size."""

FEW = 20_000
"""The number of photos from which on a network of ImageNet is trained."""

_SAMPLE = 1000  # images at most whose size is read

# Flags that say neither which network is trained nor how, besides those that a resumed run may be
# given anew.
_BESIDE = {
    *("data", "data_dir", "channels", "bits"),
    *("train_examples", "holdout_fraction", "holdout_groups"),
    *("seed", "best", "fast", "matmul_precision"),
}


class Recipe(NamedTuple):
    """A choice.

    Attributes:
        words: what it is.
        flags: what it adds to the command line.
    """

    words: str
    flags: tuple[str, ...]


def recipe(examples: int, side: int) -> Recipe:
    """Choose by the number of training images and the pixels on their shorter side.

    The lengths are those of some minutes on two CPU cores, but for large sets.
    """
    if side <= TINY:
        size = max(side, 16)
        epochs = _epochs(examples, 250_000, 5, 60)
        return Recipe(
            f"a small network at {size} pixels, shifted and mirrored images, {epochs} epochs",
            ("--preset", "tiny_images", "--image-size", str(size), "--epochs", str(epochs)),
        )
    if examples < FEW:
        size = 64 if side < 96 else 128
        epochs = _epochs(examples, 60_000, 10, 100)
        return Recipe(
            f"a small network at {size} pixels, strong augmentation, {epochs} epochs",
            ("--preset", "small_photos", "--image-size", str(size), "--epochs", str(epochs)),
        )
    size = min(224, 32 * round(side / 32))
    return Recipe(
        f"ResNet-50 at {size} pixels, ImageNet's recipe; it wants an accelerator",
        ("--preset", "resnet50", "--image-size", str(size)),
    )


def _epochs(examples: int, images: int, fewest: int, most: int) -> int:
    """The passes over the data that are about so many images."""
    return min(max(round(images / examples), fewest), most)


def suited(options: type, argv: Sequence[str], opened: Opener) -> Sequence[str]:
    """The command line with the flags of a recipe, where it names data and nothing of a recipe.

    Two lines on stderr tell the choice, its reason and the whole command.

    Args:
        options: the dataclass of the command's flags.
        argv: the command line.
        opened: opens the training examples that options name.

    Raises:
        UserError: on a mistake in the flags, or data that cannot be opened.
    """
    given = flags.typed(options, argv)
    if "data" not in given or given.keys() - _free(options):
        return argv
    parsed = flags.parse(options, argv)
    if original(parsed.data.data) == flags.BUILT_IN:
        return argv
    if folder_of(parsed.data.data) is not None:
        _tell("the defaults; packed data has the size that its own flags decide")
        return argv
    source = opened(flags.replace(parsed, {"skip_bad_images": False}))
    side = median_side(source)
    if side is None:
        _tell(f"the defaults; the size of the images of {parsed.data.data} is not known")
        return argv
    chosen = recipe(len(source), side)
    whole = [*argv, *chosen.flags]
    _tell(
        f"{chosen.words}, as there are {len(source):,} training images of {side} pixels on the "
        f"shorter side\nthe same as: {flags.program(options.verb)} {shlex.join(whole)}"
    )
    return whole


def _tell(choice: str) -> None:
    print(f"recipe: {choice}", file=sys.stderr)


def _free(options: type) -> set[str]:
    """The flags beside which a recipe is chosen."""
    known = flags.declared(options)
    return _BESIDE | {n for n in flags.resumable(options) if not known[n].declared.typed_only}


def median_side(source: Source) -> int | None:
    """The median of the shorter sides in pixels, of at most 1,000 images all over the source.

    Images that cannot be read do not count: the run tells of them. None where no size is known.
    """
    count, below = len(source), source
    while isinstance(below, Subset):
        below = below.source
    if not hasattr(below, "size"):
        return None
    sizes = []
    for index in np.linspace(0, count - 1, min(count, _SAMPLE)).round().astype(int).tolist():
        try:
            sizes.append(min(source.size(index)))
        except UserError:
            continue
    return int(np.median(sizes)) if sizes else None
