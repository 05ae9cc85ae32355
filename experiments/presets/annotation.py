"""Recipes of `experiments.annotate`."""

from typing import Any

from .airbench import NESTEROV, TRAINING

_SMALL_PHOTOS: dict[str, Any] = {
    "model": "resnet20",
    "image_size": 64,
    "batch_size": 64,
    "eval_batch_size": 256,
    "epochs": 60.0,
    "learning_rate": 0.1,
    "nesterov": True,
    "schedule": "cosine",
    "weight_decay": 5e-4,
    "crop": "resized",
    "crop_scale": (0.4, 1.0),
    "flip": True,
    "color_jitter": 0.2,
}

_SCENES = {**_SMALL_PHOTOS, "model": "resnet18", "width": 0.5}

ANNOTATION: dict[str, dict[str, Any]] = {
    # The built-in scenes of one to three shapes.
    "shapes": {
        **TRAINING,
        "width": 0.25,
        "image_size": 48,
        "padding": 3,
        "batch_size": 64,
        "eval_batch_size": 256,
        "steps": 400,
        "eval_every": 200,
        "learning_rate": 0.1,
        "weight_decay": 0.0153 / NESTEROV,
        "warmup": 92,
        "decision": "tuned",
    },
    # The same with another network.
    "shapes_others": {
        "width": 0.5,
        "image_size": 48,
        "batch_size": 32,
        "eval_batch_size": 256,
        "steps": 1200,
        "eval_every": 400,
        "learning_rate": 0.1,
        "nesterov": True,
        "schedule": "cosine",
        "decision": "tuned",
    },
    # A few thousand photographs, from scratch: the residual network of CIFAR at 64 pixels.
    "small_photos": _SMALL_PHOTOS,
    # MIML's natural scenes: --data csv:labels.csv,images --test-every 4 --preset natural_scenes.
    # Sample F1 of 77.9 % (76.7 to 79.6, three seeds), three minutes of one CPU core.
    "natural_scenes": {**_SCENES, "epochs": 30.0, "decision": "tuned", "f_beta": 1.0},
    # Dubai's aerial images, cut into patches whose tags are their classes: --data masks:DIR
    # --eval-folders tile_6 --test-folders tile_8 --preset aerial_tags. Sample F2 of 90.4 %, seed 0.
    "aerial_tags": {
        **_SCENES,
        "patch_size": 128,
        "min_area": 0.01,
        "epochs": 10.0,
        "decision": "per-label",
    },
    # Gong et al. 2013, section 4.3: AlexNet's architecture, a batch of 32, 0.002 at first, WARP and
    # exactly three labels an image; 220 of 256 pixels there. The length is not given.
    "gong_warp": {
        "model": "alexnet_paper",
        "loss": "warp",
        "warp_ranks": "sampled",
        "decision": "topk",
        "k": 3,
        "dropout_rate": 0.6,
        "epochs": 30.0,
        "batch_size": 32,
        "learning_rate": 0.002,
        "weight_decay": 5e-4,
        "schedule": "step",
        "crop": "random",
        "canvas_size": 256,
        "resize": 256,
        "flip": True,
    },
}
