"""One step of training, and one of evaluation, as pure functions.

They run on one device as they are, and on many under `pmap` with an `axis_name` (see
`cnn_jax.training.parallel`). A batch's sums are added over devices before anything is divided, so
that results do not depend on how examples fall on devices.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from cnn_jax.metrics.summary import Summary
from cnn_jax.training import prng
from cnn_jax.training.averaging import Average
from cnn_jax.training.state import TrainState, evaluated

Batch = dict[str, Array | np.ndarray]
Sums = dict[str, Any]
Rows = dict[str, Any]
"""Names to pytrees of arrays, whose leading axis is that of the examples."""


@runtime_checkable
class Task(Protocol):
    """The five functions of a task that training calls; the task as a whole is hashable."""

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Draw the first (params, model_state)."""
        ...

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Array, tuple[Any, Sums]]:
        """Compute the loss summed over a batch's valid examples, and (new model_state, sums).

        `sums["examples"]` counts the valid examples; every other entry adds over batches too. Batch
        statistics and mixing see the examples of all devices along the mapped axis `axis_name`.
        """
        ...

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Any:
        """Predict for each example, along the leading axis, without augmentation."""
        ...

    def measure(self, predictions: Any, batch: Batch) -> tuple[Sums, Rows]:
        """Reduce a batch to its metrics.

        Returns:
            Sums of per-example metrics over the valid examples, which add over batches; and rows
            for those metrics that need all examples of a set at once, one row for each example of
            the batch, valid or not. Most tasks need no rows and return an empty dictionary.
        """
        ...

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Compute the metrics of a set on the host.

        Args:
            sums: those of `loss` over training steps, or of `measure` over a set.
            rows: of an evaluation, the rows of all examples in the order of the set, as NumPy
                arrays; None for training steps.
        """
        ...


def train_step(
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
    average: Average | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, Sums]:
    """One update of the state from one batch.

    Args:
        state: the state before the step.
        batch: this device's examples, leading axis a multiple of `accumulate`.
        key: the run's root key, the same at every step.
        task: see `Task`.
        optimizer: gradient transformation.
        accumulate: number of parts that the batch is worked through in; the gradient is that of
            the whole batch.
        average: the average over steps, for a state that keeps one.
        axis_name: mapped axis over which gradients and sums are added; the task's loss is given it
            too, so that a network averages its batch statistics over the same devices.

    Returns:
        The state after the step, and the sums of the whole batch: the task's own, `steps` (1) and
        `gradient_norm`.
    """

    def part(model_state: Any, batch: Batch, index: int | Array) -> tuple[Any, tuple[Any, Sums]]:
        keys = prng.step_keys(key, state.step, axis_name, index)
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        (_, (model_state, sums)), grads = gradient(
            state.params, model_state, batch, keys, axis_name
        )
        return model_state, (grads, sums)

    if accumulate == 1:
        model_state, (grads, sums) = part(state.model_state, batch, 0)
    else:
        model_state, (grads, sums) = _accumulated(part, state.model_state, batch, accumulate)
    if axis_name is not None:
        grads, sums = jax.lax.psum((grads, sums), axis_name)
    examples = jnp.maximum(sums["examples"], 1)
    grads = jax.tree.map(lambda g: g / examples.astype(g.dtype), grads)

    with jax.numpy_dtype_promotion("standard"):  # optax mixes its counts of steps with floats
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None and average is not None:
        (params, model_state), ema = average(state.step + 1, (params, model_state), ema)
    sums |= {"steps": jnp.ones(()), "gradient_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, model_state, opt_state, ema), sums


def train_steps(
    state: TrainState,
    sums: Sums,
    examples: Batch,
    places: Batch,
    count: int | Array,
    key: Key[Array, ""],
    **settings: Any,
) -> tuple[TrainState, Sums]:
    """Several updates in one program, from examples that lie on the device.

    The number of updates is no constant of the program. So a run that stops and resumes anywhere
    uses the same one, and ends in the same bits.

    Args:
        state: the state before the first step.
        sums: those of the steps before, to which the new ones are added.
        examples: all examples of the set, by name; row `i` of each is that of example `i`.
        places: for each step, what says which examples this device's part of the batch has:
            `row` int32 [steps, rows], and the fields that the batch has besides.
        count: the number of updates, at most the steps of `places`.
        key: the run's root key.
        settings: the keyword arguments of `train_step`.
    """

    def body(number: Array, carry: Any) -> Any:
        state, sums = carry
        batch = {name: field[number] for name, field in places.items()}
        rows = batch.pop("row")
        batch |= {name: field[rows] for name, field in examples.items()}
        state, new = train_step(state, batch, key, **settings)
        return state, jax.tree.map(jnp.add, sums, new)

    return jax.lax.fori_loop(0, count, body, (state, sums))


def evaluation_step(
    state: TrainState, batch: Batch, *, task: Task, axis_name: str | None = None
) -> tuple[Sums, Rows, Any]:
    """Evaluate one batch.

    Args:
        state: the state to evaluate; its moving average where it keeps one.
        batch: this device's examples.
        task: see `Task`.
        axis_name: mapped axis over which sums are added.

    Returns:
        The sums over all devices; this device's rows, with the examples' `index` and `valid` beside
        them where the task has rows; and this device's predictions.
    """
    predictions = task.predict(*evaluated(state), batch)
    sums, rows = task.measure(predictions, batch)
    if rows:
        rows = {"index": batch["index"], "valid": batch["valid"], **rows}
    return (sums if axis_name is None else jax.lax.psum(sums, axis_name)), rows, predictions


def batch_statistics(
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    *,
    task: Task,
    axis_name: str | None = None,
) -> Any:
    """The model state that one batch alone would give: its means and variances.

    Args:
        state: whose parameters are used, and whose step the keys are of.
        batch: this device's examples.
        key: the run's root key.
        task: see `Task`.
        axis_name: mapped axis that the network averages its statistics over.
    """
    params, model_state = evaluated(state)
    keys = prng.step_keys(key, state.step, axis_name)

    def moved(old: Any) -> Any:
        return task.loss(params, old, batch, keys, axis_name)[1][0]

    # A running average that starts from nothing holds 1 - momentum of the first batch's. It depends
    # on what it was before by the momentum, which a network may choose.
    nothing, ones = (jax.tree.map(f, model_state) for f in (jnp.zeros_like, jnp.ones_like))
    first, momentum = jax.jvp(moved, (nothing,), (ones,))
    return jax.tree.map(lambda x, m: x / (1 - m), first, momentum)


def _accumulated(part: Any, model_state: Any, batch: Batch, accumulate: int) -> Any:
    """Gradients and sums added over equal parts of a batch, one part in memory at a time."""
    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, model_state, first, 0)[1]
    )

    def body(carry: Any, xs: Any) -> Any:
        model_state, total = carry
        model_state, new = part(model_state, *xs)
        return (model_state, jax.tree.map(jnp.add, total, new)), None

    carry, _ = jax.lax.scan(body, (model_state, zeros), (parts, jnp.arange(accumulate)))
    return carry
