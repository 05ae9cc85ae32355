"""Recipes, most of them published, as defaults of the flags: `--preset NAME`.

Learning rates are for the stated batch size; scale both together (Goyal et al. 2017). Lengths are
the papers' in epochs, so that they fit any data set. Results that a recipe reached here, with
machine and seed, stand in BUILD_NOTES.md.
"""

from .annotation import ANNOTATION
from .classification import CLASSIFICATION
from .detection import DETECTION
from .segmentation import SEGMENTATION
from .translation import TRANSLATION

__all__ = ["ANNOTATION", "CLASSIFICATION", "DETECTION", "SEGMENTATION", "TRANSLATION"]
