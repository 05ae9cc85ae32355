"""What an accelerator is measured for, most important first, within a number of minutes.

Each part is a command in a process of its own with a time limit. Results are written as they come.
A second call in the same folder does what is missing.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax import files, models
from cnn_jax.errors import UserError
from cnn_jax.progress import PipeConsole
from cnn_jax.runs.folder import METRICS_FILE, RESULT_FILE, read_object, read_rows
from cnn_jax.runs.names import duration, show
from cnn_jax.training import checkpoints

from . import scenes, scenes_in_jax

RESULTS_FILE = "suite.json"
TABLE_FILE = "suite.md"

_COMMANDS = __package__.rpartition(".")[0]

# A part that may end later than this before the end of the minutes is not begun.
_LEAST = 20.0


@dataclass(frozen=True)
class Scale:
    """The sizes of what is measured.

    Attributes:
        network: what stands for ResNet-50 end to end.
        image_size: pixels on a side of its images.
        batch: examples a step.
        steps: steps of a run end to end.
        photos: number of JPEG files; shape: their rows and columns.
        batches: the batch sizes of which the fastest counts.
        seconds: length of a turn of each contender; rounds: number of turns.
        dtype: type that networks compute in.
        recipe: flags of CIFAR-10's recipe that shorten it.
        limit: factor of the parts' time limits.
    """

    network: str = "resnet50"
    image_size: int = 224
    batch: int = 128
    steps: int = 300
    photos: int = 2048
    shape: tuple[int, int] = (375, 500)
    batches: tuple[int, ...] = (64, 128, 256)
    seconds: float = 3.0
    rounds: int = 3
    dtype: str = "bfloat16"
    recipe: tuple[str, ...] = ()
    limit: float = 1.0


CARD = Scale()

DRY_RUN = Scale(
    network="resnet18",
    image_size=32,
    batch=8,
    steps=6,
    photos=32,
    shape=(60, 80),
    batches=(2, 4),
    seconds=0.2,
    rounds=1,
    dtype="float32",
    recipe=("--steps", "6", "--width", "0.25"),
    limit=3.0,
)
"""Sizes at which every part ends within a minute or two on a CPU: they show that it works."""


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        name: its key in the results.
        limit: the most seconds that it may take.
        measure: does it in a folder of its own within so many seconds, and returns the figures.
    """

    name: str
    limit: float
    measure: Callable[[Path, float], dict[str, Any]]


def run(minutes: float, out: Path, data: str | None, cifar10: str | None) -> None:
    """Measure the parts that `out` lacks, until the minutes are over, and print the table.

    Args:
        minutes: the time there is.
        out: the folder of results and logs.
        data: JPEG photos in class folders; None makes some.
        cifar10: class folders of CIFAR-10; None stands for generated images of that size.

    Raises:
        UserError: the folder cannot be written.
    """
    console, end = PipeConsole(stderr=True), time.monotonic() + 60 * minutes
    found = read_object(out / RESULTS_FILE, missing_ok=True)
    device = found.get("device") or _device()
    scale = DRY_RUN if device["platform"] == "cpu" else CARD
    found["device"] = device
    for part in parts(scale, out, data, cifar10):
        if "failed" not in found.get(part.name, {"failed": True}):
            continue
        left = end - time.monotonic()
        if left < _LEAST:
            console.print(f"{part.name}: no time left; call again", highlight=False)
            break
        console.print(f"{part.name} …", highlight=False)
        folder = out / part.name
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            figures = part.measure(folder, min(scale.limit * part.limit, left))
        except (_FailedError, UserError) as error:
            figures = {"failed": str(error)}
            console.print(f"  {error}", highlight=False)
        found[part.name] = {**figures, "seconds": round(time.monotonic() - began, 1)}
        files.replace(out / RESULTS_FILE, json.dumps(found, indent=2) + "\n")
        files.replace(out / TABLE_FILE, table(found))
    print(table(found), end="")


