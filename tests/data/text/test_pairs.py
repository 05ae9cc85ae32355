"""Sentence pairs from files: what is read, how it is split, and what can be wrong with it."""

import gzip
import unicodedata

import pytest

from cnn_jax.data import text
from cnn_jax.errors import UserError


def problem(spec, split="train", **settings):
    with pytest.raises(UserError) as caught:
        text.open_sentence_pairs(spec, split, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path):
    """200 sentences with two translations each, and an attribution."""
    lines = [f"Sentence {i // 2}.\tSatz {i}.\tby someone #{i}" for i in range(400)]
    return write(tmp_path / "pairs.tsv", lines)


def test_a_table_is_split_by_distinct_source_sentence(table):
    parts = {s: text.open_sentence_pairs(f"pairs:{table}", s) for s in ("train", "eval", "test")}
    assert sum(map(len, parts.values())) == 400
    assert not set(parts["train"].sources) & set(parts["eval"].sources)
    assert not set(parts["train"].sources) & set(parts["test"].sources)
    assert not set(parts["eval"].sources) & set(parts["test"].sources)
    for part in parts.values():
        assert len(part) == 2 * len(set(part.sources))
    assert 10 <= len(parts["eval"]) <= 80
    again = text.open_sentence_pairs(f"pairs:{table}", "eval", seed=5)
    assert list(again.sources) == list(parts["eval"].sources)
    first = parts["train"]
    number = int(first.describe(0).rpartition(":")[2])
    assert first.targets[0] == f"Satz {number - 1}."


def test_sentences_that_differ_in_case_or_spaces_stay_together(tmp_path):
    lines = [f"{way} {i}\tx" for i in range(100) for way in ("Go on", "go  on", "GO ON")]
    file = write(tmp_path / "t.tsv", lines)
    for split in ("train", "eval", "test"):
        part = text.open_sentence_pairs(f"pairs:{file}", split, holdout_fraction=0.2)
        assert len(part) == 3 * len({" ".join(s.lower().split()) for s in part.sources})


def test_parallel_files_and_gzip_and_the_splits_beside_them(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for language in ("en", "de"):
            lines = "".join(f"{language} {split} {i}\n" for i in range(count)).encode()
            path = tmp_path / f"{split}.{language}.gz"
            path.write_bytes(gzip.compress(lines))
    spec = f"pairs:{tmp_path}/train.de,{tmp_path}/train.en"
    assert list(text.open_sentence_pairs(spec, "eval").sources) == ["de val 0", "de val 1"]
    # There is no test file: those for validation stand for it, and nothing is held out.
    assert list(text.open_sentence_pairs(spec, "test").sources) == ["de val 0", "de val 1"]
    train = text.open_sentence_pairs(spec, "train")
    assert list(train.sources) == [f"de train {i}" for i in range(4)]
    assert train.targets[0] == "en train 0"
    alone = text.open_sentence_pairs(
        f"pairs:{tmp_path}/val.de.gz,{tmp_path}/val.en", "train", holdout_fraction=0.0
    )
    assert len(alone) == 2


def test_whole_training_files_where_all_splits_have_their_own(tmp_path):
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.tsv", [f"{split} {i}\tx" for i in range(5)])
    spec = f"pairs:{tmp_path}/train.tsv"
    for split, name in (("train", "train"), ("eval", "dev"), ("test", "test")):
        assert list(text.open_sentence_pairs(spec, split).sources) == [
            f"{name} {i}" for i in range(5)
        ]


def test_text_is_composed_and_only_newlines_end_lines(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Käse")
    data = f"\ufeff{decomposed}\tche\u2028ese\r\nBrot\tbread\n\t\n"
    (tmp_path / "t.tsv").write_bytes(data.encode())
    pairs = text.open_sentence_pairs(f"pairs:{tmp_path}/t.tsv", "train", holdout_fraction=0.0)
    assert list(pairs.sources) == ["Käse", "Brot"]
    assert pairs.targets[0] == "che\u2028ese"
    assert pairs.empty == 1


def test_bad_files_are_named_with_their_line(tmp_path):
    write(tmp_path / "a.en", ["one", "two"])
    write(tmp_path / "a.de", ["eins"])
    write(tmp_path / "no_tab.tsv", ["good\tgut", "bad"])
    (tmp_path / "latin.tsv").write_bytes(b"good\tgut\ncaf\xe9\tx\n")
    (tmp_path / "empty.tsv").write_bytes(b"")
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"a\tb\n" * 50)[:-20])
    write(tmp_path / "blank.tsv", ["\t", "a\t"])
    assert "a.en has 2 lines and" in problem(f"pairs:{tmp_path}/a.en,{tmp_path}/a.de")
    assert "no_tab.tsv:2: no tab" in problem(f"pairs:{tmp_path}/no_tab.tsv")
    assert "latin.tsv:2: not UTF-8 (byte 4" in problem(f"pairs:{tmp_path}/latin.tsv")
    assert "empty.tsv: is empty" in problem(f"pairs:{tmp_path}/empty.tsv")
    assert "broken.gz: cannot be read" in problem(f"pairs:{tmp_path}/broken.gz")
    assert "blank.tsv: contains no sentence pairs" in problem(f"pairs:{tmp_path}/blank.tsv")
    assert "no such file" in problem(f"pairs:{tmp_path}/none.tsv")
    assert "is a folder" in problem(f"pairs:{tmp_path}")
    assert "lacks a file" in problem("pairs:")
    assert "give one file, or two" in problem("pairs:a,b,c")


def test_an_unknown_format_gives_the_nearest():
    assert "did you mean pairs" in problem("pair:x")
    assert "known: dates, pairs, tfds" in problem("shapes")
