"""Region proposals: boxes that may contain an object, from methods that know no classes.

A method is a pure function of an image. `ProposalSource` adds its boxes to the examples of a
source and caches them on disk.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from jaxtyping import Float32

from cnn_jax.data.decode import Pixels, as_rgb
from cnn_jax.data.proposals.dense_grid import dense_grid
from cnn_jax.data.proposals.edge_boxes import edge_boxes
from cnn_jax.data.proposals.selective_search import selective_search
from cnn_jax.data.resize import resize
from cnn_jax.errors import check
from cnn_jax.ranges import LARGEST_SIDE, Range, check_ranges

Name = Literal["selective_search", "selective_search_quality", "edge_boxes", "grid"]

LONGER_SIDE = 500
"""The longer side in pixels to which larger images are reduced for the search (Girshick et al. 2014
search all images at this width)."""

# Part of every cache key: increase it when a method's boxes change.
_VERSION = 1


@dataclass(frozen=True)
class Proposals:
    """The method of region proposals and its parameters."""

    proposals: Name = "selective_search"
    """The method of region proposals: selective_search (its fast form), selective_search_quality,
    edge_boxes (on colour gradients instead of a trained edge detector), or grid (regular boxes, a
    baseline)."""
    proposal_size: Annotated[int, Range(16, LARGEST_SIDE)] | None = None
    """The longer side in pixels of the searched images; default: their own, at most 500."""
    max_proposals: Annotated[int, Range(1, 100_000)] = 2000
    """The largest number of proposals used in an image, the best first."""
    grid_scales: Annotated[tuple[float, ...], Range(0.01, 1)] = (0.8, 0.4, 0.2, 0.1)
    """The sizes of the grid's boxes, as fractions of the image's shorter side."""
    grid_ratios: Annotated[tuple[float, ...], Range(0.01, 100)] = (0.5, 1.0, 2.0)
    """The heights over widths of the grid's boxes."""
    grid_step: Annotated[float, Range(0.1, 10)] = 0.33
    """The distance between the grid's boxes, as a fraction of their own side."""

    def __post_init__(self) -> None:
        names = get_args(Name)
        check(self.proposals in names, "proposals", self.proposals, f"one of {', '.join(names)}")
        check_ranges(self)
        for name in ("grid_scales", "grid_ratios"):
            check(len(getattr(self, name)) > 0, name, "", "one number or more")

    @property
    def cached(self) -> bool:
        """True if the search is slow enough for a cache on disk."""
        return self.proposals != "grid"

    @property
    def key(self) -> str:
        """The cache key: equal settings give equal boxes."""
        settings = (_VERSION, self.proposals, self.proposal_size or f"at most {LONGER_SIDE}")
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=6).hexdigest()
        return f"{self.proposals}-{digest}"

    def find(self, image: Pixels) -> Float32[np.ndarray, "boxes 4"]:
        """Find all boxes of an image in its own pixels, the most promising first."""
        height, width = image.shape[:2]
        if self.proposals == "grid":
            return dense_grid(height, width, self.grid_scales, self.grid_ratios, self.grid_step)
        longer = self.proposal_size or min(LONGER_SIDE, max(height, width))
        size = tuple(max(1, round(side * longer / max(height, width))) for side in (height, width))
        searched = resize(as_rgb(image), size)
        if self.proposals == "edge_boxes":
            boxes = edge_boxes(searched)
        else:
            boxes = selective_search(searched, quality=self.proposals.endswith("quality"))
        scale = np.array([width / size[1], height / size[0]] * 2, np.float32)
        boxes = np.clip(boxes * scale, 0, np.array([width, height] * 2, np.float32))
        return boxes[np.all(boxes[:, 2:] > boxes[:, :2], axis=1)]
