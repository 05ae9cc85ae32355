"""Translation sets of TFDS, made here with TFDS's own builder."""

import pytest
import tensorflow_datasets as tfds

from cnn_jax.data import text
from cnn_jax.errors import UserError


class TinyTranslation(tfds.core.GeneratorBasedBuilder):
    """Twenty pairs and no evaluation split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.Translation(languages=("de", "en")),
            supervised_keys=("de", "en"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            yield str(i), {"de": f"Käse {i}", "en": f"cheese {i}"}


def test_pairs_and_their_splits(tmp_path):
    TinyTranslation(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    parts = [
        text.open_sentence_pairs(
            "tfds:tiny_translation", split, data_dir=tmp_path, holdout_fraction=0.25
        )
        for split in ("train", "eval", "test")
    ]
    assert sum(map(len, parts)) == 20
    assert all(map(len, parts))
    for part in parts:
        for source, target in zip(part.sources, part.targets, strict=True):
            assert source.removeprefix("Käse ") == target.removeprefix("cheese ")
    with pytest.raises(UserError, match="lacks a name"):
        text.open_sentence_pairs("tfds:", "train")
