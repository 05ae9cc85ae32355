"""Recipes of `experiments.segment`."""

from typing import Any

# The eleven classes of CamVid in Badrinarayanan et al. 2017, in the order of its labels.
_CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)

SEGMENTATION: dict[str, dict[str, Any]] = {
    # The built-in scenes of up to four shapes: a mean IoU of 78 within two minutes of two cores.
    # Muon learns more from an image than Adam, and more again in steps of few images.
    "shapes": {
        "model": "airbench95",
        "stem": "imagenet",
        "width": 0.25,
        "stage": "stage2",
        "image_size": 128,
        "output_stride": 8,
        "batch_size": 4,
        "eval_batch_size": 100,
        "steps": 2600,
        "eval_every": 2600,
        "optimizer": "muon",
        "optimizer_options": ("adam_learning_rate=0.003",),
        "nesterov": True,
        "learning_rate": 0.03,
        "warmup": 260,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "flip": True,
    },
    # The same with another network.
    "shapes_others": {
        "width": 0.25,
        "image_size": 128,
        "output_stride": 4,
        "batch_size": 16,
        "eval_batch_size": 100,
        "steps": 2000,
        "eval_every": 1000,
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "warmup": 100,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "flip": True,
    },
    # Badrinarayanan et al. 2017, section 3.2: 360 x 480 pixels, a fixed rate, until the validation
    # loss stops falling; 40,000 steps and more in section 4.
    "segnet_camvid": {
        "model": "segnet",
        "image_shape": (360, 480),
        "class_names": _CAMVID_CLASSES,
        "ignore_labels": (11,),
        "class_weights": ("median_frequency",),
        "batch_size": 12,
        "steps": 40_000,
        "learning_rate": 0.1,
        "schedule": "constant",
        "weight_decay": 5e-4,
        "flip": True,
    },
    # The same data at half the size within an hour or two of two CPU cores.
    "camvid_half": {
        "model": "resnet18",
        "width": 0.5,
        "image_shape": (180, 240),
        "class_names": _CAMVID_CLASSES,
        "ignore_labels": (11,),
        "batch_size": 8,
        "eval_batch_size": 8,
        "epochs": 60.0,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "warmup": 100,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "flip": True,
        "zoom": (0.75, 1.5),
        "color_jitter": 0.2,
    },
    # Electron microscopy of membranes (ISBI): --data masks:DIR --class-names membrane cell --preset
    # membranes. Pixel error of 7.66 % on 6 sections (seed 0), seven minutes of one CPU core.
    "membranes": {
        "model": "unet_same",
        "width": 0.25,
        "cells": True,
        "crop_size": (192, 192),
        "batch_size": 4,
        "eval_batch_size": 1,
        "steps": 600,
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "warmup": 30,
        "weight_decay": 0.0,
        "flip": True,
        "flip_vertical": True,
        "color_jitter": 0.2,
    },
    # What `--data masks:DIR` alone chooses (`experiments.suited`).
    "few_masks": {
        "model": "unet_same",
        "width": 0.25,
        "crop_size": (192, 192),
        "batch_size": 4,
        "eval_batch_size": 1,
        "epochs": 100.0,
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "warmup": 30,
        "weight_decay": 0.0,
        "flip": True,
        "color_jitter": 0.2,
    },
    # Dubai's aerial images, in squares: --data masks:DIR --eval-folders tile_6 --test-folders
    # tile_8 --preset aerial_images. Mean IoU of 33.5 % on tile 8 (seed 0), 8 minutes of one core.
    "aerial_images": {
        "model": "resnet18",
        "width": 0.5,
        "ignore_labels": (255,),
        "tile": 192,
        "batch_size": 8,
        "epochs": 1.5,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "warmup": 50,
        "weight_decay": 0.0,
        "flip": True,
        "flip_vertical": True,
        "zoom": (0.75, 1.5),
        "color_jitter": 0.2,
    },
    # Ronneberger et al. 2015, section 3: one large tile a step, a momentum of 0.99, elastic
    # deformation, and weights on the borders between cells.
    "unet_cells": {
        "model": "unet",
        "cells": True,
        "batch_size": 1,
        "steps": 20_000,
        "learning_rate": 1e-3,
        "momentum": 0.99,
        "schedule": "constant",
        "weight_decay": 0.0,
        "border_weight": 10.0,
        "elastic": 10.0,
        "interpolation": "bicubic",
        "rotate": 180.0,
        "flip": True,
        "color_jitter": 0.1,
    },
}
