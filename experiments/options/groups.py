"""The groups of options that the commands share."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from cnn_jax.data.augment import ViewKind
from cnn_jax.data.image_reading import Reading
from cnn_jax.data.source import Settings
from cnn_jax.errors import check
from cnn_jax.models import Option, option_table
from cnn_jax.ranges import LARGEST_INT, LARGEST_SIDE, ranges, split
from cnn_jax.training import optimizers

from .declare import GIVEN, Declared, flag, group

DATA_RANGES = ranges(Settings)
"""The ranges of what the readers of data declare, by name."""

BUILT_IN = "shapes"
"""The data that every task of images has without a download, and the preset that suits it."""

Precision = Literal["tensorfloat32", "float32"]

_LARGEST_SEED = 2**32 - 1  # what JAX tells apart

LARGEST_BATCH = 2**20
"""The most examples in a batch; memory ends much earlier."""

MOST_WORKERS = 1024
"""The most processes that read."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The folder of the run, what is done, and how often it reports."""

    preset: str | None = flag(None, aliases="recipe", metavar="NAME")
    """A recipe whose values are the defaults; `--preset list` prints their names. The built-in
    data has its own."""
    config: str | None = flag(None, typed_only=True, aliases="cfg config-file", metavar="FILE")
    """A YAML or JSON file of flags, or the config.json of a run, whose values are the defaults.
    What is typed comes first, then the file, then the preset, then the flags' own defaults."""
    out: str | None = flag(
        None,
        resumable=True,
        unrecorded=True,
        aliases="output-dir output work-dir workdir logdir",
        metavar="DIR",
    )
    """Folder of the run. Default: runs/VERB-TIME."""
    resume: bool = flag(False, resumable=True, typed_only=True)
    """Continue the run in --out from its newest checkpoint, with its own options; --steps or
    --epochs lengthen it."""
    eval_only: bool = flag(False, resumable=True, typed_only=True, aliases="test-only evaluate")
    """Evaluate the run in --out (or --init-from) and train nothing."""
    split: Literal["eval", "test", "train"] = flag(
        "eval", resumable=True, typed_only=True, only={"eval_only": GIVEN}
    )
    """Which examples are evaluated. Those of training are not augmented; their row is called
    training_set, as rows of training are called train."""
    predictions: str | None = flag(None, resumable=True, unrecorded=True, metavar="FILE")
    """Write a row for each example of an evaluation to this file, .csv or .jsonl: its name, the
    truth, the prediction and its probability."""
    state: Literal["best", "last"] | None = flag(
        None, resumable=True, typed_only=True, only={"eval_only": GIVEN}
    )
    """State that is evaluated: the one with the best evaluation, or the last one. Default: the
    best, where the run keeps it."""
    weights: Literal["raw", "ema"] | None = flag(
        None, resumable=True, typed_only=True, only={"eval_only": GIVEN}
    )
    """Weights of that state that are evaluated: those that training goes on from, or their average.
    Default: the average, where the run keeps one."""
    recalibrate: bool = flag(False, resumable=True, typed_only=True, only={"eval_only": GIVEN})
    """Compute the statistics of batch normalisation anew from the training set."""
    seed: int = flag(0, minimum=0, maximum=_LARGEST_SEED, aliases="manual-seed")
    """All randomness derives from this number."""
    fast: bool = False
    """On a GPU, use the fastest kernels that the compiler measures, also those whose sums depend on
    timing: two runs of one seed then differ. On a CPU it changes nothing."""
    matmul_precision: Precision | None = None
    """Precision of float32 products and convolutions on an accelerator. Default: the device's own,
    TensorFloat-32 on most GPUs. A CPU always has float32."""
    report_every: int = flag(
        50,
        resumable=True,
        minimum=1,
        maximum=LARGEST_INT,
        aliases="print-freq log-interval log-every logging-steps",
    )
    """Steps between reports of the training metrics."""
    eval_every: int = flag(
        0,
        resumable=True,
        minimum=0,
        maximum=LARGEST_INT,
        aliases="eval-interval eval-period eval-steps",
    )
    """Steps between evaluations; 0 stands for ten evaluations a run."""
    checkpoint_every: int = flag(
        0,
        resumable=True,
        minimum=0,
        maximum=LARGEST_INT,
        aliases="save-every checkpoint-period save-steps",
    )
    """Steps between checkpoints; 0 stands for one at each evaluation."""
    keep: int = flag(3, resumable=True, minimum=1, maximum=1_000_000, aliases="checkpoint-hist")
    """Number of checkpoints that are kept."""
    best: str | None = flag(None, metavar="METRIC")
    """Keep the state with the best evaluation by this metric in best/ too, and use it to evaluate
    and predict."""
    patience: int | None = flag(
        None,
        resumable=True,
        minimum=1,
        maximum=LARGEST_INT,
        only={"best": GIVEN},
        aliases="early-stopping early-stopping-patience",
    )
    """End the run after this number of evaluations without a better --best."""
    track: Literal["wandb", "mlflow"] | None = flag(None, resumable=True)
    """Hand the config, every row of metrics and the last pictures over to Weights & Biases or to
    MLflow; a resumed run goes on as the same run there."""
    profile: str | None = flag(
        None,
        resumable=True,
        typed_only=True,
        unless={"eval_only": GIVEN},
        metavar="START:STOP",
    )
    """Record the steps after START updates, up to STOP, with JAX's profiler into profile/; a
    resumed run records those of them that it makes."""
    graph: str | None = flag(None, resumable=True, typed_only=True, metavar="FILE.svg")
    """Draw the network into this file, with its blocks' shapes, parameters and multiply-adds, and
    train nothing."""
    distributed: bool = flag(False, resumable=True)
    """Join the other processes of the run, as JAX finds them under Slurm, on TPU pods and on
    Kubernetes."""
    parallel: Literal["pmap", "shard"] = flag("pmap", resumable=True)
    """How a step runs on all devices: `pmap`, or its twin `shard`, which is `shard_map` under
    `jit`. Both give the same bits."""
    max_minutes: float | None = flag(
        None, resumable=True, above=0, maximum=1e6, aliases="max-time time-limit"
    )
    """Save and end with status 75 after this time; --resume continues."""


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
    """Channels of the images that the network gets: 1 for grey, 3 for RGB; any other number is that
    of the bands that every file must have, as they are stored."""
    bits: Literal[8, 16] = flag(8, unless={"data": ("shapes",)}, aliases="bit-depth")
    """Bits of a channel of those images: with 8, files of 16 are scaled to 8; with 16, they are
    read as they are, and the network gets numbers on the same scale."""
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
    """Number of training examples, of each class in proportion. Default: all. The seed draws which;
    of built-in scenes they are the first ones."""
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
    """Processes that read ahead; 0 reads in threads. Default: what the machine and the data need,
    which the run tells."""
    cache: Literal["device", "host", "none"] | None = flag(None, resumable=True)
    """Where decoded examples are kept: beside the network on the device, in the host's memory, or
    nowhere. Default: on an accelerator where they take at most a third of its free memory, else on
    the host where they take at most a quarter."""

    @property
    def reading(self) -> Reading:
        """The way in which images at full size are decoded."""
        return Reading(channels=self.channels, bits=self.bits)


