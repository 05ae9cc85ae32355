"""Sentence pairs from files: what is read, how it is split, and what can be wrong with it."""

import gzip
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.data import text
from cnn_jax.data.text.pairs import Pairs, joined, normalize, seen_in
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
    assert "latin.tsv:2: not text in utf-8 (byte 0xe9); convert" in problem(
        f"pairs:{tmp_path}/latin.tsv"
    )
    assert "empty.tsv: is empty" in problem(f"pairs:{tmp_path}/empty.tsv")
    assert "broken.gz: cannot be read" in problem(f"pairs:{tmp_path}/broken.gz")
    assert "blank.tsv: contains no sentence pairs" in problem(f"pairs:{tmp_path}/blank.tsv")
    assert "none.tsv: cannot be read (No such file" in problem(f"pairs:{tmp_path}/none.tsv")
    assert "is a folder" in problem(f"pairs:{tmp_path}")
    assert "lacks a file" in problem("pairs:")
    assert "give one file, or two" in problem("pairs:a,b,c")


def test_any_encoding_that_a_mark_declares_and_lines_of_any_system(tmp_path):
    rows = [("naïve", "naïf"), ("पानी", "water"), ("😀", "smile")]
    file = tmp_path / "t.tsv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        for end in ("\n", "\r\n", "\r"):
            for last in ("", end):
                text = end.join("\t".join(row) for row in rows) + last
                file.write_bytes(text.encode(encoding))
                pairs = text_of(file)
                assert list(zip(pairs.sources, pairs.targets, strict=True)) == rows


def text_of(file):
    return text.open_sentence_pairs(f"pairs:{file}", "train", holdout_fraction=0.0)


def test_tatoeba_s_four_columns_and_others_are_told_apart(tmp_path):
    numbered = write(tmp_path / "a.tsv", ["1276\tGo on.\t5\tWeiter.", "77\tStop.\t8\tHalt."])
    assert list(text_of(numbered).sources) == ["Go on.", "Stop."]
    assert list(text_of(numbered).targets) == ["Weiter.", "Halt."]
    others = write(tmp_path / "b.tsv", ["1276\tGo on.\t5\tWeiter.", "Stop\tHalt\tx\ty"])
    assert list(text_of(others).sources) == ["1276", "Stop"]


def test_a_name_may_have_a_comma(tmp_path):
    file = write(tmp_path / "de,en.tsv", ["eins\tone"])
    assert list(text_of(file).sources) == ["eins"]


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train.tsv", "dev.tsv", "eval"),
        ("Train.tsv", "Validation.tsv", "eval"),
        ("news_training.tsv", "news_testing.tsv", "test"),
        ("training.tsv", "development.tsv", "eval"),
        ("restrained.train.tsv", "restrained.valid.tsv", "eval"),
    ],
)
def test_the_names_of_splits_are_those_of_all_readers(tmp_path, train, other, split):
    write(tmp_path / train, ["a\tb"])
    write(tmp_path / other, ["c\td"])
    write(tmp_path / "unrelated.tsv", ["x\ty"])
    pairs = text.open_sentence_pairs(f"pairs:{tmp_path / train}", split)
    assert list(pairs.sources) == ["c"]
    assert list(text_of(tmp_path / train).sources) == ["a"]


def test_two_files_of_one_split_are_refused(tmp_path):
    for name in ("train", "val", "dev"):
        write(tmp_path / f"{name}.tsv", ["a\tb"])
    assert "dev and val both mean the split 'val'" in problem(f"pairs:{tmp_path}/train.tsv")


def test_pairs_that_training_has_as_well_are_found(tmp_path):
    write(tmp_path / "train.tsv", ["Go on\tx", "Stop\ty"])
    write(tmp_path / "val.tsv", ["new\tx", "go  on\tz", "other\ty"])
    spec = f"pairs:{tmp_path}/train.tsv"
    parts = [text.open_sentence_pairs(spec, split) for split in ("train", "eval")]
    assert seen_in(*parts) == [1]
    assert seen_in(parts[0], Pairs(["no"], ["no"], "made")) == []


