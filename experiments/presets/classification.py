"""Recipes of `experiments.classify`."""

from typing import Any

from .airbench import NESTEROV, TRAINING

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

# The starting values, the targets and the views of Jordan 2024.
_AIRBENCH = {
    **TRAINING,
    "image_size": 32,
    "label_smoothing": 0.2,
    "logit_scale": 1 / 9,
    "identity_init": True,
    "frozen": ("whiten/kernel",),
    "frozen_after": ("whiten/bias=3",),
    "padding": 2,
    "views": "shift",
}

# The same for photos of which a crop of any size is taken, in place of a shift.
_AIRBENCH_CROPPED = {
    **{name: value for name, value in _AIRBENCH.items() if not name.startswith("padding")},
    "crop": "resized",
}

# The same for 400 steps of some dozens of images.
_SHORT = {
    "width": 0.25,
    "steps": 400,
    "eval_every": 200,
    "learning_rate": 0.6,
    "weight_decay": 0.0153 / NESTEROV,
    "warmup": 92,
    "whiten": 1000,
}

# Some ten thousands of images of at most 40 pixels.
_TINY = {
    **_AIRBENCH,
    "width": 0.5,
    "batch_size": 128,
    "eval_batch_size": 256,
    "learning_rate": 0.5,
    "weight_decay": 5e-4,
    "warmup_epochs": 1.0,
    "whiten": 2000,
}

CLASSIFICATION: dict[str, dict[str, Any]] = {
    # The built-in scenes: 99 % within a minute of two CPU cores.
    "shapes": {
        **_AIRBENCH,
        **_SHORT,
        "batch_size": 64,
        "eval_batch_size": 256,
    },
    # The same with another network: 95 % within three minutes with `--model resnet20`.
    "shapes_others": {
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
    # Jordan 2024 (arXiv 2404.00498), airbench94: 94.01 % on CIFAR-10 for 3.6e14 operations.
    "cifar10_fast": {
        **_AIRBENCH,
        "batch_size": 1024,
        "eval_batch_size": 200,
        "epochs": 9.9,
        # 11.5 for 1024 examples, where a gradient that stays moves parameters 1 + 1 / (1 - 0.85)
        # times as far; the decay likewise.
        "learning_rate": 11.5 / NESTEROV,
        "weight_decay": 0.0153 / NESTEROV,
        "warmup_epochs": 0.23 * 9.9,
        "whiten": 5000,
    },
    # Photos of articles for `similar`: --data folder:DIR --preset products, 12,800 images. Of 60
    # articles with 7 photos each, queries on other floors: recall at 1 of 59 % (57 to 62, three
    # seeds; colour histograms 40 %), 80 seconds of one CPU core.
    "products": {
        **_AIRBENCH_CROPPED,
        **_SHORT,
        "image_size": 64,
        "canvas_size": 80,
        "crop_scale": (0.4, 1.0),
        "rotate": 20.0,
        "views": "mirror",
        "batch_size": 32,
        "eval_batch_size": 120,
    },
    # What `--data SPEC` alone chooses for images of at most 40 pixels (`experiments.suited`).
    "tiny_images": _TINY,
    # The same for some thousands of photos.
    "small_photos": {
        **_AIRBENCH_CROPPED,
        "stem": "imagenet",
        "width": 0.5,
        "image_size": 128,
        "crop_scale": (0.35, 1.0),
        "color_jitter": 0.3,
        "views": "mirror",
        "batch_size": 64,
        "eval_batch_size": 64,
        "learning_rate": 0.3,
        "weight_decay": 0.001,
        "warmup_epochs": 10.0,
        "whiten": 1000,
    },
    # German traffic signs: --data folder:DIR --preset traffic_signs. On the official test
    # images 99.23 % (99.11 to 99.35, three seeds), 17 minutes of one CPU core. Never mirrored:
    # "keep left" and "keep right" are two signs.
    "traffic_signs": {
        **{name: value for name, value in _TINY.items() if not name.startswith("flip")},
        "views": "one",
        "epochs": 6.0,
        "rotate": 10.0,
        "zoom": (0.85, 1.15),
        "color_jitter": 0.4,
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