@dataclasses.dataclass(frozen=True)
class WholeImageOptions(DataOptions):
    """The examples, and how they are read."""

    resize: int | None = flag(None, minimum=1, maximum=LARGEST_SIDE, aliases="val-resize-size")
    """Shorter side in pixels before the centre crop of an evaluation. Default: the model's own."""
    canvas_size: int | None = flag(None, minimum=1, maximum=LARGEST_SIDE)
    """Pixels on a side of the images that are augmented on the device."""
    ten_crop: bool = flag(False, resumable=True)
    """Evaluate the corners, the centre and their mirror images instead of the centre alone."""
    views: ViewKind = flag("one", resumable=True, aliases="tta")
    """Views of an image whose logits an evaluation averages: the image; `mirror`: its mirror image
    too; `shift`: both also moved by a pixel, towards two corners."""


@dataclasses.dataclass(frozen=True)
class BalanceOptions:
    """Rare classes."""

    class_weights: tuple[str, ...] = flag((), metavar="WEIGHT")
    """Weights of the classes in the loss: `balanced`, the mean number of training examples (or
    objects) of a class over its own; or a number for each class; or NAME=NUMBER for some."""
    sampling: Literal["uniform", "balanced", "repeat_factor"] = flag(
        "uniform", unless={"data": ("shapes",)}
    )
    """Training examples of an epoch, whose number stays: each one once; so that all classes come
    equally often; or the more often the rarer their rarest class is (Gupta et al. 2019, LVIS)."""
    repeat_threshold: float = flag(0.001, above=0, maximum=1, only={"sampling": ("repeat_factor",)})
    """Share of the examples below which a class is repeated, by the root of what it lacks."""


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


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network and its own options."""

    model: str = flag("resnet20", aliases="arch architecture net", metavar="NAME")
    """Any registered architecture; `--model list` prints their names."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the network computes in; parameters, statistics and losses stay float32."""
    init_from: str | None = flag(None, moves=True, metavar="PATH")
    """Weights to start from: safetensors or .pth with torchvision's or timm's names, a run, or a
    name such as `torchvision:resnet50` or `hf:timm/resnet50.tv_in1k`."""
    weights_dir: str | None = flag(None, resumable=True, only={"init_from": GIVEN}, metavar="DIR")
    """Folder in which weights with a name are looked for before they are fetched."""
    init_head: Literal["keep", "reinit"] = flag("keep", only={"init_from": GIVEN})
    """Whether the last layer keeps its weights too, which needs the same classes."""