def parts(scale: Scale, out: Path, data: str | None, cifar10: str | None) -> list[Part]:
    """All parts, most important first."""
    photos = data or f"folder:{out / 'photos'}"
    packed = out / "packed"

    def end_to_end(source: str, cache: str, *flags: str) -> Callable[..., dict[str, Any]]:
        return partial(_training, scale=scale, flags=["--data", source, "--cache", cache, *flags])

    def from_jpeg(folder: Path, limit: float) -> dict[str, Any]:
        if data is None:
            _make_photos(out / "photos", scale)
        return end_to_end(photos, "none")(folder, limit)

    def from_packed(folder: Path, limit: float) -> dict[str, Any]:
        began = time.monotonic()
        arguments = ["--data", photos, "--out", str(packed), *_canvases(scale)]
        _command("pack", arguments, folder / "pack.log", limit)
        packing = time.monotonic() - began
        figures = end_to_end(f"packed:{packed}", "none")(folder, limit - packing)
        return {**figures, "packing_seconds": round(packing, 1)}

    return [
        Part("jpeg", 150, from_jpeg),
        Part("packed", 120, from_packed),
        Part("repeats", 120, partial(_repeats, scale=scale)),
        Part(scale.network, 240, partial(_network, name=scale.network, scale=scale)),
        Part("cifar10", 300, partial(_cifar10, scale=scale, data=cifar10)),
        Part("host_memory", 120, end_to_end(photos, "host")),
        Part("device_memory", 120, end_to_end(photos, "device")),
        Part("fast", 120, end_to_end(photos, "device", "--fast")),
        Part("shard", 180, partial(_shard, scale=scale)),
        Part("translate", 120, partial(_translator, scale=scale)),
        *(
            Part(name, 240, partial(_network, name=name, scale=scale, works=("train",)))
            for name in scenes.SIZES
        ),
        *(
            Part(name, 240, partial(_network, name=name, scale=scale))
            for name in models.names()
            if name != scale.network
        ),
    ]


