"""A recipe that suits the data: for `--data SPEC` without a flag that says how to train.

The choice is a preset, and the flags that depend on the number and the size of the examples. They
join the command line as if they were typed.
"""

import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.data.packed import folder_of, original
from cnn_jax.data.source import Source, Subset
from cnn_jax.errors import UserError

from . import options as flags

Opener = Callable[[Any], Source]
Choice = Callable[[Any], "Recipe"]

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
        flags: what it adds to the command line; none for the defaults.
        reason: what it follows from.
    """

    words: str
    flags: tuple[str, ...] = ()
    reason: str = ""


def suited(
    options: type, argv: Sequence[str], choose: Choice, beside: Collection[str] = ()
) -> Sequence[str]:
    """The command line with the flags of a recipe, where it names data and nothing of a recipe.

    Two lines on stderr tell the choice, its reason and the whole command.

    Args:
        options: the dataclass of the command's flags.
        argv: the command line.
        choose: chooses a recipe for the data that options name.
        beside: flags of the command that say nothing of a recipe, such as which labels are read.

    Raises:
        UserError: on a mistake in the flags, or data that cannot be opened.
    """
    given = flags.typed(options, argv)
    if "data" not in given or given.keys() - _free(options) - {*beside}:
        return argv
    parsed = flags.parse(options, argv)
    if original(parsed.data.data) == flags.BUILT_IN:
        return argv
    if folder_of(parsed.data.data) is not None:
        _tell("the defaults; packed data has the size that its own flags decide")
        return argv
    chosen = choose(flags.replace(parsed, {"skip_bad_images": False}))
    if not chosen.flags:
        _tell(f"{chosen.words}; {chosen.reason}")
        return argv
    whole = [*argv, *chosen.flags]
    _tell(
        f"{chosen.words}, as {chosen.reason}\n"
        f"the same as: {flags.program(options.verb)} {shlex.join(whole)}"
    )
    return whole


def by_images(opened: Opener, recipe: Callable[[int, int], Recipe]) -> Choice:
    """The choice by the number of training images and the pixels on their shorter side."""

    def choose(options: Any) -> Recipe:
        source = opened(options)
        side = median_side(source)
        if side is None:
            data = options.data.data
            return Recipe("the defaults", reason=f"the size of the images of {data} is not known")
        chosen = recipe(len(source), side)
        reason = f"there are {len(source):,} training images of {side} pixels on the shorter side"
        return chosen if chosen.reason else chosen._replace(reason=reason)

    return choose


def passes(examples: int, most_examples: int, fewest: int, most: int) -> int:
    """The epochs that are about so many examples, within limits."""
    return min(max(round(most_examples / examples), fewest), most)


def classification(examples: int, side: int) -> Recipe:
    """Choose for images of one class each.

    The lengths are those of some minutes on two CPU cores, but for large sets.
    """
    if side <= TINY:
        size = max(side, 16)
        epochs = passes(examples, 250_000, 5, 60)
        return Recipe(
            f"a small network at {size} pixels, shifted and mirrored images, {epochs} epochs",
            ("--preset", "tiny_images", "--image-size", str(size), "--epochs", str(epochs)),
        )
    if examples < FEW:
        size = 64 if side < 96 else 128
        epochs = passes(examples, 60_000, 10, 100)
        return Recipe(
            f"a small network at {size} pixels, strong augmentation, {epochs} epochs",
            ("--preset", "small_photos", "--image-size", str(size), "--epochs", str(epochs)),
        )
    size = min(224, 32 * round(side / 32))
    return Recipe(
        f"ResNet-50 at {size} pixels, ImageNet's recipe; it wants an accelerator",
        ("--preset", "resnet50", "--image-size", str(size)),
    )


def annotation(examples: int, side: int) -> Recipe:
    """Choose for images of several labels each."""
    epochs = passes(examples, 40_500, 10, 100)
    size, preset = (max(side, 16), "small_photos") if side <= TINY else (64, "natural_scenes")
    return Recipe(
        f"a small network at {size} pixels, resized crops, mirrored images, {epochs} epochs",
        ("--preset", preset, "--image-size", str(size), "--epochs", str(epochs)),
    )


def segmentation(examples: int, side: int) -> Recipe:
    """Choose for images with masks: windows at the images' own scale, then whole images."""
    epochs = passes(examples, 10_000, 10, 100)
    crop = min(192, side // 16 * 16)
    if crop < 32:
        return Recipe("the defaults", reason=f"images of {side} pixels are very small")
    return Recipe(
        f"a small U-Net on windows of {crop} pixels, {epochs} epochs",
        ("--preset", "few_masks", "--crop-size", str(crop), str(crop), "--epochs", str(epochs)),
    )


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
