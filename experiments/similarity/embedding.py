"""A trained network as a function from pictures to vectors of which similar ones are near."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from cnn_jax.errors import UserError
from cnn_jax.training.backend import compile_inference
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Task

from .. import options as flags
from .. import states
from ..predict import PREDICTORS, use_precision, verb_of
from ..predict.predictor import in_batches
from .regions import Region

VERBS = ("classify", "annotate")
"""The verbs whose networks have features of a whole picture."""

Pictures = Iterable[tuple[Region, np.ndarray]]
"""Regions and their pixels, cut out."""


class Embedder:
    """The features of a trained run before its last layer, as unit vectors.

    Args:
        run: its folder.
        state: see `experiments.states.kept`.
        batch_size: the most pictures in a step.

    Attributes:
        reading: the way in which the run reads images.
        told: the line for the user about the state.
        fingerprint: differs where any parameter of the network does, or its input.

    Raises:
        UserError: the run has no such features, or cannot be restored.
    """

    def __init__(
        self, run: Path, state: Literal["best", "last"] | None = None, batch_size: int = 32
    ) -> None:
        verb = verb_of(run)
        if verb not in VERBS:
            raise UserError(
                f"{run}: a run of {verb}; pictures are compared by the features of a run of "
                f"{' or '.join(VERBS)}"
            )
        use_precision(run)
        self._predictor = PREDICTORS[verb](run, flags.PredictOptions(run=str(run), state=state))
        self.reading = self._predictor.reading
        kept = states.kept(run, state)
        restored, notices = states.restored(self._predictor.task, kept.directory)
        for notice in notices:
            flags.warn(notice)
        self.told = kept.told(restored)
        self._batch_size = batch_size
        self._use(restored)

    def untrained(self, seed: int) -> "Embedder":
        """The same network with parameters that are drawn anew."""
        other = object.__new__(Embedder)
        other.__dict__ |= self.__dict__
        task: Task = self._predictor.task
        other._use(states.fresh_state(task, optax.identity(), seed))
        return other

    def _use(self, state: TrainState) -> None:
        task: Any = self._predictor.task
        self._compiled = compile_inference(
            lambda batch: task.embed(state.params, state.model_state, batch)
        )
        preparation = self._predictor.described()["preparation"]
        self.fingerprint = _digest((state.params, state.model_state), preparation)

    def read(self, file: str) -> np.ndarray:
        """The pixels of an image file, as the run reads them."""
        return self._predictor.read(file)

    def vectors(self, pictures: Pictures) -> Iterator[tuple[Region, np.ndarray]]:
        """Each region with its vector, in order and as soon as it is there.

        Only the pictures of one batch are held at a time.
        """
        waiting: deque[Region] = deque()

        def examples() -> Iterator[dict[str, np.ndarray]]:
            for region, pixels in pictures:
                waiting.append(region)
                (example,) = self._predictor.examples(pixels)
                yield dict(example)

        for vector in in_batches(self._compiled, examples(), self._batch_size):
            yield waiting.popleft(), vector


def _digest(variables: Any, preparation: str) -> str:
    """A digest of arrays, in the order of their names, and of what is done to an image before."""
    digest = hashlib.blake2b(preparation.encode(), digest_size=16)
    for leaf in jax.tree.leaves(jax.device_get(variables)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
