"""Augmentation on the device: pure functions of `(key, image)`, one example each.

Images are float32 in 0..1 and stay there; shapes are fixed, so that everything can be compiled and
vmapped. :class:`Augmentation` holds the parameters of a run; :func:`augment_example` and
:func:`mix` apply them.
"""

from cnn_jax.data.augment.boxes import BoxAugmentation, augment_boxes
from cnn_jax.data.augment.color import color_jitter, normalize, pca_color
from cnn_jax.data.augment.compose import Augmentation, alternating_flip, augment_example, mix
from cnn_jax.data.augment.geometry import (
    affine,
    crop_and_resize,
    pad_and_crop,
    random_affine,
    random_crop,
    random_erasing,
    random_flip,
    random_resized_crop,
)
from cnn_jax.data.augment.masks import MaskAugmentation, augment_with_mask
from cnn_jax.data.augment.mixing import cutmix, mixup, mixup_or_cutmix
from cnn_jax.data.augment.policies import rand_augment, trivial_augment_wide
from cnn_jax.data.augment.views import ViewKind, views

__all__ = [
    "Augmentation",
    "BoxAugmentation",
    "MaskAugmentation",
    "ViewKind",
    "affine",
    "alternating_flip",
    "augment_boxes",
    "augment_example",
    "augment_with_mask",
    "color_jitter",
    "crop_and_resize",
    "cutmix",
    "mix",
    "mixup",
    "mixup_or_cutmix",
    "normalize",
    "pad_and_crop",
    "pca_color",
    "rand_augment",
    "random_affine",
    "random_crop",
    "random_erasing",
    "random_flip",
    "random_resized_crop",
    "trivial_augment_wide",
    "views",
]
