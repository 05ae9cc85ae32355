"""The optimizer of a run, its schedule, the rates of its layers, and the average over its steps."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import optax

from cnn_jax.errors import UserError
from cnn_jax.models import depth
from cnn_jax.ranges import LARGEST_INT
from cnn_jax.training import optimizers
from cnn_jax.training.averaging import Average, Lookahead, MovingAverage, growing

from .options import OptimizerOptions


def build_optimizer(
    options: OptimizerOptions,
    total: int,
    steps_per_epoch: float,
    model: nn.Module,
    images: jax.ShapeDtypeStruct,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning rate by step."""
    warmup = options.warmup
    if options.warmup_epochs is not None:
        warmup = round(options.warmup_epochs * steps_per_epoch)
    schedules = [
        optimizers.schedule(
            options.schedule,
            options.learning_rate,
            steps,
            warmup=warmup,
            warmup_start=options.warmup_start,
            milestones=options.milestones,
            factor=options.decay_factor,
            power=options.power,
            final=options.final,
        )
        for steps in (*options.lengths_before, total)
    ]
    learning_rate = optimizers.in_turn(schedules, options.lengthened_at)
    optimizer = optimizers.optimizer(
        options.optimizer,
        learning_rate,
        options=optimizer_options(options),
        weight_decay=options.weight_decay,
        decay_mask=optimizers.kernels_only if options.decay_on == "kernels" else None,
        clip_norm=options.clip_norm,
        bias_rate=options.bias_rate,
        bias_rate_on=options.bias_rate_on,
        # A preset's does nothing for optimizers that have their own decay.
        decoupled=options.decoupled
        and "weight_decay" not in optimizers.legal_options(options.optimizer),
        highest_rate=options.learning_rate,
        rates=layer_rates(options, model, images),
        frozen=frozen_parameters(options, model, images),
        frozen_after=_steps_by_path(options.frozen_after, steps_per_epoch),
    )
    return optimizer, learning_rate


def average(options: OptimizerOptions, total: int) -> Average | None:
    """The average over the steps of a run that the options ask for."""
    if not options.lookahead:
        return None if options.ema is None else MovingAverage(options.ema)
    decay, power = options.lookahead_decay, options.lookahead_power
    weights = [growing(steps, decay, power) for steps in (*options.lengths_before, total)]
    return Lookahead(options.lookahead, optimizers.in_turn(weights, options.lengthened_at))


def layer_rates(
    options: OptimizerOptions, model: nn.Module, images: jax.ShapeDtypeStruct
) -> dict[str, float]:
    """Factors of the learning rate by module: `--backbone-rate` and `--layer-decay`."""
    if options.backbone_rate == options.layer_decay == 1:
        return {}
    layers = depth.layers(model, images)
    return {
        module: options.backbone_rate * options.layer_decay ** (len(layers) + 1 - layer.depth)
        for layer in layers
        for module in layer.modules
    }


def frozen_parameters(
    options: OptimizerOptions, model: nn.Module, images: jax.ShapeDtypeStruct
) -> tuple[str, ...]:
    """The beginnings of the paths that are not trained: `--frozen` and `--frozen-stages`."""
    if not options.frozen_stages:
        return options.frozen
    return *options.frozen, *depth.first_stages(model, images, options.frozen_stages)


def _steps_by_path(items: Sequence[str], steps_per_epoch: float) -> dict[str, int]:
    """The steps that parameters are trained for, from `PATH=EPOCHS`."""
    steps = {}
    for item in items:
        path, _, epochs = item.partition("=")
        try:
            steps[path] = round(float(epochs) * steps_per_epoch)
        except (ValueError, OverflowError):
            steps[path] = -1
        if not path or not 0 <= steps[path] <= LARGEST_INT:
            raise UserError(f"--frozen-after {item}: must be PATH=EPOCHS, such as conv1/bias=3")
    return steps


def optimizer_options(options: OptimizerOptions) -> dict[str, Any]:
    """`--momentum` and a given `--nesterov` where the optimizer has them, and
    `--optimizer-options`."""
    own = optimizers.legal_options(options.optimizer)
    named = {"momentum": options.momentum}
    if options.nesterov is not None:
        named["nesterov"] = options.nesterov
    values: dict[str, Any] = {k: v for k, v in named.items() if k in own}
    for item in options.optimizer_options:
        name, _, text = item.partition("=")
        try:
            switch = {"true": True, "false": False}.get(text.lower())
            values[name] = float(text) if switch is None else switch
        except ValueError:
            raise UserError(
                f"--optimizer-options {item}: must be NAME=NUMBER or NAME=true|false"
            ) from None
    return values
