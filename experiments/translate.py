"""Train and evaluate a translator with attention.

python -m experiments.translate                                 # built-in dates, minutes
python -m experiments.translate --data pairs:train.de,train.en --preset multi30k
python -m experiments.translate --out runs/NAME --resume        # continue
python -m experiments.translate --out runs/NAME --eval-only --beam 5
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import files
from cnn_jax.conventions import END, SPECIAL, UNKNOWN
from cnn_jax.data import text
from cnn_jax.data.text import buckets
from cnn_jax.data.text.pairs import Pairs
from cnn_jax.data.text.vocabulary import Level, Vocabulary, dumps
from cnn_jax.errors import UserError
from cnn_jax.metrics.translation import TextMetrics, bleu_by_length
from cnn_jax.models.seq2seq import AttentionName, EncoderName, Initialization, InitialState, Seq2Seq
from cnn_jax.reports import alignment
from cnn_jax.reports.translation import Sentences, TranslationReport, alignment_of
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.tasks.translation import HeldOut, Translation, looked_at
from cnn_jax.training.backend import compile_inference

from . import options as flags
from . import presets, runs
from .experiment import Experiment

VOCABULARY_FILE = "vocabulary.json"


@dataclass(frozen=True)
class ModelOptions:
    """The network."""

    model: Literal["seq2seq"] = "seq2seq"
    """The recurrent encoder-decoder."""
    encoder: EncoderName = "bigru"
    """The lecture's tanh recurrence, a gated one, or that in both directions."""
    attention: AttentionName = "additive"
    """How the decoder's state is compared with the source words; `none` goes without."""
    embedding_size: int = 128
    """Length of a word's vector."""
    hidden_size: int = 128
    """Length of a recurrent state (in each direction)."""
    attention_size: int | None = None
    """Length of the vectors that additive attention compares; default: the hidden size."""
    output_size: int | None = None
    """Units of the maxout layer; default: half the hidden size."""
    initial_state: InitialState = "last"
    """What the decoder begins with: zeros, or the encoder's last state."""
    dropout_rate: float = 0.0
    """Of the words' vectors and the maxout layer."""
    initialization: Initialization = "glorot"
    """`paper` is Bahdanau et al.'s N(0, 0.01^2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, attention weights and losses are float32."""
    init_from: str | None = None
    """A run whose weights and vocabularies to start from."""


@dataclass(frozen=True)
class DataOptions:
    """The sentence pairs."""

    data: str = "dates"
    """`dates`, `pairs:FILE`, `pairs:SOURCE,TARGET` or `tfds:NAME[/CONFIG]`."""
    eval_data: str | None = None
    """What is evaluated while training, if not a part of --data."""
    test_data: str | None = None
    """What `--split test` evaluates, if not a part of --data."""
    reverse: bool = False
    """Translate the other way."""
    vocabulary: Level = "word"
    """What a token is; the characters of Chinese and Japanese are words."""
    min_count: int = 1
    """How often a token must be in the training data to be in the vocabulary."""
    max_vocabulary: int = 30_000
    """Most tokens of a vocabulary."""
    lowercase: bool = False
    """Lowercase both sides; BLEU and chrF then do not count case."""
    max_length: int = 50
    """Most tokens of a sentence and its end; longer ones are left out of training, and cut off at
    evaluation."""
    buckets: int = 4
    """Number of shapes that sentences are batched in by their lengths."""
    holdout_fraction: float = 0.05
    """Share of the distinct source sentences in each of eval and test where the data has none."""
    data_dir: str | None = None
    """Where prepared TFDS data sets lie; default: TFDS's own place."""
    batch_size: int = 64
    """Sentences a step, over all devices and processes."""
    eval_batch_size: int | None = None
    """Default: the training batch's."""


@dataclass(frozen=True)
class LossOptions:
    """What training minimises."""

    loss_per: Literal["token", "sentence"] = "token"
    """Whether the gradient is the mean over words or, as in the paper, over sentences."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all words."""
    sampling: float = 0.0
    """Probability that the decoder is fed its own last word (scheduled sampling)."""
    sampling_ramp: int = 0
    """Steps over which it rises to that from zero."""


@dataclass(frozen=True)
class DecodingOptions:
    """How translations are found and scored."""

    beam: int = 1
    """Hypotheses that are followed; 1 is greedy search."""
    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by."""
    replace_unknown: bool = False
    """Write a word that the vocabulary lacks as the source word that it looked at most."""
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] | None = None
    """sacrebleu's tokenizer; default: 13a, or char for a character vocabulary."""


def _optimizer() -> flags.OptimizerOptions:
    """What recurrent networks usually train with."""
    return flags.OptimizerOptions(
        optimizer="adam", learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0
    )


