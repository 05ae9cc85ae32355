"""Recipes, most of them published, as defaults of the flags: `--preset NAME`.

Learning rates are for the stated batch size; scale both together (Goyal et al. 2017). Lengths are
the papers' in epochs, so that they fit any data set. Results that a recipe reached here, with
machine and seed, stand in BUILD_NOTES.md.
"""

from typing import Any

_IMAGENET_SGD = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "crop": "resized",
    "flip": True,
}

# torchvision's reference for networks with batch norm: 90 epochs, a tenth every 30.
_TORCHVISION = _IMAGENET_SGD | {
    "epochs": 90.0,
    "batch_size": 256,
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (1 / 3, 2 / 3),
}

# He et al. 2016, section 4.2: 64,000 iterations of 128 images are 164 epochs of CIFAR-10, a tenth
# at half and at three quarters; images padded by 4 and cropped, mirrored at random.
_CIFAR = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "batch_size": 128,
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.5, 0.75),
    "crop": "pad",
    "flip": True,
    "image_size": 32,
}

CLASSIFICATION: dict[str, dict[str, Any]] = {
    # The built-in scenes: 95 % within three minutes of two CPU cores.
    "shapes": {
        "model": "resnet20",
        "width": 0.5,
        "image_size": 32,
        "batch_size": 32,
        "eval_batch_size": 256,
        "steps": 1800,
        "eval_every": 600,
        "learning_rate": 0.1,
        "nesterov": True,
        "schedule": "cosine",
    },
    # Krizhevsky et al. 2012, section 5: about 90 epochs; the paper divides the learning rate three
    # times when validation stalls. 224 from 256 pixels at random, mirrored, colours along their
    # principal components (4.1); ten crops at test time.
    "alexnet": {
        **_IMAGENET_SGD,
        "model": "alexnet_paper",
        "epochs": 90.0,
        "batch_size": 128,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (0.35, 0.65, 0.85),
        "crop": "random",
        "pca_color": 0.1,
        "canvas_size": 256,
        "resize": 256,
        "ten_crop": True,
    },
    # Simonyan & Zisserman 2015, section 3.1: 74 epochs, a tenth three times as validation stalls.
    "vgg16": {
        **_IMAGENET_SGD,
        "model": "vgg16",
        "epochs": 74.0,
        "batch_size": 256,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (0.4, 0.65, 0.85),
        "crop": "random",
        "canvas_size": 256,
        "pca_color": 0.1,
    },
    # Szegedy et al. 2015, sections 5 and 6: learning rate x0.96 every 8 epochs, averaged
    # parameters, crops of 8 to 100 % of the area, photometric distortions. The paper gives no
    # length nor learning rate: torchvision's 90 epochs, 0.01 (the network has no batch norm).
    "googlenet": {
        **_IMAGENET_SGD,
        "model": "googlenet_paper",
        "epochs": 90.0,
        "batch_size": 256,
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": tuple(8 * i / 90 for i in range(1, 12)),
        "decay_factor": 0.96,
        "color_jitter": 0.4,
        "ema": 0.9999,
    },
    # Szegedy et al. 2016, section 8: RMSProp (decay 0.9, epsilon 1), 0.045 x 0.94 every second of
    # 100 epochs at batch 1600, gradients clipped at 2, label smoothing 0.1, averaged parameters.
    "inception_v3": {
        "model": "inception_v3",
        "epochs": 100.0,
        "batch_size": 1600,
        "optimizer": "rmsprop",
        "momentum": 0.9,
        "optimizer_options": ("decay=0.9", "eps=1.0"),
        "learning_rate": 0.045,
        "weight_decay": 4e-5,
        "schedule": "step",
        "milestones": tuple(i / 50 for i in range(1, 50)),
        "decay_factor": 0.94,
        "clip_norm": 2.0,
        "label_smoothing": 0.1,
        "ema": 0.9999,
        "crop": "resized",
        "flip": True,
        "color_jitter": 0.4,
    },
    # torchvision's first ImageNet recipe: 76.1 % for ResNet-50.
    "resnet50": {**_TORCHVISION, "model": "resnet50"},
    # torchvision's second: 80.9 % for ResNet-50, trained at 176 and evaluated at 224 pixels.
    # Its average (0.99998 every 32 steps, adjusted for batch and length) is 0.999966 a step.
    "resnet50_v2": {
        **_IMAGENET_SGD,
        "model": "resnet50",
        "epochs": 600.0,
        "batch_size": 1024,
        "learning_rate": 0.5,
        "schedule": "cosine",
        "warmup_epochs": 5.0,
        "warmup_start": 0.01,
        "weight_decay": 2e-5,
        "decay_on": "kernels",
        "image_size": 224,
        "output_size": 176,
        "resize": 232,
        "policy": "trivial",
        "erase": 0.1,
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema": 0.999966,
    },
    # Huang et al. 2017, section 4.2.
    "densenet121": {**_TORCHVISION, "model": "densenet121", "nesterov": True},
    # He et al. 2016, table 6: 91.25 % on CIFAR-10.
    "resnet20_cifar": {**_CIFAR, "model": "resnet20", "epochs": 164.0},
    "resnet56_cifar": {**_CIFAR, "model": "resnet56", "epochs": 164.0},
    # He et al. 2016, section 4.2: 110 layers want a warm-up at 0.01.
    "resnet110_cifar": {
        **_CIFAR,
        "model": "resnet110",
        "epochs": 164.0,
        "warmup": 400,
        "warmup_start": 0.1,
    },
    # Huang et al. 2017, table 2: 95.49 % on CIFAR-10.
    "densenet_cifar": {
        **_CIFAR,
        "model": "densenet_bc_100_12",
        "epochs": 300.0,
        "batch_size": 64,
        "nesterov": True,
    },
}

