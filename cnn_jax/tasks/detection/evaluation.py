"""Evaluation of detectors, which the tasks of all systems share.

A system's task holds a `BoxEvaluation` (hashable), called `evaluation`, and uses it three times:

- `predict` ends with `evaluation.detect(boxes, scores, batch["size"])`, which gives `Detections` of
  a fixed shape for each image: `boxes` [K, 4], `scores`, `labels` and `valid` [K], best first, in
  pixels of the **original** image. The boxes given are in pixels of the network's square, as
  `BoxTransform` makes it, with scores in 0..1 (a margin goes through a sigmoid: that changes no
  ranking) for each class, the background left out.
- `measure` returns `evaluation.rows(detections, batch)` beside its own sums.
- `summarize` returns `evaluation.summarize(means, rows)` of its own means.
"""

from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.metrics.detection import counts as metrics
from cnn_jax.metrics.detection.coco import CocoResult, evaluate_coco
from cnn_jax.metrics.detection.errors import KINDS, best_count_threshold, error_kinds
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.metrics.detection.voc import VocResult, evaluate_voc
from cnn_jax.metrics.host import in_chunks
from cnn_jax.metrics.summary import Summary
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.nms import Detections, detect
from cnn_jax.ranges import Range, check_ranges
from cnn_jax.tasks.images import Batch

Rows = dict[str, Any]

# The scores that a threshold is chosen from.
_CANDIDATES = tuple(i / 50 for i in range(1, 50))

# The number of images that are counted side by side.
_AT_A_TIME = 64


@dataclass(frozen=True)
class DetectionRule:
    """The rule that turns scored boxes into detections."""

    min_score: Annotated[float, Range(0, 1)] = 0.005
    """Detections of a lower score are dropped; average precision needs nearly all of them."""
    nms_threshold: Annotated[float, Range(0, 1)] = 0.5
    """A box is dropped if it overlaps a better one of its class by an IoU above this."""
    max_detections: Annotated[int, Range(1, 10_000)] = 100
    """The best detections of an image are kept, at most so many."""
    score_threshold: Annotated[float, Range(0, 1)] | None = None
    """The least score of detections that are counted, drawn and exported; default: the one with the
    least count error on the evaluation data, which is kept with the run."""

    def __post_init__(self) -> None:
        check_ranges(self)


def detections(
    boxes: Float[Array, "boxes 4"] | Float[Array, "boxes classes 4"],
    scores: Float[Array, "boxes classes"],
    size: Float[Array, "2"],
    valid: Bool[Array, " boxes"] | None = None,
    *,
    image_size: int,
    rule: DetectionRule,
) -> Detections:
    """Clip one image's scored boxes at its border, suppress them class by class, keep the best.

    Args:
        boxes: in pixels of the network's square: one for all classes, or one for each.
        scores: of every box for every class, without the background.
        size: height and width of the original image in pixels.
        valid: marks the boxes that are not padding.
        image_size: pixels on a side of the network's square.
        rule: thresholds and number.

    Returns:
        `rule.max_detections` rows, in pixels of the original image.
    """
    boxes = box_ops.clip(boxes.astype(jnp.float32), (image_size, image_size))
    has_area = box_ops.is_large(boxes).reshape(boxes.shape[0], -1)
    kept = detect(
        boxes,
        jnp.where(has_area, scores.astype(jnp.float32), -jnp.inf),
        threshold=rule.nms_threshold,
        min_score=rule.min_score,
        max_per_class=min(rule.max_detections, boxes.shape[0]),
        max_detections=rule.max_detections,
        valid=valid,
    )
    return kept._replace(boxes=kept.boxes * _to_original(size, image_size)[None])


def trained_objects(batch: Batch) -> Bool[Array, "*batch objects"]:
    """Mark the rows of objects to train on: neither padding, nor difficult ones, nor crowds."""
    return batch["object_valid"] & ~batch["difficult"] & ~batch["crowd"]


