"""The state with the best evaluation, and the end of a run that finds no better one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnn_jax.errors import UserError
from cnn_jax.runs.log import plain
from cnn_jax.runs.names import metric, show
from cnn_jax.training import checkpoints
from cnn_jax.training.state import TrainState


@dataclass
class Best:
    """Keeps the state with the best evaluation, and knows when to give up.

    All that it decides is a function of `values`. So a run that was killed and knows the figures of
    its rows decides as one that was not, and a figure that is offered again changes nothing.

    Attributes:
        metric: the key of the figure that counts; `cnn_jax.runs.names` has its direction.
        directory: where the state is kept, as a checkpoint.
        patience: the number of evaluations without a better figure that end the run; None for any.
        values: the figure of each evaluation so far by step; None where it is not finite.
    """

    metric: str
    directory: Path
    patience: int | None = None
    values: dict[int, float | None] = field(default_factory=dict)

    def offer(self, step: int, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Note an evaluation's figure, and save the state if the figure is the best so far.

        All processes of a run must call this.

        Raises:
            UserError: the evaluation has no such figure, or the state cannot be saved.
        """
        if self.metric not in metrics:
            raise UserError(
                f"--best {self.metric}: not measured here; there are {', '.join(metrics)}"
            )
        self.values[step] = plain(metrics[self.metric])
        if self.step == step:
            checkpoints.save(self.directory, step, state, keep=1)

    @property
    def step(self) -> int | None:
        """The step of the best evaluation, the first of equal ones; None if none was finite."""
        sign = 1 if metric(self.metric).higher_is_better else -1
        finite = {step: sign * value for step, value in self.values.items() if value is not None}
        return max(finite, key=lambda step: (finite[step], -step), default=None)

    @property
    def without_improvement(self) -> int:
        """The number of evaluations since the best one."""
        best = self.step
        return sum(best is None or step > best for step in self.values)

    @property
    def exhausted(self) -> bool:
        """True if the patience is at its end."""
        return self.patience is not None and self.without_improvement >= self.patience

    def __str__(self) -> str:
        if self.step is None:
            return f"no finite {metric(self.metric).label}"
        value = show(self.metric, self.values[self.step])
        return f"best {metric(self.metric).label} {value} at step {self.step}"
