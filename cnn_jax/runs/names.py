"""Names of metrics, and the format of their values for people."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """The display of one metric key.

    Attributes:
        label: its common name.
        kind: `"fraction"` (0 to 1, shown in per cent), `"rate"` (whole numbers with thousands
            separated) or `"number"` (four significant digits).
        higher_is_better: direction of improvement; None for neither, as for a learning rate.
        verbs: the commands whose evaluations measure it and may be judged by it, with spaces
            between.
    """

    label: str
    kind: Literal["fraction", "rate", "number"] = "number"
    higher_is_better: bool | None = True
    verbs: str = ""


# In order of importance: a run's verdict names the first key that the run has.
METRICS: dict[str, Metric] = {
    "top1": Metric("top-1", "fraction", verbs="classify"),
    "map": Metric("mAP", "fraction", verbs="annotate"),
    "map50": Metric("mAP at IoU 0.5", "fraction", verbs="detect"),
    "coco_ap": Metric("COCO AP", "fraction", verbs="detect"),
    "mean_iou": Metric("mean IoU", "fraction", verbs="segment"),
    "bleu": Metric("BLEU", verbs="translate"),
    "exact_match": Metric("exact match", "fraction", verbs="translate"),
    "top5": Metric("top-5", "fraction", verbs="classify"),
    "mean_class_accuracy": Metric("mean class accuracy", "fraction", verbs="classify"),
    "macro_precision": Metric("precision, macro", "fraction", verbs="classify"),
    "macro_recall": Metric("recall, macro", "fraction", verbs="classify"),
    "macro_f1": Metric("F1, macro", "fraction", verbs="classify"),
    "macro_auroc": Metric("AUROC, macro", "fraction", verbs="classify"),
    "weighted_precision": Metric("precision, weighted", "fraction", verbs="classify"),
    "weighted_recall": Metric("recall, weighted", "fraction", verbs="classify"),
    "weighted_f1": Metric("F1, weighted", "fraction", verbs="classify"),
    "weighted_auroc": Metric("AUROC, weighted", "fraction", verbs="classify"),
    "coco_ap50": Metric("COCO AP50", "fraction", verbs="detect"),
    "coco_ap75": Metric("COCO AP75", "fraction", verbs="detect"),
    "map50_11point": Metric("mAP at IoU 0.5 (11 points)", "fraction", verbs="detect"),
    "coco_ap_small": Metric("COCO AP, small", "fraction", verbs="detect"),
    "coco_ap_medium": Metric("COCO AP, medium", "fraction", verbs="detect"),
    "coco_ap_large": Metric("COCO AP, large", "fraction", verbs="detect"),
    "coco_ar1": Metric("COCO AR, 1 detection", "fraction", verbs="detect"),
    "coco_ar10": Metric("COCO AR, 10 detections", "fraction", verbs="detect"),
    "coco_ar100": Metric("COCO AR, 100 detections", "fraction", verbs="detect"),
    "coco_ar_small": Metric("COCO AR, small", "fraction", verbs="detect"),
    "coco_ar_medium": Metric("COCO AR, medium", "fraction", verbs="detect"),
    "coco_ar_large": Metric("COCO AR, large", "fraction", verbs="detect"),
    "count_mae": Metric("count error (mean absolute)", higher_is_better=False, verbs="detect"),
    "count_exact": Metric("counted exactly", "fraction", verbs="detect"),
    "count_bias": Metric("count bias", higher_is_better=None),
    "score_threshold": Metric("score threshold", higher_is_better=None),
    "precision": Metric("precision", "fraction", verbs="detect"),
    "recall": Metric("recall", "fraction", verbs="detect"),
    "f1": Metric("F1", "fraction", verbs="detect"),
    "localization_errors": Metric("localisation errors", "fraction", False, verbs="detect"),
    "background_errors": Metric("background errors", "fraction", False, verbs="detect"),
    "sample_precision": Metric("precision per image", "fraction", verbs="annotate"),
    "sample_recall": Metric("recall per image", "fraction", verbs="annotate"),
    "sample_f1": Metric("F1 per image", "fraction", verbs="annotate"),
    "sample_f2": Metric("F2 per image", "fraction", verbs="annotate"),
    "class_precision": Metric("precision per class", "fraction", verbs="annotate"),
    "class_recall": Metric("recall per class", "fraction", verbs="annotate"),
    "overall_precision": Metric("overall precision", "fraction", verbs="annotate"),
    "overall_recall": Metric("overall recall", "fraction", verbs="annotate"),
    "n_plus": Metric("N+ (classes recalled)", "rate", verbs="annotate"),
    "hamming_loss": Metric("Hamming loss", "fraction", False, verbs="annotate"),
    "class_accuracy": Metric("class accuracy", "fraction", verbs="segment"),
    "pixel_accuracy": Metric("pixel accuracy", "fraction", verbs="segment"),
    "boundary_f1": Metric("boundary F1", "fraction", verbs="segment"),
    "pixel_error": Metric("pixel error", "fraction", False, verbs="segment"),
    "rand_error": Metric("Rand error", "fraction", False, verbs="segment"),
    "warping_error": Metric("warping error", "fraction", False, verbs="segment"),
    "token_accuracy": Metric("token accuracy", "fraction", verbs="translate"),
    "chrf": Metric("chrF", verbs="translate"),
    "perplexity": Metric("perplexity", higher_is_better=False, verbs="translate"),
    "loss": Metric(
        "loss", higher_is_better=False, verbs="annotate classify detect segment translate"
    ),
    "coordinate_loss": Metric("loss of coordinates", higher_is_better=False),
    "confidence_loss": Metric("loss of confidences", higher_is_better=False),
    "class_loss": Metric("loss of classes", higher_is_better=False),
    "expected_calibration_error": Metric("calibration error", "fraction", False, verbs="classify"),
    "learning_rate": Metric("learning rate", higher_is_better=None),
    "gradient_norm": Metric("gradient norm", higher_is_better=None),
    "examples_per_second": Metric("examples/s", "rate", None),
    "device_busy": Metric("device busy", "fraction"),
    "time_steps": Metric("steps", higher_is_better=None),
    "time_compiling": Metric("compiling", higher_is_better=None),
    "time_loading": Metric("loading the examples", higher_is_better=None),
    "time_data": Metric("data", higher_is_better=None),
    "time_transfer": Metric("transfer to the device", higher_is_better=None),
    "time_launch": Metric("launching steps", higher_is_better=None),
    "time_evaluation": Metric("evaluation on the host", higher_is_better=None),
    "time_saving": Metric("checkpoints", higher_is_better=None),
    "time_reporting": Metric("reports", higher_is_better=None),
    "time_other": Metric("other work", higher_is_better=None),
}


def metric(key: str) -> Metric:
    """Look up a metric key; an unknown one is shown under its own name as a number."""
    return METRICS.get(key) or Metric(key.replace("_", " "), higher_is_better=None)


def main_metric(keys: Iterable[str]) -> str | None:
    """Return the most important of several metric keys, or None if all are unknown."""
    present = set(keys)
    return next((key for key in METRICS if key in present), None)


def judging(verb: str) -> list[str]:
    """Return the metric keys by which the evaluations of a command may be judged."""
    return [key for key, known in METRICS.items() if verb in known.verbs.split()]


def in_order(keys: Iterable[str]) -> list[str]:
    """Sort metric keys into the table's order, each once; unknown keys follow in input order."""
    unique = dict.fromkeys(keys)
    return [key for key in METRICS if key in unique] + [key for key in unique if key not in METRICS]


def show(key: str, value: int | float | None) -> str:
    """Format a metric's value as text; a missing or non-finite value is a dash."""
    if value is None or not math.isfinite(value):
        return "–"  # noqa: RUF001 (an en dash is meant)
    match metric(key).kind:
        case "fraction":
            return f"{100 * value:.2f} %"
        case "rate":
            return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3g}"
        case _:
            return f"{value:.4g}"


def show_spread(key: str, mean: int | float | None, spread: int | float | None) -> str:
    """Format a mean with its spread, `93.78 ± 0.69 %`, or the mean alone if there is no spread."""
    text = show(key, mean)
    if spread is None or mean is None or not math.isfinite(mean + spread):
        return text
    match metric(key).kind:
        case "fraction":
            return f"{100 * mean:.2f} ± {100 * spread:.2f} %"
        case "rate":
            return f"{text} ± {show(key, spread)}"
        case _:
            return f"{text} ± {spread:.2g}"


def duration(seconds: int | float) -> str:
    """Format seconds for people: `41 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
