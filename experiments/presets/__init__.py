"""Recipes, most of them published, as defaults of the flags: `--preset NAME`.

Learning rates are for the stated batch size; scale both together (Goyal et al. 2017). Lengths are
the papers' in epochs, so that they fit any data set. Results that a recipe reached here, with
machine and seed, stand in BUILD_NOTES.md.
"""

from experiments.presets.annotation import ANNOTATION
from experiments.presets.classification import CLASSIFICATION
from experiments.presets.detection import DETECTION
from experiments.presets.segmentation import SEGMENTATION
from experiments.presets.translation import TRANSLATION

__all__ = ["ANNOTATION", "CLASSIFICATION", "DETECTION", "SEGMENTATION", "TRANSLATION"]
