"""`tfds:NAME[/CONFIG][:VERSION]`: translations of TensorFlow Datasets, read without TensorFlow."""

from cnn_jax.data.formats.tfds import FORM, builder_of, found_splits, prepare
from cnn_jax.data.source import Settings, Split
from cnn_jax.data.splits import serving
from cnn_jax.data.text.pairs import Pairs, hold_out, normalize
from cnn_jax.errors import UserError
from cnn_jax.reading import decode_text


def open_tfds_pairs(name: str, split: Split, settings: Settings) -> Pairs:
    """Open one split of a translation set, which is downloaded and prepared first if possible.

    Sources are in the set's first language, targets in the second. The split `eval` is
    `validation`, else `test`; the split `test` is `test`, else `validation`. If neither exists,
    both are held out of `train` as in `cnn_jax.data.text.pairs.open_pairs`.

    Raises:
        UserError: the name or the configuration is unknown, the set is not prepared and cannot be,
            or it contains no translations.
    """
    if not name:
        raise UserError(f"--data tfds: lacks a name, give {FORM}")
    # Imported here because it takes a second, which other formats should not pay for.
    import tensorflow_datasets as tfds

    builder = builder_of(tfds, name, settings)
    prepare(builder, name, settings)
    features = builder.info.features
    if not isinstance(features, tfds.features.Translation):
        raise UserError(f"--data tfds:{name}: contains no translations, only {', '.join(features)}")
    source, target = builder.info.supervised_keys or features.languages[:2]
    found = found_splits(builder.info.splits)
    chosen = serving(split, found) or found.get("train")
    if chosen is None:
        available = sorted(builder.info.splits)
        raise UserError(f"--data tfds:{name}: has no split 'train', only {available}")
    records = list(builder.as_data_source(split=chosen))

    def texts(language: str) -> list[str]:
        texts = (decode_text(record[language], f"tfds:{name} {chosen}") for record in records)
        return [normalize(text).strip() for text in texts]

    sources, targets = texts(source), texts(target)
    rows = [i for i in range(len(records)) if sources[i] and targets[i]]
    pairs = Pairs(
        [sources[i] for i in rows],
        [targets[i] for i in rows],
        f"tfds:{name} {chosen}",
        empty=len(records) - len(rows),
    )
    if serving("eval", found) is not None:
        return pairs
    return hold_out(pairs, split, settings.holdout_fraction)
