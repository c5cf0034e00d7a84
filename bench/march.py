"""What the causal march of wide MLPs costs: `python -m limitax.bench.march [--quick]`.

Every row is a ratio of two things timed in one process, a fitted slope, or a count; seconds are printed to be read, not
to be tested.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..solvers import HIGHEST, MarchInputs, MarchOptions, SampleAxis, double, march
from ._clock import best_seconds, median_ratios, print_rows


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    sizes = [(3, 10, 1000)] if quick else [(4, 50, 4000), (10, 100, 4000)]
    small = (3, 12, 500) if quick else (4, 30, 4000)
    with double():
        machine = _machine(2**22 if quick else 2**25, 256 if quick else 1024)
        found = [_forward(*size, capped, machine) for size in sizes for capped in (True, False)]
        found += [_gradient(*small, adjoint) for adjoint in ("tape", "direct")]
        found += [_slope("steps", 16 if quick else 25, quick), _slope("samples", 500 if quick else 2000, quick)]
        found += [_compile(steps) for steps in (10, 100)]
    return found


def _problem(samples: int, steps: int):
    rng = np.random.default_rng(0)
    one = jnp.ones(steps)
    return MarchInputs(
        x=jnp.asarray(rng.standard_normal((samples, 2 * samples))),
        y=jnp.asarray(rng.standard_normal(samples)),
        x_test=jnp.zeros((0, 2 * samples)),
        learning_rate=0.1 * one,
        momentum=0.5 * one,
        weight_decay=0.1 * one,
        richness=jnp.ones(()),
        init_scale=jnp.ones(3),
        bias_scale=jnp.zeros(()),
    )


def _solver(samples: int, steps: int, particles: int, capped: bool, adjoint: str = "tape"):
    capacity, tolerance = (min(16, steps) * samples, 4.0 / particles) if capped else (samples * steps, 1e-11)

    def solve(inputs):
        return march(
            inputs,
            jax.random.key(0),
            MarchOptions(jnp.tanh),
            axis=SampleAxis(particles),
            capacity=capacity,
            tolerance=tolerance,
            adjoint=adjoint,
        )

    return solve, capacity + samples


def _machine(words: int, size: int) -> tuple[float, float]:
    """Bytes a second of a stream, operations a second of a matrix product."""
    stream, square = jnp.ones(words), jnp.ones((size, size))
    add = jax.jit(lambda x: x + 1.0).lower(stream).compile()
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=HIGHEST)).lower(square).compile()
    return 2 * stream.nbytes / best_seconds(add, stream), 2 * size**3 / best_seconds(multiply, square)


def _forward(samples: int, steps: int, particles: int, capped: bool, machine) -> dict[str, Any]:
    """Achieved share of what memory and the matrix unit could do, by the 14 thin products of a step."""
    solve, slots = _solver(samples, steps, particles, capped)
    inputs = _problem(samples, steps)
    run = jax.jit(solve).lower(inputs).compile()
    out = run(inputs)
    seconds = best_seconds(run, inputs, repeats=2)
    words = 14 * (steps + 1) * slots * particles
    return {
        "what": "forward",
        "samples, steps, particles": (samples, steps, particles),
        "slots": slots,
        "directions": int(np.max(out.directions)),
        "overflow": bool(out.overflow),
        "seconds": seconds,
        "of_stream_bandwidth": 8 * words / seconds / machine[0],
        "of_matrix_product": 2 * samples * words / seconds / machine[1],
    }


def _gradient(samples: int, steps: int, particles: int, adjoint: str) -> dict[str, Any]:
    """A gradient with respect to everything, in units of the forward pass, and its temporary memory in field arrays."""
    inputs = _problem(samples, steps)
    solve, _ = _solver(samples, steps, particles, True, adjoint)
    loss = lambda inputs: jnp.mean((solve(inputs).predictions[-1] - inputs.y) ** 2)  # noqa: E731
    forward = jax.jit(loss).lower(inputs).compile()
    backward = jax.jit(jax.value_and_grad(loss)).lower(inputs).compile()
    field = 8 * samples * steps * particles
    ratios, _ = median_ratios({adjoint: backward}, forward, inputs, repeats=7)
    return {
        "what": "gradient over forward",
        "adjoint": adjoint,
        "samples, steps, particles": (samples, steps, particles),
        "ratio": ratios[adjoint],
        "temporary_arrays": getattr(backward.memory_analysis(), "temp_size_in_bytes", np.nan) / field,
        "forward_temporary_arrays": getattr(forward.memory_analysis(), "temp_size_in_bytes", np.nan) / field,
    }


def _slope(name: str, start: int, quick: bool) -> dict[str, Any]:
    """Exponent of the time in the number of steps, or of particles, with capped bases of one size."""
    ratio, seconds = 4, []
    for factor in (1, ratio):
        steps, particles = (factor * start, 1000) if name == "steps" else (16 if quick else 25, factor * start)
        inputs = _problem(3, steps)
        solve, _ = _solver(3, steps, particles, True)
        seconds.append(best_seconds(jax.jit(solve).lower(inputs).compile(), inputs))
    return {"what": f"exponent of time in {name}", "slope": float(np.log(seconds[1] / seconds[0]) / np.log(ratio))}


def _compile(steps: int) -> dict[str, Any]:
    """Seconds to compile: the same for every number of steps."""
    inputs, start = _problem(3, steps), time.perf_counter()
    jax.jit(_solver(3, steps, 500, True)[0]).lower(inputs).compile()
    return {"what": "compile", "steps": steps, "seconds": time.perf_counter() - start}


def main() -> None:
    """Prints the rows."""
    print_rows(rows, "Cost of the causal march of wide MLPs.")


if __name__ == "__main__":
    main()
