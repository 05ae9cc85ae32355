"""The options of the optimizer: length, learning rate, decay, averages."""

import dataclasses
from typing import Literal

from cnn_jax.errors import check
from cnn_jax.ranges import LARGEST_INT
from cnn_jax.training import optimizers

from .data import LARGEST_BATCH
from .declare import GIVEN, flag


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
    nesterov: bool | None = flag(None, only={"optimizer": optimizers.names("nesterov")})
    """Use Nesterov's form of momentum. Default: what the optimizer has, on for muon and optimistic
    adam, off for the others."""
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
    """L2 regularisation; with optimizers such as adamw, decoupled weight decay."""
    decay_on: Literal["all", "kernels"] = flag("all", only={"weight_decay": GIVEN})
    """Which parameters decay; `kernels` leaves out biases and the scales of normalisation."""
    decoupled: bool = flag(
        False,
        only={"optimizer": optimizers.names("weight_decay", having=False), "weight_decay": GIVEN},
    )
    """Let --weight-decay be the share of every parameter that a step at the highest learning rate
    takes away, whatever this rate and --bias-rate are."""
    bias_rate: float = flag(1.0, minimum=0, maximum=1000)
    """Factor of the learning rate of biases; 2 in many recipes of Caffe's time."""
    bias_rate_on: Literal["all", "norms"] = flag("all", only={"bias_rate": GIVEN})
    """Biases that have that factor: all, or those of normalisation."""
    backbone_rate: float = flag(1.0, minimum=0, maximum=1000, aliases="backbone-lr-mult")
    """Factor of the learning rate of the layers that pretrained weights hold: all but the last of
    a classifier, the backbone of other networks."""
    layer_decay: float = flag(1.0, above=0, maximum=1, aliases="layerwise-decay layer-wise-decay")
    """Factor of the learning rate from each of these layers, or blocks, to the one before it: the
    last has it once, the one next to the image most often."""
    frozen_stages: int = flag(0, minimum=0, maximum=64, aliases="freeze-stages")
    """Stages that are not trained, counted from the image, with all layers before them. Their batch
    statistics still follow the data."""
    frozen: tuple[str, ...] = flag((), aliases="freeze", metavar="PATH")
    """Parameters that are not trained, by the beginnings of their paths: backbone/conv1."""
    frozen_after: tuple[str, ...] = flag((), aliases="freeze-after", metavar="PATH=EPOCHS")
    """Parameters that are trained only for some passes over the data: backbone/conv1=3."""
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
    """Decay, at each step, of a moving average of the parameters, which evaluation then uses."""
    lookahead: int = flag(0, minimum=0, maximum=LARGEST_INT, instead_of=("ema",))
    """Steps between look-aheads. At a look-ahead, training continues from an average of the
    parameters; evaluation uses the average. 0 for none."""
    lookahead_decay: float = flag(0.95**5, minimum=0, maximum=1, only={"lookahead": GIVEN})
    """Weight of the old average in the last look-ahead."""
    lookahead_power: float = flag(3.0, minimum=0, maximum=100, only={"lookahead": GIVEN})
    """Exponent by which that weight grows from 0 over the run."""

    def __post_init__(self) -> None:
        at = self.lengthened_at
        fits = len(at) == len(self.lengths_before) and list(at) == sorted(set(at))
        check(fits, "lengthened_at", at, "rising, with one of lengths_before for each")
