"""The experiment of `variance-onset`: networks over widths, sample sizes and richness."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import limits
from ..nets import _centred as centred
from ..problems import Dataset, GradientDescent, key_name, tasks
from ..problems import _checks as checks
from ..studies import AGREEMENT, track
from ..studies._ensembles import crossing, ensemble_error, log_slope
from ..studies._kernel_flow import kernel_flow
from ._experiment import Claim, Findings, Stopwatch, deviations, label, size_keys, widest

#: Test error over that of the widest networks at which the variance has set in.
LEVEL = 2.0
#: Up to this richness, networks are compared with the lazy limit.
LAZY = 0.05
QUANTITIES = ("single", "ensemble", "variance")


@dataclass(frozen=True)
class Problem:
    """The grid: one `limit` and `protocol` for each richness; of each of the `tasks` the first samples are learned."""

    limits: tuple[limits.MLP, ...]
    protocols: tuple[GradientDescent, ...]
    tasks: tuple[Dataset, ...]
    samples: tuple[int, ...]
    kernel_samples: tuple[int, ...]
    reference_width: int | None
    reference_seeds: int

    @property
    def richness(self) -> tuple[float, ...]:
        """Richness of each limit."""
        return tuple(float(limit.richness) for limit in self.limits)


def build(
    richness=(0.03, 1.0, 4.0),
    learning_rate=(3.0, 0.5, 0.1),
    steps: int = 400,
    depth: int = 2,
    dim: int = 5,
    degree: int = 2,
    samples=(16, 32, 64, 128, 256, 512),
    kernel_samples=(64, 256),
    test_samples: int = 800,
    reference_width: int | None = None,
    reference_seeds: int = 3,
    draws: int = 3,
    data_seed: int = 0,
) -> Problem:
    """ReLU networks without biases that learn a polynomial of one direction on the sphere.

    `richness` and `learning_rate` go together; `reference_width` is by default twice the largest size. All networks
    learn `draws` independent data sets.
    """
    richness = checks.array("richness", richness, ndim=1, above=0.0)
    rates = checks.array("learning_rate", learning_rate, ndim=1, above=0.0)
    if len(richness) != len(rates):
        raise ValueError(f"learning_rate must have one value a richness; there are {len(rates)} and {len(richness)}.")
    if np.any(np.diff(richness) <= 0):
        raise ValueError(f"richness must increase; it is {richness.tolist()}.")
    samples = _increasing("samples", samples)
    kernel_samples = _increasing("kernel_samples", kernel_samples)
    if missing := set(kernel_samples) - set(samples):
        raise ValueError(f"kernel_samples must be among samples; {min(missing)} is not.")
    if reference_width is not None:
        checks.integer("reference_width", reference_width)
    key = jax.random.key(checks.integer("data_seed", data_seed, low=0, high=2**32 - 1))
    checks.integer("test_samples", test_samples)
    sets = (
        tasks.sphere(
            jax.random.fold_in(key, draw),
            samples=samples[-1],
            dim=dim,
            test_samples=test_samples,
            target="gegenbauer",
            degree=degree,
        )
        for draw in range(checks.integer("draws", draws, low=2))
    )
    return Problem(
        tuple(limits.MLP(depth, "relu", g) for g in richness),
        tuple(GradientDescent(rate, steps=steps) for rate in rates),
        tuple(sets),
        samples,
        kernel_samples,
        reference_width,
        checks.integer("reference_seeds", reference_seeds, low=2),
    )


def _increasing(name: str, values) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or len(values) == 0:
        raise TypeError(f"{name} must be a list of whole numbers; {checks.shown(values)} was given.")
    values = tuple(checks.integer(name, value) for value in values)
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError(f"{name} must increase; they are {list(values)}.")
    return values


def conduct(problem: Problem, sizes, seeds: int, key) -> Findings:
    """Trains all networks; see `Findings`."""
    import xarray

    watch = Stopwatch()
    reference_width = widest(problem.reference_width, sizes)
    theories = [_static(problem, task) for task in problem.tasks] if problem.richness[0] <= LAZY else None
    watch.lap("theory")
    widths = (*sizes, reference_width)
    draws = [
        _train(problem, task, widths, seeds, jax.random.fold_in(key, draw)) for draw, task in enumerate(problem.tasks)
    ]
    watch.lap("finite")

    data = xarray.concat([draw.data for draw in draws], "draw", combine_attrs="override")
    agreement = {}
    if theories is not None:
        squares = [
            (np.mean((theory - task.y_test) ** 2, axis=1), np.sum((draw.lazy_mean - theory) ** 2))
            for theory, task, draw in zip(theories, problem.tasks, draws, strict=True)
        ]
        data["static_kernel"] = (("draw", "samples"), np.stack([error for error, _ in squares]))
        noise = sum(draw.lazy_variance for draw in draws)
        agreement["predictions, lazy"] = float(np.sqrt(sum(distance for _, distance in squares) / noise))
    _add_onsets(data)
    label(data, _MEANING)
    outputs = {
        f"predictions, richness {g:g}": (
            np.concatenate([draw.last[reference_width, i][0] for draw in draws]),
            [np.concatenate([draw.last[size, i][0] for draw in draws]) for size in sizes],
            [np.mean([draw.last[size, i][1] for draw in draws]) for size in sizes],
        )
        for i, g in enumerate(problem.richness)
    }
    return Findings(
        problem,
        data,
        sizes,
        seeds,
        _claims(data),
        **deviations(sizes, seeds, outputs),
        agreement=agreement,
        measured=_numbers(data),
        seconds=watch.seconds,
        key=key_name(key),
    )


class _Draw(NamedTuple):
    """What networks made of one draw of the data."""

    data: Any
    last: dict[tuple[int, int], tuple[np.ndarray, float]]  # mean outputs, variance, with all samples
    lazy_mean: np.ndarray  # [samples, test_samples], of the widest and laziest
    lazy_variance: float  # of this mean, summed


def _train(problem: Problem, task: Dataset, widths, seeds: int, key) -> _Draw:
    import xarray

    *sizes, reference_width = widths
    shape = len(problem.limits), len(problem.samples)
    found = {name: np.zeros((shape[0], len(sizes), shape[1])) for name in QUANTITIES}
    kernels = np.zeros((2, shape[0], len(sizes), len(problem.kernel_samples)))
    reference, last = np.zeros(shape), {}
    lazy_mean, lazy_variance = np.zeros((shape[1], len(task.y_test))), 0.0
    keys = size_keys(key, widths)
    jobs = [(size, i, k) for size in widths for i in range(shape[0]) for k in range(shape[1])]
    for size, i, k in track(jobs, "finite networks"):
        count = problem.samples[k]
        part = tasks.from_arrays(task.x[:count], task.y[:count])
        number = problem.reference_seeds if size == reference_width else seeds
        nets = centred.draw(problem.limits[i], task.dim, size, number, keys[size])
        run = centred.train_centred(nets, part, problem.protocols[i], task.x_test)
        outputs = run.outputs[:, 0]
        error = ensemble_error(outputs, task.y_test)
        if count == problem.samples[-1]:
            last[size, i] = outputs.mean(0), error.variance
        if size == reference_width:
            reference[i, k] = error.infinite
            if i == 0:
                lazy_mean[k] = outputs.mean(0)
                lazy_variance += np.sum(outputs.var(0, ddof=1)) / number
            continue
        for name in QUANTITIES:
            found[name][i, sizes.index(size), k] = getattr(error, name)
        if count in problem.kernel_samples:
            place = i, sizes.index(size), problem.kernel_samples.index(count)
            for kind, ensemble in enumerate((nets, run.nets)):
                learned = _with_kernels(ensemble, part, task.x_test, problem.protocols[i])
                kernels[kind][place] = ensemble_error(learned, task.y_test).single

    data = xarray.Dataset(
        {name: (("richness", "width", "samples"), values) for name, values in found.items()}
        | {"reference": (("richness", "samples"), reference)}
        | {
            f"{name}_kernel": (("richness", "width", "kernel_samples"), values)
            for name, values in zip(("initial", "final"), kernels, strict=True)
        },
        coords={
            "richness": list(problem.richness),
            "width": sizes,
            "samples": list(problem.samples),
            "kernel_samples": list(problem.kernel_samples),
        },
        attrs={"reference_width": reference_width, "reference_seeds": problem.reference_seeds, "level": LEVEL},
    )
    return _Draw(data, last, lazy_mean, lazy_variance)


def averaged(data):
    """Mean errors over the draws of the data, and the onsets of these means."""
    mean = data.mean("draw", keep_attrs=True)
    _add_onsets(mean)
    return mean


_MEANING = {
    "single": "mean square test error of one network",
    "ensemble": "mean square test error of the mean of all networks",
    "variance": "variance of test predictions over networks",
    "reference": "mean square test error of infinitely many of the widest networks",
    "static_kernel": "mean square test error of infinite width in the lazy limit",
    "initial_kernel": "mean square test error of descent with the tangent kernel at initialisation",
    "final_kernel": "mean square test error of descent with the tangent kernel after training",
    "onset_single": "samples at which the error of one network is twice the reference",
    "onset_ensemble": "samples at which the error of the mean network is twice the reference",
}


def _static(problem: Problem, task: Dataset) -> np.ndarray:
    """Test predictions `[samples, test_samples]` of the lazy limit at infinite width, for the least richness."""
    kernel, cross = (np.asarray(problem.limits[0].lazy_kernels(x, task.x).tangent) for x in (task.x, task.x_test))
    time = float(np.sum(problem.protocols[0].learning_rate))
    return np.stack([kernel_flow(kernel[:n, :n], cross[:, :n], task.y[:n], time) for n in problem.samples])


def _with_kernels(nets, part: Dataset, x_test, protocol) -> np.ndarray:
    """Test predictions `[seeds, test_samples]` of flow with each network's tangent kernel, for the networks' time."""
    n, time = len(part.x), float(np.sum(protocol.learning_rate))
    kernels = centred.tangent_kernels(nets, np.concatenate([part.x, x_test]))
    return np.stack([kernel_flow(k[:n, :n], k[n:, :n], part.y, time) for k in kernels])


def _add_onsets(data) -> None:
    for name in ("single", "ensemble"):
        ratio = (data[name] / data.reference).transpose(..., "samples")
        onsets = np.apply_along_axis(lambda row: crossing(data.samples.values, row, LEVEL), -1, ratio.values)
        data[f"onset_{name}"] = (ratio.dims[:-1], onsets)


def _slopes(data) -> np.ndarray:
    """Slope of the onset in width for each draw and richness, over the onsets that were found."""
    onsets = data.onset_single.transpose("draw", "richness", "width").values
    return np.array([[log_slope(data.width, row) for row in rows] for rows in onsets])


def _mean_and_error(data) -> tuple[float, float]:
    """Slope of the onset, mean over richness and draws, and its standard error from the scatter over draws."""
    slopes = _slopes(data)
    by_draw = np.array([np.mean(row[np.isfinite(row)]) for row in slopes if np.any(np.isfinite(row))])
    if len(by_draw) < 2:
        return np.nan, np.nan
    return float(by_draw.mean()), float(by_draw.std(ddof=1) / len(by_draw) ** 0.5)


def _geometric_mean(values) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _claims(data) -> dict[str, Claim]:
    """The claims of the paper, as far as they are about orderings and slopes."""
    slope, error = _mean_and_error(data)
    data = averaged(data)
    largest = float(data.samples[-1])
    capped = {name: np.minimum(data[f"onset_{name}"], largest) for name in ("single", "ensemble")}
    # As in every comparison, three standard errors; of at most a sixth, they tell a root from a constant and a line.
    claims = {
        "N-slope of P*, mean over richness and draws": Claim(slope, 0.5 - AGREEMENT * error, 0.5 + AGREEMENT * error),
        "its standard error over draws": Claim(error, high=0.5 / AGREEMENT),
    }
    for g in data.richness.values:
        row = data.variance.sel(richness=g).isel(samples=-1)
        claims[f"N-slope of the variance of predictions, richness {g:g}"] = Claim(
            log_slope(data.width, row), -1.4, -0.8
        )
    for g in data.richness.values:
        ratio = capped["ensemble"].sel(richness=g) / capped["single"].sel(richness=g)
        claims[f"P* of the ensemble over that of one network, richness {g:g}"] = Claim(_geometric_mean(ratio), 1.2)
    if data.sizes["richness"] > 1:
        gain = capped["single"].isel(richness=-1) / capped["single"].isel(richness=0)
        claims["P* of the richest over that of the laziest"] = Claim(_geometric_mean(gain), 1.0)
    last = data.isel(kernel_samples=-1)
    error = last.single.sel(samples=last.kernel_samples)
    final = (last.final_kernel / error).values
    claims["error of the final kernel over the network's, mean"] = Claim(_geometric_mean(final), 0.7, 1.4)
    if data.sizes["richness"] > 1:
        initial = (last.initial_kernel / error).isel(richness=-1).values
        claims["error of the initial kernel over the richest network's, mean"] = Claim(_geometric_mean(initial), 3.0)
    return claims


def _numbers(data) -> dict:
    numbers: dict = {"N-slope of P* for each draw and richness": np.round(_slopes(data), 3).tolist()}
    data = averaged(data)
    for name in ("single", "ensemble"):
        for g, row in zip(data.richness.values, data[f"onset_{name}"].values, strict=True):
            shown = [round(float(v), 1) if np.isfinite(v) else None for v in row]
            numbers[f"P* of {'one network' if name == 'single' else 'the ensemble'}, richness {g:g}"] = shown
    if "static_kernel" in data:
        ratio = (data.reference.isel(richness=0) / data.static_kernel).values
        numbers["test error of the widest lazy networks over that of infinite width"] = np.round(ratio, 3).tolist()
    return numbers
