"""The exact descents over schedules of one-pass SGD: which of them applies, and from where."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..solvers import Drive, Freedom, as_float, block_sweeps, coordinate_sweeps, double, to_host
from ._feature_curves import drive_of, mode_bins

_ROUNDS = ((60, 4), (120, 1))  # cycles from every start that is left, and how many of them go on
_SCALES = (1.0, 0.3, 3.0)  # of the rates that the protocol has
_MOMENTA = (0.5, 0.9)
_DELAYS = (1.0, 5.0)  # steps over which the momentum grows
_FIELDS = {"learning_rate": "e2", "extra_gradient": "e1", "momentum": "beta"}


class Swept(NamedTuple):
    """New values `[steps]` of what was free, in its order; the loss before the first and after each cycle (`nan` after
    the last), how many cycles were run, and where each start ended."""

    values: tuple
    value: np.ndarray
    history: np.ndarray
    cycles: Any
    starts: np.ndarray


def sweep_rates(task, protocol, upper, max_cycles: int, tolerance) -> Swept:
    """Plain SGD: one convex problem after the other, from the schedule that the protocol has."""
    with double():
        found = _sweep(task, protocol, as_float(upper[0]), max_cycles, as_float(tolerance))
    found = to_host(found)
    return Swept((found.learning_rate,), found.value, found.history, found.cycles, np.atleast_1d(found.value))


def sweep_momentum(task, protocol, over: tuple[str, ...], upper, max_cycles: int, tolerance) -> Swept:
    r"""With momentum, where the landscape is not convex: from the protocol's own schedules, from constant $\beta$ and
    from $1 - \beta_t = c/(t + c)$, each at three scales of the effective rate $\eta/(1 - \beta)$, and from the optimum
    without momentum. All are run for a few cycles side by side, the lowest for some more, and one to the end."""
    left, histories, start_values = max_cycles, [], np.empty(0)
    with double():
        free = Freedom(**{_FIELDS[name]: as_float(bound) for name, bound in zip(over, upper, strict=True)})
        drives = _starts(task, protocol, free, as_float(tolerance))
        for cycles, kept in (*_ROUNDS, (max_cycles, 1)):
            found = _descend(task, drives, free, min(cycles, left), as_float(tolerance))
            values, history, left = np.asarray(found.value), np.asarray(found.history), max(left - cycles, 0)
            lowest = np.argsort(np.where(np.isfinite(values), values, np.inf))[:kept]
            # a round begins where the one before it ended
            histories = [known[lowest] for known in (*histories, history[:, 1:] if histories else history)]
            start_values = start_values if start_values.size else values
            drives, value = jax.tree.map(lambda x, lowest=lowest: x[lowest], found.drive), values[lowest[0]]
            if not left:
                break
    drive = to_host(jax.tree.map(lambda x: x[0], drives))
    history = np.concatenate([known[0] for known in histories])
    history = history[~np.isnan(history)]
    return Swept(tuple(getattr(drive, _FIELDS[name]) for name in over), value, history, len(history) - 1, start_values)


@eqx.filter_jit
def _sweep(task, protocol, upper, max_cycles: int, tolerance):
    drive, noise_power = drive_of(protocol), as_float(task.noise) ** 2
    options = {"max_cycles": max_cycles, "tolerance": tolerance}
    return coordinate_sweeps(mode_bins(task), noise_power, drive.inverse_batch, drive.e2, upper, **options)


@eqx.filter_jit
def _starts(task, protocol, free: Freedom, tolerance) -> Drive:
    drive, noise_power = drive_of(protocol), as_float(task.noise) ** 2
    highest = 1.0 if free.beta is None else free.beta

    def with_momentum(beta, scale) -> Drive:
        rate = scale * drive.e2 * (1 - beta) / (1 - drive.beta)
        return drive._replace(e2=jnp.minimum(rate, free.e2), beta=jnp.minimum(beta, highest))

    time, ones = jnp.arange(drive.e2.size, dtype=drive.e2.dtype), jnp.ones_like(drive.e2)
    growing = [1 - delay / (time + delay) for delay in _DELAYS]
    momenta = [drive.beta, *(beta * ones for beta in _MOMENTA), *growing]
    starts = [with_momentum(beta, scale) for beta in momenta for scale in _SCALES]
    options = {"max_cycles": _ROUNDS[0][0], "tolerance": tolerance}
    plain = coordinate_sweeps(mode_bins(task), noise_power, drive.inverse_batch, drive.e2, free.e2, **options)
    starts.append(drive._replace(e2=plain.learning_rate, beta=0 * ones))
    return jax.tree.map(lambda *x: jnp.stack(x), *starts)


@eqx.filter_jit
def _descend(task, drives: Drive, free: Freedom, max_cycles: int, tolerance):
    bins, noise_power = mode_bins(task), as_float(task.noise) ** 2

    def run(start):
        return block_sweeps(bins, noise_power, start, free, max_cycles=max_cycles, tolerance=tolerance)

    return jax.vmap(run)(drives)
