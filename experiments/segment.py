"""Train and evaluate a segmenter: a class for every pixel.

python -m experiments.segment                                       # built-in scenes, minutes
python -m experiments.segment --data masks:DIR --model segnet --class-weights median_frequency
python -m experiments.segment --data masks:DIR --model resnet50 --upsampling unpool
python -m experiments.segment --data masks:DIR --tile 256           # large images, of any size
python -m experiments.segment --out runs/NAME --eval-only --split test --recalibrate
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import files
from cnn_jax.data import MASK_FORMATS
from cnn_jax.data.augment import MaskAugmentation
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.decode import decode
from cnn_jax.data.resize import resize
from cnn_jax.data.source import Source
from cnn_jax.data.surveys.masks import median_frequency, position_prior, survey
from cnn_jax.data.tiles import Tiles, corners, window
from cnn_jax.data.transforms import MaskTransform
from cnn_jax.errors import UserError
from cnn_jax.metrics import segmentation as metrics
from cnn_jax.models import segmentation as networks
from cnn_jax.reports import masks as pictures
from cnn_jax.reports.pictures import save
from cnn_jax.reports.segmentation import SegmentationReport
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.runs.names import metric, show
from cnn_jax.tasks.segmentation import LossName, Segmentation, Size
from cnn_jax.training.backend import compile_inference

from . import images, presets, runs
from . import options as flags
from .experiment import Experiment

MEDIAN_FREQUENCY = ("median_frequency",)

SURVEYED = 1000
"""Of generated scenes, the first so many are counted for the classes' weights."""


@dataclass(frozen=True)
class DecoderOptions:
    """The way back to the image's size."""

    upsampling: Literal["nearest", "bilinear", "transposed", "unpool"] | None = None
    """How maps are enlarged; the U-Net has two of them, a classifier as encoder all four."""
    output_stride: int | None = None
    """With a classifier as encoder: the decoder ends at maps so many times smaller than the image,
    and logits are enlarged from there. 4 is almost twice as fast as 1, the default."""


@dataclass(frozen=True)
class MaskOptions:
    """Images and masks. `--data` is `shapes`, `masks:DIR` or `tfds:NAME`."""

    image_shape: tuple[int, int] | None = None
    """Rows and columns that images are resized to; default: their own, then all alike."""
    tile: int | None = None
    """Instead, images of any size are cut into squares of so many pixels."""
    class_names: tuple[str, ...] = ()
    """Names of the masks' classes, in the order of their values."""
    label_values: tuple[int, ...] = ()
    """The values that stand for the classes, where not 0, 1, 2, ..."""
    ignore_labels: tuple[int, ...] = ()
    """Values of pixels that are not judged, besides 255."""
    eval_folders: tuple[str, ...] = ()
    """Folders below images/ that are evaluated while training."""
    test_folders: tuple[str, ...] = ()
    """Folders below images/ that `--split test` evaluates."""
    cells: bool = False
    """Class 1 are cells, class 0 what parts them: Rand and warping error are measured too."""

    def __post_init__(self) -> None:
        if self.image_shape is not None and min(self.image_shape) < 1:
            raise UserError("--image-shape: must be a positive number of rows and of columns")
        if self.tile is not None and self.tile < 1:
            raise UserError(f"--tile {self.tile}: must be 1 or more")
        if self.tile is not None and self.image_shape is not None:
            raise UserError("--tile and --image-shape: give one of them")
        if self.cells and self.tile is not None:
            raise UserError("--cells: judges whole images, leave out --tile")


