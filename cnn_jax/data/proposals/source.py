"""Examples with proposals, which are cached on disk by the content of the image."""

import hashlib
import os
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cnn_jax import files, processors
from cnn_jax.data.decode import Pixels
from cnn_jax.data.proposals import Proposals
from cnn_jax.data.source import Example, Source
from cnn_jax.data.workers import worker_processes
from cnn_jax.progress import PipeConsole


def default_cache() -> Path:
    """Return the cache folder, in `$XDG_CACHE_HOME` or the user's `.cache`."""
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(home) / "cnn_jax" / "proposals"


class ProposalSource:
    """A source whose examples also have `proposals` [boxes, 4], the best first, in pixels.

    Proposals are a function of the image; the cache only saves time.
    """

    def __init__(self, source: Source, method: Proposals, cache: Path | None = None):
        self.source, self.method = source, method
        self.class_names = source.class_names
        self.notices = getattr(source, "notices", ())
        self.files = getattr(source, "files", None)
        if hasattr(source, "object_counts"):
            self.object_counts = source.object_counts
        self.folder = (cache or default_cache()) / method.key

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        proposals, _ = self._proposals(example["image"])
        return {**example, "proposals": proposals[: self.method.max_proposals]}

    def classes(self, index: int) -> np.ndarray:
        """Return the classes of the objects to train on."""
        return self.source.classes(index)

    def object_count(self, index: int) -> int:
        """The number of objects (at most) in an image."""
        return self.source.object_count(index)

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fill(self, index: int) -> bool:
        """Cache the proposals of an example on disk; return whether they were missing."""
        return self._proposals(self.source[index]["image"])[1]

    def _proposals(self, image: Pixels) -> tuple[Float32[np.ndarray, "boxes 4"], bool]:
        """Return all proposals of an image, and whether the cache lacked them."""
        if not self.method.cached:
            return self.method.find(image), False
        path = self._path(image)
        try:
            # Not np.load: it parses a file's header with `ast`, which occasionally fails in
            # threads under Python 3.11 (python/cpython#106905).
            boxes = load(path.read_bytes())["boxes"]
            if boxes.dtype == np.float32 and boxes.ndim == 2 and boxes.shape[1] == 4:
                return boxes, False
        except (OSError, SafetensorError, KeyError):
            pass
        # Missing or damaged: recomputed and overwritten.
        boxes = self.method.find(image)
        files.replace(path, save({"boxes": np.ascontiguousarray(boxes)}))
        return boxes, True

    def _path(self, image: np.ndarray) -> Path:
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"


@dataclass(frozen=True)
class _Fill:
    """The task of a worker process: fill the cache, with a single OpenCV thread."""

    source: ProposalSource

    def __call__(self, index: int) -> bool:
        cv2.setNumThreads(1)
        return self.source.fill(index)


def prepare(
    source: ProposalSource, workers: int | None = None, console: Console | None = None
) -> int:
    """Compute the proposals of all examples that the cache lacks.

    A terminal shows a progress bar, a file or a pipe a line. It can be interrupted at any time;
    finished proposals are kept.

    Args:
        source: the examples.
        workers: the number of processes; by default one per core. 0 works in this process.
        console: the console for the progress bar.

    Returns:
        The number of examples that the cache lacked.

    Raises:
        UserError: an image cannot be read, or the cache cannot be written.
    """
    if not source.method.cached or not len(source):
        return 0
    files.remove_abandoned(source.folder)
    console = console or PipeConsole(stderr=True)
    progress = Progress(
        TextColumn("Finding proposals"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    if not console.is_terminal:
        found = f"finding proposals of {len(source):,} images, unless {source.folder} has them"
        console.print(found, soft_wrap=True, highlight=False, markup=False)
    computed = 0
    with progress:
        bar = progress.add_task("", total=len(source))
        if workers == 0:
            for index in range(len(source)):
                computed += source.fill(index)
                progress.advance(bar)
            return computed
        count = workers or processors.available()
        with worker_processes(_Fill(source), count, "--proposal-workers") as submit:
            waiting: set[Future] = set()
            for index in range(len(source)):
                waiting.add(submit(index))
                # Few are pending at a time, so an interruption waits for few.
                if len(waiting) >= 4 * count or index == len(source) - 1:
                    least = FIRST_COMPLETED if index < len(source) - 1 else "ALL_COMPLETED"
                    done, waiting = wait(waiting, return_when=least)
                    computed += sum(future.result() for future in done)
                    progress.advance(bar, len(done))
    return computed
