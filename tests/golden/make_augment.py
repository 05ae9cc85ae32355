"""Writes augment.npz, torchvision's augmentations: `python tests/golden/make_augment.py`.

uint8 results are of Pillow images, float32 results of tensors in 0..1.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode, autoaugment
from torchvision.transforms import functional as F

SAMPLES = 20_000
QUANTILES = np.linspace(0.05, 0.95, 19)
INTERPOLATIONS = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}


def picture(height: int, width: int) -> np.ndarray:
    """Waves of colour with noise, values from 20 to 235 so that stretching them shows."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(rows / 3), np.cos(columns / 5), np.sin((rows + columns) / 7)], axis=-1)
    return np.clip(127 + 80 * waves + rng.normal(0, 20, waves.shape), 20, 235).astype(np.uint8)


def policies(image: Image.Image) -> dict[str, np.ndarray]:
    """Every operation of the tables at a low, a middle and the highest magnitude, both signs."""
    cases = {}
    trivial = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    rand = autoaugment.RandAugment()._augmentation_space(31, (image.height, image.width))
    for name, space in (("trivial", trivial), ("rand", rand)):
        rows = [values.numpy() * np.ones(31) for values, _ in space.values()]
        cases[f"table/{name}"] = np.stack(rows)
        cases[f"signed/{name}"] = np.array([signed for _, signed in space.values()])
    for operation, (values, signed) in trivial.items():
        levels = [float(values[level]) for level in (0, 4, 13, 30)] if values.ndim else [0.0]
        for magnitude in sorted({*levels, *(-v for v in levels if signed)}):
            for name, interpolation in INTERPOLATIONS.items():
                result = autoaugment._apply_op(image, operation, magnitude, interpolation, None)
                cases[f"operation/{operation}/{magnitude}/{name}"] = np.array(result)
    return cases


def affine(image: Image.Image) -> dict[str, np.ndarray]:
    cases = {}
    for angle, translate, scale, shear in (
        (30.0, (0, 0), 1.0, (0.0, 0.0)),
        (0.0, (5, -3), 1.0, (0.0, 0.0)),
        (0.0, (0, 0), 1.6, (0.0, 0.0)),
        (0.0, (0, 0), 0.6, (0.0, 0.0)),
        (0.0, (0, 0), 1.0, (20.0, 0.0)),
        (0.0, (0, 0), 1.0, (0.0, -15.0)),
        (-47.0, (2, 4), 1.3, (10.0, 25.0)),
    ):
        for name, interpolation in INTERPOLATIONS.items():
            result = F.affine(image, angle, translate, scale, shear, interpolation)
            key = "/".join(map(str, (angle, *translate, scale, *shear)))
            cases[f"affine/{key}/{name}"] = np.array(result)
    return cases


def colors(image: Image.Image) -> dict[str, np.ndarray]:
    cases = {}
    tensor = F.to_tensor(image)[:, :12, :14]
    for name in ("brightness", "contrast", "saturation", "sharpness", "hue"):
        factors = (-0.5, -0.2, 0.0, 0.1, 0.4) if name == "hue" else (0.0, 0.3, 1.0, 1.9)
        for factor in factors:
            result = getattr(F, f"adjust_{name}")(tensor, factor)
            cases[f"color/{name}/{factor}"] = result.permute(1, 2, 0).numpy()
    return cases


def boxes(image: Image.Image) -> dict[str, np.ndarray]:
    cases = {}
    for box in ((0, 0, 24, 30), (3, 5, 9, 14), (10, 2, 12, 25), (20, 7, 1, 2)):
        for size in (8, 16, 40):
            result = F.resized_crop(image, *box, [size, size], InterpolationMode.BILINEAR)
            cases[f"box/{'/'.join(map(str, box))}/{size}"] = np.array(result)
    return cases


def distributions() -> dict[str, np.ndarray]:
    """Quantiles of the sides of random boxes, and how many images are left as they are."""
    torch.manual_seed(0)
    cases = {}
    for height, width in ((32, 32), (60, 100)):
        tensor = torch.zeros(3, height, width)
        crops = np.array(
            [
                transforms.RandomResizedCrop.get_params(tensor, [0.08, 1.0], [3 / 4, 4 / 3])
                for _ in range(SAMPLES)
            ]
        )
        cases[f"crop/{height}/{width}"] = np.quantile(crops, QUANTILES, axis=0)
        erased = np.array(
            [
                transforms.RandomErasing.get_params(tensor, (0.02, 0.33), (0.3, 3.3), [0.0])[:4]
                for _ in range(SAMPLES)
            ]
        )
        whole = (erased[:, 2] == height) & (erased[:, 3] == width)
        cases[f"erase/{height}/{width}"] = np.quantile(erased[~whole], QUANTILES, axis=0)
        cases[f"erase_nothing/{height}/{width}"] = np.array(whole.mean())
    for height, width in ((10, 40), (40, 10), (7, 50)):
        tensor = torch.zeros(3, height, width)
        fallback = transforms.RandomResizedCrop.get_params(tensor, [4.0, 4.0], [3 / 4, 4 / 3])
        cases[f"fallback/{height}/{width}"] = np.array(fallback)
    return cases


def main() -> None:
    pixels = picture(24, 30)
    image = Image.fromarray(pixels)
    cases = {"image": pixels, "quantiles": QUANTILES}
    for part in (policies(image), affine(image), colors(image), boxes(image), distributions()):
        cases |= part
    assert all(math.isfinite(values.sum()) for values in cases.values())
    np.savez_compressed(Path(__file__).with_name("augment.npz"), **cases)


if __name__ == "__main__":
    main()
