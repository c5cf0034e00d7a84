"""Schedules: arrays with one value a step, and their way to and from optax and files.

With $T$ = `steps` and $t = 0, \\dots, T-1$. Values may be traced, so that peaks and exponents can be optimised.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._protocols import AbstractSteps, NormalisedSGD
from ._schedule_file import load as load
from ._schedule_file import save as save


def constant(value, steps: int):
    """The same `value` at every step; shape `[steps]`."""
    steps = checks.integer("steps", steps)
    value = checks.number("value", value)
    xp = jnp if isinstance(value, jax.Array) else np
    return value * xp.ones(steps)


def power(peak, steps: int, exponent):
    r"""Decay from the start, $\mathtt{peak}\,(t+1)^{-\mathtt{exponent}}$; shape `[steps]`."""
    time, peak, xp_exponent, xp = _start(peak, steps, exponent)
    return peak * (xp.asarray(time) + 1.0) ** (-xp_exponent)


def annealing(peak, steps: int, exponent):
    r"""Decay towards the end, $\mathtt{peak}\,(1 - t/T)^{\mathtt{exponent}}$; shape `[steps]`."""
    time, peak, xp_exponent, xp = _start(peak, steps, exponent)
    return peak * (1.0 - xp.asarray(time) / steps) ** xp_exponent


def linear(peak, steps: int, final=0.0):
    r"""A straight line from `peak` at $t = 0$ towards `final` at $t = T$; shape `[steps]`."""
    time, peak, final, xp = _start(peak, steps, final, "final")
    return peak + (final - peak) * xp.asarray(time) / steps


def cosine(peak, steps: int, final=0.0):
    r"""Half a cosine from `peak` at $t = 0$ towards `final` at $t = T$; shape `[steps]`."""
    time, peak, final, xp = _start(peak, steps, final, "final")
    return final + (peak - final) * (1.0 + xp.cos(np.pi * xp.asarray(time) / steps)) / 2


def warmup_stable_decay(peak, steps: int, warmup: float = 0.1, decay: float = 0.2, final=0.0):
    """A straight rise over the first `warmup` of the steps, a plateau, a straight fall over the last `decay` of them.

    The first rate is above 0; the fall would reach `final` at `steps`. Shape `[steps]`.
    """
    time, peak, final, xp = _start(peak, steps, final, "final")
    fractions = {"warmup": warmup, "decay": decay}
    for name, value in fractions.items():
        fractions[name] = float(checks.number(name, value, low=0.0, high=1.0))
    if sum(fractions.values()) > 1:
        raise ValueError(f"warmup and decay must add up to at most 1; they are {warmup:g} and {decay:g}.")
    rise, fall = fractions["warmup"] * steps, fractions["decay"] * steps
    up = np.minimum(1.0, (time + 1.0) / max(rise, 1.0))
    down = np.minimum(1.0, (steps - time) / max(fall, 1.0))
    return final + (peak - final) * xp.asarray(np.minimum(up, down))


def knots(values, steps: int, *, log: bool = False):
    r"""Piecewise linear between `values` `[knots]`, evenly placed in logit-time $\log\frac{t+1}{T-t}$; shape `[steps]`.

    Logit-time resolves both ends of training. With `log=True` the logarithm of the values is interpolated.
    """
    steps = checks.integer("steps", steps)
    values = checks.array("values", values, ndim=1, above=0.0 if log else None)
    xp = jnp if isinstance(values, jax.Array) else np
    flat = xp.log(values) if log else values
    time, places = knot_times(steps, values.shape[0])
    curve = xp.interp(time, places, flat) if values.shape[0] > 1 else xp.broadcast_to(flat[0], (steps,))
    return xp.exp(curve) if log else curve


def knot_times(steps: int, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Logit-time of every step, and that of `knots` even places between its ends."""
    time = _logit_time(steps)
    return time, np.linspace(time[0], time[-1], knots)


