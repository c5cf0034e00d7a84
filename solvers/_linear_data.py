"""The input side of deep linear theories: linear regression's errors, gradients and residuals, one row at a time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._past import before, onto
from ._precision import HIGHEST


def dot(a, b):
    """Contraction of the last axis of `a` with the first of `b`."""
    return jnp.tensordot(a, b, axes=1, precision=HIGHEST)


def product(rows, y, pending=None):
    """`C y` for a symmetric C of which the lower triangle `rows` is stored, with half of the diagonal; `pending` is a
    whole row to come, and its time as a unit vector."""
    result = onto(rows, y) + before(y.T, rows).T
    if pending is not None:
        new, unit = pending
        result = result + _outer(new * (1 - unit), dot(unit, y)) + _outer(unit, dot(new, y))
    return result


def _outer(a, b):
    return jnp.tensordot(a, b, axes=0)


class Now(NamedTuple):
    """The present time, as vectors over time."""

    unit: Float[Array, " time"]
    until: Float[Array, " time"]  # 1 up to now
    decays: Float[Array, " time"]  # d(s)
    decay: Float[Array, " time"]  # d(t) d(s), up to now

    @classmethod
    def at(cls, time, decays, x):
        index = jnp.arange(len(decays))
        unit, until = (index == time).astype(decays.dtype), (index <= time).astype(decays.dtype)
        return cls(unit, until, decays, x[1] * decays * until)

    def decayed(self, covariance, y):
        """The covariance of fields whose random weights have decayed, times `y`."""
        return (self.decays * covariance((self.decays * y.T).T).T).T

    def with_row(self, a, rows, new):
        """`a` times `rows`, to which the `new` row of the present belongs."""
        return before(a, rows) + dot(self.unit, a) * new

    def halved(self, row):
        """A row of a covariance as it is stored."""
        return row * (1 - self.unit / 2)

    def row(self, old, new, images):
        """The covariance of a field now with itself at all times: its maps then and now, and C times its maps now."""
        past = sum(onto(then, image) for then, image in zip(old, images, strict=True))
        here = sum(dot(m.ravel(), image.ravel()) for m, image in zip(new, images, strict=True))
        return past + self.unit * here


class FreshData(NamedTuple):
    r"""Input side when every step sees fresh samples (or the population, $1/\alpha = 0$).

    $u = \lambda v + \sqrt\lambda\, n$ is the gradient of a mode as a map of the teacher, of $\psi^0$ and of the
    noise $n \sim N(0, C_\Delta / \alpha)$ of the sample, whose variance is `noise`; `loss` is
    $\langle\lambda v^2\rangle$.
    """

    U_teacher: Any
    U_psi: Any
    U_noise: Any
    C_u: Any
    loss: Any
    noise: Any

    @classmethod
    def like(cls, modes: int, time: int, dtype):
        """One row, as shapes."""
        shape = lambda *dims: jax.ShapeDtypeStruct(dims, dtype)  # noqa: E731
        return cls(shape(modes), shape(modes, time), shape(modes, time), shape(time), shape(), shape())

    @classmethod
    def row(cls, inputs, known, now: Now, B, psi, x):
        """The row of the present; the mean response of u to $\\psi^0$; and the covariance of u, its row and as an
        operator."""
        lam, power = inputs.eigenvalues, inputs.teacher_power
        mean = 1 / len(lam)
        V_teacher = 1 - before(B, known.U_teacher)
        V_psi, V_noise = -now.unit - before(B, known.U_psi), -before(B, known.U_noise)
        noise_then = known.noise.rows
        # the samples of different steps are independent: the covariance of n is diagonal
        loss = mean * sum(
            jnp.sum(lam * each)
            for each in (
                power * V_teacher**2,
                jnp.sum(V_psi * psi(V_psi.T).T, axis=1),
                jnp.sum(V_noise**2 * noise_then, axis=1),
            )
        )
        noise = x[2] * (loss + inputs.noise_power)
        U_teacher, U_psi = lam * V_teacher, lam[:, None] * V_psi
        U_noise = lam[:, None] * V_noise + jnp.sqrt(lam)[:, None] * now.unit
        images = mean * power * U_teacher, mean * psi(U_psi.T).T, mean * U_noise * (noise_then + noise * now.unit)
        maps = U_teacher, U_psi, U_noise
        C_u = now.row(known[:3], maps, images)
        below = lambda y: product(known.C_u, y, (C_u, now.unit))  # noqa: E731
        return cls(*maps, now.halved(C_u), loss, noise), mean * jnp.sum(U_psi, axis=0), C_u, below


class ReusedData(NamedTuple):
    r"""Input side when every step sees the same sample.

    Errors $v$ and gradients $u$ of a mode as maps of the teacher, of $\psi^0$ and of the noise $n \sim N(0, C_\Delta
    / \alpha)$ of the sample; $R_\Delta$ and $C_\Delta$ of the residuals; covariances of $\sqrt\lambda v$ and $u$.
    """

    V_teacher: Any
    V_psi: Any
    V_noise: Any
    U_teacher: Any
    U_psi: Any
    U_noise: Any
    R_residual: Any
    C_residual: Any
    C_v: Any
    C_u: Any

    @classmethod
    def like(cls, modes: int, time: int, dtype):
        """One row, as shapes."""
        shape = lambda *dims: jax.ShapeDtypeStruct(dims, dtype)  # noqa: E731
        maps = shape(modes), shape(modes, time), shape(modes, time)
        return cls(*maps, *maps, *[shape(time)] * 4)

    @classmethod
    def row(cls, inputs, known, now: Now, B, psi, x):
        """See `FreshData.row`."""
        lam, power, inverse_ratio = inputs.eigenvalues, inputs.teacher_power, x[2]
        mean = 1 / len(lam)
        V = (1 - before(B, known.U_teacher), -now.unit - before(B, known.U_psi), -before(B, known.U_noise))
        noise = lambda y: inverse_ratio * product(known.C_residual, y)  # noqa: E731
        weight = mean * lam[:, None]
        images = mean * lam * power * V[0], weight * psi(V[1].T).T, weight * noise(V[2].T).T
        C_v = now.row(known[:3], V, images)

        R_v = inverse_ratio * mean * dot(jnp.sqrt(lam), V[2])
        R_residual = now.unit + before(R_v, known.R_residual)
        both = lambda y: product(known.C_v, y, (C_v, now.unit)) + inputs.noise_power * now.until * jnp.sum(y)  # noqa: E731
        C_residual = now.row((known.R_residual,), (R_residual,), (both(R_residual),))

        U_teacher, U_psi, U_noise = (
            _scaled(lam, now.with_row(R_residual, old, new)) for old, new in zip(known[:3], V, strict=True)
        )
        U = U_teacher, U_psi, U_noise + jnp.sqrt(lam)[:, None] * now.unit
        noise = lambda y: inverse_ratio * product(known.C_residual, y, (C_residual, now.unit))  # noqa: E731
        images = mean * power * U[0], mean * psi(U[1].T).T, mean * noise(U[2].T).T
        C_u = now.row(known[3:6], U, images)
        below = lambda y: product(known.C_u, y, (C_u, now.unit))  # noqa: E731
        stored = (now.halved(C) for C in (C_residual, C_v, C_u))
        return cls(*V, *U, R_residual, *stored), mean * jnp.sum(U[1], axis=0), C_u, below


def _scaled(lam, maps):
    return (lam * maps.T).T
