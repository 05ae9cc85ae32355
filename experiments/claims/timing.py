"""The time that a trained run takes for an image, in a process of its own.

python -m experiments.claims.timing VERB RUN [--FLAG VALUE ...]

Proposals are found before, and not timed, as in Girshick 2015, table 4. The flags take the place of
the run's own: a detector can be timed with fewer proposals than it was trained with.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from cnn_jax.training import parallel

from .. import options as flags
from ..states import evaluated_state
from ..sweep.plan import command

ROUNDS = 5
"""The passes over the timed batches, of which the median counts."""
IMAGES = 64
"""The images of a pass, about."""


def main(argv: Sequence[str] | None = None) -> None:
    """Time a run, and print its seconds an image as JSON."""
    verb, folder, *typed = list(sys.argv[1:] if argv is None else argv)
    print(json.dumps({"seconds_per_image": seconds_per_image(verb, Path(folder), typed)}))


def seconds_per_image(verb: str, folder: Path, typed: Sequence[str]) -> float:
    """The median time of an image over some passes, with the images in memory."""
    chosen = command(verb)
    options = flags.stored(chosen.options, folder)
    given = flags.typed(chosen.options, typed)
    run = chosen.build(flags.replace(options, {**given, "out": str(folder), "eval_only": True}))
    state, _ = evaluated_state(run)
    step = parallel.compile_evaluation_step(run.task)
    state, batches, images = parallel.replicate(state), [], 0
    for _, batch in parallel.prefetch(run.evaluation_set.iterate()):
        batches.append(batch)
        images += options.data.eval_batch_size or options.data.batch_size
        if images >= IMAGES:
            break
    taken = []
    for _ in range(ROUNDS + 1):  # the first one compiles
        began = time.perf_counter()
        for batch in batches:
            jax.block_until_ready(step(state, batch))
        taken.append((time.perf_counter() - began) / images)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    flags.entry(main)
