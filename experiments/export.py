"""Export a trained run as one program that needs nothing of this project.

python -m experiments.export runs/mine                        # runs/mine/exported
python -m experiments.export runs/mine --platforms cpu --out exported
python -m experiments.export runs/mine --format onnx          # for ONNX Runtime

The program holds the weights. It takes pixels of images at the network's size (or tokens), any
number at a time, and gives what `predict` computes: probabilities, masks, boxes after suppression,
translations. `model.json` beside it says what goes in and comes out.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax import export as jax_export

from cnn_jax import files
from cnn_jax.errors import UserError

from . import onnx_programs, states
from . import options as flags
from .predict import PREDICTORS, trained_by, verb_of

DESCRIPTION = "model.json"
FOLDER = "exported"
"""The folder below a run's where the program goes unless the user names one."""

Arrays = Mapping[str, Any]

_SAMPLES = 2  # examples that programs are compared with


@dataclass(frozen=True)
class Options:
    """Export a trained run as a program that only needs JAX, or ONNX Runtime."""

    verb: ClassVar[str] = "export"

    run: str = flags.flag("", positional=True, metavar="RUN")
    """Folder of the run."""
    out: str | None = flags.flag(None, aliases="output-dir", metavar="DIR")
    """Folder for model.stablehlo (or model.onnx) and model.json. Default: RUN/exported."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """StableHLO, which JAX runs; or ONNX, for ONNX Runtime (needs jax2onnx)."""
    platforms: tuple[Literal["cpu", "cuda", "tpu"], ...] = flags.flag(
        ("cpu", "cuda", "tpu"), only={"format": ("stablehlo",)}
    )
    """Platforms that the program can run on."""
    score_threshold: float | None = flags.least_score(only={"verb": ("detect",)})
    """Lowest score of a detection that counts, as `model.json` says it. Default: the run's own,
    which was chosen on its evaluation data."""
    state: Literal["best", "last"] | None = None
    """State that is exported. Default: the best where the run keeps one, else the last."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and export the run's best or newest state."""
    options = flags.parse_plain(Options, argv, trained_by)
    if not options.run:
        raise UserError("give a run's folder: export RUN")
    run = Path(options.run)
    content, description = exported(run, verb_of(run), options)
    out = Path(options.out) if options.out else run / FOLDER
    program = out / f"model.{options.format}"
    files.replace(program, content)
    files.replace(out / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False))
    print(f"{program}: {len(content):,} bytes for {', '.join(description['platforms'])}")
    for name in ("inputs", "outputs"):
        for key, one in description[name].items():
            print(f"  {name[:-1]} {key}: {one['dtype']} [{', '.join(map(str, one['shape']))}]")


def exported(run: Path, verb: str, options: Options) -> tuple[bytes, dict[str, Any]]:
    """The program of a run, and the description of its inputs and outputs.

    Raises:
        UserError: the run cannot be read, a library is missing, or ONNX lacks an operation.
    """
    predictor = PREDICTORS[verb](
        run,
        flags.PredictOptions(
            run=str(run), state=options.state, score_threshold=options.score_threshold
        ),
    )
    kept = states.kept(run, options.state)
    state, notices = states.restored(predictor.task, kept.directory)
    print(kept.told(state), file=sys.stderr)
    for notice in notices:
        flags.warn(notice)

    def program(batch: Arrays) -> dict[str, jax.Array]:
        predictions = predictor.task.predict(state.params, state.model_state, batch)
        return predictor.outputs(predictor.select(predictions))

    (batch,) = jax_export.symbolic_shape("batch")
    drawn = predictor.samples(np.random.default_rng(0), _SAMPLES)
    examples = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *value.shape[1:]), value.dtype)
        for name, value in examples.items()
    }
    inputs = {name: inputs[name] for name in _read(program, inputs)}
    if options.format == "onnx":
        content = onnx_programs.converted(
            program, inputs, {name: examples[name] for name in inputs}
        )
        facts = {"platforms": ["onnxruntime"]}
    else:
        content, facts = _stablehlo(program, inputs, options.platforms)
    return content, {
        "verb": verb,
        "step": int(state.step),
        "format": options.format,
        "jax": jax.__version__,
        **facts,
        "inputs": _shapes(inputs),
        "outputs": _shapes(jax.eval_shape(program, inputs)),
        **predictor.described(),
    }


def _stablehlo(
    program: Callable[[Arrays], dict[str, jax.Array]], inputs: Arrays, platforms: Sequence[str]
) -> tuple[bytes, dict[str, Any]]:
    """The program as StableHLO, and what its description says of that."""
    whole = jax_export.export(jax.jit(program), platforms=platforms)(inputs)
    try:
        content = bytes(whole.serialize())
    except ImportError:
        raise UserError("export needs flatbuffers: pip install 'cnn_jax[export]'") from None
    version = whole.calling_convention_version
    return content, {"platforms": list(platforms), "calling_convention_version": version}


def _shapes(arrays: Arrays) -> dict[str, Any]:
    return {
        name: {
            "dtype": str(np.dtype(x.dtype)),
            "shape": [size if isinstance(size, int) else str(size) for size in x.shape],
        }
        for name, x in arrays.items()
    }


def _read(program: Callable[[Arrays], Any], inputs: Arrays) -> list[str]:
    """The names of the inputs that a program reads."""
    jaxpr = jax.make_jaxpr(program)(inputs).jaxpr
    used = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    # JAX orders the items of a dictionary by their keys.
    return [
        name for name, place in zip(sorted(inputs), jaxpr.invars, strict=True) if id(place) in used
    ]


if __name__ == "__main__":
    flags.entry(main)
