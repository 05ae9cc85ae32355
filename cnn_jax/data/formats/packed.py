"""`packed:DIR`: canvases that `experiments.pack` wrote, for every task of images."""

from functools import partial

from cnn_jax.data.packed import PREFIX, PackedSource
from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError
from cnn_jax.reading import user_path


def _open(task: str, directory: str, split: Split, settings: Settings) -> PackedSource:
    """Open one split of packed data.

    Raises:
        UserError: it is missing, not whole, damaged, or was packed for another task.
    """
    if not directory:
        raise UserError("--data packed: lacks a folder, give packed:DIR")
    source = PackedSource(user_path(directory), split)
    if source.about["task"] != task:
        raise UserError(
            f"--data {PREFIX}{directory}: was packed for {source.about['task']}, not for {task}"
        )
    if source.channels != settings.channels:
        raise UserError(
            f"--data {PREFIX}{directory}: was packed with --channels {source.channels}, not "
            f"{settings.channels}"
        )
    if source.bits != settings.bits:
        raise UserError(
            f"--data {PREFIX}{directory}: was packed with --bits {source.bits}, not {settings.bits}"
        )
    return source


open_packed = partial(_open, "classify")
open_packed_boxes = partial(_open, "detect")
open_packed_masks = partial(_open, "segment")
open_packed_tags = partial(_open, "annotate")
