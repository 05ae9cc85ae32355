"""Apply a trained run to your own images or sentences.

python -m experiments.predict runs/NAME photo.jpg       # bicycle 0.60; people 0.30; ...
python -m experiments.predict runs/NAME *.jpg --json
python -m experiments.predict runs/NAME street.jpg --count  # of a detector
python -m experiments.predict runs/NAME "12th of May, 2009"
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax

from cnn_jax.errors import UserError
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from .. import options as flags
from .annotation import TagPredictor
from .classification import ClassPredictor
from .detection import BoxPredictor
from .predictor import Predictor, predict
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


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and predict as the run's task does."""
    options = flags.parse_plain(flags.PredictOptions, argv, lambda values: {"verb": _verb(values)})
    precision = read_object(Path(options.run) / CONFIG_FILE).get("matmul_precision")
    if precision in get_args(flags.Precision):
        jax.config.update("jax_default_matmul_precision", precision)
    predict(Path(options.run), PREDICTORS[_verb(flags.flat(options))], options)


def _verb(values: Mapping[str, Any]) -> str:
    """The verb that trained the run."""
    if not values["run"] or not values["images"]:
        raise UserError(
            "give a run's folder and at least one image (or sentence): predict RUN IMAGE..."
        )
    config = Path(values["run"]) / CONFIG_FILE
    verb = read_object(config).get("verb")
    if not isinstance(verb, str) or verb not in PREDICTORS:
        raise UserError(f"{config}: verb {verb!r} is none of {', '.join(PREDICTORS)}")
    return verb
