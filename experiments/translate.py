"""Train and evaluate a translator with attention.

python -m experiments.translate                                 # built-in dates, minutes
python -m experiments.translate --data pairs:train.de,train.en --preset multi30k
python -m experiments.translate --out runs/NAME --resume        # continue
python -m experiments.translate --out runs/NAME --eval-only --beam 5
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.conventions import END, SPECIAL
from cnn_jax.data import text
from cnn_jax.data.source import Split
from cnn_jax.data.subsets import drawn_indices
from cnn_jax.data.text import buckets
from cnn_jax.data.text.pairs import Pairs, joined, seen_in
from cnn_jax.data.text.vocabulary import Level, Vocabulary, dumps
from cnn_jax.errors import UserError
from cnn_jax.metrics.translation import TextMetrics, bleu_by_length, tokenizer_for
from cnn_jax.models.seq2seq import AttentionName, EncoderName, Initialization, InitialState, Seq2Seq
from cnn_jax.ranges import LARGEST_INT, Range
from cnn_jax.reports.rows import RowsFile
from cnn_jax.reports.translation import Sentences, TranslationReport
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.tasks.translation import HeldOut, Translation

from . import options as flags
from . import presets, trainer
from .run import Run, evaluated_split, predictions

VOCABULARY_FILE = "vocabulary.json"

# Flags about the depth of a network of layers, which a recurrent one has not.
_OF_DEPTH = flags.group(
    dict.fromkeys(("backbone_rate", "layer_decay", "frozen_stages"), flags.Declared(hidden=True))
)

# Types of what a run's files hold besides the options.
_SHAPE = Annotated[tuple[int, int], Range(1, 10_000)]


@dataclass(frozen=True)
class Seq2SeqOptions:
    """The network."""

    model: Literal["seq2seq"] = "seq2seq"
    """The recurrent encoder-decoder."""
    encoder: EncoderName = "bigru"
    """Simple tanh recurrence, a gated one, or a gated one in both directions."""
    attention: AttentionName = "additive"
    """Comparison of the decoder's state with the source words; `none` has no attention."""
    embedding_size: int = flags.flag(128, minimum=1, maximum=65_536)
    """Length of the vector of a word."""
    hidden_size: int = flags.flag(128, minimum=1, maximum=65_536)
    """Length of a recurrent state (in each direction)."""
    attention_size: int | None = flags.flag(
        None, minimum=1, maximum=65_536, only={"attention": ("additive",)}
    )
    """Length of the vectors that attention compares. Default: the hidden size."""
    output_size: int | None = flags.flag(None, minimum=1, maximum=65_536)
    """Units of the maxout layer. Default: half the hidden size."""
    initial_state: InitialState = "last"
    """First state of the decoder: zeros, or the last state of the encoder."""
    dropout_rate: float = flags.flag(0.0, minimum=0, below=1)
    """Dropout of the vectors of words and of the maxout layer."""
    initialization: Initialization = "glorot"
    """First weights; `paper` is Bahdanau et al.'s N(0, 0.01^2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the network computes in; parameters, attention weights and losses stay float32."""
    init_from: str | None = flags.flag(None, moves=True, metavar="DIR")
    """Run whose weights and vocabularies to start from."""


