"""R-CNN's linear SVMs with hard negatives, and box regressions, fitted on a network's features.

The reference is Girshick et al. 2014, section 2.3 and appendix C, with the numbers of its code.
Everything here is NumPy on the host but for the SVM's solver.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.ridge import ridge
from cnn_jax.ops.svm import train_svm

# The mean norm that features are scaled to.
_NORM = 20.0

# Images that the mean norm is measured on.
_NORM_IMAGES = 200


class ImageRegions(NamedTuple):
    """The regions of one image: its objects' own boxes first, then its proposals.

    Attributes:
        classes: features to classify by.
        boxes: features to regress boxes from.
        truth: the class of the object where the region is an object's own box; -1 for a proposal.
        overlaps: the largest IoU with an object of each class; 0 where there is none.
        targets: the encoded box of that object, for each class.
    """

    classes: Float[np.ndarray, "regions features"]
    boxes: Float[np.ndarray, "regions box_features"]
    truth: Int[np.ndarray, " regions"]
    overlaps: Float[np.ndarray, "regions classes"]
    targets: Float[np.ndarray, "regions classes 4"]


@runtime_checkable
class StoredImages(Protocol):
    """The regions of a set of images, read from disk one image at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ImageRegions: ...


def overlaps_by_class(
    regions: Float[Array, "regions 4"],
    objects: Float[Array, "objects 4"],
    labels: Int[Array, " objects"],
    object_valid: Bool[Array, " objects"],
    num_classes: int,
) -> tuple[Float[Array, "regions {num_classes}"], Float[Array, "regions {num_classes} 4"]]:
    """Compute `overlaps` and `targets` of `ImageRegions` for one image's regions.

    A class without an object has overlaps and targets of 0.
    """
    of_class = (labels[None] == jnp.arange(num_classes)[:, None]) & object_valid[None]
    overlaps = jnp.where(of_class[None], box_ops.iou(regions, objects)[:, None], -1.0)
    best = jnp.argmax(overlaps, axis=-1)
    targets = box_ops.encode(objects[best], jnp.broadcast_to(regions[:, None], (*best.shape, 4)))
    present = jnp.any(of_class, axis=-1)[None, :, None]
    return jnp.maximum(jnp.max(overlaps, axis=-1), 0.0), jnp.where(present, targets, 0.0)


@dataclass(frozen=True)
class Mining:
    """The settings of the SVMs' training.

    Attributes:
        cost: the cost of a violation by a negative.
        positive_weight: the cost of a violation by a positive, as a multiple of `cost`.
        bias_multiplier: see `cnn_jax.ops.svm.train_svm`.
        negative_iou: regions of less overlap with every object of a class are its negatives.
        hard_score: negatives that score more are hard.
        evict_score: after training, negatives that score less are forgotten.
        retrain_after: number of new hard negatives after which a class trains again.
        tolerance: that of the solver; the paper's code keeps liblinear's default.
    """

    cost: float = 1e-3
    positive_weight: float = 2.0
    bias_multiplier: float = 10.0
    negative_iou: float = 0.3
    hard_score: float = -1.0001
    evict_score: float = -1.2
    retrain_after: int = 2000
    tolerance: float = 0.1


@dataclass
class _OneClass:
    """A class while its SVM is trained: the examples that are kept, and the hyperplane so far."""

    positives: np.ndarray
    negatives: list[np.ndarray] = field(default_factory=list)
    added: int = 0
    weights: np.ndarray | None = None
    bias: float = 0.0

    def scores(self, features: np.ndarray) -> np.ndarray:
        assert self.weights is not None
        return features @ self.weights + self.bias

    def add(self, features: np.ndarray) -> None:
        self.negatives.append(features)
        self.added += len(features)

    def train(self, mining: Mining, key: jax.Array) -> None:
        """Solve for the kept examples, and forget negatives that have become easy."""
        negatives = np.concatenate(self.negatives) if self.negatives else self.positives[:0]
        rows = np.concatenate([self.positives, negatives])
        cost = np.full(len(rows), mining.cost, np.float32)
        cost[: len(self.positives)] *= mining.positive_weight
        # Padded to powers of two: few shapes are compiled.
        size = 1 << max(4, (len(rows) - 1).bit_length())
        padding = size - len(rows)
        solved = _solve(
            jnp.pad(jnp.asarray(rows), ((0, padding), (0, 0))),
            jnp.arange(size) < len(self.positives),
            jnp.pad(jnp.asarray(cost), (0, padding)),
            key,
            bias_multiplier=mining.bias_multiplier,
            tolerance=mining.tolerance,
        )
        self.weights, self.bias = np.asarray(solved.weights), float(solved.bias)
        kept = negatives[self.scores(negatives) >= mining.evict_score]
        self.negatives, self.added = [kept], 0


