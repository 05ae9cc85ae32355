"""Optimizers and learning-rate schedules by name."""

import difflib
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey, keystr

from cnn_jax.errors import UserError, check
from cnn_jax.ranges import Range

SCHEDULES = ("constant", "step", "cosine", "polynomial")

_SHARES = ("b1", "b2", "b3", "adam_b1", "adam_b2", "decay", "rho", "momentum", "decay_rate")
_AMOUNTS = (
    *("eps", "eps_root", "adam_eps_root", "initial_accumulator_value", "initial_scale"),
    *("weight_decay", "adam_weight_decay", "l2_norm_clip", "noise_multiplier"),
)
OPTION_RANGES = {
    **dict.fromkeys(_SHARES, Range(0, 1)),
    **dict.fromkeys(_AMOUNTS, Range(0, 1e6)),
}
"""The legal values of the options that many optimizers share; others are any number of sense."""

BiasKind = Literal["all", "norms"]
"""Biases that `bias_rate` is about: all, or those of normalisation layers."""

_ANY = Range(-1e9, 1e9)
_OPTIONS = "optimizer_options"

# Arguments that are no numbers, and are given here where they are needed.
_DIMENSIONS = "muon_weight_dimension_numbers"
_NO_OPTIONS = {"learning_rate", "mask", "weight_decay_mask", "key", _DIMENSIONS}

# Their updates need the loss's value or another function besides the gradient.
_MORE_THAN_GRADIENTS = {"lbfgs", "momo", "momo_adam", "sophia", "schedule_free"}


def schedule(
    name: str,
    learning_rate: float,
    total_steps: int,
    *,
    warmup: int = 0,
    warmup_start: float = 0.0,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
    power: float = 0.9,
    final: float = 0.0,
) -> optax.Schedule:
    """Build the schedule of the learning rate by step.

    Args:
        name: `constant`; `step` (times `factor` at each milestone); `cosine` (Loshchilov & Hutter
            2017, one half period down to `final`); `polynomial` (to `final`, by `power`).
        learning_rate: the highest value, reached after the warm-up.
        total_steps: the length of the run.
        warmup: the steps of linear increase at the start, included in the total.
        warmup_start: the first value of the warm-up, as a fraction of `learning_rate`.
        milestones: the times of the drops, as fractions of the run (0.5 is half-way).
        factor: the factor of a drop.
        power: the exponent of the polynomial.
        final: the last value, as a fraction of `learning_rate`.

    Raises:
        UserError: the name is unknown, or the warm-up is not shorter than the run.
    """
    if name not in SCHEDULES:
        raise UserError(f"--schedule {name}: unknown; one of {', '.join(SCHEDULES)}")
    if not 0 <= warmup < max(total_steps, 1):
        raise UserError(
            f"--warmup {warmup}: must be at least 0 and less than the {total_steps} steps"
        )
    after = total_steps - warmup
    if name == "constant":
        main = optax.constant_schedule(learning_rate)
    elif name == "step":
        # Milestones count from the start of the run, the joined schedule from the warm-up's end.
        drops = {round(m * total_steps) - warmup: factor for m in milestones}
        main = optax.piecewise_constant_schedule(learning_rate, drops)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, after, alpha=final)
    else:
        main = optax.polynomial_schedule(learning_rate, final * learning_rate, power, after)
    if not warmup:
        return main
    ramp = optax.linear_schedule(warmup_start * learning_rate, learning_rate, warmup)
    return optax.join_schedules([ramp, main], [warmup])


