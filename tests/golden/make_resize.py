"""Writes resize.npz, torchvision's resizes and crops: `python tests/golden/make_resize.py`."""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with noise on it: both matter to resampling."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(rows / 3), np.cos(columns / 5), np.sin((rows + columns) / 7)], axis=-1)
    return np.clip(127 + 80 * waves + rng.normal(0, 30, waves.shape), 0, 255).astype(np.uint8)


def main() -> None:
    filters = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
    cases = {}
    for height, width in ((37, 52), (61, 40), (20, 20), (9, 41)):
        image = picture(height, width)
        pil = Image.fromarray(image)
        cases[f"image/{height}x{width}"] = image
        for name, interpolation in filters.items():
            for size in (16, 33):
                shorter = transforms.Resize(size, interpolation)(pil)
                cases[f"shorter/{height}x{width}/{name}/{size}"] = np.array(shorter)
            exact = transforms.Resize((24, 19), interpolation)(pil)
            cases[f"resize/{height}x{width}/{name}"] = np.array(exact)
        for size in (9, 16, 25, 50):
            cases[f"center/{height}x{width}/{size}"] = np.array(transforms.CenterCrop(size)(pil))
        ten = transforms.TenCrop(8)(pil)
        cases[f"ten/{height}x{width}"] = np.stack([np.array(crop) for crop in ten])
    np.savez_compressed(Path(__file__).with_name("resize.npz"), **cases)


if __name__ == "__main__":
    main()
