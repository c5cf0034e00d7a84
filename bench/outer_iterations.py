"""The causal march against the usual way to solve the same equations: `python -m limitax.bench.outer_iterations`.

The usual way iterates on all order parameters at once: kernels and responses are guessed, Gaussian fields with these
kernels are drawn through an eigendecomposition, the single-site equations are swept over all times until they settle,
responses are means of Jacobians of every sample, and all of it is damped into the next guess. It is written here with
care (jitted, batched, samples in antithetic pairs, the exact output in place of the tangent kernel's first-order rule).
Both are compared at the error that it reaches; the reference is a march of many particles. Where the usual way would
take long, three of its iterations on a tenth of the samples are timed, and its error is taken to be that of a march of
as many particles: such rows say so, and one problem is measured both ways. `--quick` takes a tiny problem.
"""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import limits
from ..problems import GradientDescent, tasks
from ..solvers import HIGHEST
from ._clock import best_seconds, print_rows

OUTER, SWEEPS, SAMPLES, BATCH = 15, 30, 1000, 50
KEPT = 0.2  # the share of the old guess in the next one
RICHNESS, RATE = 1.0, 0.3
dot = partial(jnp.matmul, precision=HIGHEST)


def _gaussian(key, kernel, samples: int):
    values, vectors = jnp.linalg.eigh(kernel)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
    return dot(jax.random.normal(key, (samples, len(kernel))), root.T)


def _settle(u, r, forward, backward):
    """One sample's fields at all times: h = u + forward g, z = r + backward phi."""

    def sweep(_, fields):
        h, z = fields
        phi, slope = jnp.tanh(h), 1 - jnp.tanh(h) ** 2
        return u + dot(forward, slope * z), r + dot(backward, phi)

    h, z = jax.lax.fori_loop(0, SWEEPS, sweep, (u, r))
    return jnp.tanh(h), (1 - jnp.tanh(h) ** 2) * z, z


@partial(jax.jit, static_argnames=("steps", "outer_iterations", "samples"))
def usual_way(x, y, key, steps: int, outer_iterations: int = OUTER, samples: int = SAMPLES):
    """Predictions `[steps + 1, samples]` of two hidden layers of tanh units."""
    (count, dim), times = x.shape, steps + 1
    n = times * count
    causal = jnp.kron(jnp.tril(jnp.ones((times, times)), -1), jnp.ones((count, count)))
    inputs = jnp.kron(jnp.ones((times, times)), dot(x, x.T) / dim)
    ones = jnp.ones((n, n))

    def layer(key, below, above, A, B, error):
        """Kernels, responses and outputs of one layer between the kernels below and above."""
        drift = causal * (RICHNESS * RATE / count) * error
        forward, backward = A + drift * below, B + drift * above
        key_u, key_r = jax.random.split(key)
        half, mirrored = _gaussian(key_u, below, samples // 2), _gaussian(key_r, above, samples // 2)
        u, r = jnp.concatenate([half, half]), jnp.concatenate([mirrored, -mirrored])
        phi, g, z = jax.vmap(lambda u, r: _settle(u, r, forward, backward))(u, r)
        responses = jax.lax.map(
            lambda pair: (
                jax.jacfwd(lambda r: _settle(pair[0], r, forward, backward)[0])(pair[1]),
                jax.jacfwd(lambda u: _settle(u, pair[1], forward, backward)[1])(pair[0]),
            ),
            (u, r),
            batch_size=BATCH,
        )
        response_phi, response_g = jax.tree.map(lambda J: jnp.mean(J, axis=0), responses)
        averages = dot(phi.T, phi) / samples, dot(g.T, g) / samples
        return *averages, response_phi, response_g, jnp.mean(z * phi, axis=0) / RICHNESS

    def outer(i, guess):
        Phi, G, A, B, f = guess
        error = jnp.tile(y, times) - f
        keys = jax.random.split(jax.random.fold_in(key, i))
        zero = jnp.zeros((n, n))
        Phi_1, _, A_new, _, _ = layer(keys[0], inputs, G, zero, B, error)
        _, G_2, _, B_new, f_new = layer(keys[1], Phi, ones, A, zero, error)
        new = Phi_1, G_2, A_new, B_new, f_new
        return jax.tree.map(lambda old, new: KEPT * old + (1 - KEPT) * new, guess, new)

    zero = jnp.zeros((n, n))
    start = inputs, ones, zero, zero, jnp.zeros(n)
    return jax.lax.fori_loop(0, outer_iterations, outer, start)[4].reshape(times, count)


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    if quick:
        return [_row(2, 5, particles=4_000)]
    return [_row(2, 10), _row(2, 20), _row(2, 20, extrapolated=True), _row(4, 25, extrapolated=True)]


def _row(count: int, steps: int, particles: int = 50_000, extrapolated: bool = False) -> dict[str, Any]:
    task = tasks.sphere(jax.random.key(0), samples=count, dim=5)
    limit, protocol = limits.MLP(2, "tanh", RICHNESS), GradientDescent(RATE, steps=steps)
    x, y = jnp.asarray(task.x, float), jnp.asarray(task.y, float)

    def march(key, particles):
        options = {"samples": particles, "replicas": 1, "keep": None}
        return limit.solve(task, protocol, key=jax.random.key(key), **options).predictions

    reference = np.mean([march(100 + k, particles) for k in range(4)], axis=0)

    def error(runs):
        distances = [np.linalg.norm(f - reference) / np.linalg.norm(reference) for f in runs]
        return float(np.sqrt(np.mean(np.square(distances))))

    # Of a single iteration the responses would go unused, and uncomputed.
    part = {"outer_iterations": 3, "samples": SAMPLES // 10} if extrapolated else {}
    run = usual_way.lower(x, y, jax.random.key(0), steps, **part).compile()
    start = time.perf_counter()
    predictions = jax.block_until_ready(run(x, y, jax.random.key(0)))
    usual_seconds = (time.perf_counter() - start) * (10 * OUTER / 3 if extrapolated else 1)
    needed = SAMPLES if extrapolated else 100
    usual_error = error([march(k, needed) for k in range(4)] if extrapolated else [predictions])
    while (march_error := error([march(k, needed) for k in range(4)])) > usual_error:
        needed *= 2
    march_seconds = best_seconds(march, 0, needed)
    return {
        "what": "usual way over march at equal error" + (", extrapolated" if extrapolated else ""),
        "samples": count,
        "steps": steps,
        "ratio": usual_seconds / march_seconds,
        "usual_error": usual_error,
        "march_error": march_error,
        "particles": needed,
        "usual_seconds": usual_seconds,
        "march_seconds": march_seconds,
    }


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "The causal march of wide MLPs against damped outer iterations.")


if __name__ == "__main__":
    main()
