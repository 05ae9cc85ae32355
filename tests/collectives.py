"""Bytes that a training step sends between devices, as its compiled program says.

JAX_NUM_CPU_DEVICES=8 python -m tests.collectives resnet20 resnet50
"""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import models
from cnn_jax.tasks.classification import Classification
from cnn_jax.training import parallel, prng
from cnn_jax.training.state import create

_COLLECTIVE = re.compile(
    r"= (?P<type>\(.*?\)|\S+) "
    r"(?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"([a-z]+\d+)\[([\d,]*)\]")


def collectives(program: str) -> list[tuple[str, int]]:
    """The name of each collective operation of a compiled program, and the bytes of its result."""
    return [
        (
            found["name"],
            sum(
                math.prod(map(int, filter(None, shape.split(",")))) * bytes_of(dtype)
                for dtype, shape in _ARRAY.findall(found["type"])
            ),
        )
        for found in _COLLECTIVE.finditer(program)
    ]


def bytes_of(dtype: str) -> int:
    """Bytes of a number of XLA's type, such as `f32` or `bf16`."""
    return int(re.findall(r"\d+", dtype)[0]) // 8


def compiled_step(name, transform="pmap", rows=2, **options):
    """The text of a classifier's compiled training step, and its state."""
    spec = models.input_spec(name)
    classes = 10 if spec.image_size < 100 else 1000
    task = Classification(
        models.create(name, classes, **options), classes, spec.image_size, spec.mean, spec.std
    )
    optimizer, key, count = optax.sgd(0.1, momentum=0.9), prng.root(0), rows * jax.device_count()
    state = jax.eval_shape(lambda: create(*task.init(prng.stream(key, "init")), optimizer))
    size = spec.image_size
    batch = {
        "image": np.zeros((count, size, size, 3), np.uint8),
        "label": np.zeros(count, np.int32),
        "valid": np.ones(count, bool),
        "ordinal": np.arange(count, dtype=np.int32),
        "size": np.full((count, 2), size, np.float32),
    }
    step = parallel.compile_train_step(task, optimizer, transform=transform)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, parallel.split(batch)))
    key = jax.eval_shape(lambda: key)
    return step.lower(state, batch, key).compile().as_text(), state


def size(tree) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main() -> None:
    """Print a row for each network."""
    print("| network | parameters | batch statistics | collectives | bytes a step |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:]:
        text, state = compiled_step(name)
        found = collectives(text)
        moved, parts = sum(count for _, count in found), (state.params, state.model_state)
        sizes = " | ".join(f"{size(part) / 1e6:.3f} MB" for part in parts)
        print(f"| {name} | {sizes} | {len(found)} | {moved / 1e6:.3f} MB |")


if __name__ == "__main__":
    main()
