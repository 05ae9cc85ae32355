"""The parts of a run that `explain` asks: for each task, its network, scores and pixels."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.augment import normalize
from cnn_jax.data.decode import as_rgb
from cnn_jax.errors import UserError
from cnn_jax.explanations.maps import Network
from cnn_jax.ops import boxes as box_ops
from cnn_jax.tasks.detection.yolo import Yolo
from cnn_jax.tasks.images import floating

from ..predict.predictor import Found, Predictor

Box = tuple[float, float, float, float]


class Question(NamedTuple):
    """One answer of the run that is explained.

    Attributes:
        label: the number of its class.
        caption: the answer in words, such as `cat 0.93`.
        row: of a detection, the number of its box among all that the network gives.
        box: its corners in pixels of the picture; None where the answer is no object.
    """

    label: int
    caption: str
    row: int = 0
    box: Box | None = None


class View(NamedTuple):
    """An image as the network sees it.

    Attributes:
        images: its input, a batch of one.
        shown: rows and columns of the input that the picture shows: first and number of each.
        picture: the picture that is drawn on, RGB.
    """

    images: jax.Array
    shown: tuple[int, int, int, int]
    picture: np.ndarray


class Subject(Protocol):
    """The part of one task.

    Attributes:
        local: whether a score is of one place of the image.
    """

    local: bool

    def network(self, variables: Any) -> Network:
        """The network with its variables, from input to outputs and features."""
        ...

    def view(self, content: np.ndarray) -> View:
        """An image as the network sees it."""
        ...

    def questions(
        self, outputs: Any, content: np.ndarray, found: Found, label: int | None
    ) -> list[Question]:
        """The answers to explain, those of a class where one is asked for, best first.

        Args:
            outputs: of the network.
            content: the image.
            found: what `predict` says of it.
            label: the number of the class.
        """
        ...

    def asked(self, outputs: Any, question: Question) -> Any:
        """The arrays that a score needs besides the outputs of an example."""
        ...

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The number whose derivative is taken: a logit where there is one."""
        ...

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The number whose fall is measured, in 0..1."""
        ...


class OfTask:
    """The part that all tasks share.

    Args:
        predictor: of the run.
        names: of its classes.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str]) -> None:
        self._predictor, self._task, self._names = predictor, predictor.task, names

    def network(self, variables: Any) -> Network:
        """The network with its variables."""
        return lambda images: self._task.model.apply(variables, images, train=False)

    def _normalized(self, image: np.ndarray) -> jax.Array:
        """A batch of one image as the network gets it."""
        return normalize(floating(jnp.asarray(image[None])), self._task.mean, self._task.std)


class WholeImage(OfTask):
    """A class, or the labels, of a whole image."""

    local = False

    def view(self, content: np.ndarray) -> View:
        """The evaluation's crop; of ten, the one in the middle."""
        image = self._predictor.examples(content)[0]["image"]
        image = image[4] if image.ndim == 4 else image
        images = self._normalized(image)
        return View(images, (0, 0, *image.shape[:2]), as_rgb(image))

    def questions(
        self, outputs: Any, content: np.ndarray, found: Found, label: int | None
    ) -> list[Question]:
        """The most probable classes; the labels that are given, or the most probable one."""
        if "tags" in found:
            probabilities = found["probabilities"]
            named = found["tags"] or [max(probabilities, key=probabilities.__getitem__)]
        else:
            probabilities = dict(zip(self._names, found["probabilities"], strict=True))
            named = [one["label"] for one in found["predictions"]]
        named = named if label is None else [self._names[label]]
        return [Question(self._names.index(n), f"{n} {probabilities[n]:.2f}") for n in named]

    def asked(self, outputs: Any, question: Question) -> Any:
        """The number of the class."""
        return jnp.int32(question.label)

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The logit."""
        return outputs[asked]

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The probability of the class or label."""
        return self._task.probabilities(outputs)[asked]


