"""The numbers of objects over the frames of a video: kept in little memory, and drawn."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from cnn_jax.reports.style import LIGHT_COLORS

POINTS = 512
"""The least number of points of a curve that is longer."""


class CountSeries:
    """Counts over time, in the memory of at most twice `POINTS` points.

    Where there are more frames, a point is the largest counts of several, as many for each point.

    Args:
        classes: the number of counts of a frame.
    """

    def __init__(self, classes: int) -> None:
        self.frames_per_point = 1
        self._times = np.zeros(2 * POINTS)
        self._counts = np.zeros((2 * POINTS, classes), np.int64)
        self._frames = 0

    def add(self, time: int | float, counts: Num[np.ndarray, " classes"]) -> None:
        """Add a frame at a time, which rises."""
        place = self._frames // self.frames_per_point
        if place == 2 * POINTS:
            self._times[:POINTS] = self._times[::2]
            self._counts[:POINTS] = np.maximum(self._counts[::2], self._counts[1::2])
            self.frames_per_point *= 2
            place = POINTS
        if self._frames % self.frames_per_point == 0:
            self._times[place], self._counts[place] = time, counts
        else:
            self._counts[place] = np.maximum(self._counts[place], counts)
        self._frames += 1

    @property
    def points(self) -> tuple[Float[np.ndarray, " points"], Num[np.ndarray, "points classes"]]:
        """The time of the first frame of each point, and its counts."""
        count = -(-self._frames // self.frames_per_point)
        return self._times[:count], self._counts[:count]


def draw(series: CountSeries, names: Sequence[str], title: str, time: str) -> bytes:
    """Draw the counts over time as a PNG file, a line for each class.

    Classes without an object have no line. Of more than there are colours, those with the largest
    counts are drawn, and the title says how many are left out.

    Args:
        series: the counts.
        names: the names of the classes.
        title: the text above.
        time: what the horizontal axis says.
    """
    # Imported here because matplotlib takes longer to load than the rest.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    times, counts = series.points
    seen = [i for i in np.argsort(-counts.sum(0), kind="stable") if counts[:, i].any()]
    shown = seen[: len(LIGHT_COLORS)]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    # A count holds until the next point; the last one has a length, too.
    end = 2 * times[-1] - times[-2] if len(times) > 1 else times[-1] + 1
    for i, color in zip(shown, LIGHT_COLORS, strict=False):
        steps = np.append(counts[:, i], counts[-1, i])
        label = names[i].replace("$", r"\$")
        axes.step(np.append(times, end), steps, where="post", label=label, color=color)
    left_out = f"; {len(seen) - len(shown)} classes left out" if len(seen) > len(shown) else ""
    axes.set_title(title.replace("$", r"\$") + left_out, loc="left", fontsize=11)
    most = f"largest of {series.frames_per_point} frames" if series.frames_per_point > 1 else ""
    axes.set(xlabel=time, ylabel=f"objects\n{most}".strip(), xlim=(times[0], end))
    axes.set_ylim(0, max(counts.max(initial=0) * 1.08, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