@dataclass(frozen=True)
class LossOptions:
    """What training minimises."""

    loss: LossName = "cross_entropy"
    """Cross-entropy per pixel, one minus the Dice coefficient, or their sum."""
    class_weights: tuple[str, ...] = ()
    """What a pixel counts by its class: `median_frequency`, or a number for each class."""
    border_weight: float = 0.0
    """U-Net's w0: the weight added between two cells that touch (10 in the paper)."""
    border_sigma: float = 5.0
    """How far that weight reaches, in pixels."""

    def __post_init__(self) -> None:
        if self.border_weight < 0:
            raise UserError(f"--border-weight {self.border_weight}: must be 0 or more")
        if self.border_sigma <= 0:
            raise UserError(f"--border-sigma {self.border_sigma}: must be above 0")
        if self.loss == "dice" and (self.class_weights or self.border_weight):
            raise UserError("--loss dice: takes no --class-weights or --border-weight")


@dataclass(frozen=True)
class Options:
    """Train and evaluate a segmenter."""

    model: flags.Model = field(default_factory=flags.ModelOptions)
    decoder: Annotated[DecoderOptions, flags.Flat] = field(default_factory=DecoderOptions)
    data: flags.Data = field(default_factory=flags.DataOptions)
    masks: Annotated[MaskOptions, flags.Flat] = field(default_factory=MaskOptions)
    augmentation: Annotated[MaskAugmentation, flags.Flat] = field(default_factory=MaskAugmentation)
    optimizer: flags.Optimizer = field(default_factory=flags.OptimizerOptions)
    loss: Annotated[LossOptions, flags.Flat] = field(default_factory=LossOptions)
    run: flags.Run = field(default_factory=flags.RunOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run."""
    options = flags.parse(Options, argv, _recipes(argv))
    if options.model.model == "list":
        print("\n".join(networks.names()))
    else:
        run(options)


def _recipes(argv: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """The presets, without what the network named in place of theirs does not have."""
    named = flags.parse_plain(Options, argv).model.model
    if named not in networks.names() or "output_stride" in networks.options(named):
        return presets.SEGMENTATION
    return {
        name: {key: value for key, value in recipe.items() if key != "output_stride"}
        for name, recipe in presets.SEGMENTATION.items()
    }


def run(options: Options) -> Path:
    """Train, or only evaluate, as the options say; returns the run's folder."""
    runs.prepare_devices(options.run)
    runs.check_batch_sizes(options)
    out = runs.directory(options.run, "segment")
    held_out = open_split(options, options.run.split if options.run.eval_only else "eval")
    size = evaluated_size(options, held_out)
    training = None
    if not options.run.eval_only or options.run.recalibrate:
        training = open_split(options, "train")
        if training.class_names != held_out.class_names:
            raise UserError(f"--data {options.data.data}: training and evaluation classes differ")
    weights, notices = class_weights(options, held_out.class_names), []
    if options.run.resume or options.run.eval_only:
        weights = recorded_weights(out)
    elif not generated(options) or options.loss.class_weights == MEDIAN_FREQUENCY:
        # Every mask is looked at before the first step, so that none ends a run in the middle.
        counts = survey(training, SURVEYED if generated(options) else None)
        if options.loss.class_weights == MEDIAN_FREQUENCY:
            weights = tuple(map(float, median_frequency(counts, training.class_names).round(4)))
            named = (f"{n} {w:g}" for n, w in zip(training.class_names, weights, strict=True))
            notices.append(f"class weights (median frequency): {', '.join(named)}")
        if not generated(options):
            survey(held_out)
            notices += floor(options, training, held_out, size)
    task = build_task(options, held_out.class_names, size, weights)
    cut = partial(_cut, tile=options.masks.tile, margin=task.model.margin)
    evaluated = cut(held_out)

    def training_set() -> tuple[TrainingBatches, int]:
        source = cut(training)
        batches = TrainingBatches(
            source,
            transform(options, task, size, training=True),
            batch_size=options.data.batch_size,
            seed=options.run.seed,
            **runs.readers(options.data),
        )
        return batches, len(source)

    return Experiment(
        verb="segment",
        options=options,
        out=out,
        task=task,
        evaluation_set=EvaluationBatches(
            evaluated,
            transform(options, task, size),
            batch_size=runs.evaluation_batch_size(options.data),
            **runs.readers(options.data),
        ),
        training_set=training_set,
        report=SegmentationReport(out, evaluated),
        input_shape=(1, *map(task.model.legal_size, task.size), 3),
        recorded={
            "class_names": held_out.class_names,
            "evaluated_size": size,
            "weights_by_class": weights,
        },
        notices=notices,
    ).carry_out()


def generated(options: Options) -> bool:
    """Whether the examples are drawn and not read: nothing can be wrong with them."""
    return options.data.data == flags.BUILT_IN


def open_split(options: Options, split: Literal["train", "eval", "test"]) -> Source:
    """One split of the data."""
    chosen = options.masks
    return runs.open_source(
        options.data,
        split,
        seed=options.run.seed,
        image_size=options.data.image_size or 64,
        formats=MASK_FORMATS,
        class_names=chosen.class_names,
        label_values=chosen.label_values,
        ignore_labels=chosen.ignore_labels,
        eval_folders=chosen.eval_folders,
        test_folders=chosen.test_folders,
    )


def evaluated_size(options: Options, source: Source) -> Size:
    """Rows and columns of what is evaluated at a time."""
    chosen = options.masks
    if chosen.tile is not None:
        return chosen.tile, chosen.tile
    return resized_to(options) or source.size(0)


def resized_to(options: Options) -> Size | None:
    """Rows and columns that images are resized to; None where they keep their own size."""
    if options.masks.image_shape is not None:
        return options.masks.image_shape
    size = options.data.image_size
    return (size, size) if size and not generated(options) and not options.masks.tile else None


def floor(options: Options, training: Source, held_out: Source, size: Size) -> list[str]:
    """What a predictor reaches that sees no image, in words; nothing of images in tiles."""
    if options.masks.tile is not None:
        return []
    confusion = position_prior(training, held_out, size)
    figures = {
        "pixel_accuracy": metrics.pixel_accuracy(confusion),
        "class_accuracy": metrics.mean_class_accuracy(confusion),
        "mean_iou": metrics.mean_iou(confusion),
    }
    named = ", ".join(f"{metric(key).label} {show(key, value)}" for key, value in figures.items())
    return [f"floor (the class most frequent at each place in training): {named}"]


def class_weights(options: Options, class_names: Sequence[str]) -> tuple[float, ...]:
    """The weights that the flag gives; empty where all count 1, or are still to be computed.

    Raises:
        UserError: the flag is neither a rule's name nor a positive number for each class.
    """
    given = options.loss.class_weights
    if given == MEDIAN_FREQUENCY:
        return ()
    try:
        weights = tuple(map(float, given))
    except ValueError:
        weights = (-1.0,)
    if len(weights) not in (0, len(class_names)) or any(not weight > 0 for weight in weights):
        raise UserError(
            f"--class-weights {' '.join(given)}: must be median_frequency, or a number above 0 for "
            f"each of the {len(class_names)} classes"
        )
    return weights


def recorded_weights(out: Path) -> tuple[float, ...]:
    """The weights that a run was trained with; none where `--init-from` alone is evaluated."""
    path = out / CONFIG_FILE
    return tuple(read_object(path)["weights_by_class"]) if path.exists() else ()


def build_task(
    options: Options,
    class_names: Sequence[str],
    size: Size,
    weights: tuple[float, ...] = (),
) -> Segmentation:
    """The network and how it is trained and judged.

    Raises:
        UserError: flags that do not fit each other or the number of classes.
    """
    if options.masks.cells and len(class_names) != 2:
        raise UserError(f"--cells: needs two classes, the data has {len(class_names)}")
    model = build_model(options, len(class_names))
    mean, std = networks.statistics(options.model.model)
    return Segmentation(
        model=model,
        num_classes=len(class_names),
        size=options.augmentation.crop_size or size,
        mean=mean,
        std=std,
        augmentation=options.augmentation,
        loss_name=options.loss.loss,
        class_weights=weights,
        cells=options.masks.cells,
    )


def build_model(options: Options, num_classes: int) -> nn.Module:
    """The network that the flags name."""
    given = images.model_options(options.model)
    chosen = {
        "upsampling": options.decoder.upsampling,
        "output_stride": options.decoder.output_stride,
    }
    given |= {name: value for name, value in chosen.items() if value is not None}
    return networks.create(options.model.model, num_classes, **given)


def transform(
    options: Options, task: Segmentation, size: Size, training: bool = False
) -> MaskTransform:
    """What the host does to an image and its mask."""
    border = options.loss.border_weight if training else 0.0
    return MaskTransform(
        size,
        margin=task.model.margin,
        border=(border, options.loss.border_sigma) if border else None,
        resized=resized_to(options) is not None,
    )


def _cut(source: Source, tile: int | None, margin: int) -> Source:
    return source if tile is None else Tiles(source, tile, margin)


def predict(run: Path, options: flags.PredictOptions) -> None:
    """Write each image's mask, and the image under it; print the share of each class."""
    trained = flags.stored(Options, run)
    recorded = read_object(run / CONFIG_FILE)
    names, size = recorded["class_names"], tuple(recorded["evaluated_size"])
    task = build_task(trained, names, size)
    state, notices = runs.restored(task, run)
    for notice in notices:
        flags.warn(notice)
    log_probabilities = compile_inference(
        lambda batch: task.predict(state.params, state.model_state, batch)
    )
    directory = Path(options.directory) if options.directory else run / "predictions"
    results = []
    for file in options.images:
        image = decode(file)
        probabilities = _probabilities(image, trained, task, log_probabilities, options.batch_size)
        mask = probabilities.argmax(axis=-1).astype(np.uint8)
        place = directory / Path(file).stem
        written = {"mask": f"{place}.mask.png", "overlay": f"{place}.overlay.png"}
        save(Path(written["mask"]), pictures.index_image(mask, len(names)))
        shown = Image.fromarray(pictures.overlay(image, mask, len(names)))
        save(Path(written["overlay"]), shown)
        if options.probabilities:
            written["probabilities"] = f"{place}.probabilities.npy"
            content = io.BytesIO()
            np.save(content, probabilities.astype(np.float32))
            files.replace(Path(written["probabilities"]), content.getvalue())
        shares = np.bincount(mask.ravel(), minlength=len(names)) / mask.size
        found = {names[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}
        results.append({"image": file, "shares": found, **written})
        if not options.json:
            line = "; ".join(f"{n} {show('pixel_accuracy', s)}" for n, s in found.items() if s)
            print(f"{file}: {line} -> {written['overlay']}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))


def _probabilities(
    image: np.ndarray, trained: Options, task: Segmentation, log_probabilities, batch_size: int
) -> np.ndarray:
    """Of every pixel of an image, at the image's own size: floats [height, width, classes]."""
    size, margin = image.shape[:2], task.model.margin
    tile, resized = trained.masks.tile, resized_to(trained)
    if tile is not None:
        # Tiles that stick out are cut off again.
        places = list(corners(size, tile))
        parts = ({"image": window(image, *corner, tile, tile, margin)} for corner in places)
        rows = runs.in_batches(log_probabilities, parts, min(batch_size, len(places)))
        whole = np.zeros((size[0] + tile, size[1] + tile, task.num_classes), np.float32)
        for (top, left), row in zip(places, rows, strict=True):
            whole[top : top + tile, left : left + tile] = np.exp(row)
        return whole[: size[0], : size[1]]
    seen = image if resized is None else resize(image, resized)
    seen = window(seen, 0, 0, *seen.shape[:2], margin)
    found = jnp.exp(log_probabilities({"image": seen[None]})[0])
    return np.asarray(jax.image.resize(found, (*size, task.num_classes), "linear"))


if __name__ == "__main__":
    flags.entry(main)
