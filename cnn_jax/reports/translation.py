"""The page and pictures of a translation run."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax import files
from cnn_jax.reports import alignment
from cnn_jax.reports.alignment import Alignment, Alignments
from cnn_jax.reports.curves import Chart, Curves, Line
from cnn_jax.reports.page import Section, Table, Text
from cnn_jax.reports.report import write_report
from cnn_jax.reports.rows import RowsFile
from cnn_jax.runs.folder import SAMPLES

SHOWN = 6

LENGTHS_FILE = "bleu_by_length.json"
"""The file in a run's folder with the last evaluation's BLEU by length, for `compare`."""


@runtime_checkable
class LengthBucket(Protocol):
    """BLEU of sentences of similar length (see `cnn_jax.metrics.translation.LengthBucket`)."""

    shortest: int
    longest: int
    sentences: int
    bleu: float


@dataclass(frozen=True)
class Sentences:
    """The sentences of an evaluation, with the functions that display them.

    Attributes:
        sources, references: the sentences, and their true translations.
        source_words: returns the words of source sentence i, as the model sees them.
        target_words: converts token indices to words.
        by_length: computes BLEU by length from all translations.
        signatures: sacrebleu's signatures of BLEU and chrF.
    """

    sources: Sequence[str]
    references: Sequence[str]
    source_words: Callable[[int], Sequence[str]]
    target_words: Callable[[np.ndarray], Sequence[str]]
    by_length: Callable[[Sequence[str]], Sequence[LengthBucket]]
    signatures: Mapping[str, str]


class TranslationReport:
    """A writer of `report.html` and `samples/*.png` after each evaluation.

    Args:
        directory: the run's folder.
        sentences: the evaluated examples.
        attends: whether the model has attention.
        predictions: the file of a row for each example, if there is to be one.
    """

    def __init__(
        self,
        directory: str | Path,
        sentences: Sentences,
        attends: bool,
        predictions: RowsFile | None = None,
    ) -> None:
        self.predictions = predictions
        self.directory = Path(directory)
        self.sentences = sentences
        self.attends = attends
        count = len(sentences.sources)
        # Evenly spread over the whole set, and the same at every evaluation.
        self._shown = sorted({i * count // SHOWN for i in range(min(SHOWN, count))})
        self._predicted: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def select(self, batch: Mapping[str, np.ndarray], predictions: Mapping[str, Any]) -> None:
        """Collect the displayed sentences from a batch of an evaluation.

        Args:
            batch: `index` and `valid` of its examples.
            predictions: `words` and `attention_weights`.
        """
        for row in np.flatnonzero(batch["valid"] & np.isin(batch["index"], self._shown)):
            arrays = (predictions["words"][row], predictions["attention_weights"][row])
            self._predicted[int(batch["index"][row])] = tuple(np.asarray(x) for x in arrays)

    def write(self, step: int, evaluation: Any) -> None:
        """Write the page and the pictures of an evaluation.

        Args:
            step: number of updates made.
            evaluation: its `details` are the translations of all sentences.
        """
        predicted, self._predicted = self._predicted, {}
        texts = self.sentences
        hypotheses = evaluation.details
        maps = [self._alignment(index, *predicted[index]) for index in sorted(predicted)]
        sections: list[Section] = []
        if self.attends:
            sections.append(Alignments("Attention", maps))
            for number, each in enumerate(maps):
                picture, _ = alignment.draw(each)
                files.replace(self.directory / SAMPLES / f"alignment_{number}.png", picture)
        rows = [(texts.sources[i], texts.references[i], hypotheses[i]) for i in self._shown]
        header = ("source", "reference", "translation")
        sections.append(Table("Translations", header, rows, left=3))
        buckets = texts.by_length(hypotheses)
        sections += _length_sections(buckets)
        content = {"step": step, "buckets": [dataclasses.asdict(bucket) for bucket in buckets]}
        files.replace(self.directory / LENGTHS_FILE, json.dumps(content, indent=2) + "\n")
        counted = "; ".join(f"{name}: {text}" for name, text in texts.signatures.items())
        sections.append(Text("Computation of BLEU and chrF", f"sacrebleu's signatures: {counted}"))
        write_report(self.directory, sections=sections)
        if self.predictions is not None:
            columns = zip(texts.sources, texts.references, hypotheses, strict=True)
            keys = ("name", "truth", "prediction")
            self.predictions.write(dict(zip(keys, row, strict=True)) for row in columns)

    def _alignment(self, index: int, words: np.ndarray, weights: np.ndarray) -> Alignment:
        source, target = self.sentences.source_words(index), self.sentences.target_words(words)
        return alignment_of(source, target, weights, self.sentences.references[index])


def alignment_of(
    source: Sequence[str], target: Sequence[str], weights: np.ndarray, reference: str = ""
) -> Alignment:
    """Build the heat map of a padded sentence's weights."""
    width = min(len(source), weights.shape[1])
    note = f"reference: {reference}" if reference else ""
    return Alignment(source[:width], target, weights[: len(target), :width], note)


def _length_sections(buckets: Sequence[LengthBucket]) -> list[Section]:
    rows = [(f"{b.shortest} to {b.longest}", f"{b.sentences:,}", f"{b.bleu:.2f}") for b in buckets]
    table = Table("BLEU by length", ("source words", "sentences", "BLEU"), rows)
    if len(buckets) < 2:
        return [table]
    line = Line("BLEU", [b.longest for b in buckets], [b.bleu for b in buckets])
    chart = Chart("bleu", [line], "BLEU against the longest sentence of each group")
    return [Curves("BLEU against length", [chart]), table]
