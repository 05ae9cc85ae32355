"""Predictions of a segmenter: a mask of each image, and the image under it."""

import io
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import files
from cnn_jax.data.decode import as_rgb
from cnn_jax.data.resize import to_canvas
from cnn_jax.data.tiles import corners, window
from cnn_jax.reports import masks as pictures
from cnn_jax.reports.pictures import save
from cnn_jax.runs.names import show
from cnn_jax.tasks.views import average_pixels, read_views

from .. import options as flags
from .. import segment
from ..channels import pixels_in_words
from .names import output_names, require_other_files
from .predictor import (
    PICTURES,
    Batch,
    Example,
    Found,
    ImagePredictor,
    Predict,
    Result,
    class_names,
)


class MaskPredictor(ImagePredictor):
    """The mask of each image, written as a picture, and the share of each class."""

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        self._trained = flags.stored(segment.Options, run)
        self._names, self.reading = class_names(run), self._trained.data.reading
        (size,) = flags.recorded(run, evaluated_size=segment.RECORDED_SIZE)
        self.task = segment.build_task(self._trained, self._names, size)
        self.photo_size = self.task.size
        self._folder = Path(options.directory) if options.directory else run / PICTURES
        self._views = read_views(options.tta)
        self._write_probabilities = options.probabilities
        self._outputs = deque(self._named(options.images))

    def _named(self, inputs: Sequence[str]) -> list[dict[str, str]]:
        """The files that are written for each input, by what they hold."""
        endings = {"mask": "mask.png", "overlay": "overlay.png"}
        if self._write_probabilities:
            endings["probabilities"] = "probabilities.npy"
        outputs = [
            {what: f"{self._folder / name}.{ending}" for what, ending in endings.items()}
            for name in output_names(inputs)
        ]
        require_other_files(inputs, (file for files in outputs for file in files.values()))
        return outputs

    def examples(self, content: np.ndarray) -> list[Example]:
        """The image, resized as in training, or its tiles."""
        image = content
        tile, margin = self._trained.masks.tile, self.task.model.margin
        if tile is not None:
            places = corners(image.shape[:2], tile)
            return [{"image": window(image, *corner, tile, tile, margin)} for corner in places]
        resized = segment.resized_to(self._trained)
        seen = image if resized is None else to_canvas(image, resized)
        return [{"image": window(seen, 0, 0, *seen.shape[:2], margin)}]

    def averaged(self, predict: Predict, batch: Batch) -> jax.Array:
        """The log-probabilities, from the mean over the views of `--tta`."""
        return average_pixels(predict, batch, self._views, self.task.model.margin)

    def select(self, predictions: jax.Array) -> jax.Array:
        """The log-probabilities of every pixel."""
        return predictions

    def outputs(self, selected: jax.Array) -> dict[str, jax.Array]:
        """The most probable class of each pixel, and the probabilities of all."""
        return {
            "mask": jnp.argmax(selected, axis=-1).astype(jnp.uint8),
            "probabilities": jnp.exp(selected),
        }

    def described(self) -> dict[str, Any]:
        """The preparation of an image, and the names of the classes."""
        (rows, columns), margin = self.task.size, self.task.model.margin
        resized = segment.resized_to(self._trained)
        if self._trained.masks.tile is not None:
            part = f"tiles of {rows} x {columns} pixels, side by side from the top left"
        elif resized is not None:
            part = f"the whole image squashed to {rows} x {columns} pixels, bilinear, antialiased"
        else:
            part = f"the whole image, which has {rows} x {columns} pixels"
        around = f", and {margin} pixels around them, mirrored beyond the image" if margin else ""
        return {
            "preparation": f"{pixels_in_words(self.reading)}; {part}{around}",
            "class_names": self._names,
        }

    def found(self, content: np.ndarray, predictions: Sequence[np.ndarray]) -> Found:
        """The `mask`, the `shares` of the classes, largest first, and the pixels' `probabilities`.

        They are uint8 [height, width] and float32 [height, width, classes], at the image's size.
        """
        probabilities = self._whole(predictions, content.shape[:2])
        mask = probabilities.argmax(axis=-1).astype(np.uint8)
        shares = np.bincount(mask.ravel(), minlength=len(self._names)) / mask.size
        by_name = {self._names[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}
        return {"mask": mask, "shares": by_name, "probabilities": probabilities}

    def result(self, name: str, content: np.ndarray, found: Found) -> Result:
        """`road 61.0 %; sky 20.1 % -> overlay.png`: the share of each class, largest first."""
        image, written, mask = as_rgb(content), self._outputs.popleft(), found["mask"]
        save(Path(written["mask"]), pictures.index_image(mask, len(self._names)))
        shown = Image.fromarray(pictures.overlay(image, mask, len(self._names)))
        save(Path(written["overlay"]), shown)
        if "probabilities" in written:
            array = io.BytesIO()
            np.save(array, found["probabilities"].astype(np.float32))
            files.replace(Path(written["probabilities"]), array.getvalue())
        by_name = found["shares"]
        line = "; ".join(f"{n} {show('pixel_accuracy', s)}" for n, s in by_name.items() if s)
        return Result(
            f"{name}: {line} -> {written['overlay']}",
            [{"image": name, "shares": by_name, **written}],
        )

    def _whole(self, predictions: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """Probabilities of every pixel at the image's own size: floats [height, width, classes]."""
        classes, tile = self.task.num_classes, self._trained.masks.tile
        if tile is None:
            probabilities = jnp.exp(predictions[0])
            return np.asarray(jax.image.resize(probabilities, (*size, classes), "linear"))
        # Tiles that reach beyond the image are cut off.
        whole = np.zeros((size[0] + tile, size[1] + tile, classes), np.float32)
        for (top, left), row in zip(corners(size, tile), predictions, strict=True):
            whole[top : top + tile, left : left + tile] = np.exp(row)
        return whole[: size[0], : size[1]]
