"""Export a trained run as one program that needs nothing of this project.

python -m experiments.export runs/mine                        # runs/mine/exported
python -m experiments.export runs/mine --platforms cpu --out exported

The program holds the weights. It takes bytes of images at the network's size, any number at a
time, and gives what `predict` computes: probabilities, masks, boxes after suppression. `model.json`
beside it says what goes in and comes out. R-CNN, Fast R-CNN and translations are not exported.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from . import annotate, classify, detect, states
from . import options as flags
from .predict import PREDICTORS
from .predict.predictor import Predictor

PROGRAM, DESCRIPTION = "model.stablehlo", "model.json"
FOLDER = "exported"
"""The folder below a run's where the program goes unless the user names one."""

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Export a trained run as a program that only needs JAX."""

    verb: ClassVar[str] = "export"

    run: str = flags.flag("", positional=True, metavar="RUN")
    """Folder of the run."""
    out: str | None = flags.flag(None, aliases="output-dir", metavar="DIR")
    """Folder for model.stablehlo and model.json. Default: RUN/exported."""
    platforms: tuple[Literal["cpu", "cuda", "tpu"], ...] = ("cpu", "cuda", "tpu")
    """Platforms that the program can run on."""
    state: Literal["best", "last"] | None = None
    """State that is exported. Default: the best where the run keeps one, else the last."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and export the run's best or newest state."""
    options = flags.parse_plain(Options, argv)
    if not options.run:
        raise UserError("give a run's folder: export RUN")
    run = Path(options.run)
    verb = read_object(run / CONFIG_FILE).get("verb")
    if verb not in _ANSWERS:
        raise UserError(f"{run / CONFIG_FILE}: verb {verb!r} is none of {', '.join(_ANSWERS)}")
    program, description = exported(run, verb, options.platforms, options.state)
    out = Path(options.out) if options.out else run / FOLDER
    files.replace(out / PROGRAM, program)
    files.replace(out / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False))
    print(f"{out / PROGRAM}: {len(program):,} bytes for {', '.join(options.platforms)}")
    for name in ("inputs", "outputs"):
        for key, one in description[name].items():
            print(f"  {name[:-1]} {key}: {one['dtype']} [{', '.join(map(str, one['shape']))}]")


def exported(
    run: Path, verb: str, platforms: Sequence[str], asked: Literal["best", "last"] | None
) -> tuple[bytes, dict[str, Any]]:
    """The program of a run, and the description of its inputs and outputs.

    Raises:
        UserError: the run cannot be read, its network is not exported, or a library is missing.
    """
    if verb == "detect" and (system := flags.stored(detect.Options, run).detector.system) != "yolo":
        raise UserError(f"{run}: a run of {system}, which is not exported; yolo is")
    predictor = PREDICTORS[verb](run, flags.PredictOptions(run=str(run)))
    kept = states.kept(run, asked)
    state, notices = states.restored(predictor.task, kept.directory)
    print(kept.told(state), file=sys.stderr)
    for notice in notices:
        flags.warn(notice)

    def program(batch: Arrays) -> dict[str, jax.Array]:
        predictions = predictor.task.predict(state.params, state.model_state, batch)
        return _ANSWERS[verb](predictor, predictor.select(predictions))

    (batch,) = jax_export.symbolic_shape("batch")
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *np.shape(value)), np.asarray(value).dtype)
        for name, value in _sample(predictor).items()
    }
    inputs = {name: inputs[name] for name in _read(program, inputs)}
    whole = jax_export.export(jax.jit(program), platforms=platforms)(inputs)
    try:
        content = bytes(whole.serialize())
    except ImportError:
        raise UserError("export needs flatbuffers: pip install 'cnn_jax[export]'") from None
    outputs = jax.tree.unflatten(whole.out_tree, whole.out_avals)
    return content, {
        "verb": verb,
        "step": int(state.step),
        "platforms": list(platforms),
        "jax": jax.__version__,
        "calling_convention_version": whole.calling_convention_version,
        "inputs": _shapes(inputs),
        "outputs": _shapes(outputs),
        "preparation": _preparation(verb, run),
        "class_names": read_object(run / CONFIG_FILE).get("class_names"),
    }


def _shapes(arrays: Arrays) -> dict[str, Any]:
    return {
        name: {
            "dtype": str(np.dtype(x.dtype)),
            "shape": [size if isinstance(size, int) else str(size) for size in x.shape],
        }
        for name, x in arrays.items()
    }


def _sample(predictor: Predictor) -> Arrays:
    """One example as the predictor makes it, for its shapes."""
    size = getattr(predictor.task, "size", (64, 64))
    return predictor.examples(np.zeros((*size, predictor.channels), np.uint8))[0]


def _read(program: Callable[[Arrays], Any], inputs: Arrays) -> list[str]:
    """The names of the inputs that a program reads."""
    jaxpr = jax.make_jaxpr(program)(inputs).jaxpr
    used = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    # JAX orders the items of a dictionary by their keys.
    return [
        name for name, place in zip(sorted(inputs), jaxpr.invars, strict=True) if id(place) in used
    ]


def _of_classes(predictor: Predictor, predictions: jax.Array) -> dict[str, jax.Array]:
    return {
        "label": jnp.argmax(predictions, axis=-1).astype(jnp.int32),
        "probabilities": jnp.exp(predictions),
    }


def _of_tags(predictor: Any, predictions: jax.Array) -> dict[str, jax.Array]:
    task = predictor.task
    softmax = task.loss_name == "softmax"
    probability = jnp.exp(predictions) if softmax else jax.nn.sigmoid(predictions)
    return {"scores": predictions, "probabilities": probability}


def _of_pixels(predictor: Predictor, predictions: jax.Array) -> dict[str, jax.Array]:
    return {
        "mask": jnp.argmax(predictions, axis=-1).astype(jnp.uint8),
        "probabilities": jnp.exp(predictions),
    }


def _of_boxes(predictor: Predictor, predictions: Any) -> dict[str, jax.Array]:
    return predictions._asdict()


_ANSWERS: Mapping[str, Callable[[Any, Any], dict[str, jax.Array]]] = {
    "annotate": _of_tags,
    "classify": _of_classes,
    "detect": _of_boxes,
    "segment": _of_pixels,
}
"""The outputs of each verb, from what its predictor selects."""


def _preparation(verb: str, run: Path) -> str:
    """The host's part: how an image becomes an input, in words."""
    channels = read_object(run / CONFIG_FILE).get("channels", 3)
    kind = "RGB" if channels == 3 else "grey" if channels == 1 else f"{channels} bands of"
    if verb in _WHOLE:
        sizes = flags.stored(_WHOLE[verb].Options, run).sizes
        return (
            f"{kind} bytes; the shorter side resized to {sizes.resize} pixels, "
            f"{sizes.evaluation} x {sizes.evaluation} cut from the middle"
        )
    return f"{kind} bytes of the input's shape"


_WHOLE = {"annotate": annotate, "classify": classify}
"""The verbs of whole images."""


if __name__ == "__main__":
    flags.entry(main)
