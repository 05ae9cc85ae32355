"""Translation: a sentence in, a sentence out, and which words were looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from cnn_jax import losses
from cnn_jax.conventions import BEGIN, END, PAD, SPECIAL
from cnn_jax.data.text.pairs import Pairs
from cnn_jax.data.text.vocabulary import Vocabulary
from cnn_jax.metrics import translation as metrics
from cnn_jax.metrics.summary import Summary
from cnn_jax.models.seq2seq import Seq2Seq
from cnn_jax.ops import search

Batch = dict[str, Array]
Sums = dict[str, Any]
Rows = dict[str, Any]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The sentences of an evaluation, and the rules for writing and scoring their translations.

    Attributes:
        pairs: source sentences and their reference translations.
        source, target: the vocabularies.
        text_metrics: BLEU and chrF.
        replace_unknown: whether a word that the target vocabulary lacks is written as the source
            word that it attended to most (Luong et al. 2015b, https://arxiv.org/abs/1410.8206).
    """

    pairs: Pairs
    source: Vocabulary
    target: Vocabulary
    text_metrics: metrics.TextMetrics = field(default_factory=metrics.TextMetrics)
    replace_unknown: bool = False

    def write(
        self, index: int, words: Int[np.ndarray, " maximum"], aligned: Int[np.ndarray, " maximum"]
    ) -> str:
        """Write a decoded sentence as text.

        Args:
            index: the source sentence that it translates.
            words: token indices.
            aligned: the source position that each word attended to most.
        """
        unknown = None
        if self.replace_unknown:
            unknown = looked_at(self.source, self.pairs.sources[index], aligned.tolist())
        return self.target.decode(words.tolist(), unknown)

    def hypotheses(self, rows: Rows) -> list[str]:
        """Write the translations of all sentences, from the rows of an evaluation."""
        pairs = zip(rows["words"], rows["aligned"], strict=True)
        return [self.write(index, *pair) for index, pair in enumerate(pairs)]


