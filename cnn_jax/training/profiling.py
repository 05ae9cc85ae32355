"""Some steps of a run, recorded with JAX's profiler."""

import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from cnn_jax import files
from cnn_jax.errors import UserError

STEP_EVENT = "train"
"""The name of a trace's events that are steps; their `step_num` is the number of updates before."""


class Profile:
    """Records some steps of a run, and changes no bit of it.

    Where one call of the device makes several updates, they are one event of the trace.

    Use it as a context manager: where the run ends amid the steps, what is recorded is written.

    Args:
        steps: those that are recorded, by the number of updates before each. Empty for none.
        directory: the folder that TensorBoard opens; every recording gets a new folder below it.
        enabled: False records nothing, for all processes but the first.
    """

    def __init__(self, steps: range, directory: Path, enabled: bool = True) -> None:
        self._steps, self._directory, self._enabled = steps, directory, enabled
        self._written: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._written is not None:
            # A failure before this one is the one that is told.
            with nullcontext() if kind is None else suppress(UserError):
                self.end(())

    def until_turn(self, step: int) -> int | float:
        """The number of updates after `step` until the recording begins or ends.

        It is the same in all processes, which have to make equally many updates at a time.
        """
        turns = (self._steps.start, self._steps.stop) if self._steps else ()
        return min((turn - step for turn in turns if turn > step), default=float("inf"))

    def begins(self, step: int) -> bool:
        """Tell whether `begin` is due before the update after `step`."""
        return self._enabled and self._written is None and step in self._steps

    def ends(self, step: int) -> bool:
        """Tell whether `end` is due after `step` updates."""
        return self._written is not None and step >= self._steps.stop

    def begin(self, results: Any) -> None:
        """Begin when `results` of the step before are ready.

        Raises:
            UserError: another profiler is at work.
        """
        jax.block_until_ready(results)
        with files.writing(Path(tempfile.gettempdir())):
            written = tempfile.TemporaryDirectory()
        options = jax.profiler.ProfileOptions()
        # Calls of Python functions would fill the trace, and push the steps out of it.
        options.python_tracer_level = 0
        # JAX names a recording by the second, and one of the same second would replace another.
        options.session_id = f"{datetime.now():%Y_%m_%d_%H_%M_%S_%f}"
        try:
            jax.profiler.start_trace(written.name, profiler_options=options)
        except RuntimeError as error:
            written.cleanup()
            raise UserError(f"--profile: {error}") from error
        self._written = written

    def end(self, results: Any) -> None:
        """End when `results` of the last step are ready, and write what is recorded.

        Raises:
            UserError: it cannot be written.
        """
        jax.block_until_ready(results)
        written, self._written = self._written, None
        with written:
            try:
                jax.profiler.stop_trace()
            except RuntimeError as error:
                raise UserError(f"--profile: {error}") from error
            # A reader finds each file whole.
            for path in sorted(Path(written.name).rglob("*")):
                if path.is_file():
                    place = self._directory / path.relative_to(written.name)
                    files.replace(place, path.read_bytes())

    def step(self, step: int) -> AbstractContextManager[Any]:
        """A context that marks the update after `step` in the trace."""
        if self._written is None:
            return nullcontext()
        return jax.profiler.StepTraceAnnotation(STEP_EVENT, step_num=step)
