"""Calibration: a comparison of predicted probabilities with the accuracy."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Num

from cnn_jax.reports.html import Html, join, tag

SIDE, MARGIN = 300, 42


@dataclass(frozen=True)
class ReliabilityDiagram:
    """A section with accuracy over confidence in bins of equal width (Guo et al. 2017, figure 1).

    Attributes:
        title: the heading.
        count: the number of examples in each bin.
        confidence: the sum of the confidences in each bin.
        correct: the number of right predictions in each bin.
        error: the expected calibration error, in 0..1.
    """

    title: str
    count: Num[np.ndarray, " bins"]
    confidence: Num[np.ndarray, " bins"]
    correct: Num[np.ndarray, " bins"]
    error: float

    def html(self) -> Html:
        total = max(float(self.count.sum()), 1.0)
        mean = float(self.confidence.sum()) / total
        accuracy = float(self.correct.sum()) / total
        tendency = "more" if mean > accuracy else "less"
        text = (
            f"Expected calibration error {100 * self.error:.2f} %. Mean confidence "
            f"{100 * mean:.1f} %, accuracy {100 * accuracy:.1f} %: the model is {tendency} sure "
            "than it is right. Bars on the dashed line would be perfect; darker bars hold more "
            "examples."
        )
        drawing = tag("svg", *self._parts(), viewBox=f"0 0 {SIDE} {SIDE}", style="max-width:380px")
        return join([tag("p", text), drawing])

    def _parts(self) -> list[Html]:
        inner = SIDE - MARGIN - 20

        def x(value: float) -> float:
            return MARGIN + inner * value

        def y(value: float) -> float:
            return SIDE - MARGIN - inner * value

        parts = []
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            label = f"{100 * tick:.0f} %"
            parts.append(tag("line", x1=x(0.0), x2=x(1.0), y1=y(tick), y2=y(tick), class_="rule"))
            parts.append(tag("text", label, x=x(0.0) - 5, y=y(tick) + 4, text_anchor="end"))
            parts.append(tag("text", label, x=x(tick), y=y(0.0) + 15, text_anchor="middle"))
        largest = max(float(self.count.max(initial=0)), 1.0)
        bins = len(self.count)
        for i in np.flatnonzero(self.count):
            count = float(self.count[i])
            accuracy, confidence = float(self.correct[i]) / count, float(self.confidence[i]) / count
            tip = (
                f"confidence {100 * confidence:.1f} %: {100 * accuracy:.1f} % right of {count:,.0f}"
            )
            parts.append(
                tag(
                    "rect",
                    tag("title", tip),
                    x=x(i / bins) + 1,
                    y=y(accuracy),
                    width=inner / bins - 2,
                    height=max(y(0.0) - y(accuracy), 1.0),
                    fill="var(--c0)",
                    fill_opacity=0.25 + 0.75 * (count / largest) ** 0.5,
                )
            )
        diagonal = {"x1": x(0.0), "x2": x(1.0), "y1": y(0.0), "y2": y(1.0)}
        parts.append(tag("line", **diagonal, stroke="var(--c1)", stroke_dasharray="5 4"))
        middle = {"x": x(0.5), "y": SIDE - 4, "text_anchor": "middle"}
        parts.append(tag("text", "confidence; height: share that is right", **middle))
        return parts
