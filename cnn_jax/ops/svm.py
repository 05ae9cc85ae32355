"""Linear support vector machines: liblinear's objective, by dual coordinate descent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key


class LinearSVM(NamedTuple):
    """A hyperplane: `features @ weights + bias` is the margin of an example."""

    weights: Float[Array, " features"]
    bias: Float[Array, ""]


def train_svm(
    features: Float[Array, "examples features"],
    positive: Bool[Array, " examples"],
    cost: Float[Array, " examples"],
    key: Key[Array, ""],
    *,
    bias_multiplier: float = 10.0,
    tolerance: float = 1e-3,
    max_passes: int = 1000,
) -> LinearSVM:
    """Minimise `|w|^2 / 2 + (b / m)^2 / 2 + sum_i cost_i max(0, 1 - y_i f_i)` over hyperplanes.

    Hsieh et al. 2008, algorithm 1, without shrinking: the dual problem is solved example by
    example, in a new random order in each pass. `m` is the bias multiplier, the value of a constant
    feature for the bias; a large one leaves the bias almost unregularised.

    Args:
        features: one row for each example.
        positive: the examples of the positive class.
        cost: the cost of each example's violation; 0 excludes an example, such as padding.
        key: the key of the orders; the solution is unique and depends on it only by rounding.
        bias_multiplier: see above; liblinear's `-B`.
        tolerance: the largest remaining violation of the optimum's conditions (between the largest
            and the smallest projected gradient, as liblinear's `-e`).
        max_passes: the largest number of passes.

    References:
        Hsieh et al., `A Dual Coordinate Descent Method for Large-scale Linear SVM
        <https://doi.org/10.1145/1390156.1390208>`_, 2008
    """
    count = features.shape[0]
    sign = jnp.where(positive, 1.0, -1.0)
    rows = jnp.concatenate(
        [features.astype(jnp.float32), jnp.full((count, 1), bias_multiplier)], axis=1
    )
    curvature = jnp.sum(rows**2, axis=1)

    def weights(alpha: Array) -> Array:
        return jnp.dot(alpha * sign, rows, precision=lax.Precision.HIGHEST)

    def one(step: Int[Array, ""], state: tuple) -> tuple:
        order, alpha, w, high, low = state
        i = order[step]
        row, limit, before = rows[i], cost[i], alpha[i]
        gradient = sign[i] * jnp.dot(row, w, precision=lax.Precision.HIGHEST) - 1.0
        # At a bound, only a gradient that points inside counts.
        projected = jnp.where(
            before <= 0,
            jnp.minimum(gradient, 0.0),
            jnp.where(before >= limit, jnp.maximum(gradient, 0.0), gradient),
        )
        projected = jnp.where(limit > 0, projected, 0.0)
        after = jnp.clip(before - gradient / curvature[i], 0.0, limit)
        w = w + (after - before) * sign[i] * row
        return (
            order,
            alpha.at[i].set(after),
            w,
            jnp.maximum(high, projected),
            jnp.minimum(low, projected),
        )

    def one_pass(state: tuple) -> tuple:
        number, alpha, _ = state
        order = jax.random.permutation(jax.random.fold_in(key, number), count)
        # Recomputed each pass, so that the updates' rounding errors do not accumulate.
        w = weights(alpha)
        zero = jnp.zeros(())
        _, alpha, _, high, low = lax.fori_loop(0, count, one, (order, alpha, w, zero, zero))
        return number + 1, alpha, high - low

    def unfinished(state: tuple) -> Bool[Array, ""]:
        return (state[0] < max_passes) & (state[2] > tolerance)

    start = 0, jnp.zeros(count), jnp.asarray(jnp.inf, jnp.float32)
    _, alpha, _ = lax.while_loop(unfinished, one_pass, start)
    w = weights(alpha)
    return LinearSVM(w[:-1], w[-1] * bias_multiplier)
