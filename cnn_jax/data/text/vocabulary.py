"""Vocabularies of words, characters or subwords: sentences to token indices and back."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from cnn_jax.conventions import BEGIN, END, PAD, SPECIAL, UNKNOWN
from cnn_jax.data.text import words
from cnn_jax.data.text.pairs import normalize
from cnn_jax.errors import UserError

Level = Literal["word", "char", "subword"]

# Sentencepiece's character for a space.
_SPACE = "\u2581"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of one language.

    Attributes:
        level: the kind of token.
        tokens: the tokens by index; the first are `cnn_jax.conventions.SPECIAL`.
        lowercase: whether sentences are lowercased first.
        model: the trained sentencepiece model, for subwords.
        rules: of which words consist, see `cnn_jax.data.text.words`.
    """

    level: Level
    tokens: tuple[str, ...]
    lowercase: bool = False
    model: bytes | None = None
    rules: words.Rules = 2

    @classmethod
    def build(
        cls,
        sentences: Iterable[str],
        level: Level,
        *,
        lowercase: bool = False,
        min_count: int = 1,
        max_size: int = 30_000,
    ) -> "Vocabulary":
        """Build the vocabulary of the sentences, most frequent tokens first.

        Args:
            sentences: the sentences, of the training data only.
            level: the kind of token; the characters of Chinese and Japanese are words.
            lowercase: whether to lowercase first.
            min_count: the least count of a token; it does not apply to subwords.
            max_size: the largest number of tokens, the special ones included.

        Raises:
            UserError: subwords are requested and sentencepiece is not installed, or fails.
        """
        texts = [normalize(s).lower() if lowercase else normalize(s) for s in sentences]
        if level == "subword":
            model = _train_subwords(texts, max_size)
            return cls(level, _pieces_of(model), lowercase, model)
        counts = Counter(token for text in texts for token in _split(text, level, 2))
        ranked = sorted(
            (t for t in counts if counts[t] >= min_count), key=lambda t: (-counts[t], t)
        )
        return cls(level, (*SPECIAL, *ranked[: max(0, max_size - len(SPECIAL))]), lowercase)

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, text: str) -> list[str]:
        """Split a sentence into tokens; unknown ones keep their spelling."""
        text = normalize(text)
        text = text.lower() if self.lowercase else text
        if self.level == "subword":
            return self._processor.encode(text, out_type=str)
        return _split(text, self.level, self.rules)

    def encode(self, text: str) -> list[int]:
        """Convert a sentence to token indices, `END` included."""
        return [*(self._indices.get(token, UNKNOWN) for token in self.split(text)), END]

    def decode(self, indices: Iterable[int], unknown: Sequence[str] | None = None) -> str:
        """Convert token indices to a sentence, up to its `END`, in normal spelling.

        Args:
            indices: token indices.
            unknown: the text for each token that is `UNKNOWN`, by position.
        """
        return self.join(self.words(indices, unknown))

    def words(self, indices: Iterable[int], unknown: Sequence[str] | None = None) -> list[str]:
        """Convert token indices to tokens, up to the `END`; arguments as for `decode`."""
        words = []
        for position, index in enumerate(indices):
            if index in (END, PAD):
                break
            lacking = index == UNKNOWN and unknown is not None
            words.append(unknown[position] if lacking else self.tokens[index])
        return words

    def join(self, tokens: Sequence[str]) -> str:
        """Join tokens to a sentence."""
        if self.level == "char":
            return "".join(tokens)
        if self.level == "subword":
            return "".join(tokens).replace(_SPACE, " ").strip()
        return words.join(tokens)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON value for a run's folder."""
        if self.model is not None:
            return {
                "level": self.level,
                "lowercase": self.lowercase,
                "model": base64.b64encode(self.model).decode(),
            }
        value = {"level": self.level, "lowercase": self.lowercase}
        if self.level == "word":
            value["rules"] = self.rules
        return {**value, "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """Build a vocabulary from the value of `as_json`.

        Raises:
            ValueError: it is none; the message says what is wrong.
            UserError: subwords need sentencepiece, which is not installed.
        """
        fields = value if isinstance(value, dict) else {}
        level, lowercase = fields.get("level"), fields.get("lowercase")
        _require(level in get_args(Level), f"level is none of {', '.join(get_args(Level))}")
        _require(isinstance(lowercase, bool), "lowercase is neither true nor false")
        if level == "subword":
            model = _decoded(fields.get("model"))
            return cls(level, _pieces_of(model), lowercase, model)
        tokens = fields.get("tokens")
        _require(
            isinstance(tokens, list) and all(isinstance(t, str) and t for t in tokens),
            "tokens are no list of texts",
        )
        _require(tuple(tokens[: len(SPECIAL)]) == SPECIAL, f"tokens do not begin with {SPECIAL}")
        ordinary = tokens[len(SPECIAL) :]
        _require(len(set(ordinary)) == len(ordinary), "a token is there twice")
        rules = fields.get("rules", 1)
        _require(
            type(rules) is int and rules in get_args(words.Rules),
            f"rules {rules!r} are unknown to this version",
        )
        return cls(level, tuple(tokens), lowercase, rules=rules)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens) if index >= len(SPECIAL)}

    @cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)


def dumps(source: Vocabulary, target: Vocabulary) -> str:
    """Format both vocabularies of a run as the text of a file."""
    both = {"source": source.as_json(), "target": target.as_json()}
    return json.dumps(both, ensure_ascii=False, indent=0) + "\n"


def _split(text: str, level: Level, rules: words.Rules) -> list[str]:
    return list(text) if level == "char" else words.split(text, rules)


def _require(legal: bool, problem: str) -> None:
    if not legal:
        raise ValueError(problem)


def _decoded(model: Any) -> bytes:
    """The bytes of a stored sentencepiece model."""
    _require(isinstance(model, str) and bool(model), "model is no text")
    return base64.b64decode(model, validate=True)  # binascii.Error is a ValueError.


def _train_subwords(texts: Sequence[str], max_size: int) -> bytes:
    """Train a byte-pair encoding (Sennrich et al. 2016) with sentencepiece."""
    model = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=max_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # Sentences are already normalised.
            normalization_rule_name="identity",
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).rsplit(") ", 1)[-1]
        raise UserError(f"--vocabulary subword: {reason}") from None
    return model.getvalue()


def _pieces_of(model: bytes) -> tuple[str, ...]:
    try:
        processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(f"model is not sentencepiece's: {error}") from None
    _require(processor.get_piece_size() > len(SPECIAL), "model has no pieces")
    pieces = (processor.id_to_piece(i) for i in range(processor.get_piece_size()))
    return (*SPECIAL, *list(pieces)[len(SPECIAL) :])


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise UserError(
            "--vocabulary subword: needs sentencepiece (pip install 'cnn_jax[subword]')"
        ) from None
    return sentencepiece
