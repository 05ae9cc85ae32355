"""The cost of additions: each is made in a copy of the code, and run.

An addition is its new files and the lines that it adds to existing ones. README's table "Adding
your own" states the counts that are tested here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

ARCHITECTURE = '''"""A network of one convolution."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from cnn_jax.models.fields import Count


class Tiny(nn.Module):
    """One convolution, then the mean over the image.

    Attributes:
        filters: number of filters of the convolution.
        num_classes: number of logits.
        dtype: type of the computation.
    """

    filters: Count = 8
    num_classes: int = 1000
    dtype: Dtype = jnp.float32

    minimum_size = 3
    auxiliary_weight = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        maps = nn.relu(nn.Conv(self.filters, (3, 3), dtype=self.dtype)(images))
        return nn.Dense(self.num_classes)(maps.mean(axis=(1, 2))), {"stage1": maps}
'''

FORMAT = '''"""Images of one colour, which is their class."""

import numpy as np


class Colors:
    """Red and blue images."""

    class_names = ("red", "blue")

    def __len__(self):
        return 32

    def __getitem__(self, index):
        image = np.zeros((40, 40, 3), np.uint8)
        image[..., 2 * (index % 2)] = 200
        return {"image": image, "label": np.int32(index % 2)}

    def describe(self, index):
        return f"colors[{index}]"


def open_colors(argument, split, settings):
    """Open the images."""
    return Colors()
'''

LOSS = '''

def squared_error(
    logits: Float[Array, " classes"],
    target: Float[Array, " classes"],
    label_smoothing: float,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """The squared distance between the probabilities and the target (Brier 1950)."""
    return jnp.sum((jax.nn.softmax(logits) - target) ** 2)
'''

METRIC = '''

def entropy(log_probabilities: Float[Array, " classes"]) -> Float[Array, ""]:
    """The entropy of a prediction in nats."""
    return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities)
'''

TASK = '''"""A regression of the label, as an example of a task."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.metrics.summary import Summary
from cnn_jax.tasks.images import apply_training, floating, image_input, init


@dataclass(frozen=True)
class Regression:
    """A network with one output, trained on the label as a number."""

    model: nn.Module
    image_size: int

    @property
    def network_input(self):
        return image_input(self.image_size, self.image_size)

    def init(self, key):
        return init(self.model, self.network_input, key)

    def loss(self, params, model_state, batch, keys, axis_name=None):
        (outputs, _), model_state = apply_training(
            self.model, params, model_state, floating(batch["image"]), keys["dropout"], axis_name
        )
        sums = self._sums(outputs[:, 0], batch)
        return sums["loss"], (model_state, sums)

    def predict(self, params, model_state, batch):
        images = floating(batch["image"])
        outputs, _ = self.model.apply({"params": params, **model_state}, images, train=False)
        return outputs[:, 0]

    def measure(self, predictions, batch):
        return self._sums(predictions, batch), {}

    def summarize(self, sums, rows=None):
        return Summary({"loss": float(sums["loss"]) / float(sums["examples"])})

    def _sums(self, outputs, batch):
        errors = (outputs - batch["label"].astype(jnp.float32)) ** 2
        examples = jnp.sum(batch["valid"])
        return {"loss": jnp.sum(errors, where=batch["valid"]), "examples": examples}
'''

ENTRY_POINT = '''"""Train and evaluate a regressor.

python -m experiments.regress
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from cnn_jax import models
from cnn_jax.data.augment import Augmentation
from cnn_jax.tasks.regression import Regression

from . import images, trainer
from . import options as flags
from .trainer import Run

Network = flags.model_group("classifier")


@dataclass(frozen=True)
class Options(images.ImageOptions):
    """Train and evaluate a regressor."""

    verb: ClassVar[str] = "regress"

    run: flags.RunOptions = field(default_factory=flags.RunOptions)
    data: flags.WholeImageOptions = field(default_factory=flags.WholeImageOptions)
    model: Network = field(default_factory=Network)
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[Augmentation, flags.AUGMENTATION] = field(default_factory=Augmentation)


class Report:
    """No page."""

    def select(self, batch, predictions):
        pass

    def write(self, step, evaluation):
        pass


def main(argv: Sequence[str] | None = None) -> None:
    trainer.main(argv, trainer.Command(Options, {}, build, lambda _: models.names()))


def build(options: Options) -> Run:
    size = options.sizes.evaluation
    held_out = trainer.open_source(options, "eval", image_size=size)
    task = Regression(images.build_model(options.model, 1), size)
    transform = options.evaluation_transform

    def training_set():
        source = trainer.open_source(options, "train", image_size=size)
        return trainer.training_batches(options, source, options.training_transform), len(source)

    return Run(
        options=options,
        task=task,
        model=task.model,
        inputs=(task.network_input,),
        training_set=training_set,
        evaluation_set=trainer.evaluation_batches(options, held_out, transform),
        report=Report(),
    )


