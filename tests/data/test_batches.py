"""Batches: their examples and their order do not depend on the reader."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnn_jax
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.readers import suitable_readers
from cnn_jax.data.shared import Slots
from cnn_jax.data.workers import worker_processes
from cnn_jax.errors import UserError


class Numbers:
    """Example i is an image full of i; some examples may be bad."""

    class_names = ("even", "odd")

    def __init__(self, count: int, bad: int | None = None, wide: int | None = None):
        self.count, self.bad, self.wide = count, bad, wide

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.bad:
            raise UserError(f"{self.describe(index)}: damaged")
        width = 4 if index == self.wide else 3
        image = np.full((2, width, 3), index % 256, np.uint8)
        return {"image": image, "label": np.int32(index % 2), "boxes": np.full((2, 4), index / 8)}

    def describe(self, index):
        return f"number {index}"


def unchanged(example):
    return example


def brighter(example):
    return {**example, "image": example["image"] + np.uint8(1)}


def take(iterator, count):
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        assert batch[name].dtype == other[name].dtype
        np.testing.assert_array_equal(batch[name], other[name])


def test_a_batch_holds_the_transformed_examples():
    batch = TrainingBatches(Numbers(10), brighter, batch_size=4, seed=0)[5]
    assert {name: (column.shape, column.dtype.name) for name, column in batch.items()} == {
        "image": ((4, 2, 3, 3), "uint8"),
        "label": ((4,), "int32"),
        "boxes": ((4, 2, 4), "float64"),
        "index": ((4,), "int32"),
        "ordinal": ((4,), "int32"),
        "epoch": ((4,), "int32"),
        "valid": ((4,), "bool"),
    }
    assert all(type(column) is np.ndarray for column in batch.values())
    np.testing.assert_array_equal(batch["ordinal"], [20, 21, 22, 23])
    np.testing.assert_array_equal(batch["epoch"], [2, 2, 2, 2])
    across = TrainingBatches(Numbers(10), brighter, batch_size=4, seed=0)[2]
    np.testing.assert_array_equal(across["epoch"], [0, 0, 1, 1])
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"] + 1)
    np.testing.assert_array_equal(batch["label"], batch["index"] % 2)
    np.testing.assert_array_equal(batch["boxes"][:, 1, 1], batch["index"] / 8)
    assert batch["valid"].all()


@given(count=st.integers(1, 40), batch_size=st.integers(1, 17), seed=st.integers(0, 2**63))
@settings(max_examples=40, deadline=None)
def test_each_epoch_covers_the_source_once_in_a_new_order(count, batch_size, seed):
    batches = TrainingBatches(Numbers(count), unchanged, batch_size=batch_size, seed=seed)
    steps = -(-3 * count // batch_size)
    order = np.concatenate([batches[step]["index"] for step in range(steps)])
    epochs = order[: 3 * count].reshape(3, count)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))
    if count > 12:  # The chance of the same permutation twice is below 1e-9.
        assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_every_example_meets_every_place():
    # Over many epochs each example is about equally often first.
    batches = TrainingBatches(Numbers(5), unchanged, batch_size=5, seed=1)
    first = Counter(int(batches[step]["index"][0]) for step in range(1000))
    assert all(150 < first[index] < 250 for index in range(5))


def test_the_seed_is_the_order():
    def order(seed):
        batches = TrainingBatches(Numbers(100), unchanged, batch_size=100, seed=seed)
        return [tuple(batches[step]["index"]) for step in range(4)]

    assert order(7) == order(7)
    # No epoch of one run is an epoch of the run with the next seed.
    assert not set(order(7)) & set(order(8))


@pytest.mark.parametrize(
    ("start", "workers"), [(0, 0), (5, 0), pytest.param(5, 2, marks=pytest.mark.slow)]
)
def test_reading_ahead_from_anywhere_gives_the_same_batches(start, workers):
    batches = TrainingBatches(Numbers(50), brighter, batch_size=8, seed=3, workers=workers)
    for step, batch in enumerate(take(batches.iterate(start), 9), start):
        assert_same(batch, batches[step])


def test_resuming_far_into_a_run():
    batches = TrainingBatches(Numbers(50), unchanged, batch_size=8, seed=3)
    step = 2**31 // 8 + 5
    batch = take(batches.iterate(step), 1)[0]
    assert_same(batch, batches[step])
    np.testing.assert_array_equal(batch["ordinal"], np.arange(8) + 40)


@given(count=st.integers(1, 30), size=st.integers(1, 5), processes=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_processes_share_each_batch(count, size, processes):
    size *= processes
    for kind, options in ((TrainingBatches, {"seed": 5}), (EvaluationBatches, {})):
        whole = kind(Numbers(count), unchanged, batch_size=size, **options)
        parts = [
            kind(
                Numbers(count),
                unchanged,
                batch_size=size,
                process_index=process,
                process_count=processes,
                **options,
            )
            for process in range(processes)
        ]
        steps = 3 if kind is TrainingBatches else len(whole)
        assert kind is TrainingBatches or {len(part) for part in parts} == {steps}
        for step in range(steps):
            shares = [part[step] for part in parts]
            joined = {name: np.concatenate([s[name] for s in shares]) for name in shares[0]}
            assert_same(joined, whole[step])


@given(count=st.integers(1, 40), batch_size=st.integers(1, 17))
@settings(max_examples=40, deadline=None)
def test_evaluation_reads_everything_once_and_pads_the_tail(count, batch_size):
    batches = EvaluationBatches(Numbers(count), brighter, batch_size=batch_size)
    read = list(batches.iterate())
    assert len(read) == len(batches) == -(-count // batch_size)
    assert all(len(batch["valid"]) == batch_size for batch in read)
    joined = {name: np.concatenate([batch[name] for batch in read]) for name in read[0]}
    valid = joined["valid"]
    np.testing.assert_array_equal(valid, np.arange(len(valid)) < count)
    np.testing.assert_array_equal(joined["index"][valid], np.arange(count))
    np.testing.assert_array_equal(joined["ordinal"], np.arange(len(valid)))
    np.testing.assert_array_equal(joined["image"][valid][:, 0, 0, 0], np.arange(count) + 1)
    for name in ("image", "label", "boxes", "index"):
        assert not joined[name][~valid].any()


@pytest.mark.slow
def test_evaluation_in_worker_processes():
    alone = EvaluationBatches(Numbers(13), brighter, batch_size=4)
    helped = EvaluationBatches(Numbers(13), brighter, batch_size=4, workers=2)
    for batch, other in zip(helped.iterate(), alone.iterate(), strict=True):
        assert_same(batch, other)


def test_a_number_out_of_range():
    batches = EvaluationBatches(Numbers(5), unchanged, batch_size=4)
    with pytest.raises(IndexError):
        batches[2]
    assert len(list(batches)) == 2


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_bad_example_ends_reading_with_its_own_message(workers):
    batches = EvaluationBatches(Numbers(20, bad=9), unchanged, batch_size=4, workers=workers)
    iterator = batches.iterate()
    # The batches before it come whole.
    assert next(iterator)["index"][-1] == 3
    assert next(iterator)["index"][-1] == 7
    with pytest.raises(UserError) as caught:
        next(iterator)
    assert caught.value.args == ("number 9: damaged",)
    assert not hasattr(caught.value, "__notes__")


def test_unequal_shapes_name_both_examples():
    batches = EvaluationBatches(Numbers(4, wide=2), unchanged, batch_size=4)
    with pytest.raises(UserError, match=r"number 2 and number 0: image of shapes .2, 4, 3. and"):
        batches[0]


def test_unequal_contents_name_both_examples():
    def transform(example):
        return {"image": example["image"]} if example["label"] else example

    batches = EvaluationBatches(Numbers(4), transform, batch_size=4)
    with pytest.raises(UserError, match="number 1 and number 0: examples with different contents"):
        batches[0]


def test_a_batch_that_processes_cannot_share():
    with pytest.raises(UserError, match="10: is not divisible by the 4 processes"):
        TrainingBatches(Numbers(5), unchanged, batch_size=10, seed=0, process_count=4)


def test_an_empty_source():
    with pytest.raises(UserError, match="no examples"):
        TrainingBatches(Numbers(0), unchanged, batch_size=1, seed=0)


def test_cached_examples_are_read_once():
    read = Counter()

    class Counted(Numbers):
        def __getitem__(self, index):
            read[index] += 1
            return super().__getitem__(index)

    def batches(source, cache_bytes):
        return TrainingBatches(source, brighter, batch_size=5, seed=2, cache_bytes=cache_bytes)

    source, plain = Counted(10), batches(Numbers(10), 0)
    bytes_each = 2 * 3 * 3 + 4 + 2 * 4 * 8
    cached = batches(source, 10 * bytes_each)
    for step in range(8):
        assert_same(cached[step], plain[step])
    assert set(read.values()) == {1}
    read.clear()
    too_small = batches(source, 10 * bytes_each - 1)
    for step in range(4):
        assert_same(too_small[step], plain[step])
    assert set(read.values()) == {2}


class Noted(Numbers):
    """Notes in a file which example is read."""

    def __init__(self, count, path):
        super().__init__(count)
        self.path = path

    def __getitem__(self, index):
        with open(self.path, "a") as file:
            file.write(f"{index}\n")
        return super().__getitem__(index)


@pytest.mark.slow
def test_worker_processes_keep_examples_together(tmp_path):
    source, plain = Noted(24, tmp_path / "read"), Numbers(24)
    batches = TrainingBatches(source, brighter, batch_size=6, seed=4, workers=2, cache_bytes=10**6)
    expected = TrainingBatches(plain, brighter, batch_size=6, seed=4)
    iterator = batches.iterate()
    for step in range(12):
        assert_same(next(iterator), expected[step])
        time.sleep(0.05)  # one epoch is handed in before another asks for its examples
    iterator.close()
    read = Counter((tmp_path / "read").read_text().split())
    assert len(read) == 24
    # Batches that are read at the same time cannot know of each other.
    assert sum(read.values()) < 24 * 2
    # Another reader of the same batches finds all of it in memory.
    before = sum(read.values())
    for step, batch in zip(range(4), batches.iterate(), strict=False):
        assert_same(batch, expected[step])
    after = len((tmp_path / "read").read_text().split())
    assert after <= before + 1  # an example that tells the shapes


@pytest.mark.slow
def test_batches_of_worker_processes_need_no_memory_to_share(monkeypatch):
    def refuse(self, size, *, reserve=False):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnn_jax.data.shared.SharedMemory.enlarge", refuse)
    batches = TrainingBatches(Numbers(20), brighter, batch_size=6, seed=4, workers=1)
    for step, batch in zip(range(3), batches.iterate(), strict=False):
        assert_same(batch, TrainingBatches(Numbers(20), brighter, batch_size=6, seed=4)[step])


def shared_files():
    """What lies in shared memory by name, but for semaphores, which other programs have too."""
    if not os.path.isdir("/dev/shm"):
        return set()
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


@pytest.mark.slow
def test_a_killed_worker_ends_reading_with_one_line():
    before = shared_files()
    iterator = TrainingBatches(Numbers(50), unchanged, batch_size=4, seed=0, workers=2).iterate()
    first = next(iterator)
    kept = {name: column.copy() for name, column in first.items()}
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="--workers 2: a worker process died"):
        for _ in range(100):
            next(iterator)
    assert_same(first, kept)  # what was read stays
    assert shared_files() <= before


def test_a_slot_is_free_when_its_last_array_is_deleted():
    slots = Slots(1000)
    number = slots.take()
    laid, arrays = slots.arrays(number, {"a": (np.int32, (5,)), "b": (np.uint8, (3, 7))})
    arrays["a"][:], arrays["b"][:] = range(5), 9
    batch = slots.view(number, laid)
    np.testing.assert_array_equal(batch["a"], range(5))
    part = batch["b"][1:, ::2]
    other = slots.take()
    assert other != number
    del batch
    assert slots.take() not in (number, other)
    del part
    assert slots.take() == number
    assert slots.arrays(number, {"a": (np.float64, (2000,))}) is None


def test_closing_stops_the_threads():
    def readers():
        return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]

    iterator = TrainingBatches(Numbers(50), unchanged, batch_size=4, seed=0).iterate()
    next(iterator)
    assert readers()
    iterator.close()
    until = time.monotonic() + 10
    while readers() and time.monotonic() < until:
        time.sleep(0.01)
    assert not readers()


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(cnn_jax.__file__).parents[1])}

SCRIPT = """
import numpy as np
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.formats.shapes import ShapesSource

