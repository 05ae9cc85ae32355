"""The shared way of all predictions: restore the run, compile, batch, and give what is found."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from cnn_jax.data.image_reading import Reading
from cnn_jax.data.transforms import EvaluationTransform
from cnn_jax.errors import UserError
from cnn_jax.runs.folder import CONFIG_FILE
from cnn_jax.training.backend import compile_inference
from cnn_jax.training.step import Task

from .. import options as flags
from .. import states
from ..channels import pixels_in_words

PICTURES = "predictions"
"""The folder below a run's where pictures go unless the user names one."""

Example = Mapping[str, np.ndarray]
Input = str | Path | np.ndarray
"""The file of an image, or its pixels [height, width, channels], RGB of uint8 unless the run has
others; or a sentence."""

Batch = dict[str, Any]
Predict = Callable[[Batch], Any]

Found = Mapping[str, Any]
"""What a run says of one input: values, lists and arrays by name."""


class Result(NamedTuple):
    """The result for one input, as a command shows it.

    Attributes:
        line: the text printed for a person.
        content: the objects printed as JSON.
    """

    line: str
    content: list[Any]


@runtime_checkable
class Predictor(Protocol):
    """The part of one task: its inputs as examples, and what their predictions say.

    Attributes:
        task: makes the predictions.
    """

    task: Task

    def read(self, given: Input) -> Any:
        """The input itself: the pixels of an image, or a sentence."""
        ...

    def examples(self, content: Any) -> Sequence[Example]:
        """The arrays that the network is fed for one input: one example, or several tiles."""
        ...

    def samples(self, rng: np.random.Generator, count: int) -> Sequence[Example]:
        """Examples of noise: for the shapes of the network's inputs, and to compare programs."""
        ...

    def select(self, predictions: Any) -> Any:
        """The part of the task's predictions that `found` needs."""
        ...

    def outputs(self, selected: Any) -> dict[str, jax.Array]:
        """The outputs of an exported program, by name, from what `select` leaves of a batch."""
        ...

    def described(self) -> dict[str, Any]:
        """What the user of an exported program needs to know, as JSON.

        `preparation` says in words how an input is made, other entries what outputs mean.
        """
        ...

    def averaged(self, predict: Predict, batch: Batch) -> Any:
        """What `predict` gives of a batch: of the batch alone, or of the views of `--tta`."""
        ...

    def found(self, content: Any, predictions: Sequence[Any]) -> Found:
        """What the predictions of one input say, at the size of its image."""
        ...

    def result(self, name: str, content: Any, found: Found) -> Result:
        """The same in words and as data for JSON; writes its pictures."""
        ...


class ImagePredictor:
    """The part that all predictors of images share.

    Attributes:
        reading: the way in which the run reads images.
        photo_size: rows and columns of an image that the run can see.
    """

    reading: Reading
    photo_size: tuple[int, int] = (64, 64)

    def read(self, given: Input) -> np.ndarray:
        """The pixels of an image.

        Raises:
            UserError: the file cannot be read, or the array is no image with the run's channels
                and bits.
        """
        if not isinstance(given, np.ndarray):
            return self.reading.decode(given)
        shape, channels, dtype = given.shape, self.reading.channels, self.reading.dtype
        if given.dtype != dtype or len(shape) != 3 or shape[2] != channels or not given.size:
            rgb = ", RGB" if channels == 3 else ""
            raise UserError(
                f"an array {given.dtype}{list(shape)}: must be {dtype} [height, width, {channels}]"
                f"{rgb}"
            )
        return given

    def examples(self, content: np.ndarray) -> Sequence[Example]:
        """The arrays that the network is fed for one image: one example, or several tiles."""
        raise NotImplementedError

    def samples(self, rng: np.random.Generator, count: int) -> list[Example]:
        """The first example of each of several images of noise."""
        shape, dtype = (count, *self.photo_size, self.reading.channels), self.reading.dtype
        photos = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        return [self.examples(photo)[0] for photo in photos]

    def averaged(self, predict: Predict, batch: Batch) -> Any:
        """The prediction of the images as they are."""
        return predict(batch)


