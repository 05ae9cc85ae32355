"""Preparation of examples with proposals on the host, so that every batch has one shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data.source import Example
from cnn_jax.data.transforms import BoxTransform


@dataclass(frozen=True)
class ProposalTransform:
    """`BoxTransform` with a fixed number of proposal rows.

    `proposals` are in pixels of the resized image, best first; `proposal_valid` is False for
    padding rows.

    Attributes:
        boxes: prepares the image and its objects.
        max_proposals: the number of proposal rows.
    """

    boxes: BoxTransform
    max_proposals: int

    @property
    def made(self) -> Mapping[str, Any]:
        """Name what `canvas` depends on."""
        return self.boxes.made

    def __call__(self, example: Example) -> Example:
        return self.finish(self.canvas(example))

    def canvas(self, example: Example) -> Example:
        """Return the example with an image of the size that all have."""
        return self.boxes.canvas(dict(example))

    def finish(self, example: Example) -> Example:
        """Return the example with its rows."""
        proposals = example["proposals"][: self.max_proposals]
        height, width = map(float, example["size"])
        scale = np.array([self.boxes.image_size / width, self.boxes.image_size / height] * 2)
        rows = np.zeros((self.max_proposals, 4), np.float32)
        rows[: len(proposals)] = proposals * scale
        return {
            **self.boxes.finish(dict(example)),
            "proposals": rows,
            "proposal_valid": np.arange(self.max_proposals) < len(proposals),
        }