def unchanged(example):
    return example

if __name__ == "__main__":
    source = ShapesSource("train", 0, 32)
    batches = TrainingBatches(source, unchanged, batch_size=64, seed=0, workers={workers})
    iterator = batches.iterate(3)
    kept = [next(iterator) for _ in range(3)]
    {close}
    print("done", sum(int(batch["image"].sum()) for batch in kept))
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    shared = shared_files()
    program = tmp_path / "program.py"
    wait = "print(*(p.pid for p in multiprocessing.active_children()), flush=True); time.sleep(60)"
    program.write_text("import multiprocessing, time\n" + SCRIPT.format(workers=2, close=wait))
    started = subprocess.Popen(
        [sys.executable, str(program)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    with started:
        children = [int(pid) for pid in started.stdout.readline().split()]
        started.kill()
    assert len(children) == 2
    until = time.monotonic() + 20
    while any(map(running, children)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(running, children))
    assert shared_files() <= shared


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("close", ["iterator.close()", "pass"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_program_ends_quietly(tmp_path, workers, close):
    # With batches still in use, and even with the iterator left open.
    program = tmp_path / "program.py"
    program.write_text(SCRIPT.format(workers=workers, close=close))
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith("done")
    assert ended.stderr == ""


def test_more_workers_than_memory_holds_are_refused():
    with (
        pytest.raises(UserError, match=r"--workers 1000000 would need about 200,000\.0 GB"),
        worker_processes(len, 10**6),
    ):
        pass


def test_a_batch_can_be_gathered_from_all_examples_at_once():
    batches = TrainingBatches(Numbers(7), brighter, batch_size=5, seed=2, cache_bytes=10**6)
    everything = batches.everything()
    assert sum(column.nbytes for column in everything.values()) == batches.total_bytes()
    for step in (0, 1, 3):
        places = batches.places(step)
        rows = places.pop("row")
        gathered = {name: column[rows] for name, column in everything.items()} | places
        expected = batches[step]
        assert gathered.keys() == expected.keys()
        for name, column in expected.items():
            np.testing.assert_array_equal(gathered[name], column)
            assert gathered[name].dtype == column.dtype


def test_readers_suit_the_machine_and_the_source(monkeypatch):
    photos, packed = Numbers(10), Numbers(10)
    packed.mapped = True

    def chosen(source, accelerated, cores, free=1e12):
        monkeypatch.setattr("cnn_jax.memory.available", lambda: free)
        readers = suitable_readers(source, accelerated=accelerated, available=cores)
        assert readers.reason.startswith("reading: in ")
        return readers.processes

    assert chosen(packed, True, 64) == 0
    assert chosen(photos, False, 64) == 0
    assert [chosen(photos, True, cores) for cores in (1, 2, 3, 4, 8, 64)] == [0, 0, 0, 2, 6, 16]
    assert chosen(photos, True, 64, free=4e9) == 5
    assert chosen(photos, True, 64, free=float("inf")) == 16