ANNOTATION: dict[str, dict[str, Any]] = {
    # The built-in scenes of one to three shapes.
    "shapes": {
        "model": "resnet20",
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
    "small_photos": {
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

SEGMENTATION: dict[str, dict[str, Any]] = {
    # The built-in scenes of up to four shapes.
    "shapes": {
        "model": "unet_same",
        "width": 0.125,
        "image_size": 64,
        "batch_size": 16,
        "eval_batch_size": 64,
        "steps": 400,
        "eval_every": 200,
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "warmup": 40,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "flip": True,
    },
    # Badrinarayanan et al. 2017, section 3.2: 360 x 480 pixels, a fixed rate, until the validation
    # loss ends to fall; 40,000 steps and more in section 4.
    "segnet_camvid": {
        "model": "segnet",
        "image_shape": (360, 480),
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
        "rotate": 180.0,
        "flip": True,
        "color_jitter": 0.1,
    },
}

TRANSLATION: dict[str, dict[str, Any]] = {
    # The built-in dates: above 99 % exact match within three minutes of two CPU cores.
    "dates": {
        "vocabulary": "char",
        "embedding_size": 32,
        "hidden_size": 64,
        "max_length": 40,
        "buckets": 2,
        "batch_size": 64,
        "eval_batch_size": 256,
        "steps": 1000,
        "eval_every": 250,
        "optimizer": "adam",
        "learning_rate": 5e-3,
        "warmup": 50,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    },
    # Bahdanau et al. 2015, appendix B: RNNsearch-50. Five days on the English-French of WMT'14.
    "rnnsearch50": {
        "encoder": "bigru",
        "embedding_size": 620,
        "hidden_size": 1000,
        "attention_size": 1000,
        "output_size": 500,
        "initialization": "paper",
        "max_vocabulary": 30_000,
        "max_length": 51,
        "batch_size": 80,
        "epochs": 5.0,
        "optimizer": "adadelta",
        "optimizer_options": ("rho=0.95", "eps=1e-6"),
        "learning_rate": 1.0,
        "schedule": "constant",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "loss_per": "sentence",
        "beam": 12,
    },
    # Multi30k's 29,000 captions, German to English: words seen twice, Adam, dropout, smoothing.
    "multi30k": {
        "encoder": "bigru",
        "embedding_size": 256,
        "hidden_size": 512,
        "dropout_rate": 0.5,
        "lowercase": True,
        "min_count": 2,
        "max_length": 50,
        "batch_size": 128,
        "epochs": 15.0,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
    },
}

DETECTION: dict[str, dict[str, Any]] = {
    # The built-in scenes of one to six shapes.
    "shapes": {
        "model": "resnet18",
        "stem": "small",
        "width": 0.25,
        "image_size": 64,
        "grid": 8,
        "batch_size": 32,
        "eval_batch_size": 128,
        "steps": 1500,
        "eval_every": 500,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "warmup": 100,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "hue": 0.0,
    },
    # Redmon et al. 2016, section 2.2: VOC 2007 and 2012, 135 epochs at batch 64: the learning rate
    # rises from 0.001 to 0.01 over the first epochs (their number is not given), 75 epochs there,
    # 30 at a tenth and 30 at a hundredth. The authors' code halves the gradient of a square, so
    # that their 0.01 is 0.005 here. Their network is trained on ImageNet first (--init-from).
    "yolo": {
        "model": "yolo",
        "image_size": 448,
        "grid": 7,
        "boxes_per_cell": 2,
        "boxes": "free",
        "classes": "sse",
        "epochs": 135.0,
        "batch_size": 64,
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 5e-3,
        "warmup_epochs": 3.0,
        "warmup_start": 0.1,
        "schedule": "step",
        "milestones": (78 / 135, 105 / 135),
        "weight_decay": 5e-4,
        "hue": 0.0,
    },
    # Faces: one class, many and small, so a finer grid (wider_face, or any set of one class).
    "faces": {
        "model": "resnet18",
        "image_size": 416,
        "grid": 13,
        "max_objects": 100,
        "epochs": 100.0,
        "batch_size": 32,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "warmup_epochs": 2.0,
        "schedule": "cosine",
        "weight_decay": 0.0,
    },
    # A few hundred images of many small objects, from scratch: blood cells, for one.
    "small_boxes": {
        "model": "resnet18",
        "width": 0.5,
        "image_size": 224,
        "grid": 14,
        "max_objects": 60,
        "epochs": 120.0,
        "batch_size": 16,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "warmup": 100,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "ema": 0.998,
        "eval_every": 0,
    },
}
