"""The whole augmentation of a run: its steps and their strengths."""

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from cnn_jax.data.augment import color, geometry, mixing, policies
from cnn_jax.errors import check
from cnn_jax.ranges import LARGEST_SIDE, Range, check_ranges

# Every step's key is folded with its position in this list, so turning a step on or off does not
# change the draws of the others. Append to it, never reorder it.
_STEPS = ("crop", "flip", "affine", "policy", "color_jitter", "pca_color", "erase")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images on the device, with the steps in this order."""

    output_size: Annotated[int, Range(1, LARGEST_SIDE)] | None = None
    """The side of the augmented image in pixels; default: that of the canvas."""
    crop: Literal["none", "random", "pad", "resized"] = "none"
    """The crop. random: a random window; pad: a random window after padding; resized: a box of
    random area and aspect ratio, resampled; none: the whole image."""
    padding: Annotated[int, Range(0, LARGEST_SIDE)] = 4
    """The padding in pixels on every side before the crop `pad`."""
    padding_mode: Literal["constant", "reflect"] = "constant"
    """The content of that padding: black, or the mirrored image."""
    crop_scale: Annotated[tuple[float, float], Range(0, 1, above=True)] = (0.08, 1.0)
    """The smallest and the largest fraction of the area in the crop `resized`."""
    crop_ratio: Annotated[tuple[float, float], Range(0.01, 100)] = (3 / 4, 4 / 3)
    """The smallest and the largest width / height of the crop `resized`."""
    flip: bool = False
    """Mirror images left to right, half of them."""
    flip_mode: Literal["random", "alternating"] = "random"
    """The half that is mirrored: drawn anew every time, or the one half in even epochs and the
    other in odd ones."""
    rotate: Annotated[float, Range(0, 360)] = 0.0
    """The largest rotation in degrees, in either direction."""
    translate: Annotated[float, Range(0, 1)] = 0.0
    """The largest displacement, as a fraction of the side."""
    zoom: Annotated[tuple[float, float], Range(0.01, 100)] = (1.0, 1.0)
    """The smallest and the largest factor of the size."""
    shear: Annotated[float, Range(0, 90, below=True)] = 0.0
    """The largest shear in degrees, in either direction."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """The augmentation policy. trivial: TrivialAugmentWide; rand: RandAugment."""
    rand_ops: Annotated[int, Range(0, 20)] = 2
    """The number of RandAugment's operations."""
    rand_magnitude: Annotated[int, Range(0, policies.BINS - 1)] = 9
    """The magnitude of RandAugment's operations."""
    color_jitter: Annotated[float, Range(0, 10)] = 0.0
    """The largest relative change of brightness, contrast and saturation."""
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    """The largest shift of the hue, as a fraction of the colour circle."""
    pca_color: Annotated[float, Range(0, 10)] = 0.0
    """The standard deviation of AlexNet's shift along the principal colours (0.1 in the paper)."""
    erase: Annotated[float, Range(0, 1)] = 0.0
    """The probability of random erasing."""
    erase_fill: Annotated[tuple[float, float, float], Range(0, 1)] = (0.485, 0.456, 0.406)
    """The colour of the erased rectangle; default: the mean of ImageNet. Where channels are not
    three, its mean."""
    mixup: Annotated[float, Range(0, 100)] = 0.0
    """The alpha of mixup, 0 for none; with cutmix too, each batch gets one of the two."""
    cutmix: Annotated[float, Range(0, 100)] = 0.0
    """The alpha of cutmix, 0 for none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("crop_scale", "crop_ratio", "zoom"):
            low, high = getattr(self, name)
            check(low <= high, name, (low, high), "a range LOW HIGH with LOW <= HIGH")


def augment_example(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    original_size: Num[Array, "2"] | None,
    config: Augmentation,
    mirrored: Bool[Array, ""] | None = None,
) -> Float[Array, "size size channels"]:
    """Augment one example; `jax.vmap` it over keys, images and sizes.

    Args:
        key: the example's own random key.
        image: its canvas, values in 0..1; three channels if `config` changes colours.
        original_size: height and width before the image was squashed to the canvas (see
            :func:`cnn_jax.data.augment.random_resized_crop`); None if it was not.
        config: the steps and their strengths.
        mirrored: whether the image is mirrored, from `alternating_flip`, where `config` alternates.

    Returns:
        A square float32 image of `config.output_size` pixels, values in 0..1.

    Raises:
        UserError: the image is smaller than its random crop.
    """
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(_STEPS)}
    image = _crop(keys["crop"], image, original_size, config)
    if config.flip and config.flip_mode == "random":
        image = geometry.random_flip(keys["flip"], image)
    elif config.flip:
        image = jnp.where(mirrored, image[:, ::-1], image)
    if config.rotate or config.translate or config.shear or config.zoom != (1.0, 1.0):
        image = geometry.random_affine(
            keys["affine"], image, config.rotate, config.translate, config.zoom, config.shear
        )
    if config.policy == "trivial":
        image = policies.trivial_augment_wide(keys["policy"], image)
    elif config.policy == "rand":
        image = policies.rand_augment(keys["policy"], image, config.rand_ops, config.rand_magnitude)
    if config.color_jitter or config.hue:
        strength = config.color_jitter
        image = color.color_jitter(
            keys["color_jitter"], image, strength, strength, strength, config.hue
        )
    if config.pca_color:
        image = color.pca_color(keys["pca_color"], image, config.pca_color)
    if config.erase:
        fill = config.erase_fill
        if image.shape[2] != 3:
            fill = sum(fill) / 3
        image = geometry.random_erasing(keys["erase"], image, config.erase, fill=fill)
    return image


def alternating_flip(
    key: Key[Array, ""], index: Int[Array, ""], epoch: Int[Array, ""]
) -> Bool[Array, ""]:
    """Decide whether an example is mirrored: in even epochs a random half, in odd ones the other.

    So every example is seen both ways in any two epochs (Jordan 2024, "94% on CIFAR-10 in 3.29
    seconds on a single GPU", section 3.6).

    Args:
        key: the same for all examples throughout the run.
        index: the example's index in the source.
        epoch: the number of epochs before.
    """
    first = jax.random.bernoulli(jax.random.fold_in(key, index))
    return first ^ (epoch % 2 == 1)


def _crop(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    original_size: Num[Array, "2"] | None,
    config: Augmentation,
) -> Float[Array, "size size channels"]:
    height, width, _ = image.shape
    size = config.output_size or min(height, width)
    if config.crop == "resized":
        return geometry.random_resized_crop(
            key, image, size, config.crop_scale, config.crop_ratio, original_size
        )
    if config.crop == "random":
        return geometry.random_crop(key, image, size)
    if (height, width) != (size, size):
        whole = jnp.array([0, 0, height, width], jnp.float32)
        image = geometry.crop_and_resize(image, whole, (size, size))
    if config.crop == "pad":
        return geometry.pad_and_crop(key, image, config.padding, config.padding_mode)
    return image


def mix(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    config: Augmentation,
    axis_name: str | None = None,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    """Mix the batch's examples as `config` says (see :mod:`cnn_jax.data.augment.mixing`)."""
    return mixing.mixup_or_cutmix(key, images, targets, config.mixup, config.cutmix, axis_name)
