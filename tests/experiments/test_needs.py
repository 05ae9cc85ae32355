"""What does not fit into memory is refused with the estimate, before anything is allocated."""

import jax
import jax.numpy as jnp
import optax
import pytest

from cnn_jax import memory, models
from cnn_jax.errors import UserError
from cnn_jax.models.summary import trace
from cnn_jax.training.state import create
from experiments import classify, needs, translate

MODEL = models.create("resnet20", 10)
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
TRACED = trace(MODEL, IMAGE)


def shapes(optimizer):
    def fresh():
        variables = MODEL.init(jax.random.key(0), jnp.zeros(IMAGE.shape), train=True)
        return create(variables.pop("params"), variables, optimizer)

    return jax.eval_shape(fresh)


@pytest.fixture
def free(monkeypatch):
    """A function that says how much memory the machine has."""

    def say(size):
        monkeypatch.setattr(memory, "available", lambda: size)
        memory.require.cache_clear()

    yield say
    memory.require.cache_clear()


def test_the_estimate_counts_state_gradients_and_activations(free):
    optimizer = optax.sgd(0.1, momentum=0.9)
    state, devices = shapes(optimizer), jax.local_device_count()
    free(10**18)
    cost = needs.check(TRACED, state, evaluated=1, trained=8, optimizer=optimizer)
    assert cost.parameters == 269_722
    # Parameters, momenta and gradients on every virtual device, and the activations of the batch.
    least = 3 * devices * cost.parameter_bytes + 8 * cost.activation_bytes
    free(least)
    with pytest.raises(UserError, match=r"^this run \(the state .*, gradients .*, activations "):
        needs.check(TRACED, state, evaluated=1, trained=8, optimizer=optimizer)
    free(int(1.2 * least) + 2**20)
    needs.check(TRACED, state, evaluated=1, trained=8, optimizer=optimizer)


def test_an_evaluation_needs_no_gradients(free):
    state = shapes(optax.identity())
    free(10**9)
    needs.check(TRACED, state, evaluated=100)
    with pytest.raises(UserError, match=r"evaluated examples .* and 1\.0 GB are free"):
        needs.check(TRACED, state, evaluated=2**20)


@pytest.mark.parametrize(
    ("verb", "argv", "message"),
    [
        (classify, ["--batch-size", "1048576"], "this run "),
        (classify, ["--eval-batch-size", "1048576"], "this run "),
        (classify, ["--model", "resnet18", "--width", "100"], "this run "),
        (classify, ["--canvas-size", "16384"], "reading batches of 64 images of 16384 x 16384 "),
        (translate, ["--hidden-size", "65536"], "this run "),
        (translate, ["--embedding-size", "65536", "--batch-size", "1048576"], "this run "),
    ],
)
def test_a_command_that_does_not_fit_is_refused_before_its_first_step(
    verb, argv, message, free, tmp_path
):
    free(4 * 10**9)
    with pytest.raises(UserError) as caught:
        verb.main(["--out", str(tmp_path / "run"), *argv])
    assert str(caught.value).startswith(message)
    assert "would need about" in str(caught.value) and "4.0 GB are free" in str(caught.value)
    assert not (tmp_path / "run").exists()
