"""The share of built-in scenes whose Grad-CAM peak lies inside the shape's box.

python -m tests.peaks_in_boxes RUN

RUN is of `python -m experiments.classify`. Of 500 scenes that training has not seen, it prints for
every map of the network the share with the trained weights, with random ones, and the mean share of
the image that a box covers, which is that of a peak at a random place.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.data.augment import normalize
from cnn_jax.data.formats.shapes import scene
from cnn_jax.explanations.grad_cam import grad_cam
from cnn_jax.explanations.maps import map_shapes
from cnn_jax.reports.heat import enlarged, peak
from cnn_jax.tasks.classification import Classification
from cnn_jax.tasks.images import floating
from experiments import classify, states
from experiments import options as flags
from experiments.predict.predictor import class_names

SCENES, BATCH = 500, 100


def inside(box: np.ndarray, place: tuple[int, int]) -> bool:
    """Tell whether the centre of a pixel lies in a box x1 y1 x2 y2."""
    row, column = place
    return bool(box[0] <= column + 0.5 <= box[2] and box[1] <= row + 0.5 <= box[3])


def shares(
    task: Classification,
    variables: object,
    images: np.ndarray,
    boxes: Sequence[np.ndarray],
) -> dict[str, float]:
    """The share of peaks of the predicted class inside the boxes, by the name of the map."""

    def network(variables: object, images: jax.Array) -> object:
        return task.model.apply(variables, images, train=False)

    @partial(jax.jit, static_argnames="stage")
    def explained(variables: object, images: jax.Array, stage: str) -> jax.Array:
        own = partial(network, variables)
        labels = jnp.argmax(own(images)[0], axis=-1)
        return grad_cam(own, lambda logits, label: logits[label], images, labels, stage)

    inputs = normalize(floating(jnp.asarray(images)), task.mean, task.std)
    found = {}
    for stage in map_shapes(partial(network, variables), inputs[:BATCH]):
        maps = [
            np.asarray(explained(variables, inputs[first : first + BATCH], stage))
            for first in range(0, len(images), BATCH)
        ]
        peaks = [peak(enlarged(one, images.shape[1:3])) for one in np.concatenate(maps)]
        found[stage] = float(np.mean([inside(*pair) for pair in zip(boxes, peaks, strict=True)]))
    return found


def main() -> None:
    """Print the shares of the run that is named."""
    run = Path(sys.argv[1])
    options = flags.stored(classify.Options, run)
    task = classify.build_task(options, class_names(run))
    size = options.sizes.evaluation
    drawn = [scene(options.run.seed, index, size, split="test") for index in range(SCENES)]
    images, boxes = np.stack([one.image for one in drawn]), [one.boxes[0] for one in drawn]
    area = np.mean([(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]) / size**2
    trained, _ = states.restored(task, states.kept(run).directory)
    untrained = states.fresh_state(task, optax.identity(), options.run.seed + 1)
    columns = [shares(task, state.variables, images, boxes) for state in (trained, untrained)]
    print(f"{SCENES} scenes of {size} pixels; a box covers {100 * area:.1f} % of the image")
    print("map     trained  random weights")
    for stage, share in columns[0].items():
        print(f"{stage:7} {100 * share:6.1f} % {100 * columns[1][stage]:8.1f} %")


if __name__ == "__main__":
    main()
