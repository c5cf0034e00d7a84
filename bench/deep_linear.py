"""What the theory of deep linear networks and of their spectra costs: `python -m limitax.bench.deep_linear [--quick]`.

Every row is a ratio of two things timed in one process, a fitted slope, or a count; seconds are printed to be read, not
to be tested.
"""

import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import nets
from ..limits import DeepLinear, spectrum
from ..limits._deep_linear import sweep_inputs
from ..problems import GradientDescent, tasks
from ..solvers import CAUSAL_ADJOINTS, DeepLinearInputs, as_float, deep_linear, double
from ._clock import best_seconds, median_ratios, median_seconds, print_rows

LIMIT, TASK, RATE = DeepLinear(2, 1.0, 2.0, 0.7), tasks.isotropic(2.0, 0.3), 0.02


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    with double():
        found = [_slope((20, 40, 80) if quick else (50, 100, 200))]
        found += [_rows_in_numpy(steps, depth) for steps, depth in (((40, 2),) if quick else ((40, 1), (100, 2)))]
        found += _gradients(*((40, 1) if quick else (100, 2)))
        found += _many(8 if quick else 64, 20 if quick else 40)
    return [*found, *_spectra(10 if quick else 40), _finite(*((100, 4, 10) if quick else (400, 16, 30)))]


def _inputs(steps: int, limit: DeepLinear = LIMIT) -> DeepLinearInputs:
    return sweep_inputs(*as_float((limit, TASK, GradientDescent(RATE, steps=steps))))


def _log_loss(inputs: DeepLinearInputs, depth: int, adjoint: str = "tape"):
    return jnp.log(2 * deep_linear(inputs, depth=depth, fresh=False, adjoint=adjoint).data.C_v[-1, -1])


def _slope(lengths: tuple[int, ...]) -> dict[str, Any]:
    """Exponent of the time of a sweep in the number of steps, between the last two lengths and over all."""
    programs = {}
    for steps in lengths:
        inputs = _inputs(steps)
        programs[str(steps)] = partial(jax.jit(partial(_log_loss, depth=2)).lower(inputs).compile(), inputs)
    seconds = list(median_seconds(programs, repeats=5).values())
    slopes = np.diff(np.log(seconds)) / np.diff(np.log(lengths))
    overall = np.polyfit(np.log(lengths), np.log(seconds), 1)[0]
    return {"what": "exponent of time in steps", "steps": lengths, "slope": float(overall), "last": float(slopes[-1])}


def _rows_in_numpy(steps: int, depth: int) -> dict[str, Any]:
    """A sweep in units of the same sweep written plainly in NumPy."""
    inputs = _inputs(steps)
    plain = jax.tree.map(np.asarray, inputs)
    run = jax.jit(partial(_log_loss, depth=depth)).lower(inputs).compile()
    seconds = median_seconds({"ours": lambda: run(inputs), "numpy": lambda: numpy_rows(plain, depth)}, repeats=3)
    return {
        "what": "sweep over NumPy",
        "steps": steps,
        "depth": depth,
        "ratio": seconds["ours"] / seconds["numpy"],
        "seconds": seconds["ours"],
        "relative_difference": abs(float(run(inputs)) / np.log(numpy_rows(plain, depth)) - 1),
    }


def numpy_rows(inputs: DeepLinearInputs, depth: int) -> float:
    """The error's power at the end, for one mode, the same sample at every step and no weight decay."""
    c, s, rho, q = inputs.optimiser, inputs.richness_squared, inputs.output_power, inputs.init_power
    inverse_ratio, noise, T = inputs.inverse_ratio[0], inputs.noise_power, len(inputs.decay)
    powers = [q] * depth + [inputs.readout_power]
    maps = lambda: [np.zeros((T, T)) for _ in range(depth + 2)]  # noqa: E731
    Kz, Kp, Gz, Gp, C_k, C_g = maps(), maps(), maps(), maps(), maps(), maps()
    C_g[depth + 1][:] = 1.0
    V, U = ([np.zeros(T), np.zeros((T, T)), np.zeros((T, T))] for _ in range(2))
    C_v, C_r, R_r = np.zeros((T, T)), np.zeros((T, T)), np.zeros((T, T))

    def put(C, t, *terms):
        C[t, : t + 1] = C[: t + 1, t] = sum(then[: t + 1] @ (matrix @ row) for then, matrix, row in terms)

    for t in range(T):
        for l in range(depth, 0, -1):
            B = powers[l] * Gz[l + 1][t] + c[t] * C_g[l + 1][t]
            Gz[l][t], Gp[l][t] = B[:t] @ Kz[l][:t], s * (B[:t] @ Kp[l][:t])
            Gp[l][t, t] += 1
            put(C_g[l], t, (Gz[l], s * q * C_k[l - 1], Gz[l][t]), (Gp[l], powers[l] * C_g[l + 1], Gp[l][t]))
        B = q * Gz[1][t] + c[t] * C_g[1][t]
        V[0][t], V[1][t], V[2][t] = 1 - B @ U[0], -B @ U[1], -B @ U[2]
        V[1][t, t] -= 1
        psi, sample = rho * q * C_g[1], inverse_ratio * C_r
        C_v[t, : t + 1] = V[0][: t + 1] * V[0][t]
        for each, matrix in ((V[1], psi), (V[2], sample)):
            C_v[t, : t + 1] += each[: t + 1] @ (matrix @ each[t])
        C_v[: t + 1, t] = C_v[t, : t + 1]
        R_r[t] = inverse_ratio * V[2][t] @ R_r
        R_r[t, t] += 1
        put(C_r, t, (R_r, C_v + noise, R_r[t]))
        U[0][t], U[1][t], U[2][t] = R_r[t] @ V[0], R_r[t] @ V[1], R_r[t] @ V[2]
        U[2][t, t] += 1
        C_k[0][t, : t + 1] = U[0][: t + 1] * U[0][t]
        for each, matrix in ((U[1], psi), (U[2], inverse_ratio * C_r)):
            C_k[0][t, : t + 1] += each[: t + 1] @ (matrix @ each[t])
        C_k[0][: t + 1, t] = C_k[0][t, : t + 1]
        response = rho * U[1][t]
        for l in range(1, depth + 1):
            A = q * response + c[t] * C_k[l - 1][t]
            Kz[l][t], Kp[l][t] = s * (A @ Gz[l]), A @ Gp[l]
            Kz[l][t, t] += 1
            put(C_k[l], t, (Kz[l], q * C_k[l - 1], Kz[l][t]), (Kp[l], s * powers[l] * C_g[l + 1], Kp[l][t]))
            response = Kp[l][t]
    return float(C_v[-1, -1])


