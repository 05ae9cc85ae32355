"""Every reader of a file in a run's folder, with odd values at every place of the file."""

import json

import pytest

from cnn_jax.data.text.vocabulary import Vocabulary, dumps
from cnn_jax.errors import UserError
from cnn_jax.runs import folder as runs
from experiments import annotate, class_weights, compare, segment, states, translate
from experiments.detection.common import stored_threshold
from experiments.options import recorded
from experiments.predict.predictor import class_names

ODD = (
    *(None, True, False, 0, -1, 1.5, 1e30, 10**40, "", "x", "1", "\0", "\udcff", [], {}, [[]]),
    *([None], ["x"], [1, 2, 3], {"a": 1}, [[1, 2], [3]], float("nan"), float("inf")),
)
MISSING = object()


def odd_contents(value):
    """A JSON value with each of its places taken by each odd value, or missing."""
    for path in places(value):
        for odd in (*ODD, MISSING):
            yield replaced(value, path, odd)


def places(value, path=()):
    """The places of all values within a JSON value, its own among them."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value[:3]) if isinstance(value, list) else items:
        yield from places(item, (*path, key))


def replaced(value, path, new):
    """A JSON value with another one at a place within, or without the one there."""
    if not path:
        return None if new is MISSING else new
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = replaced(value[key], rest, new) if rest else new
    if copy[key] is MISSING:
        del copy[key]
    return copy


WORDS = Vocabulary.build(["a b", "b c"], "word")
ONE = {"score": 0.5, "probability": 0.6}
ROW = {"step": 3, "split": "train", "loss": 0.5, "learning_rate": None, "seconds": 2.0}

READERS = {
    "class_names": ("config.json", {"class_names": ["a", "b"]}, class_names),
    "evaluated_size": (
        "config.json",
        {"evaluated_size": [3, 4]},
        lambda run: recorded(run, evaluated_size=segment.RECORDED_SIZE),
    ),
    "weights_by_class": (
        "config.json",
        {"weights_by_class": [1.0, 2]},
        lambda run: class_weights.recorded(run, ("a", "b")),
    ),
    "bucket_shapes": ("config.json", {"bucket_shapes": [[3, 4]]}, translate.recorded_shapes),
    "vocabulary": (
        translate.VOCABULARY_FILE,
        json.loads(dumps(WORDS, WORDS)),
        translate.read_vocabularies,
    ),
    "thresholds": (
        annotate.THRESHOLDS_FILE,
        {"step": 2, "f_beta": 2.0, "one": ONE, "per_label": {"a": ONE, "b": ONE}},
        lambda run: annotate.stored_thresholds(states.kept(run), ("a", "b")),
    ),
    "threshold": (
        "threshold.json",
        {"step": 2, "score": 0.5, "count_mae": 1.0},
        lambda run: stored_threshold(states.kept(run)),
    ),
    "bleu_by_length": (
        compare.LENGTHS_FILE,
        {"step": 2, "buckets": [{"shortest": 1, "longest": 5, "sentences": 3, "bleu": 20.5}]},
        lambda run: compare.by_longest(run / compare.LENGTHS_FILE),
    ),
    "rows": ("metrics.jsonl", ROW, lambda run: runs.read_rows(run / "metrics.jsonl")),
}


@pytest.mark.parametrize("name", READERS)
def test_what_a_reader_cannot_use_is_named_with_its_file(name, tmp_path):
    file, content, read = READERS[name]
    (tmp_path / file).write_text(json.dumps(content) + "\n")
    usual = read(tmp_path)
    refused = 0
    for odd in odd_contents(content):
        (tmp_path / file).write_text(json.dumps(odd) + "\n")
        try:
            assert type(read(tmp_path)) is type(usual)
        except UserError as error:
            assert str(error).startswith(str(tmp_path / file)) and "\n" not in str(error)
            refused += 1
    assert refused > 10
