# ruff: noqa: RUF001 (Chinese punctuation is meant as it stands)
"""Vocabularies: what a token is, what is kept, and sentences there and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.conventions import END, SPECIAL, UNKNOWN
from cnn_jax.data.text.pairs import normalize
from cnn_jax.data.text.vocabulary import Vocabulary, dumps

SENTENCES = [
    "A man's dog (brown) isn't well-behaved: it ate 3.5 pies, at 10:30!",
    "Zwei junge weiße Männer sind im Freien.",
    "新加坡地铁不稳定。",
    "他说：“我喜欢Python。”",
]


@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.parametrize("level", ["word", "char"])
def test_sentences_come_back_as_they_were(text, level):
    vocabulary = Vocabulary.build(SENTENCES, level)
    indices = vocabulary.encode(text)
    assert indices[-1] == END
    assert UNKNOWN not in indices
    assert vocabulary.decode([*indices, 0, 0]) == text


def test_words_are_words_and_chinese_is_characters():
    vocabulary = Vocabulary.build([], "word")
    assert vocabulary.split("Singapore MRT isn't stable.") == [
        *("Singapore", "MRT", "isn", "'t", "stable", ".")
    ]
    assert vocabulary.split("新加坡MRT不稳定") == ["新", "加", "坡", "MRT", "不", "稳", "定"]


def test_most_frequent_first_and_the_rare_left_out():
    texts = ["b a a", "c a b", "d"]
    assert Vocabulary.build(texts, "word").tokens == (*SPECIAL, "a", "b", "c", "d")
    assert Vocabulary.build(texts, "word", min_count=2).tokens == (*SPECIAL, "a", "b")
    assert Vocabulary.build(texts, "word", max_size=5).tokens == (*SPECIAL, "a")
    small = Vocabulary.build(texts, "word", min_count=2)
    indices = small.encode("a d b")
    assert indices == [4, UNKNOWN, 5, END]
    assert small.decode(indices) == "a <unk> b"
    assert small.decode(indices, ["x", "Dach", "y"]) == "a Dach b"


def test_special_names_in_a_text_are_not_special():
    vocabulary = Vocabulary.build(["</s> <pad>"], "word")
    assert END not in vocabulary.encode("</s> <pad>")[:-1]


def test_lowercase_and_composition():
    vocabulary = Vocabulary.build(["Über"], "word", lowercase=True)
    assert vocabulary.encode("U\u0308BER") == [4, END]


@given(st.text())
def test_characters_of_any_text_come_back(text):
    vocabulary = Vocabulary.build([text], "char")
    assert vocabulary.decode(vocabulary.encode(text)) == normalize(text)


def test_a_run_s_file_brings_them_back():
    word, char = Vocabulary.build(SENTENCES, "word"), Vocabulary.build(SENTENCES, "char")
    stored = json.loads(dumps(word, char))
    for name, original in (("source", word), ("target", char)):
        again = Vocabulary.from_json(stored[name])
        assert again.tokens == original.tokens
        assert again.encode(SENTENCES[0]) == original.encode(SENTENCES[0])
        assert again.as_json() == original.as_json()


def test_a_file_of_an_earlier_version_means_what_it_meant():
    """Its tokens hold no spacing, and marks tear its words."""
    tokens = [*SPECIAL, '"', "प", "ा", "न", "ी"]
    stored = {"level": "word", "lowercase": False, "tokens": tokens}
    vocabulary = Vocabulary.from_json(stored)
    assert vocabulary.encode('"पानी"') == [4, 5, 6, 7, 8, 4, END]
    assert Vocabulary.from_json(vocabulary.as_json()).rules == 1
    assert UNKNOWN in Vocabulary.from_json({**stored, "rules": 2}).encode('"पानी"')


WHOLE = {"level": "word", "lowercase": False, "rules": 2, "tokens": [*SPECIAL, "a"]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"level": "words"}, "level is none of word, char, subword"),
        ({"level": ["word"]}, "level is none of"),
        ({"lowercase": "no"}, "lowercase is neither true nor false"),
        ({"lowercase": None}, "lowercase is neither"),
        ({"tokens": "abc"}, "tokens are no list of texts"),
        ({"tokens": None}, "tokens are no list of texts"),
        ({"tokens": [*SPECIAL, 1]}, "tokens are no list of texts"),
        ({"tokens": [*SPECIAL, ""]}, "tokens are no list of texts"),
        ({"tokens": ["a", *SPECIAL]}, "tokens do not begin with"),
        ({"tokens": [*SPECIAL, "a", "a"]}, "a token is there twice"),
        ({"rules": 3}, "rules 3 are unknown"),
        ({"rules": "2"}, "rules '2' are unknown"),
        ({"rules": True}, "rules True are unknown"),
        ({"level": "subword"}, "model is no text"),
        ({"level": "subword", "model": "ä"}, "only ASCII"),
        ({"level": "subword", "model": "AAAA"}, "model is not sentencepiece's"),
        ({"level": "subword", "model": ""}, "model is no text"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(change, problem):
    with pytest.raises(ValueError, match=problem):
        Vocabulary.from_json({**WHOLE, **change})


@pytest.mark.parametrize("value", [None, 3, "x", [], [WHOLE], {}])
def test_what_is_no_vocabulary_is_refused(value):
    with pytest.raises(ValueError, match="level is none of"):
        Vocabulary.from_json(value)


def test_subwords():
    pytest.importorskip("sentencepiece")
    texts = ["low lower lowest", "new newer newest", "wide wider widest"] * 20
    vocabulary = Vocabulary.build(texts, "subword", max_size=40)
    assert vocabulary.tokens[:4] == SPECIAL
    assert len(vocabulary) <= 40
    for text in ("low newer widest", "lowest new"):
        indices = vocabulary.encode(text)
        assert UNKNOWN not in indices
        assert vocabulary.decode(indices) == text
    # A word never seen is put together of parts that were.
    assert vocabulary.decode(vocabulary.encode("newid")) == "newid"
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.as_json())))
    assert again.encode("wider low") == vocabulary.encode("wider low")
    assert Vocabulary.build(texts, "subword", max_size=40).model == vocabulary.model
