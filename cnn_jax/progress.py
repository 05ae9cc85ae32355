"""Progress bars: shown on a terminal, silent where the output is a file or a pipe."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from cnn_jax import processors

T = TypeVar("T")
R = TypeVar("R")

_SLICE = 1024


class PipeConsole(Console):
    """A console that raises BrokenPipeError where nobody reads its output any more.

    Rich's own raises SystemExit, which ends whatever thread prints without a word.
    """

    def on_broken_pipe(self) -> None:
        raise  # within rich's handler


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Yield the items and show a bar on standard error, which disappears at the end.

    Args:
        items: the iterable to follow.
        description: the text before the bar.
        total: the number of items; by default their length.
    """
    console = PipeConsole(stderr=True)
    return rich_track(
        items,
        description,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def in_threads(
    function: Callable[[T], R],
    items: Sequence[T],
    description: str,
    threads: int = 0,
    at_once: int = _SLICE,
) -> Iterator[R]:
    """Call a function for each item in threads, and yield its results in order, with a bar.

    Args:
        function: what is called; it should spend its time outside of Python's lock.
        items: its arguments.
        description: the text before the bar.
        threads: the number of threads; 0 for one per core.
        at_once: the number of results that may wait to be taken.
    """
    with ThreadPoolExecutor(threads or processors.available()) as pool:
        # Submitted in slices: one future per item may take more memory than the items.
        results = (
            result
            for start in range(0, len(items), at_once)
            for result in pool.map(function, items[start : start + at_once])
        )
        yield from track(results, description, len(items))
