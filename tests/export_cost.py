"""Size and latency of exported programs beside what `predict` compiles.

python -m tests.export_cost                      # a table of a small run of each verb and detector

The runs are those of `tests/experiments/test_export.py`, with random weights. A time is the median
of 50 calls after the first, of both programs in turn.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax

from cnn_jax.training.backend import compile_inference
from experiments import export, states
from tests.experiments import test_export as small

CALLS = 50


def milliseconds(functions: list[Callable[[], Any]]) -> list[float]:
    """The median time of each function, called in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for call in range(CALLS + 1):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            if call:
                own.append(time.perf_counter() - start)
    return [1000 * median(own) for own in times]


def row(case: str, folder: Path) -> str:
    """A line of the table."""
    run = small.written(case, folder)
    export.main([str(run), "--platforms", "cpu"])
    called, description = small.read(run)
    predictor = small.predictor_of(run)
    state, _ = states.restored(predictor.task, run / states.CHECKPOINTS)
    predicted = compile_inference(
        lambda batch: predictor.select(
            predictor.task.predict(state.params, state.model_state, batch)
        )
    )
    exported = jax.jit(called.call)
    cells = [case, f"{(run / 'exported' / 'model.stablehlo').stat().st_size:,}"]
    for count in (1, 7):
        batch = jax.device_put(small.examples(description, count))
        functions = [lambda f=f, b=batch: f(b) for f in (predicted, exported)]
        cells += [f"{ms:.2f}" for ms in milliseconds(functions)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    head = ["run", "bytes", "predict, 1 (ms)", "exported, 1", "predict, 7", "exported, 7"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    with tempfile.TemporaryDirectory() as folder:
        for case in sys.argv[1:] or small.CASES:
            print(row(case, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
