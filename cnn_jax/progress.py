"""How far something is that a user waits for: a bar on a terminal, nothing in a file or a pipe."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The items, with a bar on standard error that goes when they are through.

    Args:
        items: what is waited for.
        description: stands before the bar.
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
