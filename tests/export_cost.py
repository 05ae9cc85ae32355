"""Exported programs beside `predict`: their outputs on 100 inputs, their size and their latency.

python -m tests.export_cost                          # a table of a run of each verb and detector
python -m tests.export_cost yolo --python OTHER      # runs the programs in another environment too

The runs are those of `tests/experiments/test_export.py`, with random weights. A difference is the
largest of all outputs, relative to the largest value of its output, at batch 1 and 7. A time is the
median of 50 calls after the first, of both programs in turn. `--python` names an interpreter whose
environment has jax and flatbuffers and nothing of this project.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from cnn_jax.training.backend import compile_inference
from experiments import export, states
from tests.experiments import test_export as small

CALLS, INPUTS, BATCHES = 50, 100, (1, 7)
HEAD = ("run", "bytes", "difference", "elsewhere", "predict, 1 (ms)", "exported, 1")
HEAD = (*HEAD, "predict, 7 (ms)", "exported, 7")
Program = Callable[[Any], Any]

# What runs in the other environment: the README's loader.
LOADER = """
import sys
import jax
import numpy as np

program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
inputs = dict(np.load(sys.argv[2]))
parts = [{k: v[i : i + 7] for k, v in inputs.items()} for i in range(0, 100, 7)]
outputs = [jax.jit(program.call)(part) for part in parts]
np.savez(sys.argv[3], **{k: np.concatenate([o[k] for o in outputs]) for k in outputs[0]})
"""


def main(argv: list[str] | None = None) -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.export_cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("cases", nargs="*", choices=[*small.CASES, []], metavar="RUN")
    parser.add_argument("--python", help="the interpreter of another environment")
    given = parser.parse_args(argv)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as folder:
        for case in given.cases or small.CASES:
            print(f"| {' | '.join(row(case, Path(folder), given.python))} |", flush=True)


def row(case: str, folder: Path, python: str | None) -> Iterator[str]:
    """The cells of a run's line."""
    run = small.written(case, folder)
    export.main([str(run), "--platforms", "cpu"])
    called, description = small.read(run)
    predictor = small.predictor_of(run)
    state, _ = states.restored(predictor.task, run / states.CHECKPOINTS)

    def outputs(batch: Mapping[str, Any]) -> Any:
        predictions = predictor.task.predict(state.params, state.model_state, batch)
        return predictor.outputs(predictor.select(predictions))

    predicted, exported = compile_inference(outputs), jax.jit(called.call)
    yield case
    yield f"{(run / 'exported' / 'model.stablehlo').stat().st_size:,}"
    inputs = small.examples(description, INPUTS)
    expected = in_batches(predicted, inputs, 1)
    yield f"{max(difference(in_batches(exported, inputs, n), expected) for n in BATCHES):.1e}"
    yield f"{difference(elsewhere(python, run, inputs), expected):.1e}" if python else ""
    for count in BATCHES:
        batch = jax.device_put(small.examples(description, count))
        for ms in milliseconds([lambda f=f, b=batch: f(b) for f in (predicted, exported)]):
            yield f"{ms:.2f}"


def in_batches(
    program: Program, inputs: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
    """The outputs of all inputs, so many at a time."""
    parts = [
        jax.device_get(program({name: x[i : i + count] for name, x in inputs.items()}))
        for i in range(0, INPUTS, count)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def elsewhere(python: str, run: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The outputs of the same program, run by another interpreter."""
    np.savez(run / "inputs.npz", **inputs)
    paths = [run / "exported" / "model.stablehlo", run / "inputs.npz", run / "outputs.npz"]
    subprocess.run([python, "-I", "-c", LOADER, *map(str, paths)], check=True, cwd=run)
    return np.load(run / "outputs.npz")


def difference(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference of an output, relative to its largest value."""

    def relative(name: str) -> float:
        x, y = (np.asarray(each[name], np.float64) for each in (outputs, expected))
        return float(np.abs(x - y).max() / max(1.0, np.abs(y).max()))

    return max(map(relative, expected))


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


if __name__ == "__main__":
    main()