@dataclass(frozen=True)
class BoxEvaluation:
    """The step from scored boxes to detections, and from detections to figures.

    Attributes:
        num_classes: number of classes.
        image_size: pixels on a side of the network's square.
        rule: the rule that turns scored boxes into detections.
        score_threshold: the score from which on a detection counts, where it was chosen on other
            data; `rule.score_threshold` goes before it, and without either it is chosen on the data
            evaluated.
    """

    num_classes: int
    image_size: int
    rule: DetectionRule = DetectionRule()
    score_threshold: float | None = None

    def detect(
        self,
        boxes: Float[Array, "batch boxes 4"] | Float[Array, "batch boxes classes 4"],
        scores: Float[Array, "batch boxes classes"],
        size: Float[Array, "batch 2"],
        valid: Bool[Array, "batch boxes"] | None = None,
    ) -> Detections:
        """Apply `detections` to a batch."""
        one = partial(detections, image_size=self.image_size, rule=self.rule)
        return jax.vmap(one)(boxes, scores, size, valid)

    def rows(self, predicted: Detections, batch: Batch) -> Rows:
        """Give the detections and the objects of each example, in pixels of the original image."""
        scale = jax.vmap(partial(_to_original, image_size=self.image_size))(batch["size"])
        objects = {
            "boxes": batch["boxes"] * scale[:, None],
            "area": batch["area"] * scale[:, :1] * scale[:, 1:2],
            "labels": batch["labels"],
            "valid": batch["object_valid"],
            "difficult": batch["difficult"],
            "crowd": batch["crowd"],
        }
        return {"detections": predicted._asdict(), "objects": objects}

    def summarize(self, means: dict[str, float], rows: Rows | None) -> Summary:
        """Compute the figures of a whole set, besides the means that a system has of its own.

        VOC's mean AP at an IoU of .5 over all points and over 11; COCO's twelve numbers (its
        crowds are ignored, VOC's difficult objects count there like any other); precision, recall
        and F1 over all classes at `score_threshold` and an IoU of .5; the error of the number of
        objects of a class in an image: `count_mae`, `count_bias` and `count_exact`, each averaged
        over the classes; the shares of localisation and background errors among the best
        detections, of each class as many as it has objects (Redmon et al. 2016, figure 4). nan
        where there is nothing to find.

        Args:
            means: the system's own, such as its losses.
            rows: of an evaluation (see `rows`); None for training steps.

        Returns:
            The figures; of an evaluation with `DetectionDetails`.
        """
        if rows is None:
            return Summary(means)
        whole = DetectedSet(rows["detections"], rows["objects"])
        voc = evaluate_voc(whole.detections, whole.objects, self.num_classes)
        coco = evaluate_coco(whole.detections, whole.objects_for_coco, self.num_classes)
        given = (self.rule.score_threshold, self.score_threshold)
        chosen_here = given == (None, None)
        if chosen_here:
            threshold = whole.best_threshold(self.num_classes)
        else:
            threshold = next(value for value in given if value is not None)
        decided = whole.decide(threshold, self.num_classes)
        overall = metrics.precision_recall(decided.matches)
        counted = metrics.count_summary(decided.count_errors)
        figures = {
            **means,
            "map50": voc.mean(),
            "map50_11point": voc.mean("11point"),
            **{
                name: value if value >= 0 else float("nan")
                for name, value in coco.summary().items()
            },
            "precision": float(overall.precision),
            "recall": float(overall.recall),
            "f1": float(overall.f1),
            "count_mae": float(counted.mean_absolute_error.mean()),
            "count_bias": float(counted.bias.mean()),
            "count_exact": float(counted.exact.mean()),
            "score_threshold": threshold,
            **whole.mistakes(voc, self.num_classes),
        }
        return Summary(figures, DetectionDetails(whole, voc, coco, decided, threshold, chosen_here))


class Decided(NamedTuple):
    """The counts of a set at a score threshold.

    Attributes:
        matches: by class, the numbers of right and wrong detections and of objects.
        count_errors: by class, the errors of the number of objects in an image.
        confusion: counts of (true class, detected class); the last row and column: the background.
    """

    matches: metrics.MatchCounts
    count_errors: metrics.CountErrors
    confusion: Int[Array | np.ndarray, "*batch classes+1 classes+1"]


