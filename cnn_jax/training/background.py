"""One thread that does a run's work on the host while its steps go on."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType


class Background:
    """Does jobs in the order in which they are given; after one that failed it does no other.

    Use it as a context manager: leaving the block waits for the jobs, unless Ctrl-C ends it.

    Attributes:
        failure: the exception of the job that failed, or None.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None and kind is not KeyboardInterrupt:
            self._jobs.put(None)
            self._thread.join()

    def submit(self, job: Callable[[], None]) -> None:
        """Do a job after those before it."""
        if self._thread is None:
            # What a killed job leaves is whole or not there; so an interrupted run need not wait.
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    @property
    def idle(self) -> bool:
        """True if all jobs are done."""
        return not self._jobs.unfinished_tasks

    def join(self) -> None:
        """Wait until all jobs are done, or one has failed."""
        self._jobs.join()

    def _work(self) -> None:
        job: Callable[[], None] | None
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                if self.failure is None:
                    job()
            except BaseException as error:
                # Rich, for one, ends a thread whose output nobody reads any more by SystemExit.
                self.failure = error
            finally:
                del job
                self._jobs.task_done()
