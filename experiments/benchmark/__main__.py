"""Measure speed: this project's, and with `--against` that of others who do the same.

python -m experiments.benchmark --models resnet18 vgg16 --against torch
python -m experiments.benchmark --models segnet yolo --work train --batch-size 2 --against torch
python -m experiments.benchmark --work data --data folder:DIR --against torch
python -m experiments.benchmark --work readers --data folder:DIR --workers 2 --against torch
python -m experiments.benchmark --work readers --data packed:DIR
python -m experiments.benchmark --work ops --batch-size 1000 --against torch
python -m experiments.benchmark --work translate --batch-size 128 --against torch
python -m experiments.benchmark --work coco --batch-size 5000 --against pycocotools
python -m experiments.benchmark --work search --batch-size 1
JAX_NUM_CPU_DEVICES=4 python -m experiments.benchmark --against shard   # the cost of --parallel
python -m experiments.benchmark --suite accelerator --minutes 9 --out DIR

Both work in turn on the same machine, in processes of their own; a ratio above 1 means that this
project is faster. `DIR/result.json` has every round, `DIR/table.md` the printed table.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from cnn_jax import files, models
from cnn_jax.errors import UserError
from cnn_jax.progress import PipeConsole
from cnn_jax.ranges import LARGEST_SIDE

from .. import options as flags
from . import detected, operations, scenes, searched, sentences, suite
from .contest import Job, Measurement, Work, contest, ratios

OURS = f"{__package__}.ours"

OTHERS = {
    "none": None,
    "torch": f"{__package__}.in_torch",
    "torch-compile": f"{__package__}.in_torch",
    "pycocotools": f"{__package__}.in_pycocotools",
    "shard": f"{__package__}.in_shard",
}
"""The module of each that `--against` names."""

# What is measured alone.
_ALONE: tuple[Work, ...] = ("readers", "ops", "translate", "coco", "search")


# What runs on all devices.
_PARALLEL: tuple[Work, ...] = ("train", "inference", "translate")

_NETWORKS = {"work": ("train", "inference", "data", "readers")}
_READS = {"work": ("data", "readers")}


@dataclass(frozen=True)
class Options:
    """Measure speed."""

    verb: ClassVar[str] = "benchmark"

    models: tuple[str, ...] = flags.flag(
        ("resnet18",), unless={"work": ("translate", "coco", "readers", "search")}, metavar="NAME"
    )
    """Architectures; `all` for every classifier. With --work train also segnet, unet, yolo and
    fast_rcnn (on VGG-16). With --work ops: operations, by default all."""
    work: tuple[Work, ...] = ("train", "inference")
    """Training steps, inference, or reading and augmenting the images of --data; or, measured
    alone, reading the images of --data onto training canvases, the array operations of detection,
    training steps of the translator, COCO's evaluation, or the search of the nearest of 100,000
    vectors."""
    against: Literal["none", "torch", "torch-compile", "pycocotools", "shard"] = "none"
    """The other side: torch as it is, torch with the network compiled, with --work coco
    pycocotools, or this project with --parallel shard."""
    batch_size: int = flags.flag(16, minimum=1, maximum=flags.LARGEST_BATCH, aliases="bs")
    """Images in a step; boxes of an image with --work ops, sentence pairs with --work translate,
    images of the set with --work coco, queries with --work search."""
    image_size: int | None = flags.flag(
        None, minimum=1, maximum=LARGEST_SIDE, only=_NETWORKS, aliases="img-size"
    )
    """Pixels on a side. Default: the model's own."""
    dtype: Literal["float32", "bfloat16"] = flags.flag(
        "float32", only={"work": ("train", "inference", "data", "translate")}
    )
    """Type that the networks compute in."""
    suite: Literal["accelerator"] | None = None
    """Make all measurements of an accelerator, the most important first, and write them to --out. A
    second call makes those that the first had no time for."""
    minutes: float = flags.flag(9.0, above=0, maximum=10_000, only={"suite": flags.GIVEN})
    """Time of a call."""
    cifar10: str | None = flags.flag(None, only={"suite": flags.GIVEN}, metavar="folder:DIR")
    """Class folders of CIFAR-10. Default: generated images of that size, for the time alone."""
    photos: str | None = flags.flag(None, only={"suite": flags.GIVEN}, metavar="folder:DIR")
    """Photos in JPEG files. Default: noise and waves that take as long to decode."""
    data: str | None = flags.flag(None, only=_READS, metavar="SPEC")
    """Images to read: folder:DIR, or with --work readers packed:DIR."""
    workers: int = flags.flag(
        0, minimum=0, maximum=flags.MOST_WORKERS, only=_READS, aliases="num-workers"
    )
    """Processes that read; 0 stands for threads here, and for one process a core in torch."""
    rounds: int = flags.flag(5, minimum=1, maximum=100_000)
    """Number of turns of each side."""
    seconds: float = flags.flag(5.0, above=0, maximum=100_000)
    """Length of a turn."""
    out: str = flags.flag("runs/benchmark", aliases="output-dir", metavar="DIR")
    """Folder for result.json and table.md."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure, print the table."""
    options = flags.parse_plain(Options, argv)
    if options.suite is not None:
        suite.run(options.minutes, Path(options.out), options.photos, options.cifar10)
        return
    modules = [module for module in (OURS, OTHERS[options.against]) if module]
    console, rows = PipeConsole(stderr=True), []
    for job in jobs(options):
        console.print(f"{job.model}: {job.work} …", highlight=False)
        sides = contest(modules, job, options.rounds, options.seconds)
        rows.append(row(job, *sides))
        # Written after each: an interrupted benchmark keeps what it has.
        text = table([r["cells"] for r in rows], options.against)
        files.replace(Path(options.out) / "table.md", text)
        content = json.dumps(result(rows), indent=2) + "\n"
        files.replace(Path(options.out) / "result.json", content)
    print(text, end="")