_solve = jax.jit(train_svm, static_argnames=("bias_multiplier", "tolerance"))


def feature_scale(regions: StoredImages, part: Callable[[ImageRegions], np.ndarray]) -> float:
    """Measure the factor that brings the mean norm of features to 20, on a sample of images."""
    step = max(1, len(regions) // _NORM_IMAGES)
    norms = [np.linalg.norm(part(regions[i]), axis=1) for i in range(0, len(regions), step)]
    mean = float(np.concatenate(norms).mean()) if sum(map(len, norms)) else 0.0
    return _NORM / mean if mean > 0 else 1.0


def fit_svms(
    regions: StoredImages,
    num_classes: int,
    seed: int,
    mining: Mining | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Fit a linear SVM for each class, in one pass over the images.

    Positives are the objects' own boxes. Of the first image all negatives are taken; of the others
    those that the hyperplane so far does not reject clearly. A class trains after the first image,
    whenever enough hard ones have come, and at the end.

    Args:
        regions: of every training image; read twice, one image at a time.
        num_classes: number of classes.
        seed: of the solver's orders.
        mining: the numbers; the paper's by default.
        advance: called after each image.

    Returns:
        `weights` [features, classes], `bias` [classes] and `scale`; a class without an object
        scores -1 everywhere.
    """
    mining = mining or Mining()
    scale = np.float32(feature_scale(regions, lambda image: image.classes))
    positives: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    width = 0
    for index in range(len(regions)):
        image = regions[index]
        width = image.classes.shape[1]
        for k in np.unique(image.truth[image.truth >= 0]):
            positives[k].append(image.classes[image.truth == k] * scale)
    classes = {k: _OneClass(np.concatenate(rows)) for k, rows in enumerate(positives) if rows}
    key = jax.random.key(seed)
    for index in range(len(regions)):
        image = regions[index]
        features = image.classes * scale
        last = index == len(regions) - 1
        for k, one in classes.items():
            negative = features[image.overlaps[:, k] < mining.negative_iou]
            if one.weights is not None:
                negative = negative[one.scores(negative) > mining.hard_score]
            one.add(negative)
            if one.weights is None or one.added > mining.retrain_after or last:
                one.train(mining, jax.random.fold_in(jax.random.fold_in(key, k), index))
        advance()
    weights, bias = np.zeros((width, num_classes), np.float32), np.full(num_classes, -1, np.float32)
    for k, one in classes.items():
        weights[:, k], bias[k] = one.weights, one.bias
    return {"weights": weights, "bias": bias, "scale": scale}


def fit_boxes(
    regions: StoredImages,
    num_classes: int,
    minimum_iou: float = 0.6,
    penalty: float = 1000.0,
    most: int = 20_000,
) -> dict[str, np.ndarray]:
    """Fit a box regression for each class, from regions that overlap an object of it enough.

    Args:
        regions: of every training image; read once for each class, one image at a time.
        num_classes: number of classes.
        minimum_iou: regions of a larger overlap are used.
        penalty: the ridge's.
        most: regions of a class that are used; of more, the first.

    Returns:
        `weights` [classes, features, 4], `bias` [classes, 4] and `scale`; a class without such
        regions leaves boxes where they are.
    """
    scale = np.float32(feature_scale(regions, lambda image: image.boxes))
    weights, bias, width = [], np.zeros((num_classes, 4), np.float32), 0
    for k in range(num_classes):
        features, targets, count = [], [], 0
        for index in range(len(regions)):
            image = regions[index]
            width = image.boxes.shape[1]
            chosen = np.flatnonzero(image.overlaps[:, k] > minimum_iou)[: most - count]
            features.append(image.boxes[chosen] * scale)
            targets.append(image.targets[chosen, k])
            count += len(chosen)
        if not count:
            weights.append(np.zeros((width, 4), np.float32))
            continue
        solved = ridge(np.concatenate(features), np.concatenate(targets), penalty)
        weights.append(solved.weights)
        bias[k] = solved.bias
    return {"weights": np.stack(weights), "bias": bias, "scale": scale}
