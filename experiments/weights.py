"""Weights of other libraries by name, as runs, and runs as weights for torch.

python -m experiments.weights list resnet50                           # what is known, its top-1
python -m experiments.weights to-run torchvision:resnet50 runs/r50    # a run that predict takes
python -m experiments.weights to-torch runs/mine mine.safetensors     # what torchvision loads
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
import optax
from safetensors.numpy import save as as_safetensors

from cnn_jax import files, models
from cnn_jax.errors import UserError
from cnn_jax.models import published, weights
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.runs.log import RunLog
from cnn_jax.tasks.classification import PROXY_LOSSES
from cnn_jax.training import checkpoints
from cnn_jax.training.state import create

from . import annotate, classify, states
from . import options as flags
from .predict.predictor import class_names

_CLASSIFIERS = {"annotate": annotate, "classify": classify}
"""The verbs whose networks torchvision has too."""

_OF_STRUCTURE = ("stem", "width", "shortcut", "compression")
"""The options of classifiers that torchvision's networks have not."""


@dataclass(frozen=True)
class Options:
    """List published weights, make a run of them, or write a run's weights for torch."""

    verb: ClassVar[str] = "weights"

    action: Literal["list", "to-run", "to-torch"] = flags.flag(
        "list", positional=True, metavar="ACTION"
    )
    """`list [WORD ...]`, `to-run NAME|FILE RUN`, or `to-torch RUN FILE`."""
    arguments: tuple[str, ...] = flags.flag((), positional=True, metavar="ARGUMENT")
    """The arguments of the action."""
    weights_dir: str | None = flags.flag(None, only={"action": ("to-run",)}, metavar="DIR")
    """Folder in which weights with a name are looked for before they are downloaded."""
    model: str | None = flags.flag(None, only={"action": ("to-run",)}, metavar="NAME")
    """Architecture of a file, or of weights of the Hub that are not in the list."""
    state: Literal["best", "last"] | None = flags.flag(None, only={"action": ("to-torch",)})
    """State that is written. Default: the best where the run keeps one, else the last."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and do what they ask for."""
    options = flags.parse_plain(Options, argv)
    _ACTIONS[options.action](options)


def list_known(options: Options) -> None:
    """Print the known weights whose names have all the words, with what is published of them."""
    rows = [row for row in published.table() if all(word in row.name for word in options.arguments)]
    if not rows:
        raise UserError(f"{' '.join(options.arguments)}: no known weights have this in their names")
    width = max(len(row.name) for row in rows)
    print(f"{'name':<{width}}  top-1  pixels  licence")
    for row in rows:
        print(f"{row.name:<{width}}  {row.top1:5.2f}  {row.size:6}  {row.licence}")


def to_run(options: Options) -> None:
    """Make a run of weights of ImageNet's classes, for `predict` and all that takes a run."""
    text, out = _two(options, "to-run NAME|FILE RUN")
    row = published.known(text) if published.is_name(text) else None
    model = options.model or (row.model if row else None)
    if model is None:
        raise UserError(f"{text}: say which architecture they are of with --model")
    if checkpoints.steps(out / states.CHECKPOINTS):
        raise UserError(f"{out}: is a run already; name another folder")
    values: dict[str, Any] = {
        "model": model,
        "data": "folder:imagenet",  # what they were trained on, wherever that is
        "out": str(out),
        "init_from": text,
        "weights_dir": options.weights_dir,
    }
    if row is not None:
        values |= {"image_size": row.size, "resize": row.resize}
    if "auxiliary" in models.options(model):
        values["auxiliary"] = False  # only training has them, and not all files
    trained, names = flags.replace(classify.Options(), values), published.imagenet_classes()
    task = classify.build_task(trained, names)
    # Every value is replaced, so shapes are enough.
    state = states.state_shapes(task, optax.identity())
    params, model_state = states.initialized(task, task.model, state, trained.model, print)
    with RunLog(out, total_steps=0) as log:
        log.write_config(flags.described(trained, {"class_names": names}))
        log.write_environment()
    checkpoints.save(
        out / states.CHECKPOINTS, 0, create(params, model_state, optax.identity()), keep=1
    )
    print(f"{out}: a run of {model} with ImageNet's {len(names)} classes")


def to_torch(options: Options) -> None:
    """Write the weights of a run with torchvision's names, and say how torch loads them."""
    source, path = _two(options, "to-torch RUN FILE")
    write = _WRITERS.get(path.suffix)
    if write is None:
        raise UserError(f"{path}: must end in {' or '.join(_WRITERS)}")
    run = Path(source)
    verb = read_object(run / CONFIG_FILE).get("verb")
    if verb not in _CLASSIFIERS:
        raise UserError(f"{run}: is of {verb}; only networks that classify or annotate are alike")
    module = _CLASSIFIERS[verb]
    trained, names = flags.stored(module.Options, run), class_names(run)
    task = module.build_task(trained, names)
    kept = states.kept(run, options.state)
    state, notices = states.restored(task, kept.directory)
    for notice in notices:
        flags.warn(notice)
    if task.loss_name in PROXY_LOSSES:
        flags.warn(f"{run}: its logits are cosines, which the last layer in torch does not compute")
    variables = jax.device_get(state.variables)
    tensors = weights.to_tensors(task.model, variables)
    files.replace(path, write(tensors))
    print(f"{path}: {len(tensors)} tensors of {run}; {kept.told(state)}")
    print("\n".join(_in_torch(trained, len(names), path)))


def _in_torch(trained: Any, classes: int, path: Path) -> list[str]:
    """The lines of Python that load the file, and what its images are."""
    name, own = trained.model.model, flags.network_options(trained.model)
    defaults = models.options(name)
    changed = [o for o in _OF_STRUCTURE if o in own and own[o] != defaults[o]]
    spec, size = models.input_spec(name), trained.sizes.evaluation
    images = f"images of {size} pixels in 0..1, less {spec.mean}, over {spec.std}"
    if changed or name not in {row.model for row in published.table()}:
        form = ", ".join([name, *(f"{option} {own[option]}" for option in changed)])
        return [f"torchvision has no such network ({form}); it takes {images}"]
    settings = f"num_classes={classes}"
    if "auxiliary" in defaults:
        auxiliary = own.get("auxiliary", defaults["auxiliary"])
        settings += f", aux_logits={auxiliary}, transform_input=False, init_weights=False"
    load = "torch.load" if path.suffix == ".pth" else "safetensors.torch.load_file"
    return [
        f"model = torchvision.models.{name}({settings})",
        f"model.load_state_dict({load}({str(path)!r}))  # {images}",
    ]


def _as_torch_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    try:
        import torch
    except ImportError:
        raise UserError("writing a .pth file needs torch: pip install 'cnn_jax[torch]'") from None
    content = io.BytesIO()
    torch.save({name: torch.from_numpy(x) for name, x in tensors.items()}, content)
    return content.getvalue()


def _two(options: Options, usage: str) -> tuple[str, Path]:
    """The two arguments of an action."""
    if len(options.arguments) != 2:
        raise UserError(f"give two arguments: weights {usage}")
    return options.arguments[0], Path(options.arguments[1])


_ACTIONS: Mapping[str, Callable[[Options], None]] = {
    "list": list_known,
    "to-run": to_run,
    "to-torch": to_torch,
}

_WRITERS: Mapping[str, Callable[[Mapping[str, np.ndarray]], bytes]] = {
    ".safetensors": as_safetensors,
    ".pth": _as_torch_file,
}


if __name__ == "__main__":
    flags.entry(main)