@dataclass(frozen=True)
class PairOptions:
    """The sentence pairs, and what a token is."""

    data: str = flags.flag("dates", moves=True, metavar="SPEC")
    """`dates`, `pairs:FILE`, `pairs:SOURCE,TARGET` or `tfds:NAME[/CONFIG][:VERSION]`."""
    eval_data: str | None = flags.flag(None, moves=True, metavar="SPEC")
    """Pairs that are evaluated during training. Default: a part of --data."""
    test_data: str | None = flags.flag(None, resumable=True, metavar="SPEC")
    """Pairs that `--split test` evaluates. Default: a part of --data."""
    join: int = flags.flag(1, minimum=1, maximum=4)
    """Number of consecutive pairs that are joined into one longer pair, in every split."""
    train_examples: int | None = flags.flag(
        None, minimum=1, maximum=LARGEST_INT, aliases="max-train-samples"
    )
    """Number of training pairs, counted after --join and drawn by the seed. Default: all."""
    reverse: bool = False
    """Translate from the target language to the source language."""
    vocabulary: Level = "word"
    """Kind of a token. The words of Chinese and Japanese are their characters; those of Thai, Lao,
    Khmer and Burmese are found by a dictionary."""
    min_count: int = flags.flag(
        1, minimum=1, maximum=LARGEST_INT, unless={"vocabulary": ("subword",)}
    )
    """Least number of times that a token of the vocabulary is in the training data."""
    max_vocabulary: int = flags.flag(30_000, minimum=len(SPECIAL) + 1, maximum=10_000_000)
    """Largest number of tokens in a vocabulary."""
    lowercase: bool = False
    """Lowercase both sides; BLEU and chrF then ignore case."""
    max_length: int = flags.flag(50, minimum=2, maximum=10_000)
    """Largest number of tokens in a sentence, its end included. Longer sentences are left out of
    training and cut off at evaluation."""
    buckets: int = flags.flag(4, minimum=1, maximum=100)
    """Number of shapes of batches; sentences of similar lengths share one."""
    holdout_fraction: float = flags.flag(
        0.05, range=flags.DATA_RANGES["holdout_fraction"], unless={"data": ("dates",)}
    )
    """Share of the distinct source sentences that eval and test each get, if the data has no such
    split."""
    data_dir: str | None = flags.flag(
        None, moves=True, only={"data|eval_data|test_data": ("tfds",)}, metavar="DIR"
    )
    """Folder of the prepared TFDS data sets. Default: the one of TFDS."""
    batch_size: int = flags.flag(
        64, minimum=1, maximum=flags.LARGEST_BATCH, aliases="bs train-batch-size"
    )
    """Sentence pairs in a step, over all devices and processes."""
    eval_batch_size: int | None = flags.flag(
        None, resumable=True, minimum=1, maximum=flags.LARGEST_BATCH
    )
    """Sentence pairs in a step of an evaluation. Default: the batch size."""


@dataclass(frozen=True)
class TranslationLoss:
    """The loss that training minimises."""

    loss_per: Literal["token", "sentence"] = "token"
    """Take the mean of the gradient over words or, as in the paper, over sentences."""
    label_smoothing: float = flags.flag(0.0, minimum=0, maximum=1)
    """Share of the target that is spread evenly over all words."""
    sampling: float = flags.flag(0.0, minimum=0, maximum=1)
    """Probability that the decoder gets its own last word as input (scheduled sampling)."""
    sampling_ramp: int = flags.flag(
        0, minimum=0, maximum=LARGEST_INT, only={"sampling": flags.GIVEN}
    )
    """Steps over which the probability rises from zero."""


@dataclass(frozen=True)
class DecodingOptions:
    """The search for translations, and their scores."""

    beam: int = flags.flag(
        1, resumable=True, minimum=1, maximum=1000, aliases="beam-size num-beams"
    )
    """Number of hypotheses of beam search; 1 is greedy search."""
    length_penalty: float = flags.flag(
        1.0, resumable=True, minimum=0, maximum=10, unless={"beam": (1,)}
    )
    """Exponent of the length that the log-probability of a hypothesis is divided by."""
    replace_unknown: bool = flags.flag(
        False, resumable=True, unless={"attention": ("none",)}, aliases="replace-unk"
    )
    """Replace an unknown word by the source word with the largest attention weight."""
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] | None = flags.flag(
        None, resumable=True
    )
    """Tokenizer of sacrebleu. Default: 13a; zh for Chinese; char for Japanese, Thai, Lao, Khmer,
    Burmese and Tibetan, and for a vocabulary of characters."""


def _optimizer() -> flags.OptimizerOptions:
    """The usual training of recurrent networks."""
    return flags.OptimizerOptions(
        optimizer="adam", learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0
    )


