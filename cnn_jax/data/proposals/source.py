"""Examples with their proposals, kept on disk by the content of the image."""

import hashlib
import os
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cnn_jax import files
from cnn_jax.data.proposals import Proposals
from cnn_jax.data.source import Example, Source
from cnn_jax.data.workers import worker_processes


def default_cache() -> Path:
    """Where proposals are kept: in `$XDG_CACHE_HOME`, or the user's `.cache`."""
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(home) / "cnn_jax" / "proposals"


class ProposalSource:
    """A source whose examples also have `proposals` [boxes, 4], the best first, in pixels.

    What the method finds is a function of the image; the cache only saves finding it again.
    """

    def __init__(self, source: Source, method: Proposals, cache: Path | None = None):
        self.source, self.method = source, method
        self.class_names = source.class_names
        self.notices = getattr(source, "notices", ())
        if hasattr(source, "object_counts"):
            self.object_counts = source.object_counts
        self._folder = (cache or default_cache()) / method.key

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        found = self._proposals(example["image"])[0]
        return {**example, "proposals": found[: self.method.max_proposals]}

    def object_count(self, index: int) -> int:
        """The number of objects (at most) in an image."""
        return self.source.object_count(index)

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fill(self, index: int) -> bool:
        """Have the proposals of an example on disk; whether they had to be found."""
        return self._proposals(self.source[index]["image"])[1]

    def _proposals(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> tuple[Float32[np.ndarray, "boxes 4"], bool]:
        """All proposals of an image, and whether they had to be found."""
        if not self.method.cached:
            return self.method.find(image), False
        path = self._path(image)
        try:
            # Not np.load: it parses a file's head with `ast`, which Python 3.11 fails at now and
            # then where several threads read (python/cpython#106905).
            return load(path.read_bytes())["boxes"], False
        except (OSError, SafetensorError):
            pass  # Not there, or damaged: found again, and written over.
        boxes = self.method.find(image)
        files.replace(path, save({"boxes": np.ascontiguousarray(boxes)}))
        return boxes, True

    def _path(self, image: np.ndarray) -> Path:
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image))
        name = digest.hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.safetensors"


@dataclass(frozen=True)
class _Fill:
    """What a worker process does: one thread of OpenCV's each, as there are many processes."""

    source: ProposalSource

    def __call__(self, index: int) -> bool:
        cv2.setNumThreads(1)
        return self.source.fill(index)


def prepare(
    source: ProposalSource, workers: int | None = None, console: Console | None = None
) -> int:
    """Finds the proposals of all examples that are not in the cache yet, and shows how far it is.

    It can be broken off at any time: what has been found is kept.

    Args:
        source: the examples.
        workers: number of processes; by default one a core. 0 works in this process.
        console: where progress is shown.

    Returns:
        How many had to be found.

    Raises:
        UserError: an image cannot be read, or the cache cannot be written.
    """
    if not source.method.cached or not len(source):
        return 0
    console = console or Console(stderr=True)
    progress = Progress(
        TextColumn("Finding proposals"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    found = 0
    with progress:
        bar = progress.add_task("", total=len(source))
        if workers == 0:
            for index in range(len(source)):
                found += source.fill(index)
                progress.advance(bar)
            return found
        count = workers or os.cpu_count() or 1
        with worker_processes(_Fill(source), count, "--proposal-workers") as submit:
            waiting: set[Future] = set()
            for index in range(len(source)):
                waiting.add(submit(index))
                # Few are on their way at a time, so that an interruption waits for few.
                if len(waiting) >= 4 * count or index == len(source) - 1:
                    least = FIRST_COMPLETED if index < len(source) - 1 else "ALL_COMPLETED"
                    done, waiting = wait(waiting, return_when=least)
                    found += sum(future.result() for future in done)
                    progress.advance(bar, len(done))
    return found