def resample(schedule, steps: int):
    """A schedule for another number of steps with the same shape in logit-time; shape `[steps]`."""
    schedule = checks.array("schedule", schedule, ndim=1)
    steps = checks.integer("steps", steps)
    old, new = _logit_time(schedule.shape[0]), _logit_time(steps)
    # The ends of logit-time grow with the number of steps: they are matched to each other, the middle to the middle.
    scale = old[-1] / new[-1] if new[-1] > 0 else 0.0
    xp = jnp if isinstance(schedule, jax.Array) else np
    return xp.interp(new * scale, old, schedule)


def step_decay(peak, steps: int, cuts: int, factor=2.0):
    """Equal phases of constant rate, `cuts` of which begin by dividing the rate by `factor`; shape `[steps]`."""
    time, peak, factor, xp = _start(peak, steps, factor, "factor")
    cuts = checks.integer("cuts", cuts, low=0, high=steps - 1)
    return peak * xp.asarray(factor) ** -xp.asarray(np.floor(time * (cuts + 1) / steps))


class Ramp(NamedTuple):
    """A learning rate and a batch size for every step, both `[steps]`."""

    learning_rate: Any
    batch_size: Any


def ramp(reference, batch_size: float = 1, *, growth: float = 1.0, normalised: bool = False, rate=None) -> Ramp:
    r"""Grows the batch instead of cutting the rate: the same samples in fewer steps, with about the same loss.

    A `reference` schedule $\eta_t$ at a constant batch $B_0$ becomes

    $$B = B_0\, (\eta_0/\eta_t)^y, \qquad \eta = \eta_0\, (\eta_t/\eta_0)^{1-y} \ \text{for SGD}, \qquad
      \eta = \eta_0\, (\eta_t/\eta_0)^{1-y/2} \ \text{for normalised SGD},$$

    at the same number of samples seen. SGD keeps $\eta/B$, its noise; a normalised step is longer by $\sqrt B$ where
    noise dominates the gradient, so that there it is $\eta/\sqrt B$.

    **Arguments:**

    - `reference`: rates above 0, `[steps]`, concrete.
    - `batch_size`: $B_0$, a whole number.
    - `growth`: $y \ge 0$; at $y = 1$ the rate of SGD is constant, and normalised SGD halves where the reference
      quarters. Normalised SGD needs $y \le 2$, where its rate is constant.
    - `normalised`: which of the two rules.
    - `rate`: the $\eta_0$ of these formulas, by default the largest of the reference; a larger one begins with a
      larger batch.

    **Returns:** whole batches that add up to all samples of the reference, and the rates that go with them.

    ??? cite "Source"
        Seesaw, arXiv 2510.14717.
    """
    reference = checks.array("reference", reference, ndim=1, above=0.0)
    if checks.is_traced(reference):
        raise TypeError("reference must be concrete: it fixes the number of steps.")
    start = checks.integer("batch_size", batch_size)
    growth = float(checks.number("growth", growth, low=0.0))
    if checks.flag("normalised", normalised) and growth > 2:
        raise ValueError(f"growth must be at most 2 for normalised SGD, whose rate would grow; it is {growth:g}.")
    top = float(np.max(reference))
    rate = top if rate is None else float(checks.number("rate", rate, above=0.0))
    if rate < top:
        raise ValueError(f"rate must be at least the largest of the reference, {top:g}; it is {rate:g}.")
    # every sample is worth a part of a step; a step is what adds up to one
    worth = np.repeat((np.asarray(reference) / rate) ** growth / start, start)
    step = np.floor((np.cumsum(worth) - worth) * (1 + 1e-9) + 1e-9).astype(int)
    batches = np.bincount(step).astype(float)
    rates = np.bincount(step, np.repeat(reference, start)) / batches
    return Ramp(rates * (batches / start) ** (0.5 if normalised else 1.0), batches)


