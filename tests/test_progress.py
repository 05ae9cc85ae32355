"""Progress bars are shown only on terminals."""

import io

from rich.console import Console

from cnn_jax import progress


def test_a_bar_is_drawn_on_a_terminal_and_nothing_elsewhere(monkeypatch):
    for terminal in (True, False):
        written = io.StringIO()
        console = Console(file=written, force_terminal=terminal, width=80)
        monkeypatch.setattr(progress, "PipeConsole", lambda stderr, console=console: console)
        assert list(progress.track(iter(range(3)), "Waiting", 3)) == [0, 1, 2]
        assert ("Waiting" in written.getvalue()) == terminal
        assert terminal or not written.getvalue()
