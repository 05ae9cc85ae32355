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
from cnn_jax.models.seq2seq import Seq2Seq
from cnn_jax.ops import search

Batch = dict[str, Array]
Sums = dict[str, Any]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The sentences of an evaluation, and how translations of them are written and scored.

    Attributes:
        pairs: source sentences and their reference translations.
        source, target: the vocabularies.
        text_metrics: BLEU and chrF.
        replace_unknown: whether a word that the target vocabulary lacks is written as the source
            word that it looked at most (Luong et al. 2015b, https://arxiv.org/abs/1410.8206).
    """

    pairs: Pairs
    source: Vocabulary
    target: Vocabulary
    text_metrics: metrics.TextMetrics = field(default_factory=metrics.TextMetrics)
    replace_unknown: bool = False

    def write(
        self, index: int, words: Int[np.ndarray, " maximum"], aligned: Int[np.ndarray, " maximum"]
    ) -> str:
        """A decoded sentence as text.

        Args:
            index: which source sentence it translates.
            words: token indices.
            aligned: the source position that each looked at most.
        """
        unknown = None
        if self.replace_unknown:
            unknown = looked_at(self.source, self.pairs.sources[index], aligned.tolist())
        return self.target.decode(words.tolist(), unknown)

    def hypotheses(self, sums: Sums) -> list[str]:
        """The translations of all sentences, from the sums over all of them."""
        words, aligned = np.asarray(sums["words"]), np.asarray(sums["aligned"])
        return [self.write(i, words[i], aligned[i]) for i in range(len(self.pairs))]


@dataclass(frozen=True)
class Translation:
    """A model, and how it is trained, decoded and judged.

    Attributes:
        model: encoder and decoder.
        max_length: most tokens of a translation, its `END` included.
        held_out: what is evaluated, for BLEU and chrF; None leaves them out.
        loss_per: what the gradient is the mean over. `token` gives every word the same weight,
            whatever batch it is in; `sentence` is the paper's objective, the log-probability of a
            whole sentence, with gradients as many times larger as sentences have words.
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
        """Fresh (params, model_state)."""
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
        """Cross-entropy summed over the words, each fed the true words before it.

        `examples`, which the step divides gradients by, counts words or sentences (`loss_per`);
        both are sums over the whole batch, so that neither padding nor how sentences fall on
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
        """Translations, and how probable the true ones are.

        Returns:
            `words` [batch, maximum] and `attention_weights` [batch, maximum, time] of what was
            decoded; `log_probabilities` and `correct` [batch, target_time] of the true words,
            where the batch has a `target`.
        """
        variables = {"params": params}
        found = jax.vmap(partial(self._search, variables))(
            *self.model.apply(variables, batch["source"], method="read")
        )
        decoded = {"words": found.words, "attention_weights": found.weights}
        if "target" not in batch:
            return decoded
        logits, _ = self.model.apply(variables, batch["source"], batch["target"])
        log_probabilities, correct = _measured(logits, batch["target"])
        return {**decoded, "log_probabilities": log_probabilities, "correct": correct}

    def measure(self, predictions: dict[str, Array], batch: Batch) -> Sums:
        """Sums over words and sentences, and, for BLEU, each translation in its own row.

        Rows of other batches are zero, so that the rows too add over batches, devices and
        processes to the translations of the whole set, in its order.
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
            return sums
        rows = jnp.zeros((len(self.held_out.pairs), self.max_length), jnp.int32)
        aligned = jnp.argmax(predictions["attention_weights"], axis=-1)
        for name, values in (("words", words), ("aligned", aligned)):
            kept = jnp.where(valid[:, None], values, 0).astype(jnp.int32)
            sums[name] = rows.at[batch["index"]].add(kept)
        return sums

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Loss, perplexity and accuracy of a word; of an evaluation exact match, BLEU and chrF."""
        tokens = float(sums["tokens"])
        summary = {
            "loss": float(sums["loss"]) / tokens,
            "perplexity": metrics.perplexity(float(sums["log_probability"]), tokens),
            "token_accuracy": float(sums["correct"]) / tokens,
        }
        if "exact_match" in sums:
            summary["exact_match"] = float(sums["exact_match"]) / float(sums["examples"])
        if "words" in sums and self.held_out is not None:
            summary |= self.held_out.text_metrics.scores(
                self.held_out.hypotheses(sums), self.held_out.pairs.targets
            )
        return summary

    def _search(self, variables: Any, memory: Any, state: Array) -> search.Sentence:
        """The translation of one sentence."""

        def step(state: Array, word: Array) -> tuple[Array, Array, Array]:
            state, logits, weights = self.model.apply(variables, memory, state, word, method="step")
            # Neither is ever a next word.
            logits = logits.at[jnp.array([PAD, BEGIN])].set(-jnp.inf)
            return state, jax.nn.log_softmax(logits), weights

        if self.beam == 1:
            return search.greedy(step, state, self.max_length)
        return search.beam(step, state, self.max_length, self.beam, self.length_penalty)

    def _coins(self, key: Key[Array, ""], batch: Batch) -> Bool[Array, "batch time"] | None:
        """Where the decoder is fed its own words; a function of the example's place in the run."""
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
    """The source words at the given positions; the one after the last is the end's own name."""
    tokens = [*source.split(sentence), SPECIAL[END]]
    return [tokens[min(int(position), len(tokens) - 1)] for position in positions]


def _measured(logits: Array, target: Array) -> tuple[Array, Array]:
    """Log-probabilities of the true words, and which of them are the most probable."""
    return (
        jax.vmap(metrics.token_log_probabilities)(logits, target),
        jax.vmap(metrics.tokens_correct)(logits, target),
    )