@dataclass(frozen=True)
class Translation:
    """A translator: the network, its loss, its search and its metrics.

    Attributes:
        model: encoder and decoder.
        max_length: most tokens of a translation, its `END` included.
        held_out: the sentences that are evaluated, for BLEU and chrF; None leaves them out.
        loss_per: the unit that the gradient is the mean over. `token` gives every word the same
            weight, whatever batch it is in; `sentence` is the paper's objective, the
            log-probability of a whole sentence, with gradients larger by the number of its words.
        label_smoothing: share of the target spread evenly over all words.
        sampling: probability that the decoder is fed its own last word instead of the true one
            (scheduled sampling, Bengio et al. 2015).
        sampling_ramp: number of examples over which it rises to that from zero.
        beam: number of hypotheses that are followed; one is greedy search.
        length_penalty: exponent of the length that a hypothesis's log-probability is divided by.
    """

    model: Seq2Seq
    max_length: int
    held_out: HeldOut | None = None
    loss_per: Literal["token", "sentence"] = "token"
    label_smoothing: float = 0.0
    sampling: float = 0.0
    sampling_ramp: int = 0
    beam: int = 1
    length_penalty: float = 1.0

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Draw the first (params, model_state)."""
        tokens = jnp.zeros((1, 2), jnp.int32)
        variables = dict(jax.jit(self.model.init)(key, tokens, tokens))
        return variables.pop("params"), variables

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        """Sum the cross-entropy over the words, each fed the true words before it.

        `examples`, which the step divides gradients by, counts words or sentences (`loss_per`);
        both are sums over the whole batch, so that neither padding nor the split of sentences over
        devices or parts of a batch makes a difference. Nothing depends on `axis_name`: the
        network has no batch statistics.
        """
        target = batch["target"]
        logits, _ = self.model.apply(
            {"params": params},
            batch["source"],
            target,
            self._coins(keys["augment"], batch),
            train=True,
            rngs={"dropout": keys["dropout"]},
        )
        smoothed = partial(losses.cross_entropy, label_smoothing=self.label_smoothing)
        per_token = jax.vmap(jax.vmap(smoothed))(logits, target)
        total = jnp.sum(per_token, where=self._present(batch))
        counts = self._token_sums(*_measured(logits, target), batch)
        examples = counts["tokens"] if self.loss_per == "token" else jnp.sum(batch["valid"])
        return total, (model_state, {"loss": total, "examples": examples, **counts})

    def predict(self, params: Any, model_state: Any, batch: Batch) -> dict[str, Array]:
        """Translate, and compute the probability of the true translations.

        Returns:
            `words` [batch, maximum] and `attention_weights` [batch, maximum, time] of the
            translations; `log_probabilities` and `correct` [batch, target_time] of the true words,
            where the batch has a `target`.
        """
        variables = {"params": params}
        best = jax.vmap(partial(self._search, variables))(
            *self.model.apply(variables, batch["source"], method="read")
        )
        decoded = {"words": best.words, "attention_weights": best.weights}
        if "target" not in batch:
            return decoded
        logits, _ = self.model.apply(variables, batch["source"], batch["target"])
        log_probabilities, correct = _measured(logits, batch["target"])
        return {**decoded, "log_probabilities": log_probabilities, "correct": correct}

    def measure(self, predictions: dict[str, Array], batch: Batch) -> tuple[Sums, Rows]:
        """Sum over words and sentences; for BLEU, give each translation as a row.

        A row is `words` and `aligned` [maximum]: the tokens, and the source position that each
        attended to most.
        """
        valid, words = batch["valid"], predictions["words"]
        exact = jax.vmap(metrics.exact_match)(words, batch["target"])
        counts = self._token_sums(predictions["log_probabilities"], predictions["correct"], batch)
        sums = {
            "loss": -counts["log_probability"],
            "examples": jnp.sum(valid),
            "exact_match": jnp.sum(exact, where=valid),
            **counts,
        }
        if self.held_out is None:
            return sums, {}
        return sums, {
            "words": words,
            "aligned": jnp.argmax(predictions["attention_weights"], axis=-1),
        }

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Compute loss, perplexity and accuracy of a word; of an evaluation exact match too.

        Of an evaluation with rows, add BLEU and chrF; the details are the translations as text.
        """
        tokens = float(sums["tokens"])
        figures = {
            "loss": float(sums["loss"]) / tokens,
            "perplexity": metrics.perplexity(float(sums["log_probability"]), tokens),
            "token_accuracy": float(sums["correct"]) / tokens,
        }
        if "exact_match" in sums:
            figures["exact_match"] = float(sums["exact_match"]) / float(sums["examples"])
        if not rows or self.held_out is None:
            return Summary(figures)
        hypotheses = self.held_out.hypotheses(rows)
        scores = self.held_out.text_metrics.scores(hypotheses, self.held_out.pairs.targets)
        return Summary(figures | scores, hypotheses)

    def _search(self, variables: Any, memory: Any, state: Array) -> search.Sentence:
        """Translate one sentence."""

        def step(state: Array, word: Array) -> tuple[Array, Array, Array]:
            state, logits, weights = self.model.apply(variables, memory, state, word, method="step")
            # Neither of the two is ever a next word.
            logits = logits.at[jnp.array([PAD, BEGIN])].set(-jnp.inf)
            return state, jax.nn.log_softmax(logits), weights

        if self.beam == 1:
            return search.greedy(step, state, self.max_length)
        return search.beam(step, state, self.max_length, self.beam, self.length_penalty)

    def _coins(self, key: Key[Array, ""], batch: Batch) -> Bool[Array, "batch time"] | None:
        """Draw where the decoder is fed its own words, by the example's place in the run."""
        if not self.sampling:
            return None
        time = batch["target"].shape[1]

        def toss(ordinal: Array) -> Array:
            share = jnp.minimum(ordinal / self.sampling_ramp, 1.0) if self.sampling_ramp else 1.0
            example_key = jax.random.fold_in(key, ordinal)
            return jax.random.bernoulli(example_key, self.sampling * share, (time,))

        return jax.vmap(toss)(batch["ordinal"])

    def _present(self, batch: Batch) -> Bool[Array, "batch time"]:
        return (batch["target"] != PAD) & batch["valid"][:, None]

    def _token_sums(
        self,
        log_probabilities: Float[Array, "batch time"],
        correct: Bool[Array, "batch time"],
        batch: Batch,
    ) -> Sums:
        present = self._present(batch)
        return {
            "tokens": jnp.sum(present),
            "log_probability": jnp.sum(log_probabilities, where=present),
            "correct": jnp.sum(correct, where=present),
        }


def looked_at(source: Vocabulary, sentence: str, positions: Sequence[int]) -> list[str]:
    """List the source words at the given positions; past the last word stands the end's name."""
    tokens = [*source.split(sentence), SPECIAL[END]]
    return [tokens[min(int(position), len(tokens) - 1)] for position in positions]


def _measured(logits: Array, target: Array) -> tuple[Array, Array]:
    """Compute the log-probabilities of the true words, and mark those that are most probable."""
    return (
        jax.vmap(metrics.token_log_probabilities)(logits, target),
        jax.vmap(metrics.tokens_correct)(logits, target),
    )
