"""The options of data: which examples, how they are read, balanced and augmented."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from cnn_jax.data.augment import ViewKind
from cnn_jax.data.image_reading import Reading
from cnn_jax.data.source import Settings
from cnn_jax.ranges import LARGEST_INT, LARGEST_SIDE, ranges

from .declare import GIVEN, Declared, flag, group

DATA_RANGES = ranges(Settings)
"""The ranges of what the readers of data declare, by name."""

BUILT_IN = "shapes"
"""The data that every task of images has without a download, and the preset that suits it."""

LARGEST_BATCH = 2**20
"""The most examples in a batch; memory ends much earlier."""

MOST_WORKERS = 1024
"""The most processes that read."""


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The examples, and how they are read."""

    data: str = flag("shapes", moves=True, aliases="dataset data-path", metavar="SPEC")
    """`shapes`, `folder:DIR`, `tfds:NAME[/CONFIG][:VERSION]` or `packed:DIR`."""
    image_size: int | None = flag(
        None, minimum=1, maximum=LARGEST_SIDE, aliases="img-size imgsz input-size"
    )
    """Pixels on a side of the images that the network gets. Default: what suits the data and the
    model."""
    channels: int = flag(
        3,
        minimum=1,
        maximum=512,
        unless={"data": ("shapes",)},
        aliases="in-channels in-chans input-channels",
    )
    """Channels of the images that the network gets: 1 for grey, 3 for RGB. With any other number,
    every file must have that many bands, which are read as they are stored."""
    bits: Literal[8, 16] = flag(8, unless={"data": ("shapes",)}, aliases="bit-depth")
    """Bits of a channel of those images. 8: files of 16 bits are scaled to 8; 16: such files keep
    all bits, and the network gets numbers on the same scale."""
    batch_size: int = flag(
        128, minimum=1, maximum=LARGEST_BATCH, aliases="bs ims-per-batch train-batch-size"
    )
    """Examples in a step, over all devices and processes."""
    eval_batch_size: int | None = flag(
        None,
        resumable=True,
        minimum=1,
        maximum=LARGEST_BATCH,
        aliases="val-batch-size validation-batch-size",
    )
    """Examples in a step of an evaluation. Default: the batch size."""
    train_examples: int | None = flag(
        None, minimum=1, maximum=LARGEST_INT, aliases="train-images max-train-samples"
    )
    """Number of training examples, which the seed draws with the classes in their proportions; of
    built-in scenes the first ones. Default: all."""
    holdout_fraction: float = flag(
        0.1,
        range=DATA_RANGES["holdout_fraction"],
        unless={"data": ("shapes", "voc", "yolo", "packed")},
    )
    """Share of the training examples that is held out where the data has no evaluation split."""
    holdout_groups: str | None = flag(None, unless={"data": ("shapes", "packed")}, metavar="REGEX")
    r"""Regular expression of a file name's start. Files that agree in its first group stay together
    when examples are held out (`(\d+)_` for the frames of one track)."""
    data_dir: str | None = flag(None, moves=True, only={"data": ("tfds",)}, metavar="DIR")
    """Folder of the prepared TFDS data sets. Default: the one of TFDS."""
    skip_bad_images: bool = flag(False, resumable=True)
    """Leave out images that cannot be read and list them, instead of stopping."""
    workers: int | None = flag(
        None, resumable=True, minimum=0, maximum=MOST_WORKERS, aliases="num-workers"
    )
    """Processes that read ahead; 0 reads in threads. Default: chosen for the machine and the data,
    and printed."""
    cache: Literal["device", "host", "none"] | None = flag(None, resumable=True)
    """Place where decoded examples are kept: beside the network on the device, in the host's
    memory, or nowhere. Default: on an accelerator, if they take at most a third of its free memory;
    else on the host, if they take at most a quarter of its own."""

    @property
    def reading(self) -> Reading:
        """The way in which images at full size are decoded."""
        return Reading(channels=self.channels, bits=self.bits)


@dataclasses.dataclass(frozen=True)
class WholeImageOptions(DataOptions):
    """The examples, and how they are read."""

    resize: int | None = flag(None, minimum=1, maximum=LARGEST_SIDE, aliases="val-resize-size")
    """Shorter side in pixels before the centre crop of an evaluation. Default: the model's own with
    `--crop random` or `resized` and with `--ten-crop`; else the side of the crop, so that an
    evaluation shows objects as large as training does."""
    canvas_size: int | None = flag(None, minimum=1, maximum=LARGEST_SIDE)
    """Pixels on a side of the images that are augmented on the device."""
    ten_crop: bool = flag(False, resumable=True)
    """Evaluate the corners, the centre and their mirror images instead of the centre alone."""
    views: ViewKind = flag("one", resumable=True)
    """Views of an image whose logits an evaluation averages. one: the image; mirror: also its
    mirror image; shift: also both of them moved by a pixel, towards two corners."""


@dataclasses.dataclass(frozen=True)
class BalanceOptions:
    """Rare classes."""

    class_weights: tuple[str, ...] = flag((), metavar="WEIGHT")
    """Weights of the classes in the loss: `balanced`, the mean number of training examples (or
    objects) over all classes divided by the class's own number; or a number for each class; or
    NAME=NUMBER for some."""
    sampling: Literal["uniform", "balanced", "repeat_factor"] = flag(
        "uniform", unless={"data": ("shapes",)}
    )
    """Training examples of an epoch, which keeps its number of examples. uniform: each one once;
    balanced: all classes equally often; repeat_factor: an example the more often, the rarer its
    rarest class is (Gupta et al. 2019, LVIS)."""
    repeat_threshold: float = flag(0.001, above=0, maximum=1, only={"sampling": ("repeat_factor",)})
    """A class that less than this share of the examples has is repeated, by the square root of this
    share over its own."""


RGB_ONLY: Mapping[str, Any] = {
    "policy": "none",
    "color_jitter": 0.0,
    "hue": 0.0,
    "pca_color": 0.0,
    "saturation": 1.0,
    "exposure": 1.0,
}
"""Flags of an augmentation that change colours, with the values that do not."""

BYTES_ONLY: Mapping[str, Any] = {"policy": "none"}
"""Flags of an augmentation that act on values of 8 bits, with the values that do not."""


def rgb_only(*names: str) -> dict[str, Declared]:
    """Declarations of flags that change colours: of images with red, green and blue alone."""
    assert set(names) <= set(RGB_ONLY)
    return dict.fromkeys(names, Declared(only={"channels": (3,)}))


AUGMENTATION = group(
    {
        **rgb_only("color_jitter", "hue", "pca_color"),
        "policy": Declared(only={"channels": (3,), "bits": (8,)}),
        "erase_fill": Declared(only={"erase": GIVEN, "channels": (3,)}),
        "flip_mode": Declared(only={"flip": GIVEN}),
        "padding": Declared(only={"crop": ("pad",)}),
        "padding_mode": Declared(only={"crop": ("pad",)}),
        "crop_scale": Declared(only={"crop": ("resized",)}),
        "crop_ratio": Declared(only={"crop": ("resized",)}),
        "rand_ops": Declared(only={"policy": ("rand",)}),
        "rand_magnitude": Declared(only={"policy": ("rand",)}),
        "erase": Declared(aliases="random-erase random-erasing"),
        "mixup": Declared(aliases="mixup-alpha"),
        "cutmix": Declared(aliases="cutmix-alpha"),
    }
)
"""What the flags of `cnn_jax.data.augment.Augmentation` depend on."""
