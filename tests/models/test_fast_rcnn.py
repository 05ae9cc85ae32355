"""Fast R-CNN's network: its parts, its first values, its weights from a file, its short form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import weights
from cnn_jax.models.backbones import strides
from cnn_jax.models.fast_rcnn import nearest_side, truncated
from cnn_jax.ops.roi_align import roi_align
from cnn_jax.ops.roi_pooling import roi_pool

pytestmark = pytest.mark.optimized  # Compares bits between different programs.

BOXES = jnp.float32([[[0, 0, 20, 20], [5.5, 3, 31, 9]], [[8, 8, 9, 9], [0, 0, 32, 32]]])
IMAGES = jax.random.normal(jax.random.key(5), (2, 32, 32, 3))


create = partial(models.create, kind="region_network")


def small(**options):
    return create("resnet20", 3, width=0.25, units=8, pool_size=2, **options)


def variables(model, key=0):
    return jax.jit(model.init)(jax.random.key(key), IMAGES, BOXES)


def apply(model, given, boxes=BOXES):
    return jax.jit(model.apply)(given, IMAGES, boxes)


@pytest.mark.parametrize(("pooling", "pool"), [("max", roi_pool), ("align", roi_align)])
def test_outputs_are_those_of_the_parts_by_hand(pooling, pool):
    model = small(pooling=pooling, stage="stage2")
    given = variables(model)
    scores, deltas = apply(model, given)
    assert scores.shape == (2, 2, 4) and deltas.shape == (2, 2, 3, 4)
    backbone = models.create("resnet20", 0, width=0.25)
    whole = jax.jit(backbone.init)(jax.random.key(1), IMAGES)
    params = {**whole["params"], **given["params"]["backbone"]}
    stats = {**whole["batch_stats"], **given["batch_stats"]["backbone"]}
    _, features = jax.jit(backbone.apply)({"params": params, "batch_stats": stats}, IMAGES)
    for image in range(2):
        maps = features["stage2"][image]
        assert maps.shape[0] == 16
        x = jax.jit(partial(pool, size=(2, 2), spatial_scale=1 / 2))(maps, BOXES[image])
        x = np.asarray(x).reshape(2, -1)
        for layer in ("fc6", "fc7"):
            weight = given["params"][layer]
            kernel = np.asarray(weight["kernel"]).reshape(x.shape[1], -1)
            x = np.maximum(x @ kernel + np.asarray(weight["bias"]), 0)
        for name, found in (("cls_score", scores), ("bbox_pred", deltas)):
            weight = given["params"][name]
            expected = x @ np.asarray(weight["kernel"]) + np.asarray(weight["bias"])
            np.testing.assert_allclose(
                np.asarray(found[image]).reshape(2, -1), expected, rtol=1e-4, atol=1e-5
            )


def test_the_nearest_side_is_that_of_the_nearest_area():
    squares = jnp.float32([[0, 0, s, s] for s in (10, 90, 100, 190, 230, 600)])
    by_hand = [
        min(range(3), key=lambda k: abs((s * (0.5, 1, 2)[k]) ** 2 - 224**2))
        for s in (10, 90, 100, 190, 230, 600)
    ]
    np.testing.assert_array_equal(nearest_side(squares, [0.5, 1.0, 2.0]), by_hand)


def test_each_region_is_pooled_at_the_side_that_suits_it():
    model = small(stage="stage2")
    given = variables(model)

    def seen(*sides):
        return jax.jit(partial(model.apply, sides=sides))(given, IMAGES, 10 * BOXES)

    # With images of 32 pixels, so that regions of 320 are as large as one likes.
    jax.tree.map(np.testing.assert_array_equal, seen(32), apply(model, given, 10 * BOXES))
    together, apart = seen(16, 32, 16), (seen(16), seen(32))
    own = np.asarray(nearest_side(10 * BOXES, [0.5, 1.0]))
    assert set(own.ravel()) == {0, 1}
    for image, region in np.ndindex(2, 2):
        for found, expected in zip(together, apart[own[image, region]], strict=True):
            np.testing.assert_allclose(
                found[image, region], expected[image, region], rtol=1e-5, atol=1e-6
            )


def test_first_values_are_the_paper_s():
    params = variables(create("resnet20", 20, width=0.25, units=512))["params"]
    assert np.std(params["cls_score"]["kernel"]) == pytest.approx(0.01, rel=0.05)
    assert np.std(params["bbox_pred"]["kernel"]) == pytest.approx(0.001, rel=0.05)
    assert not np.any(params["cls_score"]["bias"]) and not np.any(params["bbox_pred"]["bias"])
    assert params["cls_score"]["kernel"].shape == (512, 21)
    assert params["bbox_pred"]["kernel"].shape == (512, 80)


def test_nothing_is_made_that_is_not_used():
    params = variables(small(stage="stage2"))["params"]
    assert set(params) == {"backbone", "fc6", "fc7", "cls_score", "bbox_pred"}
    assert not any(name.startswith(("stage3", "head")) for name in params["backbone"])


@pytest.mark.parametrize(
    ("name", "expected", "default"),
    [
        ("vgg16", {"stage1": 1, "stage2": 2, "stage3": 4, "stage4": 8, "stage5": 16}, "stage5"),
        ("resnet18", {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}, "stage3"),
        ("resnet20", {"stage1": 1, "stage2": 2, "stage3": 4}, "stage3"),
        ("alexnet", {"stage1": 4, "stage2": 8, "stage3": 16}, "stage3"),
        ("densenet121", {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}, "stage3"),
        ("googlenet", {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}, "stage3"),
    ],
)
def test_regions_are_pooled_where_the_stride_is_sixteen(name, expected, default):
    assert strides(models.create(name, 1)) == expected
    assert create(name, 2).stage == default


def test_vgg16_has_the_paper_s_number_of_parameters():
    """VGG-16's own less its classifier, plus 21 scores and 80 box outputs."""
    shapes = jax.eval_shape(
        create("vgg16", 20).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)), BOXES[:1]
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == 138_357_544 - 4097 * 1000 + 4097 * (21 + 80)


