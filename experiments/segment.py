"""Train and evaluate a segmenter: a class for every pixel.

python -m experiments.segment                                       # built-in scenes, minutes
python -m experiments.segment --data masks:DIR --model segnet --class-weights median_frequency
python -m experiments.segment --data masks:DIR --model resnet50 --upsampling unpool
python -m experiments.segment --data masks:DIR --tile 256           # large images, of any size
python -m experiments.segment --out runs/NAME --eval-only --split test --recalibrate
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar

import flax.linen as nn
import numpy as np

from cnn_jax import models
from cnn_jax.data import MASK_FORMATS
from cnn_jax.data.augment import MaskAugmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.packed import folder_of, original
from cnn_jax.data.source import Source, Split
from cnn_jax.data.surveys import images as image_survey
from cnn_jax.data.surveys.masks import median_frequency, position_prior, survey
from cnn_jax.data.tiles import Tiles
from cnn_jax.data.transforms import MaskTransform
from cnn_jax.errors import UserError
from cnn_jax.metrics import segmentation as metrics
from cnn_jax.ranges import LARGEST_SIDE, Range
from cnn_jax.reports.segmentation import SegmentationReport
from cnn_jax.runs.names import metric, show
from cnn_jax.tasks.segmentation import CELL_ERRORS, LossName, Segmentation, Size

from . import class_weights, images, presets, suited, trainer
from . import options as flags
from .balance import SURVEYED
from .channels import fitting, normalization
from .run import Run, evaluated_split, predictions, reads_training_set

RULES = (*class_weights.RULES, "median_frequency")
"""The rules that compute weights of classes from the pixels of each class."""

# The type of what config.json holds besides the options.
RECORDED_SIZE = Annotated[tuple[int, int], Range(1, 2**20)]


@dataclass(frozen=True)
class MaskOptions:
    """Images and masks. `--data` is `shapes`, `masks:DIR`, `tfds:NAME` or `packed:DIR`."""

    image_shape: tuple[int, int] | None = flags.flag(
        None, minimum=1, maximum=LARGEST_SIDE, instead_of=("tile",)
    )
    """Rows and columns that images are resized to. Default: their own size, if all have the
    same."""
    tile: int | None = flags.flag(
        None, minimum=1, maximum=LARGEST_SIDE, instead_of=("image_shape",)
    )
    """Cut images of any size into squares of this many pixels on a side, instead of resizing."""
    class_names: tuple[str, ...] = flags.flag(
        (), unless={"data": (flags.BUILT_IN, "packed")}, metavar="NAME"
    )
    """Names of the classes of the masks, in the order of their values."""
    label_values: tuple[int, ...] = flags.flag(
        (), minimum=0, maximum=65_535, unless={"data": (flags.BUILT_IN, "packed")}
    )
    """Values of the classes in the masks. Default: 0, 1, 2, ..."""
    ignore_labels: tuple[int, ...] = flags.flag(
        (), minimum=0, maximum=65_535, unless={"data": (flags.BUILT_IN, "packed")}
    )
    """Values, besides 255, of pixels that loss and metrics ignore."""
    label_colors: str | None = flags.flag(
        None, moves=True, unless={"data": (flags.BUILT_IN, "packed")}, metavar="FILE"
    )
    """Which colour is which class in coloured masks: a file with a name, red, green and blue in
    each line, or `voc`. Default: class_dict.csv beside images/, if it exists."""
    eval_folders: tuple[str, ...] = flags.flag(
        (), unless={"data": ("shapes", "tfds", "packed")}, metavar="NAME"
    )
    """Folders below images/ that are evaluated during training."""
    test_folders: tuple[str, ...] = flags.flag(
        (), unless={"data": ("shapes", "tfds", "packed")}, metavar="NAME"
    )
    """Folders below images/ that `--split test` evaluates."""
    cells: bool = flags.flag(False, resumable=True)
    """Measure the Rand and the warping error too: class 1 is cells, class 0 what is between
    them."""

    def __post_init__(self) -> None:
        if self.tile is not None and self.image_shape is not None:
            raise UserError("--tile and --image-shape: give one of them")
        if self.cells and self.tile is not None:
            raise UserError("--cells: measures whole images, leave out --tile")


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss that training minimises."""

    loss: LossName = "cross_entropy"
    """Cross-entropy of every pixel, one minus the Dice coefficient, or their sum."""
    class_weights: tuple[str, ...] = flags.flag((), unless={"loss": ("dice",)}, metavar="WEIGHT")
    """Weights of the classes: `median_frequency`; `balanced`, the mean number of pixels over all
    classes divided by the class's own number; a number for each class; or NAME=NUMBER for some."""
    border_weight: float = flags.flag(0.0, minimum=0, maximum=1e6, unless={"loss": ("dice",)})
    """Weight that is added between two cells that touch; U-Net's w0, 10 in the paper."""
    border_sigma: float = flags.flag(
        5.0, above=0, maximum=1000, only={"border_weight": flags.GIVEN}
    )
    """Distance in pixels over which that weight falls."""


Segmenter = flags.model_group("segmenter")


