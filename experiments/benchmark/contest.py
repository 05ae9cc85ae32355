"""Two contenders, each in a process of its own, that work in turn.

In one process their thread pools would fight over the cores, and the memory of one could not be
told from the other's. The one whose turn it is not waits for a message and costs nothing.
"""

import importlib
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from cnn_jax.errors import UserError

Work = Literal["train", "inference", "data", "readers", "ops", "translate", "coco", "search"]


@dataclass(frozen=True)
class Job:
    """The work that both contenders do.

    Attributes:
        work: training steps, inference, reading and augmenting images, reading alone, an array
            operation, training steps of the translator, COCO's evaluation of detections, or the
            search of nearest vectors.
        model: an architecture's name, or an operation's.
        batch_size: images a step (of COCO's evaluation: of the set), boxes, sentence pairs, or
            queries.
        image_size: pixels on a side of what the network is fed; for sentences their tokens, for
            vectors their numbers.
        num_classes: number of logits.
        dtype: what the network computes in.
        folder: class folders of images, below `train/`, for `data` and `readers`.
        packed: whether `folder` holds packed data instead.
        workers: processes that read, for `data` and `readers`.
        compiled: whether torch compiles the network.
    """

    work: Work
    model: str
    batch_size: int
    image_size: int
    num_classes: int = 1000
    dtype: str = "float32"
    folder: str = ""
    packed: bool = False
    workers: int = 0
    compiled: bool = False


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to run.

    Attributes:
        run: does that many steps and returns when they are done.
        facts: what it says of itself, asked after the first step; `parameters` must be the same
            for both.
        memory: peak bytes so far.
    """

    run: Callable[[int], None]
    facts: Callable[[], dict[str, Any]]
    memory: Callable[[], int]


@dataclass(frozen=True)
class Measurement:
    """The result of one contender.

    Attributes:
        rates: images (boxes, sentence pairs) a second, one a round.
        first_step_seconds: from nothing but imported libraries to the end of the first step:
            building, compiling, running.
        peak_bytes: memory of the process or, on an accelerator, of the device.
        facts: what the contender said of itself.
    """

    rates: Sequence[float]
    first_step_seconds: float
    peak_bytes: int
    facts: dict[str, Any]

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)


class Contender:
    """A process that has prepared a job and runs steps of it when told.

    Args:
        module: name of the module whose `prepare(job)` the process calls.
        job: what to do.

    Raises:
        UserError: the process cannot do the job.
    """

    def __init__(self, module: str, job: Job) -> None:
        self._job = job
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, module, job), daemon=False)
        self._process.start()
        theirs.close()
        self.first_step_seconds, self.facts = self._receive()
        self.rates: list[float] = []

    def play(self, steps: int) -> float:
        """Run so many steps; returns and notes the images (boxes, sentence pairs) a second."""
        self._connection.send(steps)
        self.rates.append(steps * self._job.batch_size / self._receive())
        return self.rates[-1]

    def close(self) -> int:
        """End the process; returns its peak memory in bytes."""
        self._connection.send(0)
        peak = self._receive()
        self._process.join()
        return peak

    def stop(self) -> None:
        """End the process without asking."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            # The kernel kills what takes the last memory; whatever else failed has said so.
            killed = code == -signal.SIGKILL
            reason = "out of memory? try a smaller --batch-size" if killed else "see above"
            raise UserError(
                f"{self._job.model}: the {self._job.work} process ended early (exit code {code}); "
                f"{reason}"
            ) from None
        if isinstance(answer, UserError):
            self.stop()
            raise answer
        return answer


def contest(modules: Sequence[str], job: Job, rounds: int, seconds: float) -> list[Measurement]:
    """Let contenders do a job in turn, round by round, and measure each.

    Args:
        modules: see `Contender`; the first one begins the first round, the next one the second.
        job: what to do.
        rounds: turns that each gets.
        seconds: least length of a turn.

    Raises:
        UserError: one cannot do the job, or they do not do the same.
    """
    contenders: list[Contender] = []
    try:
        for module in modules:
            contenders.append(Contender(module, job))
        counts = {c.facts["parameters"] for c in contenders if "parameters" in c.facts}
        if len(counts) > 1:
            raise UserError(f"{job.model}: the networks differ: {sorted(counts)} parameters")
        steps = [_steps_for(c, job, seconds) for c in contenders]
        for number in range(rounds):
            order = list(zip(contenders, steps, strict=True))
            for contender, count in order[number % len(order) :] + order[: number % len(order)]:
                contender.play(count)
        return [Measurement(c.rates, c.first_step_seconds, c.close(), c.facts) for c in contenders]
    except BaseException:
        for contender in contenders:
            contender.stop()
        raise


def ratios(ours: Measurement, theirs: Measurement) -> list[float]:
    """Ours over theirs, round by round: above 1 is faster."""
    return [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]


def _steps_for(contender: Contender, job: Job, seconds: float) -> int:
    """Find the number of steps that take so long; this also warms the contender up."""
    steps = 1
    while True:
        lasted = steps * job.batch_size / contender.play(steps)
        if lasted >= seconds / 4:
            contender.rates.clear()
            return max(1, round(steps * seconds / lasted))
        steps *= 2


def _serve(connection: Connection, module: str, job: Job) -> None:
    """The contender's process: prepare, then answer every number of steps with the seconds."""
    # The device's memory is shared by both contenders.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        prepare: Callable[[Job], Prepared] = importlib.import_module(module).prepare
        started = time.perf_counter()
        prepared = prepare(job)
        prepared.run(1)
        first_step_seconds = time.perf_counter() - started
        connection.send((first_step_seconds, prepared.facts()))
        while steps := connection.recv():
            started = time.perf_counter()
            prepared.run(steps)
            connection.send(time.perf_counter() - started)
        connection.send(prepared.memory())
    except UserError as error:
        connection.send(error)
    except ImportError as error:
        connection.send(UserError(f"{module.rpartition('.')[2]}: cannot be imported ({error})"))
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        connection.send(UserError(f"{job.model}: out of memory; try a smaller --batch-size"))
