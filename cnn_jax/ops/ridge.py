"""Ridge regression with whitened targets: R-CNN's box regression, class by class."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Added to the variances before taking their roots.
_LEAST_VARIANCE = 1e-3


class Ridge(NamedTuple):
    """A linear function: `features @ weights + bias` predicts the targets."""

    weights: Float[np.ndarray, "features targets"]
    bias: Float[np.ndarray, " targets"]


def ridge(
    features: Float[np.ndarray, "examples features"],
    targets: Float[np.ndarray, "examples targets"],
    penalty: float = 1000.0,
) -> Ridge:
    """Solve least squares with a penalty on the weights, for centred and decorrelated targets.

    Girshick et al. 2014, appendix C, as in its code: targets are centred and multiplied by the
    inverse root of their covariance (plus 0.001). The constant feature for the bias is penalised
    like any other. The solution is transformed back to the original targets.

    It is computed in float64, in the smaller of the two spaces, features or examples.

    Args:
        features: one row for each example.
        targets: the encoded boxes.
        penalty: the paper's lambda.
    """
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype=np.float64)
    t = np.asarray(targets, np.float64)
    mean = t.mean(axis=0)
    variances, axes = np.linalg.eigh((t - mean).T @ (t - mean) / len(t))
    roots = np.sqrt(np.maximum(variances, 0) + _LEAST_VARIANCE)
    whitened = (t - mean) @ (axes / roots) @ axes.T
    if x.shape[1] <= len(x):
        solution = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ whitened)
    else:
        solution = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), whitened)
    solution = solution @ (axes * roots) @ axes.T
    return Ridge(solution[:-1].astype(np.float32), (solution[-1] + mean).astype(np.float32))
