# ruff: noqa: RUF001 (letters of several scripts are meant as they stand)
"""Small valid sets of sentence pairs, vocabularies and weights, and what opens each of them."""

import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from cnn_jax import models
from cnn_jax.data import text
from cnn_jax.data.text.vocabulary import Vocabulary, dumps
from cnn_jax.models import weights
from experiments.translate import VOCABULARY_FILE, read_vocabularies

Writer = Callable[[Path, np.random.Generator], None]
Opener = Callable[[Path], None]

# Words of several scripts, some of which are cut by rules of their own.
WORDS = (
    "go",
    "it's",
    "Käse",
    "पानी",
    "ฉันรัก",
    "新加坡",
    "قَالَ",
    "об'єкт",
    "3.5",
    "👩‍👩‍👧",
    '"x"',
    ";",
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


def formats() -> dict[str, tuple[Writer, Opener]]:
    """By name: what writes a valid set into a folder, and what opens all of it.

    An opener raises UserError where the data are bad, and nothing else.
    """
    return {
        "pairs_table": (write_table, lambda folder: open_pairs(folder / "pairs.tsv")),
        "pairs_parallel": (
            write_parallel,
            lambda folder: open_pairs(folder / "train.de", folder / "train.en"),
        ),
        "pairs_gzip": (write_packed, lambda folder: open_pairs(folder / "train.tsv")),
        "vocabulary": (write_vocabularies, open_vocabularies),
        "weights": (write_weights, open_weights),
    }


def sentence(rng: np.random.Generator) -> str:
    """Some words with a space between."""
    return " ".join(rng.choice(WORDS, rng.integers(1, 6)))


def write_table(folder: Path, rng: np.random.Generator) -> None:
    """One table that both other splits are held out of, in an encoding and with line ends."""
    columns = int(rng.integers(2, 4))
    end = str(rng.choice(["\n", "\r\n", "\r"]))
    rows = ["\t".join(sentence(rng) for _ in range(columns)) for _ in range(40)]
    data = "".join(row + end for row in rows).encode(str(rng.choice(ENCODINGS)))
    (folder / "pairs.tsv").write_bytes(data)


def write_parallel(folder: Path, rng: np.random.Generator) -> None:
    """Two files for each split."""
    for split in ("train", str(rng.choice(["val", "dev"])), "test"):
        count = int(rng.integers(1, 9))
        for language in ("de", "en"):
            lines = "".join(f"{sentence(rng)}\n" for _ in range(count))
            (folder / f"{split}.{language}").write_bytes(lines.encode("utf-8"))


def write_packed(folder: Path, rng: np.random.Generator) -> None:
    """A compressed table for each of two splits."""
    for split in ("train", "test"):
        rows = "".join(
            f"{sentence(rng)}\t{sentence(rng)}\n" for _ in range(int(rng.integers(1, 9)))
        )
        (folder / f"{split}.tsv.gz").write_bytes(gzip.compress(rows.encode("utf-8")))


def open_pairs(*paths: Path) -> None:
    """Open every split, build the vocabularies of training's, and go there and back with all."""
    spec = f"pairs:{','.join(map(str, paths))}"
    splits = ("train", "eval", "test")
    parts = [text.open_sentence_pairs(spec, s, holdout_fraction=0.3) for s in splits]
    for side in ("sources", "targets"):
        for level in ("word", "char"):
            vocabulary = Vocabulary.build(getattr(parts[0], side), level)
            for pairs in parts:
                for sentence in getattr(pairs, side):
                    vocabulary.decode(vocabulary.encode(sentence))


def write_vocabularies(folder: Path, rng: np.random.Generator) -> None:
    """The vocabularies of a run: words and characters."""
    sides = [
        Vocabulary.build([sentence(rng) for _ in range(9)], level, lowercase=bool(rng.integers(2)))
        for level in ("word", "char")
    ]
    (folder / VOCABULARY_FILE).write_text(dumps(*sides), encoding="utf-8")


def open_vocabularies(folder: Path) -> None:
    """Read both, and go there and back with every word."""
    for vocabulary in read_vocabularies(folder):
        for word in WORDS:
            vocabulary.decode(vocabulary.encode(word))


@cache
def _network() -> tuple[Any, Any]:
    """A tiny network and its variables."""
    model = models.create("resnet20", 4, width=0.0625)
    images = jnp.zeros((1, 32, 32, 3))
    return model, jax.eval_shape(lambda: model.init(jax.random.key(0), images))


def write_weights(folder: Path, rng: np.random.Generator) -> None:
    """The weights of a tiny network with torchvision's names, wrapped as a training tool does."""
    model, variables = _network()
    rules = next(iter(model.pretrained_names().values()))
    prefix = str(rng.choice(["", "module.", "model."]))
    tensors = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        name = weights.tensor_name(".".join(key.key for key in path), rules)
        shape = weights._torch_shapes(leaf.shape)[0]
        tensors[prefix + name] = rng.normal(size=shape).astype(np.float32)
    save_file(tensors, folder / "weights.safetensors")


def open_weights(folder: Path) -> None:
    """Load them into the network."""
    weights.load(folder / "weights.safetensors", *_network())
