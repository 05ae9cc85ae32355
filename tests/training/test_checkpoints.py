"""Checkpoints keep every bit, restore on any devices, and refuse states that do not fit."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from tests.checks import assert_same_bits


def example_state(seed=0):
    """A training state with every kind of leaf and node that a run can hold."""
    rng = np.random.default_rng(seed)
    params = {
        "Dense_0": {
            "kernel": jnp.asarray(rng.standard_normal((7, 5)), jnp.float32),
            "bias": jnp.asarray(rng.standard_normal(5), jnp.bfloat16),
        }
    }
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_decay_schedule(1e-3, 10), mask={"Dense_0": True}),
    )
    return {
        "step": jnp.int32(4),
        "params": params,
        "model_state": {},
        "opt_state": optimizer.init(params),
        "ema": None,
        "various": (
            jax.random.key_data(jax.random.key(seed)),
            jnp.array([np.nan, -0.0, np.inf, 1e-45]),
            jnp.array([True, False]),
            jnp.zeros((0, 3)),
            jnp.float16(0.1),
        ),
    }


def fail_on_notice(line):
    raise AssertionError(line)


# Bits.


def test_round_trip_keeps_every_bit_and_the_structure(tmp_path):
    state = example_state()
    checkpoints.save(tmp_path, 12, state)
    restored, step = checkpoints.restore(tmp_path, state, notify=fail_on_notice)
    assert step == 12
    assert_same_bits(restored, state)


def test_like_says_where_arrays_go(tmp_path):
    checkpoints.save(tmp_path, 1, {"x": jnp.arange(4.0)})
    device = jax.devices()[2]
    placed = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=SingleDeviceSharding(device))
    free = jax.ShapeDtypeStruct((4,), jnp.float32)
    assert checkpoints.restore(tmp_path, {"x": placed})[0]["x"].devices() == {device}
    assert not checkpoints.restore(tmp_path, {"x": free})[0]["x"].committed
    assert not checkpoints.restore(tmp_path, {"x": jnp.zeros(4)})[0]["x"].committed
    on_host = checkpoints.restore(tmp_path, {"x": np.zeros(4, np.float32)})[0]["x"]
    assert isinstance(on_host, np.ndarray)


def test_four_devices_to_one_and_back(tmp_path):
    state = example_state()
    everywhere = NamedSharding(Mesh(jax.devices()[:4], "device"), PartitionSpec())
    alone = SingleDeviceSharding(jax.devices()[0])

    checkpoints.save(tmp_path, 1, jax.device_put(state, everywhere))
    on_one, _ = checkpoints.restore(tmp_path, jax.device_put(state, alone))
    checkpoints.save(tmp_path, 2, on_one)
    on_four, step = checkpoints.restore(tmp_path, jax.device_put(state, everywhere))

    assert step == 2
    assert {leaf.sharding for leaf in jax.tree.leaves(on_one)} == {alone}
    assert {leaf.sharding for leaf in jax.tree.leaves(on_four)} == {everywhere}
    assert_same_bits(on_one, state)
    assert_same_bits(on_four, state)


def test_sharded_arrays_are_saved_whole(tmp_path):
    mesh = Mesh(jax.devices()[:4], "device")
    array = jnp.arange(32.0).reshape(8, 4)
    rows = jax.device_put(array, NamedSharding(mesh, PartitionSpec("device")))
    checkpoints.save(tmp_path, 1, {"x": rows})
    columns = NamedSharding(mesh, PartitionSpec(None, "device"))
    restored, _ = checkpoints.restore(
        tmp_path, {"x": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=columns)}
    )
    assert restored["x"].sharding == columns
    np.testing.assert_array_equal(restored["x"], array)


def test_a_restored_state_can_be_donated(tmp_path):
    """Four replicas restored from one host array must not come to share its memory."""
    values = np.arange(4096, dtype=np.float32)
    everywhere = NamedSharding(Mesh(jax.devices()[:4], "device"), PartitionSpec())
    checkpoints.save(tmp_path, 1, {"x": values})
    like = {"x": jax.ShapeDtypeStruct(values.shape, jnp.float32, sharding=everywhere)}
    state, _ = checkpoints.restore(tmp_path, like)
    step = jax.pmap(
        lambda state, shard: jax.tree.map(lambda x: x + jax.lax.psum(shard, "device"), state),
        axis_name="device",
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
    )
    for _ in range(3):
        state = step(state, np.ones(4, np.float32))
    for shard in state["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, values + 12)


def test_arrays_are_stored_as_orbax_stores_them(tmp_path):
    """Whoever has Orbax can read a checkpoint without this project."""
    state = example_state()
    checkpoints.save(tmp_path, 3, state)
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = checkpointer.restore(tmp_path / "3" / "state")
    kernel = stored["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel, state["params"]["Dense_0"]["kernel"])


def test_only_the_requested_entries_are_read(tmp_path):
    state = example_state()
    checkpoints.save(tmp_path, 1, state)
    like = {"params": state["params"], "model_state": {}}
    restored, _ = checkpoints.restore(tmp_path, like, only=("params", "model_state"))
    assert_same_bits(restored, like)
    with pytest.raises(UserError, match=r"opt_state/1/0/count, int32\[\] in the checkpoint, is"):
        checkpoints.restore(tmp_path, like)


def test_leaves_lists_what_is_stored(tmp_path):
    state = example_state()
    checkpoints.save(tmp_path, 1, state)
    result = checkpoints.leaves(tmp_path)
    assert len(result) == len(jax.tree.leaves(state))
    assert result["params/Dense_0/kernel"] == jax.ShapeDtypeStruct((7, 5), jnp.float32)
    assert result["opt_state/1/0/mu/Dense_0/bias"].dtype == jnp.bfloat16


def test_leaves_with_equal_paths_are_refused(tmp_path):
    one = jnp.ones(1)
    for state in ({"a": {"b": one}, "a/b": one}, {"a": {"b": one}, "a.b": one}):
        with pytest.raises(ValueError, match=r"two leaves have the path a.b"):
            checkpoints.save(tmp_path, 1, state)
    with pytest.raises(TypeError, match=r"rate must be an array, is float"):
        checkpoints.save(tmp_path, 1, {"rate": 0.1})
    assert checkpoints.steps(tmp_path) == ()


# Which checkpoints there are.


def number(value):
    return {"x": jnp.full(3, value, jnp.float32)}


@pytest.mark.parametrize(
    ("saved", "keep", "left"),
    [
        ([1, 2, 3, 4, 5], 3, (3, 4, 5)),
        ([5, 10, 100], 2, (10, 100)),  # by number, not by name
        ([1, 2], 1, (2,)),
        ([1, 2, 3, 4], None, (1, 2, 3, 4)),
        ([10, 20, 30, 15], 3, (10, 15)),  # back to 10, then on: 20 and 30 are of another future
        ([10, 20, 30, 20], 3, (10, 20)),
    ],
)
def test_pruning_keeps_the_newest(tmp_path, saved, keep, left):
    for step in saved:
        checkpoints.save(tmp_path, step, number(step), keep=keep)
    assert checkpoints.steps(tmp_path) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, left))
    assert checkpoints.latest_step(tmp_path) == left[-1]
    for step in left:
        assert_same_bits(checkpoints.restore(tmp_path, number(0), step)[0], number(step))


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        checkpoints.save(tmp_path, 1, number(1), keep=0)


def test_saving_a_step_again(tmp_path):
    checkpoints.save(tmp_path, 7, number(7))
    written = (tmp_path / "7").stat().st_ino
    checkpoints.save(tmp_path, 7, number(7))
    assert (tmp_path / "7").stat().st_ino == written
    checkpoints.save(tmp_path, 7, number(8))
    assert_same_bits(checkpoints.restore(tmp_path, number(0))[0], number(8))


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path):
    checkpoints.save(tmp_path, 7, number(7))
    shutil.rmtree(tmp_path / "7" / "state")
    checkpoints.save(tmp_path, 7, number(7))
    restored, _ = checkpoints.restore(tmp_path, number(0), notify=fail_on_notice)
    assert_same_bits(restored, number(7))


def test_other_files_are_neither_seen_nor_touched_but_unfinished_ones_removed(tmp_path):
    (tmp_path / "9.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "8.removed.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "007").mkdir()
    (tmp_path / "best").mkdir()
    (tmp_path / "6").write_text("a file")
    assert checkpoints.steps(tmp_path) == ()
    checkpoints.save(tmp_path, 7, number(7))
    assert checkpoints.steps(tmp_path) == (7,)
    assert {path.name for path in tmp_path.iterdir()} == {"6", "7", "007", "best"}


def test_nothing_to_resume(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        assert checkpoints.steps(directory) == ()
        for ask in (
            lambda where: checkpoints.restore(where, number(0)),
            checkpoints.latest_step,
            checkpoints.leaves,
        ):
            with pytest.raises(UserError, match=f"^{directory}: nothing to resume"):
                ask(directory)


def test_a_step_that_is_not_there(tmp_path):
    checkpoints.save(tmp_path, 7, number(7))
    with pytest.raises(UserError, match="no checkpoint of step 8; available: 7"):
        checkpoints.restore(tmp_path, number(0), 8)
    with pytest.raises(UserError, match="no checkpoint of step 8; available: 7"):
        checkpoints.leaves(tmp_path, 8)


# Another model.


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {"a": {"w": np.zeros((2, 4), np.float32)}, "b": np.zeros(3, np.int32)},
            r"a/w is float32\[2,3\] in the checkpoint but float32\[2,4\] here",
        ),
        (
            {"a": {"w": np.zeros((2, 3), np.float32)}, "b": np.zeros(3, np.uint32)},
            r"b is int32\[3\] in the checkpoint but uint32\[3\] here",
        ),
        (
            {"a": {"w": jnp.zeros((2, 3), jnp.bfloat16)}, "b": np.zeros(3, np.int32)},
            r"a/w is float32\[2,3\] in the checkpoint but bfloat16\[2,3\] here",
        ),
        (
            {"a": {"w": np.zeros((2, 3), np.float32)}},
            r"b, int32\[3\] in the checkpoint, is unknown here",
        ),
        (
            {
                "a": {"w": np.zeros((2, 3), np.float32), "v": np.zeros(1, np.float32)},
                "b": np.zeros(3, np.int32),
            },
            r"a/v, float32\[1\] here, is missing from the checkpoint",
        ),
        (
            {"a": {"kernel": np.zeros((2, 3), np.float32)}, "b": np.zeros(3, np.int32)},
            r"a/kernel, float32\[2,3\] here, is missing from the checkpoint; "
            r"a/w, float32\[2,3\] in the checkpoint, is unknown here",
        ),
        (
            {f"c{i}": np.zeros(1, np.float32) for i in range(9)},
            r"c2, float32\[1\] here, is missing from the checkpoint; and 8 more",
        ),
    ],
)
def test_a_leaf_that_does_not_fit_is_named(tmp_path, like, message):
    state = {"a": {"w": np.ones((2, 3), np.float32)}, "b": np.ones(3, np.int32)}
    checkpoints.save(tmp_path, 1, state)
    with pytest.raises(UserError, match=f"^{tmp_path}/1: .*{message}") as caught:
        checkpoints.restore(tmp_path, like)
    assert "\n" not in str(caught.value)


def test_another_model_is_no_damage(tmp_path):
    """An older checkpoint that happens to fit is no answer to a newest one that does not."""
    checkpoints.save(tmp_path, 1, number(1))
    checkpoints.save(tmp_path, 2, {"x": jnp.ones(4)})
    with pytest.raises(UserError, match="/2: x is"):
        checkpoints.restore(tmp_path, number(0))


def test_dtypes_that_jax_lacks_are_not_cast(tmp_path):
    wide = np.arange(3) + 2**40
    checkpoints.save(tmp_path, 1, {"x": wide})
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, {"x": wide})[0]["x"], wide)
    with pytest.raises(ValueError, match="no int64 unless jax_enable_x64"):
        checkpoints.restore(tmp_path, {"x": jax.ShapeDtypeStruct((3,), np.int64)})
