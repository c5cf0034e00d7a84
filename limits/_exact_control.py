"""The exact descents over schedules of one-pass SGD: which of them applies, and from where."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..solvers import Drive, Freedom, as_float, block_sweeps, coordinate_sweeps, double, to_host
from ._feature_curves import drive_of, mode_bins

_SCOUTING = 60  # cycles from every start, before the best is followed
_SCALES = (1.0, 0.3, 3.0)  # of the rates that the protocol has
_FIELDS = {"learning_rate": "e2", "extra_gradient": "e1", "momentum": "beta"}


class Swept(NamedTuple):
    """New values `[steps]` of what was free, in its order; the loss before the first and after each cycle (`nan` after
    the last), how many cycles were run, and where each start ended."""

    values: tuple
    value: np.ndarray
    history: np.ndarray
    cycles: np.ndarray
    starts: np.ndarray


def sweep_rates(task, protocol, upper, max_cycles: int, tolerance) -> Swept:
    """Plain SGD: one convex problem after the other, from the schedule that the protocol has."""
    with double():
        found = _sweep(task, protocol, as_float(upper[0]), max_cycles, as_float(tolerance))
    found = to_host(found)
    return Swept((found.learning_rate,), found.value, found.history, found.cycles, np.atleast_1d(found.value))


def sweep_momentum(task, protocol, over: tuple[str, ...], upper, max_cycles: int, tolerance) -> Swept:
    r"""With momentum, where the landscape is not convex: from the protocol's own schedules, from $\beta = \tfrac12$ and
    from $1 - \beta_t = 1/(t + 1)$, each at three scales of the effective rate $\eta/(1 - \beta)$, and from the optimum
    without momentum. All are run for a few cycles side by side, and the lowest is followed to the end."""
    scouting = min(_SCOUTING, max_cycles)
    with double():
        free = Freedom(**{_FIELDS[name]: as_float(bound) for name, bound in zip(over, upper, strict=True)})
        scouts = _scout(task, protocol, free, scouting, as_float(tolerance))
        value = np.asarray(to_host(scouts.value))
        best = int(np.argmin(np.where(np.isfinite(value), value, np.inf)))
        first = jax.tree.map(lambda x: x[best], scouts)
        found = _follow(task, first.drive, free, max_cycles - scouting, as_float(tolerance))
    drive, last, scouted, followed, starts = to_host((found.drive, found, first.history, found.history, scouts.value))
    # where nothing was left to do the history of the scout has ended, and the other adds nothing
    history = np.concatenate([scouted[~np.isnan(scouted)], followed[1:]])
    values = tuple(getattr(drive, _FIELDS[name]) for name in over)
    return Swept(values, last.value, history, to_host(first.cycles) + last.cycles, starts)


@eqx.filter_jit
def _sweep(task, protocol, upper, max_cycles: int, tolerance):
    drive, noise_power = drive_of(protocol), as_float(task.noise) ** 2
    options = {"max_cycles": max_cycles, "tolerance": tolerance}
    return coordinate_sweeps(mode_bins(task), noise_power, drive.inverse_batch, drive.e2, upper, **options)


@eqx.filter_jit
def _scout(task, protocol, free: Freedom, max_cycles: int, tolerance):
    drive, bins, noise_power = drive_of(protocol), mode_bins(task), as_float(task.noise) ** 2

    highest = 1.0 if free.beta is None else free.beta

    def with_momentum(beta, scale) -> Drive:
        rate = scale * drive.e2 * (1 - beta) / (1 - drive.beta)
        return drive._replace(e2=jnp.minimum(rate, free.e2), beta=jnp.minimum(beta, highest))

    half, growing = jnp.full_like(drive.e2, 0.5), 1 - 1 / (1 + jnp.arange(drive.e2.size, dtype=drive.e2.dtype))
    starts = [with_momentum(beta, scale) for beta in (drive.beta, half, growing) for scale in _SCALES]
    options = {"max_cycles": max_cycles, "tolerance": tolerance}
    plain = coordinate_sweeps(bins, noise_power, drive.inverse_batch, drive.e2, free.e2, **options)
    starts.append(drive._replace(e2=plain.learning_rate, beta=jnp.zeros_like(half)))
    starts = jax.tree.map(lambda *x: jnp.stack(x), *starts)

    def run(start):
        return block_sweeps(bins, noise_power, start, free, max_cycles=max_cycles, tolerance=tolerance)

    return jax.vmap(run)(starts)


@eqx.filter_jit
def _follow(task, drive: Drive, free: Freedom, max_cycles: int, tolerance):
    noise_power = as_float(task.noise) ** 2
    return block_sweeps(mode_bins(task), noise_power, drive, free, max_cycles=max_cycles, tolerance=tolerance)