def in_turn(schedules: Sequence[optax.Schedule], until: Sequence[int]) -> optax.Schedule:
    """Join schedules of a whole run: each holds until its step, the last one to the end.

    Unlike those of `optax.join_schedules` they all count from the run's first step.

    Args:
        schedules: one or more.
        until: for each but the last, the first step at which it no longer holds; rising.
    """
    *earlier, last = schedules

    def learning_rate(step: Any) -> Any:
        value = last(step)
        for schedule, end in reversed(list(zip(earlier, until, strict=True))):
            value = jnp.where(step < end, schedule(step), value)
        return value

    return learning_rate if earlier else last


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    options: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
    decay_mask: Callable[[Any], Any] | None = None,
    clip_norm: float | None = None,
    bias_rate: float = 1.0,
    bias_rate_on: BiasKind = "all",
    decoupled: bool = False,
    highest_rate: float = 1.0,
    rates: Mapping[str, float] | None = None,
    frozen: Sequence[str] = (),
    frozen_after: Mapping[str, int] | None = None,
) -> optax.GradientTransformation:
    """Build an optimizer of optax by its name, with weight decay, clipping and frozen parameters.

    Args:
        name: the name of a function of `optax` or `optax.contrib` that takes a learning rate.
        learning_rate: a number or a schedule.
        options: its other arguments (`momentum`, `nesterov`, `b1`, `eps`, ...). Muon's
            `adam_learning_rate` is that at `highest_rate`, and follows the same schedule.
        weight_decay: passed to an optimizer that has its own (AdamW's is decoupled); otherwise
            added to the gradient as L2 regularisation.
        decay_mask: a function from params to a tree of booleans that selects the decayed
            parameters; None selects all.
        clip_norm: the bound on the global norm of the gradient.
        bias_rate: the factor on the learning rate of biases.
        bias_rate_on: the biases that it is about.
        decoupled: whether a gradient of zero and no momentum leave `1 - weight_decay` of a
            parameter after a step at the highest rate, of biases too: the L2 coefficient is the
            decay divided by that rate and, of biases, by their factor (Jordan 2024, section 3.4).
        highest_rate: the highest value of the learning rate.
        rates: factors on the learning rate of modules, by their paths (`backbone/stage1_block0`).
        frozen: prefixes of the paths of parameters that are not trained, such as
            `backbone/conv1`.
        frozen_after: such prefixes, and the number of steps that these parameters are trained for.

    Raises:
        UserError: the name or an option is unknown; the message gives the nearest or the legal
            ones. An option is missing or of no use, or the optimizer needs more than a gradient,
            or has a weight decay of its own beside `decoupled`. The returned `init` raises it if no
            parameter has a prefix of `frozen` or `frozen_after`.
    """
    build, legal = _named(name), legal_options(name)
    options = _checked(name, options or {})
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    biases = functools.partial(_biases, kind=bias_rate_on)
    if decoupled:
        check("weight_decay" not in legal, "optimizer", name, "one without a decay of its own")
        parts += _decoupled_decay(_share(weight_decay, highest_rate), decay_mask, biases, bias_rate)
    elif "weight_decay" in legal:
        options.setdefault("weight_decay", weight_decay)
        parameters = inspect.signature(build).parameters
        mask_name = "mask" if "mask" in parameters else "weight_decay_mask"
        if decay_mask is not None and mask_name in parameters:
            options[mask_name] = decay_mask
    elif weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, decay_mask))
    if _DIMENSIONS in inspect.signature(build).parameters:
        options[_DIMENSIONS] = _matrices
        if "adam_learning_rate" in options:
            share = _share(options["adam_learning_rate"], highest_rate)
            options["adam_learning_rate"] = _times(share, learning_rate)
    parts.append(_tried(name, lambda: build(learning_rate, **options)))
    if bias_rate != 1:
        parts.append(optax.masked(optax.scale(bias_rate), biases))
    for path, steps in (frozen_after or {}).items():
        ends = optax.piecewise_constant_schedule(1.0, {steps: 0.0})
        chosen = functools.partial(_below, flag="frozen_after", start=path)
        parts.append(optax.masked(optax.scale_by_schedule(ends), chosen))
    if rates:
        parts.append(optax.stateless(functools.partial(_scaled, rates=rates)))
    trained = optax.chain(*parts)
    if not frozen:
        return trained
    # Frozen parameters have no optimizer state and do not count in the gradient's norm.
    return optax.partition(
        {"trained": trained, "frozen": optax.set_to_zero()},
        functools.partial(_parts, frozen=frozen),
    )


def legal_options(name: str) -> set[str]:
    """Return the arguments that an optimizer takes besides its learning rate, masks and key.

    Raises:
        UserError: the name is unknown; the message gives the nearest.
    """
    return set(inspect.signature(_named(name)).parameters) - _NO_OPTIONS


def _checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an optimizer, whole numbers where it wants them.

    Raises:
        UserError: one is unknown, missing, or out of its range.
    """
    legal, parameters = legal_options(name), inspect.signature(_named(name)).parameters
    if unknown := sorted(set(options) - legal):
        raise UserError(
            f"has no option {unknown[0]!r}; it has {', '.join(sorted(legal))}", "optimizer", name
        )
    needed = [n for n in sorted(legal) if parameters[n].default is inspect.Parameter.empty]
    if missing := [n for n in needed if n not in options]:
        raise UserError(
            f"needs a value of {', '.join(missing)}; optimizer_options gives it", "optimizer", name
        )
    values: dict[str, Any] = {}
    for option, value in options.items():
        kind, shown = parameters[option].annotation, f"{option}={value}"
        whole = type(parameters[option].default) is int
        whole |= re.search(r"\bint\b", str(kind)) is not None and "float" not in str(kind)
        if kind is bool:
            check(isinstance(value, bool), _OPTIONS, shown, "true or false")
        else:
            limits = OPTION_RANGES.get(option, _ANY)
            legal = not isinstance(value, bool) and value in limits
            legal = legal and (not whole or value == int(value))
            check(legal, _OPTIONS, shown, f"a {'whole ' if whole else ''}number {limits}")
        values[option] = int(value) if whole else value
    return values


def _tried(
    name: str, build: Callable[[], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """Build an optimizer, and see that it makes updates of gradients and of nothing else.

    Raises:
        UserError: it does not, for whatever reason.
    """
    shapes = {"kernel": (8, 4), "bias": (4,)}
    params = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    try:
        # As in a step, optax mixes its counts of steps with floats.
        with warnings.catch_warnings(action="ignore"), jax.numpy_dtype_promotion("standard"):
            built = build()
            state = jax.eval_shape(built.init, params)
            updates, _ = jax.eval_shape(built.update, params, state, params)
    except Exception as error:
        # What optax's functions refuse, and how, differs from one to the next.
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot be used so ({reason})", "optimizer", name) from None
    if {key: update.shape for key, update in updates.items()} != shapes:
        raise UserError("needs more than the gradient of a batch", "optimizer", name)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)):
        raise UserError("its state holds a random key, which no checkpoint does", "optimizer", name)
    return built


def kernels_only(params: Any) -> Any:
    """Select kernels for weight decay, but not biases or normalisation's scales."""
    return _named_by(params, lambda name: name == "kernel")