if __name__ == "__main__":
    flags.entry(main)
'''

PHOTOS = ["--data", "folder:photos"]
SMALL = ["--model", "alexnet", "--stem", "small", "--width", "0.05"]

# By addition: its new files; its lines in existing files, as (file, line before them, lines); what
# runs it; what the run prints; and README's count of (new files, files that get lines, lines).
ADDITIONS = {
    "architecture": (
        {"cnn_jax/models/tiny.py": ARCHITECTURE},
        [
            ("cnn_jax/models/registry.py", "    segnet,", "    tiny,"),
            (
                "cnn_jax/models/registry.py",
                "ARCHITECTURES: dict[str, Architecture] = {",
                '    "tiny": Architecture(partial(tiny.Tiny), _CIFAR),',
            ),
        ],
        ["classify", *PHOTOS, "--model", "tiny", "--filters", "4"],
        "tiny, 32x32x3",
        (1, 1, 2),
    ),
    "format": (
        {"cnn_jax/data/formats/colors.py": FORMAT},
        [
            (
                "cnn_jax/data/__init__.py",
                "from cnn_jax.data.formats.coco import open_coco",
                "from cnn_jax.data.formats.colors import open_colors",
            ),
            (
                "cnn_jax/data/__init__.py",
                '    "folder": open_folder,',
                '    "colors": open_colors,',
            ),
        ],
        ["classify", "--data", "colors", *SMALL],
        "alexnet, 32x32x3",
        (1, 1, 2),
    ),
    "loss": (
        {},
        [
            ("cnn_jax/losses/classification.py", None, LOSS),
            (
                "cnn_jax/tasks/classification.py",
                "LOSSES: dict[str, Loss] = {",
                '    "squared": losses.classification.squared_error,',
            ),
        ],
        ["classify", *PHOTOS, *SMALL, "--loss", "squared"],
        "loss",
        (0, 2, None),
    ),
    "metric": (
        {},
        [
            ("cnn_jax/metrics/classification.py", None, METRIC),
            (
                "cnn_jax/tasks/classification.py",
                "        sums = {",
                '            "entropy": jnp.sum(\n'
                "                jax.vmap(metrics.entropy)(predictions), where=valid\n"
                "            ),",
            ),
            (
                "cnn_jax/tasks/classification.py",
                '        if "confusion" in sums:',
                '            means["entropy"] = float(sums["entropy"]) / examples',
            ),
        ],
        ["classify", *PHOTOS, *SMALL],
        "entropy",
        (0, 2, None),
    ),
    "flag": (
        {},
        [
            (
                "experiments/classify.py",
                '    """Share of the target that is spread evenly over all classes."""',
                "    temperature: float = flags.flag(1.0, above=0, maximum=100)\n"
                '    """Divisor of the logits."""',
            )
        ],
        ["classify", *PHOTOS, *SMALL, "--temperature", "2"],
        "loss",
        (0, 1, 2),
    ),
    "task": (
        {"cnn_jax/tasks/regression.py": TASK, "experiments/regress.py": ENTRY_POINT},
        [
            (
                "experiments/__main__.py",
                "VERBS = {",
                '    "regress": "train and evaluate a regressor",',
            )
        ],
        ["regress", *PHOTOS, *SMALL],
        "loss",
        (2, 1, 1),
    ),
}
STEPS = ["--steps", "1", "--batch-size", "8", "--image-size", "32"]


def write_photos(root):
    """Eight images of two classes for training, and as many for evaluation."""
    for split in ("train", "val"):
        for name, level in (("dark", 40), ("light", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = np.full((32, 32, 3), level + 2 * number + (split == "val"), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_touches_as_many_files_as_the_readme_says(name, tmp_path):
    files, lines, command, printed, counts = ADDITIONS[name]
    for folder in ("cnn_jax", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file, content in files.items():
        assert not (tmp_path / file).exists()
        (tmp_path / file).write_text(content)
    for file, before, added in lines:
        path = tmp_path / file
        text = path.read_text()
        if before is None:
            path.write_text(text + added)
        else:
            assert text.count(f"{before}\n") == 1, f"{file}: {before}"
            path.write_text(text.replace(f"{before}\n", f"{before}\n{added}\n"))
    touched = {file for file, _, _ in lines}
    assert (len(files), len(touched)) == counts[:2]
    if counts[2] is not None:
        assert sum(added.count("\n") + 1 for _, _, added in lines) == counts[2]
    write_photos(tmp_path / "photos")
    verb, *arguments = command
    run = subprocess.run(
        [sys.executable, "-m", "experiments", verb, "--out", "out", *STEPS, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert printed in run.stderr + (tmp_path / "out" / "metrics.jsonl").read_text()
