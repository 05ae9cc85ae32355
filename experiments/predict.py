"""Do for images of your own what a run has learnt.

python -m experiments.predict runs/NAME photo.jpg       # bicycle 0.60; people 0.30; ...
python -m experiments.predict runs/NAME *.jpg --json
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from cnn_jax.data.decode import decode
from cnn_jax.errors import UserError
from cnn_jax.reports.runs import CONFIG_FILE, read_object
from experiments import classify, runs
from experiments import options as flags


@dataclass(frozen=True)
class Options:
    """Predict with a trained run."""

    run: tyro.conf.Positional[str] = ""
    """The run's folder."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files."""
    top: int = 3
    """Classes named for each image."""
    json: bool = False
    """Print JSON instead of lines."""
    batch_size: int = 32
    """Images predicted at a time."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, predict, print."""
    options = flags.parse_plain(Options, argv)
    if not options.run or not options.images:
        raise UserError("give a run's folder and at least one image: predict RUN IMAGE...")
    run = Path(options.run)
    verb = read_object(run / CONFIG_FILE).get("verb")
    if verb not in PREDICTORS:
        raise UserError(f"{run / CONFIG_FILE}: verb {verb!r} is none of {', '.join(PREDICTORS)}")
    PREDICTORS[verb](run, options)


def predict_classes(run: Path, options: Options) -> None:
    """Print the most probable classes of each image."""
    trained = flags.stored(classify.Options, run)
    class_names = read_object(run / CONFIG_FILE)["class_names"]
    task = classify.build_task(trained, class_names)
    state, notices = runs.restored(task, run)
    for notice in notices:
        flags.warn(notice)
    transform = classify.evaluation_transform(trained)
    probabilities = _probabilities(
        jax.jit(lambda batch: task.predict(state.params, state.model_state, batch)),
        (transform({"image": decode(image)})["image"] for image in options.images),
        min(options.batch_size, len(options.images)),
    )
    results = []
    for image, row in zip(options.images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: options.top]
        named = [{"label": class_names[i], "probability": float(row[i])} for i in best]
        results.append({"image": image, "predictions": named})
        if not options.json:
            line = "; ".join(f"{p['label']} {p['probability']:.2f}" for p in named)
            print(line if len(options.images) == 1 else f"{image}: {line}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))


# By the verb that trained the run.
PREDICTORS: dict[str, Callable[[Path, Options], None]] = {"classify": predict_classes}


def _probabilities(
    predict: Callable[[dict[str, Any]], jax.Array], images: Iterator[np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    """One row of probabilities an image; the last batch is filled up to the compiled shape."""
    rows: list[np.ndarray] = []

    def flush() -> np.ndarray:
        filled = rows + rows[-1:] * (batch_size - len(rows))
        return np.exp(np.asarray(predict({"image": np.stack(filled)})))[: len(rows)]

    for image in images:
        rows.append(image)
        if len(rows) == batch_size:
            yield from flush()
            rows.clear()
    if rows:
        yield from flush()


if __name__ == "__main__":
    flags.entry(main)
