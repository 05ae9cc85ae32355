"""What the host does to an example with proposals so that a batch has one shape."""

from dataclasses import dataclass

import numpy as np

from cnn_jax.data.source import Example
from cnn_jax.data.transforms import BoxTransform


@dataclass(frozen=True)
class ProposalTransform:
    """`BoxTransform`, and as many rows for proposals in every example.

    `proposals` are in pixels of the resized image, best first; `proposal_valid` says which rows are
    filled.

    Attributes:
        boxes: prepares the image and its objects.
        max_proposals: rows for proposals.
    """

    boxes: BoxTransform
    max_proposals: int

    def __call__(self, example: Example) -> Example:
        found = example["proposals"][: self.max_proposals]
        height, width = example["image"].shape[:2]
        scale = np.array([self.boxes.image_size / width, self.boxes.image_size / height] * 2)
        rows = np.zeros((self.max_proposals, 4), np.float32)
        rows[: len(found)] = found * scale
        return {
            **self.boxes(dict(example)),
            "proposals": rows,
            "proposal_valid": np.arange(self.max_proposals) < len(found),
        }