@dataclass(frozen=True)
class DetectedSet:
    """The objects of a set of images and the detections, as padded rows for each image.

    Attributes:
        predicted: `boxes`, `scores`, `labels` and `valid` of the detections.
        truth: `boxes`, `labels`, `valid`, `difficult`, `crowd` and `area` of the objects.
    """

    predicted: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.predicted["valid"])

    @cached_property
    def detections(self) -> DetectionRows:
        """All detections, images numbered as in the set."""
        rows = self.predicted
        return DetectionRows.from_padded(
            np.arange(len(self)), rows["boxes"], rows["labels"], rows["scores"], rows["valid"]
        )

    @cached_property
    def objects(self) -> ObjectRows:
        """All objects; difficult ones and crowds need not be found."""
        return self._objects(self.truth["difficult"] | self.truth["crowd"])

    @cached_property
    def objects_for_coco(self) -> ObjectRows:
        """All objects as COCO's evaluation has them: it ignores crowds, and knows areas."""
        return self._objects(self.truth["crowd"])

    def _objects(self, ignored: Bool[np.ndarray, "images objects"]) -> ObjectRows:
        truth, valid = self.truth, self.truth["valid"]
        image = np.broadcast_to(np.arange(len(self))[:, None], valid.shape)
        return ObjectRows(
            image[valid],
            truth["boxes"][valid],
            truth["labels"][valid],
            ignored[valid],
            truth["area"][valid],
        )

    def mistakes(self, voc: VocResult, num_classes: int) -> dict[str, float]:
        """Compute the shares of two kinds of errors, see `error_kinds`; nan without detections."""
        counts = error_kinds(self.detections, self.objects, voc.matches, num_classes).sum(axis=0)
        shares = counts / counts.sum() if counts.any() else np.full(len(KINDS), np.nan)
        kinds = ("localization", "background")
        return {f"{kind}_errors": float(shares[KINDS.index(kind)]) for kind in kinds}

    def best_threshold(self, num_classes: int) -> float:
        """Choose the score from which on detections count objects best."""
        images = np.arange(len(self))
        best = best_count_threshold(
            self.detections, self.objects, images, num_classes, candidates=_CANDIDATES
        )
        return best.score

    def decide(self, threshold: float, num_classes: int) -> Decided:
        """Count over the set with the detections of at least the given score."""

        def decide(rows: Any) -> Decided:
            return _decide(*rows, jnp.asarray(threshold, jnp.float32), num_classes)

        chunks = in_chunks(decide, (self.predicted, self.truth), _AT_A_TIME)
        sums = (jax.tree.map(lambda x: x.sum(axis=0), chunk) for chunk in chunks)
        return reduce(partial(jax.tree.map, np.add), sums)


@partial(jax.jit, static_argnames="num_classes")
def _decide(
    predicted: Batch, truth: Batch, threshold: Float[Array, ""], num_classes: int
) -> Decided:
    """`DetectedSet.decide` for each image of a chunk."""

    def one_image(predicted: Batch, truth: Batch) -> Decided:
        kept = predicted["valid"] & (predicted["scores"] >= threshold)
        ignored = truth["difficult"] | truth["crowd"]
        labels, boxes = truth["labels"], truth["boxes"]
        return Decided(
            metrics.match_counts(
                predicted["boxes"],
                predicted["labels"],
                predicted["scores"],
                kept,
                boxes,
                labels,
                truth["valid"],
                ignored,
                num_classes,
            ),
            metrics.count_errors(
                predicted["labels"], kept, labels, truth["valid"] & ~ignored, num_classes
            ),
            metrics.confusion_with_background(
                predicted["boxes"],
                predicted["labels"],
                kept,
                boxes,
                labels,
                truth["valid"] & ~truth["crowd"],
                num_classes,
            ),
        )

    return jax.vmap(one_image)(predicted, truth)


@dataclass(frozen=True)
class DetectionDetails:
    """The results that an evaluation derives from a whole set.

    Attributes:
        whole: the detections and objects of the set.
        voc: VOC's curves and matches at an IoU of .5, in continuous coordinates.
        coco: COCO's precisions and recalls.
        decided: the counts at the score threshold.
        score_threshold: the score from which on a detection counts.
        chosen_here: whether that score was chosen on this very set.
    """

    whole: DetectedSet
    voc: VocResult
    coco: CocoResult
    decided: Decided
    score_threshold: float
    chosen_here: bool


def _to_original(size: Float[Array, "2"], image_size: int) -> Float[Array, "4"]:
    """The factors from coordinates of the network's square to pixels of the original image."""
    height, width = size
    return jnp.stack([width, height, width, height]) / image_size
