"""YOLO's loss and grid against a plain loop in NumPy, and at their extremes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.losses.yolo import yolo_loss
from cnn_jax.ops import grid

GRID, BOXES, CLASSES = 4, 3, 5
PRIORS = ((0.1, 0.3), (0.4, 0.2), (0.5, 0.5))
FORMS = [
    pytest.param({"priors": (), "softmax": False}, id="paper"),
    pytest.param({"priors": PRIORS, "softmax": True}, id="lecture"),
    pytest.param({"priors": (), "softmax": True}, id="free-softmax"),
    pytest.param({"priors": PRIORS, "softmax": False}, id="priors-sse"),
]


def loop_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def loop_decode(numbers, row, column, prior):
    """Decode one box (x1, y1, x2, y2) in fractions of the image."""
    x, y, w, h = numbers
    if prior is None:
        cx, cy, width, height = (column + x) / GRID, (row + y) / GRID, w * w, h * h
    else:
        cx = (column + 0.5) / GRID + x * prior[0]
        cy = (row + 0.5) / GRID + y * prior[1]
        width = prior[0] * math.exp(min(w, math.log(62.5)))
        height = prior[1] * math.exp(min(h, math.log(62.5)))
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def loop_loss(outputs, boxes, labels, order, priors, softmax):
    """The definition, object by object and cell by cell."""
    owner = {}
    for i in order:
        cx, cy = (boxes[i][0] + boxes[i][2]) / 2, (boxes[i][1] + boxes[i][3]) / 2
        owner.setdefault((min(int(cy * GRID), GRID - 1), min(int(cx * GRID), GRID - 1)), i)
    coordinates = confidence = classes = 0.0
    for row in range(GRID):
        for column in range(GRID):
            numbers = outputs[row, column].astype(np.float64)
            i = owner.get((row, column))
            responsible, overlaps = None, []
            if i is not None:
                x1, y1, x2, y2 = boxes[i].astype(np.float64)
                result, distances, alike = [], [], []
                for b in range(BOXES):
                    prior = priors[b] if priors else None
                    box = loop_decode(numbers[5 * b : 5 * b + 4], row, column, prior)
                    overlaps.append(loop_iou(box, (x1, y1, x2, y2)))
                    result.append(box)
                    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                    sides = (box[2] - box[0], box[3] - box[1])
                    wanted = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                    distances.append(
                        sum((p - q) ** 2 for p, q in zip((*center, *sides), wanted, strict=True))
                    )
                    if priors:
                        alike.append(loop_iou((0, 0, *prior), (0, 0, x2 - x1, y2 - y1)))
                if priors:
                    responsible = int(np.argmax(alike))
                elif max(overlaps) > 0:
                    responsible = int(np.argmax(overlaps))
                else:
                    responsible = int(np.argmin(distances))
                cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
                if priors:
                    pw, ph = priors[responsible]
                    target = (
                        (cx - (column + 0.5) / GRID) / pw,
                        (cy - (row + 0.5) / GRID) / ph,
                        math.log(w / pw),
                        math.log(h / ph),
                    )
                else:
                    target = cx * GRID - column, cy * GRID - row, math.sqrt(w), math.sqrt(h)
                for p, q in zip(numbers[5 * responsible :][:4], target, strict=True):
                    coordinates += 5 * (p - q) ** 2
                scores = numbers[5 * BOXES :]
                if softmax:
                    classes += np.log(np.exp(scores - scores.max()).sum()) + scores.max()
                    classes -= scores[labels[i]]
                else:
                    classes += sum((s - (c == labels[i])) ** 2 for c, s in enumerate(scores))
            for b in range(BOXES):
                value = numbers[5 * b + 4]
                if b == responsible:
                    confidence += (value - overlaps[b]) ** 2
                else:
                    confidence += 0.5 * value**2
    return coordinates, confidence, classes


def objects(rng, count):
    sides = rng.uniform(0.02, 0.6, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    boxes = np.concatenate([corner, corner + sides], 1).astype("f")
    return boxes, rng.integers(0, CLASSES, count).astype(np.int32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_equals_the_loop(form, seed):
    rng = np.random.default_rng(seed)
    boxes, labels = objects(rng, 9)
    outputs = rng.normal(0, 0.7, (GRID, GRID, 5 * BOXES + CLASSES)).astype("f")
    if seed == 0:  # Boxes that overlap nothing: far off and small.
        outputs[..., : 5 * BOXES] = rng.normal(20, 3, outputs[..., : 5 * BOXES].shape) * 0.01 - 9
    valid = rng.random(9) < 0.8
    loss = jax.jit(partial(yolo_loss, num_boxes=BOXES, **form))
    result = loss(outputs, boxes, labels, valid)
    order = [i for i in range(9) if valid[i]]
    expected = loop_loss(outputs, boxes, labels, order, **form)
    np.testing.assert_allclose(result, expected, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_class_weights_multiply_the_class_losses_of_objects(form):
    rng = np.random.default_rng(3)
    outputs = jnp.array(rng.normal(0, 0.7, (GRID, GRID, 5 * BOXES + CLASSES)), jnp.float32)
    boxes = jnp.array([[0.0, 0.0, 0.1, 0.2], [0.7, 0.8, 0.9, 1.0]])
    labels, weights = jnp.array([0, 2]), jnp.array([3.0, 1.0, 0.25])

    def parts(first, second, **extra):
        valid = jnp.array([first, second])
        return yolo_loss(outputs, boxes, labels, valid, num_boxes=BOXES, **form, **extra)

    plain, weighted = parts(True, True), parts(True, True, class_weights=weights)
    assert (weighted.coordinates, weighted.confidence) == (plain.coordinates, plain.confidence)
    expected = 3 * parts(True, False).classes + 0.25 * parts(False, True).classes
    np.testing.assert_allclose(weighted.classes, expected, rtol=1e-5)


def test_the_first_of_a_shuffle_owns_the_cell():
    boxes = jnp.tile(jnp.array([[0.3, 0.3, 0.4, 0.4]]), (5, 1))
    valid = jnp.array([True, True, False, True, True])
    find = jax.jit(partial(grid.owners, grid=GRID))
    assert find(boxes, valid)[1, 1] == 0
    assert find(boxes, ~valid)[1, 1] == 2
    drawn = [int(find(boxes, valid, key=jax.random.key(i))[1, 1]) for i in range(60)]
    assert set(drawn) == {0, 1, 3, 4}
    assert min(drawn.count(i) for i in (0, 1, 3, 4)) > 5
    assert (np.delete(np.asarray(find(boxes, valid)).ravel(), 5) == -1).all()


@pytest.mark.parametrize("priors", [(), PRIORS])
def test_decoding_undoes_encoding(priors):
    rng = np.random.default_rng(0)
    boxes, _ = objects(rng, GRID * GRID)
    boxes = jnp.array(boxes.reshape(GRID, GRID, 4))
    decoded = grid.decode(grid.encode(boxes, BOXES, priors), priors)
    expected = np.broadcast_to(np.asarray(boxes)[:, :, None], decoded.shape)
    np.testing.assert_allclose(decoded, expected, atol=1e-6)


def test_scores_are_confidence_times_class_probability():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(GRID, GRID, 5 * BOXES + CLASSES)).astype("f")
    boxes, scores = grid.scored_boxes(jnp.array(outputs), BOXES, (), False)
    assert boxes.shape == (GRID * GRID * BOXES, 4)
    # Row 1, column 2, the second box.
    place = (1 * GRID + 2) * BOXES + 1
    numbers = outputs[1, 2]
    np.testing.assert_allclose(
        boxes[place], loop_decode(numbers[5:9], 1, 2, None), rtol=1e-5, atol=1e-6
    )
    expected = max(numbers[9], 0) * np.maximum(numbers[5 * BOXES :], 0)
    np.testing.assert_allclose(scores[place], expected, rtol=1e-6)
    _, probable = grid.scored_boxes(jnp.array(outputs), BOXES, PRIORS)
    confidences = np.maximum(outputs[..., [4, 9, 14]], 0).ravel()
    np.testing.assert_allclose(probable.sum(-1), confidences, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0.0, -1.0, 1e4, -1e4])
def test_loss_and_gradient_are_finite_at_extremes(form, value):
    """Boxes without size, of huge size, objects of one pixel, and of the whole image."""
    boxes = jnp.array([[0.5, 0.5, 0.5 + 1 / 448, 0.5 + 1 / 448], [0, 0, 1, 1], [0, 0, 0, 0.0]])
    outputs = jnp.full((GRID, GRID, 5 * BOXES + CLASSES), value)
    labels, valid = jnp.array([0, 1, 2]), jnp.array([True] * 3)

    def total(outputs):
        return sum(yolo_loss(outputs, boxes, labels, valid, num_boxes=BOXES, **form))

    loss, gradient = jax.value_and_grad(total)(outputs)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 2])
def test_the_loss_without_objects_is_that_of_confidences(form, count):
    rng = np.random.default_rng(0)
    outputs = jnp.array(rng.normal(size=(GRID, GRID, 5 * BOXES + CLASSES)).astype("f"))
    none = jnp.zeros((count, 4)), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool)
    total = partial(yolo_loss, num_boxes=BOXES, **form)
    result = total(outputs, *none)
    confidences = np.asarray(outputs)[..., [4, 9, 14]]
    np.testing.assert_allclose(result, [0, 0.5 * (confidences**2).sum(), 0], rtol=1e-5)
    gradient = jax.grad(lambda x: sum(total(x, *none)))(outputs)
    assert np.isfinite(gradient).all()


def test_the_overlap_is_the_confidences_target_and_has_no_gradient():
    boxes, labels = jnp.array([[0.3, 0.3, 0.45, 0.45]]), jnp.array([1])
    outputs = jnp.full((GRID, GRID, 5 * BOXES + CLASSES), 0.4)

    def confidence(x):
        valid = jnp.array([True])
        return yolo_loss(x, boxes, labels, valid, num_boxes=BOXES, softmax=False).confidence

    gradient = np.asarray(jax.grad(confidence)(outputs))
    assert (np.delete(gradient, [4, 9, 14], axis=-1) == 0).all()
    # The first box is responsible; its IoU is its target, below the others' weight of one half.
    overlap = loop_iou(loop_decode([0.4] * 4, 1, 1, None), np.asarray(boxes)[0])
    assert gradient[1, 1, 4] == pytest.approx(2 * (0.4 - overlap), rel=1e-4)
    assert gradient[1, 1, 9] == pytest.approx(0.4, rel=1e-4)
