"""Policies that draw from a table of operations: TrivialAugment and RandAugment.

The fourteen operations, their ranges and their signs are torchvision's. Under `vmap` every example
draws its own, and a switch would compute all fourteen for each example. The five geometric ones
are therefore a single affine map whose matrix depends on the draw.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from cnn_jax.data.augment import color
from cnn_jax.data.augment.geometry import Interpolation, affine, inverse_affine_matrix

Image = Float[Array, "height width 3"]

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)

# Operations whose magnitude has a random sign.
SIGNED = np.array([1 <= i <= 9 for i in range(len(OPERATIONS))])

# Levels of magnitude, from none to the largest; certain operations have no magnitude.
BINS = 31


def magnitudes(
    shear: float,
    translate: tuple[float, float],
    rotate: float,
    enhance: float,
    fewest_bits: int,
) -> Float[np.ndarray, "14 31"]:
    """Build the table of magnitudes, with rows in the order of :data:`OPERATIONS`.

    Args:
        shear: the tangent of the largest shear.
        translate: the largest displacement to the right and down, in pixels.
        rotate: the largest angle in degrees.
        enhance: the largest distance of an enhancement's factor from 1.
        fewest_bits: the bits of posterize at the highest magnitude; 8 at the lowest.
    """
    none = np.zeros(BINS)
    bits = 8 - np.round(np.arange(BINS) * (8 - fewest_bits) / (BINS - 1))
    rising = [np.linspace(0, top, BINS) for top in (shear, shear, *translate, rotate)]
    enhancements = [np.linspace(0, enhance, BINS)] * 4
    rows = [none, *rising, *enhancements, bits, np.linspace(255, 0, BINS), none, none]
    return np.stack(rows).astype(np.float32)


def trivial_augment_wide(
    key: Key[Array, ""], image: Image, interpolation: Interpolation = "bilinear"
) -> Image:
    """Apply one random operation at a random magnitude from the wide ranges.

    Args:
        key: random key.
        image: one image.
        interpolation: of the geometric operations; pixels from outside the image become black.

    References:
        Müller & Hutter, `TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation
        <https://arxiv.org/abs/2103.10158>`_, 2021
    """
    table = magnitudes(0.99, (32.0, 32.0), 135.0, 0.99, 2)
    operation_key, bin_key, sign_key = (jax.random.fold_in(key, i) for i in range(3))
    operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
    level = jax.random.randint(bin_key, (), 0, BINS)
    magnitude = _signed(sign_key, operation, jnp.asarray(table)[operation, level])
    return apply_operation(image, operation, magnitude, interpolation)


def rand_augment(
    key: Key[Array, ""],
    image: Image,
    num_ops: int = 2,
    magnitude: int = 9,
    interpolation: Interpolation = "bilinear",
) -> Image:
    """Apply `num_ops` random operations one after the other, all at one magnitude.

    Args:
        key: random key.
        image: one image.
        num_ops: the number of operations.
        magnitude: the level of the magnitude, from 0 to 30.
        interpolation: of the geometric operations; pixels from outside the image become black.

    References:
        Cubuk et al., `RandAugment: Practical automated data augmentation with a reduced search
        space <https://arxiv.org/abs/1909.13719>`_, 2020
    """
    height, width, _ = image.shape
    table = magnitudes(0.3, (150 / 331 * width, 150 / 331 * height), 30.0, 0.9, 4)
    amounts = jnp.asarray(table[:, magnitude])

    def apply_one(index: Int[Array, ""], image: Image) -> Image:
        operation_key, sign_key = jax.random.split(jax.random.fold_in(key, index))
        operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
        amount = _signed(sign_key, operation, amounts[operation])
        return apply_operation(image, operation, amount, interpolation)

    return jax.lax.fori_loop(0, num_ops, apply_one, image)


def _signed(
    key: Key[Array, ""], operation: Int[Array, ""], magnitude: Float[Array, ""]
) -> Float[Array, ""]:
    negative = jnp.asarray(SIGNED)[operation] & jax.random.bernoulli(key)
    return jnp.where(negative, -magnitude, magnitude)


def apply_operation(
    image: Image,
    operation: Int[Array, ""],
    magnitude: Float[Array, ""],
    interpolation: Interpolation = "bilinear",
) -> Image:
    """Apply the operation of the given number.

    Args:
        image: one image.
        operation: the index into :data:`OPERATIONS`.
        magnitude: shears: tangent; translations: pixels, rounded towards zero; rotate: degrees
            counter-clockwise; enhancements: the factor minus one; posterize: bits kept; solarize:
            threshold in 8-bit levels.
        interpolation: of the geometric operations.
    """
    height, width, _ = image.shape

    def amount(*names: str) -> Float[Array, " operations"]:
        """Return the magnitude at the position of the applied operation, zeros elsewhere."""
        chosen = operation == jnp.array([OPERATIONS.index(name) for name in names])
        return jnp.where(chosen, magnitude, 0.0)

    shear = amount("shear_x", "shear_y")
    # Shears fix the top left corner, rotations the centre.
    center = jnp.where(jnp.any(shear != 0), 0.0, jnp.array([width / 2, height / 2]))
    matrix = inverse_affine_matrix(
        jnp.deg2rad(-amount("rotate")[0]),
        jnp.trunc(amount("translate_x", "translate_y")),
        1.0,
        jnp.arctan(shear),
        center,
    )
    image = affine(image, matrix, interpolation)

    first_color = OPERATIONS.index("brightness")
    branches = [
        lambda x: x,
        lambda x: color.adjust_brightness(x, 1.0 + magnitude),
        lambda x: color.adjust_saturation(x, 1.0 + magnitude),
        lambda x: color.adjust_contrast(x, 1.0 + magnitude),
        lambda x: color.adjust_sharpness(x, 1.0 + magnitude),
        lambda x: color.posterize(x, magnitude.astype(jnp.int32)),
        lambda x: color.solarize(x, magnitude),
        color.autocontrast,
        color.equalize,
    ]
    return jax.lax.switch(jnp.maximum(operation - first_color + 1, 0), branches, image)
