"""Apply a trained run to your own images or sentences.

python -m experiments.predict runs/NAME photo.jpg       # bicycle 0.60; people 0.30; ...
python -m experiments.predict runs/NAME photos '**/*.png' @list.txt --predictions found.csv
python -m experiments.predict runs/NAME *.jpg --json
python -m experiments.predict runs/NAME street.jpg --count  # of a detector
python -m experiments.predict runs/NAME street.mp4 --count --line 0 300 640 300  # who crosses it
python -m experiments.predict runs/NAME "12th of May, 2009"

From Python, `load(RUN).predict(images)` gives the same numbers.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax

from cnn_jax.data.video import is_video
from cnn_jax.errors import UserError
from cnn_jax.progress import track
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from .. import options as flags
from .. import states
from .annotation import TagPredictor
from .classification import ClassPredictor
from .counting import count
from .detection import BoxPredictor
from .frames import Photos, clips
from .inputs import expanded
from .output import shown
from .predictor import Found, Input, Network, Predictor
from .segmentation import MaskPredictor
from .translation import TranslationPredictor

PREDICTORS: dict[str, Callable[[Path, flags.PredictOptions], Predictor]] = {
    "annotate": TagPredictor,
    "classify": ClassPredictor,
    "detect": BoxPredictor,
    "segment": MaskPredictor,
    "translate": TranslationPredictor,
}
"""The predictor of each verb that trains."""


class LoadedRun:
    """A trained run that predicts; see `load`."""

    def __init__(self, options: flags.PredictOptions) -> None:
        run = Path(options.run)
        use_precision(run)
        self.predictor = PREDICTORS[verb_of(run)](run, options)
        kept = states.kept(run, options.state)
        self.network = Network(kept, self.predictor, options.batch_size)

    def predict(self, inputs: Iterable[Input]) -> Iterator[Found]:
        """Give what is found of each input, in order and as soon as it is there.

        Args:
            inputs: files of images, or their pixels [height, width, channels], uint8 RGB unless
                the run has others; or sentences. Of an iterator, no more than a batch is read
                ahead.

        Yields:
            A dictionary for each input. classify: `predictions` (label and probability, best first)
            and `probabilities` [classes]. annotate: `tags`, and `probabilities` by label. segment:
            `mask` [height, width], `shares` by class, and `probabilities` [height, width,
            classes]. detect: `boxes` [n, 4] as x1 y1 x2 y2 in pixels, `scores`, `labels`, `names`,
            and `counted`, which marks scores that reach the run's threshold. translate:
            `translation`, `words`, `source_words` and `attention_weights`.

        Raises:
            UserError: an input cannot be read.
        """
        for _, _, found in self.network.outcomes(inputs):
            yield found


def load(run: str | Path, **settings: Any) -> LoadedRun:
    """Load a trained run for prediction from Python.

    Args:
        run: its folder.
        **settings: the flags of the command `predict` that say what is found: `batch_size`, `top`,
            `score_threshold`.

    Raises:
        UserError: there is no run, it cannot be restored, or a setting is illegal.
    """
    verb_of(run)
    return LoadedRun(flags.replace(flags.PredictOptions(run=str(run)), settings))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and predict as the run's task does."""
    options = flags.parse_plain(flags.PredictOptions, argv, _facts)
    if options.count:
        _count(options)
        return
    inputs = _inputs(options)
    loaded = LoadedRun(dataclasses.replace(options, images=tuple(inputs)))
    print(loaded.network.told, file=sys.stderr)
    with shown(options) as show:
        for name, content, found in loaded.network.outcomes(track(inputs, "predicting")):
            show(loaded.predictor.result(name, content, found))
    if options.predictions is not None:
        print(f"predictions of {len(inputs):,} inputs: {options.predictions}")


def _inputs(options: flags.PredictOptions) -> list[str]:
    """The inputs of a prediction, file by file or sentence by sentence.

    Raises:
        UserError: an input stands for nothing, or is a video.
    """
    images = verb_of(options.run) != "translate"
    inputs = expanded(options.images, options.list, images)
    for name in filter(is_video, inputs if images else ()):
        raise UserError(f"{name}: a video, which only predict --count of a detector reads")
    return inputs


def _count(options: flags.PredictOptions) -> None:
    """Carry out `--count`."""
    inputs = clips(options.images, options.list)
    found = [inputs] if isinstance(inputs, Photos) else inputs
    images = tuple(file for one in found if isinstance(one, Photos) for file in one.files)
    loaded = LoadedRun(dataclasses.replace(options, images=images))
    print(loaded.network.told, file=sys.stderr)
    count(loaded.network, loaded.predictor, inputs, options)
    if options.predictions is not None:
        print(f"counts: {options.predictions}")


def _facts(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The verb that trained the run, on which flags depend."""
    if not values["run"] or not (values["images"] or values["list"]):
        raise UserError(
            "give a run's folder and at least one image (or sentence): predict RUN IMAGE..."
        )
    return trained_by(values)


def trained_by(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The verb that trained the run of a command, on which its flags depend.

    Args:
        values: those of the flags.

    Raises:
        UserError: the folder holds no run of a verb that predicts.
    """
    return {"verb": verb_of(values["run"])} if values["run"] else {}


def use_precision(run: Path) -> None:
    """Let float32 products have the precision that a run was trained with, where it says one."""
    precision = read_object(run / CONFIG_FILE).get("matmul_precision")
    if precision in get_args(flags.Precision):
        jax.config.update("jax_default_matmul_precision", precision)


def verb_of(run: str | Path) -> str:
    """The verb that trained a run.

    Raises:
        UserError: the folder holds no run of a verb that predicts.
    """
    config = Path(run) / CONFIG_FILE
    verb = read_object(config).get("verb")
    if not isinstance(verb, str) or verb not in PREDICTORS:
        raise UserError(f"{config}: verb {verb!r} is none of {', '.join(PREDICTORS)}")
    return verb
