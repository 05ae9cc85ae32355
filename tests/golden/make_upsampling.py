"""Writes upsampling.npz, torch's results: `python tests/golden/make_upsampling.py`.

Arrays are NHWC, kernels HWIO, indices `row * width + column`, as in cnn_jax.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def main() -> None:
    rng = np.random.default_rng(0)
    cases = {"x": rng.normal(size=(2, 5, 6, 3)).astype(np.float32)}
    x = nchw(cases["x"])
    for factor in (2, 3, 4):
        cases[f"nearest/{factor}"] = nhwc(functional.interpolate(x, scale_factor=factor))
        bilinear = functional.interpolate(
            x, scale_factor=factor, mode="bilinear", align_corners=False
        )
        cases[f"bilinear/{factor}"] = nhwc(bilinear)
    for size, stride, padding in ((2, 2, 0), (4, 2, 1), (3, 2, 0), (3, 3, 1), (5, 3, 1)):
        kernel = rng.normal(size=(size, size, 3, 4)).astype(np.float32)
        name = f"transposed/{size}/{stride}/{padding}"
        # torch's is [channels in, channels out, rows, columns].
        weight = torch.from_numpy(kernel).permute(2, 3, 0, 1)
        cases[f"{name}/kernel"] = kernel
        cases[name] = nhwc(functional.conv_transpose2d(x, weight, stride=stride, padding=padding))
    # Few distinct values, so that windows have ties; odd sizes, so that windows stick out.
    cases["ties"] = rng.integers(0, 4, (2, 7, 9, 2)).astype(np.float32)
    ties = nchw(cases["ties"])
    for ceil_mode in (False, True):
        pooled, indices = functional.max_pool2d(
            ties, 2, 2, ceil_mode=ceil_mode, return_indices=True
        )
        cases[f"indices/{ceil_mode}"] = nhwc(indices).astype(np.int32)
        unpooled = functional.max_unpool2d(pooled + 1, indices, 2, output_size=(7, 9))
        cases[f"unpooled/{ceil_mode}"] = nhwc(unpooled)
    _, indices = functional.max_pool2d(ties, 3, 2, 1, return_indices=True)
    cases["indices/padded"] = nhwc(indices).astype(np.int32)
    np.savez_compressed(Path(__file__).with_name("upsampling.npz"), **cases)


if __name__ == "__main__":
    main()
