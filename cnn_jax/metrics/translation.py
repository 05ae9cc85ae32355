"""Translation metrics: functions of one sentence on the device, of whole texts on the host.

BLEU and chrF count n-grams of text, which are no array operations; sacrebleu does it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import regex
from jaxtyping import Array, Bool, Float, Int
from sacrebleu.metrics import BLEU, CHRF

from cnn_jax.conventions import PAD
from cnn_jax.metrics.classification import top_k_correct


def token_log_probabilities(
    logits: Float[Array, "time words"], target: Int[Array, " time"]
) -> Float[Array, " time"]:
    """Compute the log-probability of each true token; zero on padding."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_probabilities, target[:, None], axis=-1)[:, 0]
    return jnp.where(target == PAD, 0.0, chosen)


def tokens_correct(
    logits: Float[Array, "time words"], target: Int[Array, " time"]
) -> Bool[Array, " time"]:
    """Mark the tokens that are the most probable given the true ones before; false on padding."""
    # Not by argmax, which is several times slower on a CPU.
    return jax.vmap(partial(top_k_correct, k=1))(logits, target) & (target != PAD)


def exact_match(words: Int[Array, " maximum"], target: Int[Array, " time"]) -> Bool[Array, ""]:
    """Test whether a decoded sentence is the true one, to its end."""
    length = max(words.shape[0], target.shape[0])
    padded = [jnp.pad(x, (0, length - x.shape[0]), constant_values=PAD) for x in (words, target)]
    return jnp.all(padded[0] == padded[1])


def perplexity(log_probability: float, tokens: float) -> float:
    """Compute ``exp`` of the mean negative log-probability of a token."""
    with np.errstate(over="ignore"):
        return float(np.exp(-log_probability / tokens))


# Letters of scripts that put no spaces between words, Chinese apart.
_UNSPACED = regex.compile(r"[\p{Line_Break=Complex_Context}\p{Hiragana}\p{Katakana}\p{Tibetan}]")
_CHINESE = regex.compile(r"\p{Han}")
_LETTER = regex.compile(r"\p{Alphabetic}")
# BLEU counts n-grams of up to this many units.
_LONGEST = 4


def tokenizer_for(references: Iterable[str]) -> str:
    """Choose sacrebleu's tokenizer by the script of the references, as `TextMetrics.tokenize`.

    `13a`, the field's own for most languages, sees one word in a sentence without spaces. So `zh`
    serves where most letters are Chinese, and `char` where most are of Japanese (with kana), Thai,
    Lao, Khmer, Burmese or Tibetan.
    """
    letters = chinese = unspaced = 0
    for text in references:
        letters += len(_LETTER.findall(text))
        chinese += len(_CHINESE.findall(text))
        unspaced += len(_UNSPACED.findall(text))
    if 2 * (chinese + unspaced) <= letters:
        return "13a"
    # Japanese texts have more kana than Chinese characters, or nearly as many; Chinese ones none.
    return "char" if 5 * unspaced > chinese else "zh"


@dataclass(frozen=True)
class TextMetrics:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of whole texts, by sacrebleu.

    Attributes:
        tokenize: the units that BLEU counts: `13a` words of most languages, `zh` Chinese characters
            beside other languages' words, `char` characters, `none` words between spaces. See
            `tokenizer_for`.
        lowercase: ignores case.

    References:
        Post, `A Call for Clarity in Reporting BLEU Scores <https://arxiv.org/abs/1804.08771>`_,
        2018
    """

    tokenize: str = "13a"
    lowercase: bool = False

    def scores(self, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Compute `bleu` and `chrf`, from 0 to 100.

        BLEU counts n-grams of one to four units. Where no reference has four, even a copy would
        have a BLEU of zero: there it counts the lengths that exist (`eff:yes` in its signature).
        """
        return {
            "bleu": self._bleu(references).corpus_score(hypotheses, [references]).score,
            "chrf": self._chrf().corpus_score(hypotheses, [references]).score,
        }

    def signatures(self, references: Sequence[str]) -> dict[str, str]:
        """The signatures by which sacrebleu says how it counted, by metric."""
        signatures = {}
        for name, metric in (("bleu", self._bleu(references)), ("chrf", self._chrf())):
            metric.corpus_score(["a"], [["a"]])  # The signature exists once it has counted.
            signatures[name] = str(metric.get_signature())
        return signatures

    def _bleu(self, references: Sequence[str]) -> BLEU:
        # `force`: the texts are detokenised already where they should be.
        options = {"tokenize": self.tokenize, "lowercase": self.lowercase, "force": True}
        units = BLEU(**options).tokenizer
        short = all(len(units(text).split()) < _LONGEST for text in references)
        return BLEU(**options, effective_order=short)

    def _chrf(self) -> CHRF:
        return CHRF(lowercase=self.lowercase)


@dataclass(frozen=True)
class LengthBucket:
    """BLEU of the sentences of similar length.

    Attributes:
        shortest, longest: source words.
        sentences: their number.
        bleu: from 0 to 100.
    """

    shortest: int
    longest: int
    sentences: int
    bleu: float


def bleu_by_length(
    metrics: TextMetrics,
    hypotheses: Sequence[str],
    references: Sequence[str],
    lengths: Sequence[int],
    count: int = 6,
) -> list[LengthBucket]:
    """Compute BLEU against the length of the source sentence (Bahdanau et al. 2015, figure 2).

    Args:
        metrics: the settings of BLEU.
        hypotheses, references: the sentences.
        lengths: of the source sentences.
        count: number of buckets of about equally many sentences; empty ones are left out.
    """
    lengths = np.asarray(lengths)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:], method="lower"))
    place = np.searchsorted(edges, lengths)
    buckets = []
    for number in range(len(edges)):
        rows = np.flatnonzero(place == number)
        score = metrics.scores([hypotheses[i] for i in rows], [references[i] for i in rows])
        inside = lengths[rows]
        buckets.append(LengthBucket(int(inside.min()), int(inside.max()), len(rows), score["bleu"]))
    return buckets
