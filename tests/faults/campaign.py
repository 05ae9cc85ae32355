"""A campaign of cases: each is drawn from a seed, runs in a worker, and may be repeated alone.

A worker is a process of its own. What hangs is killed after its time, what takes too much memory
meets a limit, and neither ends the campaign. Every result is a line of the campaign's file, so a
campaign goes on where it was stopped.
"""

import json
import multiprocessing
import resource
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.errors import DivergenceError, UserError

MIB = 2**20

PREPARATION = 120.0
"""The least number of seconds in which a case says what it does."""


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    Attributes:
        targets: what is tried, by name: a verb, a format.
        run: tries one: from the target, a random generator and an empty folder to a description
            of what was done, which it first hands to `tell`. A UserError is a refusal; any other
            exception is a fault.
        count: the number of cases of a whole campaign.
        seconds: the time that one case may take.
        memory: the bytes that one case may take above what the worker has; None where it limits
            the processes that it starts itself.
    """

    targets: Callable[[], Sequence[str]]
    run: Callable[[str, np.random.Generator, Path, Callable[[str], None]], None]
    count: int
    seconds: float = 10.0
    memory: int | None = 1024 * MIB


@dataclass(frozen=True)
class Result:
    """The outcome of a case: `accepted`, `refused`, or `fault` with its problem."""

    case: str
    outcome: str
    what: str = ""
    problem: str = ""
    seconds: float = 0.0


def case_names(kind: str, targets: Sequence[str]) -> Iterator[str]:
    """Name the cases of a kind, without end: all targets in turn, `data/voc/0`, `data/coco/0`."""
    index = 0
    while True:
        for target in targets:
            yield f"{kind}/{target}/{index}"
        index += 1


def generator(seed: int, case: str) -> np.random.Generator:
    """The random numbers of a case."""
    return np.random.default_rng([seed, zlib.crc32(case.encode())])


class Worker:
    """A process that tries cases, one after another; it is replaced where a case kills it."""

    def __init__(self, kinds: Callable[[], Mapping[str, Kind]], seed: int):
        """Take a function, importable by the worker, that returns the kinds."""
        self._kinds, self._seed = kinds, seed
        self._process: Any = None
        self._pipe: Any = None

    def attempt(self, case: str, seconds: float) -> Result:
        """Try a case for at most so many seconds, from when it says what it does."""
        if self._process is None:
            self._start()
        self._pipe.send(case)
        # Data may have to be written first, or a run trained.
        what, begin, most = "", time.monotonic(), max(PREPARATION, seconds)
        while True:
            left = most - (time.monotonic() - begin)
            if left <= 0 or not self._pipe.poll(left):
                self.close()
                return Result(case, "fault", what, f"hangs: not done after {most:g} s", seconds)
            try:
                message = self._pipe.recv()
            except EOFError:
                self._process.join()
                code = self._process.exitcode
                self.close()
                return Result(case, "fault", what, f"the process died (status {code})")
            if isinstance(message, Result):
                return message
            what, begin, most = message, time.monotonic(), seconds

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(other, self._kinds, self._seed))
        self._process.start()
        other.close()
        assert self._pipe.recv() == "ready"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _work(pipe: Any, kinds_of: Callable[[], Mapping[str, Kind]], seed: int) -> None:
    """Try the cases that come through the pipe."""
    kinds = kinds_of()
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:  # the campaign has ended
            return
        name, target, _ = case.split("/")
        pipe.send(attempt(kinds[name], case, target, seed, pipe.send))


def attempt(
    kind: Kind, case: str, target: str, seed: int, tell: Callable[[str], None] = lambda _: None
) -> Result:
    """Try a case in this process, with a limit of memory."""
    said = [""]

    def describe(what: str) -> None:
        said[0] = what
        tell(what)

    begin = time.monotonic()
    _limit_memory(kind.memory)
    outcome, problem = "accepted", ""
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            kind.run(target, generator(seed, case), Path(folder), describe)
    except UserError as error:
        outcome, problem = "refused", str(error)
        if fault := message_fault(problem):
            outcome, problem = "fault", f"{fault}: {problem!r}"
    except DivergenceError as error:
        outcome, problem = "refused", str(error)
    except BaseException as error:
        outcome = "fault"
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        problem = f"{type(error).__name__}: {text} ({place.filename}:{place.lineno})"
    finally:
        _limit_memory(None)
    return Result(case, outcome, said[0], problem, round(time.monotonic() - begin, 2))


def message_fault(message: str) -> str | None:
    """Find a fault in an error message for a user; None if it has none."""
    try:
        message.encode()
    except UnicodeEncodeError:
        return "the message cannot be printed"
    if "\n" in message or "\r" in message or "\0" in message:
        return "the message has more than one line, or zero bytes"
    if len(message) > 1500:
        return f"the message has {len(message)} characters"
    return None


def _limit_memory(more: int | None) -> None:
    """Let this process have at most so many bytes more than it has; None lifts the limit."""
    most = resource.RLIM_INFINITY
    if more is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


class Record:
    """The file of a campaign: its seed, then a line for each case tried."""

    def __init__(self, path: Path, seed: int):
        """Open the file of an earlier campaign with the same seed, or begin a new one."""
        self.path, self.results = path, dict[str, Result]()
        if path.exists():
            first, *lines = path.read_text().splitlines()
            if json.loads(first) != {"seed": seed}:
                raise SystemExit(f"{path}: a campaign of another seed, {first}; name another file")
            for line in lines:
                result = Result(**json.loads(line))
                self.results[result.case] = result
        else:
            path.write_text(json.dumps({"seed": seed}) + "\n")

    def add(self, result: Result) -> None:
        """Keep a result."""
        self.results[result.case] = result
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
