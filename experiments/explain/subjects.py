"""Each task as `explain` sees it: classes, labels, classes of a mask, or detected objects."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.decode import as_rgb
from cnn_jax.errors import UserError
from cnn_jax.explanations.maps import Network

from ..predict.predictor import Found, Predictor
from .objects import detector
from .subject import OfTask, Question, Subject, View, parts


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
        self, outputs: Any, view: View, found: Found, label: int | None
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
        """The logit, or the cosine with the class's proxy."""
        return outputs[asked]

    def probability(self, outputs: Any, asked: Any) -> jax.Array:
        """The probability of the class or label."""
        return self._task.probabilities(outputs)[asked]


class Class(WholeImage):
    """A class of a whole image."""

    def network(self, variables: Any, given: Any) -> Network:
        """The network that the task scores classes by."""
        return partial(self._task.apply, *parts(variables))


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
        self, outputs: Any, view: View, found: Found, label: int | None
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


SUBJECTS: dict[str, Callable[[Predictor, Sequence[str]], Subject]] = {
    "annotate": WholeImage,
    "classify": Class,
    "detect": detector,
    "segment": Pixels,
}
"""The part of each verb."""
