"""The shared way of all predictions: restore the run, compile, batch, print, write."""

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from cnn_jax.data.transforms import EvaluationTransform
from cnn_jax.errors import UserError
from cnn_jax.runs.folder import CONFIG_FILE
from cnn_jax.training.backend import compile_inference
from cnn_jax.training.step import Task

from .. import options as flags
from .. import states

PICTURES = "predictions"
"""The folder below a run's where pictures go unless the user names one."""

Example = Mapping[str, np.ndarray]


class Result(NamedTuple):
    """The result for one input.

    Attributes:
        line: the text printed for a person.
        content: the objects printed as JSON.
    """

    line: str
    content: list[Any]


@runtime_checkable
class Predictor(Protocol):
    """The part of one task: its inputs as examples, and its predictions in words.

    Attributes:
        task: makes the predictions.
    """

    task: Task

    def examples(self, name: str) -> Sequence[Example]:
        """The arrays that the network is fed for one input: one example, or several tiles."""
        ...

    def select(self, predictions: Any) -> Any:
        """The part of the task's predictions that `result` needs."""
        ...

    def outputs(self, selected: Any) -> dict[str, jax.Array]:
        """The outputs of an exported program, by name, from what `select` leaves of a batch."""
        ...

    def described(self) -> dict[str, Any]:
        """What the user of an exported program needs to know, as JSON.

        `preparation` says in words how an input is made, other entries what outputs mean.
        """
        ...

    def result(self, name: str, predictions: Sequence[Any]) -> Result:
        """One input's predictions in words and as data; writes its pictures."""
        ...


def predict(
    run: Path,
    make: Callable[[Path, flags.PredictOptions], Predictor],
    options: flags.PredictOptions,
) -> None:
    """Predict for every input, and print a line each, or all of them as JSON.

    Args:
        run: the run's folder.
        make: the task's predictor.
        options: the flags.

    Raises:
        UserError: the run, or an input, cannot be read.
    """
    state = states.kept(run, options.state)
    predictor, content = make(run, options), []
    for result in results(state, predictor, options.images, options.batch_size):
        content += result.content
        if not options.json:
            print(result.line)
    if options.json:
        # Elsewhere JSON's own escapes stand for what the encoding lacks.
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        print(json.dumps(content, indent=2, ensure_ascii=not unicode))


def results(
    kept: states.Kept, predictor: Predictor, inputs: Sequence[str], batch_size: int
) -> Iterator[Result]:
    """The results of all inputs in their order, each as soon as it is there."""
    task = predictor.task
    state, notices = states.restored(task, kept.directory)
    print(kept.told(state), file=sys.stderr)
    for notice in notices:
        flags.warn(notice)
    compiled = compile_inference(
        lambda batch: predictor.select(task.predict(state.params, state.model_state, batch))
    )
    waiting: list[tuple[str, int]] = []  # inputs, and how many of their examples are to come

    def examples() -> Iterator[Example]:
        for name in inputs:
            own = predictor.examples(name)
            waiting.append((name, len(own)))
            yield from own

    rows: list[Any] = []
    for row in in_batches(compiled, examples(), batch_size):
        rows.append(row)
        name, count = waiting[0]
        if len(rows) == count:
            yield predictor.result(name, rows)
            del waiting[0]
            rows = []


def in_batches(
    function: Callable[[dict[str, np.ndarray]], Any], examples: Iterable[Example], batch_size: int
) -> Iterator[Any]:
    """One prediction an example, in their order.

    Examples of one shape that follow one another share a batch. A later batch with fewer of them
    is filled up, so that each shape is compiled once.

    Args:
        function: from a batch to its predictions.
        examples: arrays by name.
        batch_size: the most examples in a batch.
    """
    compiled: dict[Any, int] = {}
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


def whole_image_preparation(transform: EvaluationTransform) -> str:
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
        f"bytes of RGB; the shorter side resized to {transform.resize} pixels, bilinear and "
        f"antialiased as Pillow does it; squares of {transform.crop} pixels cut out: {crops}"
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
