"""The experiment of `width-consistency`: networks of several widths on the same fresh batches."""

from dataclasses import dataclass

import jax
import numpy as np

from .. import limits
from ..nets import _centred as centred
from ..problems import OnlineSGD, key_name, tasks
from ..problems import _checks as checks
from ..problems.tasks import SphereFunction
from ..studies import track
from ..studies._ensembles import ensemble_error, log_slope
from ._experiment import Claim, Findings, Stopwatch, deviations, label, size_keys, widest

KERNEL_INPUTS = 12


@dataclass(frozen=True)
class Problem:
    """What all networks learn, how, and when and where they are looked at."""

    limit: limits.MLP
    task: SphereFunction
    protocol: OnlineSGD
    times: tuple[int, ...]
    test_samples: int
    reference_width: int | None
    reference_seeds: int


def target(x):
    """A product, a square and a linear part, of the first three coordinates; of about unit variance."""
    return (x[:, 0] * x[:, 1] + 0.7 * (x[:, 2] ** 2 - 1) / 2**0.5 + 0.4 * x[:, 0]) / 1.285


def build(
    richness: float = 2.0,
    learning_rate: float = 0.2,
    batch_size: int = 96,
    steps: int = 1600,
    depth: int = 2,
    dim: int = 6,
    test_samples: int = 512,
    reference_width: int | None = None,
    reference_seeds: int = 3,
) -> Problem:
    """ReLU networks without biases, online, on the sphere. `reference_width` is by default twice the largest size."""
    if checks.integer("test_samples", test_samples) < KERNEL_INPUTS:
        raise ValueError(f"test_samples must be at least {KERNEL_INPUTS}; it is {test_samples}.")
    checks.integer("dim", dim, low=3)
    checks.integer("steps", steps, low=64)
    if reference_width is not None:
        checks.integer("reference_width", reference_width)
    doubled = np.unique(np.round(steps * 2.0 ** np.arange(-6, 0.25, 0.5)).astype(int))
    return Problem(
        limits.MLP(depth, "relu", checks.number("richness", richness, above=0.0)),
        tasks.sphere_function(dim, target),
        OnlineSGD(learning_rate, batch_size=batch_size, steps=steps),
        tuple(int(time) for time in doubled),
        test_samples,
        reference_width,
        checks.integer("reference_seeds", reference_seeds, low=2),
    )


def conduct(problem: Problem, sizes, seeds: int, key) -> Findings:
    """Trains all networks; see `Findings`."""
    import xarray

    watch = Stopwatch()
    reference_width = widest(problem.reference_width, sizes)
    widths = (*sizes, reference_width)
    key_test, key_batches, key_nets = jax.random.split(key, 3)
    x, y = (np.asarray(part) for part in problem.task.batch(key_test, problem.test_samples))
    keys, runs, errors = size_keys(key_nets, widths), {}, {}
    for width in track(widths, "finite networks"):
        number = problem.reference_seeds if width == reference_width else seeds
        nets = centred.draw(problem.limit, problem.task.dim, width, number, keys[width])
        runs[width] = centred.train_centred(
            nets,
            problem.task,
            problem.protocol,
            x,
            times=problem.times,
            kernel_inputs=x[:KERNEL_INPUTS],
            key=key_batches,
        )
        errors[width] = ensemble_error(runs[width].outputs, y)
    watch.lap("finite")

    kernel = {width: run.kernels[problem.limit.depth] for width, run in runs.items()}
    curves = {name: np.stack([getattr(errors[w], name) for w in widths]) for name in ("single", "variance", "infinite")}
    data = xarray.Dataset(
        {name: (("width", "time"), values) for name, values in curves.items()}
        | {
            "outputs": (
                ("width", "time", "point"),
                np.stack([runs[w].outputs[..., :KERNEL_INPUTS].mean(0) for w in widths]),
            ),
            "one_network": (
                ("width", "time", "point"),
                np.stack([runs[w].outputs[0, :, :KERNEL_INPUTS] for w in widths]),
            ),
            "kernel_distance": (
                ("width", "time"),
                np.stack([_distance(kernel[w], kernel[reference_width]) for w in widths]),
            ),
            "kernel_variance": (("width", "time"), np.stack([_scatter(kernel[w]) for w in widths])),
        },
        coords={"width": list(widths), "time": list(problem.times)},
        attrs={"reference_width": reference_width, "reference_seeds": problem.reference_seeds},
    )
    label(data, _MEANING)
    data["time"].attrs["units"] = "updates"

    *means, reference = (runs[width].outputs[:, -1].mean(0) for width in widths)
    variances = [errors[width].variance[-1] for width in sizes]
    return Findings(
        problem,
        data,
        sizes,
        seeds,
        _claims(data),
        **deviations(sizes, seeds, {"predictions": (reference, means, variances)}),
        measured=_numbers(data),
        seconds=watch.seconds,
        key=key_name(key),
    )