@dataclass(frozen=True)
class Options:
    """Train and evaluate a translator with attention."""

    verb: ClassVar[str] = "translate"

    # The network has no batch normalisation to recalibrate.
    run: Annotated[flags.RunOptions, flags.group({"recalibrate": flags.Declared(hidden=True)})] = (
        field(default_factory=lambda: flags.RunOptions(best="bleu"))
    )
    data: PairOptions = field(default_factory=PairOptions)
    model: Seq2SeqOptions = field(default_factory=Seq2SeqOptions)
    loss: TranslationLoss = field(default_factory=TranslationLoss)
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    optimizer: Annotated[flags.OptimizerOptions, _OF_DEPTH] = field(default_factory=_optimizer)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and train or evaluate."""
    trainer.main(argv, COMMAND)


def build(options: Options) -> Run:
    """The run that the options describe."""
    _check(options)
    out, chosen = trainer.folder(options), options.data
    split = evaluated_split(options)
    held_out = _open(options, split)
    # A run that goes on, and one that starts from another, keep its vocabularies.
    earlier = out if options.run.resume or options.run.eval_only else None
    if (earlier is None or not (earlier / VOCABULARY_FILE).exists()) and options.model.init_from:
        earlier = Path(options.model.init_from)
    training = None if earlier is not None and options.run.eval_only else _open(options, "train")
    if earlier is not None:
        source, target = read_vocabularies(earlier)
    else:
        source, target = build_vocabularies(options, training)
    encoded = None
    if training is not None:
        _tell_seen(split, training, held_out)
        encoded = buckets.encode(training, source, target, chosen.max_length, cut=False)
        _tell("train", encoded, "left out", chosen.max_length)
        shapes = buckets.bucket_shapes(encoded.lengths, chosen.buckets)
    else:
        shapes = recorded_shapes(earlier)
    evaluated = buckets.encode(held_out, source, target, chosen.max_length, cut=True)
    _tell(split, evaluated, "cut off", chosen.max_length)
    task = build_task(options, source, target, held_out)

    def training_set() -> tuple[buckets.TrainingBuckets, int]:
        batches = buckets.TrainingBuckets(
            encoded,
            shapes,
            batch_size=chosen.batch_size,
            seed=options.run.seed,
            **trainer.processes(),
        )
        return batches, batches.batches_per_epoch * chosen.batch_size

    return Run(
        options=options,
        task=task,
        model=task.model,
        inputs=tuple(jax.ShapeDtypeStruct((1, length), jnp.int32) for length in shapes[-1]),
        training_set=training_set,
        evaluation_set=buckets.EvaluationBuckets(
            evaluated,
            shapes,
            batch_size=trainer.evaluation_batch_size(chosen),
            maximum=chosen.max_length,
            **trainer.processes(),
        ),
        report=_report(out, task, options.model.attention != "none", predictions(options)),
        recorded={
            "bucket_shapes": [list(shape) for shape in shapes],
            "vocabulary_sizes": [len(source), len(target)],
            "signatures": task.held_out.text_metrics.signatures(held_out.targets),
        },
        files={VOCABULARY_FILE: dumps(source, target)},
    )


def recorded_shapes(run: Path) -> list[tuple[int, int]]:
    """The shapes of the buckets that a run was trained with.

    Raises:
        UserError: its `config.json` has none, or others than numbers of tokens.
    """
    path = run / CONFIG_FILE
    found = read_object(path).get("bucket_shapes")
    try:
        pairs = found if isinstance(found, list) and found else [found]
        return [flags.checked("bucket_shapes", _SHAPE, pair) for pair in pairs]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def build_vocabularies(options: Options, training: Pairs) -> tuple[Vocabulary, Vocabulary]:
    """The tokens of both sides of the training data."""
    chosen = options.data
    source, target = (
        Vocabulary.build(
            sentences,
            chosen.vocabulary,
            lowercase=chosen.lowercase,
            min_count=chosen.min_count,
            max_size=chosen.max_vocabulary,
        )
        for sentences in (training.sources, training.targets)
    )
    return source, target


def read_vocabularies(run: Path) -> tuple[Vocabulary, Vocabulary]:
    """The vocabularies of a run.

    Raises:
        UserError: the folder has none, or they are damaged.
    """
    path = run / VOCABULARY_FILE
    stored = read_object(path)
    sides = []
    for side in ("source", "target"):
        try:
            sides.append(Vocabulary.from_json(stored.get(side)))
        except ValueError as error:
            raise UserError(f"{path}: {side}: not the vocabulary of a run ({error})") from None
    source, target = sides
    return source, target


def build_task(
    options: Options, source: Vocabulary, target: Vocabulary, held_out: Pairs | None = None
) -> Translation:
    """The network, its loss, and its metrics on the given sentences."""
    chosen, decoding = options.model, options.decoding
    model = Seq2Seq(
        source_size=len(source),
        target_size=len(target),
        embedding_size=chosen.embedding_size,
        hidden_size=chosen.hidden_size,
        encoder=chosen.encoder,
        attention=chosen.attention,
        attention_size=chosen.attention_size,
        initial_state=chosen.initial_state,
        output_size=chosen.output_size,
        dropout_rate=chosen.dropout_rate,
        initialization=chosen.initialization,
        dtype=jnp.dtype(chosen.dtype),
    )
    references = None
    if held_out is not None:
        tokenize = decoding.bleu_tokenize or (
            "char" if target.level == "char" else tokenizer_for(held_out.targets)
        )
        metrics = TextMetrics(tokenize, lowercase=options.data.lowercase)
        references = HeldOut(held_out, source, target, metrics, decoding.replace_unknown)
    return Translation(
        model=model,
        max_length=options.data.max_length,
        held_out=references,
        loss_per=options.loss.loss_per,
        label_smoothing=options.loss.label_smoothing,
        sampling=options.loss.sampling,
        sampling_ramp=options.loss.sampling_ramp * options.data.batch_size,
        beam=decoding.beam,
        length_penalty=decoding.length_penalty,
    )


def _report(
    out: Path, task: Translation, attends: bool, predictions: RowsFile | None
) -> TranslationReport:
    held_out = task.held_out
    source, target, pairs = held_out.source, held_out.target, held_out.pairs
    lengths = [len(source.split(sentence)) for sentence in pairs.sources]
    sentences = Sentences(
        sources=pairs.sources,
        references=pairs.targets,
        source_words=lambda i: [*source.split(pairs.sources[i]), SPECIAL[END]],
        target_words=lambda words: [*target.words(words.tolist()), SPECIAL[END]],
        by_length=lambda hypotheses: bleu_by_length(
            held_out.text_metrics, hypotheses, pairs.targets, lengths
        ),
        signatures=held_out.text_metrics.signatures(pairs.targets),
    )
    return TranslationReport(out, sentences, attends, predictions)


def _open(options: Options, split: Split) -> Pairs:
    """One split of the data, or of what the flags give in its place, as the flags change it."""
    chosen = options.data
    test_data = chosen.test_data or chosen.eval_data
    own = {"eval": chosen.eval_data, "test": test_data}.get(split)
    # With a set of its own for evaluation nothing is held out, neither of it nor of --data.
    fraction = 0.0 if own or chosen.eval_data else chosen.holdout_fraction
    pairs = text.open_sentence_pairs(
        own or chosen.data,
        "train" if own else split,
        holdout_fraction=fraction,
        seed=options.run.seed,
        data_dir=chosen.data_dir,
    )
    if pairs.empty:
        flags.warn(f"{split}: left out {pairs.empty} pairs with an empty side ({pairs.name})")
    pairs = joined(pairs, chosen.join)
    if split == "train" and chosen.train_examples is not None:
        trainer.check_train_examples(chosen.train_examples, len(pairs))
        alike = np.zeros(len(pairs), np.int64)
        pairs = pairs.take(drawn_indices(alike, chosen.train_examples, options.run.seed))
    if chosen.reverse:
        return Pairs(pairs.targets, pairs.sources, pairs.name, pairs.lines, pairs.empty)
    return pairs


def _tell(split: str, encoded: buckets.Encoded, done: str, maximum: int) -> None:
    if encoded.long:
        total = len(encoded) + (encoded.long if done == "left out" else 0)
        flags.warn(f"{split}: {done} {encoded.long} of {total} pairs above --max-length {maximum}")


def _tell_seen(split: str, training: Pairs, held_out: Pairs) -> None:
    seen = seen_in(training, held_out)
    if seen:
        flags.warn(
            f"{split}: {len(seen)} of {len(held_out)} source sentences are in the training data "
            f"too, such as {held_out.describe(seen[0])}"
        )


def _check(options: Options) -> None:
    """Raise UserError where `--init-from` is no run of this verb."""
    start = options.model.init_from
    # A run that goes on has its own vocabularies.
    known = options.run.resume and (trainer.folder(options) / VOCABULARY_FILE).exists()
    if start is not None and not known and not (Path(start) / VOCABULARY_FILE).exists():
        raise UserError(f"--init-from {start}: not a run of translate")


COMMAND = trainer.Command(Options, presets.TRANSLATION, build, lambda _: ["seq2seq"])


if __name__ == "__main__":
    flags.entry(main)
