"""What the runs of a test module trace and compile, made once for runs that are alike.

Runs in one process trace and compile their programs anew, though many of a module's are the same:
those that are resumed or evaluated again, and those that only read their examples otherwise. Most
of the time of such tests goes there.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from cnn_jax.models import summary
from cnn_jax.training import parallel
from experiments import states, trainer

# Functions of hashable arguments. An optimizer equals another only where it is the same object, so
# optimizers are shared too.
SHARED = (
    (trainer, "build_optimizer"),
    (trainer, "average"),
    (trainer, "state_shapes"),
    (states, "state_shapes"),
    (states, "compile_single_call"),
    (summary, "summarize"),
    (parallel, "compile_train_step"),
    (parallel, "compile_train_steps"),
    (parallel, "compile_evaluation_step"),
    (parallel, "compile_batch_statistics"),
    (parallel, "no_sums"),
)


_own = False  # whether a test makes its own


@contextlib.contextmanager
def own() -> Iterator[None]:
    """Make everything anew within the block."""
    global _own
    _own = True
    try:
        yield
    finally:
        _own = False


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Share within the block what equal arguments give."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in SHARED:
            patch.setattr(module, name, once(getattr(module, name)))
        yield


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called once for arguments that are equal; those without a hash are not kept."""
    results: dict[Any, Any] = {}

    @functools.wraps(function)
    def called(*args: Any, **keywords: Any) -> Any:
        if _own:
            return function(*args, **keywords)
        leaves, structure = jax.tree.flatten((args, keywords))
        key = (structure, tuple(map(_plain, leaves)), _settings())
        try:
            if key not in results:
                results[key] = function(*args, **keywords)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            return function(*args, **keywords)
        return results[key]

    return called


def _plain(leaf: Any) -> Any:
    """A partial function as its parts, and a number with its type: 1 == 1.0 == True."""
    if isinstance(leaf, functools.partial):
        return (leaf.func, *map(_plain, leaf.args), *map(_plain, sorted(leaf.keywords.items())))
    return type(leaf), leaf


def _settings() -> tuple[Any, ...]:
    """The settings of JAX that change what is traced or compiled."""
    compiled = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"], os.environ.get("XLA_FLAGS")
    return jax.config.jax_default_matmul_precision, compiled
