"""Survey of a training set's boxes: notices for the user, and shapes for box priors."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from cnn_jax import processors
from cnn_jax.data.source import Source
from cnn_jax.data.transforms import objects_left_out, whole_size
from cnn_jax.errors import UserError

MOST_IMAGES = 1000

_ITERATIONS = 100


@dataclass(frozen=True)
class BoxSurvey:
    """The boxes of a set's images, or of a sample of them.

    Attributes:
        boxes: each image's boxes for training (without crowds and difficult objects), in fractions
            of the image's sides.
        of: the number of images in the set.
        counts: the number of all objects in each surveyed image.
    """

    boxes: Sequence[Float[np.ndarray, "_ 4"]]
    of: int
    counts: Sequence[int]

    def sample(self) -> str:
        """Describe a sample as ` (in N of M images)`; empty if all images were surveyed."""
        few = len(self.boxes)
        return "" if few == self.of else f" (in {few:,} of {self.of:,} images)"


def survey(source: Source, most: int = MOST_IMAGES) -> BoxSurvey:
    """Survey the boxes of at most `most` images, evenly spread over the set."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int))

    def look(index: int) -> tuple[np.ndarray, int]:
        example = source[index]
        height, width = whole_size(example)
        wanted = ~(example["difficult"] | example["crowd"])
        shares = example["boxes"] / np.array([width, height, width, height], np.float32)
        return shares[wanted], len(wanted)

    with ThreadPoolExecutor(processors.available()) as pool:
        looked = list(pool.map(look, chosen.tolist()))
    return BoxSurvey([boxes for boxes, _ in looked], len(source), [count for _, count in looked])


def notices(source: Source, surveyed: BoxSurvey, max_objects: int) -> list[str]:
    """List notices about the boxes: repairs, images without objects, objects left out."""
    lines = list(getattr(source, "notices", ()))
    counts = np.array(surveyed.counts)
    if hasattr(source, "object_counts"):
        counts = source.object_counts()
    empty = int(np.sum(counts == 0))
    if empty:
        lines.append(f"{empty:,} of {len(counts):,} training images have no objects")
    if (left_out := objects_left_out(counts, max_objects)) is not None:
        lines.append(left_out)
    return lines


@lru_cache(maxsize=2)
def most_objects(source: Source) -> int:
    """Find the largest number of objects in an image, from annotations alone.

    Args:
        source: one with `object_count(index)`, as those of all formats with boxes have it.
    """
    return max(map(source.object_count, range(len(source))), default=0)


def lost_to_collisions(surveyed: BoxSurvey, grid: int) -> tuple[int, int]:
    """Count the boxes that share the cell of their centre with an earlier one, and all boxes."""
    lost = total = 0
    for boxes in surveyed.boxes:
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        cells = np.clip(np.floor(center * grid), 0, grid - 1).astype(int)
        lost += len(cells) - len(np.unique(cells, axis=0))
        total += len(cells)
    return lost, total


def prior_shapes(surveyed: BoxSurvey, count: int, seed: int = 0) -> tuple[tuple[float, float], ...]:
    """Cluster the boxes' shapes; return widths and heights, smallest area first.

    k-means with one minus the IoU of concentric boxes as the distance (Redmon & Farhadi 2017,
    "YOLO9000", section 2), so that large boxes do not outweigh small ones.

    Args:
        surveyed: the boxes, with shapes in fractions of the image's sides.
        count: the number of shapes; they repeat if the boxes have fewer distinct shapes.
        seed: the seed of the initial shapes.

    Raises:
        UserError: there are no boxes.
    """
    shapes = _shapes(surveyed)
    if not len(shapes):
        raise UserError(
            "--boxes priors: the training set has no boxes to take shapes from; give --priors, or "
            "--boxes free"
        )
    rng = np.random.default_rng([seed, *b"priors"])
    centers = shapes[rng.choice(len(shapes), count, replace=len(shapes) < count)]
    for _ in range(_ITERATIONS):
        nearest = _overlaps(shapes, centers).argmax(axis=1)
        moved = np.array(
            [
                shapes[nearest == i].mean(axis=0) if np.any(nearest == i) else centers[i]
                for i in range(count)
            ]
        )
        if np.array_equal(moved, centers):
            break
        centers = moved
    # Four digits are enough, and survive a round trip through a run's settings.
    centers = np.maximum(np.round(centers[np.argsort(centers.prod(axis=1))], 4), 1e-4)
    return tuple((float(width), float(height)) for width, height in centers)


def mean_overlap(surveyed: BoxSurvey, priors: Sequence[tuple[float, float]]) -> float:
    """Compute the mean over all boxes of the highest IoU of their shape with a prior."""
    return float(_overlaps(_shapes(surveyed), np.array(priors)).max(axis=1).mean())


def _shapes(surveyed: BoxSurvey) -> Float[np.ndarray, "boxes 2"]:
    sides = [boxes[:, 2:] - boxes[:, :2] for boxes in surveyed.boxes]
    return np.concatenate([*sides, np.zeros((0, 2))]).astype(np.float64)


def _overlaps(
    shapes: Float[np.ndarray, "shapes 2"], centers: Float[np.ndarray, "centers 2"]
) -> Float[np.ndarray, "shapes centers"]:
    """Compute the IoU of concentric boxes of these shapes."""
    shared = np.minimum(shapes[:, None], centers[None]).prod(axis=-1)
    return shared / (shapes.prod(axis=1)[:, None] + centers.prod(axis=1)[None] - shared)
