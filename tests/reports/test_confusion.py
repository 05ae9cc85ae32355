"""The confusion matrix as it is shown."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from cnn_jax.reports.calibration import ReliabilityDiagram
from cnn_jax.reports.confusion import ClassAccuracy, ConfusionMatrix, worst_pairs

NAMES = ["cat", "dog", "<cow> & calf"]
COUNTS = np.array([[8, 2, 0], [5, 15, 0], [1, 0, 3]])


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")


def cells(root: ElementTree.Element) -> dict[tuple[int, int], tuple[str, float, str]]:
    """(row, column) -> (kind, opacity, tip) of every drawn cell."""
    (frame,) = (r for r in root.iter("rect") if r.get("class") == "cell")
    left, top, side = (float(frame.get(k)) for k in ("x", "y", "width"))
    drawn = {}
    for rect in root.iter("rect"):
        if rect.get("class") == "cell":
            continue
        size = side / 3
        place = [round((float(rect.get(k)) - o) / size) for k, o in (("y", top), ("x", left))]
        tip = rect.find("title").text
        drawn[tuple(place)] = (rect.get("class"), float(rect.get("fill-opacity")), tip)
    return drawn


def test_cells_say_which_class_was_taken_for_which():
    drawn = cells(parse(ConfusionMatrix("", COUNTS, NAMES).html()))
    assert drawn.keys() == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2)}
    assert drawn[0, 0] == ("hit", 0.8, "cat right: 8 (80.0 %)")
    assert drawn[1, 0] == ("miss", 0.5, "dog taken for cat: 5 (25.0 %)")
    assert drawn[2, 0] == ("miss", 0.5, "<cow> & calf taken for cat: 1 (25.0 %)")
    assert drawn[2, 2][1] == 0.75


def test_few_classes_have_their_counts_written():
    root = parse(ConfusionMatrix("", COUNTS, NAMES).html())
    texts = [text.text for text in root.iter("text")]
    assert sorted(texts) == sorted([*NAMES, *NAMES, "8", "2", "5", "15", "1", "3"])


@pytest.mark.parametrize(("size", "drawn"), [(43, True), (100, True), (101, False), (1000, False)])
def test_many_classes(size, drawn):
    counts = np.eye(size, dtype=np.int64) * 9
    counts[0, -1] = 4
    root = parse(ConfusionMatrix("", counts, [f"class {i}" for i in range(size)]).html())
    rects = [rect for rect in root.iter("rect") if rect.get("class") in ("hit", "miss")]
    assert len(rects) == (size + 1 if drawn else 0)
    cells = [cell.text for cell in root.iter("td")]
    assert cells == ["class 0", f"class {size - 1}", "4", "30.8 %"]


def test_worst_pairs_are_those_of_a_plain_loop():
    counts = np.random.default_rng(0).integers(0, 50, (12, 12))
    pairs = [(t, p, counts[t, p]) for t in range(12) for p in range(12) if t != p]
    pairs.sort(key=lambda pair: -pair[2])
    assert worst_pairs(counts, most=20) == pairs[:20]
    assert worst_pairs(np.diag([3, 4])) == []
    assert worst_pairs(COUNTS) == [(1, 0, 5), (0, 1, 2), (2, 0, 1)]


def bars(section: ClassAccuracy) -> list[tuple[str, str, str]]:
    rows = []
    for bar in (div for div in parse(section.html()).iter("div") if div.get("class") == "bar"):
        name, figures = bar.findall("span")
        rows.append((name.text, bar.find("div/i").get("style"), figures.text))
    return rows


def test_accuracies_are_sorted_and_absent_classes_left_out():
    counts = np.zeros((4, 4), int)
    counts[:3, :3] = COUNTS
    section = ClassAccuracy("", counts, [*NAMES, "ghost"])
    assert bars(section) == [
        ("dog", "width:75.0%", "75.0 % of 20"),
        ("<cow> & calf", "width:75.0%", "75.0 % of 4"),
        ("cat", "width:80.0%", "80.0 % of 10"),
    ]
    assert "1 classes have no examples in this set" in section.html()


def test_the_best_of_many_classes_are_folded_away():
    counts = np.diag(np.arange(1, 201)) + np.eye(200, k=1, dtype=int)
    root = parse(ClassAccuracy("", counts, [str(i) for i in range(200)]).html())
    shown = root.find("div").findall("div")
    folded = root.find("details/div").findall("div")
    assert (len(shown), len(folded)) == (60, 140)
    # Class i has i + 1 right answers and, but for the last, one error.
    assert shown[0].find("span").text == "0"
    assert folded[-1].find("span").text == "199"


def test_reliability_bars_stand_as_high_as_their_accuracy():
    count, confidence, correct = np.zeros((3, 10))
    count[[4, 9]], confidence[[4, 9]], correct[[4, 9]] = (40, 160), (18, 152), (10, 160)
    section = ReliabilityDiagram("", count, confidence, correct, error=0.08)
    root = parse(section.html())
    low, high = root.iter("rect")
    assert low.find("title").text == "confidence 45.0 %: 25.0 % right of 40"
    assert high.find("title").text == "confidence 95.0 %: 100.0 % right of 160"
    assert float(low.get("height")) == pytest.approx(float(high.get("height")) / 4, abs=0.02)
    assert float(high.get("fill-opacity")) == 1
    text = root.find("p").text
    assert "Expected calibration error 8.00 %" in text
    assert "Mean confidence 85.0 %, accuracy 85.0 %" in text
