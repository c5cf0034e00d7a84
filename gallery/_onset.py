"""The experiment of `variance-onset`: networks over widths, sample sizes and richness."""

from dataclasses import dataclass
from itertools import pairwise

import jax
import numpy as np

from .. import limits
from ..nets import _centred as centred
from ..problems import Dataset, GradientDescent, key_name, tasks
from ..problems import _checks as checks
from ..solvers._arc_cosine import relu_tangent_kernel
from ..studies import track
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
    """The grid: one `limit`, `protocol` and name for each richness, one `task` whose first samples are learned."""

    limits: tuple[limits.MLP, ...]
    protocols: tuple[GradientDescent, ...]
    task: Dataset
    samples: tuple[int, ...]
    kernel_samples: tuple[int, ...]
    reference_width: int | None
    reference_seeds: int

    @property
    def richness(self) -> tuple[float, ...]:
        """Richness of each limit."""
        return tuple(float(limit.richness) for limit in self.limits)

    def part(self, samples: int) -> Dataset:
        """The first `samples` of the data."""
        return tasks.from_arrays(self.task.x[:samples], self.task.y[:samples])


def build(
    richness=(0.03, 1.0, 4.0),
    learning_rate=(3.0, 0.5, 0.1),
    steps: int = 400,
    depth: int = 2,
    dim: int = 5,
    degree: int = 2,
    samples=(8, 16, 32, 64, 128, 256, 512),
    kernel_samples=(64, 256),
    test_samples: int = 800,
    reference_width: int | None = None,
    reference_seeds: int = 3,
    data_seed: int = 0,
) -> Problem:
    """ReLU networks without biases that learn a polynomial of one direction on the sphere.

    `richness` and `learning_rate` go together; `reference_width` is by default twice the largest size.
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
    task = tasks.sphere(
        jax.random.key(checks.integer("data_seed", data_seed, low=0, high=2**32 - 1)),
        samples=samples[-1],
        dim=dim,
        test_samples=checks.integer("test_samples", test_samples),
        target="gegenbauer",
        degree=degree,
    )
    return Problem(
        tuple(limits.MLP(depth, "relu", g) for g in richness),
        tuple(GradientDescent(rate, steps=steps) for rate in rates),
        task,
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
    y_test = problem.task.y_test
    theories = _static(problem) if problem.richness[0] <= LAZY else None
    watch.lap("theory")

    shape = len(problem.limits), len(problem.samples)
    found = {name: np.zeros((shape[0], len(sizes), shape[1])) for name in QUANTITIES}
    kernels = np.zeros((2, shape[0], len(sizes), len(problem.kernel_samples)))
    reference, deviation, last = np.zeros(shape), np.zeros((2, shape[1])), {}
    keys = size_keys(key, (*sizes, reference_width))
    jobs = [(size, i, k) for size in (*sizes, reference_width) for i in range(shape[0]) for k in range(shape[1])]
    for size, i, k in track(jobs, "finite networks"):
        count, part = problem.samples[k], problem.part(problem.samples[k])
        number = problem.reference_seeds if size == reference_width else seeds
        nets = centred.draw(problem.limits[i], problem.task.dim, size, number, keys[size])
        run = centred.train_centred(nets, part, problem.protocols[i], problem.task.x_test)
        outputs = run.outputs[:, 0]
        error = ensemble_error(outputs, y_test)
        if count == problem.samples[-1]:
            last[size, i] = outputs.mean(0), error.variance
        if size == reference_width:
            reference[i, k] = error.infinite
            if i == 0 and theories is not None:
                deviation[0, k] = np.sum((outputs.mean(0) - theories[k]) ** 2)
                deviation[1, k] = np.sum(outputs.var(0, ddof=1)) / number
            continue
        for name in QUANTITIES:
            found[name][i, sizes.index(size), k] = getattr(error, name)
        if count in problem.kernel_samples:
            place = i, sizes.index(size), problem.kernel_samples.index(count)
            for kind, ensemble in enumerate((nets, run.nets)):
                learned = _with_kernels(ensemble, part, problem.task.x_test, problem.protocols[i])
                kernels[kind][place] = ensemble_error(learned, y_test).single
    watch.lap("finite")

    data = xarray.Dataset(
        {name: (("richness", "width", "samples"), values) for name, values in found.items()}
        | {"reference": (("richness", "samples"), reference)}
        | {
            f"{name}_kernel": (("richness", "width", "kernel_samples"), values)
            for name, values in zip(("initial", "final"), kernels, strict=True)
        },
        coords={
            "richness": list(problem.richness),
            "width": list(sizes),
            "samples": list(problem.samples),
            "kernel_samples": list(problem.kernel_samples),
        },
        attrs={"reference_width": reference_width, "reference_seeds": problem.reference_seeds, "level": LEVEL},
    )
    agreement = {}
    if theories is not None:
        data["static_kernel"] = (("samples",), np.mean((theories - y_test) ** 2, axis=1))
        agreement["predictions, lazy"] = float(np.sqrt(np.sum(deviation[0]) / np.sum(deviation[1])))
    for name in ("single", "ensemble"):
        data[f"onset_{name}"] = (("richness", "width"), _onsets(data, name))
    label(data, _MEANING)

    outputs = {}
    for i, g in enumerate(problem.richness):
        means, variances = zip(*(last[size, i] for size in sizes), strict=True)
        outputs[f"predictions, richness {g:g}"] = last[reference_width, i][0], means, variances
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


def _static(problem: Problem) -> np.ndarray:
    """Test predictions `[samples, test_samples]` of the lazy limit at infinite width, for the least richness."""
    depth, task = problem.limits[0].depth, problem.task
    kernel, cross = (relu_tangent_kernel(x, task.x, depth) for x in (task.x, task.x_test))
    time = float(np.sum(problem.protocols[0].learning_rate))
    return np.stack([kernel_flow(kernel[:n, :n], cross[:, :n], task.y[:n], time) for n in problem.samples])


def _with_kernels(nets, part: Dataset, x_test, protocol) -> np.ndarray:
    """Test predictions `[seeds, test_samples]` of flow with each network's tangent kernel, for the networks' time."""
    n, time = len(part.x), float(np.sum(protocol.learning_rate))
    kernels = centred.tangent_kernels(nets, np.concatenate([part.x, x_test]))
    return np.stack([kernel_flow(k[:n, :n], k[n:, :n], part.y, time) for k in kernels])


def _onsets(data, name: str) -> np.ndarray:
    ratio = (data[name] / data.reference).transpose("richness", "width", "samples").values
    return np.array([[crossing(data.samples.values, row, LEVEL) for row in rows] for rows in ratio])


def _slopes(data) -> list[float]:
    """Slope of the onset in width for each richness, over the onsets that were found."""
    return [log_slope(data.width, row) for row in data.onset_single.values]


def _mean_slope(data) -> float:
    known = [slope for slope in _slopes(data) if np.isfinite(slope)]
    return float(np.mean(known)) if known else np.nan


def _geometric_mean(values) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _claims(data) -> dict[str, Claim]:
    """The claims of the paper, as far as they are about orderings and slopes."""
    largest = float(data.samples[-1])
    capped = {name: np.minimum(data[f"onset_{name}"], largest) for name in ("single", "ensemble")}
    claims = {}
    # One onset scatters by tens of per cent with the draw of the data: the mean of the slopes is what is judged.
    claims["N-slope of P*, mean over richness"] = Claim(_mean_slope(data), 0.3, 0.8)
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
    numbers: dict = {"N-slope of P* for each richness": np.round(_slopes(data), 3).tolist()}
    for name in ("single", "ensemble"):
        for g, row in zip(data.richness.values, data[f"onset_{name}"].values, strict=True):
            shown = [round(float(v), 1) if np.isfinite(v) else None for v in row]
            numbers[f"P* of {'one network' if name == 'single' else 'the ensemble'}, richness {g:g}"] = shown
    if "static_kernel" in data:
        ratio = (data.reference.isel(richness=0) / data.static_kernel).values
        numbers["test error of the widest lazy networks over that of infinite width"] = np.round(ratio, 3).tolist()
    return numbers
