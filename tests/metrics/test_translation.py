"""Translation metrics: sentences against NumPy, texts against sacrebleu's own functions."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

from cnn_jax.conventions import END
from cnn_jax.metrics.translation import (
    TextMetrics,
    bleu_by_length,
    exact_match,
    perplexity,
    token_log_probabilities,
    tokenizer_for,
    tokens_correct,
)

HYPOTHESES = ["the cat sat on the mat .", "A dog runs", "two men are outside"]
REFERENCES = ["The cat sat on a mat.", "A dog is running.", "Two men are outside."]


def test_tokens_against_numpy_and_padding_counts_nowhere():
    logits = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    target = np.array([5, 2, 3, 0])
    expected = [logits[i, t] - np.log(np.exp(logits[i]).sum()) for i, t in enumerate(target[:3])]
    ours = token_log_probabilities(jnp.asarray(logits), jnp.asarray(target))
    np.testing.assert_allclose(ours, [*expected, 0.0], rtol=1e-5)
    logits[np.arange(3), [5, 2, 1]] = 9.0
    logits[3, 0] = 9.0
    right = tokens_correct(jnp.asarray(logits), jnp.asarray(target))
    assert right.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("words", "target", "same"),
    [
        ([5, 6, END, 0, 0], [5, 6, END], True),
        ([5, 6, END], [5, 6, END, 0, 0], True),
        ([5, 6, END, 0], [5, 7, END, 0], False),
        ([5, END, 0], [5, 6, END], False),
        ([5, 6, 7], [5, 6, 7, END], False),
    ],
)
def test_exact_match(words, target, same):
    assert bool(exact_match(jnp.array(words), jnp.array(target))) is same


def test_perplexity_of_even_odds_is_their_number():
    assert perplexity(-10 * float(np.log(7)), 10.0) == pytest.approx(7)
    assert perplexity(-1e6, 1.0) == np.inf


@pytest.mark.parametrize("tokenize", ["13a", "char", "zh"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_texts_are_scored_by_sacrebleu(tokenize, lowercase):
    metrics = TextMetrics(tokenize, lowercase)
    scores = metrics.scores(HYPOTHESES, REFERENCES)
    options = {"tokenize": tokenize, "lowercase": lowercase, "force": True}
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], **options)
    assert scores["bleu"] == pytest.approx(bleu.score)
    assert 0 < scores["chrf"] < 100
    signature = metrics.signatures(REFERENCES)["bleu"]
    assert f"tok:{tokenize}" in signature
    assert f"case:{'lc' if lowercase else 'mixed'}" in signature
    assert signature.endswith(sacrebleu.__version__)


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (REFERENCES, "13a"),
        (["वह हमेशा पानी चाहता है।"], "13a"),
        (["서울은 한국의 수도이다."], "13a"),
        (["新加坡MRT不稳定。"], "zh"),
        (["I like 北京 and 上海 very much."], "13a"),
        (["私は東京に行きます。", "東京特許許可局"], "char"),
        (["ฉันรักประเทศไทย"], "char"),
        (["ພາສາລາວ"], "char"),
        (["ខ្ញុំស្រឡាញ់អ្នក។"], "char"),
        (["မြန်မာဘာသာစကား။"], "char"),
        (["བོད་སྐད་ཡིན།"], "char"),
        ([], "13a"),
        (["", "12"], "13a"),
    ],
)
def test_the_references_script_decides_what_bleu_counts(references, tokenizer):
    assert tokenizer_for(references) == tokenizer


def test_short_references_have_a_bleu_where_a_copy_is_best():
    """BLEU of four units is no more defined where no reference has four of them."""
    metrics, short = TextMetrics(), ["Go on", "Stop"]
    assert metrics.scores(short, short)["bleu"] == pytest.approx(100)
    assert "eff:yes" in metrics.signatures(short)["bleu"]
    # One with four is enough for the field's own definition, though few are right.
    longer = [*short, "Go on and stop"]
    assert "eff:no" in metrics.signatures(longer)["bleu"]
    expected = sacrebleu.corpus_bleu([*short, "Go on and"], [longer], force=True).score
    assert metrics.scores([*short, "Go on and"], longer)["bleu"] == pytest.approx(expected)


def test_bleu_by_length_holds_every_sentence_once():
    lengths = [3, 3, 9, 4, 7, 7, 7, 20]
    references = [f"a b c d e {i} f g" for i in range(8)]
    hypotheses = [r if n < 9 else "x y z" for r, n in zip(references, lengths, strict=True)]
    groups = bleu_by_length(TextMetrics(), hypotheses, references, lengths, 3)
    assert sum(g.sentences for g in groups) == 8
    assert [g.shortest for g in groups] == sorted(g.shortest for g in groups)
    for one, other in pairwise(groups):
        assert one.longest < other.shortest
    assert groups[0].bleu == pytest.approx(100)
    assert groups[-1].longest == 20
    assert bleu_by_length(TextMetrics(), ["a"] * 4, ["a"] * 4, [5] * 4)[0].sentences == 4