@dataclass(frozen=True)
class Options:
    """Train and evaluate a segmenter: a class for every pixel."""

    verb: ClassVar[str] = "segment"

    run: flags.RunOptions = field(default_factory=flags.RunOptions)
    data: Annotated[
        flags.DataOptions,
        flags.group({"image_size": flags.Declared(instead_of=("image_shape", "tile"))}),
    ] = field(default_factory=flags.DataOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)
    model: Segmenter = field(default_factory=Segmenter)
    loss: SegmentationLoss = field(default_factory=SegmentationLoss)
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[
        MaskAugmentation,
        flags.group(
            {
                "elastic_grid": flags.Declared(only={"elastic": flags.GIVEN}),
                **flags.rgb_only("color_jitter"),
            }
        ),
    ] = field(default_factory=MaskAugmentation)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and train or evaluate."""
    trainer.main(argv, COMMAND)


def build(options: Options) -> Run:
    """The run that the options describe."""
    out = trainer.folder(options)
    if options.run.best in CELL_ERRORS and not options.masks.cells:
        raise UserError(f"--best {options.run.best}: only measured with --cells")
    held_out = open_split(options, evaluated_split(options))
    size = evaluated_size(options, held_out)
    if folder_of(options.data.data) is not None and options.masks.tile is None:
        # So that images to predict for are resized as those were that are packed.
        options = flags.replace(options, {"image_shape": size})
    training = None
    if reads_training_set(options.run):
        training = open_split(options, "train")
        trainer.check_same_classes(options, training, held_out)
    names = held_out.class_names
    given, notices = options.loss.class_weights, []
    weights = class_weights.typed(given, names, RULES)
    computed = bool(given) and not weights
    if options.run.resume or options.run.eval_only:
        weights = class_weights.recorded(out, names)
    elif not generated(options) or computed:
        # Every mask is looked at before the first step, so that none ends a run in the middle.
        counts = survey(training, SURVEYED if generated(options) else None)
        if computed:
            weights = computed_weights(given[0], counts, names)
            notices.append(class_weights.described(given[0], names, weights))
        if not generated(options):
            evaluated_counts = survey(held_out)
            present = [pixels > 0 for pixels in (counts, evaluated_counts)]
            surveyed = image_survey.notices(
                training, held_out, present=present, read_bits=options.data.bits
            )
            notices = [*surveyed, *notices]
            notices += floor(options, training, held_out, size)
    task = build_task(options, names, size, weights)
    cut = partial(_cut, tile=options.masks.tile, margin=task.model.margin)
    evaluated = cut(held_out)

    def training_set() -> tuple[TrainingBatches, int]:
        source = cut(training)
        transform = mask_transform(options, task, size, training=True)
        return trainer.training_batches(options, source, transform), len(source)

    transform = mask_transform(options, task, size)
    return Run(
        options=options,
        task=task,
        model=task.model,
        inputs=(task.network_input,),
        training_set=training_set,
        evaluation_set=trainer.evaluation_batches(options, evaluated, transform),
        report=SegmentationReport(out, evaluated, predictions(options)),
        recorded={"class_names": names, "evaluated_size": size, class_weights.KEY: weights},
        notices=notices,
    )


def generated(options: Options) -> bool:
    """Tell whether the examples are generated, so that nothing can be wrong with them."""
    return original(options.data.data) == flags.BUILT_IN


def open_split(options: Options, split: Split) -> Source:
    """One split of the data."""
    chosen = options.masks
    return trainer.open_source(
        options,
        split,
        image_size=options.data.image_size or 64,
        formats=MASK_FORMATS,
        draft_size=resized_to(options),
        class_names=chosen.class_names,
        label_values=chosen.label_values,
        ignore_labels=chosen.ignore_labels,
        label_colors=chosen.label_colors,
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
    """Describe the figures of a predictor that sees no image; of tiles there are none."""
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


def computed_weights(
    rule: str, counts: np.ndarray, class_names: Sequence[str]
) -> tuple[float, ...]:
    """The weights that a rule computes from the pixels of each class in each mask."""
    if rule == "balanced":
        return class_weights.balanced(counts.sum(axis=0))
    return tuple(map(float, median_frequency(counts, class_names).round(4)))


def build_task(
    options: Options,
    class_names: Sequence[str],
    size: Size,
    weights: tuple[float, ...] = (),
) -> Segmentation:
    """The network, its loss and its metrics.

    Raises:
        UserError: flags that do not fit each other or the number of classes.
    """
    if options.masks.cells and len(class_names) != 2:
        raise UserError(f"--cells: needs two classes, the data has {len(class_names)}")
    model = build_model(options, len(class_names))
    spec = models.input_spec(options.model.model, "segmenter")
    return Segmentation(
        model=model,
        num_classes=len(class_names),
        size=options.augmentation.crop_size or size,
        **normalization(spec, options.data.channels),
        augmentation=fitting(options.augmentation, options.data),
        loss_name=options.loss.loss,
        class_weights=weights,
        cells=options.masks.cells,
    )


def build_model(options: Options, num_classes: int) -> nn.Module:
    """The network that the flags name."""
    given = images.model_options(options.model)
    return models.create(options.model.model, num_classes, "segmenter", **given)


def mask_transform(
    options: Options, task: Segmentation, size: Size, training: bool = False
) -> MaskTransform:
    """The host's preparation of an image and its mask."""
    border = options.loss.border_weight if training else 0.0
    return MaskTransform(
        size,
        margin=task.model.margin,
        border=(border, options.loss.border_sigma) if border else None,
        resized=resized_to(options) is not None,
    )


def _cut(source: Source, tile: int | None, margin: int) -> Source:
    return source if tile is None else Tiles(source, tile, margin)


def with_recipe(argv: Sequence[str]) -> Sequence[str]:
    """The command line with a recipe that suits its data, where it has none."""
    beside = {field.name for field in dataclasses.fields(MaskOptions)} - {"tile", "image_shape"}
    opened = partial(open_split, split="train")
    choose = suited.by_images(opened, suited.segmentation)
    return suited.suited(Options, argv, choose, beside)


COMMAND = trainer.Command(
    Options,
    presets.SEGMENTATION,
    build,
    lambda _: models.names("segmenter"),
    variant="model",
    suited=with_recipe,
)


if __name__ == "__main__":
    flags.entry(main)