@dataclass(frozen=True)
class Options:
    """Train and evaluate a translator."""

    model: Annotated[ModelOptions, flags.Flat] = field(default_factory=ModelOptions)
    data: Annotated[DataOptions, flags.Flat] = field(default_factory=DataOptions)
    loss: Annotated[LossOptions, flags.Flat] = field(default_factory=LossOptions)
    decoding: Annotated[DecodingOptions, flags.Flat] = field(default_factory=DecodingOptions)
    optimizer: flags.Optimizer = field(default_factory=_optimizer)
    run: flags.Run = field(default_factory=flags.RunOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run."""
    run(flags.parse(Options, argv, presets.TRANSLATION))


def run(options: Options) -> Path:
    """Train, or only evaluate, as the options say; returns the run's folder."""
    _check(options)
    runs.prepare_devices(options.run)
    runs.check_batch_sizes(options)
    out = runs.directory(options.run, "translate")
    chosen = options.data
    split = options.run.split if options.run.eval_only else "eval"
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
        encoded = buckets.encode(training, source, target, chosen.max_length, cut=False)
        _tell("train", encoded, "left out", chosen.max_length)
        shapes = buckets.bucket_shapes(encoded.lengths, chosen.buckets)
    else:
        shapes = [tuple(s) for s in read_object(earlier / CONFIG_FILE)["bucket_shapes"]]
    evaluated = buckets.encode(held_out, source, target, chosen.max_length, cut=True)
    _tell(split, evaluated, "cut off", chosen.max_length)
    task = build_task(options, source, target, held_out)
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def training_set() -> tuple[buckets.TrainingBuckets, int]:
        batches = buckets.TrainingBuckets(
            encoded, shapes, batch_size=chosen.batch_size, seed=options.run.seed, **processes
        )
        return batches, batches.batches_per_epoch * chosen.batch_size

    signatures = task.held_out.text_metrics.signatures()
    longest = shapes[-1]
    return Experiment(
        verb="translate",
        options=options,
        out=out,
        task=task,
        evaluation_set=buckets.EvaluationBuckets(
            evaluated,
            shapes,
            batch_size=runs.evaluation_batch_size(chosen),
            maximum=chosen.max_length,
            **processes,
        ),
        training_set=training_set,
        report=_report(out, task, options.model.attention != "none"),
        input_shape=(1, *longest),
        inputs=tuple(jax.ShapeDtypeStruct((1, length), jnp.int32) for length in longest),
        recorded={
            "bucket_shapes": [list(shape) for shape in shapes],
            "vocabulary_sizes": [len(source), len(target)],
            "signatures": signatures,
        },
        files={VOCABULARY_FILE: dumps(source, target)},
        best="bleu",
    ).carry_out()


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
        UserError: the folder has none.
    """
    path = run / VOCABULARY_FILE
    stored = read_object(path)
    try:
        return Vocabulary.from_json(stored["source"]), Vocabulary.from_json(stored["target"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not the vocabularies of a run ({error})") from None


def build_task(
    options: Options, source: Vocabulary, target: Vocabulary, held_out: Pairs | None = None
) -> Translation:
    """The network, how it is trained, and how it is judged on the given sentences."""
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
    tokenize = decoding.bleu_tokenize or ("char" if target.level == "char" else "13a")
    metrics = TextMetrics(tokenize, lowercase=options.data.lowercase)
    judged = None
    if held_out is not None:
        judged = HeldOut(held_out, source, target, metrics, decoding.replace_unknown)
    return Translation(
        model=model,
        max_length=options.data.max_length,
        held_out=judged,
        loss_per=options.loss.loss_per,
        label_smoothing=options.loss.label_smoothing,
        sampling=options.loss.sampling,
        sampling_ramp=options.loss.sampling_ramp * options.data.batch_size,
        beam=decoding.beam,
        length_penalty=decoding.length_penalty,
    )


def predict(run: Path, options: flags.PredictOptions) -> None:
    """Print the translation of each sentence, and draw what its words looked at."""
    trained = flags.stored(Options, run)
    source, target = read_vocabularies(run)
    task = build_task(trained, source, target)
    state, notices = runs.restored(task, run)
    for notice in notices:
        flags.warn(notice)
    sentences, results = options.images, []
    maximum = trained.data.max_length
    rows = np.zeros((len(sentences), maximum), np.int32)
    for row, sentence in zip(rows, sentences, strict=True):
        tokens = source.encode(sentence)
        if len(tokens) == 1:
            raise UserError(f"{sentence!r}: no words to translate")
        if len(tokens) > maximum:
            flags.warn(f"cut off after {maximum - 1} of {len(tokens) - 1} tokens: {sentence}")
            tokens = [*tokens[: maximum - 1], END]
        if UNKNOWN in tokens:
            pieces = zip(source.split(sentence), tokens, strict=False)
            unknown = dict.fromkeys(piece for piece, token in pieces if token == UNKNOWN)
            flags.warn(f"not in the vocabulary: {' '.join(unknown)}")
        row[: len(tokens)] = tokens
    found = runs.in_batches(
        compile_inference(lambda batch: task.predict(state.params, state.model_state, batch)),
        ({"source": row} for row in rows),
        min(options.batch_size, len(sentences)),
    )
    for number, (sentence, prediction) in enumerate(zip(sentences, found, strict=True)):
        words, weights = prediction["words"].tolist(), prediction["attention_weights"]
        unknown = None
        if trained.decoding.replace_unknown:
            unknown = looked_at(source, sentence, weights.argmax(-1).tolist())
        translation = target.decode(words, unknown)
        result: dict[str, Any] = {"source": sentence, "translation": translation}
        if trained.model.attention != "none":
            picture = run / "samples" / f"predict_{number}.png"
            written = [*target.words(words, unknown), SPECIAL[END]]
            read = [*source.split(sentence), SPECIAL[END]]
            drawn, missing = alignment.draw(alignment_of(read, written, weights))
            files.replace(picture, drawn)
            if missing:
                flags.warn(
                    f"no font here shows {missing[:20]} in {picture}; install one that does, such "
                    "as Noto Sans CJK (Debian: fonts-noto-cjk)"
                )
            result["alignment"] = str(picture)
        results.append(result)
        if not options.json:
            print(translation)
            if "alignment" in result:
                print(f"  alignment: {result['alignment']}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))


def _report(out: Path, task: Translation, attends: bool) -> TranslationReport:
    judged = task.held_out
    source, target, pairs = judged.source, judged.target, judged.pairs
    lengths = [len(source.split(sentence)) for sentence in pairs.sources]
    sentences = Sentences(
        sources=pairs.sources,
        references=pairs.targets,
        source_words=lambda i: [*source.split(pairs.sources[i]), SPECIAL[END]],
        target_words=lambda words: [*target.words(words.tolist()), SPECIAL[END]],
        by_length=lambda hypotheses: bleu_by_length(
            judged.text_metrics, hypotheses, pairs.targets, lengths
        ),
        signatures=judged.text_metrics.signatures(),
    )
    return TranslationReport(out, sentences, attends)


def _open(options: Options, split: Literal["train", "eval", "test"]) -> Pairs:
    """One split of the data, or of what the flags give in its place."""
    chosen = options.data
    test_data = chosen.test_data or chosen.eval_data
    own = {"eval": chosen.eval_data, "test": test_data}.get(split)
    # With a set of its own for evaluation nothing is held out, neither of it nor of --data.
    fraction = 0.0 if own or chosen.eval_data else chosen.holdout_fraction
    pairs = text.open(
        own or chosen.data,
        "train" if own else split,
        holdout_fraction=fraction,
        seed=options.run.seed,
        data_dir=chosen.data_dir,
    )
    if pairs.empty:
        flags.warn(f"{split}: left out {pairs.empty} pairs with an empty side ({pairs.name})")
    if chosen.reverse:
        return Pairs(pairs.targets, pairs.sources, pairs.name, pairs.lines, pairs.empty)
    return pairs


def _tell(split: str, encoded: buckets.Encoded, done: str, maximum: int) -> None:
    if encoded.long:
        total = len(encoded) + (encoded.long if done == "left out" else 0)
        flags.warn(f"{split}: {done} {encoded.long} of {total} pairs above --max-length {maximum}")


def _check(options: Options) -> None:
    """Raise UserError on a number that cannot be."""
    model, data, loss, decoding = options.model, options.data, options.loss, options.decoding
    at_least = [
        *((name, getattr(model, name), 1) for name in ("embedding_size", "hidden_size")),
        *((name, getattr(model, name), 1) for name in ("attention_size", "output_size")),
        ("max_length", data.max_length, 2),
        ("buckets", data.buckets, 1),
        ("batch_size", data.batch_size, 1),
        ("max_vocabulary", data.max_vocabulary, len(SPECIAL) + 1),
        ("beam", decoding.beam, 1),
        ("sampling_ramp", loss.sampling_ramp, 0),
    ]
    for name, value, least in at_least:
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    shares = {"sampling": loss.sampling, "label_smoothing": loss.label_smoothing}
    for name, value in {**shares, "dropout_rate": model.dropout_rate}.items():
        if not 0 <= value <= 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be from 0 to 1")
    if model.init_from is not None and not (Path(model.init_from) / VOCABULARY_FILE).exists():
        raise UserError(f"--init-from {model.init_from}: not a run of translate")


if __name__ == "__main__":
    flags.entry(main)
