"""Deep linear networks in the proportional limit: every order parameter row by row, without iteration."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._causal_sweep import causal_sweep
from ._linear_data import FreshData, Now, ReusedData, product
from ._past import before


class DeepLinearInputs(NamedTuple):
    r"""Everything continuous that the sweep depends on; time is 0..steps.

    `richness_squared` is $\tilde\gamma^2$ and `output_power` is $\rho = 1/(\nu\tilde\gamma^2)$, so that every width
    ratio $\nu$ up to infinity is an ordinary point in either parameterisation. `optimiser` and `decay` are what
    `linear_optimiser` gives, and `inverse_ratio` is $1/\alpha$ at every time.
    """

    eigenvalues: Float[Array, " modes"]
    teacher_power: Float[Array, " modes"]
    noise_power: Float[Array, ""]
    richness_squared: Float[Array, ""]
    output_power: Float[Array, ""]
    init_power: Float[Array, ""]
    readout_power: Float[Array, ""]
    optimiser: Float[Array, "time time"]
    decay: Float[Array, " time"]
    inverse_ratio: Float[Array, " time"]


class Site(NamedTuple):
    r"""The neurons of one layer: both fields as linear maps of their sources $\zeta$ and $\psi$, and their covariances.

    $$k = K_\zeta\,\zeta + \tilde\gamma K_\psi\,\psi, \qquad g = \tilde\gamma G_\zeta\,\zeta + G_\psi\,\psi$$

    so that the responses are $R_k = \tilde\gamma K_\psi$ and $R_g = \tilde\gamma G_\zeta$. Of the covariances the
    lower triangle is stored, with half of the diagonal, so that they are the sum of it and its transpose.
    """

    K_zeta: Any
    K_psi: Any
    G_zeta: Any
    G_psi: Any
    C_k: Any
    C_g: Any


class DeepLinearHistory(NamedTuple):
    """All order parameters: the input side (`FreshData` or `ReusedData`), and a `Site` for every hidden layer."""

    data: Any
    sites: tuple[Site, ...]

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.sites)

    def layer(self, l: int):
        """`C_k`, `C_g`, `K_psi`, `G_zeta` of a hidden layer, 0..depth-1."""
        site = self.sites[l]
        return site.C_k, site.C_g, site.K_psi, site.G_zeta


def deep_linear_row(data, inputs: DeepLinearInputs, history: DeepLinearHistory, time, x) -> DeepLinearHistory:
    """The row of one time: backward through the layers, through the data, and forward again."""
    now, optimiser = Now.at(time, inputs.decay, x), x[0]
    q, s = inputs.init_power, inputs.richness_squared
    powers = [q] * (len(history.sites) - 1) + [inputs.readout_power]

    sites: list[Any] = list(history.sites)
    # The readout stands above the last layer: a Gaussian that does not change in time, without response.
    response, covariance = jnp.zeros_like(now.unit), now.until
    above = lambda y: now.until * jnp.sum(y)  # noqa: E731
    sources: list[Any] = [None] * len(sites)
    for l in reversed(range(len(sites))):
        known = history.sites[l]
        B = powers[l] * now.decay * response + optimiser * covariance
        G_zeta, G_psi = before(B, known.K_zeta), now.unit + s * before(B, known.K_psi)
        below = history.data.C_u if l == 0 else history.sites[l - 1].C_k
        psi = sources[l] = lambda y, power=powers[l], above=above: power * now.decayed(above, y)
        zeta = lambda y, below=below: q * now.decayed(lambda y: product(below, y), y)  # noqa: E731
        covariance = now.row((known.G_zeta, known.G_psi), (G_zeta, G_psi), (s * zeta(G_zeta), psi(G_psi)))
        above = lambda y, old=known.C_g, new=covariance: product(old, y, (new, now.unit))  # noqa: E731
        response, sites[l] = G_zeta, (G_zeta, G_psi, covariance)

    B = q * now.decay * response + optimiser * covariance
    psi = lambda y: inputs.output_power * q * now.decayed(above, y)  # noqa: E731
    row, response, covariance, below = data.row(inputs, history.data, now, B, psi, x)
    response = inputs.output_power * response

    for l, (G_zeta, G_psi, C_g) in enumerate(sites):
        known = history.sites[l]
        A = q * now.decay * response + optimiser * covariance
        K_zeta = now.unit + s * now.with_row(A, known.G_zeta, G_zeta)
        K_psi = now.with_row(A, known.G_psi, G_psi)
        zeta = q * now.decayed(below, K_zeta)
        covariance = now.row((known.K_zeta, known.K_psi), (K_zeta, K_psi), (zeta, s * sources[l](K_psi)))
        below = lambda y, old=known.C_k, new=covariance: product(old, y, (new, now.unit))  # noqa: E731
        response, sites[l] = K_psi, Site(K_zeta, K_psi, G_zeta, G_psi, now.halved(covariance), now.halved(C_g))
    return DeepLinearHistory(row, tuple(sites))


def deep_linear(inputs: DeepLinearInputs, *, depth: int, fresh: bool, adjoint: str = "tape") -> DeepLinearHistory:
    r"""Solves the theory of a deep linear network whose width, input dimension and sample are of the same large size.

    At a hidden layer, with sources $\zeta \sim N(0, qC_k^{l-1})$ and $\psi \sim N(0, q_lC_g^{l+1})$,

    $$k = \zeta + \tilde\gamma A g, \quad A = q R_k^{l-1} + c \circ C_k^{l-1}, \qquad
      g = \psi + \tilde\gamma B k, \quad B = q_l R_g^{l+1} + c \circ C_g^{l+1}$$

    (responses in units of $\tilde\gamma$; $c$ is the optimiser), and on the input side, for every mode,

    $$v = w_\star - \psi^0 - B u, \quad u = \sqrt\lambda\, n + \lambda R_\Delta v, \quad
      \Delta = R_\Delta (a + \sigma\epsilon), \quad R_\Delta = (1 - R_v)^{-1}.$$

    All matrices are causal, so that each row needs earlier rows only. Time is
    O((depth + modes) · steps³), memory O((depth + modes) · steps²).

    **Arguments:**

    - `depth`: number of hidden layers.
    - `fresh`: whether every step sees fresh samples, else the same ones.
    - `adjoint`: see `causal_scan`.

    ??? cite "Source"
        *Deep Linear Network Training Dynamics from Random Initialization: Data, Width, Depth, and Hyperparameter
        Transfer*, arXiv 2502.02531.
    """
    time, dtype = len(inputs.decay), inputs.decay.dtype
    data = FreshData if fresh else ReusedData
    vector = jax.ShapeDtypeStruct((time,), dtype)
    like = DeepLinearHistory(data.like(len(inputs.eigenvalues), time, dtype), (Site(*[vector] * 6),) * depth)
    xs = (inputs.optimiser, inputs.decay, inputs.inverse_ratio)
    params = inputs._replace(optimiser=None, inverse_ratio=None)
    return causal_sweep(partial(deep_linear_row, data), like, params, xs, adjoint=adjoint)


def symmetric(rows: Float[Array, "time time"]) -> Float[Array, "time time"]:
    """The whole of a covariance of which the lower triangle is stored, with half of the diagonal."""
    return rows + rows.T
