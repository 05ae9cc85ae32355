"""Kills: a run that is stopped at random moments and resumed ends as one that nothing stopped.

`targets` names the commands, `reference` runs one of them to its end, and `kill_once` runs it
again, sends SIGKILL, SIGTERM, SIGINT or SIGUSR1 at moments drawn from a generator, resumes it until
it ends, and compares the two folders: the arrays of every checkpoint to the last bit, rows but for
times, all other files, and their names.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax.runs.folder import is_timing
from cnn_jax.training import checkpoints
from tests.checks import assert_same_bits
from tests.commands import heeding_interrupts, leaves, rows

KEPT = ("checkpoints", "best", "finished")
SIZE = 20
TRAIN, EVALUATED = 16, 8
WORDS = {"one": "一", "two": "二", "three": "三"}

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
UNFINISHED = 75  # the status of a run that was asked to end
PATIENCE = 60.0  # seconds from the other signals to the end of the process, and
PATIENT_RUNS = 5  # times those that a whole run takes: other work may slow the machine
WARM = 0.5  # of the first start's time, what one takes that finds its programs compiled
FIRST_SECONDS = 1.0  # in which some of the signals come
MOST_STARTS = 8

# Periods that have little in common: checkpoints within an interval, evaluations between them.
EVERY = ["--steps", "14", "--report-every", "5", "--eval-every", "4", "--checkpoint-every", "3"]
BATCHES = ["--batch-size", "8", "--eval-batch-size", "8"]
IMAGES = [*BATCHES, "--image-size", "16", "--learning-rate", "0.05", "--crop", "pad", "--flip"]
SMALL = ["--model", "airbench94", "--width", "0.1"]
BOXES = [
    *("--data", "coco:{data}/train.json,{data}/coco,{data}/val.json,{data}/coco"),
    *(*BATCHES, "--max-objects", "3", "--warmup", "0", "--optimizer", "adam"),
    *("--learning-rate", "0.002"),
]
REGIONS = [
    *(*BOXES, "--model", "resnet20", "--width", "0.25", "--image-size", "16"),
    *("--max-proposals", "24", "--regions", "8"),
]
COMMANDS = {
    "classify": ["--data", "folder:{data}/classes", *SMALL, *IMAGES, "--ema", "0.9"],
    "annotate": [
        *("--data", "csv:{data}/tags.csv,{data}/images", "--holdout-fraction", "0.25"),
        *("--model", "alexnet", "--stem", "small", *IMAGES, "--width", "0.05"),
        *("--loss", "warp", "--warp-ranks", "sampled"),
    ],
    "yolo": [
        *(*BOXES, "--model", "fast_yolo", "--width", "0.03", "--image-size", "64"),
        *("--grid", "4", "--min-score", "0", "--max-detections", "40"),
    ],
    "fast_rcnn": [
        *(*REGIONS, "--system", "fast_rcnn", "--stage", "stage1", "--pool-size", "2"),
        *("--units", "8", "--background-iou", "0", "0.5", "--proposals", "grid"),
        *("--grid-scales", "0.4", "0.6", "--grid-ratios", "1", "--grid-step", "0.5"),
    ],
    "rcnn": [
        *(*REGIONS, "--system", "rcnn", "--crop-size", "12", "--context", "1"),
        *("--proposal-cache", "{out}-proposals", "--proposal-workers", "1"),
    ],
    "segment": [
        *("--data", "masks:{data}", "--model", "segnet_basic", "--width", "0.0625"),
        *("--batch-size", "4", "--learning-rate", "0.02", "--flip"),
    ],
    "translate": [
        *("--data", "pairs:{data}/pairs.tsv", "--holdout-fraction", "0.15"),
        *("--embedding-size", "6", "--hidden-size", "8", "--batch-size", "8"),
        *("--eval-batch-size", "16", "--buckets", "2", "--max-length", "8"),
        *("--optimizer", "adam", "--learning-rate", "0.01", "--weight-decay", "0"),
    ],
}
# Some keep their best state, and one ends where there is no better one.
KEPT_STATES = {
    "annotate": ["--best", "loss", "--patience", "1"],
    "yolo": ["--best", "map50"],
    "segment": ["--best", "mean_iou"],
}


def targets() -> dict[str, list[str]]:
    """The command of each verb and detector, with `{data}` and `{out}` for two folders."""
    return {
        name: _command(name, *flags, *EVERY, *KEPT_STATES.get(name, ()))
        for name, flags in COMMANDS.items()
    }


def reference(name: str, folder: Path) -> Path:
    """The folder of an uninterrupted run, which is made where `folder` has none yet.

    Beside it stand the data, what was compiled, and the seconds that a later start takes.
    """
    out = folder / name
    timed = folder / f"{name}.seconds"
    if timed.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        with tempfile.TemporaryDirectory(dir=folder) as part:
            write_data(Path(part) / "data")
            # Another worker may have been faster.
            with contextlib.suppress(OSError):
                (Path(part) / "data").rename(folder / "data")
    # One that was killed may have left a part.
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(f"{out}-proposals", ignore_errors=True)
    began = time.monotonic()
    process = _start(name, folder, out)
    output, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"{name}: the uninterrupted run fails: {output[-2000:]}")
    timed.write_text(f"{WARM * (time.monotonic() - began):.3f}")
    return out


def kill_once(
    name: str, reference: Path, folder: Path, rng: np.random.Generator, most: int = 3
) -> str | None:
    """Stop a run once or several times, let it end, and compare it with its reference.

    Args:
        name: one of `targets`.
        reference: the folder that `reference` returned.
        folder: where the run is made; it is removed where all is well.
        rng: draws signals and moments.
        most: the largest number of signals.

    Returns:
        What went wrong, or None.
    """
    out, story = folder / "run", []
    seconds = float((reference.parent / f"{name}.seconds").read_text())
    patience = PATIENCE + PATIENT_RUNS * seconds
    signals = int(rng.integers(1, most + 1))
    for number in range(MOST_STARTS):
        process = _start(name, reference.parent, out)
        if number < signals:
            chosen = SIGNALS[rng.integers(len(SIGNALS))]
            moment = _wait(process, out, seconds, rng)
            process.send_signal(chosen)
            story.append(f"{chosen.name} {moment}")
        try:
            output, _ = process.communicate(timeout=patience if number < signals else 900)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return f"{name}: {', '.join(story)}: does not end: {output[-1000:]}"
        story.append(f"status {process.returncode}")
        problem = _unlike_an_end(process.returncode, output, number < signals)
        if problem:
            return f"{name}: {', '.join(story)}: {problem}: {output[-2000:]}"
        if process.returncode == 0:
            break
    problem = difference(out, reference)
    if problem:
        return f"{name}: {', '.join(story)}: {problem}"
    shutil.rmtree(folder, ignore_errors=True)
    return None


def difference(out: Path, reference: Path) -> str | None:
    """Find what a run's folder has otherwise than its reference; None if nothing."""
    ours, theirs = _files(out), _files(reference)
    if ours.keys() != theirs.keys():
        return f"files that only one run has: {sorted(ours.keys() ^ theirs.keys())}"
    if rows(out) != rows(reference):
        return f"rows differ: {rows(out)} and {rows(reference)}"
    for directory in KEPT:
        kept = checkpoints.steps(reference / directory)
        if checkpoints.steps(out / directory) != kept:
            return f"{directory}: {checkpoints.steps(out / directory)} and {kept}"
        for step in kept:
            try:
                assert_same_bits(*(leaves(run, directory, step) for run in (out, reference)))
                assert_same_bits(
                    *(checkpoints.interval(run / directory, step) for run in (out, reference))
                )
            except AssertionError as error:
                return f"{directory}/{step}: {str(error)[:500]}"
    unequal = [path for path in ours if ours[path] != theirs[path]]
    return f"contents differ: {unequal}" if unequal else None