_MEANING = {
    "single": "mean square test error of one network",
    "variance": "variance of test predictions over networks",
    "infinite": "mean square test error of the mean of infinitely many networks",
    "outputs": "mean prediction of all networks on a few inputs",
    "one_network": "prediction of one network on a few inputs",
    "kernel_distance": "relative distance of the mean kernel of the last layer from that of the widest networks",
    "kernel_variance": "variance of the kernel of the last layer over networks, relative to its square",
}


def _distance(kernels, reference) -> np.ndarray:
    mean, wide = kernels.mean(0), reference.mean(0)
    return np.linalg.norm(mean - wide, axis=(1, 2)) / np.linalg.norm(wide, axis=(1, 2))


def _scatter(kernels) -> np.ndarray:
    return np.sum(kernels.var(0, ddof=1), axis=(1, 2)) / np.sum(kernels.mean(0) ** 2, axis=(1, 2))


def excess(data, name: str):
    """How far errors are above that of the mean of infinitely many of the widest networks, relative to it."""
    return data[name] / data.infinite.isel(width=-1) - 1


def _claims(data) -> dict[str, Claim]:
    own = data.isel(width=slice(0, -1))
    wide = own.sel(width=own.width[own.width >= 64]) if int(own.width[-1]) >= 64 else own
    early, late = data.isel(time=0), data.isel(time=-1)
    quarter = data.isel(time=int(np.argmin(np.abs(data.time.values - data.time.values[-1] / 4))))
    one, mean = excess(data, "single"), excess(data, "infinite")
    deviation = float(np.abs(excess(early, "single")).sel(width=wide.width[0]))
    scaled = wide.width * wide.variance.isel(time=-1)
    claims = {
        f"early deviation of width {int(wide.width[0])}": Claim(deviation, high=0.2),
        f"late deviation of width {int(wide.width[0])}": Claim(float(one.isel(time=-1).sel(width=wide.width[0])), 2.0),
        "late excess of single networks over that of their mean, least ratio of all widths": Claim(
            float((late.single / late.infinite).isel(width=slice(0, -1)).min()), 1.5
        ),
        "excess of single networks over that of their mean at a quarter of the time, least difference": Claim(
            float((excess(quarter, "single") - excess(quarter, "infinite")).isel(width=slice(0, -1)).min()), 0.1
        ),
        f"late excess of the mean of networks of width {int(own.width[0])}": Claim(
            float(mean.isel(time=-1, width=0)), 0.5
        ),
        "late width times variance, largest over least": Claim(float(scaled.max() / scaled.min()), 1.0, 1.4),
    }
    for name, what in (("variance", "predictions"), ("kernel_variance", "the last kernel")):
        slope = log_slope(own.width, own[name].isel(time=-1))
        claims[f"N-slope of the late variance of {what}"] = Claim(slope, -1.25, -0.75)
    return claims


def _numbers(data) -> dict:
    late = {name: excess(data, name).isel(time=-1).values[:-1] for name in ("single", "infinite")}
    return {
        "late excess of single networks": np.round(late["single"], 2).tolist(),
        "late excess of the mean of infinitely many networks": np.round(late["infinite"], 2).tolist(),
        "late width times variance": np.round((data.width * data.variance.isel(time=-1)).values, 4).tolist(),
        "late distance of the last kernel": np.round(
            data.kernel_distance.isel(time=-1).values[:-1].astype(float), 4
        ).tolist(),
    }
