"""The part of a run that `explain` asks: its network, scores and pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.augment import normalize
from cnn_jax.explanations.maps import Network
from cnn_jax.tasks.images import floating

from ..predict.predictor import Found, Predictor

Box = tuple[float, float, float, float]
Rectangle = tuple[int, int, int, int]
"""First row, first column, rows and columns."""


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
        shown: the part of the input that the picture shows.
        picture: the picture that is drawn on, RGB.
        given: what the network gets besides, such as the proposals of a detector.
        place: the part of the picture that the input shows; None for all of it. It may stick out.
    """

    images: jax.Array
    shown: Rectangle
    picture: np.ndarray
    given: Any = None
    place: Rectangle | None = None


class Subject(Protocol):
    """The part of one task.

    Attributes:
        local: whether a score is of one place of the image.
    """

    local: bool

    def network(self, variables: Any, given: Any) -> Network:
        """The network with its variables and what a view gives it, to outputs and features."""
        ...

    def view(self, content: np.ndarray) -> View:
        """An image as the network sees it."""
        ...

    def outputs(self, variables: Any, images: jax.Array, given: Any) -> Any:
        """The outputs that questions are asked about."""
        ...

    def questions(
        self, outputs: Any, view: View, found: Found, label: int | None
    ) -> list[Question]:
        """The answers to explain, those of a class where one is asked for, best first.

        Args:
            outputs: of the network.
            view: the image.
            found: what `predict` says of it.
            label: the number of the class.
        """
        ...

    def focused(self, view: View, question: Question) -> View:
        """The view in which the network gives an answer."""
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

    def network(self, variables: Any, given: Any) -> Network:
        """The network with its variables."""
        return lambda images: self._task.model.apply(variables, images, train=False)

    def outputs(self, variables: Any, images: jax.Array, given: Any) -> Any:
        """The network's own."""
        return self.network(variables, given)(images)[0]

    def focused(self, view: View, question: Question) -> View:
        """The same view for every answer."""
        return view

    def _normalized(self, image: np.ndarray) -> jax.Array:
        """A batch of one image as the network gets it."""
        return normalize(floating(jnp.asarray(image[None])), self._task.mean, self._task.std)


def parts(variables: Any) -> tuple[Any, Any]:
    """The parameters and the rest of the variables."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}