def write_data(root: Path) -> None:
    """One bright square an image, as classes, tags, boxes and masks; and pairs of sentences."""
    rng = np.random.default_rng(0)
    table = ["file,left,high"]
    for split, count in (("train", TRAIN), ("val", EVALUATED)):
        for kind in ("images", "labels", "coco"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            x, y = (int(v) for v in rng.integers(0, SIZE // 2, 2))
            pixels = rng.integers(0, 90, (SIZE, SIZE, 3)).astype(np.uint8)
            pixels[y : y + 8, x : x + 8] += 120
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[y : y + 8, x : x + 8] = 1
            by_class = root / "classes" / split / ("left" if x < SIZE // 4 else "right")
            by_class.mkdir(parents=True, exist_ok=True)
            file = f"{split}{i}.png"
            for folder in (root / "images" / split, by_class, root / "coco"):
                Image.fromarray(pixels).save(folder / file)
            Image.fromarray(mask).save(root / "labels" / split / file)
            table.append(f"{split}/{file},{int(x < SIZE // 4)},{int(y < SIZE // 4)}")
            images.append({"id": i, "file_name": file, "width": SIZE, "height": SIZE})
            box = {"bbox": [x, y, 8, 8], "area": 64, "iscrowd": 0}
            annotations.append({"id": i, "image_id": i, "category_id": 1, **box})
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 1, "name": "square"}]
        (root / f"{split}.json").write_text(json.dumps(content))
    (root / "tags.csv").write_text("\n".join(table) + "\n")
    sentences = [rng.choice(list(WORDS), rng.integers(1, 5)) for _ in range(120)]
    pairs = [f"{' '.join(words)}\t{''.join(WORDS[w] for w in words)}" for words in sentences]
    (root / "pairs.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")


def _command(name: str, *flags: str) -> list[str]:
    verb = name if name in ("classify", "annotate", "segment", "translate") else "detect"
    return [sys.executable, "-m", f"experiments.{verb}", *flags]


def _start(name: str, folder: Path, out: Path) -> subprocess.Popen:
    """The command in a process of its own, resumed where the run has begun."""
    flags = targets()[name] if not (out / "config.json").exists() else _command(name, "--resume")
    places = {"data": folder / "data", "out": out}
    # One device and programs without LLVM's optimisations, which are compiled once for all starts.
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        heeding_interrupts(*(flag.format(**places) for flag in flags), "--out", str(out)),
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait(process: subprocess.Popen, out: Path, seconds: float, rng: np.random.Generator) -> str:
    """Wait until the moment for a signal, and say which it is."""
    began = time.monotonic()
    moment = ("first second", "any", "saving", "evaluating")[rng.choice(4, p=[0.2, 0.4, 0.2, 0.2])]
    share = float(rng.random())
    if moment in ("first second", "any"):
        length = FIRST_SECONDS if moment == "first second" else seconds
        # Python's own start, before it reads a line of the project, is left out.
        _sleep(process, max(0.1, share * length))
    else:
        count = int(rng.integers(1, 4))
        seen: set[str] = set()
        while len(seen) < count and process.poll() is None:
            seen |= {path.name for path in _signs(out, moment)}
            time.sleep(0.002)
        _sleep(process, share * 0.3)
    return f"{moment} ({time.monotonic() - began:.2f} s)"


def _signs(out: Path, moment: str) -> list[Path]:
    """Files that come and go: while a state is saved, or of the state before an evaluation."""
    if moment == "saving":
        return [path for kind in KEPT for path in (out / kind).glob("*.orbax*")]
    return [path for path in out.glob(".*.json.*") if "result" in path.name]


def _sleep(process: subprocess.Popen, seconds: float) -> None:
    """Sleep, or until the process ends."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(min(0.005, max(0.0, deadline - time.monotonic())))


def _unlike_an_end(status: int, output: str, signalled: bool) -> str | None:
    """Tell why a process did not end as it has to; None if it did."""
    if "Traceback" in output:
        # Until Python has read a line of the project, an interrupt is Python's own to tell.
        own = "/cnn_jax/" not in output and "/experiments/" not in output
        python = signalled and own and output.endswith("KeyboardInterrupt\n")
        return None if python else "a traceback"
    expected = {0, UNFINISHED, 130, *(-number for number in SIGNALS)} if signalled else {0}
    return None if status in expected else f"status {status}"


def _files(run: Path) -> dict[str, object]:
    """The files of a run by name, with what two runs have alike."""
    found: dict[str, object] = {}
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        parts = name.split("/")
        if path.is_dir() or name.startswith("events."):
            continue
        if parts[0] in KEPT and len(parts) > 2:
            # Orbax names its own files by chance; the arrays are compared instead.
            found["/".join(parts[:3])] = None
        else:
            found[name] = _content(path)
    return found


def _content(path: Path) -> object:
    """The content that two runs have alike."""
    if path.name in ("metrics.jsonl", "report.html", "environment.json"):
        return None  # rows are compared apart; the others tell times and command lines
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        own = ("proposal_cache",)
        if isinstance(content, dict):
            return {k: v for k, v in content.items() if k not in own and not is_timing(k)}
        return content
    return path.read_bytes()
