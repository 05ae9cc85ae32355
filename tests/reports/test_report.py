"""A run's page: the numbers on it, and that it needs nothing from elsewhere."""

import json
import re
import time
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.metrics import classification as metrics
from cnn_jax.reports.classification import ClassificationReport
from cnn_jax.reports.page import Folded, Table, Text, settings_table
from cnn_jax.reports.report import write_report
from cnn_jax.reports.rows import RowsFile

CONFIG = {"model": "resnet20", "data": "folder:<b>my</b>", "seed": 7, "class_names": ["a", "b"]}
ENVIRONMENT = {
    "command": "python -m experiments.classify --data 'folder:<b>my</b>'",
    "device_kind": "TPU v9",
    "device_count": 8,
    "packages": {"jax": "0.10.2"},
    "variables": {},
}
ROWS = [
    {"step": 500, "split": "eval", "loss": 0.5, "top1": 0.81, "seconds": 50.0},
    {"step": 1000, "split": "eval", "loss": 0.4, "top1": 0.93, "seconds": 100.0},
    {"step": 1500, "split": "train", "loss": None, "examples_per_second": 812.0, "seconds": 149.0},
    {"step": 1500, "split": "eval", "loss": 0.45, "top1": 0.92, "seconds": 150.0},
]


class Page(HTMLParser):
    """The page's texts by element, tables by heading, and every address it refers to."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.feed(markup)
        assert self.open == [], "elements left open"

    def handle_starttag(self, name, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href") and v]
        if name in ("meta", "link", "img"):
            return
        self.open.append(name)
        self.texts.setdefault(name, []).append("")
        if name == "tr":
            self.tables.setdefault(self.texts["h2"][-1], []).append([])
        if name in ("td", "th"):
            self.tables[self.texts["h2"][-1]][-1].append("")

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        if not self.open:
            return
        self.texts[self.open[-1]][-1] += text
        if self.open[-1] in ("td", "th"):
            self.tables[self.texts["h2"][-1]][-1][-1] += text


def make_run(directory, rows=ROWS, environment=ENVIRONMENT):
    (directory / "config.json").write_text(json.dumps(CONFIG))
    if environment:
        (directory / "environment.json").write_text(json.dumps(environment))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_the_page_says_what_was_reached_and_how(tmp_path):
    path = write_report(make_run(tmp_path))
    assert path == tmp_path / "report.html"
    page = Page(path.read_text())
    assert page.texts["h1"] == ["resnet20 on folder:<b>my</b>"]
    assert page.texts["p"][0] == (
        "Top-1 92.00 % on eval after 1,500 steps in 2 min 30 s on 8 x TPU v9 with seed 7."
    )
    assert page.texts["pre"] == [ENVIRONMENT["command"]]
    assert page.tables["Results"] == [
        ["", "eval", "train", "best eval"],
        ["step", "1,500", "1,500", ""],
        ["top-1", "92.00 %", "", "93.00 % (step 1,000)"],
        ["loss", "0.45", "–", "0.4 (step 1,000)"],  # noqa: RUF001
        ["examples/s", "", "812", ""],
    ]
    assert ["seed", "7"] in page.tables["Settings"]
    assert ["class_names", "a, b"] in page.tables["Settings"]
    assert ["packages.jax", "0.10.2"] in page.tables["Environment"]


def test_the_page_refers_to_nothing_outside_and_runs_no_script(tmp_path):
    text = write_report(make_run(tmp_path)).read_text()
    assert all(address.startswith("data:") for address in Page(text).addresses)
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_a_test_split_is_what_the_verdict_is_about(tmp_path):
    rows = [*ROWS, {"step": 1500, "split": "test", "loss": 0.5, "top1": 0.9, "seconds": 160.0}]
    page = Page(write_report(make_run(tmp_path, rows, environment=None)).read_text())
    assert page.texts["p"][0] == (
        "Top-1 90.00 % on test after 1,500 steps in 2 min 40 s with seed 7."
    )
    assert "Environment" not in page.texts["h2"]


@pytest.mark.parametrize(
    ("rows", "lead"),
    [
        ([], "Nothing reported yet."),
        (
            [{"step": 1, "split": "train", "loss": None}],
            "Loss – on train after 1 step with seed 7.",  # noqa: RUF001
        ),
    ],
)
def test_a_run_that_has_hardly_begun(tmp_path, rows, lead):
    page = Page(write_report(make_run(tmp_path, rows, environment=None)).read_text())
    assert page.texts["p"][0] == lead


def test_sections_of_a_task_stand_between_curves_and_settings(tmp_path):
    sections = [
        Text("A & B", "one < two"),
        Folded(Table("Table", ["x", "y"], [["<a>", "1"]], note="so it is")),
        settings_table("Nested", {"a": {"b": [1, 2]}, "c": [{"d": None}, {"d": True}]}),
    ]
    page = Page(write_report(make_run(tmp_path), sections=sections).read_text())
    assert page.texts["h2"] == [
        *("Results", "Curves", "A & B", "Table", "Nested", "Settings", "Environment")
    ]
    assert "one < two" in page.texts["p"]
    assert page.tables["Table"] == [["x", "y"], ["<a>", "1"]]
    assert page.tables["Nested"] == [["a.b", "1, 2"], ["c.0.d", "–"], ["c.1.d", "True"]]  # noqa: RUF001


def test_a_folder_that_is_no_run_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        write_report(tmp_path)


class Source:
    """Pictures whose colour is their index."""

    def __init__(self, names):
        self.class_names = tuple(names)

    def __len__(self):
        return 256

    def __getitem__(self, index):
        return {"image": np.full((40, 50, 3), index % 256, np.uint8)}

    def describe(self, index):
        return f"photos/{index}.jpg"


class Evaluation:
    def __init__(self, confusion, calibration, metrics, details):
        self.sums = {"confusion": confusion, "calibration": calibration}
        self.metrics = metrics
        self.details = details


class Details:
    def __init__(self, log_probabilities, labels):
        self.log_probabilities, self.labels = log_probabilities, labels
        self.areas_under_roc = metrics.areas_under_roc(log_probabilities, labels)


def evaluation(count: int, classes: int):
    """Random predictions: the batch, its log-probabilities and its evaluation."""
    rng = np.random.default_rng(1)
    log_probabilities = np.log(rng.dirichlet(np.full(classes, 0.1), count) + 1e-9)
    predicted = log_probabilities.argmax(-1)
    label = np.where(rng.random(count) < 0.7, predicted, rng.integers(0, classes, count))
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (label, predicted), 1)
    chance = np.exp(log_probabilities.max(-1))
    which = np.minimum((chance * 15).astype(int), 14)
    bins = metrics.CalibrationBins(
        np.bincount(which, minlength=15),
        np.bincount(which, chance, 15),
        np.bincount(which, label == predicted, 15),
    )
    batch = {"index": np.arange(count), "label": label, "valid": np.ones(count, bool)}
    figures = {"expected_calibration_error": metrics.expected_calibration_error(bins)}
    details = Details(log_probabilities, label)
    return batch, log_probabilities, Evaluation(confusion, bins, figures, details)


def test_a_classification_run_shows_its_mistakes(tmp_path):
    batch, log_probabilities, outcome = evaluation(120, 10)
    names = [f"<class {i}>" for i in range(10)]
    report = ClassificationReport(make_run(tmp_path), Source(names), lambda example: example)
    report.select(batch, log_probabilities)
    report.write(1500, outcome)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.texts["h2"][2:-2] == [
        *("Mistakes", "Right answers", "Confusion matrix", "Accuracy by class", "Calibration")
    ]
    assert "<class" not in text
    predicted, label = log_probabilities.argmax(-1), batch["label"]
    mistakes = np.flatnonzero(predicted != label)
    worst = mistakes[np.exp(log_probabilities[mistakes]).max(-1).argmax()]
    # The first card: where it is from, and before that the wrong guess with its probability.
    chance = np.exp(log_probabilities[worst]).max()
    card = text[text.index('class="gallery"') : text.index(f"photos/{worst}.jpg")]
    assert card.count("<img") == 1
    spans = [unescape(span) for span in re.findall("<span>(.*?)</span>", card)]
    assert spans[:2] == [names[predicted[worst]], f"{chance:.2f}"]
    errors = outcome.sums["confusion"] * (1 - np.eye(10, dtype=int))
    truth, taken, times, _ = page.tables["Confusion matrix"][1]
    assert int(times) == errors.max() == errors[names.index(truth), names.index(taken)]
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {"right.png", "wrong.png"}


def test_figures_by_class_and_rows_are_written(tmp_path):
    _, log_probabilities, outcome = evaluation(120, 3)
    table = RowsFile(tmp_path / "rows.csv")
    report = ClassificationReport(make_run(tmp_path), Source("abc"), lambda x: x, table)
    report.write(1500, outcome)
    content = json.loads((tmp_path / "per_class.json").read_text())
    assert content["step"] == 1500
    confusion = outcome.sums["confusion"]
    for number, one in enumerate(content["classes"]):
        assert one["name"] == "abc"[number]
        assert one["support"] == confusion[number].sum()
        assert one["recall"] == pytest.approx(confusion[number, number] / one["support"])
        assert 0 < one["auroc"] < 1
    lines = table.path.read_text().splitlines()
    assert lines[0] == "name,truth,prediction,probability" and len(lines) == 121
    name, truth, prediction, probability = lines[1].split(",")
    assert (name, truth) == ("photos/0.jpg", "abc"[outcome.details.labels[0]])
    assert prediction == "abc"[log_probabilities[0].argmax()]
    assert float(probability) == pytest.approx(np.exp(log_probabilities[0].max()))


def test_without_selection_there_are_no_pictures(tmp_path):
    _, _, outcome = evaluation(30, 3)
    report = ClassificationReport(make_run(tmp_path), Source("abc"), lambda example: example)
    report.write(1500, outcome)
    page = Page((tmp_path / "report.html").read_text())
    assert "Mistakes" not in page.texts["h2"]
    assert "Confusion matrix" in page.texts["h2"]


def test_pictures_of_the_evaluation_before_do_not_linger(tmp_path):
    batch, log_probabilities, outcome = evaluation(30, 3)
    report = ClassificationReport(make_run(tmp_path), Source("abc"), lambda example: example)
    report.select(batch, log_probabilities)
    report.write(500, outcome)
    assert (tmp_path / "samples" / "wrong.png").exists()
    report.select({**batch, "label": log_probabilities.argmax(-1)}, log_probabilities)
    report.write(1000, outcome)
    assert not (tmp_path / "samples" / "wrong.png").exists()
    assert "Mistakes" not in (tmp_path / "report.html").read_text()


def test_a_report_takes_no_time(tmp_path):
    batch, log_probabilities, outcome = evaluation(2000, 100)
    rows = [{"step": s, "split": "train", "loss": 1.0 / s, "top1": 0.5} for s in range(1, 5001)]
    report = ClassificationReport(
        make_run(tmp_path, rows), Source(map(str, range(100))), lambda example: example
    )
    report.select(batch, log_probabilities)
    started = time.process_time()
    report.write(5000, outcome)
    assert time.process_time() - started < 2
    assert (tmp_path / "report.html").stat().st_size < 2e6
