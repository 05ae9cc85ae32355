"""The vectors in which the nearest ones are searched, and the queries."""

import numpy as np
from jaxtyping import Float32

ROWS = 100_000
SIZE = 512
NEIGHBORS = 10


def vectors(count: int, seed: int) -> Float32[np.ndarray, "{count} 512"]:
    """The same random unit vectors for everyone who gives this seed."""
    drawn = np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
