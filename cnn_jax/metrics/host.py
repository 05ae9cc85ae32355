"""Array functions applied to a whole set after an evaluation: on the host, in double precision.

Figures of a set must not depend on the accelerator, and borderline cases fall as they do in NumPy.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def on_host(function: Callable[..., Any], *arguments: Any) -> Any:
    """Apply an array function on the host's CPU with 64-bit types enabled.

    Args:
        function: takes and returns pytrees of JAX arrays. For one that is compiled, the same
            function object should come every time.
        arguments: pytrees of arrays; each array keeps its dtype.

    Returns:
        The function's result as NumPy arrays.
    """
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        # Where JAX was told to know no CPU, its default device does it.
        with suppress(RuntimeError):
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        return jax.tree.map(np.asarray, function(*jax.tree.map(jnp.asarray, arguments)))


def in_chunks(function: Callable[[Any], Any], rows: Any, size: int) -> Iterator[Any]:
    """Apply a function to the examples of a set on the host, `size` examples at a time.

    Every call has the same shapes, whatever the size of the set: the last chunk is filled up with
    copies of the last example.

    Args:
        function: takes rows and gives one result an example along the leading axis.
        rows: a pytree of arrays with a leading example axis of equal length.
        size: examples of a chunk.

    Yields:
        The results of each chunk, without those of the copies, as NumPy arrays.
    """
    count = len(jax.tree.leaves(rows)[0])
    for first in range(0, count, size):
        index = np.minimum(np.arange(first, first + size), count - 1)
        results = on_host(function, jax.tree.map(lambda x, i=index: np.asarray(x)[i], rows))
        yield jax.tree.map(lambda x, n=count - first: x[:n], results)