def jobs(options: Options) -> list[Job]:
    """List the measurements in their order.

    Raises:
        UserError: an unknown architecture, no folder to read images from, work together that is
            measured alone, or another that does not do it.
    """
    found = []
    for alone in _ALONE:
        if alone in options.work and len(options.work) > 1:
            raise UserError(f"--work {alone}: cannot be mixed with other work")
    evaluates = "coco" in options.work
    if options.against == "shard" and not set(options.work) <= set(_PARALLEL):
        raise UserError(f"--against shard: --work must be {', '.join(_PARALLEL)}")
    if options.against != "none" and evaluates != (options.against == "pycocotools"):
        others = "pycocotools" if evaluates else "torch or torch-compile"
        raise UserError(f"--against {options.against}: --work {options.work[0]} has {others}")
    if evaluates:
        return [
            Job(
                work="coco",
                model="detections",
                batch_size=options.batch_size,
                image_size=detected.IMAGE,
                num_classes=detected.CLASSES,
            )
        ]
    if "search" in options.work:
        if options.against != "none":
            raise UserError(f"--against {options.against}: --work search has no other side")
        batch_size = options.batch_size
        return [Job("search", "nearest", batch_size=batch_size, image_size=searched.SIZE)]
    if "translate" in options.work:
        return [
            Job(
                work="translate",
                model="seq2seq",
                batch_size=options.batch_size,
                image_size=sentences.LENGTH,
                dtype=options.dtype,
                compiled=options.against == "torch-compile",
            )
        ]
    if "ops" in options.work:
        known = [name for name in options.models if name in operations.NAMES]
        return [
            Job(work="ops", model=name, batch_size=options.batch_size, image_size=operations.IMAGE)
            for name in known or operations.NAMES
        ]
    if "readers" in options.work:
        kind, _, folder = (options.data or "").partition(":")
        if kind not in ("folder", "packed") or not folder:
            raise UserError("--work readers: needs --data folder:DIR or --data packed:DIR")
        if kind == "packed" and options.against != "none":
            raise UserError(f"--against {options.against}: reads no packed data")
        return [
            Job(
                work="readers",
                model=kind,
                batch_size=options.batch_size,
                image_size=options.image_size or 224,
                folder=folder,
                packed=kind == "packed",
                workers=options.workers,
            )
        ]
    names = models.names() if options.models == ("all",) else options.models
    for name in names:
        if name in scenes.SIZES:
            found += [_on_scenes(options, name, work) for work in options.work]
            continue
        spec = models.input_spec(name)
        for work in options.work:
            folder = ""
            if work == "data":
                kind, _, folder = (options.data or "").partition(":")
                if kind != "folder" or not folder:
                    raise UserError("--work data: needs --data folder:DIR")
            found.append(
                Job(
                    work=work,
                    model=name,
                    batch_size=options.batch_size,
                    image_size=options.image_size or spec.image_size,
                    num_classes=10 if spec.image_size < 100 else 1000,
                    dtype=options.dtype,
                    folder=folder,
                    workers=options.workers,
                    compiled=options.against == "torch-compile",
                )
            )
    return found


