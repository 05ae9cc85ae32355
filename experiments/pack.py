"""Pack data for training: decoded canvases in files that are mapped into memory.

python -m experiments.pack --data folder:DIR --crop resized --image-size 224 --out packs/mine
python -m experiments.pack --task segment --data masks:DIR --image-shape 360 480 --out packs/masks
python -m experiments.pack --out packs/mine --verify
python -m experiments.classify --data packed:packs/mine --crop resized --image-size 224

The flags are those of the task that decide its canvases. Stopped, the same command goes on.
"""

import dataclasses
import importlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cnn_jax.data import TAG_FORMATS, Task, packed, packing
from cnn_jax.data.source import Source, Split
from cnn_jax.data.transforms import BoxTransform, EvaluationTransform, HostTransform, MaskTransform
from cnn_jax.errors import UserError

from . import detect, images, segment, trainer
from . import options as flags
from .annotate import TagOptions

_SPLITS: tuple[Split, ...] = ("train", "eval", "test")

# The groups of a task's options in which its canvases are decided, and the flags that do so; all
# those of tags do.
_GROUPS = ("data", "tags", "masks", "detector", "model", "augmentation")
_FLAGS = {
    *("data", "image_size", "holdout_fraction", "holdout_groups", "data_dir", "skip_bad_images"),
    *("channels", "bits"),
    *("resize", "canvas_size", "crop", "output_size", "model", "stem"),
    *("image_shape", "class_names", "label_values", "ignore_labels", "label_colors"),
    *("eval_folders", "test_folders"),
}


@dataclass(frozen=True)
class PackOptions:
    """The folder, and what is packed for it."""

    task: Task = "classify"
    """The command that will read the data."""
    preset: str | None = flags.flag(None, metavar="NAME")
    """A recipe of the task, whose sizes are the defaults."""
    out: str | None = flags.flag(None, aliases="output-dir output", metavar="DIR")
    """Folder for the packed data."""
    seed: int = flags.flag(0, range=flags.declared(flags.RunOptions)["seed"].range)
    """The number that built-in scenes derive from."""
    verify: bool = False
    """Read all that is packed in --out, compare it with its checksums, and pack nothing."""


def options_of(task: Task) -> type:
    """The options of the command where it packs for a task: the task's own that decide canvases."""
    own = _command(task).options
    hints = get_type_hints(own, include_extras=True)
    groups = [
        (
            each.name,
            _with_some_hidden(hints[each.name]),
            field(default_factory=each.default_factory),
        )
        for each in dataclasses.fields(own)
        if each.name in _GROUPS
    ]
    return dataclasses.make_dataclass(
        "Options",
        [("run", PackOptions, field(default_factory=PackOptions)), *groups],
        bases=(images.ImageOptions,) if issubclass(own, images.ImageOptions) else (),
        frozen=True,
        namespace={"__doc__": __doc__.partition("\n")[0], "__module__": __name__, "verb": "pack"},
    )


def _command(task: Task) -> trainer.Command:
    """The command that will read the data."""
    return importlib.import_module(f"{__package__}.{task}").COMMAND


def _with_some_hidden(hint: Any) -> Any:
    """A group of options of which the command has the flags that decide canvases."""
    owner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    mark = next((mark for mark in get_args(hint) if isinstance(mark, flags.Group)), flags.group())
    fields = {
        each.name: mark.fields.get(each.name, flags.Declared()).merged(
            flags.Declared(hidden=owner is not TagOptions and each.name not in _FLAGS)
        )
        for each in dataclasses.fields(owner)
    }
    return Annotated[owner, dataclasses.replace(mark, fields=fields)]


Options = options_of("classify")
"""The options where no `--task` is given."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags; pack, or verify what is packed."""
    given = list(sys.argv[1:] if argv is None else argv)
    task = _task(given)
    options = flags.parse_plain(options_of(task), given, presets=_command(task).presets)
    if options.run.out is None:
        raise UserError("--out: name the folder of the packed data")
    folder = Path(options.run.out)
    if options.run.verify:
        print("\n".join(packed.verify(folder)))
        return
    if packed.folder_of(options.data.data) is not None:
        raise UserError(f"--data {options.data.data}: is packed already")
    parts = {split: part(options, split) for split in _SPLITS}
    about = {"task": task, "data": options.data.data, "seed": options.run.seed}
    used = _without(given, ("--out", "--task"))
    if not packing.write(folder, parts, about, used, lambda line: print(line, flush=True)):
        print(f"{folder}: packed already")


def _task(argv: Sequence[str]) -> Task:
    """The task that is typed, which decides what else may be."""
    texts = [text.replace("_", "-") if text.startswith("--") else text for text in argv]
    typed = [text.partition("=")[2] for text in texts if text.startswith("--task=")]
    typed += [value for flag, value in itertools.pairwise(texts) if flag == "--task"]
    # Another text is refused by name when all flags are parsed.
    return typed[-1] if typed and typed[-1] in get_args(Task) else "classify"


def _without(argv: Sequence[str], left_out: Sequence[str]) -> list[str]:
    """The texts of a command line but for some flags with one value each."""
    kept, texts = [], iter(argv)
    for text in texts:
        if text in left_out:
            next(texts, None)
        elif text.partition("=")[0] not in left_out:
            kept.append(text)
    return kept


def part(options: Any, split: Split) -> packing.Part:
    """A split of the data, and the preparation whose canvases are packed."""
    source, transform = _OPEN[options.run.task](options, split)
    return packing.Part(source, transform)


def _whole(options: Any, split: Split, **settings: Any) -> tuple[Source, HostTransform]:
    """Whole images: canvases to augment, and crops to evaluate."""
    trained = split == "train"
    size = options.sizes.canvas if trained else options.sizes.resize
    source = trainer.open_source(options, split, image_size=size, **settings)
    transform: HostTransform = options.evaluation_transform
    if trained:
        transform = options.training_transform
    assert isinstance(transform, EvaluationTransform) != trained
    return source, transform


def _tagged(options: Any, split: Split) -> tuple[Source, HostTransform]:
    settings = dataclasses.asdict(options.tags)
    return _whole(options, split, formats=TAG_FORMATS, **settings)


def _boxed(options: Any, split: Split) -> tuple[Source, HostTransform]:
    if options.detector.system != "yolo":
        raise UserError(
            f"--preset {options.run.preset}: is of {options.detector.system}, and packed data has "
            "no proposals for it; only yolo reads packed data"
        )
    system = detect.SYSTEMS[options.detector.system](options)
    return system.open(split), BoxTransform(system.image_size, options.detector.max_objects)


def _masked(options: Any, split: Split) -> tuple[Source, HostTransform]:
    source = segment.open_split(options, split)
    size = segment.evaluated_size(options, source)
    resized = segment.resized_to(options) is not None
    return source, MaskTransform(size, resized=resized)


_OPEN: Mapping[str, Callable[[Any, Split], tuple[Source, HostTransform]]] = {
    "classify": partial(_whole),
    "annotate": _tagged,
    "detect": _boxed,
    "segment": _masked,
}


if __name__ == "__main__":
    flags.entry(main)