def model_group(
    kinds: str | Mapping[str, str], *, exclude: Collection[str] = ()
) -> type[ModelOptions]:
    """`ModelOptions` and, as flags that are None by default, every option that a model declares.

    Args:
        kinds: a kind of `cnn_jax.models.option_table`; or, of `detect`, one for each `--system`.
        exclude: options that another flag of the command sets.
    """
    tables: dict[str, dict[str, Option]] = {
        system: option_table(kind)
        for system, kind in ({"": kinds} if isinstance(kinds, str) else kinds).items()
    }
    fields: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        having = {system: table[name] for system, table in tables.items() if name in table}
        option = next(iter(having.values()))
        if option.common or name in exclude:
            continue
        models = dict.fromkeys(model for one in having.values() for model in one.models)
        only: dict[str, Collection[str]] = {}
        if len(having) < len(tables):
            only["system"] = tuple(having)
        every = (one for system in having for one in tables[system].values())
        if set(models) != {model for one in every for model in one.models}:
            only["model"] = tuple(models)
        families = dict.fromkeys(family for one in having.values() for family in one.families)
        _, limits = split(option.annotation)
        declared = flag(
            None,
            range=limits,
            help=option.description + (f" Only {', '.join(families)}." if "model" in only else ""),
            only=only,
        )
        fields.append((name, option.type | None, declared))
    return dataclasses.make_dataclass(
        "ModelOptions",
        fields,
        bases=(ModelOptions,),
        frozen=True,
        namespace={"__doc__": ModelOptions.__doc__},
    )