class Pixels(OfTask):
    """The classes of a mask: the pixels that are predicted as one of them."""

    local = False

    def view(self, content: np.ndarray) -> View:
        """The image, resized as in training.

        Raises:
            UserError: the network sees it in several tiles.
        """
        examples = self._predictor.examples(content)
        margin = self._task.model.margin
        image = examples[0]["image"]
        rows, columns = (side - 2 * margin for side in image.shape[:2])
        if len(examples) > 1:
            raise UserError(
                f"an image of {content.shape[0]} x {content.shape[1]} pixels: this run sees "
                f"{rows} x {columns} at a time; explain a part of that size"
            )
        images = self._normalized(image)
        images, (top, left) = self._task.padded(images, (rows, columns))
        return View(images, (top + margin, left + margin, rows, columns), as_rgb(content))

    def questions(
        self, outputs: Any, content: np.ndarray, found: Found, label: int | None
    ) -> list[Question]:
        """The classes with the most pixels; none where the asked one has none."""
        held = np.unique(np.argmax(outputs[0], axis=-1))
        return [
            Question(number, f"{name} {100 * share:.1f} % of the pixels")
            for name, share in found["shares"].items()
            if (number := self._names.index(name)) in held and label in (None, number)
        ]

    def asked(self, outputs: Any, question: Question) -> Any:
        """The class, and its pixels in the network's own mask."""
        return jnp.int32(question.label), jnp.argmax(outputs[0], axis=-1) == question.label

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The sum of the class's logits over its pixels."""
        label, pixels = asked
        return jnp.sum(outputs[..., label], where=pixels)

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The mean probability of the class over its pixels."""
        label, pixels = asked
        return jnp.mean(jax.nn.softmax(outputs)[..., label], where=pixels)


class Objects(OfTask):
    """The detections of YOLO, one by one.

    Raises:
        UserError: the run is of another system.
    """

    local = True

    def __init__(self, predictor: Predictor, names: Sequence[str]) -> None:
        super().__init__(predictor, names)
        if not isinstance(self._task, Yolo):
            raise UserError("explain: of detectors, only those of --system yolo can be explained")

    def view(self, content: np.ndarray) -> View:
        """The image, squashed to a square."""
        image = self._predictor.examples(content)[0]["image"]
        images = self._normalized(image)
        return View(images, (0, 0, *image.shape[:2]), as_rgb(content))

    def questions(
        self, outputs: Any, content: np.ndarray, found: Found, label: int | None
    ) -> list[Question]:
        """The objects that count, best first."""
        boxes, scores = self._task.scored(jnp.asarray(outputs[0]))
        boxes = np.asarray(box_ops.clip(boxes, (1, 1))) * np.tile(content.shape[1::-1], 2)
        counted = np.flatnonzero(found["counted"])
        return [
            Question(
                label=int(found["labels"][i]),
                caption=f"{found['names'][i]} {found['scores'][i]:.2f}",
                row=_row(boxes, scores, found["boxes"][i], found["labels"][i]),
                box=tuple(found["boxes"][i]),
            )
            for i in counted
            if label in (None, found["labels"][i])
        ]

    def asked(self, outputs: Any, question: Question) -> Any:
        """The number of the box, and the class."""
        return jnp.int32(question.row), jnp.int32(question.label)

    def score(self, outputs: Any, asked: Any) -> jax.Array:
        """The score of the box for the class."""
        return self._task.scored(outputs)[1][asked]

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The same."""
        return self.score(outputs, asked)


def _row(boxes: np.ndarray, scores: jax.Array, box: np.ndarray, label: int) -> int:
    """The number of the box that a detection is: of the nearest, the one with the best score."""
    apart = np.abs(boxes - box).max(axis=-1)
    return int(np.lexsort((-np.asarray(scores)[:, label], np.round(apart, 1)))[0])


SUBJECTS: dict[str, Callable[[Predictor, Sequence[str]], Subject]] = {
    "annotate": WholeImage,
    "classify": WholeImage,
    "detect": Objects,
    "segment": Pixels,
}
"""The part of each verb."""
