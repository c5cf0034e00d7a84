"""The limit against the ensemble of networks that knows it as well: `python -m limitax.bench.ensemble [--quick]`.

Both errors are measured in this process: that of the theory by its replicas, that of the networks by the spread of
their seeds. Seconds are printed to be read, not to be tested.
"""

from typing import Any

import jax
import numpy as np

from .. import limits, nets
from ..problems import GradientDescent, tasks
from ._clock import best_seconds, print_rows


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The measurements, one dictionary a row."""
    particles, seeds, widths = (2_000, 8, (64,)) if quick else (20_000, 32, (128, 512))
    key = jax.random.key(0)
    task = tasks.sphere(key, samples=8, dim=5)
    protocol = GradientDescent(0.3, steps=30)
    limit = limits.MLP(2, "tanh", 2.0)

    def solve():
        return limit.solve(task, protocol, key=key, samples=particles, keep=None)

    theory = solve()
    norm = np.linalg.norm(theory.predictions)
    error = np.linalg.norm(theory.errors()["predictions"]) / norm
    theory_seconds = best_seconds(solve)
    found = []
    for width in widths:
        ensemble = limit.ensemble(task, size=width, seeds=seeds, key=key)
        predictions = np.asarray(nets.train(ensemble, task, protocol).predictions)
        one = np.sqrt(np.sum(predictions.var(axis=0, ddof=1))) / norm
        needed = (one / error) ** 2
        per_seed = best_seconds(lambda ensemble=ensemble: nets.train(ensemble, task, protocol)) / seeds
        found.append(
            {
                "what": "ensemble over theory at equal standard error",
                "width": width,
                "ratio": needed * per_seed / theory_seconds,
                "pairs_needed": float(needed),
                "relative_error": float(error),
                "theory_seconds": theory_seconds,
                "seconds_per_pair": per_seed,
            }
        )
    return found


def main() -> None:
    """Prints the rows. The ensemble's bias, of order one over width, comes on top of what is counted here."""
    print_rows(rows, "The limit of wide MLPs against ensembles of networks at equal standard error.")


if __name__ == "__main__":
    main()
