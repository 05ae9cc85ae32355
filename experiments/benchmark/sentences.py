"""The translator whose training step is timed, and what both contenders feed it."""

import numpy as np
from jaxtyping import Int32

from cnn_jax.conventions import END, SPECIAL

# About Multi30k's: words seen twice, and the length that nine of ten pairs of captions keep within.
SOURCE_SIZE = 8000
TARGET_SIZE = 6000
LENGTH = 20

# Bahdanau et al. 2015 at half the size, as the preset `multi30k` has it.
EMBEDDING_SIZE = 256
HIDDEN_SIZE = 512
DROPOUT_RATE = 0.5
LABEL_SMOOTHING = 0.1
CLIP_NORM = 1.0
LEARNING_RATE = 1e-3


def inputs(sentences: int) -> tuple[Int32[np.ndarray, "n time"], Int32[np.ndarray, "n time"]]:
    """The same random sentences of `LENGTH` tokens, source and target, for everyone."""
    rng = np.random.default_rng(0)
    shape = (sentences, LENGTH)
    source = rng.integers(len(SPECIAL), SOURCE_SIZE, shape, dtype=np.int32)
    target = rng.integers(len(SPECIAL), TARGET_SIZE, shape, dtype=np.int32)
    source[:, -1] = target[:, -1] = END
    return source, target
