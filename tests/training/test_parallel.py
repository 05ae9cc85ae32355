"""Steps over 1, 2, 4 and 8 devices, and over two processes, under `pmap` and under its twin."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnn_jax.training import parallel
from tests import commands
from tests.collectives import collectives, compiled_step, size

# Three steps, an evaluation and batch statistics, under both transforms: the bits must be equal.
STEPS = """
import json
import jax
import numpy as np
import optax
from cnn_jax.training import parallel, prng
from cnn_jax.training.averaging import MovingAverage
from tests.checks import assert_same_bits
from tests.collectives import collectives
from tests.training.test_step import Regression, make_batch, start

if {distributed}:
    parallel.initialize()
results, moved = [], {{}}
for transform in ("pmap", "shard"):
    task, key = Regression(dropout_rate=0.3), prng.root(0)
    state, optimizer = start(task, optax.adam(0.1), ema=True)
    step = parallel.compile_train_step(
        task, optimizer, accumulate=2, average=MovingAverage(0.9), transform=transform
    )
    evaluate = parallel.compile_evaluation_step(task, transform=transform)
    statistics = parallel.compile_batch_statistics(task, transform=transform)
    rows = slice(jax.process_index() * 16 // jax.process_count(), None)
    rows = slice(rows.start, rows.start + 16 // jax.process_count())
    batches = [{{k: v[rows] for k, v in make_batch(seed).items()}} for seed in range(3)]
    state = parallel.replicate(state)
    if parallel.alone():
        program = step.lower(state, parallel.split(batches[0]), key).compile().as_text()
        moved[transform] = sum(count for _, count in collectives(program))
    for _, batch in parallel.prefetch(batches):
        state, sums = step(state, batch, key)
    assert parallel.replicas_agree((state, sums))
    totals, _, predictions = evaluate(state, batch)
    found = state, sums, statistics(state, batch, key), totals
    results.append((jax.tree.map(np.asarray, found), parallel.merge(predictions)))
assert_same_bits(*results)
(state, sums, _, _), _ = results[0]
print(json.dumps([jax.device_count(), moved, float(sums["loss"])]))
"""


def alone(devices):
    ended = subprocess.run(
        [sys.executable, "-c", STEPS.format(distributed=False)],
        env=commands.environment(devices=devices),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.optimized
def test_both_transforms_have_the_same_bits_and_bytes_on_any_number_of_devices():
    found = {devices: alone(devices) for devices in (1, 2, 4, 8)}
    sent = set()
    for devices, (count, moved, loss) in found.items():
        assert count == devices
        # Dropout masks differ by device, and sums by rounding: the same training all the same.
        assert loss == pytest.approx(found[1][2], rel=0.2)
        sent |= {(moved["pmap"], moved["shard"])} if devices > 1 else set()
    ((pmapped, sharded),) = sent  # the same for 2, 4 and 8
    assert pmapped == sharded > 0


@pytest.mark.slow
@pytest.mark.optimized
def test_both_transforms_have_the_same_bits_in_two_processes():
    processes = commands.start(["-c", STEPS.format(distributed=True)], processes=2, devices=2)
    ended = [commands.finish(process) for process in processes]
    results = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    assert results[0] == results[1]
    assert results[0][0] == 4


@pytest.mark.slow
def test_a_step_sends_each_gradient_once_and_batch_statistics_twice():
    text, state = compiled_step("resnet20", width=0.25)
    found = collectives(text)
    assert {name for name, _ in found} == {"all-reduce"}
    moved = sum(count for _, count in found)
    # Means and variances forward, and their gradients backward; a few sums of the batch.
    least = size(state.params) + 2 * size(state.model_state)
    assert least <= moved <= least + 64
    # The same whatever the transform.
    assert collectives(compiled_step("resnet20", "shard", width=0.25)[0]) == found


def test_collectives_are_found_in_a_program():
    program = """
      %all-reduce.3 = f32[8,3]{1,0} all-reduce(%x), replica_groups={{0,1}}
      %start = (f32[4]{0}, bf16[2,2]{1,0}) all-reduce-start(%y, %z), channel_id=1
      ROOT %done = (f32[4]{0}, bf16[2,2]{1,0}) all-reduce-done(%start)
      %p = s32[] collective-permute(%w), source_target_pairs={{0,1}}
      %add = f32[8,3]{1,0} add(%all-reduce.3, %all-reduce.3)
    """
    assert collectives(program) == [
        ("all-reduce", 96),
        ("all-reduce", 24),
        ("collective-permute", 4),
    ]


def test_a_batch_lies_on_its_devices_before_the_step_asks_for_it():
    """The form in which `pmap` takes a process's rows without a copy."""
    batches = [{"x": np.arange(8.0, dtype=np.float32).reshape(8, 1) + step} for step in range(4)]
    asked = []

    def reading():
        for number, batch in enumerate(batches):
            asked.append(number)
            yield batch

    for number, (host, placed) in enumerate(parallel.prefetch(reading())):
        assert host is batches[number]
        assert len(asked) == min(number + 3, 4)
        x = placed["x"]
        assert isinstance(x, jax.Array) and x.shape == (4, 2, 1)
        assert x.sharding.spec == jax.sharding.PartitionSpec(parallel.AXIS)
        assert [s.device for s in x.addressable_shards] == jax.local_devices()
        np.testing.assert_array_equal(parallel.merge(x), host["x"])