class Network:
    """A trained run's network, compiled for prediction.

    Args:
        kept: the state of the run.
        predictor: the part of its task.
        batch_size: the most examples in a step.

    Attributes:
        state: the state that was restored.
        told: the line for the user about it.
    """

    def __init__(self, kept: states.Kept, predictor: Predictor, batch_size: int) -> None:
        self._predictor, self._batch_size = predictor, batch_size
        task = predictor.task
        state, notices = states.restored(task, kept.directory)
        self.state, self.told = state, kept.told(state)
        for notice in notices:
            flags.warn(notice)

        def selected(batch: Batch) -> Any:
            return predictor.select(task.predict(state.params, state.model_state, batch))

        self._compiled = compile_inference(lambda batch: predictor.averaged(selected, batch))
        self._sizes: dict[Any, int] = {}

    def outcomes(self, inputs: Iterable[Input]) -> Iterator[tuple[Input, Any, Found]]:
        """Each input, its content and what is found of it, in order and as soon as it is there.

        Only the inputs of one batch are held at a time.
        """
        predictor = self._predictor
        waiting: deque[tuple[Input, Any, int]] = deque()  # the last: how many examples are to come

        def examples() -> Iterator[Example]:
            for given in inputs:
                content = predictor.read(given)
                own = predictor.examples(content)
                waiting.append((given, content, len(own)))
                yield from own

        rows: list[Any] = []
        for row in in_batches(self._compiled, examples(), self._batch_size, self._sizes):
            rows.append(row)
            given, content, count = waiting[0]
            if len(rows) == count:
                waiting.popleft()
                yield given, content, predictor.found(content, rows)
                rows = []


def in_batches(
    function: Callable[[dict[str, np.ndarray]], Any],
    examples: Iterable[Example],
    batch_size: int,
    compiled: dict[Any, int] | None = None,
) -> Iterator[Any]:
    """One prediction an example, in their order.

    Examples of one shape that follow one another share a batch. A later batch with fewer of them
    is filled up, so that each shape is compiled once.

    Args:
        function: from a batch to its predictions.
        examples: arrays by name.
        batch_size: the most examples in a batch.
        compiled: the size of the batches that each shape is compiled for; those of this call are
            added.
    """
    compiled = {} if compiled is None else compiled
    for shape, group in itertools.groupby(examples, _shape):
        while rows := list(itertools.islice(group, batch_size)):
            size = compiled[shape] = max(len(rows), compiled.get(shape, 0))
            filled = [*rows, *rows[-1:] * (size - len(rows))]
            batch = {name: np.stack([row[name] for row in filled]) for name in rows[0]}
            predictions = jax.device_get(function(batch))
            for index in range(len(rows)):
                yield jax.tree.map(lambda x, index=index: x[index], predictions)


def _shape(example: Example) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, np.shape(value)) for name, value in example.items())


def whole_image_preparation(transform: EvaluationTransform, reading: Reading) -> str:
    """The preparation of an image of which the whole is classified or annotated, in words."""
    crops = (
        "the one in the middle"
        if not transform.ten_crop
        else (
            "ten: top left, top right, bottom left, bottom right, middle; then those of the "
            "mirrored image"
        )
    )
    return (
        f"{pixels_in_words(reading)}; the shorter side resized to {transform.resize} pixels, "
        f"bilinear and antialiased as Pillow does it; squares of {transform.crop} pixels cut out: "
        f"{crops}"
    )


def class_names(run: Path) -> tuple[str, ...]:
    """The names of the classes that a run was trained on.

    Raises:
        UserError: the run's `config.json` has none.
    """
    (names,) = flags.recorded(run, class_names=tuple[str, ...])
    if not names:
        raise UserError(f"{run / CONFIG_FILE}: class_names is empty")
    return names
