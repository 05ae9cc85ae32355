# ruff: noqa: RUF001 (punctuation of many scripts is meant as it stands)
"""Vocabularies of words, characters or subwords: sentences to token indices and back."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from cnn_jax.conventions import BEGIN, END, PAD, SPECIAL, UNKNOWN
from cnn_jax.data.text.pairs import normalize
from cnn_jax.errors import UserError

Level = Literal["word", "char", "subword"]

# Scripts without spaces between words: each character is a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTERS = rf"[^\W{_CJK}]+"
_WORDS = re.compile(
    rf"[{_CJK}]"
    r"|\d+(?:[.,:]\d+)+"
    rf"|(?<=\w)['’]{_LETTERS}"
    rf"|{_LETTERS}(?:-{_LETTERS})*"
    r"|[^\w\s]"
)
_NO_SPACE_BEFORE = re.compile(rf"[.,;:!?%)\]}}…»{_CJK}，。！？、；：）》”’]|['’]\w")
_NO_SPACE_AFTER = re.compile(rf"[(\[{{«¿¡„“‘{_CJK}，。！？、；：（《]$")
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
    """

    level: Level
    tokens: tuple[str, ...]
    lowercase: bool = False
    model: bytes | None = None

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
        counts = Counter(token for text in texts for token in _split(text, level))
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
        return _split(text, self.level)

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
        text = ""
        for token in tokens:
            glued = not text or _NO_SPACE_BEFORE.match(token) or _NO_SPACE_AFTER.search(text)
            text += token if glued else f" {token}"
        return text

    def as_json(self) -> dict[str, Any]:
        """Return the JSON value for a run's folder."""
        if self.model is not None:
            return {
                "level": self.level,
                "lowercase": self.lowercase,
                "model": base64.b64encode(self.model).decode(),
            }
        return {"level": self.level, "lowercase": self.lowercase, "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        """Build a vocabulary from the value of `as_json`."""
        if "model" in value:
            model = base64.b64decode(value["model"])
            return cls(value["level"], _pieces_of(model), value["lowercase"], model)
        return cls(value["level"], tuple(value["tokens"]), value["lowercase"])

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


def _split(text: str, level: Level) -> list[str]:
    return list(text) if level == "char" else _WORDS.findall(text)


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
    processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
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