def _gradients(steps: int, depth: int) -> list[dict[str, Any]]:
    """A gradient with respect to everything, in units of the forward pass, and its temporary memory."""
    inputs = _inputs(steps)
    loss = partial(_log_loss, depth=depth)
    forward = jax.jit(loss).lower(inputs).compile()
    programs, compiling = {}, {}
    for adjoint in CAUSAL_ADJOINTS:
        start = time.perf_counter()
        gradient = jax.jit(jax.value_and_grad(partial(loss, adjoint=adjoint)))
        programs[adjoint] = gradient.lower(inputs).compile()
        compiling[adjoint] = time.perf_counter() - start
    ratios, seconds = median_ratios(programs, forward, inputs, repeats=5)
    return [
        {
            "what": "gradient over forward",
            "adjoint": adjoint,
            "steps": steps,
            "depth": depth,
            "ratio": ratios[adjoint],
            "forward_seconds": seconds,
            "temporary_MB": getattr(programs[adjoint].memory_analysis(), "temp_size_in_bytes", np.nan) / 2**20,
            "compile_seconds": compiling[adjoint],
        }
        for adjoint in CAUSAL_ADJOINTS
    ]


def _many(count: int, steps: int) -> list[dict[str, Any]]:
    """Many settings at once, in units of a loop over them."""
    one = _inputs(steps)
    scale = jnp.geomspace(0.3, 1.2, count)
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), one)
    many = many._replace(richness_squared=scale * one.richness_squared)
    loss = partial(_log_loss, depth=2)
    single = jax.jit(loss).lower(one).compile()
    apart = [jax.tree.map(lambda a, i=i: a[i], many) for i in range(count)]
    programs = {
        "loop": lambda: [single(inputs) for inputs in apart],
        "map": partial(jax.jit(partial(jax.lax.map, loss)).lower(many).compile(), many),
        "vmap": partial(jax.jit(jax.vmap(loss)).lower(many).compile(), many),
    }
    seconds = median_seconds(programs, repeats=5)
    return [
        {
            "what": "many settings over a loop",
            "by": name,
            "settings": count,
            "steps": steps,
            "ratio": seconds[name] / seconds["loop"],
            "loop_seconds": seconds["loop"],
        }
        for name in ("map", "vmap")
    ]


def _spectra(steps: int) -> list[dict[str, Any]]:
    """Outliers of all weight matrices at all times, in units of the sweep that they come from: layer by layer, which
    uses that their fields span few directions, and all in one compiled program."""
    protocol = GradientDescent(RATE, steps=steps)
    theory = LIMIT.solve(TASK, protocol)
    sweep = best_seconds(lambda: LIMIT.solve(TASK, protocol).test_loss)
    spectra = lambda theory: [spectrum(LIMIT, theory, layer=l).largest for l in range(LIMIT.depth)]  # noqa: E731
    found = []
    for name, program in (("layer by layer", spectra), ("one program", eqx.filter_jit(spectra))):
        start = time.perf_counter()
        jax.block_until_ready(program(theory))
        first = time.perf_counter() - start
        seconds = best_seconds(program, theory)
        found.append(
            {
                "what": "spectra over sweep",
                "by": name,
                "steps": steps,
                "layers": LIMIT.depth,
                "ratio": seconds / sweep,
                "sweep_seconds": sweep,
                "spectra_seconds": seconds,
                "first_call_seconds": first,
            }
        )
    return found


def _finite(size: int, seeds: int, steps: int) -> dict[str, Any]:
    """Finite networks in units of the theory, and the error that this many of them still have."""
    protocol = GradientDescent(RATE, steps=steps)
    theory = LIMIT.solve(TASK, protocol).test_loss
    ensemble = LIMIT.ensemble(TASK, size=size, seeds=seeds)
    run = lambda: nets.train(ensemble, TASK, protocol).test_loss  # noqa: E731
    losses = np.asarray(run(), np.float64)
    error = losses.std(axis=0, ddof=1) / seeds**0.5
    seconds = best_seconds(lambda: LIMIT.solve(TASK, protocol).test_loss), best_seconds(run, repeats=1)
    return {
        "what": "finite networks over theory",
        "size": size,
        "seeds": seeds,
        "steps": steps,
        "ratio": seconds[1] / seconds[0],
        "theory_seconds": seconds[0],
        "finite_seconds": seconds[1],
        "standard_error": float(np.linalg.norm(error) / np.linalg.norm(theory)),
        "distance": float(np.linalg.norm(losses.mean(axis=0) - theory) / np.linalg.norm(theory)),
    }


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "Cost of the theory of deep linear networks and of their spectra.")


if __name__ == "__main__":
    main()
