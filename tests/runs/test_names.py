"""Values as people read them."""

import math

import pytest

from cnn_jax.runs.names import duration, in_order, main_metric, metric, show, show_spread


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("top1", 0.98765, "98.77 %"),
        ("top1", 1, "100.00 %"),
        ("loss", 0.0123456, "0.01235"),
        ("loss", 2.0, "2"),
        ("loss", math.nan, "–"),  # noqa: RUF001
        ("loss", math.inf, "–"),  # noqa: RUF001
        ("top1", None, "–"),  # noqa: RUF001
        ("learning_rate", 1e-5, "1e-05"),
        ("examples_per_second", 12345.6, "12,346"),
        ("examples_per_second", 2.345, "2.35"),
        ("something_new", 0.5, "0.5"),
    ],
)
def test_values(key, value, text):
    assert show(key, value) == text


def test_means_with_their_spread():
    assert show_spread("top1", 0.93784, 0.00691) == "93.78 ± 0.69 %"
    assert show_spread("loss", 0.123456, 0.0123456) == "0.1235 ± 0.012"
    assert show_spread("examples_per_second", 2314.2, 15.6) == "2,314 ± 16"
    assert show_spread("top1", 0.5, None) == "50.00 %"
    assert show_spread("top1", math.nan, math.nan) == "–"  # noqa: RUF001


def test_order_of_importance():
    keys = ["other", "examples_per_second", "loss", "top5", "top1", "loss"]
    assert in_order(keys) == ["top1", "top5", "loss", "examples_per_second", "other"]
    assert main_metric(keys) == "top1"
    assert main_metric(["other"]) is None
    assert metric("some_new_key").label == "some new key"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86_400 * 3 + 4 * 3600, "3 d 4 h"),
        (86_399, "1 d 0 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
