"""Linear models on random features of a structured spectrum: the finite networks of theories of scaling."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Gaussian, GradientDescent, MinibatchSGD, NormalisedSGD, OnlineSGD, PowerLaw, schedules
from ..problems import _checks as checks
from ..solvers import shard, spread_map
from ._base import Frozen
from ._batches import check_batch, drawn_samples, no_steps, runs_at_once, whole_batch_size
from ._features import AbstractFeatureNet

# Inputs held side by side, over runs: enough to fill the cores, few enough to stay in cache and memory.
_INPUTS_AT_ONCE = 2**20


class RandomFeatures(AbstractFeatureNet):
    r"""The linear function $f(x) = \theta\cdot x$, $\theta = A^T w/\sqrt N$, of inputs $x_k \sim N(0, \lambda_k)$.

    $A_{ij} \sim N(0, 1)$ is frozen and $w$ `[members, features]` trains from 0; with several `members` $f$ is the mean
    over them. Without random features $\theta = w$, one number for each mode. The raw step is the protocol's learning
    rate. Of size $s$ there are $s$ copies of each mode, which share $w_k^2$, and $s$ times as many features, samples
    and samples in a batch; this leaves the theory as it is.

    ??? cite "Source"
        A Dynamical Model of Neural Scaling Laws, arXiv 2402.01092; Learning Curves for SGD on Structured Features,
        arXiv 2106.02713.
    """

    weights: Any
    features: Any  # [members, features, modes], or None for the modes themselves
    frozen: Frozen = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @staticmethod
    def start(design, count: int):
        return jnp.zeros((design.members, count)), (design.members,)

    @property
    def coefficients(self):
        r"""$\theta$ `[modes]`, the mean over members."""
        return jnp.mean(_coefficients(self.weights, self.features), axis=0)

    def on_features(self, task) -> Gaussian:
        r"""What this network's features make of a task: Gaussian modes, and the unreachable target as label noise.

        One-pass SGD on $N$ features of Gaussian inputs is exactly one-pass SGD on the modes of $K = A\Lambda A^T/N$
        with the teacher $K^{-1}A\Lambda w/\sqrt N$ and the noise $\sigma^2 +$ floor, where the floor is the least
        excess risk that these features allow. `RandomFeatures()` solves the task that is returned; its loss plus
        `noise**2` is that of this network plus $\sigma^2$.

        **Arguments:**

        - `task`: `power_law` or `gaussian`, concrete, of this network's size in modes.

        **Raises:** `ValueError` for several networks, none with random features, or another number of modes.

        ??? cite "Source"
            Learning Curves for SGD on Structured Features, arXiv 2106.02713.
        """
        problem = task.population(self.size)
        if self.features is None or self.features.ndim != 3 or self.features.shape[0] != 1:
            raise ValueError("on_features needs one network with random features: limit.finite(task), or a member.")
        if self.features.shape[-1] != problem.dim:
            raise ValueError(f"task must have the network's {self.features.shape[-1]} modes; it has {problem.dim}.")
        A = np.asarray(self.features[0], float) / np.sqrt(self.features.shape[-2])
        scales, teacher = np.sqrt(np.asarray(problem.eigenvalues, float)), np.asarray(problem.teacher, float)
        _, singular, modes = np.linalg.svd(A * scales, full_matrices=False)
        kept = singular > 1e-10 * singular[0]
        reached = (modes @ (scales * teacher))[kept]
        floor = max(np.sum((scales * teacher) ** 2) - np.sum(reached**2), 0.0)
        return Gaussian(singular[kept] ** 2, reached / singular[kept], np.sqrt(np.asarray(problem.noise) ** 2 + floor))

    def learn(self, weights, task, protocol, *, key, steps):
        r"""See `nets.train`. Every seed draws its own samples; with `bagging` every member does.

        Records `test_loss`, the excess risk $\sum_k \lambda_k (\theta_k - w_k)^2$ over the population, and, with
        `GradientDescent`, `train_loss`, the mean square residual on the samples if the members share them.
        """
        no_steps(steps)
        fresh = check_problem(task, protocol)
        check_normalised(self.design, protocol)
        batch = 0 if isinstance(protocol, GradientDescent) else whole_batch_size(protocol) * self.size
        count = 0 if fresh else task.sample_count(self.size) or 0
        weights = weights[:, 0]
        self.check_modes(task, weights.shape[-1])
        features = self.features
        if features is not None:
            features = features.reshape(len(weights), *features.shape[-3:])
        keys = jax.random.split(key, len(weights))
        sets = self.weights.shape[-2] if self.design.bagging else 1
        final, losses = _run(weights, features, task, protocol, keys, self.size, count, batch, sets)
        fields = losses | {"loss_convention": "mean_square", "attributes": (("size", self.size),)}
        return final[:, None], fields


def check_problem(task, protocol) -> bool:
    """Checks that a linear model on random features learns this task by this protocol; returns whether no sample is
    seen twice."""
    checks.instance("task", task, (PowerLaw, Gaussian), "power_law or gaussian for RandomFeatures")
    known = (GradientDescent, MinibatchSGD, NormalisedSGD, OnlineSGD)
    checks.instance("protocol", protocol, known, f"one of {', '.join(k.__name__ for k in known)} for RandomFeatures")
    if isinstance(protocol, (NormalisedSGD, OnlineSGD)):
        if protocol.batch_size is None:
            raise ValueError(
                "batch_ratio is for limits of many dimensions; RandomFeatures takes batch_size, samples a step."
            )
        return True
    if not has_samples(task):
        name = type(protocol).__name__
        raise ValueError(f"samples is needed by {name}, which sees the same ones at every step (inf: all).")
    decay = checks.concrete(protocol.weight_decay)
    if decay is None or decay.any():
        raise ValueError("weight_decay must be 0: RandomFeatures is not solved with weight decay.")
    if isinstance(protocol, MinibatchSGD):
        check_batch(protocol, number_of_samples(task))
    return False


def check_normalised(design, protocol) -> None:
    """**Raises:** `ValueError` for normalised SGD on random features: its mean gradient is known on the modes alone."""
    if isinstance(protocol, NormalisedSGD) and (design.features is not None or design.members > 1):
        raise ValueError("features must be None, and members 1, with NormalisedSGD.")


def has_samples(task) -> bool:
    """Whether a task says how many samples a protocol sees that sees them again."""
    return task.samples is not None or (isinstance(task, Gaussian) and task.sample_ratio is not None)


def number_of_samples(task):
    """How many samples are seen again, a number that may be infinite; `None` if it is traced."""
    if task.samples is None:
        ratio = checks.concrete(task.sample_ratio)
        return None if ratio is None else float(ratio) * len(task.eigenvalues)
    return checks.concrete(task.samples)


def _coefficients(weights, features):
    """$A^T w/\\sqrt N$ of every member, `[..., members, modes]`."""
    if features is None:
        return weights
    return jnp.einsum("...en,...enm->...em", weights, features) / features.shape[-2] ** 0.5


@eqx.filter_jit
def _run(weights, features, task, protocol, keys, size: int, count: int, batch: int, sets: int):
    """Final weights `[seeds, members, features]` and losses `[seeds, steps + 1]`; `sets` of `count` samples each, of
    which a step sees at most `batch`, or all; without samples it sees fresh ones, or the population."""
    dtype, members = weights.dtype, weights.shape[1]
    problem = task.population(size)
    eigenvalues, teacher = (jnp.asarray(a, dtype) for a in (problem.eigenvalues, problem.teacher))
    optimiser = schedules.transformation(protocol, 1.0)
    if batch:
        protocol = eqx.tree_at(lambda p: p.batch_size, protocol, jnp.asarray(protocol.batch_size, dtype) * size)
    draw = jax.vmap(lambda key: problem.batch(key, count or batch))

    def run(inputs):
        weights, features, key = inputs
        key_data, key_train = jax.random.split(key)
        x, y = draw(jax.random.split(key_data, sets)) if count else (jnp.zeros(0), jnp.zeros(0))

        def residuals(theta, x, y):
            """`[members, samples]`; members share a sample where there is one only."""
            return jnp.matmul(x, theta[:, :, None])[..., 0] - y

        def gradient(theta, inputs):
            """Of the half mean square, with respect to theta, `[members, modes]`."""
            if not batch and not count:
                return eigenvalues * (theta - teacher)
            if not batch:
                seen, shares = (x, y), 1 / y.shape[-1]
            elif count:
                time, keys = inputs[0], jax.random.split(inputs[1], sets)
                drawn, shares = jax.vmap(lambda key: drawn_samples(protocol, time, key, count, batch, dtype))(keys)
                seen = jax.vmap(lambda a, i: a[i])(x, drawn), jax.vmap(lambda a, i: a[i])(y, drawn)
            else:
                seen, size_now = draw(jax.random.split(inputs[1], sets)), protocol.batch_size[inputs[0]]
                # a smaller batch is the head of the largest one
                shares = (jnp.arange(batch) < size_now) / size_now
            return jnp.matmul((shares * residuals(theta, *seen))[:, None], seen[0])[:, 0]

        def root_mean_square(theta, time):
            """Of the gradient, over batches and over the runs that go side by side."""
            error, one = jnp.mean(theta, axis=0) - teacher, 1 / protocol.batch_size[time]
            noise = jnp.sum(eigenvalues * error**2) + problem.noise**2
            power = (1 + one) * jnp.sum((eigenvalues * error) ** 2) + one * noise * jnp.sum(eigenvalues)
            return jnp.sqrt(jax.lax.pmean(power, "runs")).astype(dtype)

        def observe(theta):
            row = {"test_loss": jnp.sum(eigenvalues * (jnp.mean(theta, axis=0) - teacher) ** 2)}
            if count and sets == 1:
                row["train_loss"] = jnp.mean(jnp.mean(residuals(theta, x, y), axis=0) ** 2)
            return row

        def step(carry, inputs):
            weights, state = carry
            theta = _coefficients(weights, features)
            g = gradient(theta, inputs)
            if isinstance(protocol, NormalisedSGD):
                g = g / root_mean_square(theta, inputs[0])
            if features is not None:
                g = jnp.einsum("enm,em->en", features, g) / features.shape[-2] ** 0.5
            moves, state = optimiser.update(g, state, weights)
            return (weights + moves, state), observe(theta)

        over = jnp.arange(protocol.steps), jax.random.split(key_train, protocol.steps)
        start = weights, optimiser.init(weights)
        (weights, _), rows = jax.lax.scan(step, start, over)
        last = observe(_coefficients(weights, features))
        return weights, jax.tree.map(lambda a, b: jnp.append(a, b), rows, last)

    if isinstance(protocol, NormalisedSGD):
        return jax.vmap(run, axis_name="runs")(shard((weights, features, keys), "seeds"))
    held = (count or batch or 1) * sets + (0 if features is None else members * features.shape[-2])
    together = runs_at_once(len(weights), _INPUTS_AT_ONCE // (held * eigenvalues.size))
    return spread_map(run, (weights, features, keys), "seeds", batch_size=together)
