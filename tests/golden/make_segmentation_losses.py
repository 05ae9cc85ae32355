"""Writes segmentation_losses.npz, torch's: `python tests/golden/make_segmentation_losses.py`."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional


def main() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 6, 7, 4)).astype(np.float32)
    mask = rng.integers(0, 4, (2, 6, 7))
    mask[rng.random(mask.shape) < 0.2] = 255
    weights = np.array([0.5, 1.0, 2.5, 7.0], np.float32)
    cases = {"logits": logits, "mask": mask.astype(np.int32), "class_weights": weights}
    for name, weight in (("plain", None), ("weighted", torch.from_numpy(weights))):
        x = torch.from_numpy(logits).requires_grad_()
        losses = []
        for image, labels in zip(x, torch.from_numpy(mask), strict=True):
            total = functional.cross_entropy(
                image.permute(2, 0, 1)[None],
                labels[None],
                weight,
                ignore_index=255,
                reduction="sum",
            )
            losses.append(total / (labels != 255).sum())
        torch.stack(losses).sum().backward()
        cases[f"{name}/loss"] = torch.stack(losses).detach().numpy()
        cases[f"{name}/gradient"] = x.grad.numpy()
    np.savez_compressed(Path(__file__).with_name("segmentation_losses.npz"), **cases)


if __name__ == "__main__":
    main()