@pytest.mark.parametrize(("name", "stage"), [("resnet18", "stage2"), ("vgg11", "stage5")])
def test_a_classifier_s_file_fills_the_backbone(name, stage):
    width = {"width": 1 / 16, "stem": "small"}
    classifier = models.create(name, 7, **width)
    theirs = jax.jit(classifier.init)(jax.random.key(3), IMAGES)
    rules = classifier.pretrained_names()
    rules = rules.get("torchvision", next(iter(rules.values())))
    tensors = {}
    for path, leaf in jax.tree.flatten_with_path(theirs)[0]:
        x = np.asarray(leaf)
        dotted = ".".join(str(step.key) for step in path)
        x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        tensors[weights.tensor_name(dotted, rules)] = x
    model = create(name, 3, stage=stage, pool_size=1, units=256, **width)
    fresh = variables(model)
    loaded = weights.assign(tensors, model, fresh, "reinit")
    for module, arrays in fresh["params"]["backbone"].items():
        jax.tree.map(
            np.testing.assert_array_equal,
            loaded["params"]["backbone"][module],
            theirs["params"][module],
        )
        assert set(arrays) == set(theirs["params"][module])
    for layer in ("cls_score", "bbox_pred"):
        np.testing.assert_array_equal(
            loaded["params"][layer]["kernel"], fresh["params"][layer]["kernel"]
        )
    with pytest.raises(UserError, match="missing"):
        weights.assign(tensors, model, fresh, "keep")


def test_vgg_s_linear_layers_come_with_it():
    stem = {"width": 1 / 64, "stem": "small"}
    classifier = models.create("vgg11", 7, **stem)
    model = create("vgg11", 3, pool_size=1, **stem)
    names = model.pretrained_names()["torchvision"]
    assert weights.tensor_name("params.fc6.kernel", names) == "classifier.0.weight"
    assert weights.tensor_name("params.backbone.conv1_1.bias", names) == "features.0.bias"
    shapes = jax.eval_shape(classifier.init, jax.random.key(0), IMAGES)["params"]
    ours = variables(model)["params"]
    for layer, theirs in (("fc6", "dense1"), ("fc7", "dense2")):
        assert ours[layer]["kernel"].shape == shapes[theirs]["kernel"].shape
        assert ours[layer]["kernel"].shape[-1] == 64


def test_full_ranks_change_nothing_and_lower_ones_are_the_best_approximation():
    model = small()
    given = variables(model)
    scores, deltas = apply(model, given)
    full = truncated(given["params"], (8, 8))
    short = small().clone(ranks=(8, 8))
    found = apply(short, {**given, "params": full})
    np.testing.assert_allclose(found[0], scores, atol=1e-5)
    np.testing.assert_allclose(found[1], deltas, atol=1e-5)
    low = truncated(given["params"], (3, 2))
    matrix = np.asarray(given["params"]["fc6"]["kernel"]).reshape(-1, 8)
    product = np.asarray(low["fc6_reduced"]["kernel"]).reshape(-1, 3) @ low["fc6"]["kernel"]
    lost = np.linalg.svd(matrix, compute_uv=False)[3:]
    assert np.linalg.norm(matrix - product) == pytest.approx(np.linalg.norm(lost), rel=1e-4)
    assert "bias" not in low["fc6_reduced"]
    expected = jax.eval_shape(small().clone(ranks=(3, 2)).init, jax.random.key(0), IMAGES, BOXES)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), low, expected["params"])
    with pytest.raises(UserError, match="rank of 1 to 8"):
        truncated(given["params"], (9, 2))


def test_mistakes():
    with pytest.raises(UserError, match=r"no map 'stage7'.*stage1, stage2, stage3"):
        create("resnet20", 2, stage="stage7")
    with pytest.raises(UserError, match="unknown model"):
        create("resnet21", 2)
    model = create("vgg11", 2)
    with pytest.raises(UserError, match="too small"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES[:, :16, :16], BOXES)