def test_what_is_no_text_ends_with_one_line(tmp_path):
    def named(name, data):
        (tmp_path / name).write_bytes(data)
        return problem(f"pairs:{tmp_path / name}")

    assert "zero.tsv:1: not text (it holds zero bytes)" in named("zero.tsv", b"a\tb\0\n")
    late = b"a\tb\n" * 2000 + b"a\tb\0\n"
    assert "late.tsv:2001: not text (it holds zero bytes)" in named("late.tsv", late)
    unmarked = "a\tb\n".encode("utf-16-le")
    assert "wide.tsv:1: not text (it holds zero bytes)" in named("wide.tsv", unmarked)
    half = "\ud800".encode("utf-8", "surrogatepass")
    assert "half.tsv:2: not text in utf-8" in named("half.tsv", b"a\tb\n" + half + b"\tb\n")
    odd = b"\xff\xfea\0\t\0b\0\n\0\0\xd8\t\0b\0\n\0"
    assert "odd.tsv:2: not text in utf-16" in named("odd.tsv", odd)
    long = b"a\tb\nx\t" + b"y" * 1_000_001
    assert "long.tsv:2: 1,000,003 characters are no sentence" in named("long.tsv", long)
    marks = ("a\tb\na" + "\u0301\u0316" * 40_000 + "\tb").encode()
    assert "marks.tsv:2: 500 combining marks in a row" in named("marks.tsv", marks)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: is a named pipe, not a file" in problem(f"pairs:{tmp_path}/pipe")
    assert "null: is a device, not a file" in problem("pairs:/dev/null")
    assert "cannot be read" in problem("pairs:" + "x" * 5000)
    assert "cannot be read" in problem("pairs:a\0b")


def test_a_compressed_file_that_is_damaged_or_a_bomb(tmp_path):
    whole = gzip.compress(b"".join(b"%d\t%d\n" % (i, i * i) for i in range(999)))
    file = tmp_path / "t.gz"
    file.write_bytes(whole + gzip.compress(b"x\ty\n"))
    assert len(text_of(file)) == 1000
    for damaged in (whole[:5], whole[:-20], whole[:-8] + bytes(8), whole[:50] + bytes(20)):
        file.write_bytes(damaged)
        assert "t.gz: cannot be read" in problem(f"pairs:{file}")
    # A text of 100 MiB that packs a thousand times smaller.
    with gzip.open(file, "wb", compresslevel=1) as bomb:
        for _ in range(100):
            bomb.write(b"a\tb\n" * (2**20 // 4))
    assert "t.gz: unpacks to more than" in problem(f"pairs:{file}")


# What a line can hold: any character but its own ends, tabs, and zero.
SENTENCE = (
    st.text(
        st.characters(exclude_characters="\t\r\n\0\ufeff", exclude_categories=["Cs"]), min_size=1
    )
    .map(lambda sentence: normalize(sentence).strip())
    .filter(bool)
)
ROWS = st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5)


@given(ROWS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.booleans(), st.booleans())
def test_pairs_are_read_as_they_were_written(tmp_path_factory, rows, encoding, table, packed):
    folder = tmp_path_factory.mktemp("pairs")

    def store(name, lines):
        data = "".join(f"{line}\n" for line in lines).encode(encoding)
        (folder / name).write_bytes(gzip.compress(data) if packed else data)
        return str(folder / name)

    if table:
        spec = store("t", ["\t".join(row) for row in rows])
    else:
        spec = ",".join(store(f"p{i}", [row[i] for row in rows]) for i in range(2))
    pairs = text_of(spec)
    assert list(zip(pairs.sources, pairs.targets, strict=True)) == rows


def test_an_unknown_format_gives_the_nearest():
    assert "did you mean pairs" in problem("pair:x")
    assert "known: dates, pairs, tfds" in problem("shapes")


def test_consecutive_pairs_are_joined_and_none_is_lost():
    pairs = Pairs(list("abcde"), list("ABCDE"), "text", [1, 2, 4, 5, 7], empty=2)
    three = joined(pairs, 3)
    assert (three.sources, three.targets) == (["a b c", "d e"], ["A B C", "D E"])
    assert [three.describe(i) for i in range(len(three))] == ["text:1", "text:5"]
    assert three.empty == 2
    assert joined(pairs, 1) is pairs