def _share(value: float, highest_rate: float) -> float:
    """Divide by the highest learning rate; a rate of 0 moves nothing whatever the share is."""
    return value / highest_rate if highest_rate else 0.0


def _decoupled_decay(
    decay: float,
    mask: Callable[[Any], Any] | None,
    biases: Callable[[Any], Any],
    bias_rate: float,
) -> list[optax.GradientTransformation]:
    """Decay that is the same share of every parameter, though biases have a rate of their own."""

    def selected(params: Any, of_biases: bool) -> Any:
        decayed = jax.tree.map(lambda _: True, params) if mask is None else mask(params)
        return jax.tree.map(lambda d, b: d and b == of_biases, decayed, biases(params))

    parts = [optax.add_decayed_weights(decay, functools.partial(selected, of_biases=False))]
    if bias_rate:
        own = functools.partial(selected, of_biases=True)
        parts.append(optax.add_decayed_weights(decay / bias_rate, own))
    return parts


def _matrices(params: Any) -> Any:
    """Say how Muon makes matrices of kernels, by parameter; None where its Adam has a parameter.

    A convolution's kernel [height, width, in, out] is a matrix of `out` columns.
    """

    def numbers(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2 or not (isinstance(path[-1], DictKey) and path[-1].key == "kernel"):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree.map_with_path(numbers, params)


def _times(factor: float, learning_rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    if callable(learning_rate):
        return lambda count: factor * learning_rate(count)
    return factor * learning_rate


def _biases(params: Any, kind: BiasKind) -> Any:
    """Select biases; those of normalisation are beside no kernel."""
    # `bias`, and a decoder's `output_bias`.
    chosen = _named_by(params, lambda name: name.endswith("bias"))
    if kind == "all":
        return chosen
    linear = {
        path[:-1]
        for path, _ in jax.tree.leaves_with_path(params)
        if isinstance(path[-1], DictKey) and path[-1].key.endswith("kernel")
    }
    return jax.tree.map_with_path(lambda path, is_bias: is_bias and path[:-1] not in linear, chosen)


def _scaled(updates: Any, params: Any, rates: Mapping[str, float]) -> Any:
    """The updates times the factors of their modules."""

    def scaled(path: Any, update: Any) -> Any:
        keys = [keystr((key,), simple=True) for key in path]
        above = ("/".join(keys[:length]) for length in range(1, len(keys) + 1))
        factor = next((rates[module] for module in above if module in rates), 1.0)
        return update if factor == 1 else update * factor

    return jax.tree.map_with_path(scaled, updates)


def _named_by(params: Any, rule: Callable[[str], bool]) -> Any:
    """Select the parameters whose own names follow a rule."""
    return jax.tree.map_with_path(
        lambda path, _: isinstance(path[-1], DictKey) and rule(path[-1].key), params
    )


def _parts(params: Any, frozen: Sequence[str]) -> Any:
    """Label each parameter `frozen` or `trained`."""
    chosen = [_below(params, "frozen", start) for start in frozen]
    return jax.tree.map(lambda *below: "frozen" if any(below) else "trained", *chosen)


def _below(params: Any, flag: str, start: str) -> Any:
    """Select the parameters whose paths begin with `start`.

    Raises:
        UserError: there is none; the message names the flag and the nearest paths.
    """
    paths = jax.tree.map_with_path(lambda path, _: keystr(path, simple=True, separator="/"), params)
    names = jax.tree.leaves(paths)
    if not any(name.startswith(start) for name in names):
        known = dict.fromkeys(name.rsplit("/", 1)[0] for name in names)
        near = difflib.get_close_matches(start, known, n=3, cutoff=0.0)
        raise UserError(f"no parameter has this prefix; nearest: {', '.join(near)}", flag, start)
    return jax.tree.map(lambda path: path.startswith(start), paths)


def names(option: str, having: bool = True) -> tuple[str, ...]:
    """The optimizers that take an option, or those that do not."""
    return tuple(name for name in sorted(_known()) if (option in legal_options(name)) == having)


def _named(name: str) -> Callable[..., optax.GradientTransformation]:
    known = _known()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["sgd", "adamw"]
        raise UserError(
            f"--optimizer {name}: optax has no such optimizer; nearest: {', '.join(near)}"
        )
    return known[name]


@functools.cache
def _known() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The optimizers of optax by name."""
    return {
        n: f
        for module in (optax.contrib, optax)
        for n, f in vars(module).items()
        if inspect.isfunction(f)
        and "learning_rate" in inspect.signature(f).parameters
        and not n.startswith(("_", "scale_by_"))
        and n not in _MORE_THAN_GRADIENTS
    }