def _on_scenes(options: Options, name: str, work: Work) -> Job:
    if work != "train":
        raise UserError(f"--work {work}: {name} is measured in training only; --work train")
    return Job(
        work=work,
        model=name,
        batch_size=options.batch_size,
        image_size=options.image_size or scenes.SIZES[name],
        num_classes=scenes.CLASSES,
        dtype=options.dtype,
        compiled=options.against == "torch-compile",
    )


def row(job: Job, ours: Measurement, theirs: Measurement | None = None) -> dict[str, Any]:
    """One row of the results: all that was measured, and its cells in the table."""
    by_round = [] if theirs is None else ratios(ours, theirs)
    facts = ours.facts
    utilisation = None
    if "matmul_flops" in facts:
        utilisation = ours.rate * facts["flops_per_image"] / facts["matmul_flops"]
    # Packed data has canvases of its own size.
    unit = {"translate": "tokens", "search": "numbers"}.get(job.work, "px")
    size = f"{facts.get('canvas', job.image_size)} {unit}"
    cells = [
        size if job.work == "data" else f"{job.model} {size}",
        job.work,
        str(job.batch_size),
        f"{ours.rate:.4g}",
        "" if theirs is None else f"{theirs.rate:.4g}",
        _spread(by_round),
        "" if utilisation is None else f"{100 * utilisation:.0f} %",
    ]
    for side in (
        lambda m: f"{m.first_step_seconds:.1f} s",
        lambda m: f"{m.peak_bytes / 1e9:.2f} GB",
    ):
        cells += [side(ours), "" if theirs is None else side(theirs)]
    return {
        "job": asdict(job),
        "ours": asdict(ours),
        "theirs": None if theirs is None else asdict(theirs),
        "ratios": by_round,
        "matmul_share": utilisation,
        "cells": cells,
    }


def result(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of `result.json`: ratios by kind of work over all networks, and the rows."""
    summary: dict[str, Any] = {}
    for work in dict.fromkeys(r["job"]["work"] for r in rows):
        medians = [
            statistics.median(r["ratios"]) for r in rows if r["job"]["work"] == work and r["ratios"]
        ]
        if medians:
            summary[f"{work}_ratio"] = statistics.geometric_mean(medians)
    return {**summary, "rows": [{k: v for k, v in r.items() if k != "cells"} for r in rows]}


def table(rows: Sequence[Sequence[str]], other: str = "torch") -> str:
    """A table in Markdown, its columns set flush; without the columns that are empty."""
    header = (
        *("network", "work", "batch", "per second", other, "ratio", "of matmul rate"),
        *("first step", other, "memory", other),
    )
    kept = [i for i in range(len(header)) if any(r[i] for r in rows)]
    lines = [[header[i] for i in kept], *([r[i] for i in kept] for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    rule = ["-" * width for width in widths]
    return "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |\n"
        for line in (lines[0], rule, *lines[1:])
    )


def _spread(values: Sequence[float]) -> str:
    """`1.08 (1.05 to 1.10)`: the median, and the range of the rounds."""
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    flags.entry(main)
