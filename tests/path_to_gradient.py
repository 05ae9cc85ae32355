"""Count the code that a reader meets between a command and its first gradient.

python -m tests.path_to_gradient

It runs `classify` on the built-in data under `sys.setprofile`, up to the first call of
`jax.value_and_grad`. It lists the project's files that hold a function which ran, with their lines,
and marks the files on the stack at that moment.
"""

import sys
import tempfile
import threading
import traceback
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]


class _GradientError(BaseException):
    """The first gradient is reached."""


def main() -> None:
    """Print the files, and their number and lines."""
    from experiments import classify

    ran: set[str] = set()
    stack: set[str] = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_name != "<module>":
            ran.add(frame.f_code.co_filename)

    def stop(*args, **kwargs):
        stack.update(entry.filename for entry in traceback.extract_stack())
        raise _GradientError

    jax.value_and_grad = stop
    with tempfile.TemporaryDirectory() as out:
        flags = ["--width", "0.25", "--batch-size", "8", "--steps", "1", "--out", f"{out}/run"]
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            classify.main(flags)
        except _GradientError:
            pass
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    own = {
        path.relative_to(ROOT): str(path) in stack
        for path in map(Path, ran | stack)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] != "tests"
    }
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in own}
    for path in sorted(own, key=lambda path: (not own[path], path)):
        print(f"{lines[path]:5d} {'*' if own[path] else ' '} {path}")
    on_stack = [path for path in own if own[path]]
    print(f"ran: {len(own)} files, {sum(lines.values()):,} lines")
    print(f"on the stack (*): {len(on_stack)} files, {sum(lines[p] for p in on_stack):,} lines")


if __name__ == "__main__":
    main()