def from_optax(schedule, steps: int):
    """The values of an optax schedule (any function of the step count) at `steps` steps; shape `[steps]`."""
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the step; {checks.shown(schedule)} was given.")
    steps = checks.integer("steps", steps)
    with jax.enable_x64(True):
        values = jax.vmap(schedule)(jnp.arange(steps))
        values = jnp.broadcast_to(jnp.asarray(values, float), (steps,))
    return values if checks.is_traced(values) else np.asarray(values)


class OptaxState(NamedTuple):
    """State of the transformation made by `to_optax`: the step and the velocity."""

    count: Any
    velocity: Any


def to_optax(protocol: AbstractSteps, net=None):
    r"""The protocol as a full optax transformation: rates, momentum, extra gradient and weight decay.

    For a network the raw step is `learning_rate * net.learning_rate_scale` and weight decay is divided by that scale
    inside the gradient; layers with rates of their own have their updates scaled by these. So training through this
    transformation is what `nets.train` does. With `net=None` the bare rates are applied. After the last step of the
    schedule the rates are zero.

    **Arguments:**

    - `protocol`: `GradientDescent`, `OnlineSGD` or `MinibatchSGD`.
    - `net`: the network to train, or `None`.

    **Returns:** an `optax.GradientTransformation` whose updates are added by `optax.apply_updates`.
    """
    known = "GradientDescent, OnlineSGD or MinibatchSGD"
    checks.instance("protocol", protocol, AbstractSteps, known)
    if isinstance(protocol, NormalisedSGD):
        raise TypeError(f"protocol must be {known}: NormalisedSGD divides by a mean over runs, which optax cannot see.")
    if net is not None and not hasattr(net, "learning_rate_scale"):
        raise TypeError(f"net must be a network of limitax.nets or None; {checks.shown(net)} was given.")
    optimiser = transformation(protocol, 1.0 if net is None else net.learning_rate_scale)
    scaled = getattr(net, "scale_updates", None)
    if scaled is None:
        return optimiser

    def update(updates, state, params=None):
        updates, state = optimiser.update(updates, state, params)
        return scaled(updates), state

    return type(optimiser)(optimiser.init, update)


def transformation(protocol: AbstractSteps, scale):
    """The optax transformation of a protocol whose raw step is `scale` times its learning rate; see `to_optax`."""
    import optax

    steps = protocol.steps

    def at(name, count):
        values = getattr(protocol, name, None)
        if values is None:
            return 0.0
        value = jnp.asarray(values, float)[jnp.minimum(count, steps - 1)]
        return jnp.where(count < steps, value, 0.0)

    def init(params):
        return OptaxState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        rate, momentum = at("learning_rate", state.count), at("momentum", state.count)
        extra, decay = at("extra_gradient", state.count), at("weight_decay", state.count)
        if hasattr(protocol, "weight_decay"):
            if params is None:
                raise ValueError("params is needed for weight decay: call update(gradient, state, params).")
            updates = jax.tree.map(lambda g, p: (g + (decay / scale) * p).astype(g.dtype), updates, params)
        # schedules may be wider than the weights, which keep their own float type
        velocity = jax.tree.map(lambda v, g: (momentum * v + g).astype(v.dtype), state.velocity, updates)
        steps_taken = jax.tree.map(lambda v, g: (-scale * (rate * v + extra * g)).astype(g.dtype), velocity, updates)
        return steps_taken, OptaxState(state.count + 1, velocity)

    return optax.GradientTransformation(init, update)


def _start(peak, steps, other, name="exponent"):
    """Checked arguments, the step axis, and the array module that keeps tracers traced and numbers on the host."""
    steps = checks.integer("steps", steps)
    peak = checks.number("peak", peak)
    other = checks.number(name, other)
    xp = jnp if isinstance(peak, jax.Array) or isinstance(other, jax.Array) else np
    return np.arange(steps, dtype=np.float64), peak, other, xp


def _logit_time(steps: int) -> np.ndarray:
    time = np.arange(steps, dtype=np.float64)
    return np.log((time + 1.0) / (steps - time))
