"""Strict settings for every test: four virtual devices, no silent broadcasting, checked shapes."""

import os

# Read by XLA when the first backend starts, so it must be set before anything touches a device.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Every public function's shape and dtype annotations are checked at run time.
install_import_hook("cnn_jax", "beartype.beartype").__enter__()


@pytest.fixture(autouse=True, scope="module")
def _forget_what_was_compiled():
    """Each compiled function keeps memory maps, of which a process may have some 65,000."""
    yield
    jax.clear_caches()
