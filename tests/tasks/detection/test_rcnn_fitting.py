"""R-CNN's fits on features, against scikit-learn and plain solves."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.ridge import ridge
from cnn_jax.tasks.detection.rcnn_fitting import (
    ImageRegions,
    Mining,
    feature_scale,
    fit_boxes,
    fit_svms,
    overlaps_by_class,
)

svm = pytest.importorskip("sklearn.svm")

CLASSES, FEATURES = 3, 6


def image(seed, objects=2, proposals=20):
    """Objects first; features tell the class of what a region overlaps."""
    rng = np.random.default_rng(seed)
    truth = np.full(objects + proposals, -1)
    truth[:objects] = rng.integers(2, size=objects)  # no object of the last class
    overlaps = np.zeros((objects + proposals, CLASSES), np.float32)
    kind = rng.integers(2, size=objects + proposals)
    kind[:objects] = truth[:objects]
    amount = rng.random(objects + proposals)
    amount[:objects] = 1
    overlaps[np.arange(len(kind)), kind] = amount
    features = rng.normal(0, 0.5, (len(kind), FEATURES))
    features[np.arange(len(kind)), kind] += 3 * amount
    targets = rng.normal(size=(len(kind), CLASSES, 4)) + features[:, None, :4]
    return ImageRegions(
        features.astype(np.float32),
        (2 * features[:, :4]).astype(np.float32),
        truth,
        overlaps,
        targets.astype(np.float32),
    )


IMAGES = [image(seed) for seed in range(12)]


def plain_svm(k, scale, images, negatives_from):
    positives = np.concatenate([i.classes[i.truth == k] for i in images]) * scale
    negatives = np.concatenate([negatives_from(i, k) for i in images]) * scale
    x = np.concatenate([positives, negatives])
    y = np.arange(len(x)) < len(positives)
    fitted = svm.LinearSVC(
        C=1e-3,
        loss="hinge",
        class_weight={True: 2.0, False: 1.0},
        intercept_scaling=10.0,
        tol=1e-8,
        max_iter=1_000_000,
        random_state=0,
    ).fit(x, y)
    return fitted.coef_[0], float(fitted.intercept_[0])


def test_overlaps_are_the_largest_of_each_class():
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 8, (9, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 9, (9, 2))], axis=1).astype(np.float32)
    regions, objects = jnp.array(boxes[:5]), jnp.array(boxes[5:])
    labels, valid = np.array([1, 1, 0, 2]), np.array([True, True, True, False])
    overlaps, targets = overlaps_by_class(
        regions, objects, jnp.array(labels), jnp.array(valid), CLASSES
    )
    plain = np.asarray(box_ops.iou(regions, objects))
    for i in range(5):
        for k in range(CLASSES):
            rows = [j for j in range(4) if labels[j] == k and valid[j]]
            if not rows:
                assert overlaps[i, k] == 0 and not targets[i, k].any()
                continue
            best = max(rows, key=lambda j: plain[i, j])
            assert overlaps[i, k] == plain[i, best]
            np.testing.assert_allclose(
                targets[i, k], box_ops.encode(objects[best], regions[i]), rtol=1e-5
            )


def test_with_every_negative_the_svms_are_liblinear_s():
    mining = Mining(hard_score=-np.inf, evict_score=-np.inf, tolerance=1e-3)
    found = fit_svms(IMAGES, CLASSES, seed=0, mining=mining)
    for k in range(2):
        weights, bias = plain_svm(
            k, found["scale"], IMAGES, lambda i, k: i.classes[i.overlaps[:, k] < 0.3]
        )
        np.testing.assert_allclose(
            found["weights"][:, k], weights, atol=5e-3 * np.abs(weights).max()
        )
        assert found["bias"][k] == pytest.approx(bias, abs=5e-3)


def test_hard_negatives_alone_give_nearly_the_same():
    counted = []
    found = fit_svms(
        IMAGES, CLASSES, seed=0, mining=Mining(retrain_after=20), advance=lambda: counted.append(1)
    )
    assert len(counted) == len(IMAGES)
    whole = fit_svms(
        IMAGES, CLASSES, seed=0, mining=Mining(hard_score=-np.inf, evict_score=-np.inf)
    )
    for k in range(2):
        norm = np.linalg.norm(whole["weights"][:, k])
        assert np.linalg.norm(found["weights"][:, k] - whole["weights"][:, k]) < 0.3 * norm
        for one in IMAGES:
            score = one.classes * found["scale"] @ found["weights"][:, k] + found["bias"][k]
            assert score[one.truth == k].size == 0 or score[one.truth == k].min() > -0.5


def test_a_class_without_objects_scores_below_zero_everywhere():
    found = fit_svms(IMAGES[:3], CLASSES, seed=0)
    assert not found["weights"][:, 2].any() and found["bias"][2] == -1
    nothing = [i._replace(truth=np.full(len(i.truth), -1)) for i in IMAGES[:2]]
    assert (fit_svms(nothing, CLASSES, seed=0)["bias"] == -1).all()


def test_images_without_regions_are_passed_over():
    empty = ImageRegions(*(column[:0] for column in IMAGES[0]))
    plain = fit_svms(IMAGES[:4], CLASSES, seed=0)
    found = fit_svms([*IMAGES[:2], empty, *IMAGES[2:4]], CLASSES, seed=0)
    np.testing.assert_allclose(found["scale"], plain["scale"], rtol=1e-5)
    assert np.isfinite(found["weights"]).all()
    boxes = fit_boxes([empty, empty], CLASSES)
    assert not boxes["weights"].any() and boxes["scale"] == 1


def test_features_are_brought_to_the_norm_of_twenty():
    scale = feature_scale(IMAGES, lambda i: i.classes)
    norms = np.concatenate([np.linalg.norm(i.classes, axis=1) for i in IMAGES])
    assert (norms * scale).mean() == pytest.approx(20, rel=1e-4)


def test_box_regressions_are_ridges_of_the_regions_that_overlap_enough():
    found = fit_boxes(IMAGES, CLASSES, penalty=10.0)
    for k in range(2):
        chosen = [i.overlaps[:, k] > 0.6 for i in IMAGES]
        x = np.concatenate([i.boxes[c] for i, c in zip(IMAGES, chosen, strict=True)])
        t = np.concatenate([i.targets[c, k] for i, c in zip(IMAGES, chosen, strict=True)])
        expected = ridge(x * np.float32(found["scale"]), t, 10.0)
        np.testing.assert_allclose(found["weights"][k], expected.weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["bias"][k], expected.bias, rtol=1e-4, atol=1e-6)
    assert not found["weights"][2].any() and not found["bias"][2].any()
    few = fit_boxes(IMAGES, CLASSES, most=5)
    assert np.isfinite(few["weights"]).all()
    assert (few["weights"][0] != found["weights"][0]).any()
