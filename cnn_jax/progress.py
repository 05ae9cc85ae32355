"""Progress bars: shown on a terminal, silent where the output is a file or a pipe."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Yield the items and show a bar on standard error, which disappears at the end.

    Args:
        items: the iterable to follow.
        description: the text before the bar.
        total: the number of items; by default their length.
    """
    console = Console(stderr=True)
    return rich_track(
        items,
        description,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
