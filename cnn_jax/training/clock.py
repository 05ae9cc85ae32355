"""The share of time in which the device had a step to work on, and the causes of the rest.

The host launches a step, and the device works on it until its results are ready. The device is busy
from the launch, or from the end of the step before, until then. All other time is lost, whatever
the host was doing: it counts for the activity that the thread which launches steps was in.

The first call of a function compiles it; the whole call counts as compiling.

On a CPU the launch of a step is the step itself (see `cnn_jax.training.backend`), so busy is the
time inside compiled steps.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, get_args

import jax

from cnn_jax.runs.folder import TIME_PREFIX
from cnn_jax.runs.names import duration, metric

Activity = Literal[
    "compiling",
    "loading",
    "data",
    "transfer",
    "launch",
    "evaluation",
    "saving",
    "reporting",
    "other",
]
"""The causes of lost time: `loading` puts all examples on the device, `data` waits for the next
batch, `transfer` copies it to the device, `launch` calls a compiled step, and `evaluation` is the
work of an evaluation between its steps."""

ACTIVITIES: tuple[Activity, ...] = get_args(Activity)

Seconds = int | float

# A cause is worth a line when it costs more than this share, after so many seconds of training.
_MUCH, _SETTLED = 0.1, 20.0

NAMES = ("steps", *ACTIVITIES)

Times = dict[str, int | float]
"""Seconds by the names in `NAMES`; together they are the time that has passed."""


class Ledger:
    """Adds up the time of steps, and of activities while no step ran. It knows no clock.

    Times are seconds of one monotonic clock. Steps and activities are each told in order.
    """

    def __init__(self, start: Seconds) -> None:
        self._since = self._last_end = start
        self._activities: list[tuple[float, float, Activity]] = []
        self._steps: list[tuple[float, float]] = []

    def activity(self, start: Seconds, end: Seconds, activity: Activity) -> None:
        """Note what the host did from `start` to `end`."""
        if end > start:
            self._activities.append((start, end, activity))

    def step(self, launched: Seconds, ready: Seconds) -> None:
        """Note a step that was launched and became ready; it ran after the one before it."""
        start = max(launched, self._last_end)
        if ready > start:
            self._steps.append((start, ready))
            self._last_end = ready

    def take(self, now: Seconds) -> Times:
        """Return the times since the last call, or the start, until `now`."""
        times = dict.fromkeys(NAMES, 0.0)
        # A step may have ended since `now` was read: the rest of it belongs to the next call.
        rest = [(max(start, now), end) for start, end in self._steps if end > now]
        self._steps = [(start, min(end, now)) for start, end in self._steps if start < now]
        times["steps"] = sum((end - start for start, end in self._steps), 0.0)
        passed = 0
        for start, end, activity in self._activities:
            while passed < len(self._steps) and self._steps[passed][1] <= start:
                passed += 1
            # An activity may span several steps, and the last of them may reach into the next one.
            shared, step = 0.0, passed
            while step < len(self._steps) and self._steps[step][0] < end:
                begun, ready = self._steps[step]
                shared += min(ready, end) - max(begun, start)
                step += 1
            times[activity] += end - start - shared
        times["other"] += max(0.0, now - self._since - sum(times.values()))
        self._activities, self._steps, self._since = [], rest, now
        return times


class DeviceClock:
    """The clock of the thread that launches steps.

    Args:
        clock: a monotonic clock in seconds.
        wait: returns when a result of a step is ready.
        synchronous: whether a launch returns when the step has ended; by default, as the backend
            and its settings say.
    """

    def __init__(
        self,
        clock: Callable[[], Seconds] = time.perf_counter,
        wait: Callable[[Any], Any] = jax.block_until_ready,
        synchronous: bool | None = None,
    ) -> None:
        if synchronous is None:
            asynchronous = jax.config.read("jax_cpu_enable_async_dispatch")
            synchronous = jax.default_backend() == "cpu" and not asynchronous
        self._clock, self._wait, self._synchronous = clock, wait, synchronous
        self._since = clock()
        self._activity: Activity = "other"
        self._compiled: set[Callable[..., Any]] = set()
        self._total = dict.fromkeys(NAMES, 0.0)
        self._lock = threading.Lock()  # for what the watcher uses too
        self._ledger = Ledger(self._since)
        self._running: deque[float] = deque()  # the launches of steps that are not ready
        self._results: queue.SimpleQueue[tuple[Any] | None] = queue.SimpleQueue()
        self._watcher: threading.Thread | None = None

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        """Count the time inside as this activity, as far as no step runs.

        It is an event of the trace, where the run is profiled.
        """
        outer = self._turn(activity)
        try:
            with jax.profiler.TraceAnnotation(activity):
                yield
        finally:
            self._turn(outer)

    def step(self, function: Callable[..., Any], *args: Any, ends_with: int) -> Any:
        """Call a compiled step, and note when the device works on it.

        Args:
            function: the compiled function.
            args: its arguments.
            ends_with: which of its results shows that it has ended; one that is never donated.
        """
        first = function not in self._compiled
        self._compiled.add(function)
        with self.during("compiling" if first else "launch"):
            began = self._clock()
            results = function(*args)
            now = self._clock()
        if self._synchronous:
            with self._lock:
                self._ledger.step(now if first else began, now)
            return results
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        with self._lock:
            self._running.append(now)
        self._results.put((results[ends_with],))
        return results

    def take(self) -> Times:
        """Return the times since the last call, or the start."""
        self._turn(self._activity)
        with self._lock:
            if self._running:
                self._ledger.step(self._running[0], self._since)
            times = self._ledger.take(self._since)
        self._total = {name: self._total[name] + seconds for name, seconds in times.items()}
        return times

    @property
    def total(self) -> Times:
        """The times from the start to the last `take`."""
        return dict(self._total)

    def close(self) -> None:
        """End the thread that waits for steps."""
        if self._watcher is not None:
            self._results.put(None)
            self._watcher.join()
            self._watcher = None

    def _turn(self, activity: Activity) -> Activity:
        """Begin an activity, and return the one that it ends."""
        now = self._clock()
        with self._lock:
            self._ledger.activity(self._since, now, self._activity)
        outer, self._activity, self._since = self._activity, activity, now
        return outer

    def _watch(self) -> None:
        """Note the ends of the launched steps, one by one.

        This thread may have to wait for the interpreter's lock. So the end of a step can seem
        later than it was, by some milliseconds, where other threads compute.
        """
        while (result := self._results.get()) is not None:
            # A step that failed has ended too; whoever uses its results is told.
            with suppress(Exception):
                self._wait(result[0])
            del result
            with self._lock:
                self._ledger.step(self._running.popleft(), self._clock())


def busy(times: Times) -> float:
    """The share of time in which the device had a step to work on."""
    total = sum(times.values())
    return times["steps"] / total if total else 0.0


def in_row(times: Times) -> dict[str, float]:
    """The times as they stand in a row of `metrics.jsonl`."""
    return {f"{TIME_PREFIX}{name}": round(seconds, 6) for name, seconds in times.items()}


def main_cause(total: Times) -> Activity | None:
    """The activity that costs most, if it goes on and costs enough to be worth a line."""
    total = _repeated(total)
    passed = sum(total.values())
    cause = max(ACTIVITIES, key=lambda name: total[name])
    return cause if passed >= _SETTLED and total[cause] > _MUCH * passed else None


def warning(total: Times, cause: Activity, advice: str | None) -> str:
    """A line about time that the device loses."""
    share = total[cause] / sum(_repeated(total).values())
    line = f"the device waits {_percent(share)} of the time for {_label(cause)}"
    return f"{line}; {advice}" if advice else line


def summary(total: Times) -> str:
    """A line about the time of a run: `device busy 97 % of 12 min 03 s; ...`."""
    passed = sum(total.values())
    causes = sorted(ACTIVITIES, key=lambda name: -total[name])
    lost = [
        f"{_label(name)} {_percent(total[name] / passed)}"
        for name in causes
        if total[name] >= 0.001 * passed > 0
    ]
    line = f"device busy {_percent(busy(total))} of {duration(passed)}"
    return f"{line}; the rest: {', '.join(lost)}" if lost else line


def _repeated(total: Times) -> Times:
    """The times without those of what a run does once."""
    return {**total, "compiling": 0.0, "loading": 0.0}


def _label(activity: Activity) -> str:
    return metric(TIME_PREFIX + activity).label


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
