"""Predictions of a translator: the translation of a sentence, and a picture of its alignment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import files
from cnn_jax.conventions import END, PAD, SPECIAL, UNKNOWN
from cnn_jax.errors import UserError
from cnn_jax.reports import alignment
from cnn_jax.reports.translation import alignment_of
from cnn_jax.runs.folder import PREDICTED_PREFIX, SAMPLES
from cnn_jax.tasks.translation import looked_at

from .. import options as flags
from .. import translate
from .predictor import Batch, Example, Found, Input, Predict, Result


class TranslationPredictor:
    """The translation of each sentence, and where attention went for each of its words."""

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        self._run, self._trained = run, flags.stored(translate.Options, run)
        self._source, self._target = translate.read_vocabularies(run)
        self.task = translate.build_task(self._trained, self._source, self._target)
        self._number = 0

    def read(self, given: Input) -> str:
        """The sentence."""
        return str(given)

    def averaged(self, predict: Predict, batch: Batch) -> Any:
        """The prediction of the sentences: there is nothing to average."""
        return predict(batch)

    def examples(self, content: str) -> list[Example]:
        """The sentence as tokens, padded to the run's longest.

        Raises:
            UserError: the sentence has no word.
        """
        row = np.zeros(self._trained.data.max_length, np.int32)
        name, source = content, self._source
        tokens = source.encode(name)
        if len(tokens) == 1:
            raise UserError(f"{name!r}: no words to translate")
        if len(tokens) > len(row):
            flags.warn(f"cut off after {len(row) - 1} of {len(tokens) - 1} tokens: {name}")
            tokens = [*tokens[: len(row) - 1], END]
        if UNKNOWN in tokens:
            pieces = zip(source.split(name), tokens, strict=False)
            unknown = dict.fromkeys(piece for piece, token in pieces if token == UNKNOWN)
            flags.warn(f"not in the vocabulary: {' '.join(unknown)}")
        row[: len(tokens)] = tokens
        return [{"source": row}]

    def samples(self, rng: np.random.Generator, count: int) -> list[Example]:
        """Sentences of the run's longest, of random words."""
        shape = (count, self._trained.data.max_length)
        rows = rng.integers(len(SPECIAL), len(self._source), shape, np.int32)
        return [{"source": row} for row in rows]

    def select(self, predictions: Any) -> Any:
        """The words and their attention weights."""
        return predictions

    def outputs(self, selected: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The words of the translation, and the attention weights at each of them."""
        return dict(selected)

    def described(self) -> dict[str, Any]:
        """The preparation of a sentence, and both vocabularies."""
        return {
            "preparation": (
                f"a sentence as the indices of its tokens in the vocabulary `source`, then {END}, "
                f"filled up with {PAD}; unknown ones are {UNKNOWN}; words are likewise of `target`"
            ),
            "source": self._source.as_json(),
            "target": self._target.as_json(),
        }

    def found(self, content: str, predictions: Sequence[Mapping[str, np.ndarray]]) -> Found:
        """The `translation`, its `words` and their `attention_weights` [words, source words]."""
        (prediction,) = predictions
        words, weights = prediction["words"].tolist(), prediction["attention_weights"]
        unknown = None
        if self._trained.decoding.replace_unknown:
            unknown = looked_at(self._source, content, weights.argmax(-1).tolist())
        written = [*self._target.words(words, unknown), SPECIAL[END]]
        read = [*self._source.split(content), SPECIAL[END]]
        return {
            "translation": self._target.decode(words, unknown),
            "words": written,
            "source_words": read,
            "attention_weights": weights[: len(written), : len(read)],
        }

    def result(self, name: str, content: str, found: Found) -> Result:
        """The translation, and below it the picture of its alignment."""
        line = found["translation"]
        listed: dict[str, Any] = {"source": name, "translation": line}
        if self._trained.model.attention != "none":
            picture = self._run / SAMPLES / f"{PREDICTED_PREFIX}{self._number}.png"
            shown = (found[key] for key in ("source_words", "words", "attention_weights"))
            drawn, missing = alignment.draw(alignment_of(*shown))
            files.replace(picture, drawn)
            if missing:
                flags.warn(
                    f"no font here shows {missing[:20]} in {picture}; install one that does, such "
                    "as Noto Sans CJK (Debian: fonts-noto-cjk)"
                )
            listed["alignment"] = str(picture)
            line += f"\n  alignment: {picture}"
        self._number += 1
        return Result(line, [listed])