def table(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    device = found.get("device", {})
    lines = [
        f"{device.get('count', 1)} x {device.get('kind', '?')}, jax {device.get('jax', '?')}",
        "",
        "| what | figures |",
        "|---|---|",
    ]
    for name, figures in found.items():
        if name != "device":
            shown = ", ".join(f"{key.replace('_', ' ')} {_shown(v)}" for key, v in figures.items())
            lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


# The parts.


def _training(folder: Path, limit: float, *, scale: Scale, flags: Sequence[str]) -> dict[str, Any]:
    """A run from its data to its steps: the rate of its last interval, and the device's share."""
    rows = _classify(
        folder / "run",
        [
            *_canvases(scale),
            *("--batch-size", str(scale.batch), "--dtype", scale.dtype),
            *("--flip", "--steps", str(scale.steps), "--eval-every", str(scale.steps)),
            *("--report-every", str(scale.steps // 3), *flags),
        ],
        limit,
    )
    trained = [row for row in rows if row["split"] == "train"]
    return {
        "images_per_second": trained[-1]["examples_per_second"],
        "device_busy": show("device_busy", trained[-1]["device_busy"]),
        "first_interval": trained[0]["examples_per_second"],
    }


def _canvases(scale: Scale) -> list[str]:
    """The flags that decide what is decoded, and so what is packed."""
    size = ["--image-size", str(scale.image_size)]
    return ["--model", scale.network, *size, "--crop", "resized"]


def _repeats(folder: Path, limit: float, *, scale: Scale) -> dict[str, Any]:
    """Two runs of one seed: the number of arrays that differ."""
    began, flags = (
        time.monotonic(),
        ["--model", "resnet18", "--stem", "small", "--dtype", scale.dtype],
    )
    flags += ["--width", "0.25", "--image-size", "32", "--steps", str(min(80, scale.steps))]
    names = ("first", "second")
    for name in names:
        _classify(folder / name, flags, limit - (time.monotonic() - began))
    first, second = (checkpoints.arrays(folder / name / "checkpoints") for name in names)
    differ = sum(not np.array_equal(first[path], second[path]) for path in first)
    return {"arrays": len(first), "that_differ": differ}


def _cifar10(folder: Path, limit: float, *, scale: Scale, data: str | None) -> dict[str, Any]:
    """The recipe of ResNet-20; with generated images only its time means something."""
    flags = ["--preset", "resnet20_cifar", *scale.recipe]
    flags += ["--data", data] if data else ["--image-size", "32"]
    began = time.monotonic()
    rows = _classify(folder / "run", flags, limit)
    figures = {
        "wall_time": duration(time.monotonic() - began),
        "images_per_second": [r for r in rows if r["split"] == "train"][-1]["examples_per_second"],
    }
    return (
        {**figures, "top1": read_object(folder / "run" / RESULT_FILE)["top1"]} if data else figures
    )


def _network(
    folder: Path,
    limit: float,
    *,
    name: str,
    scale: Scale,
    works: Sequence[str] = ("train", "inference"),
) -> dict[str, Any]:
    """Training and inference at the fastest of the batch sizes, against `torch.compile`."""
    began, rates = time.monotonic(), {}

    def left() -> float:
        return limit - (time.monotonic() - began)

    size = ["--image-size", str(_side(name, scale))] if scale is DRY_RUN else []
    sizes = [*size, "--dtype", scale.dtype, "--seconds", str(scale.seconds)]
    for batch in scale.batches:
        arguments = ["--models", name, "--batch-size", str(batch), *sizes, "--rounds", "1"]
        try:
            rows = _benchmark(folder / f"batch{batch}", [*arguments, "--work", "train"], left())
        except _FailedError as error:  # too large a batch
            refusal = error
            continue
        rates[batch] = rows[0]["ours"]["rates"][0]
    if not rates:
        raise _FailedError(f"no batch size of {scale.batches} worked: {refusal}")
    best = max(rates, key=rates.__getitem__)
    figures: dict[str, Any] = {"batch": best, "train": rates[best]}
    arguments = ["--models", name, "--batch-size", str(best), *sizes]
    against = ["--rounds", str(scale.rounds), "--against", "torch-compile"]
    for work in works:
        row = _benchmark(folder / work, [*arguments, *against, "--work", work], left())[0]
        figures |= {
            work: float(np.median(row["ours"]["rates"])),
            f"{work}_ratio": float(np.median(row["ratios"])),
            f"{work}_first_step": round(row["ours"]["first_step_seconds"], 1),
        }
    return figures


def _side(name: str, scale: Scale) -> int:
    """The scale's pixels on a side, or the fewest that the network accepts."""
    on_scenes = name in scenes.SIZES
    model = scenes_in_jax.network(name) if on_scenes else models.create(name)
    return max(scale.image_size, model.minimum_size)


def _shard(folder: Path, limit: float, *, scale: Scale) -> dict[str, Any]:
    """A training step under `pmap`, against the same under `shard_map` and `jit`."""
    arguments = ["--models", scale.network, "--batch-size", str(scale.batch), "--work", "train"]
    arguments += ["--image-size", str(scale.image_size), "--dtype", scale.dtype]
    arguments += ["--seconds", str(scale.seconds), "--rounds", str(scale.rounds)]
    row = _benchmark(folder, [*arguments, "--against", "shard"], limit)[0]
    return {"pmap_over_shard": float(np.median(row["ratios"]))}


def _translator(folder: Path, limit: float, *, scale: Scale) -> dict[str, Any]:
    """Steps of the translator against the same in torch."""
    arguments = ["--work", "translate", "--batch-size", str(scale.batch), "--dtype", scale.dtype]
    arguments += ["--seconds", str(scale.seconds), "--rounds", str(scale.rounds)]
    row = _benchmark(folder, [*arguments, "--against", "torch-compile"], limit)[0]
    return {
        "pairs_per_second": float(np.median(row["ours"]["rates"])),
        "ratio": float(np.median(row["ratios"])),
    }


# Processes and files.


class _FailedError(Exception):
    """A part that did not work, in one line."""


def _command(verb: str, arguments: Sequence[str], log: Path, limit: float) -> None:
    """Run a command of this project within a time limit; what it says goes to a file."""
    command = [sys.executable, "-m", f"{_COMMANDS}.{verb}", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=max(limit, 1.0),
                env=environment,
            )
    except subprocess.TimeoutExpired:
        raise _FailedError(f"not ended within {limit:.0f} s; see {log}") from None
    if done.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["nothing said"])[-1]
        raise _FailedError(f"exit status {done.returncode}: {last[:200]}; see {log}")


def _classify(out: Path, flags: Sequence[str], limit: float) -> list[dict[str, Any]]:
    """Train, anew or from where an earlier call was cut off; return the rows."""
    resumed = (out / "checkpoints").is_dir()
    arguments = ["--resume"] if resumed else [*flags]
    _command("classify", ["--out", str(out), *arguments], out.with_suffix(".log"), limit)
    return read_rows(out / METRICS_FILE)


def _benchmark(out: Path, arguments: Sequence[str], limit: float) -> list[dict[str, Any]]:
    out.mkdir(parents=True, exist_ok=True)
    _command("benchmark", ["--out", str(out), *arguments], out / "log", limit)
    return read_object(out / RESULT_FILE)["rows"]


def _device() -> dict[str, Any]:
    """The device, asked in another process: this one must leave its memory alone."""
    code = (
        "import jax, json; d = jax.devices(); print(json.dumps({'platform': d[0].platform, "
        "'kind': d[0].device_kind, 'count': len(d), 'jax': jax.__version__}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise UserError(f"--suite: JAX finds no device: {last}")
    return json.loads(answer.stdout)


def _make_photos(folder: Path, scale: Scale) -> None:
    """JPEG files that take as long to decode as photos: smooth shapes under noise, two classes."""
    rows, columns = scale.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    for number in range(scale.photos):
        path = folder / ("train" if number % 8 else "val") / f"class{number % 2}" / f"{number}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(0, 0.1, (3, 3))]
        pixels = 127 + 80 * np.stack(waves, axis=-1) + rng.normal(0, 12, (rows, columns, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