def network_options(chosen: ModelOptions) -> dict[str, Any]:
    """The options of the network that are given: those of `model_group`, by name."""
    shared = {field.name for field in dataclasses.fields(ModelOptions)}
    return {
        field.name: value
        for field in dataclasses.fields(chosen)
        if field.name not in shared and (value := getattr(chosen, field.name)) is not None
    }


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Length of the training, optimizer and learning rate."""

    steps: int | None = flag(
        None,
        minimum=1,
        maximum=LARGEST_INT,
        lengthens=True,
        instead_of=("epochs",),
        aliases="max-steps max-iter iterations num-steps train-steps",
    )
    """Length of the run in steps. Default: 30 epochs."""
    epochs: float | None = flag(
        None,
        above=0,
        maximum=1e6,
        lengthens=True,
        instead_of=("steps",),
        aliases="num-epochs max-epochs",
    )
    """Length of the run in passes over the data."""
    lengthened_at: tuple[int, ...] = flag((), minimum=0, maximum=LARGEST_INT, hidden=True)
    """Steps at which the length of the run was changed, rising."""
    lengths_before: tuple[int, ...] = flag((), minimum=1, maximum=LARGEST_INT, hidden=True)
    """The length in steps that the run had until each of them."""
    optimizer: str = flag("sgd", aliases="opt optim", metavar="NAME")
    """Any optimizer of optax by its name there. `muon` takes kernels as matrices, and has Adam for
    the rest."""
    learning_rate: float = flag(0.1, minimum=0, maximum=1e6, aliases="lr lr0 base-lr")
    """Highest learning rate, which the warm-up reaches."""
    momentum: float | None = flag(
        0.9, minimum=0, maximum=1, only={"optimizer": optimizers.names("momentum")}
    )
    """Momentum of the gradient."""
    nesterov: bool = flag(False, only={"optimizer": optimizers.names("nesterov")})
    """Use Nesterov's form of momentum."""
    optimizer_options: tuple[str, ...] = flag((), aliases="opt-args", metavar="NAME=VALUE")
    """Further arguments of the optimizer: `b2=0.99 eps=1e-6`."""
    schedule: Literal["constant", "step", "cosine", "polynomial"] = flag(
        "cosine", aliases="sched lr-scheduler scheduler"
    )
    """How the learning rate falls."""
    milestones: tuple[float, ...] = flag(
        (0.5, 0.75), minimum=0, maximum=1, only={"schedule": ("step",)}
    )
    """When the learning rate drops, as shares of the run."""
    decay_factor: float = flag(
        0.1,
        minimum=0,
        maximum=1000,
        only={"schedule": ("step",)},
        aliases="gamma lr-gamma decay-rate",
    )
    """Factor of the learning rate at each drop."""
    final: float = flag(
        0.0, minimum=0, maximum=1000, only={"schedule": ("cosine", "polynomial")}, aliases="lrf"
    )
    """Last learning rate, as a share of the highest."""
    power: float = flag(
        0.9, minimum=0, maximum=100, only={"schedule": ("polynomial",)}, aliases="poly-power"
    )
    """Exponent of the schedule."""
    warmup: int = flag(
        0,
        minimum=0,
        maximum=LARGEST_INT,
        instead_of=("warmup_epochs",),
        aliases="warmup-steps warmup-iters",
    )
    """Steps of linear increase at the start."""
    warmup_epochs: float | None = flag(
        None, minimum=0, maximum=1e6, instead_of=("warmup",), aliases="lr-warmup-epochs"
    )
    """The same in passes over the data."""
    warmup_start: float = flag(
        0.0,
        minimum=0,
        maximum=1000,
        only={"warmup|warmup_epochs": GIVEN},
        aliases="lr-warmup-decay",
    )
    """Learning rate at the start of the warm-up, as a share of the highest."""
    weight_decay: float = flag(1e-4, minimum=0, maximum=1000, aliases="wd")
    """L2 regularisation; decoupled for optimizers that have it so, such as adamw."""
    decay_on: Literal["all", "kernels"] = flag("all", only={"weight_decay": GIVEN})
    """Which parameters decay; `kernels` leaves out biases and the scales of normalisation."""
    decoupled: bool = flag(
        False,
        only={"optimizer": optimizers.names("weight_decay", having=False), "weight_decay": GIVEN},
    )
    """The decay is the share of every parameter that a step at the highest learning rate takes,
    whatever that rate and the one of biases are."""
    bias_rate: float = flag(1.0, minimum=0, maximum=1000)
    """Factor of the learning rate of biases; 2 in many recipes of Caffe's time."""
    bias_rate_on: Literal["all", "norms"] = flag("all", only={"bias_rate": GIVEN})
    """Biases that have that factor: all, or those of normalisation."""
    backbone_rate: float = flag(1.0, minimum=0, maximum=1000, aliases="backbone-lr-mult")
    """Factor of the learning rate of the layers that pretrained weights hold: all but the last of
    a classifier, the backbone of other networks."""
    layer_decay: float = flag(1.0, above=0, maximum=1, aliases="layerwise-decay layer-wise-decay")
    """Factor of their learning rate from one layer, or block, to the one before it: the last has it
    once, the one next to the image most often."""
    frozen_stages: int = flag(0, minimum=0, maximum=64, aliases="freeze-stages")
    """Stages that are not trained, counted from the image, with all layers before them. Their batch
    statistics still follow the data."""
    frozen: tuple[str, ...] = flag((), aliases="freeze", metavar="PATH")
    """Parameters that are not trained, by the beginnings of their paths: backbone/conv1."""
    frozen_after: tuple[str, ...] = flag((), aliases="freeze-after", metavar="PATH=EPOCHS")
    """Parameters that are trained for some passes over the data only: backbone/conv1=3."""
    clip_norm: float | None = flag(
        None, above=0, maximum=1e9, aliases="clip-grad clip-grad-norm max-grad-norm grad-clip"
    )
    """Bound on the global norm of the gradient."""
    accumulate: int = flag(
        1,
        minimum=1,
        maximum=LARGEST_BATCH,
        aliases="grad-accum-steps gradient-accumulation-steps accum-steps",
    )
    """Number of parts that each batch is computed in, to save memory."""
    ema: float | None = flag(
        None,
        minimum=0,
        below=1,
        instead_of=("lookahead",),
        aliases="model-ema-decay ema-decay",
    )
    """Decay in a step of a moving average of the parameters, which evaluation then uses."""
    lookahead: int = flag(0, minimum=0, maximum=LARGEST_INT, instead_of=("ema",))
    """Steps between look-aheads, at which training goes on from an average of the parameters;
    evaluation uses the average. 0 for none."""
    lookahead_decay: float = flag(0.95**5, minimum=0, maximum=1, only={"lookahead": GIVEN})
    """Weight of the old average in the last look-ahead."""
    lookahead_power: float = flag(3.0, minimum=0, maximum=100, only={"lookahead": GIVEN})
    """Exponent by which that weight grows from 0 over the run."""

    def __post_init__(self) -> None:
        at = self.lengthened_at
        fits = len(at) == len(self.lengths_before) and list(at) == sorted(set(at))
        check(fits, "lengthened_at", at, "rising, with one of lengths_before for each")


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predict for your own images or sentences with a trained run."""

    verb: ClassVar[str] = "predict"

    run: str = flag("", positional=True, metavar="RUN")
    """Folder of the run."""
    images: tuple[str, ...] = flag((), positional=True, metavar="IMAGE")
    """Images: files, folders, patterns such as `**/*.jpg`, and `@FILE` with one in each line. With
    `--count` also videos, and cameras by their numbers. Or sentences."""
    list: str | None = flag(None, metavar="FILE")
    """A file with an image, or a sentence, in each line."""
    json: bool = False
    """Print JSON instead of lines."""
    csv: bool = flag(False, unless={"json": GIVEN})
    """Print a CSV table instead of lines."""
    predictions: str | None = flag(None, metavar="FILE", unless={"json|csv": GIVEN})
    """Write the predictions to this file instead, .csv, .json or .jsonl."""
    batch_size: int = flag(32, minimum=1, maximum=LARGEST_BATCH, aliases="bs")
    """Images in a step."""
    state: Literal["best", "last"] | None = None
    """State of the run that predicts: the one with the best evaluation, or the last one. Default:
    the best, where the run keeps it."""
    top: int = flag(
        3, minimum=1, maximum=65_536, only={"verb": ("classify",)}, aliases="topk top-k"
    )
    """Number of classes that are named for each image."""
    tta: tuple[str, ...] = flag(
        (), only={"verb": ("classify", "segment", "detect")}, metavar="VIEW"
    )
    """Average over views of each image at test time: `flip` its mirror image, and sizes as shares
    of its own, such as 0.75 1.25. Detections of all views are joined."""
    directory: str | None = flag(
        None, only={"verb": ("segment", "detect")}, aliases="output-dir out", metavar="DIR"
    )
    """Folder for pictures and arrays. Default: RUN/predictions."""
    probabilities: bool = flag(False, only={"verb": ("segment",)})
    """Write the probabilities of every pixel too."""
    score_threshold: float | None = flag(
        None,
        minimum=0,
        maximum=1,
        only={"verb": ("detect",)},
        aliases="conf conf-thres confidence-threshold",
    )
    """Lowest score of a detection that is named, drawn, counted or cut out. Default: the run's
    own, which was chosen on its evaluation data."""
    count: bool = flag(False, only={"verb": ("detect",)})
    """Print the number of objects of each class in each image; of a folder of frames, a video or a
    camera also its peak, total, and an estimate of distinct objects, and draw them over time."""
    every: int = flag(
        1, minimum=1, maximum=LARGEST_INT, only={"count": GIVEN}, aliases="vid-stride", metavar="N"
    )
    """Count every N-th frame."""
    frames: int | None = flag(
        None, minimum=1, maximum=LARGEST_INT, only={"count": GIVEN}, metavar="N"
    )
    """End after this number of counted frames. Default: the video's end; a camera's is Ctrl-C."""
    line: tuple[float, float, float, float] | None = flag(
        None,
        minimum=-LARGEST_INT,
        maximum=LARGEST_INT,
        only={"count": GIVEN},
        metavar="X1 Y1 X2 Y2",
    )
    """Count the objects whose centre crosses this line from frame to frame, in pixels, to the left
    and to the right of who walks along it."""
    region: tuple[float, ...] | None = flag(
        None, minimum=-LARGEST_INT, maximum=LARGEST_INT, only={"count": GIVEN}, metavar="X Y"
    )
    """Count only objects whose centre is inside this polygon, by its corners in pixels."""
    crops: str | None = flag(None, only={"verb": ("detect",)}, aliases="save-crop", metavar="DIR")
    """Folder for the detections cut out of the images, with a folder below it for each class."""

    def __post_init__(self) -> None:
        points = None if self.region is None else len(self.region) / 2
        expected = "three points or more, X1 Y1 X2 Y2 X3 Y3 ..."
        check(points is None or points in range(3, 10_000), "region", self.region, expected)
        ends = self.line
        check(ends is None or ends[:2] != ends[2:], "line", ends, "between two different points")
