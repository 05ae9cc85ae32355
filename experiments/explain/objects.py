"""The detections of the three systems, which `explain` takes one by one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.decode import as_rgb
from cnn_jax.explanations.maps import Network
from cnn_jax.ops import boxes as box_ops
from cnn_jax.tasks.detection.fast_rcnn import FastRCNN
from cnn_jax.tasks.detection.rcnn import RCNN
from cnn_jax.tasks.detection.yolo import Yolo

from ..predict.predictor import Found, Predictor
from .subject import Box, OfTask, Question, View, parts


class Objects(OfTask):
    """The detections of a detector, one by one."""

    local = True

    def view(self, content: np.ndarray) -> View:
        """The image, squashed to a square, with the proposals of a detector that needs them."""
        example = self._predictor.examples(content)[0]
        image = example.pop("image")
        given = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
        return View(self._normalized(image), (0, 0, *image.shape[:2]), as_rgb(content), given)

    def questions(
        self, outputs: Any, view: View, found: Found, label: int | None
    ) -> list[Question]:
        """The objects that count, best first."""
        boxes, scores = self._scored(outputs, view.given)
        scores, rows, columns = np.asarray(scores), *view.picture.shape[:2]
        boxes = np.asarray(box_ops.clip(boxes, (1, 1))) * np.array([columns, rows] * 2)
        boxes = np.broadcast_to(boxes.reshape(len(boxes), -1, 4), (*scores.shape, 4))
        return [
            Question(
                label=int(found["labels"][i]),
                caption=f"{found['names'][i]} {min(found['scores'][i], 1):.2f}",
                row=_row(boxes, scores, found["boxes"][i], found["labels"][i]),
                box=tuple(found["boxes"][i]),
            )
            for i in np.flatnonzero(found["counted"])
            if label in (None, found["labels"][i])
        ]

    def asked(self, outputs: Any, question: Question) -> Any:
        """The number of the box, and the class."""
        return jnp.int32(question.row), jnp.int32(question.label)

    def _scored(self, outputs: Any, given: Any) -> tuple[Any, Any]:
        """The boxes of one image (for each class, or for all), in 0..1, and their scores."""
        raise NotImplementedError


class Cells(Objects):
    """The detections of YOLO, each of a cell of its grid."""

    def _scored(self, outputs: Any, given: Any) -> tuple[Any, Any]:
        return self._task.scored(jnp.asarray(outputs[0]))

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The score of the box for the class."""
        return self._task.scored(outputs)[1][asked]

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The same."""
        return self.score(outputs, asked)


class Regions(Objects):
    """The detections of Fast R-CNN, each of a proposal."""

    def network(self, variables: Any, given: Any) -> Network:
        """The network of an image's proposals; its maps are the backbone's.

        With several sides in pixels, each map's name ends in that of its image: `stage3_480`.
        """
        task = self._task
        sides = tuple(dict.fromkeys(task.sides))

        def apply(images: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            outputs, kept = task.model.apply(
                variables,
                images,
                given["proposals"],
                train=False,
                sides=sides,
                capture_intermediates=lambda module, _: module.name == "backbone",
                mutable=["intermediates"],
            )
            calls = kept["intermediates"]["backbone"]["__call__"]
            ends = [f"_{side}" for side in sides] if len(calls) > 1 else [""]
            maps = {
                name + end: x
                for end, (_, features) in zip(ends, calls, strict=True)
                for name, x in features.items()
            }
            return outputs, maps

        return apply

    def _scored(self, outputs: Any, given: Any) -> tuple[Any, Any]:
        scores, deltas = map(jnp.asarray, outputs)
        boxes = self._task.boxes(deltas, given["proposals"])[0]
        side = self._task.evaluation.image_size
        filled = given["proposal_valid"][0][:, None]
        return boxes / side, jnp.where(filled, jax.nn.softmax(scores[0])[:, 1:], -1.0)

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The logit of the proposal for the class, behind the background's."""
        row, label = asked
        return outputs[0][row, label + 1]

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The probability of the proposal's class."""
        row, label = asked
        return jax.nn.softmax(outputs[0][row])[label + 1]


class Crops(Objects):
    """The detections of R-CNN, each of a proposal that the network sees alone.

    The evidence lies in the warped proposal and its context. The features are those of the whole
    image, warped as one region.
    """

    local = False

    def network(self, variables: Any, given: Any) -> Network:
        """The network of a warped region, to what its classes are scored by."""
        params, model_state = parts(variables)

        def apply(crops: jax.Array) -> tuple[Any, Any]:
            hidden, maps = self._task.network.apply(params["network"], model_state, crops)
            return self._task.evidence(params, hidden), maps

        return apply

    def view(self, content: np.ndarray) -> View:
        """The whole image as a region; the proposals, and the image they are cut from."""
        example = self._predictor.examples(content)[0]
        given = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
        side = self._task.evaluation.image_size
        return self._region(given, (0, 0, side, side), as_rgb(content))

    def outputs(self, variables: Any, images: jax.Array, given: Any) -> Any:
        """The boxes and scores of all proposals."""
        return self._task.scored(*parts(variables), given)[:2]

    def focused(self, view: View, question: Question) -> View:
        """The proposal, warped."""
        box = tuple(np.asarray(view.given["proposals"])[0, question.row])
        return self._region(view.given, box, view.picture)

    def asked(self, outputs: Any, question: Question) -> Any:
        """The number of the class."""
        return jnp.int32(question.label)

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The margin of the class's SVM, or its logit."""
        background = 1 if self._task.classifier == "softmax" else 0
        return outputs[asked + background]

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The number in 0..1 that counts as the score."""
        return self._task.probabilities(outputs)[asked]

    def _scored(self, outputs: Any, given: Any) -> tuple[Any, Any]:
        boxes, scores = (jnp.asarray(x[0]) for x in outputs)
        filled = given["proposal_valid"][0][:, None]
        return boxes / self._task.evaluation.image_size, jnp.where(filled, scores, -1.0)

    def _region(self, given: Any, box: Box, picture: np.ndarray) -> View:
        network = self._task.network
        crops = network.crops(
            self._normalized(given["image"][0])[0], jnp.asarray([box], jnp.float32)
        )
        # The region and its context in pixels of the picture.
        scale = np.array(picture.shape[1::-1]) / self._task.evaluation.image_size
        first, last = (np.array(corner) * scale for corner in (box[:2], box[2:]))
        growth = network.crop_size / (network.crop_size - 2 * network.context)
        middle, half = (first + last) / 2, (last - first) / 2 * growth
        left, top = np.round(middle - half).astype(int)
        columns, rows = np.maximum(np.round(2 * half).astype(int), 1)
        place = int(top), int(left), int(rows), int(columns)
        return View(crops, (0, 0, *crops.shape[1:3]), picture, given, place)


def _row(boxes: np.ndarray, scores: np.ndarray, box: np.ndarray, label: int) -> int:
    """The number of the box that a detection is: of the nearest, the one with the best score."""
    apart = np.abs(boxes[:, label] - box).max(axis=-1)
    return int(np.lexsort((-scores[:, label], np.round(apart, 1)))[0])


def detector(predictor: Predictor, names: Sequence[str]) -> Objects:
    """The part of a detector of any system."""
    kinds = {Yolo: Cells, FastRCNN: Regions, RCNN: Crops}
    return kinds[type(predictor.task)](predictor, names)
