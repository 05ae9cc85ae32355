"""Inspect data before training: a page of what is in it, how it looks, and what looks wrong.

python -m experiments.inspect --data folder:DIR --out inspected
python -m experiments.inspect --data folder:mine --eval-data folder:theirs --out inspected
python -m experiments.inspect --data masks:DIR --task annotate --patch-size 128 --out inspected

Writes inspect.html and the same facts as inspect.json: classes and counts by split, sizes and
modes, samples with their labels, unreadable files, pictures that are there twice (leaks from
training into evaluation first), suspicious boxes and labels.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from cnn_jax import files
from cnn_jax.data import TASK_FORMATS, Task, open_source, task_of
from cnn_jax.data.source import Source, Split, names_digest
from cnn_jax.data.surveys.contents import survey
from cnn_jax.data.surveys.inspection import Inspection, repeated
from cnn_jax.errors import UserError
from cnn_jax.ranges import LARGEST_INT
from cnn_jax.reports.inspection import page

from . import options as flags
from .annotate import TagOptions

PAGE, FACTS = "inspect.html", "inspect.json"

_SPLITS: tuple[Split, ...] = ("train", "eval", "test")


def _only(*formats: str, **others: Sequence[str]) -> flags.Declared:
    """A flag that does something only with these formats, and where other flags have a value."""
    return flags.Declared(only={"data": formats, **others})


@dataclass(frozen=True)
class InspectOptions:
    """Examples that are looked at, and the folder of the page."""

    task: Task | None = None
    """The command that will read the data. Default: the first of classify, detect, segment and
    annotate that reads its format."""
    eval_data: str | None = flags.flag(None, aliases="val-data", metavar="SPEC")
    """Other data that is evaluated on, of the same classes. Then nothing is held out of --data."""
    out: str | None = flags.flag(None, aliases="output-dir output", metavar="DIR")
    """Folder for inspect.html and inspect.json."""
    most: int | None = flags.flag(None, minimum=1, maximum=LARGEST_INT, metavar="N")
    """Largest number of images of a split that are looked at, evenly spread. Default: all."""
    seed: int = flags.flag(0, range=flags.declared(flags.RunOptions)["seed"].range)
    """The number that built-in scenes derive from."""


@dataclass(frozen=True)
class LabelOptions(TagOptions):
    """Reading of labels, and the examples that are held out."""


_DATA = flags.group(
    {
        "data": flags.Declared(help="The data, in any format that a command reads."),
        "image_size": flags.Declared(
            help="Pixels on a side of built-in scenes. Default: 64.", only={"data": ("shapes",)}
        ),
        **dict.fromkeys(
            (
                "batch_size",
                "eval_batch_size",
                "train_examples",
                "skip_bad_images",
                "workers",
                "cache",
            ),
            flags.Declared(hidden=True),
        ),
    }
)
_LABELS = flags.group(
    {
        "test_every": _only("csv"),
        **dict.fromkeys(
            ("class_names", "label_values", "ignore_labels", "label_colors"), _only("masks", "tfds")
        ),
        **dict.fromkeys(("eval_folders", "test_folders"), _only("masks")),
        **dict.fromkeys(("patch_size", "min_area"), _only("masks", task=("annotate",))),
    }
)


@dataclass(frozen=True)
class Options:
    """Inspect data before training."""

    verb: ClassVar[str] = "inspect"

    run: InspectOptions = field(default_factory=InspectOptions)
    data: Annotated[flags.DataOptions, _DATA] = field(default_factory=flags.DataOptions)
    labels: Annotated[LabelOptions, _LABELS] = field(default_factory=LabelOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags; read the data, print what was found, and write the page."""
    options = flags.parse_plain(Options, argv)
    if options.run.out is None:
        raise UserError("--out: name the folder of the page")
    task = options.run.task or task_of(options.data.data)
    sources, notes = opened(options, task)
    splits = [survey(name, source, options.run.most) for name, source in sources.items()]
    inspection = Inspection(splits, repeated(splits), notes)
    about = {"data": options.data.data, "eval_data": options.run.eval_data, "task": task}
    facts = {**about, **inspection.facts()}
    out = Path(options.run.out)
    given = sys.argv[1:] if argv is None else argv
    command = f"python -m experiments.inspect {shlex.join(given)}"
    files.replace(out / FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    files.replace(out / PAGE, page(inspection, f"{options.data.data} for {task}", command))
    print(f"data: {inspection.summary()}")
    for line in (*inspection.notices(), *facts["findings"]):
        print(line)
    print(f"{out / PAGE}: the page; {FACTS} beside it has the same facts")


def opened(options: Options, task: Task) -> tuple[dict[str, Source], list[str]]:
    """The splits of the data by name, and lines about those that there are not.

    Raises:
        UserError: the training split cannot be opened, or the other data has other classes.
    """
    data, other = options.data.data, options.run.eval_data
    nothing = {} if other is None else {"holdout_fraction": 0.0}
    sources = {"train": _open(options, task, data, "train", **nothing)}
    notes: list[str] = []
    if other is not None:
        sources["eval"] = _evaluated(options, task, other)
    else:
        _add_held_out(options, task, sources, notes)
    names = sources["train"].class_names
    for name, source in sources.items():
        if tuple(source.class_names) != tuple(names):
            raise UserError(
                f"--data {data}: the classes of train and {name} differ: {', '.join(names[:8])}; "
                f"{', '.join(source.class_names[:8])}"
            )
    return sources, notes


def _add_held_out(
    options: Options, task: Task, sources: dict[str, Source], notes: list[str]
) -> None:
    """Add the other splits of the data; one with the examples of another is that one again."""
    digests: dict[str, str] = {}
    for split in _SPLITS[1:]:
        try:
            source = _open(options, task, options.data.data, split)
        except UserError as error:
            notes.append(f"{split}: there is no such split ({error})")
            continue
        digest = names_digest(source)
        if digest in digests:
            notes.append(f"{split}: has the examples of {digests[digest]}")
            continue
        digests[digest] = split
        sources[split] = source


def _evaluated(options: Options, task: Task, spec: str) -> Source:
    """The other data: its evaluation split, or all of it where it has no splits."""
    try:
        return _open(options, task, spec, "eval", holdout_fraction=0.0)
    except UserError:
        return _open(options, task, spec, "train", holdout_fraction=0.0)


def _open(options: Options, task: Task, spec: str, split: Split, **settings: Any) -> Source:
    data = options.data
    return open_source(
        spec,
        split,
        formats=TASK_FORMATS[task],
        seed=options.run.seed,
        image_size=data.image_size or 64,
        keep_bad_images=True,
        channels=data.channels,
        bits=data.bits,
        **{
            "holdout_fraction": data.holdout_fraction,
            "holdout_groups": data.holdout_groups,
            "data_dir": data.data_dir,
            **dataclasses.asdict(options.labels),
            **settings,
        },
    )


if __name__ == "__main__":
    flags.entry(main)
